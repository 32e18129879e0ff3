#include "server/shelf_internal.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "server/common.h"

/* Names are a count, so that a file is never mistaken for an older one of that name. */
enum { NAME_DIGITS = 16 };
static const char saving_suffix[] = KVF_SESSION_SUFFIX ".saving";

/* ---- Files -------------------------------------------------------------------------------- */

kvf_status kvf_shelf_path(const kvf_shelf *shelf, const char *name, const char *suffix, char **path,
                          kvf_error *error)
{
    return kvf_session_path(shelf->folder, name, suffix, path, error);
}

void kvf_stored_free(kvf_stored *stored)
{
    if (!stored)
        return;
    free(stored->ids);
    free(stored->places);
    free(stored);
}

static void take_off(kvf_shelf *shelf, kvf_stored *stored)
{
    uint32_t at = 0;
    while (shelf->list[at] != stored)
        at++;
    shelf->list[at] = shelf->list[--shelf->n];
    shelf->bytes -= stored->bytes;
    shelf->n_tokens -= stored->n_tokens;
    kvf_stored_free(stored);
}

kvf_status kvf_shelf_put_on(kvf_shelf *shelf, kvf_stored *stored, kvf_error *error)
{
    if (shelf->n == shelf->capacity) {
        const uint32_t capacity = shelf->capacity ? 2 * shelf->capacity : 64;
        kvf_stored **list = realloc(shelf->list, capacity * sizeof *list);
        if (!list)
            return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a list of %u files", capacity);
        shelf->list = list;
        shelf->capacity = capacity;
    }
    shelf->list[shelf->n++] = stored;
    shelf->bytes += stored->bytes;
    shelf->n_tokens += stored->n_tokens;
    return KVF_OK;
}

void kvf_stored_hold(kvf_stored *stored, kvf_holder *holder)
{
    if (stored->holder)
        stored->holder->stored = NULL;
    stored->holder = holder;
    if (holder)
        holder->stored = stored;
}

typedef struct removal {
    kvf_disk_task task;
    char path[];
} removal;

static void remove_file(kvf_disk_task *task)
{
    removal *gone = (removal *)task;
    unlink(gone->path); /* one that stays is found again at the next start */
    free(gone);
}

/* Before whatever is written next. */
static void remove_later(kvf_shelf *shelf, const char *path)
{
    const size_t path_bytes = strlen(path) + 1;
    removal *gone = malloc(sizeof *gone + path_bytes);
    if (!gone) {
        unlink(path);
        return;
    }
    gone->task.run = remove_file;
    memcpy(gone->path, path, path_bytes);
    kvf_disk_add(shelf->writing, &gone->task);
}

void kvf_shelf_forget(kvf_shelf *shelf, kvf_stored *stored)
{
    char *path;
    kvf_stored_hold(stored, NULL);
    if (kvf_shelf_path(shelf, stored->name, KVF_SESSION_SUFFIX, &path, NULL) == KVF_OK) {
        remove_later(shelf, path);
        free(path);
    }
    take_off(shelf, stored);
}

/* ---- What is there ------------------------------------------------------------------------ */

/* Places that a file's session can go back to. */
static kvf_status read_places(const char *path, const kvf_snapshot_info *info, kvf_stored *stored,
                              kvf_error *error)
{
    uint64_t *places = malloc(info->n_checkpoints * sizeof *places + 1);
    if (!places)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the checkpoints of %s",
                        kvf_printable(path).text);
    const kvf_status status = kvf_snapshot_checkpoints(path, places, info->n_checkpoints, error);
    if (status != KVF_OK) {
        free(places);
        return status;
    }
    free(stored->places);
    stored->places = places;
    stored->n_places = info->n_checkpoints;
    return KVF_OK;
}

static kvf_status read_stored(const char *path, const kvf_snapshot_info *info, kvf_stored *stored,
                              kvf_error *error)
{
    struct stat file;
    stored->n_tokens = info->n_tokens;
    stored->bytes = info->file_bytes;
    stored->ids = malloc(info->n_tokens * sizeof *stored->ids + 1);
    if (!stored->ids)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the ids of %s",
                        kvf_printable(path).text);
    if (stat(path, &file) == 0)
        stored->used_seconds = kvf_seconds() - difftime(time(NULL), file.st_mtime);
    kvf_status status = kvf_snapshot_tokens(path, stored->ids, info->n_tokens, error);
    if (status == KVF_OK)
        status = read_places(path, info, stored, error);
    return status;
}

static bool fits(const kvf_shelf *shelf, const kvf_snapshot_info *info, uint64_t fingerprint)
{
    return info->model_fingerprint == fingerprint &&
           info->profile == shelf->session_options.profile &&
           info->grid_off == shelf->session_options.grid_off && info->n_tokens > 0 &&
           info->n_tokens <= shelf->session_options.max_tokens;
}

/* One file of ours; one that cannot be used is noted and left alone. */
static kvf_status take_file(kvf_shelf *shelf, const char *name, const char *path,
                            uint64_t fingerprint, kvf_error *error)
{
    kvf_snapshot_info info;
    kvf_error wrong;
    kvf_status status = kvf_snapshot_info_read(path, &info, &wrong);
    if (status == KVF_OK && !fits(shelf, &info, fingerprint))
        return KVF_OK;
    kvf_stored *stored = calloc(1, sizeof *stored);
    if (!stored)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for what is in %s",
                        kvf_printable(path).text);
    if (status == KVF_OK)
        status = read_stored(path, &info, stored, &wrong);
    if (status != KVF_OK) {
        kvf_engine_note(&shelf->engine->events, true, "passed over: %s", wrong.message);
        kvf_stored_free(stored);
        return KVF_OK;
    }
    snprintf(stored->name, sizeof stored->name, "%s", name);
    status = kvf_shelf_put_on(shelf, stored, error);
    if (status != KVF_OK)
        kvf_stored_free(stored);
    return status;
}

/* The name without suffix, where it is one that the shelf makes; *is_saving: a save's. */
static bool is_ours(const char *file, char name[NAME_DIGITS + 1], bool *is_saving)
{
    if (strspn(file, "0123456789abcdef") != NAME_DIGITS)
        return false;
    memcpy(name, file, NAME_DIGITS);
    name[NAME_DIGITS] = '\0';
    *is_saving = strcmp(file + NAME_DIGITS, saving_suffix) == 0;
    return *is_saving || strcmp(file + NAME_DIGITS, KVF_SESSION_SUFFIX) == 0;
}

static kvf_status take_entry(kvf_shelf *shelf, const char *file, uint64_t fingerprint,
                             kvf_error *error)
{
    char name[NAME_DIGITS + 1];
    bool is_saving;
    char *path;
    if (!is_ours(file, name, &is_saving))
        return KVF_OK;
    const uint64_t number = strtoull(name, NULL, 16);
    if (number >= shelf->next_name)
        shelf->next_name = number + 1;
    kvf_status status = kvf_shelf_path(shelf, file, "", &path, error);
    if (status != KVF_OK)
        return status;
    if (!is_saving)
        status = take_file(shelf, name, path, fingerprint, error);
    else if (kvf_snapshot_is_unfinished(path))
        unlink(path);
    free(path);
    return status;
}

static kvf_status read_folder(kvf_shelf *shelf, kvf_error *error)
{
    uint64_t fingerprint;
    kvf_status status = kvf_model_fingerprint(shelf->engine->model, &fingerprint, error);
    DIR *folder = status == KVF_OK ? opendir(shelf->folder) : NULL;
    if (status == KVF_OK && !folder)
        return kvf_fail(error, KVF_FILE_IO, "cannot list the folder %s: %s",
                        kvf_printable(shelf->folder).text, strerror(errno));
    const struct dirent *entry;
    while (status == KVF_OK && (entry = readdir(folder)))
        status = take_entry(shelf, entry->d_name, fingerprint, error);
    if (folder)
        closedir(folder);
    return status;
}

kvf_status kvf_shelf_open(kvf_engine *engine, const char *folder, uint64_t max_bytes, bool no_lock,
                          const kvf_session_options *session_options, void (*wake)(void *user),
                          void *wake_user, kvf_shelf **out, kvf_error *error)
{
    kvf_engine_options options = *engine->options;
    kvf_shelf *shelf = calloc(1, sizeof *shelf);
    *out = NULL;
    if (!shelf)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a list of files");
    options.no_lock = no_lock;
    shelf->no_lock = no_lock;
    shelf->engine = engine;
    shelf->session_options = *session_options;
    shelf->max_bytes = max_bytes;
    shelf->lock.file = -1;
    shelf->wake = wake;
    shelf->wake_user = wake_user;
    kvf_status status = kvf_session_path(folder, "", "", &shelf->folder, error);
    if (status == KVF_OK)
        status = kvf_make_folder(folder, error);
    if (status == KVF_OK)
        status =
            kvf_session_lock_take(&options, &engine->events, folder, "server", &shelf->lock, error);
    if (status == KVF_OK)
        status = read_folder(shelf, error);
    if (status == KVF_OK)
        status = kvf_disk_open(&shelf->writing, error);
    if (status == KVF_OK)
        status = kvf_disk_open(&shelf->reading, error);
    if (status != KVF_OK) {
        kvf_shelf_close(shelf);
        return status;
    }
    *out = shelf;
    return kvf_ok(error);
}

void kvf_shelf_close(kvf_shelf *shelf)
{
    if (!shelf)
        return;
    kvf_shelf_stop_tasks(shelf);
    while (shelf->n > 0)
        take_off(shelf, shelf->list[shelf->n - 1]);
    free(shelf->list);
    if (shelf->lock.file >= 0 || shelf->lock.path)
        kvf_session_lock_give(&shelf->engine->events, &shelf->lock);
    free(shelf->folder);
    free(shelf);
}

/* ---- Finding ------------------------------------------------------------------------------ */

/* Where a text of n tokens can be taken up in a file that begins with `shared` of them. */
static uint64_t covered(const kvf_stored *stored, uint64_t shared, uint64_t n)
{
    if (shared == stored->n_tokens)
        return shared;
    const uint64_t last = shared < n ? shared : n - 1; /* its checkpoints have no logits */
    for (uint32_t i = stored->n_places; i > 0; i--)
        if (stored->places[i - 1] <= last)
            return stored->places[i - 1];
    return 0;
}

kvf_stored *kvf_shelf_find(const kvf_shelf *shelf, const int32_t *ids, uint64_t n,
                           uint64_t *n_tokens)
{
    kvf_stored *best = NULL;
    *n_tokens = 0;
    for (uint32_t i = 0; i < shelf->n; i++) {
        kvf_stored *stored = shelf->list[i];
        const uint64_t at =
            covered(stored, kvf_common_tokens(stored->ids, stored->n_tokens, ids, n), n);
        if (at > *n_tokens) {
            best = stored;
            *n_tokens = at;
        }
    }
    return best;
}

/* ---- Which leaves ------------------------------------------------------------------------- */

/* Tokens that could be taken up from no other file. */
static uint64_t own_tokens(const kvf_shelf *shelf, const kvf_stored *stored)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < shelf->n; i++) {
        const kvf_stored *other = shelf->list[i];
        if (other == stored)
            continue;
        const uint64_t shared =
            kvf_common_tokens(other->ids, other->n_tokens, stored->ids, stored->n_tokens);
        const uint64_t at = covered(other, shared, stored->n_tokens);
        most = at > most ? at : most;
    }
    return stored->n_tokens - most;
}

static double worth(const kvf_shelf *shelf, const kvf_stored *stored, double now)
{
    const double age = 1.0 + now - stored->used_seconds;
    return (double)own_tokens(shelf, stored) * (double)(1 + stored->n_hits) /
           ((1.0 + (double)stored->bytes) * age);
}

/* Of those used longest ago so many are compared with all (prefixes.c). */
enum { WEIGHED = 16 };

static uint32_t insert_oldest(kvf_stored *oldest[WEIGHED], uint32_t n, kvf_stored *stored)
{
    if (n == WEIGHED && stored->used_seconds >= oldest[n - 1]->used_seconds)
        return n;
    uint32_t at = n < WEIGHED ? n : n - 1;
    for (; at > 0 && stored->used_seconds < oldest[at - 1]->used_seconds; at--)
        oldest[at] = oldest[at - 1];
    oldest[at] = stored;
    return n < WEIGHED ? n + 1 : n;
}

static kvf_stored *least(const kvf_shelf *shelf, const kvf_stored *but)
{
    const double now = kvf_seconds();
    kvf_stored *oldest[WEIGHED];
    uint32_t n = 0;
    for (uint32_t i = 0; i < shelf->n; i++)
        if (shelf->list[i] != but && !shelf->list[i]->is_busy)
            n = insert_oldest(oldest, n, shelf->list[i]);
    kvf_stored *found = NULL;
    double least_worth = 0;
    for (uint32_t i = 0; i < n; i++) {
        const double w = worth(shelf, oldest[i], now);
        if (!found || w < least_worth) {
            found = oldest[i];
            least_worth = w;
        }
    }
    return found;
}

kvf_status kvf_shelf_make_room(kvf_shelf *shelf, const kvf_stored *but, uint64_t bytes,
                               kvf_error *error)
{
    while (shelf->max_bytes > 0 &&
           (bytes > shelf->max_bytes || shelf->bytes > shelf->max_bytes - bytes)) {
        kvf_stored *leaving = bytes <= shelf->max_bytes ? least(shelf, but) : NULL;
        if (!leaving)
            return kvf_fail(error, KVF_FILE_IO,
                            "%s: a session of %" PRIu64 " MB finds no room in %" PRIu64 " MB",
                            kvf_printable(shelf->folder).text, bytes / 1000000,
                            shelf->max_bytes / 1000000);
        /* It is not to come back at once, for which another would have to leave. */
        if (leaving->holder)
            leaving->holder->given_up_tokens = leaving->n_tokens;
        kvf_shelf_forget(shelf, leaving);
    }
    return KVF_OK;
}
