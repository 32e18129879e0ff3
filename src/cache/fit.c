/* Whether a session, or a batch, fits the memory of its device, and the context that would. */
#include "cache/session.h"
#include "error.h"

/* What a device has left. */
struct room {
    uint64_t bytes;
    uint64_t buffer_bytes; /* the largest allocation */
};

struct need {
    uint64_t bytes;
    kvf_plan_buffer largest; /* of a batch: rows come in pages */
};

/* For what memory is asked. */
typedef enum asker { A_SESSION, A_BATCH } asker;

/*
 * Free pages that rows of the session will lie in. Of another size they are as good as taken: those
 * of their slab that are held keep it.
 */
static uint64_t free_page_bytes(const kvf_device *device, const kvf_plan *plan)
{
    uint64_t bytes = 0;
    for (int i = 0; i < KVF_SLAB_SIZES; i++) {
        const kvf_slab_size *size = &device->slab_sizes[i];
        const uint64_t free_bytes = size->n_free * size->page_bytes;
        uint64_t wanted_bytes = 0;
        for (uint32_t j = 0; size->n_slabs > 0 && j < plan->n_buffers; j++)
            if (plan->buffers[j].page_bytes == size->page_bytes)
                wanted_bytes += plan->buffers[j].bytes;
        bytes += wanted_bytes < free_bytes ? wanted_bytes : free_bytes;
    }
    return bytes;
}

static struct room room_of(const kvf_device *device)
{
    const uint64_t used = kvf_device_used_bytes(device);
    return (struct room){device->memory_bytes > used ? device->memory_bytes - used : 0,
                         device->buffer_bytes ? device->buffer_bytes : UINT64_MAX};
}

/*
 * Of a session that is opened for and filled with n_tokens, or of a batch for such sessions: what
 * it takes that the device has not given.
 */
static kvf_status need_of(asker who, const kvf_device *device, const kvf_geometry *geometry,
                          const kvf_session_options *options, uint64_t n_tokens, struct need *need,
                          kvf_error *error)
{
    kvf_session_options smaller = *options;
    kvf_plan plan;
    smaller.max_tokens = n_tokens;
    if (smaller.chunk_tokens > n_tokens * smaller.batch_sessions)
        smaller.chunk_tokens = (uint32_t)n_tokens * smaller.batch_sessions;
    const kvf_status status = kvf_plan_session(geometry, &smaller, n_tokens, &plan, error);
    if (status != KVF_OK)
        return status;
    *need = (struct need){.bytes = plan.scratch_bytes};
    if (who == A_SESSION)
        need->bytes = plan.allocated_bytes + plan.table_bytes + plan.checkpoint_bytes +
                      plan.chunk_undo_bytes + plan.pool_bytes - free_page_bytes(device, &plan);
    for (uint32_t i = 0; who == A_BATCH && i < plan.n_buffers; i++)
        if (plan.buffers[i].klass == KVF_MEMORY_SCRATCH &&
            plan.buffers[i].bytes > need->largest.bytes)
            need->largest = plan.buffers[i];
    kvf_plan_free(&plan);
    return KVF_OK;
}

static bool fits(asker who, const kvf_device *device, const struct room *room,
                 const kvf_geometry *geometry, const kvf_session_options *options,
                 uint64_t n_tokens)
{
    struct need need;
    return need_of(who, device, geometry, options, n_tokens, &need, NULL) == KVF_OK &&
           need.bytes <= room->bytes && need.largest.bytes <= room->buffer_bytes;
}

/* 0: not even one token. */
static uint64_t largest_context(asker who, const kvf_device *device, const struct room *room,
                                const kvf_geometry *geometry, const kvf_session_options *options)
{
    uint64_t fitting = 0;
    uint64_t too_large = options->max_tokens;
    while (too_large - fitting > 1) {
        const uint64_t middle = fitting + (too_large - fitting) / 2;
        if (fits(who, device, room, geometry, options, middle))
            fitting = middle;
        else
            too_large = middle;
    }
    return fitting;
}

static kvf_status check_memory(asker who, const kvf_device *device, const kvf_geometry *geometry,
                               const kvf_session_options *options, kvf_error *error)
{
    if (device->memory_bytes == 0)
        return KVF_OK;
    const struct room room = room_of(device);
    struct need need;
    const kvf_status status =
        need_of(who, device, geometry, options, options->max_tokens, &need, error);
    if (status != KVF_OK || (need.bytes <= room.bytes && need.largest.bytes <= room.buffer_bytes))
        return status;
    const unsigned long long context = options->max_tokens;
    const unsigned long long largest = largest_context(who, device, &room, geometry, options);
    const char *profile = kvf_profile_get(options->profile)->name;
    const char *what = who == A_BATCH ? " for a batch" : "";
    if (need.bytes > room.bytes)
        return kvf_fail(error, KVF_OUT_OF_MEMORY,
                        "a context of %llu tokens in profile %s needs %llu bytes%s; the device has "
                        "%llu left of %llu; the largest context that fits is %llu tokens",
                        context, profile, (unsigned long long)need.bytes, what,
                        (unsigned long long)room.bytes, (unsigned long long)device->memory_bytes,
                        largest);
    return kvf_fail(error, KVF_OUT_OF_MEMORY,
                    "a context of %llu tokens in profile %s needs %llu bytes in one piece (%s); "
                    "the device gives %llu; the largest context that fits is %llu tokens",
                    context, profile, (unsigned long long)need.largest.bytes, need.largest.name,
                    (unsigned long long)room.buffer_bytes, largest);
}

kvf_status kvf_session_check_memory(const kvf_device *device, const kvf_geometry *geometry,
                                    const kvf_session_options *options, kvf_error *error)
{
    return check_memory(A_SESSION, device, geometry, options, error);
}

kvf_status kvf_batch_check_memory(const kvf_device *device, const kvf_geometry *geometry,
                                  const kvf_session_options *options, kvf_error *error)
{
    return check_memory(A_BATCH, device, geometry, options, error);
}
