/* What is saved and restored between two steps. */
#include "clock.h"
#include "server/work_internal.h"

/* That is read for the writer, or restored, before a step: a millisecond or two of copying. */
static const uint64_t step_bytes = 8000000;
/* From one save to the next while answers run. */
static const double save_every_seconds = 1;
/*
 * A disk that is slower than this, which no disk is that is well, is not waited for where memory is
 * needed: so long at the least, and at the most.
 */
static const double slow_bytes_a_second = 50e6;
static const double least_patience_seconds = 1;
static const double most_patience_seconds = 30;

/* ---- Saving ------------------------------------------------------------------------------- */

void kvf_work_want_saved(kvf_work *work, kvf_held *held)
{
    uint64_t bytes = 0;
    if (held && !held->file.saving) {
        held->is_wanted = true;
        kvf_shelf_plan_bytes(work->shelf, held->session, &bytes, NULL);
    }
    bytes += kvf_shelf_saving_bytes(work->shelf);
    if (work->waits_seconds > 0)
        return;
    const double patience = least_patience_seconds + (double)bytes / slow_bytes_a_second;
    work->waits_seconds = kvf_seconds();
    work->patience_seconds = patience < most_patience_seconds ? patience : most_patience_seconds;
}

/* Whoever waits for memory looks again. */
static void tell_waiting(kvf_work *work)
{
    work->n_ended++;
    work->waits_seconds = 0;
}

static kvf_held *held_of(const kvf_work *work, const kvf_holder *holder)
{
    for (uint32_t i = 0; holder && i < work->prefixes.n; i++)
        if (&work->prefixes.list[i]->file == holder)
            return work->prefixes.list[i];
    return NULL;
}

static bool end_save(kvf_work *work)
{
    kvf_holder *holder;
    kvf_status status;
    if (!kvf_shelf_save_end(work->shelf, &holder, &status))
        return false;
    kvf_held *held = held_of(work, holder);
    work->saved_seconds = kvf_seconds();
    tell_waiting(work);
    if (held) {
        held->is_wanted = false;
        kvf_prefixes_settle(&work->prefixes, held);
    }
    return true;
}

/* Where memory is waited for and the disk does not take what has it, that is dropped. */
static void give_up_slow(kvf_work *work)
{
    if (work->waits_seconds <= 0 || kvf_seconds() - work->waits_seconds < work->patience_seconds)
        return;
    kvf_shelf_save_stop(work->shelf);
    for (uint32_t i = 0; i < work->prefixes.n; i++)
        work->prefixes.list[i]->is_wanted = false;
    tell_waiting(work);
}

/* The one whose memory is waited for, or any other. */
static kvf_held *next_to_save(const kvf_work *work)
{
    const bool any = !work->running || kvf_seconds() - work->saved_seconds >= save_every_seconds;
    kvf_held *next = NULL;
    for (uint32_t i = 0; i < work->prefixes.n; i++) {
        kvf_held *held = work->prefixes.list[i];
        if (held->runs || !kvf_held_is_unsaved(held))
            continue;
        if (held->is_wanted)
            return held;
        next = next ? next : held;
    }
    return any ? next : NULL;
}

/* True: one that failed at once, so that another one may be tried. */
static bool begin_save(kvf_work *work)
{
    kvf_error error;
    kvf_held *next = kvf_shelf_may_save(work->shelf) ? next_to_save(work) : NULL;
    if (!next || kvf_shelf_save_begin(work->shelf, next->session, &next->file, &error) == KVF_OK)
        return false;
    next->is_wanted = false;
    work->saved_seconds = kvf_seconds();
    tell_waiting(work);
    return true;
}

/* ---- Restoring ---------------------------------------------------------------------------- */

kvf_restores kvf_work_restore(kvf_work *work, kvf_job *job, const kvf_resume *resume)
{
    const kvf_resume none = {NULL, 0, 0};
    uint64_t n_tokens;
    kvf_error error;
    if (!work->shelf || job->was_restored)
        return KVF_RESTORES_NOT;
    kvf_stored *stored =
        kvf_shelf_find(work->shelf, job->options.prompt, job->options.n_prompt, &n_tokens);
    if (!stored || stored->holder || n_tokens < resume->n_tokens + KVF_PREFIX_TOKENS)
        return KVF_RESTORES_NOT;
    if (work->shelf->restoring)
        return KVF_RESTORES;
    if (stored->is_busy) /* it is written: a save ends soon */
        return KVF_RESTORES_NOT_NOW;
    /* Where a backend has no use for memory that is mapped, it needs the room that reading would.
     */
    const bool is_copied = !work->engine->device->backend->addresses_host_memory;
    const kvf_growth growth = {0, stored->n_tokens, stored->n_places, false, false};
    const kvf_room room = is_copied ? kvf_work_make_room(work, job, &none, &error) : KVF_ROOM;
    job->was_restored = room != KVF_NO_ROOM_NOW;
    if (room != KVF_ROOM)
        return room == KVF_NO_ROOM_NOW ? KVF_RESTORES_NOT_NOW : KVF_RESTORES_NOT;
    if (is_copied &&
        kvf_needs_growth(&work->needs, &growth, &work->restoring_bytes, &error) != KVF_OK)
        return KVF_RESTORES_NOT;
    if (kvf_shelf_load_begin(work->shelf, stored, &error) == KVF_OK)
        return KVF_RESTORES;
    work->restoring_bytes = 0;
    return KVF_RESTORES_NOT;
}

/* It is held as one that rests; whoever waits for it goes on from there. */
static void take_restored(kvf_work *work, kvf_session *session, kvf_stored *stored)
{
    kvf_held *held;
    kvf_error error;
    work->restoring_bytes = 0;
    work->n_restored++;
    tell_waiting(work);
    if (!session)
        return;
    if (kvf_prefixes_add(&work->prefixes, session, &held, &error) != KVF_OK) {
        kvf_session_close(session);
        return;
    }
    kvf_stored_hold(stored, &held->file);
    kvf_prefixes_rest(&work->prefixes, held, kvf_seconds());
}

/* ---- Between two steps --------------------------------------------------------------------- */

static kvf_load_state restore_on(kvf_work *work)
{
    kvf_session *session;
    kvf_stored *stored;
    const kvf_load_state state = kvf_shelf_load_step(work->shelf, step_bytes, &session, &stored);
    if (state == KVF_LOAD_OVER)
        take_restored(work, session, stored);
    return state;
}

kvf_disk_state kvf_work_disk(kvf_work *work)
{
    if (!work->shelf)
        return KVF_DISK_IDLE;
    const bool has_ended = end_save(work);
    give_up_slow(work);
    const bool has_failed = begin_save(work);
    const bool has_read = kvf_shelf_read(work->shelf, step_bytes) > 0;
    if (!work->running)
        kvf_shelf_hand(work->shelf);
    const kvf_load_state load = restore_on(work);
    if (has_ended || has_failed || has_read || load == KVF_LOAD_GOES_ON || load == KVF_LOAD_OVER)
        return KVF_DISK_GOES_ON;
    return work->shelf->saving || load == KVF_LOAD_WAITS ? KVF_DISK_WAITS : KVF_DISK_IDLE;
}

void kvf_work_hand(kvf_work *work)
{
    if (work->shelf)
        kvf_shelf_hand(work->shelf);
}
