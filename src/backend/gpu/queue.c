/* The queue: dispatches, bytes to and from the device, the one wait, and the error that stays. */
#include <stdlib.h>
#include <string.h>

#include "backend/gpu/gpu.h"
#include "error.h"

#define STAGING_ALIGNMENT_BYTES 256
#define STAGING_LEAST_BYTES (256u << 10)
/* There from the start: bytes always get on their way, if need be by pieces that are waited for. */
#define STAGING_KEPT_BYTES (8u << 10)
/*
 * On its way at most: with more, what is queued is done first. Weights and snapshots go by
 * such pieces; a step of decoding stays far below.
 */
#define STAGING_MOST_BYTES (64u << 20)

void kvf_gpu_lose(kvf_gpu_device *gpu, kvf_status status, const char *what)
{
    kvf_error *error = status == KVF_OUT_OF_MEMORY ? &gpu->lacks : &gpu->lost;
    if (error->status == KVF_OK)
        kvf_fail(error, status, "%s: %s", gpu->limits.name, what);
}

static void run(kvf_gpu_device *gpu, const kvf_gpu_call *call)
{
    if (gpu->lost.status != KVF_OK || call->groups[0] == 0 || call->groups[1] == 0 ||
        call->groups[2] == 0)
        return;
    kvf_gpu_dispatch dispatch = {
        .pipeline = kvf_gpu_pipeline_of(gpu, call->kernel, call->variant),
        .groups = {call->groups[0], call->groups[1], call->groups[2]},
        .threads = {call->threads, 1, 1},
        .arguments = call->arguments,
        .argument_bytes = call->argument_bytes,
    };
    while (dispatch.n_threadgroup_arrays < KVF_GPU_MAX_THREADGROUP_ARRAYS &&
           call->threadgroup_bytes[dispatch.n_threadgroup_arrays]) {
        dispatch.threadgroup_bytes[dispatch.n_threadgroup_arrays] =
            call->threadgroup_bytes[dispatch.n_threadgroup_arrays];
        dispatch.n_threadgroup_arrays++;
    }
    if (!dispatch.pipeline)
        return;
    gpu->driver->run(gpu->gpu, &dispatch);
    gpu->is_busy = true;
}

void kvf_gpu_run(kvf_gpu_device *gpu, const kvf_gpu_call *call)
{
    if (gpu->lacks.status == KVF_OK)
        run(gpu, call);
}

/* ---- Staging --------------------------------------------------------------------- */

/* A buffer of at least so many bytes becomes the last one. */
static bool grow_staging(kvf_gpu_device *gpu, size_t bytes)
{
    kvf_gpu_staging *staging = &gpu->staging;
    kvf_gpu_buffer buffer;
    size_t wanted = 2 * staging->all_bytes; /* so that the next such chunk needs no new one */
    wanted = wanted > bytes ? wanted : bytes;
    wanted = wanted > STAGING_LEAST_BYTES ? wanted : STAGING_LEAST_BYTES;
    if (!kvf_gpu_reserve((void **)&staging->buffers, staging->n_buffers, &staging->capacity,
                         sizeof *staging->buffers) ||
        (!kvf_gpu_make_buffer(gpu, wanted, true, &buffer) &&
         !kvf_gpu_make_buffer(gpu, bytes, true, &buffer)))
        return false;
    staging->buffers[staging->n_buffers++] = buffer;
    staging->used_bytes = 0;
    return true;
}

/*
 * Shared memory until the next wait, which may come here: for *bytes, or for fewer where there is
 * no more. NULL: the device is lost.
 */
static void *stage(kvf_gpu_device *gpu, size_t *bytes, uint64_t *address)
{
    kvf_gpu_staging *staging = &gpu->staging;
    if (staging->all_bytes + *bytes > STAGING_MOST_BYTES)
        kvf_gpu_flush(gpu);
    const size_t room = staging->buffers[staging->n_buffers - 1].bytes;
    size_t start = (staging->used_bytes + STAGING_ALIGNMENT_BYTES - 1) / STAGING_ALIGNMENT_BYTES *
                   STAGING_ALIGNMENT_BYTES;
    if (start > room || *bytes > room - start) {
        if (!grow_staging(gpu, *bytes))
            kvf_gpu_flush(gpu); /* the last buffer stays, and all of it is free */
        start = 0;
    }
    if (gpu->lost.status != KVF_OK)
        return NULL;
    const kvf_gpu_buffer *last = &staging->buffers[staging->n_buffers - 1];
    *bytes = *bytes < last->bytes - start ? *bytes : last->bytes - start;
    staging->used_bytes = start + *bytes;
    staging->all_bytes += *bytes;
    *address = last->gpu_address + start;
    return (uint8_t *)last->contents + start;
}

void *kvf_gpu_stage(kvf_gpu_device *gpu, size_t bytes, uint64_t *address)
{
    size_t had = bytes;
    void *staged = stage(gpu, &had, address);
    if (!staged || had == bytes)
        return staged;
    kvf_gpu_lose(gpu, KVF_OUT_OF_MEMORY, "no memory for bytes on their way to the GPU");
    return NULL;
}

static void end_staging(kvf_gpu_device *gpu)
{
    kvf_gpu_staging *staging = &gpu->staging;
    /* The last one is kept: the next chunk will ask for about as much. */
    while (staging->n_buffers > 1) {
        kvf_gpu_release_buffer(gpu, &staging->buffers[0]);
        staging->buffers[0] = staging->buffers[--staging->n_buffers];
    }
    staging->used_bytes = 0;
    staging->all_bytes = 0;
    staging->n_fetches = 0;
}

kvf_status kvf_gpu_open_queue(kvf_gpu_device *gpu, kvf_error *error)
{
    kvf_gpu_staging *staging = &gpu->staging;
    if (!kvf_gpu_reserve((void **)&staging->fetches, 0, &staging->fetches_capacity,
                         sizeof *staging->fetches) ||
        !kvf_gpu_reserve((void **)&staging->buffers, 0, &staging->capacity,
                         sizeof *staging->buffers) ||
        !kvf_gpu_make_buffer(gpu, STAGING_KEPT_BYTES, true, &staging->buffers[0]))
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory on %s", gpu->limits.name);
    staging->n_buffers = 1;
    return KVF_OK;
}

void kvf_gpu_close_queue(kvf_gpu_device *gpu)
{
    end_staging(gpu);
    if (gpu->staging.n_buffers)
        kvf_gpu_release_buffer(gpu, &gpu->staging.buffers[0]);
    free(gpu->staging.buffers);
    free(gpu->staging.fetches);
}

/* ---- Bytes ------------------------------------------------------------------------- */

/* from 0: zeros. */
static void move(kvf_gpu_device *gpu, uint64_t to, uint64_t from, size_t bytes)
{
    const uint64_t all = to | from | bytes;
    const uint32_t unit = all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 1;
    const kvf_move_kernel_args k = {
        .to = to, .from = from, .n_units = bytes / unit, .unit_bytes = unit};
    run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_move,
                             .groups = {kvf_gpu_pieces(k.n_units, KVF_ELEMENTS_THREADS), 1, 1},
                             .threads = KVF_ELEMENTS_THREADS,
                             KVF_GPU_ARGUMENTS(k)});
}

void kvf_gpu_zero(kvf_device *device, void *to, size_t bytes)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    kvf_gpu_note(gpu, to);
    move(gpu, kvf_gpu_at(gpu, to), 0, bytes);
}

void kvf_gpu_copy(kvf_device *device, void *to, const void *from, size_t bytes)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    kvf_gpu_note(gpu, to);
    if (bytes)
        move(gpu, kvf_gpu_at(gpu, to), kvf_gpu_at(gpu, from), bytes);
}

/* Pieces of what staging may hold. */
#define PIECE_BYTES (STAGING_MOST_BYTES / 4)

void kvf_gpu_write(kvf_device *device, void *to, const void *from_host, size_t bytes)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const uint64_t address = kvf_gpu_at(gpu, to);
    for (size_t done = 0; done < bytes;) {
        kvf_gpu_note(gpu, to); /* again: staging may have waited */
        size_t piece = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
        uint64_t from;
        void *staged = stage(gpu, &piece, &from);
        if (!staged)
            return;
        memcpy(staged, (const uint8_t *)from_host + done, piece);
        move(gpu, address + done, from, piece);
        done += piece;
    }
}

/* Bytes, at most so many, to the host; how many they are. 0: the device is lost. */
static size_t fetch(kvf_gpu_device *gpu, uint8_t *to_host, uint64_t from, size_t bytes)
{
    kvf_gpu_staging *staging = &gpu->staging;
    uint64_t to;
    if (!kvf_gpu_reserve((void **)&staging->fetches, staging->n_fetches, &staging->fetches_capacity,
                         sizeof *staging->fetches))
        kvf_gpu_flush(gpu); /* the list is empty then */
    void *staged = stage(gpu, &bytes, &to);
    if (!staged)
        return 0;
    staging->fetches[staging->n_fetches++] = (kvf_gpu_fetch){to_host, staged, bytes};
    move(gpu, to, from, bytes);
    return bytes;
}

void kvf_gpu_read(kvf_device *device, void *to_host, const void *from, size_t bytes)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const uint64_t address = kvf_gpu_at(gpu, from);
    for (size_t done = 0, piece; done < bytes; done += piece) {
        piece = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
        piece = fetch(gpu, (uint8_t *)to_host + done, address + done, piece);
        if (piece == 0)
            return;
    }
}

kvf_status kvf_gpu_flush(kvf_gpu_device *gpu)
{
    kvf_error failed;
    if (gpu->is_busy && gpu->driver->wait(gpu->gpu, &failed) != KVF_OK)
        kvf_gpu_lose(gpu, failed.status, failed.message);
    gpu->is_busy = false;
    gpu->n_waits++;
    const kvf_gpu_staging *staging = &gpu->staging;
    for (uint32_t i = 0; i < staging->n_fetches && gpu->lost.status == KVF_OK; i++)
        memcpy(staging->fetches[i].to, staging->fetches[i].from, staging->fetches[i].bytes);
    end_staging(gpu);
    kvf_gpu_end_releases(gpu);
    return gpu->lost.status;
}

/*
 * Memory that an operation could not have is no end of the device: that operation and those that
 * came after it were not done, the caller is told, and what is asked for from now on is done. None
 * of an operation was encoded when its memory could not be had, so nothing is half done.
 */
kvf_status kvf_gpu_wait(kvf_device *device, kvf_error *error)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const kvf_status status = kvf_gpu_flush(gpu);
    const kvf_error why = status == KVF_OK ? gpu->lacks : gpu->lost;
    device->n_shortages += why.status == KVF_OUT_OF_MEMORY;
    gpu->lacks = (kvf_error){0};
    if (error)
        *error = why;
    return why.status;
}
