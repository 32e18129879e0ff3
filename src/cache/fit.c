/* Whether a session fits the memory of its device, and the context that would. */
#include "cache/session.h"
#include "error.h"

/* What a device has left for a session. */
struct room {
    uint64_t bytes;
    uint64_t buffer_bytes; /* the largest allocation */
};

struct need {
    uint64_t bytes;
    kvf_plan_buffer largest; /* of scratch: rows come in pages */
};

static struct room room_of(const kvf_device *device)
{
    uint64_t used = 0;
    for (int i = 0; i < KVF_MEMORY_CLASS_COUNT; i++)
        used += device->live_bytes[i];
    return (struct room){device->memory_bytes > used ? device->memory_bytes - used : 0,
                         device->buffer_bytes ? device->buffer_bytes : UINT64_MAX};
}

/* Of a session that is opened for and filled with n_tokens. */
static kvf_status need_of(const kvf_geometry *geometry, const kvf_session_options *options,
                          uint64_t n_tokens, struct need *need, kvf_error *error)
{
    kvf_session_options smaller = *options;
    kvf_plan plan;
    smaller.max_tokens = n_tokens;
    if (smaller.chunk_tokens > n_tokens)
        smaller.chunk_tokens = (uint32_t)n_tokens;
    const kvf_status status = kvf_plan_session(geometry, &smaller, n_tokens, &plan, error);
    if (status != KVF_OK)
        return status;
    *need = (struct need){.bytes = plan.allocated_bytes + plan.scratch_bytes +
                                   plan.checkpoint_bytes + plan.chunk_undo_bytes};
    for (uint32_t i = 0; i < plan.n_buffers; i++)
        if (plan.buffers[i].klass == KVF_MEMORY_SCRATCH &&
            plan.buffers[i].bytes > need->largest.bytes)
            need->largest = plan.buffers[i];
    kvf_plan_free(&plan);
    return KVF_OK;
}

static bool fits(const struct room *room, const kvf_geometry *geometry,
                 const kvf_session_options *options, uint64_t n_tokens)
{
    struct need need;
    return need_of(geometry, options, n_tokens, &need, NULL) == KVF_OK &&
           need.bytes <= room->bytes && need.largest.bytes <= room->buffer_bytes;
}

/* 0: not even one token. */
static uint64_t largest_context(const struct room *room, const kvf_geometry *geometry,
                                const kvf_session_options *options)
{
    uint64_t fitting = 0;
    uint64_t too_large = options->max_tokens;
    while (too_large - fitting > 1) {
        const uint64_t middle = fitting + (too_large - fitting) / 2;
        if (fits(room, geometry, options, middle))
            fitting = middle;
        else
            too_large = middle;
    }
    return fitting;
}

kvf_status kvf_session_check_memory(const kvf_device *device, const kvf_geometry *geometry,
                                    const kvf_session_options *options, kvf_error *error)
{
    if (device->memory_bytes == 0)
        return KVF_OK;
    const struct room room = room_of(device);
    struct need need;
    const kvf_status status = need_of(geometry, options, options->max_tokens, &need, error);
    if (status != KVF_OK || (need.bytes <= room.bytes && need.largest.bytes <= room.buffer_bytes))
        return status;
    const unsigned long long context = options->max_tokens;
    const unsigned long long largest = largest_context(&room, geometry, options);
    const char *profile = kvf_profile_get(options->profile)->name;
    if (need.bytes > room.bytes)
        return kvf_fail(error, KVF_OUT_OF_MEMORY,
                        "a context of %llu tokens in profile %s needs %llu bytes; the device has "
                        "%llu left of %llu; the largest context that fits is %llu tokens",
                        context, profile, (unsigned long long)need.bytes,
                        (unsigned long long)room.bytes, (unsigned long long)device->memory_bytes,
                        largest);
    return kvf_fail(error, KVF_OUT_OF_MEMORY,
                    "a context of %llu tokens in profile %s needs %llu bytes in one piece (%s); "
                    "the device gives %llu; the largest context that fits is %llu tokens",
                    context, profile, (unsigned long long)need.largest.bytes, need.largest.name,
                    (unsigned long long)room.buffer_bytes, largest);
}
