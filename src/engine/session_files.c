#include "engine/session_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"

/* Another process may remove the lock's file between opening and locking it. */
static const int lock_attempts = 10;

bool kvf_session_name_check(const char *name, char *reason, size_t reason_bytes)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789_.-";
    const size_t length = strlen(name);
    if (length == 0)
        snprintf(reason, reason_bytes, "an empty name; give letters, digits, '.', '_' and '-'");
    else if (length > KVF_MAX_SESSION_NAME)
        snprintf(reason, reason_bytes, "'%.20s..' has %zu characters; a name has at most %d", name,
                 length, KVF_MAX_SESSION_NAME);
    else if (name[0] == '.' || name[0] == '-')
        snprintf(reason, reason_bytes,
                 "'%s' starts with '%c'; a name starts with a letter, a "
                 "digit or '_'",
                 name, name[0]);
    else if (name[strspn(name, letters)])
        snprintf(reason, reason_bytes,
                 "'%s' cannot be a name; names have letters, digits, '.', '_' and '-'", name);
    else
        return true;
    return false;
}

kvf_status kvf_session_path(const char *folder, const char *name, const char *suffix, char **path,
                            kvf_error *error)
{
    const size_t bytes = strlen(folder) + strlen(name) + strlen(suffix) + 2;
    *path = malloc(bytes);
    if (!*path)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "out of memory for the path of %s",
                        kvf_printable(name).text);
    snprintf(*path, bytes, "%s%s%s%s", folder, *name ? "/" : "", name, suffix);
    return kvf_ok(error);
}

kvf_status kvf_session_folder(const kvf_engine_options *options, char **folder, kvf_error *error)
{
    *folder = NULL;
    if (options->store)
        return kvf_session_path(options->store, "", "", folder, error);
    /* The specification of XDG says to ignore a path that is not absolute. */
    if (options->data_home && options->data_home[0] == '/')
        return kvf_session_path(options->data_home, "kvfold/sessions", "", folder, error);
    if (options->home)
        return kvf_session_path(options->home, ".local/share/kvfold/sessions", "", folder, error);
    return kvf_fail(error, KVF_INVALID_ARGUMENT,
                    "neither XDG_DATA_HOME nor HOME is set; say where sessions are with --store "
                    "DIR");
}

/* As io.h of the library's cache has it: what cannot be synced is no failure of the folder. */
static bool sync_folder(int folder)
{
    int result;
    do
        result = fsync(folder);
    while (result != 0 && errno == EINTR);
    return result == 0 || errno == EINVAL || errno == ENOTSUP || errno == EOPNOTSUPP ||
           errno == ENOSYS;
}

/* A folder in an open one, which is put on the disk too: a power cut must not take it away. */
static bool make_durable(int parent, const char *path)
{
    if (mkdir(path, S_IRWXU) != 0)
        return errno == EEXIST;
    return parent < 0 || sync_folder(parent); /* one that may not be read cannot be synced */
}

kvf_status kvf_make_folder(const char *folder, kvf_error *error)
{
    char *part;
    kvf_status status = kvf_session_path(folder, "", "/", &part, error);
    int parent = open(folder[0] == '/' ? "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 1; status == KVF_OK && part[i]; i++) {
        if (part[i] != '/')
            continue;
        part[i] = '\0';
        if (!make_durable(parent, part))
            status = kvf_fail(error, KVF_FILE_IO, "cannot make the folder %s: %s",
                              kvf_printable(part).text, strerror(errno));
        if (parent >= 0)
            close(parent);
        parent = open(part, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        part[i] = '/';
    }
    if (parent >= 0)
        close(parent);
    free(part);
    return status;
}

static bool still_there(const kvf_session_lock *lock)
{
    struct stat opened;
    struct stat named;
    return fstat(lock->file, &opened) == 0 && stat(lock->path, &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

/* "FOLDER/NAME.lock"; of a session that is a link, beside the file that is locked by all its names.
 */
static kvf_status lock_path(const char *folder, const char *name, char **path, kvf_error *error)
{
    struct stat info;
    char *session;
    const kvf_status status = kvf_session_path(folder, name, KVF_SESSION_SUFFIX, &session, error);
    if (status != KVF_OK)
        return status;
    char *target =
        lstat(session, &info) == 0 && S_ISLNK(info.st_mode) ? realpath(session, NULL) : NULL;
    free(session);
    if (!target)
        return kvf_session_path(folder, name, KVF_LOCK_SUFFIX, path, error);
    const size_t length = strlen(target);
    const size_t suffix = strlen(KVF_SESSION_SUFFIX);
    if (length > suffix && strcmp(target + length - suffix, KVF_SESSION_SUFFIX) == 0)
        target[length - suffix] = '\0';
    *path = malloc(length + sizeof KVF_LOCK_SUFFIX);
    if (*path)
        snprintf(*path, length + sizeof KVF_LOCK_SUFFIX, "%s" KVF_LOCK_SUFFIX, target);
    free(target);
    return *path ? kvf_ok(error)
                 : kvf_fail(error, KVF_OUT_OF_MEMORY, "out of memory for the path of %s",
                            kvf_printable(name).text);
}

/* Without waiting; errno says why not. */
static bool take_lock(int file)
{
    int result;
    do
        result = flock(file, LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    return result == 0;
}

/* *held, unless another process has it or has just removed the file. */
static kvf_status try_lock(bool no_lock, kvf_session_lock *lock, bool *held, bool *busy,
                           kvf_error *error)
{
    kvf_status status = KVF_OK;
    *held = *busy = false;
    lock->file = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (lock->file < 0)
        return kvf_fail(error, KVF_FILE_IO, "cannot open %s: %s", kvf_printable(lock->path).text,
                        strerror(errno));
    const bool locked = take_lock(lock->file);
    *busy = !locked && errno == EWOULDBLOCK;
    if (!locked && !*busy && !no_lock)
        status = kvf_fail(error, KVF_FILE_IO,
                          "cannot lock %s: %s; without locks, one of two programs that use the "
                          "session at once could lose its work; --no-lock goes on all the same",
                          kvf_printable(lock->path).text, strerror(errno));
    else
        *held = !*busy && still_there(lock);
    if (*held)
        return KVF_OK;
    close(lock->file);
    lock->file = -1;
    return status;
}

kvf_status kvf_session_lock_take(const kvf_engine_options *options, const kvf_engine_events *events,
                                 const char *folder, const char *name, kvf_session_lock *lock,
                                 kvf_error *error)
{
    bool held = false;
    bool busy = false;
    lock->file = -1;
    kvf_status status = lock_path(folder, name, &lock->path, error);
    for (int i = 0; i < lock_attempts && status == KVF_OK && !held && !busy; i++)
        status = try_lock(options->no_lock, lock, &held, &busy, error);
    if (held)
        kvf_engine_temporary(events, lock->path, true);
    return status == KVF_OK && !held
               ? kvf_fail(error, KVF_FILE_IO, "the session %s is in use by another process", name)
               : status;
}

void kvf_session_lock_give(const kvf_engine_events *events, kvf_session_lock *lock)
{
    if (lock->path)
        kvf_engine_temporary(events, lock->path, false);
    if (lock->file >= 0) {
        unlink(lock->path); /* while it is held: nobody else can hold this file */
        close(lock->file);
    }
    free(lock->path);
    *lock = (kvf_session_lock){-1, NULL};
}

char *kvf_saving_path(const char *path)
{
    static const char suffix[] = ".saving"; /* docs/FORMAT.md 10.5 */
    struct stat info;
    char *target = realpath(path, NULL);
    const char *saved = target ? target : path; /* one that is to be made has no real path */
    const size_t bytes = strlen(saved) + sizeof suffix;
    char *saving = malloc(bytes);
    if (saving)
        snprintf(saving, bytes, "%s%s", saved, suffix);
    free(target);
    if (saving && lstat(saving, &info) == 0 && !kvf_snapshot_is_unfinished(saving)) {
        free(saving);
        errno = EEXIST;
        return NULL;
    }
    return saving;
}
