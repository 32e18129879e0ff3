/* What runs and what is held, in the memory that there is. */
#include "clock.h"
#include "engine/limits.h"
#include "error.h"
#include "server/work_internal.h"

/* Of what is left to the process, a part stays for connections, texts and what allocators lose. */
enum { SESSIONS_PART = 3, SESSIONS_PARTS = 4 };

uint64_t kvf_work_memory_left(const kvf_engine *engine, bool saves)
{
    const uint64_t device_bytes = kvf_device_memory_bytes(engine->device);
    const uint64_t staging_bytes =
        saves ? KVF_SAVE_STAGING_BYTES + sizeof(float) * engine->config.geometry.vocab : 0;
    uint64_t left = kvf_limits_left();
    left = left > staging_bytes ? left - staging_bytes : 0;
    if (device_bytes > 0) {
        const uint64_t used = kvf_device_used_bytes(engine->device);
        const uint64_t device_left = device_bytes > used ? device_bytes - used : 0;
        left = device_left < left ? device_left : left;
    }
    return left / SESSIONS_PARTS * SESSIONS_PART;
}

static uint64_t last_token_of(const kvf_job *job)
{
    return job->options.n_prompt + job->max_tokens;
}

/* Of a job whose first choice begins at n_held tokens, and whose others fork at the prompt's end.
 */
static kvf_status job_growth(const kvf_work *work, const kvf_job *job, uint64_t n_held,
                             uint64_t *bytes, kvf_error *error)
{
    const uint64_t n_prompt = job->options.n_prompt;
    const kvf_growth first = {n_held, last_token_of(job), KVF_JOB_PLACES, true, false};
    const kvf_growth other = {n_prompt, last_token_of(job), 0, false, false};
    const kvf_growth copied = {n_prompt, n_prompt, 0, false,
                               false}; /* by the first, as it is forked */
    uint64_t other_bytes;
    uint64_t copied_bytes;
    kvf_status status = kvf_needs_growth(&work->needs, &first, bytes, error);
    if (status != KVF_OK || job->options.n_choices == 1)
        return status;
    status = kvf_needs_growth(&work->needs, &other, &other_bytes, error);
    if (status == KVF_OK)
        status = kvf_needs_growth(&work->needs, &copied, &copied_bytes, error);
    if (status == KVF_OK)
        *bytes += copied_bytes + other_bytes * (job->options.n_choices - 1);
    return status;
}

kvf_status kvf_work_most_bytes(const kvf_work *work, const kvf_job *job, uint64_t *bytes,
                               kvf_error *error)
{
    return job_growth(work, job, 0, bytes, error);
}

static kvf_status running_growth(const kvf_work *work, uint64_t *bytes, kvf_error *error)
{
    *bytes = 0;
    for (const kvf_job *job = work->running; job; job = job->next)
        for (uint32_t i = 0; i < job->options.n_choices; i++) {
            const kvf_choice *choice = &job->choices[i];
            const bool reads = job->answering_seconds <= 0 && i == 0;
            kvf_growth growth = {job->options.n_prompt, last_token_of(job), 0, reads,
                                 choice->has_begun};
            uint64_t more;
            if (!choice->is_open)
                continue;
            if (choice->held)
                growth.from_tokens = kvf_session_n_tokens(choice->held->session);
            if (reads)
                growth.n_wanted = KVF_JOB_PLACES;
            const kvf_status status = kvf_needs_growth(&work->needs, &growth, &more, error);
            if (status != KVF_OK)
                return status;
            *bytes += more;
        }
    return KVF_OK;
}

uint64_t kvf_work_live_bytes(const kvf_work *work)
{
    const uint64_t *live = work->engine->device->live_bytes;
    return live[KVF_MEMORY_CACHE] + live[KVF_MEMORY_CHECKPOINT] + live[KVF_MEMORY_TABLE];
}

/*
 * Pages that are free in slabs, but for the last slab of each size, which is nobody's in
 * particular: memory that is taken already, by sessions that have left it, and that the next ones
 * take first.
 */
static uint64_t free_bytes(const kvf_work *work)
{
    const uint64_t pool = work->engine->device->live_bytes[KVF_MEMORY_POOL];
    return pool > work->needs.pool_bytes ? pool - work->needs.pool_bytes : 0;
}

/* Whether what there is, and what may come to it, is no more than there may be. */
static bool fits(const kvf_work *work, uint64_t growth_bytes)
{
    const uint64_t left_over = free_bytes(work);
    const uint64_t more = growth_bytes > left_over ? growth_bytes : left_over;
    return kvf_work_live_bytes(work) + more <= work->options.memory_bytes;
}

/* Whether it is worth waiting for: it has what its file has not, and the disk takes it. */
static bool is_saved_first(const kvf_work *work, const kvf_held *held)
{
    return work->shelf && kvf_shelf_works(work->shelf) &&
           (held->file.saving || kvf_held_is_unsaved(held));
}

kvf_evicted kvf_work_evict(kvf_work *work, const kvf_held *but, bool may_wait)
{
    kvf_held *least = kvf_prefixes_least(&work->prefixes, but, kvf_seconds());
    if (!least)
        return KVF_NONE_TO_EVICT;
    if (may_wait && is_saved_first(work, least)) {
        kvf_work_want_saved(work, least);
        return KVF_IS_SAVED_FIRST;
    }
    if (least->file.saving) /* its pages would stay */
        kvf_shelf_save_stop(work->shelf);
    work->report.n_evicted++;
    work->report.n_dropped += !work->shelf || !least->file.stored;
    kvf_prefixes_drop(&work->prefixes, least);
    return KVF_EVICTED;
}

void kvf_work_expect_copies(kvf_work *work, const kvf_held *held)
{
    for (kvf_job *job = work->running; job && held; job = job->next)
        for (uint32_t i = 0; i < job->options.n_choices; i++)
            if (job->choices[i].held == held)
                job->choices[i].has_begun = false;
}

/*
 * What stays whatever is closed: that of running sessions, of which a page that several hold is
 * counted in one of them at the most.
 */
static uint64_t least_live_bytes(const kvf_work *work)
{
    uint64_t own = 0;
    uint64_t most_shared = 0;
    for (uint32_t i = 0; i < work->prefixes.n; i++) {
        const kvf_session *session = work->prefixes.list[i]->session;
        if (!work->prefixes.list[i]->runs)
            continue;
        const uint64_t shared = kvf_session_shared_bytes(session);
        own += kvf_session_allocated_bytes(session) - shared;
        most_shared = shared > most_shared ? shared : most_shared;
    }
    return own + most_shared;
}

kvf_room kvf_work_make_room(kvf_work *work, const kvf_job *job, const kvf_resume *resume,
                            kvf_error *error)
{
    uint64_t running;
    uint64_t needed;
    kvf_work_expect_copies(work, resume->held);
    if (running_growth(work, &running, error) != KVF_OK ||
        job_growth(work, job, resume->n_tokens, &needed, error) != KVF_OK)
        return KVF_NO_ROOM;
    running += work->restoring_bytes;
    const uint64_t memory = work->options.memory_bytes;
    const bool is_vain = work->running && least_live_bytes(work) + running + needed > memory;
    kvf_evicted evicted = KVF_EVICTED;
    while (evicted == KVF_EVICTED) {
        if (fits(work, running + needed))
            return KVF_ROOM;
        evicted = is_vain ? KVF_NONE_TO_EVICT : kvf_work_evict(work, resume->held, true);
    }
    kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a session of %llu tokens",
             (unsigned long long)last_token_of(job));
    if (evicted == KVF_NONE_TO_EVICT && work->shelf && kvf_shelf_saving_bytes(work->shelf) > 0) {
        kvf_work_want_saved(work, NULL); /* pages of sessions that are closed already */
        return KVF_NO_ROOM_NOW;
    }
    return work->running || evicted == KVF_IS_SAVED_FIRST || work->restoring_bytes > 0
               ? KVF_NO_ROOM_NOW
               : KVF_NO_ROOM;
}
