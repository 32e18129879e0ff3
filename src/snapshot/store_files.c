/* The folder of a store: what is in it, when that was used, and who may change it now. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "snapshot/store.h"

#define SAVING_SUFFIX ".saving" /* docs/FORMAT.md 10.5 */
#define LOCK_NAME "lock"

static const uint64_t second = 1000000000;
/* Later than this (the year 2500) is no time that a clock gave. */
static const uint64_t most_seconds = 16725225600;
/* Some file systems keep times by steps of two seconds (FAT). */
static const uint64_t coarsest_grain = 2000000000;
/* How often a held lock is asked for again: a wait that nobody notices. */
static const struct timespec poll_interval = {0, 20000000};
/* Where nothing can be locked, a save that nobody went on with for a day is given up. */
static const time_t dead_after_seconds = 86400;

char *kvf_store_path(const kvf_store *store, const char *name)
{
    const size_t folder_bytes = strlen(store->folder);
    char *path = malloc(folder_bytes + strlen(name) + 2);
    if (path) {
        memcpy(path, store->folder, folder_bytes);
        path[folder_bytes] = '/';
        strcpy(path + folder_bytes + 1, name);
    }
    return path;
}

kvf_status kvf_store_no_memory(const kvf_store *store, kvf_error *error)
{
    return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to look through the store",
                    kvf_printable(store->folder).text);
}

/* ---- Times ------------------------------------------------------------------------------- */

static uint64_t time_of(struct timespec time)
{
    if (time.tv_sec < 0 || (uint64_t)time.tv_sec > most_seconds)
        return 0;
    return (uint64_t)time.tv_sec * second + (uint64_t)time.tv_nsec;
}

static uint64_t modified_of(const struct stat *info)
{
#ifdef __APPLE__
    return time_of(info->st_mtimespec);
#else
    return time_of(info->st_mtim);
#endif
}

static struct timespec changed_of(const struct stat *info)
{
#ifdef __APPLE__
    return info->st_ctimespec;
#else
    return info->st_ctim;
#endif
}

/* Gives a file a time later than list->newest, which the clock may be behind of. */
static void set_time(const kvf_io *io, kvf_store_list *list, const char *path)
{
    const uint64_t now = time_of(io->now(io));
    uint64_t wanted = now > list->newest ? now : list->newest + 1;
    struct stat info;
    for (int attempt = 0; attempt < 2; attempt++) {
        const struct timespec time = {(time_t)(wanted / second), (long)(wanted % second)};
        if (io->set_time(io, path, time) != 0 || io->stat_link(io, path, &info) != 0)
            return;
        if (modified_of(&info) > list->newest)
            break;
        wanted = list->newest + coarsest_grain;
    }
    if (modified_of(&info) > list->newest)
        list->newest = modified_of(&info);
}

/* The path of a note on a state, until the next one is asked for. */
static const char *note_path(const kvf_store *store, const char *name, const char *suffix)
{
    char *note = store->note + strlen(store->folder);
    memcpy(store->note, store->folder, strlen(store->folder));
    *note++ = '/';
    memcpy(note, name, KVF_STORE_DIGITS);
    strcpy(note + KVF_STORE_DIGITS, suffix);
    return store->note;
}

void kvf_store_forget(const kvf_store *store, const char *name)
{
    const kvf_io *io = store->io;
    io->unlink(io, note_path(store, name, KVF_STORE_USED));
    io->unlink(io, note_path(store, name, KVF_STORE_SHARED));
}

void kvf_store_note_used(const kvf_store *store, kvf_store_list *list, const char *name,
                         bool shared)
{
    const kvf_io *io = store->io;
    const char *path = note_path(store, name, shared ? KVF_STORE_SHARED : KVF_STORE_USED);
    const int file =
        io->open(io, path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK, S_IRUSR | S_IWUSR);
    if (file < 0)
        return;
    io->close(io, file);
    set_time(io, list, path);
    if (shared)
        io->unlink(io, note_path(store, name, KVF_STORE_USED));
}

void kvf_store_note_stored(const kvf_store *store, kvf_store_list *list, const char *name,
                           bool shared)
{
    set_time(store->io, list, note_path(store, name, KVF_STORE_SUFFIX));
    if (shared)
        kvf_store_note_used(store, list, name, true);
}

/* ---- What is in the folder ---------------------------------------------------------------- */

/* A name as the store makes them; *kind is what it says. */
static bool is_ours(const char *name, kvf_store_kind *kind, bool *shared)
{
    static const char suffix[] = KVF_STORE_SUFFIX;
    for (int i = 0; i < KVF_STORE_DIGITS; i++)
        if (!name[i] || !strchr("0123456789abcdef", name[i]))
            return false;
    name += KVF_STORE_DIGITS;
    *shared = strcmp(name, KVF_STORE_SHARED) == 0;
    *kind = KVF_STORE_NOTE;
    if (*shared || strcmp(name, KVF_STORE_USED) == 0)
        return true;
    if (strncmp(name, suffix, sizeof suffix - 1) != 0)
        return false;
    name += sizeof suffix - 1;
    *kind = *name ? KVF_STORE_SAVING : KVF_STORE_STATE;
    return *name == '\0' || strcmp(name, SAVING_SUFFIX) == 0;
}

static bool add_file(kvf_store_list *list, const kvf_store_file *file)
{
    if (list->n == list->capacity) {
        const size_t capacity = list->capacity ? 2 * list->capacity : 64;
        kvf_store_file *larger = realloc(list->files, capacity * sizeof *larger);
        if (!larger)
            return false;
        list->files = larger;
        list->capacity = capacity;
    }
    list->files[list->n++] = *file;
    return true;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const kvf_store_file *)a)->name, ((const kvf_store_file *)b)->name);
}

/* Notes go into the state of their digits, which is before them by name; others stay listed. */
static void take_notes(kvf_store_list *list)
{
    size_t n = 0;
    if (list->n > 0)
        qsort(list->files, list->n, sizeof *list->files, compare_names);
    kvf_store_file *state = NULL;
    for (size_t i = 0; i < list->n; i++) {
        const kvf_store_file *file = &list->files[i];
        if (file->kind == KVF_STORE_NOTE && state &&
            memcmp(state->name, file->name, KVF_STORE_DIGITS) == 0) {
            state->shared = state->shared || file->shared;
            state->used = file->used > state->used ? file->used : state->used;
            continue;
        }
        list->files[n] = *file;
        if (file->kind == KVF_STORE_STATE)
            state = &list->files[n];
        n++;
    }
    list->n = n;
}

typedef struct listing {
    kvf_store_list *list;
    bool memory; /* was enough so far */
} listing;

static bool take_file(void *user, const char *name, const struct stat *info)
{
    listing *l = user;
    kvf_store_file file = {.bytes = 0};
    if (!is_ours(name, &file.kind, &file.shared) || !S_ISREG(info->st_mode))
        return true;
    strcpy(file.name, name); /* as short as all of ours */
    file.bytes = (uint64_t)info->st_size;
    file.device = info->st_dev;
    file.inode = info->st_ino;
    file.changed = changed_of(info);
    file.stored = file.used = modified_of(info);
    if (file.kind != KVF_STORE_SAVING && file.used > l->list->newest)
        l->list->newest = file.used;
    l->memory = add_file(l->list, &file);
    return l->memory;
}

kvf_status kvf_store_list_files(const kvf_store *store, kvf_store_list *list, kvf_error *error)
{
    listing l = {.list = list, .memory = true};
    memset(list, 0, sizeof *list);
    if (store->io->list(store->io, store->folder, take_file, &l) != 0)
        return kvf_io_fail(store->folder, "list the folder", errno, error);
    take_notes(list);
    return l.memory ? KVF_OK : kvf_store_no_memory(store, error);
}

bool kvf_store_same_file(const kvf_store *store, const kvf_store_file *file, const char *path)
{
    struct stat info;
    return store->io->stat_link(store->io, path, &info) == 0 && info.st_dev == file->device &&
           info.st_ino == file->inode && changed_of(&info).tv_sec == file->changed.tv_sec &&
           changed_of(&info).tv_nsec == file->changed.tv_nsec;
}

/* ---- The folder's lock -------------------------------------------------------------------- */

/* As kvf_io_lock. */
static kvf_status take_lock(const kvf_store *store, const char *path, int *file, kvf_error *error)
{
    const kvf_io *io = store->io;
    *file = io->open(io, path, O_RDWR | O_CREAT | O_NONBLOCK | O_NOFOLLOW, S_IRUSR | S_IWUSR);
    if (*file < 0)
        return kvf_io_fail(path, "open the lock", errno, error);
    const kvf_status status = kvf_io_lock(io, *file, path, store->options.no_lock, error);
    if (status != KVF_OK)
        io->close(io, *file);
    return status;
}

/* False when the wait is to end. */
static bool wait_a_moment(const kvf_store *store, const struct timespec *began)
{
    struct timespec time;
    const bool whole = nanosleep(&poll_interval, NULL) == 0;
    if (!store->options.wait)
        return whole; /* otherwise a signal came */
    clock_gettime(CLOCK_MONOTONIC, &time);
    return store->options.wait(store->options.wait_context,
                               (double)(time.tv_sec - began->tv_sec) +
                                   1e-9 * (double)(time.tv_nsec - began->tv_nsec));
}

kvf_status kvf_store_lock(const kvf_store *store, int *lock, kvf_error *error)
{
    char *path = kvf_store_path(store, LOCK_NAME);
    if (!path)
        return kvf_store_no_memory(store, error);
    struct timespec began;
    kvf_status status;
    clock_gettime(CLOCK_MONOTONIC, &began);
    while ((status = take_lock(store, path, lock, error)) == KVF_FILE_BUSY)
        if (!wait_a_moment(store, &began)) {
            kvf_fail(error, status, "%s: interrupted while another process writes to the store",
                     kvf_printable(store->folder).text);
            break;
        }
    free(path);
    return status;
}

bool kvf_store_try_lock(const kvf_store *store, int *lock)
{
    char *path = kvf_store_path(store, LOCK_NAME);
    const bool held = path && take_lock(store, path, lock, NULL) == KVF_OK;
    free(path);
    return held;
}

bool kvf_store_is_dead(const kvf_store *store, const char *path)
{
    const kvf_io *io = store->io;
    struct stat info;
    const int file = io->open(io, path, O_RDWR | O_NONBLOCK | O_NOFOLLOW, 0);
    if (file < 0)
        return false;
    /* Saves of living ones hold the folder's lock, which is ours now, or that of the file. */
    const bool locked = io->lock(io, file) == 0;
    bool dead = locked;
    if (!locked && errno != EWOULDBLOCK && store->options.no_lock)
        dead = io->stat(io, file, &info) == 0 &&
               info.st_mtime < io->now(io).tv_sec - dead_after_seconds;
    io->close(io, file);
    return dead;
}
