/* Saving and restoring: what the thread that has the device does of it, and what the disk's do. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "server/shelf_internal.h"

/* After a save that failed, or took too long: the disk may be well again. */
static const double retry_seconds = 30;

/* ---- Saving ------------------------------------------------------------------------------- */

struct kvf_saving {
    kvf_disk_task task;
    kvf_shelf *shelf;
    kvf_save *save;
    kvf_holder *holder;   /* NULL: it left */
    kvf_session *session; /* the holder's */
    kvf_stored *stored;   /* to this file; a new one is not in the list yet */
    bool is_new;
    bool is_stopped;
    char *path;
    int32_t *ids; /* [n_tokens] of what is saved */
    uint64_t n_tokens;
    uint64_t planned_bytes; /* of a new file */
    /* By the thread that writes: */
    kvf_status status;
    kvf_error error;
    kvf_save_report report;
    uint64_t *places; /* of the file's checkpoints */
    uint32_t n_places;
    atomic_bool is_done;
};

static void wants_bytes(void *context)
{
    const kvf_saving *saving = context;
    saving->shelf->wake(saving->shelf->wake_user);
}

/* A file whose places are not known is taken up at its end alone. */
static void read_places(kvf_saving *saving)
{
    kvf_snapshot_info info;
    if (kvf_snapshot_info_read(saving->path, &info, NULL) != KVF_OK)
        return;
    saving->places = malloc(info.n_checkpoints * sizeof *saving->places + 1);
    if (saving->places &&
        kvf_snapshot_checkpoints(saving->path, saving->places, info.n_checkpoints, NULL) == KVF_OK)
        saving->n_places = info.n_checkpoints;
}

static void write_file(kvf_disk_task *task)
{
    kvf_saving *saving = (kvf_saving *)task;
    const kvf_shelf *shelf = saving->shelf;
    saving->status =
        kvf_save_write(saving->save, wants_bytes, saving, &saving->report, &saving->error);
    if (saving->status == KVF_OK)
        read_places(saving);
    void (*wake)(void *) = shelf->wake;
    void *user = shelf->wake_user;
    atomic_store(&saving->is_done, true); /* it may be gone then */
    wake(user);
}

static void free_saving(kvf_saving *saving)
{
    if (saving->is_new)
        kvf_stored_free(saving->stored);
    free(saving->path);
    free(saving->ids);
    free(saving->places);
    free(saving);
}

static kvf_save_options save_options(const kvf_shelf *shelf)
{
    return (kvf_save_options){.no_lock = shelf->no_lock,
                              .checkpoint_spacing_tokens =
                                  shelf->session_options.checkpoint_spacing_tokens};
}

kvf_status kvf_shelf_plan_bytes(const kvf_shelf *shelf, const kvf_session *session, uint64_t *bytes,
                                kvf_error *error)
{
    const kvf_save_options options = save_options(shelf);
    return kvf_session_snapshot_bytes(session, &options, bytes, error);
}

/* What comes of a save, for the next ones. */
static void note_result(kvf_shelf *shelf, kvf_status status, bool no_room, const kvf_error *error)
{
    const bool is_noted = no_room ? shelf->noted_room : shelf->failed_seconds > 0;
    if (status != KVF_OK && !is_noted)
        kvf_engine_note(&shelf->engine->events, true, "a session is not kept on the disk: %s",
                        error->message);
    shelf->noted_room = shelf->noted_room || no_room;
    if (!no_room)
        shelf->failed_seconds = status == KVF_OK ? 0 : kvf_seconds();
}

/* The record of the file and a copy of the ids. */
static kvf_status describe(kvf_shelf *shelf, kvf_saving *saving, kvf_error *error)
{
    saving->is_new = !saving->holder->stored;
    saving->stored = saving->is_new ? calloc(1, sizeof *saving->stored) : saving->holder->stored;
    saving->n_tokens = kvf_session_n_tokens(saving->session);
    saving->ids = malloc(saving->n_tokens * sizeof *saving->ids + 1);
    if (!saving->stored || !saving->ids)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for one more file");
    memcpy(saving->ids, kvf_session_tokens(saving->session),
           saving->n_tokens * sizeof *saving->ids);
    if (saving->is_new)
        snprintf(saving->stored->name, sizeof saving->stored->name, "%016" PRIx64,
                 shelf->next_name++);
    return kvf_shelf_path(shelf, saving->stored->name, KVF_SESSION_SUFFIX, &saving->path, error);
}

static kvf_status begin_save(kvf_shelf *shelf, kvf_saving *saving, bool *no_room, kvf_error *error)
{
    const kvf_save_options options = save_options(shelf);
    kvf_status status = describe(shelf, saving, error);
    if (status == KVF_OK)
        status = kvf_shelf_plan_bytes(shelf, saving->session, &saving->planned_bytes, error);
    if (status == KVF_OK) {
        status = kvf_shelf_make_room(shelf, saving->stored, saving->planned_bytes, error);
        *no_room = status != KVF_OK;
    }
    if (status == KVF_OK)
        status = kvf_model_save_begin(shelf->engine->model, saving->session, saving->path, &options,
                                      &saving->save, error);
    return status;
}

kvf_status kvf_shelf_save_begin(kvf_shelf *shelf, kvf_session *session, kvf_holder *holder,
                                kvf_error *error)
{
    bool no_room = false;
    kvf_saving *saving = calloc(1, sizeof *saving);
    if (!saving) {
        kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to save a session");
        note_result(shelf, KVF_OUT_OF_MEMORY, false, error);
        return KVF_OUT_OF_MEMORY;
    }
    saving->shelf = shelf;
    saving->session = session;
    saving->holder = holder;
    const kvf_status status = begin_save(shelf, saving, &no_room, error);
    if (status != KVF_OK) {
        if (no_room)
            holder->given_up_tokens = saving->n_tokens;
        note_result(shelf, status, no_room, error);
        free_saving(saving);
        return status;
    }
    holder->saving = saving;
    saving->stored->is_busy = true;
    shelf->saving = saving;
    saving->task.run = write_file;
    kvf_disk_add(shelf->writing, &saving->task);
    return kvf_ok(error);
}

uint64_t kvf_shelf_read(kvf_shelf *shelf, uint64_t max_bytes)
{
    return shelf->saving ? kvf_save_read(shelf->saving->save, max_bytes) : 0;
}

void kvf_shelf_hand(kvf_shelf *shelf)
{
    if (shelf->saving)
        kvf_save_hand(shelf->saving->save);
}

/* The file's record says what is in it now. */
static kvf_status take_result(kvf_shelf *shelf, kvf_saving *saving)
{
    kvf_stored *stored = saving->stored;
    if (saving->status != KVF_OK)
        return saving->status;
    if (!saving->is_new) {
        shelf->bytes -= stored->bytes;
        shelf->n_tokens -= stored->n_tokens;
    }
    free(stored->ids);
    free(stored->places);
    stored->ids = saving->ids;
    stored->n_tokens = saving->n_tokens;
    stored->bytes = saving->report.file_bytes;
    stored->places = saving->places;
    stored->n_places = saving->n_places;
    stored->used_seconds = kvf_seconds();
    saving->ids = NULL;
    saving->places = NULL;
    if (!saving->is_new) {
        shelf->bytes += stored->bytes;
        shelf->n_tokens += stored->n_tokens;
        return KVF_OK;
    }
    const kvf_status status = kvf_shelf_put_on(shelf, stored, &saving->error);
    saving->is_new = status != KVF_OK;
    return status;
}

bool kvf_shelf_save_end(kvf_shelf *shelf, kvf_holder **holder, kvf_status *status)
{
    kvf_saving *saving = shelf->saving;
    *holder = NULL;
    if (!saving || !atomic_load(&saving->is_done))
        return false;
    shelf->saving = NULL;
    *holder = saving->holder;
    kvf_save_end(saving->save, saving->holder ? saving->session : NULL);
    saving->stored->is_busy = false;
    *status = take_result(shelf, saving);
    /* One that was stopped was noted as it was, and is as slow where it came to its end after all.
     */
    if (!saving->is_stopped)
        note_result(shelf, *status, false, &saving->error);
    if (saving->holder)
        saving->holder->saving = NULL;
    if (*status == KVF_OK && saving->holder)
        kvf_stored_hold(saving->stored, saving->holder);
    free_saving(saving);
    return true;
}

void kvf_shelf_save_stop(kvf_shelf *shelf)
{
    kvf_error slow;
    kvf_saving *saving = shelf->saving;
    if (!saving || saving->is_stopped)
        return;
    kvf_save_stop(saving->save);
    saving->is_stopped = true;
    kvf_fail(&slow, KVF_FILE_IO, "%s: the disk takes too long; memory is needed for others",
             kvf_printable(shelf->folder).text);
    note_result(shelf, KVF_FILE_IO, false, &slow);
}

uint64_t kvf_shelf_saving_bytes(const kvf_shelf *shelf)
{
    return shelf->saving && !shelf->saving->is_stopped ? shelf->saving->planned_bytes : 0;
}

void kvf_holder_leave(kvf_holder *holder)
{
    if (holder->stored)
        kvf_stored_hold(holder->stored, NULL);
    if (holder->saving)
        holder->saving->holder = NULL;
    holder->saving = NULL;
}

bool kvf_shelf_works(const kvf_shelf *shelf)
{
    return shelf->failed_seconds <= 0 || kvf_seconds() - shelf->failed_seconds > retry_seconds;
}

bool kvf_shelf_may_save(const kvf_shelf *shelf)
{
    return !shelf->saving && kvf_shelf_works(shelf);
}

/* ---- Restoring ---------------------------------------------------------------------------- */

struct kvf_restoring {
    kvf_disk_task task;
    kvf_shelf *shelf;
    kvf_stored *stored;
    kvf_load_options options;
    char *path;
    /* By the thread that reads: */
    kvf_load *load; /* NULL: it could not be opened, or is not checked yet */
    kvf_status status;
    kvf_error error;
    atomic_bool is_checked;
};

static void check_file(kvf_disk_task *task)
{
    kvf_restoring *restoring = (kvf_restoring *)task;
    const kvf_shelf *shelf = restoring->shelf;
    restoring->status =
        kvf_load_open(restoring->path, &restoring->options, &restoring->load, &restoring->error);
    void (*wake)(void *) = shelf->wake;
    void *user = shelf->wake_user;
    atomic_store(&restoring->is_checked, true);
    wake(user);
}

static void free_restoring(kvf_restoring *restoring)
{
    kvf_load_close(restoring->load);
    free(restoring->path);
    free(restoring);
}

kvf_status kvf_shelf_load_begin(kvf_shelf *shelf, kvf_stored *stored, kvf_error *error)
{
    kvf_restoring *restoring = calloc(1, sizeof *restoring);
    if (!restoring)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to restore a session");
    restoring->shelf = shelf;
    restoring->stored = stored;
    restoring->options = (kvf_load_options){.session = &shelf->session_options,
                                            .geometry = &shelf->engine->config.geometry,
                                            .verify = true};
    kvf_status status =
        kvf_model_fingerprint(shelf->engine->model, &restoring->options.model_fingerprint, error);
    if (status == KVF_OK)
        status = kvf_shelf_path(shelf, stored->name, KVF_SESSION_SUFFIX, &restoring->path, error);
    if (status != KVF_OK) {
        free_restoring(restoring);
        return status;
    }
    stored->is_busy = true;
    shelf->restoring = restoring;
    restoring->task.run = check_file;
    kvf_disk_add(shelf->reading, &restoring->task);
    return kvf_ok(error);
}

static void end_load(kvf_shelf *shelf, kvf_status status, kvf_session *session, kvf_stored **stored)
{
    kvf_restoring *restoring = shelf->restoring;
    shelf->restoring = NULL;
    *stored = restoring->stored;
    restoring->stored->is_busy = false;
    if (session) {
        restoring->stored->used_seconds = kvf_seconds();
        restoring->stored->n_hits++;
    } else if (status == KVF_FILE_FORMAT || status == KVF_FILE_NOT_FOUND) {
        kvf_engine_note(&shelf->engine->events, true, "forgotten: %s", restoring->error.message);
        kvf_shelf_forget(shelf, restoring->stored);
        *stored = NULL;
    }
    free_restoring(restoring);
}

kvf_load_state kvf_shelf_load_step(kvf_shelf *shelf, uint64_t max_bytes, kvf_session **session,
                                   kvf_stored **stored)
{
    kvf_restoring *restoring = shelf->restoring;
    *session = NULL;
    *stored = NULL;
    if (!restoring)
        return KVF_LOAD_NONE;
    if (!atomic_load(&restoring->is_checked))
        return KVF_LOAD_WAITS;
    if (restoring->status == KVF_OK)
        restoring->status = kvf_load_step(restoring->load, shelf->engine->device, max_bytes,
                                          session, &restoring->error);
    if (restoring->status == KVF_OK && !*session)
        return KVF_LOAD_GOES_ON;
    end_load(shelf, restoring->status, *session, stored);
    return KVF_LOAD_OVER;
}

void kvf_shelf_stop_tasks(kvf_shelf *shelf)
{
    if (shelf->saving)
        kvf_save_stop(shelf->saving->save);
    kvf_disk_close(shelf->writing);
    kvf_disk_close(shelf->reading);
    shelf->writing = shelf->reading = NULL;
    if (shelf->saving) {
        kvf_save_end(shelf->saving->save, NULL);
        free_saving(shelf->saving);
        shelf->saving = NULL;
    }
    if (shelf->restoring) {
        free_restoring(shelf->restoring);
        shelf->restoring = NULL;
    }
}
