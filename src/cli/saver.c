#include "cli/saver.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "clock.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "engine/amounts.h"
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

int32_t cli_saver_pending(const kvf_snapshot_info *info)
{
    uint32_t stored;
    memcpy(&stored, info->caller_state + pending_offset, sizeof stored);
    return stored > 0 && stored <= info->geometry.vocab ? (int32_t)stored - 1 : -1;
}

uint64_t cli_saver_n_tokens(const kvf_snapshot_info *info)
{
    return info->n_tokens + (cli_saver_pending(info) >= 0);
}

static int open_named(cli_options *options, cli_saver *saver)
{
    kvf_error error;
    uint64_t unfinished;
    int status = cli_make_folder(options, saver->folder);
    if (status == CLI_EXIT_OK)
        status = cli_session_lock(options, saver->folder, options->session, &saver->lock);
    if (status == CLI_EXIT_OK)
        status =
            cli_path(options, saver->folder, options->session, CLI_SESSION_SUFFIX, &saver->path);
    if (status != CLI_EXIT_OK)
        return status;
    char *saving = cli_saving_path(saver->path);
    if (!saving &&
        errno == EEXIST) /* every save would be refused: say so before the work is done */
        return cli_error(options->command,
                         "%s.saving is there and no save left it; it is not overwritten, move it "
                         "away",
                         saver->path);
    free(saving);
    const kvf_status read = kvf_snapshot_info_read(saver->path, &saver->info, &error);
    struct stat link;
    if (read == KVF_FILE_NOT_FOUND && lstat(saver->path, &link) == 0)
        return cli_error(options->command, "%s is a link that leads nowhere", saver->path);
    if (read == KVF_FILE_NOT_FOUND)
        return CLI_EXIT_OK;
    if (read == KVF_FILE_FORMAT)
        return cli_error(options->command, "%s; remove it, or give another name", error.message);
    if (read != KVF_OK)
        return cli_error(options->command, "%s", error.message);
    saver->exists = true;
    memcpy(&unfinished, saver->info.caller_state + unfinished_offset, sizeof unfinished);
    saver->unfinished.there = unfinished > 0 && unfinished <= saver->info.n_tokens;
    saver->unfinished.from = saver->unfinished.there ? unfinished - 1 : 0;
    saver->pending = cli_saver_pending(&saver->info);
    saver->saved_tokens = cli_saver_held_tokens(saver);
    if (!options->profile_given)
        options->profile = saver->info.profile;
    if (!options->grid_given)
        options->grid_off = saver->info.grid_off;
    return CLI_EXIT_OK;
}

/* While another process writes to the store. */
static bool keep_waiting(void *context, double seconds)
{
    cli_saver *saver = context;
    if (seconds >= silent_wait_seconds && !saver->said_waiting) {
        fprintf(stderr, "kvfold: run: another process writes to the store; waiting for it, or for "
                        "Ctrl-C to store nothing\n");
        saver->said_waiting = true;
    }
    return !cli_interrupted();
}

static int open_store(const cli_options *options, cli_saver *saver)
{
    const kvf_store_options store_options = {
        .no_lock = options->no_lock, .wait = keep_waiting, .wait_context = saver};
    kvf_error error;
    char *prefixes = NULL;
    int status = cli_make_folder(options, saver->folder);
    if (status == CLI_EXIT_OK)
        status = cli_path(options, saver->folder, CLI_PREFIXES, "", &prefixes);
    if (status == CLI_EXIT_OK && kvf_store_open(prefixes, options->store_max_bytes, &store_options,
                                                &saver->store, &error) != KVF_OK)
        status = cli_error(options->command, "%s", error.message);
    free(prefixes);
    return status;
}

int cli_saver_open(cli_options *options, cli_saver *saver)
{
    memset(saver, 0, sizeof *saver);
    saver->options = options;
    saver->lock.file = -1;
    saver->pending = -1;
    if (!options->session && !options->store)
        return CLI_EXIT_OK;
    saver->saved_seconds = kvf_seconds();
    const int status = cli_session_folder(options, &saver->folder);
    if (status != CLI_EXIT_OK)
        return status;
    return options->session ? open_named(options, saver) : open_store(options, saver);
}

void cli_saver_close(cli_saver *saver)
{
    kvf_store_close(saver->store);
    cli_session_unlock(&saver->lock);
    free(saver->path);
    free(saver->folder);
    saver->store = NULL;
    saver->path = NULL;
    saver->folder = NULL;
}

/* ---- What is there ---------------------------------------------------------------------- */

uint64_t cli_saver_held_tokens(const cli_saver *saver)
{
    return saver->exists ? cli_saver_n_tokens(&saver->info) : 0;
}

bool cli_saver_at_start(const cli_saver *saver)
{
    return cli_saver_held_tokens(saver) == 0 ||
           (saver->unfinished.there && saver->unfinished.from == 0);
}

int cli_saver_skip(cli_saver *saver, const int32_t *tokens, uint64_t n_tokens, uint64_t *n_held)
{
    kvf_error error;
    *n_held = 0;
    if (!saver->unfinished.there)
        return CLI_EXIT_OK;
    const uint64_t held = saver->info.n_tokens;
    const uint64_t begun = held - saver->unfinished.from;
    int32_t *ids = malloc((held + 1) * sizeof *ids);
    if (!ids)
        return cli_error("run", "out of memory for the text so far");
    int status = CLI_EXIT_OK;
    if (kvf_snapshot_tokens(saver->path, ids, held, &error) != KVF_OK)
        status = cli_error("run", "%s", error.message);
    else if (begun <= n_tokens &&
             memcmp(ids + saver->unfinished.from, tokens, begun * sizeof *ids) == 0)
        *n_held = begun;
    else {
        saver->unfinished.there = false;
        fprintf(stderr,
                "kvfold: run: note: %s ends inside a prompt that was interrupted; what follows is "
                "appended there\n",
                saver->options->session);
    }
    free(ids);
    return status;
}

/* ---- Restoring ---------------------------------------------------------------------------- */

static void restore_sampler(const cli_options *options, kvf_session *session, kvf_sampler *sampler)
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

static int restore_named(cli_saver *saver, cli_engine *engine,
                         const kvf_session_options *session_options, kvf_session **session,
                         kvf_sampler *sampler)
{
    kvf_error error;
    if (!saver->exists)
        return CLI_EXIT_OK;
    if (saver->info.model_fingerprint != 0 && kvf_fingerprint_version(saver->info.caller_state) < 2)
        cli_note("run",
                 "%s was saved by an earlier version; all of the model's weights are read, "
                 "once, to see that it is of this model",
                 saver->options->session);
    if (kvf_model_load_session(engine->model, saver->path, session_options,
                               saver->options->verify_snapshot, session, &error) != KVF_OK)
        return cli_engine_error(engine, &error, session_options->profile,
                                session_options->max_tokens);
    restore_sampler(saver->options, *session, sampler);
    return CLI_EXIT_OK;
}

/* Says so where --store-max is too little for any state, which is found out before the work. */
static void check_budget(cli_saver *saver, const kvf_geometry *geometry,
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
        fprintf(stderr,
                "kvfold: run: warning: not stored: --store-max, %s, is less than the smallest "
                "state takes, %s\n",
                kvf_show_bytes(saver->options->store_max_bytes, most),
                kvf_show_bytes(plan.snapshot_bytes, smallest));
    kvf_plan_free(&plan);
}

static int find_prefix(cli_saver *saver, cli_engine *engine,
                       const kvf_session_options *session_options, const int32_t *tokens,
                       uint64_t n_tokens, kvf_session **session)
{
    kvf_error error;
    kvf_store_found found;
    /* All of a file is read: a damaged one costs a prefill then, not the answer. */
    kvf_load_options load = {
        .session = session_options, .geometry = &engine->config.geometry, .verify = true};
    if (kvf_model_fingerprint(engine->model, &load.model_fingerprint, &error) != KVF_OK ||
        kvf_store_find(saver->store, engine->device, tokens, n_tokens, &load, session, &found,
                       &error) != KVF_OK)
        return cli_error("run", "%s", error.message);
    if (found.n_skipped > 0)
        fprintf(stderr, "kvfold: run: warning: %s; it is not used%s\n", found.skipped.message,
                found.n_skipped > 1 ? ", nor are others" : "");
    saver->stored_tokens = found.n_tokens;
    if (found.shared_tokens >= found.n_tokens + min_stored_tokens && found.shared_tokens < n_tokens)
        saver->branch_tokens = found.shared_tokens;
    if (*session)
        memset(kvf_session_caller_state(*session), 0, KVF_CALLER_STATE_BYTES);
    return CLI_EXIT_OK;
}

int cli_saver_restore(cli_saver *saver, cli_engine *engine, uint64_t context_tokens,
                      const int32_t *tokens, uint64_t n_tokens, kvf_session **session,
                      kvf_sampler *sampler, int32_t *pending)
{
    const kvf_session_options session_options =
        cli_options_session(engine->options, engine->options->profile, context_tokens);
    *session = NULL;
    *pending = saver->pending;
    if (saver->path)
        return restore_named(saver, engine, &session_options, session, sampler);
    if (!saver->store)
        return CLI_EXIT_OK;
    check_budget(saver, &engine->config.geometry, &session_options);
    return find_prefix(saver, engine, &session_options, tokens, n_tokens, session);
}

/* ---- Saving -------------------------------------------------------------------------------- */

uint64_t cli_saver_limit(const cli_saver *saver, uint64_t held_tokens, uint64_t n_tokens)
{
    const uint64_t end =
        held_tokens < saver->branch_tokens ? min_u64(saver->branch_tokens, n_tokens) : n_tokens;
    return end - held_tokens;
}

void cli_saver_begin_prompt(cli_saver *saver, const kvf_session *session)
{
    /* The rest of an interrupted prompt: it began where it did. */
    if (!saver->unfinished.there)
        saver->unfinished.from = kvf_session_n_tokens(session);
    saver->unfinished.there = true;
}

void cli_saver_end_prompt(cli_saver *saver)
{
    saver->unfinished.there = false;
}

static int save_named(cli_saver *saver, cli_engine *engine, kvf_session *session,
                      const kvf_sampler *sampler, int32_t pending)
{
    kvf_error error;
    const uint32_t pending_stored = (uint32_t)(pending + 1);
    uint8_t *state = kvf_session_caller_state(session);
    const uint64_t unfinished = saver->unfinished.there ? saver->unfinished.from + 1 : 0;
    const kvf_save_options how = {.no_lock = saver->options->no_lock};
    kvf_sampler_store(sampler, state);
    memcpy(state + unfinished_offset, &unfinished, sizeof unfinished);
    memcpy(state + pending_offset, &pending_stored, sizeof pending_stored);
    char *saving = cli_saving_path(saver->path);
    cli_interrupt_remove(saving);
    saver->failed = kvf_model_save_session(engine->model, session, saver->path, &how,
                                           &saver->report, &error) != KVF_OK;
    cli_interrupt_keep(saving);
    free(saving);
    if (saver->failed)
        return cli_error("run", "the session is not saved: %s", error.message);
    saver->saved = true;
    saver->saved_tokens = kvf_session_n_tokens(session) + (pending >= 0);
    saver->saved_seconds = kvf_seconds();
    return CLI_EXIT_OK;
}

static int store_prefix(cli_saver *saver, cli_engine *engine, kvf_session *session)
{
    kvf_error error;
    uint64_t fingerprint;
    const uint64_t n_tokens = kvf_session_n_tokens(session);
    if (saver->too_small ||
        (n_tokens < saver->stored_tokens + min_stored_tokens && n_tokens != saver->branch_tokens))
        return CLI_EXIT_OK;
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
        fprintf(stderr, "kvfold: run: warning: not stored: %s\n", error.message);
    } else if (report.stored) {
        saver->put = report;
        saver->put_tokens = n_tokens;
    } else {
        saver->refused = report;
        saver->refused_tokens = n_tokens;
    }
    return CLI_EXIT_OK;
}

int cli_saver_save(cli_saver *saver, cli_engine *engine, kvf_session *session,
                   const kvf_sampler *sampler, int32_t pending)
{
    /* Nothing was said: there is no session yet. Or all was taken back: that is its state. */
    if (kvf_session_n_tokens(session) == 0 && (!saver->path || !(saver->exists || saver->saved)))
        return CLI_EXIT_OK;
    if (saver->path)
        return save_named(saver, engine, session, sampler, pending);
    return saver->store ? store_prefix(saver, engine, session) : CLI_EXIT_OK;
}

int cli_saver_tick(cli_saver *saver, cli_engine *engine, kvf_session *session,
                   const kvf_sampler *sampler)
{
    const double every = (double)saver->options->save_every_seconds;
    if (saver->path && kvf_seconds() - saver->saved_seconds >= every) {
        /* One that fails was reported; the next or the last may do. */
        saver->saved_seconds = kvf_seconds();
        cli_saver_save(saver, engine, session, sampler, -1);
    } else if (saver->store && kvf_session_n_tokens(session) == saver->branch_tokens) {
        return cli_saver_save(saver, engine, session, sampler, -1);
    }
    return CLI_EXIT_OK;
}

static void summarise_store(const cli_saver *saver)
{
    char tokens[KVF_NUMBER_BYTES];
    char kept[KVF_NUMBER_BYTES];
    char bytes[KVF_NUMBER_BYTES];
    char held[KVF_NUMBER_BYTES];
    char most[KVF_NUMBER_BYTES];
    const kvf_store_put_report *refused = &saver->refused;
    kvf_show_bytes(saver->options->store_max_bytes, most);
    if (saver->put.stored)
        fprintf(stderr, "stored: the first %s tokens in %s; the store holds %s of %s\n",
                kvf_show_count(saver->put_tokens, tokens),
                kvf_show_bytes(saver->put.file_bytes, bytes),
                kvf_show_bytes(saver->put.held_bytes, held), most);
    kvf_show_count(saver->refused_tokens, tokens);
    kvf_show_bytes(refused->file_bytes, bytes);
    if (refused->file_bytes > saver->options->store_max_bytes)
        fprintf(stderr, "not stored: %s are more than --store-max, %s\n", bytes, most);
    else if (refused->kept_tokens > 0)
        fprintf(stderr,
                "not stored: the first %s tokens; %s do not fit into --store-max, %s, beside the "
                "first %s, which stay for other prompts\n",
                tokens, bytes, most, kvf_show_count(refused->kept_tokens, kept));
    else if (refused->file_bytes > 0)
        fprintf(stderr,
                "not stored: %s do not fit into --store-max, %s, while another process writes\n",
                bytes, most);
}

void cli_saver_summarise(const cli_saver *saver)
{
    char tokens[KVF_NUMBER_BYTES];
    char bytes[KVF_NUMBER_BYTES];
    char written[KVF_NUMBER_BYTES];
    kvf_show_count(saver->saved_tokens, tokens);
    if (saver->saved && !saver->failed)
        fprintf(stderr, "saved as %s: %s tokens in %s, %s of them written now%s\n",
                saver->options->session, tokens, kvf_show_bytes(saver->report.file_bytes, bytes),
                kvf_show_bytes(saver->report.written_bytes, written),
                saver->unfinished.there ? "; the prompt is not all there: give it again to go on"
                                        : "");
    summarise_store(saver);
}
