#include "engine/saver.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "clock.h"
#include "engine/amounts.h"
#include "error.h"
#include "model/fingerprint.h"

/* A state this little longer than a stored one saves less time than its file is worth. */
static const uint64_t min_stored_tokens = 128;
/* Shorter waits for another process are not worth a line. */
static const double silent_wait_seconds = 1;
/* docs/FORMAT.md 10.7: behind the sampler. */
static const size_t unfinished_offset = 24;
static const size_t pending_offset = 32;

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- Opening -------------------------------------------------------------------------- */

int32_t kvf_saver_pending(const kvf_snapshot_info *info)
{
    uint32_t stored;
    memcpy(&stored, info->caller_state + pending_offset, sizeof stored);
    return stored > 0 && stored <= info->geometry.vocab ? (int32_t)stored - 1 : -1;
}

uint64_t kvf_saver_n_tokens(const kvf_snapshot_info *info)
{
    return info->n_tokens + (kvf_saver_pending(info) >= 0);
}

/* What the session's file says of it; nothing where there is none. */
static kvf_status read_named(kvf_engine_options *options, kvf_saver *saver, kvf_error *error)
{
    uint64_t unfinished;
    struct stat link;
    const kvf_status read = kvf_snapshot_info_read(saver->path, &saver->info, error);
    if (read == KVF_FILE_NOT_FOUND && lstat(saver->path, &link) == 0)
        return kvf_fail(error, KVF_FILE_IO, "%s is a link that leads nowhere",
                        kvf_printable(saver->path).text);
    if (read == KVF_FILE_NOT_FOUND)
        return kvf_ok(error);
    if (read == KVF_FILE_FORMAT) {
        const kvf_error said = *error;
        return kvf_fail(error, read, "%s; remove it, or give another name", said.message);
    }
    if (read != KVF_OK)
        return read;
    saver->exists = true;
    memcpy(&unfinished, saver->info.caller_state + unfinished_offset, sizeof unfinished);
    saver->unfinished.there = unfinished > 0 && unfinished <= saver->info.n_tokens;
    saver->unfinished.from = saver->unfinished.there ? unfinished - 1 : 0;
    saver->pending = kvf_saver_pending(&saver->info);
    saver->saved_tokens = kvf_saver_held_tokens(saver);
    if (!options->profile_given)
        options->profile = saver->info.profile;
    if (!options->grid_given)
        options->grid_off = saver->info.grid_off;
    return kvf_ok(error);
}

static kvf_status open_named(kvf_engine_options *options, kvf_saver *saver, kvf_error *error)
{
    kvf_status status = kvf_make_folder(saver->folder, error);
    if (status == KVF_OK)
        status = kvf_session_lock_take(options, &saver->events, saver->folder, options->session,
                                       &saver->lock, error);
    if (status == KVF_OK)
        status = kvf_session_path(saver->folder, options->session, KVF_SESSION_SUFFIX, &saver->path,
                                  error);
    if (status != KVF_OK)
        return status;
    char *saving = kvf_saving_path(saver->path);
    if (!saving &&
        errno == EEXIST) /* every save would be refused: say so before the work is done */
        return kvf_fail(error, KVF_FILE_IO,
                        "%s.saving is there and no save left it; it is not overwritten, move it "
                        "away",
                        kvf_printable(saver->path).text);
    free(saving);
    return read_named(options, saver, error);
}

/* While another process writes to the store. */
static bool keep_waiting(void *context, double seconds)
{
    kvf_saver *saver = context;
    if (seconds >= silent_wait_seconds && !saver->said_waiting) {
        kvf_engine_note(&saver->events, false,
                        "another process writes to the store; waiting for it, or for Ctrl-C to "
                        "store nothing");
        saver->said_waiting = true;
    }
    return !kvf_engine_stopped(&saver->events);
}

static kvf_status open_store(const kvf_engine_options *options, kvf_saver *saver, kvf_error *error)
{
    const kvf_store_options store_options = {
        .no_lock = options->no_lock, .wait = keep_waiting, .wait_context = saver};
    char *prefixes = NULL;
    kvf_status status = kvf_make_folder(saver->folder, error);
    if (status == KVF_OK)
        status = kvf_session_path(saver->folder, KVF_PREFIXES, "", &prefixes, error);
    if (status == KVF_OK)
        status = kvf_store_open(prefixes, options->store_max_bytes, &store_options, &saver->store,
                                error);
    free(prefixes);
    return status;
}

kvf_status kvf_saver_open(kvf_engine_options *options, const kvf_engine_events *events,
                          kvf_saver *saver, kvf_error *error)
{
    memset(saver, 0, sizeof *saver);
    saver->options = options;
    saver->events = *events;
    saver->lock.file = -1;
    saver->pending = -1;
    if (!options->session && !options->store)
        return kvf_ok(error);
    saver->saved_seconds = kvf_seconds();
    const kvf_status status = kvf_session_folder(options, &saver->folder, error);
    if (status != KVF_OK)
        return status;
    return options->session ? open_named(options, saver, error) : open_store(options, saver, error);
}

void kvf_saver_close(kvf_saver *saver)
{
    kvf_store_close(saver->store);
    kvf_session_lock_give(&saver->events, &saver->lock);
    free(saver->path);
    free(saver->folder);
    saver->store = NULL;
    saver->path = NULL;
    saver->folder = NULL;
}

/* ---- What is there ---------------------------------------------------------------------- */

uint64_t kvf_saver_held_tokens(const kvf_saver *saver)
{
    return saver->exists ? kvf_saver_n_tokens(&saver->info) : 0;
}

bool kvf_saver_at_start(const kvf_saver *saver)
{
    return kvf_saver_held_tokens(saver) == 0 ||
           (saver->unfinished.there && saver->unfinished.from == 0);
}

kvf_status kvf_saver_skip(kvf_saver *saver, const int32_t *tokens, uint64_t n_tokens,
                          uint64_t *n_held, kvf_error *error)
{
    *n_held = 0;
    if (!saver->unfinished.there)
        return kvf_ok(error);
    const uint64_t held = saver->info.n_tokens;
    const uint64_t begun = held - saver->unfinished.from;
    int32_t *ids = malloc((held + 1) * sizeof *ids);
    if (!ids)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "out of memory for the text so far");
    const kvf_status status = kvf_snapshot_tokens(saver->path, ids, held, error);
    if (status != KVF_OK) {
        /* said already */
    } else if (begun <= n_tokens &&
               memcmp(ids + saver->unfinished.from, tokens, begun * sizeof *ids) == 0) {
        *n_held = begun;
    } else {
        saver->unfinished.there = false;
        kvf_engine_note(&saver->events, false,
                        "%s ends inside a prompt that was interrupted; what follows is appended "
                        "there",
                        saver->options->session);
    }
    free(ids);
    return status;
}

/* ---- Restoring ---------------------------------------------------------------------------- */

static void restore_sampler(const kvf_engine_options *options, kvf_session *session,
                            kvf_sampler *sampler)
{
    kvf_sampler saved = *sampler;
    if (!kvf_sampler_restore(&saved, kvf_session_caller_state(session)))
        return;
    if (!options->temperature_given)
        sampler->temperature = saved.temperature;
    if (!options->top_p_given)
        sampler->top_p = saved.top_p;
    if (!options->min_p_given)
        sampler->min_p = saved.min_p;
    if (!options->seed_given)
        sampler->state = saved.state;
}

static kvf_status restore_named(kvf_saver *saver, kvf_engine *engine,
                                const kvf_session_options *session_options, kvf_session **session,
                                kvf_sampler *sampler, kvf_error *error)
{
    if (!saver->exists)
        return kvf_ok(error);
    if (saver->info.model_fingerprint != 0 && kvf_fingerprint_version(saver->info.caller_state) < 2)
        kvf_engine_note(&saver->events, false,
                        "%s was saved by an earlier version; all of the model's weights are read, "
                        "once, to see that it is of this model",
                        saver->options->session);
    if (kvf_model_load_session(engine->model, saver->path, session_options,
                               saver->options->verify_snapshot, session, error) != KVF_OK)
        return kvf_engine_explain(session_options->profile, session_options->max_tokens, error);
    restore_sampler(saver->options, *session, sampler);
    return kvf_ok(error);
}

/* Says so where --store-max is too little for any state, which is found out before the work. */
static void check_budget(kvf_saver *saver, const kvf_geometry *geometry,
                         const kvf_session_options *session_options)
{
    kvf_plan plan;
    char smallest[KVF_NUMBER_BYTES];
    char most[KVF_NUMBER_BYTES];
    const uint64_t n_tokens = min_u64(min_stored_tokens, session_options->max_tokens);
    if (kvf_plan_make(geometry, session_options, n_tokens, &plan, NULL) != KVF_OK)
        return;
    saver->too_small = plan.snapshot_bytes > saver->options->store_max_bytes;
    if (saver->too_small)
        kvf_engine_note(&saver->events, true,
                        "not stored: --store-max, %s, is less than the smallest state takes, %s",
                        kvf_show_bytes(saver->options->store_max_bytes, most),
                        kvf_show_bytes(plan.snapshot_bytes, smallest));
    kvf_plan_free(&plan);
}

static kvf_status find_prefix(kvf_saver *saver, kvf_engine *engine,
                              const kvf_session_options *session_options, const int32_t *tokens,
                              uint64_t n_tokens, kvf_session **session, kvf_error *error)
{
    kvf_store_found found;
    /* All of a file is read: a damaged one costs a prefill then, not the answer. */
    kvf_load_options load = {
        .session = session_options, .geometry = &engine->config.geometry, .verify = true};
    kvf_status status = kvf_model_fingerprint(engine->model, &load.model_fingerprint, error);
    if (status == KVF_OK)
        status = kvf_store_find(saver->store, engine->device, tokens, n_tokens, &load, session,
                                &found, error);
    if (status != KVF_OK)
        return status;
    if (found.n_skipped > 0)
        kvf_engine_note(&saver->events, true, "%s; it is not used%s", found.skipped.message,
                        found.n_skipped > 1 ? ", nor are others" : "");
    saver->stored_tokens = found.n_tokens;
    if (found.shared_tokens >= found.n_tokens + min_stored_tokens && found.shared_tokens < n_tokens)
        saver->branch_tokens = found.shared_tokens;
    if (*session)
        memset(kvf_session_caller_state(*session), 0, KVF_CALLER_STATE_BYTES);
    return kvf_ok(error);
}

kvf_status kvf_saver_restore(kvf_saver *saver, kvf_engine *engine, uint64_t context_tokens,
                             const int32_t *tokens, uint64_t n_tokens, kvf_session **session,
                             kvf_sampler *sampler, int32_t *pending, kvf_error *error)
{
    const kvf_session_options session_options =
        kvf_engine_session_options(engine->options, engine->options->profile, context_tokens);
    *session = NULL;
    *pending = saver->pending;
    if (saver->path)
        return restore_named(saver, engine, &session_options, session, sampler, error);
    if (!saver->store)
        return kvf_ok(error);
    check_budget(saver, &engine->config.geometry, &session_options);
    return find_prefix(saver, engine, &session_options, tokens, n_tokens, session, error);
}

/* ---- Saving -------------------------------------------------------------------------------- */

uint64_t kvf_saver_limit(const kvf_saver *saver, uint64_t held_tokens, uint64_t n_tokens)
{
    const uint64_t end =
        held_tokens < saver->branch_tokens ? min_u64(saver->branch_tokens, n_tokens) : n_tokens;
    return end - held_tokens;
}

void kvf_saver_begin_prompt(kvf_saver *saver, const kvf_session *session)
{
    /* The rest of an interrupted prompt: it began where it did. */
    if (!saver->unfinished.there)
        saver->unfinished.from = kvf_session_n_tokens(session);
    saver->unfinished.there = true;
}

void kvf_saver_end_prompt(kvf_saver *saver)
{
    saver->unfinished.there = false;
}

static kvf_status save_named(kvf_saver *saver, kvf_engine *engine, kvf_session *session,
                             const kvf_sampler *sampler, int32_t pending, kvf_error *error)
{
    const uint32_t pending_stored = (uint32_t)(pending + 1);
    uint8_t *state = kvf_session_caller_state(session);
    const uint64_t unfinished = saver->unfinished.there ? saver->unfinished.from + 1 : 0;
    const kvf_save_options how = {.no_lock = saver->options->no_lock};
    kvf_sampler_store(sampler, state);
    memcpy(state + unfinished_offset, &unfinished, sizeof unfinished);
    memcpy(state + pending_offset, &pending_stored, sizeof pending_stored);
    char *saving = kvf_saving_path(saver->path);
    if (saving)
        kvf_engine_temporary(&saver->events, saving, true);
    const kvf_status status =
        kvf_model_save_session(engine->model, session, saver->path, &how, &saver->report, error);
    if (saving)
        kvf_engine_temporary(&saver->events, saving, false);
    free(saving);
    saver->failed = status != KVF_OK;
    if (saver->failed) {
        const kvf_error said = *error;
        return kvf_fail(error, status, "the session is not saved: %s", said.message);
    }
    saver->saved = true;
    saver->saved_tokens = kvf_session_n_tokens(session) + (pending >= 0);
    saver->saved_seconds = kvf_seconds();
    return status;
}

static void store_prefix(kvf_saver *saver, kvf_engine *engine, kvf_session *session)
{
    kvf_error error;
    uint64_t fingerprint;
    const uint64_t n_tokens = kvf_session_n_tokens(session);
    if (saver->too_small ||
        (n_tokens < saver->stored_tokens + min_stored_tokens && n_tokens != saver->branch_tokens))
        return;
    /* The answer does not depend on it. */
    saver->stored_tokens = n_tokens;
    saver->said_waiting = false;
    kvf_store_put_report report = {0};
    kvf_status status = kvf_model_fingerprint(engine->model, &fingerprint, &error);
    if (status == KVF_OK) {
        kvf_session_set_model_fingerprint(session, fingerprint);
        kvf_fingerprint_mark(kvf_session_caller_state(session));
        status = kvf_store_put(saver->store, session, &report, &error);
    }
    if (status != KVF_OK) {
        kvf_engine_note(&saver->events, true, "not stored: %s", error.message);
    } else if (report.stored) {
        saver->put = report;
        saver->put_tokens = n_tokens;
    } else {
        saver->refused = report;
        saver->refused_tokens = n_tokens;
    }
}

kvf_status kvf_saver_save(kvf_saver *saver, kvf_engine *engine, kvf_session *session,
                          const kvf_sampler *sampler, int32_t pending, kvf_error *error)
{
    /* Nothing was said: there is no session yet. Or all was taken back: that is its state. */
    if (kvf_session_n_tokens(session) == 0 && (!saver->path || !(saver->exists || saver->saved)))
        return kvf_ok(error);
    if (saver->path)
        return save_named(saver, engine, session, sampler, pending, error);
    if (saver->store)
        store_prefix(saver, engine, session);
    return kvf_ok(error);
}

void kvf_saver_tick(kvf_saver *saver, kvf_engine *engine, kvf_session *session,
                    const kvf_sampler *sampler)
{
    const double every = (double)saver->options->save_every_seconds;
    const bool is_due = saver->path && kvf_seconds() - saver->saved_seconds >= every;
    const bool branches = saver->store && kvf_session_n_tokens(session) == saver->branch_tokens;
    kvf_error error;
    if (!is_due && !branches)
        return;
    /* One that fails is noted; the next or the last may do. */
    saver->saved_seconds = kvf_seconds();
    if (kvf_saver_save(saver, engine, session, sampler, -1, &error) != KVF_OK)
        kvf_engine_note(&saver->events, true, "%s", error.message);
}
