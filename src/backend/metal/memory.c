/*
 * Memory of the Metal backend: shared buffers that are given out, where a pointer lies in
 * them, and staging, which lasts for one operation.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/metal/metal.h"

#define STAGING_ALIGNMENT_BYTES 256
#define STAGING_LEAST_BYTES (256u << 10)

/* ---- Buffers --------------------------------------------------------------------- */

/* NULL where the memory cannot be had, or the device has no room or no such large buffers. */
static kvf_gpu_buffer *make_buffer(kvf_metal_device *metal, size_t bytes)
{
    if (bytes > metal->limits.buffer_bytes ||
        metal->allocated_bytes > metal->limits.working_set_bytes ||
        bytes > metal->limits.working_set_bytes - metal->allocated_bytes)
        return NULL;
    kvf_gpu_buffer *buffer = calloc(1, sizeof *buffer);
    if (!buffer || !kvf_gpu_make_buffer(metal->gpu, bytes, buffer)) {
        free(buffer);
        return NULL;
    }
    metal->allocated_bytes += bytes;
    return buffer;
}

static void release_buffer(kvf_metal_device *metal, kvf_gpu_buffer *buffer)
{
    metal->allocated_bytes -= buffer->bytes;
    kvf_gpu_release_buffer(metal->gpu, buffer);
    free(buffer);
}

/* Room for one more in an array of n; false without memory. */
static bool reserve(void **array, uint32_t n, uint32_t *capacity, size_t element_bytes)
{
    if (n < *capacity)
        return true;
    const uint32_t wanted = *capacity ? 2 * *capacity : 64;
    void *grown = realloc(*array, wanted * element_bytes);
    if (!grown)
        return false;
    *array = grown;
    *capacity = wanted;
    return true;
}

/* How many of the given-out buffers begin at or before the pointer. */
static uint32_t n_before(const kvf_metal_device *metal, const void *pointer)
{
    uint32_t low = 0;
    uint32_t high = metal->n_buffers;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if ((uintptr_t)metal->buffers[middle]->contents <= (uintptr_t)pointer)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void *kvf_metal_alloc(kvf_device *device, size_t bytes)
{
    kvf_metal_device *metal = kvf_metal_of(device);
    if (!reserve((void **)&metal->buffers, metal->n_buffers, &metal->buffers_capacity,
                 sizeof(kvf_gpu_buffer *)))
        return NULL;
    kvf_gpu_buffer *buffer = make_buffer(metal, bytes ? bytes : 1);
    if (!buffer)
        return NULL;
    const uint32_t place = n_before(metal, buffer->contents);
    memmove(metal->buffers + place + 1, metal->buffers + place,
            (metal->n_buffers - place) * sizeof(kvf_gpu_buffer *));
    metal->buffers[place] = buffer;
    metal->n_buffers++;
    return buffer->contents;
}

void kvf_metal_release(kvf_device *device, void *memory, size_t bytes)
{
    (void)bytes;
    kvf_metal_device *metal = kvf_metal_of(device);
    const uint32_t after = n_before(metal, memory);
    if (after == 0 || metal->buffers[after - 1]->contents != memory)
        return; /* not ours: nothing that could be released */
    release_buffer(metal, metal->buffers[after - 1]);
    metal->n_buffers--;
    memmove(metal->buffers + after - 1, metal->buffers + after,
            (metal->n_buffers + 1 - after) * sizeof(kvf_gpu_buffer *));
}

static bool lies_in(const kvf_gpu_buffer *buffer, const void *pointer, size_t bytes)
{
    const uintptr_t start = (uintptr_t)buffer->contents;
    const uintptr_t at = (uintptr_t)pointer;
    return at >= start && at - start <= buffer->bytes && bytes <= buffer->bytes - (at - start);
}

static kvf_metal_span span_of(const kvf_gpu_buffer *buffer, const void *pointer)
{
    return (kvf_metal_span){buffer, (size_t)((uintptr_t)pointer - (uintptr_t)buffer->contents)};
}

bool kvf_metal_find(const kvf_metal_device *metal, const void *pointer, size_t bytes,
                    kvf_metal_span *span)
{
    const uint32_t after = n_before(metal, pointer);
    if (after == 0 || !lies_in(metal->buffers[after - 1], pointer, bytes))
        return false;
    *span = span_of(metal->buffers[after - 1], pointer);
    return true;
}

/* ---- Staging --------------------------------------------------------------------- */

static kvf_metal_span dummy(const kvf_metal_device *metal)
{
    return (kvf_metal_span){&metal->nothing, 0};
}

static bool is_lost(const kvf_metal_device *metal)
{
    return metal->lost.status != KVF_OK;
}

/* A buffer with room for bytes becomes the last one. */
static bool grow_staging(kvf_metal_device *metal, size_t bytes)
{
    kvf_metal_staging *staging = &metal->staging;
    kvf_gpu_buffer **buffers =
        realloc(staging->buffers, (staging->n_buffers + 1) * sizeof *staging->buffers);
    if (!buffers)
        return false;
    staging->buffers = buffers;
    kvf_gpu_buffer *buffer =
        make_buffer(metal, bytes > STAGING_LEAST_BYTES ? bytes : STAGING_LEAST_BYTES);
    if (!buffer)
        return false;
    staging->buffers[staging->n_buffers++] = buffer;
    staging->used_bytes = 0;
    return true;
}

kvf_metal_span kvf_metal_temporary(kvf_metal_device *metal, size_t bytes)
{
    kvf_metal_staging *staging = &metal->staging;
    if (bytes == 0 || is_lost(metal))
        return dummy(metal);
    const size_t room = staging->n_buffers ? staging->buffers[staging->n_buffers - 1]->bytes : 0;
    size_t start = (staging->used_bytes + STAGING_ALIGNMENT_BYTES - 1) / STAGING_ALIGNMENT_BYTES *
                   STAGING_ALIGNMENT_BYTES;
    if (start > room || bytes > room - start) {
        if (!grow_staging(metal, bytes)) {
            kvf_metal_lose(metal, KVF_OUT_OF_MEMORY,
                           "no memory on the GPU for an operation's own arrays");
            return dummy(metal);
        }
        start = 0;
    }
    staging->used_bytes = start + bytes;
    return (kvf_metal_span){staging->buffers[staging->n_buffers - 1], start};
}

kvf_metal_span kvf_metal_upload(kvf_metal_device *metal, const void *data, size_t bytes)
{
    const kvf_metal_span span = kvf_metal_temporary(metal, bytes);
    if (bytes > 0 && !is_lost(metal))
        memcpy(kvf_metal_contents(span), data, bytes);
    return span;
}

kvf_metal_span kvf_metal_input(kvf_metal_device *metal, const void *data, size_t bytes)
{
    kvf_metal_span span;
    if (!data || bytes == 0 || is_lost(metal))
        return dummy(metal);
    return kvf_metal_find(metal, data, bytes, &span) ? span : kvf_metal_upload(metal, data, bytes);
}

kvf_metal_span kvf_metal_output(kvf_metal_device *metal, void *data, size_t bytes)
{
    kvf_metal_staging *staging = &metal->staging;
    kvf_metal_span span;
    if (!data || bytes == 0 || is_lost(metal))
        return dummy(metal);
    if (kvf_metal_find(metal, data, bytes, &span))
        return span;
    if (!reserve((void **)&staging->copies, staging->n_copies, &staging->copies_capacity,
                 sizeof *staging->copies)) {
        kvf_metal_lose(metal, KVF_OUT_OF_MEMORY, "no memory for an operation's list of outputs");
        return dummy(metal);
    }
    span = kvf_metal_upload(metal, data, bytes);
    if (!is_lost(metal))
        staging->copies[staging->n_copies++] =
            (kvf_metal_copy){data, kvf_metal_contents(span), bytes};
    return span;
}

void kvf_metal_end_staging(kvf_metal_device *metal, bool copy_back)
{
    kvf_metal_staging *staging = &metal->staging;
    for (uint32_t i = 0; copy_back && i < staging->n_copies; i++)
        memcpy(staging->copies[i].to, staging->copies[i].from, staging->copies[i].bytes);
    staging->n_copies = 0;
    /* The last one is kept: the next operation will ask for about as much. */
    while (staging->n_buffers > 1) {
        release_buffer(metal, staging->buffers[0]);
        staging->buffers[0] = staging->buffers[--staging->n_buffers];
    }
    staging->used_bytes = 0;
}

void kvf_metal_close_memory(kvf_metal_device *metal)
{
    kvf_metal_staging *staging = &metal->staging;
    for (uint32_t i = 0; i < staging->n_buffers; i++)
        release_buffer(metal, staging->buffers[i]);
    for (uint32_t i = 0; i < metal->n_buffers; i++)
        release_buffer(metal, metal->buffers[i]);
    free(staging->buffers);
    free(staging->copies);
    free(metal->buffers);
    metal->buffers = NULL;
    metal->n_buffers = metal->buffers_capacity = 0;
    *staging = (kvf_metal_staging){0};
}
