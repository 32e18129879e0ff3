/*
 * A folder of snapshots that are found by what they begin with. The files are all there
 * is: a search reads the header and the token ids of each, which are a thousandth of it.
 *
 * The folder's lock is held while files are removed and written, so that the sum of all
 * files is never more than the budget, in however many processes. A search takes no lock:
 * a file that goes away while it looks is as good as one that was never there, and one
 * that is mapped stays readable.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/session.h"
#include "cache/snapshot.h"
#include "cache/store.h"
#include "checksum.h"
#include "error.h"

#define SAVING_SUFFIX ".saving" /* docs/FORMAT.md 10.5 */
#define LOCK_NAME "lock"

struct kvf_store {
    char *folder;
    uint64_t max_bytes;
};

/* A file of the store. */
typedef struct store_file {
    char name[KVF_STORE_NAME_BYTES];
    bool saving; /* what a save has not finished */
    uint64_t bytes;
    dev_t device; /* which file the name led to .. */
    ino_t inode;
    struct timespec changed; /* .. and as of when */
    struct timespec used;
    kvf_profile_id profile;
    uint64_t n_tokens;
} store_file;

typedef struct file_list {
    store_file *files;
    size_t n;
    size_t capacity;
} file_list;

/* ---- Opening ------------------------------------------------------------------------- */

/* "FOLDER/NAME", malloc'd, or NULL. */
static char *path_of(const kvf_store *store, const char *name)
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

static kvf_status no_memory(const kvf_store *store, kvf_error *error)
{
    return kvf_fail(error, KVF_OUT_OF_MEMORY, "%.200s: no memory to look through the store",
                    store->folder);
}

kvf_status kvf_store_open(const char *folder, uint64_t max_bytes, kvf_store **store,
                          kvf_error *error)
{
    struct stat info;
    *store = NULL;
    if (!folder || !*folder)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "no folder for the store");
    if (max_bytes == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "%.200s: a store of 0 bytes holds nothing",
                        folder);
    if (kvf_io_make_folder(folder) != 0)
        return kvf_io_fail(folder, "make the folder", error);
    if (stat(folder, &info) != 0)
        return kvf_io_fail(folder, "look at", error);
    if (!S_ISDIR(info.st_mode))
        return kvf_fail(error, KVF_FILE_IO, "%.200s: is not a folder", folder);
    kvf_store *opened = calloc(1, sizeof *opened);
    char *copy = malloc(strlen(folder) + 1);
    if (!opened || !copy) {
        free(opened);
        free(copy);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%.200s: no memory to open the store", folder);
    }
    strcpy(copy, folder);
    *opened = (kvf_store){.folder = copy, .max_bytes = max_bytes};
    *store = opened;
    return kvf_ok(error);
}

void kvf_store_close(kvf_store *store)
{
    if (!store)
        return;
    free(store->folder);
    free(store);
}

/* ---- What is in the folder --------------------------------------------------------------- */

/* A name as kvf_store_name makes them; *saving where the suffix of a save follows. */
static bool is_ours(const char *name, bool *saving)
{
    static const char suffix[] = KVF_STORE_SUFFIX;
    for (int i = 0; i < KVF_STORE_DIGITS; i++)
        if (!name[i] || !strchr("0123456789abcdef", name[i]))
            return false;
    name += KVF_STORE_DIGITS;
    if (strncmp(name, suffix, sizeof suffix - 1) != 0)
        return false;
    name += sizeof suffix - 1;
    *saving = strcmp(name, SAVING_SUFFIX) == 0;
    return *saving || *name == '\0';
}

static bool add_file(file_list *list, store_file file)
{
    if (list->n == list->capacity) {
        const size_t capacity = list->capacity ? 2 * list->capacity : 64;
        store_file *larger = realloc(list->files, capacity * sizeof *larger);
        if (!larger)
            return false;
        list->files = larger;
        list->capacity = capacity;
    }
    list->files[list->n++] = file;
    return true;
}

static struct timespec used_of(const struct stat *info)
{
#ifdef __APPLE__
    return info->st_mtimespec;
#else
    return info->st_mtim;
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

/* All files of the store, those of interrupted saves too. list->files is to be freed. */
static kvf_status list_files(const kvf_store *store, file_list *list, kvf_error *error)
{
    memset(list, 0, sizeof *list);
    DIR *folder = opendir(store->folder);
    if (!folder)
        return kvf_io_fail(store->folder, "list the folder", error);
    kvf_status status = KVF_OK;
    const struct dirent *entry;
    while (status == KVF_OK && (entry = readdir(folder))) {
        struct stat info;
        store_file file = {.bytes = 0};
        if (!is_ours(entry->d_name, &file.saving))
            continue;
        /* One that is gone by now was removed by another process. */
        if (fstatat(dirfd(folder), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(info.st_mode))
            continue;
        strcpy(file.name, entry->d_name); /* as short as all of ours */
        file.bytes = (uint64_t)info.st_size;
        file.device = info.st_dev;
        file.inode = info.st_ino;
        file.changed = changed_of(&info);
        file.used = used_of(&info);
        if (!add_file(list, file))
            status = no_memory(store, error);
    }
    closedir(folder);
    return status;
}

/* ---- The folder's lock -------------------------------------------------------------------- */

/* operation: of flock. The lock is given back by closing *file; errno says why it failed. */
static bool take_lock(const char *path, int operation, int *file)
{
    *file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, S_IRUSR | S_IWUSR);
    if (*file < 0)
        return false;
    if (flock(*file, operation) == 0)
        return true;
    const int reason = errno;
    close(*file);
    errno = reason;
    return false;
}

/* Waits for it. */
static kvf_status lock_folder(const kvf_store *store, int *file, kvf_error *error)
{
    char *path = path_of(store, LOCK_NAME);
    if (!path)
        return no_memory(store, error);
    kvf_status status = KVF_OK;
    if (!take_lock(path, LOCK_EX, file))
        status = errno == EINTR ? kvf_fail(error, KVF_FILE_BUSY,
                                           "%.200s: interrupted while another process writes to "
                                           "the store",
                                           store->folder)
                                : kvf_io_fail(path, "lock", error);
    free(path);
    return status;
}

/*
 * Removes a file that was seen to be damaged, unless its name may lead to another one by
 * now. While somebody writes to the store it stays, and is met again.
 */
static void remove_damaged(const kvf_store *store, const store_file *file, const char *path)
{
    struct stat info;
    int lock;
    char *lock_path = path_of(store, LOCK_NAME);
    if (lock_path && take_lock(lock_path, LOCK_EX | LOCK_NB, &lock)) {
        const bool same = lstat(path, &info) == 0 && info.st_dev == file->device &&
                          info.st_ino == file->inode &&
                          changed_of(&info).tv_sec == file->changed.tv_sec &&
                          changed_of(&info).tv_nsec == file->changed.tv_nsec;
        if (same)
            unlink(path);
        close(lock);
    }
    free(lock_path);
}

/* ---- Finding ----------------------------------------------------------------------------- */

typedef struct search {
    kvf_store *store;
    kvf_device *device;
    const int32_t *tokens;
    uint64_t n_tokens;
    const kvf_load_options *options;
    int32_t *ids; /* [n_tokens] of the file that is looked at */
    kvf_store_found found;
} search;

/* Notes a file that cannot be read; one that is damaged never can be. Others do not fit. */
static void skip_file(search *s, const store_file *file, const char *path, const kvf_error *why)
{
    if (why->status != KVF_FILE_FORMAT && why->status != KVF_FILE_IO)
        return;
    if (s->found.n_skipped++ == 0)
        s->found.skipped = *why;
    if (why->status == KVF_FILE_FORMAT)
        remove_damaged(s->store, file, path);
}

static uint64_t common_tokens(const int32_t *a, const int32_t *b, uint64_t n)
{
    uint64_t i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

/* *usable: the file's ids are the first of the text. Reports what is damaged as skipped. */
static kvf_status look_at(search *s, store_file *file, bool *usable, kvf_error *error)
{
    kvf_snapshot_info info;
    kvf_error why;
    *usable = false;
    char *path = path_of(s->store, file->name);
    if (!path)
        return no_memory(s->store, error);
    kvf_status status = kvf_snapshot_info_read(path, &info, &why);
    if (status == KVF_OK && info.model_fingerprint == s->options->model_fingerprint) {
        const uint64_t n = info.n_tokens < s->n_tokens ? info.n_tokens : s->n_tokens;
        status = kvf_snapshot_tokens(path, s->ids, n, &why);
        const uint64_t common = status == KVF_OK ? common_tokens(s->ids, s->tokens, n) : 0;
        if (common > s->found.shared_tokens)
            s->found.shared_tokens = common;
        *usable = common > 0 && common == info.n_tokens;
        file->n_tokens = info.n_tokens;
        file->profile = info.profile;
    }
    if (status == KVF_OUT_OF_MEMORY)
        kvf_fail(error, status, "%s", why.message);
    else if (status != KVF_OK)
        skip_file(s, file, path, &why);
    free(path);
    return status == KVF_OUT_OF_MEMORY ? status : KVF_OK;
}

/* Whether a is to be tried before b: it is longer, or as long and of the wanted profile. */
static bool comes_before(const search *s, const store_file *a, const store_file *b)
{
    if (a->n_tokens != b->n_tokens)
        return a->n_tokens > b->n_tokens;
    const bool wanted = s->options->session && a->profile == s->options->session->profile;
    return wanted && b->profile != s->options->session->profile;
}

/* Tries to restore; *session stays NULL where this file does not do. */
static kvf_status restore(search *s, const store_file *file, kvf_session **session,
                          kvf_error *error)
{
    kvf_error why;
    char *path = path_of(s->store, file->name);
    if (!path)
        return no_memory(s->store, error);
    kvf_status status = kvf_session_load(s->device, path, s->options, session, &why);
    /* Another process may have put another session there, were checksums equal. */
    if (status == KVF_OK && (kvf_session_n_tokens(*session) != file->n_tokens ||
                             common_tokens(kvf_session_tokens(*session), s->tokens,
                                           file->n_tokens) != file->n_tokens)) {
        kvf_session_close(*session);
        *session = NULL;
    }
    if (*session)
        utimensat(AT_FDCWD, path, NULL, 0);
    else if (status == KVF_OUT_OF_MEMORY)
        kvf_fail(error, status, "%s", why.message);
    else if (status != KVF_OK)
        skip_file(s, file, path, &why);
    free(path);
    return status == KVF_OUT_OF_MEMORY ? status : KVF_OK;
}

/* Keeps of the list the files that can be used. */
static kvf_status keep_usable(search *s, file_list *list, kvf_error *error)
{
    size_t n_usable = 0;
    kvf_status status = KVF_OK;
    for (size_t i = 0; i < list->n && status == KVF_OK; i++) {
        bool usable = false;
        if (!list->files[i].saving)
            status = look_at(s, &list->files[i], &usable, error);
        if (usable)
            list->files[n_usable++] = list->files[i];
    }
    list->n = n_usable;
    return status;
}

/* The best first, until one can be restored. */
static kvf_status restore_best(search *s, file_list *list, kvf_session **session, kvf_error *error)
{
    kvf_status status = KVF_OK;
    while (list->n > 0 && !*session && status == KVF_OK) {
        size_t best = 0;
        for (size_t i = 1; i < list->n; i++)
            if (comes_before(s, &list->files[i], &list->files[best]))
                best = i;
        status = restore(s, &list->files[best], session, error);
        if (*session)
            s->found.n_tokens = list->files[best].n_tokens;
        list->files[best] = list->files[--list->n];
    }
    return status;
}

kvf_status kvf_store_find(kvf_store *store, kvf_device *device, const int32_t *tokens,
                          uint64_t n_tokens, const kvf_load_options *options, kvf_session **session,
                          kvf_store_found *found, kvf_error *error)
{
    *session = NULL;
    if (found)
        memset(found, 0, sizeof *found);
    if (!options || options->model_fingerprint == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%.200s: a store is searched for one model; its fingerprint is 0",
                        store->folder);
    if (n_tokens > KVF_MAX_CONTEXT_TOKENS)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "a text of %llu tokens; at most %llu",
                        (unsigned long long)n_tokens, (unsigned long long)KVF_MAX_CONTEXT_TOKENS);
    search s = {.store = store,
                .device = device,
                .tokens = tokens,
                .n_tokens = n_tokens,
                .options = options,
                .ids = malloc((n_tokens + 1) * sizeof *s.ids)};
    if (!s.ids)
        return no_memory(store, error);
    file_list list;
    kvf_status status = list_files(store, &list, error);
    if (status == KVF_OK)
        status = keep_usable(&s, &list, error);
    if (status == KVF_OK)
        status = restore_best(&s, &list, session, error);
    free(list.files);
    free(s.ids);
    if (found)
        *found = s.found;
    return status == KVF_OK ? kvf_ok(error) : status;
}

/* ---- Putting ----------------------------------------------------------------------------- */

void kvf_store_name(const kvf_session *session, char name[KVF_STORE_NAME_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    const uint64_t n_tokens = kvf_session_n_tokens(session);
    const uint64_t numbers[] = {
        kvf_session_model_fingerprint(session), session->header->profile, session->header->flags,
        n_tokens, kvf_checksum(kvf_session_tokens(session), n_tokens * sizeof(int32_t))};
    const uint64_t checksum = kvf_checksum(numbers, sizeof numbers);
    for (int i = 0; i < KVF_STORE_DIGITS; i++)
        name[i] = digits[checksum >> (60 - 4 * i) & 15];
    strcpy(name + KVF_STORE_DIGITS, KVF_STORE_SUFFIX);
}

/*
 * What a process that died left of its save. Saves of living ones hold the folder's lock,
 * which is ours now, or (by kvf_session_save) that of the file.
 */
static bool remove_dead(const char *path)
{
    const int file = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0)
        return false;
    const bool dead = flock(file, LOCK_EX | LOCK_NB) == 0 && unlink(path) == 0;
    close(file);
    return dead;
}

static bool used_earlier(const store_file *a, const store_file *b)
{
    if (a->used.tv_sec != b->used.tv_sec)
        return a->used.tv_sec < b->used.tv_sec;
    if (a->used.tv_nsec != b->used.tv_nsec)
        return a->used.tv_nsec < b->used.tv_nsec;
    return strcmp(a->name, b->name) < 0;
}

/* Takes file i off the disk and off the list. */
static kvf_status remove_file(const kvf_store *store, file_list *list, size_t i, kvf_error *error)
{
    char *path = path_of(store, list->files[i].name);
    if (!path)
        return no_memory(store, error);
    kvf_status status = KVF_OK;
    if (unlink(path) != 0 && errno != ENOENT)
        status = kvf_io_fail(path, "remove", error);
    else
        list->files[i] = list->files[--list->n];
    free(path);
    return status;
}

static uint64_t sum_bytes(const file_list *list)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < list->n; i++)
        bytes += list->files[i].bytes;
    return bytes;
}

static kvf_status remove_all_dead(const kvf_store *store, file_list *list, kvf_error *error)
{
    for (size_t i = 0; i < list->n;) {
        char *path = list->files[i].saving ? path_of(store, list->files[i].name) : NULL;
        if (list->files[i].saving && !path)
            return no_memory(store, error);
        if (path && remove_dead(path))
            list->files[i] = list->files[--list->n];
        else
            i++;
        free(path);
    }
    return KVF_OK;
}

/* Removes files, the least recently used first, until `bytes` more fit. */
static kvf_status make_room(const kvf_store *store, file_list *list, uint64_t bytes,
                            kvf_store_put_report *report, kvf_error *error)
{
    while (sum_bytes(list) + bytes > store->max_bytes) {
        size_t oldest = list->n;
        for (size_t i = 0; i < list->n; i++)
            if (!list->files[i].saving && /* those still here are of living processes */
                (oldest == list->n || used_earlier(&list->files[i], &list->files[oldest])))
                oldest = i;
        if (oldest == list->n)
            break;
        const uint64_t oldest_bytes = list->files[oldest].bytes;
        const kvf_status status = remove_file(store, list, oldest, error);
        if (status != KVF_OK)
            return status;
        report->n_removed++;
        report->removed_bytes += oldest_bytes;
    }
    return KVF_OK;
}

/*
 * Finds the place of the session's own file; list->n where there is none that is good. All
 * of it is read: a damaged one that stayed would be found, and fail, again and again.
 */
static kvf_status find_own(const kvf_store *store, file_list *list, const char *name,
                           const char *path, size_t *at, kvf_error *error)
{
    kvf_error why;
    for (*at = 0; *at < list->n && strcmp(list->files[*at].name, name) != 0;)
        ++*at;
    if (*at == list->n)
        return KVF_OK;
    kvf_status status = kvf_snapshot_verify(path, &why);
    if (status == KVF_OK)
        return status;
    if (status != KVF_FILE_FORMAT) /* not damage: no memory, a disk, a newer build's file */
        return kvf_fail(error, status, "%s", why.message);
    status = remove_file(store, list, *at, error);
    *at = list->n;
    return status;
}

/* With the folder's lock. */
static kvf_status put_locked(const kvf_store *store, kvf_session *session, const char *name,
                             const char *path, file_list *list, kvf_store_put_report *report,
                             kvf_error *error)
{
    const kvf_snapshot_shape shape = {.geometry = &session->geometry,
                                      .profile = session->profile,
                                      .n_tokens = kvf_session_n_tokens(session)};
    const kvf_save_options whole = {.whole = true};
    kvf_save_report saved = {.file_bytes = kvf_snapshot_file_bytes(&shape)};
    size_t at;
    kvf_status status = remove_all_dead(store, list, error);
    if (status == KVF_OK)
        status = find_own(store, list, name, path, &at, error);
    if (status != KVF_OK)
        return status;
    if (at < list->n) {
        report->stored = report->was_there = true;
        report->file_bytes = list->files[at].bytes;
        utimensat(AT_FDCWD, path, NULL, 0);
    } else if (saved.file_bytes <= store->max_bytes) {
        status = make_room(store, list, saved.file_bytes, report, error);
        if (status == KVF_OK)
            status =
                kvf_session_save_replacing(session, path, &whole, &saved, &kvf_io_system, error);
        report->stored = status == KVF_OK;
    }
    if (!report->was_there)
        report->file_bytes = saved.file_bytes;
    report->held_bytes = sum_bytes(list);
    if (report->stored && !report->was_there)
        report->held_bytes += saved.file_bytes;
    return status;
}

kvf_status kvf_store_put(kvf_store *store, kvf_session *session, kvf_store_put_report *report,
                         kvf_error *error)
{
    kvf_store_put_report unused;
    kvf_store_put_report *filled = report ? report : &unused;
    char name[KVF_STORE_NAME_BYTES];
    file_list list = {NULL, 0, 0};
    int lock = -1;
    memset(filled, 0, sizeof *filled);
    if (kvf_session_n_tokens(session) == 0 || kvf_session_model_fingerprint(session) == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%.200s: a session without tokens or of a model that is not known cannot "
                        "be found again",
                        store->folder);
    kvf_store_name(session, name);
    char *path = path_of(store, name);
    if (!path)
        return no_memory(store, error);
    kvf_status status = lock_folder(store, &lock, error);
    if (status == KVF_OK) {
        status = list_files(store, &list, error);
        if (status == KVF_OK)
            status = put_locked(store, session, name, path, &list, filled, error);
        close(lock);
    }
    free(list.files);
    free(path);
    return status == KVF_OK ? kvf_ok(error) : status;
}
