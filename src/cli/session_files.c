#include "cli/session_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "cli/message.h"

/* Another process may remove the lock's file between opening and locking it. */
static const int lock_attempts = 10;

bool cli_session_name_check(const char *name, char *reason, size_t reason_bytes)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789_.-";
    const size_t length = strlen(name);
    if (length == 0)
        snprintf(reason, reason_bytes, "an empty name; give letters, digits, '.', '_' and '-'");
    else if (length > CLI_MAX_SESSION_NAME)
        snprintf(reason, reason_bytes, "'%.20s..' has %zu characters; a name has at most %d", name,
                 length, CLI_MAX_SESSION_NAME);
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

int cli_path(const cli_options *options, const char *folder, const char *name, const char *suffix,
             char **path)
{
    const size_t bytes = strlen(folder) + strlen(name) + strlen(suffix) + 2;
    *path = malloc(bytes);
    if (!*path)
        return cli_error(options->command, "out of memory for the path of %.60s", name);
    snprintf(*path, bytes, "%s%s%s%s", folder, *name ? "/" : "", name, suffix);
    return CLI_EXIT_OK;
}

int cli_session_folder(const cli_options *options, char **folder)
{
    *folder = NULL;
    if (options->store)
        return cli_path(options, options->store, "", "", folder);
    /* The specification of XDG says to ignore a path that is not absolute. */
    if (options->data_home && options->data_home[0] == '/')
        return cli_path(options, options->data_home, "kvfold/sessions", "", folder);
    if (options->home)
        return cli_path(options, options->home, ".local/share/kvfold/sessions", "", folder);
    return cli_error(options->command, "neither XDG_DATA_HOME nor HOME is set; say where sessions "
                                       "are with --store DIR");
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

int cli_make_folder(const cli_options *options, const char *folder)
{
    char *part;
    int status = cli_path(options, folder, "", "/", &part);
    int parent = open(folder[0] == '/' ? "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 1; status == CLI_EXIT_OK && part[i]; i++) {
        if (part[i] != '/')
            continue;
        part[i] = '\0';
        if (!make_durable(parent, part))
            status =
                cli_error(options->command, "cannot make the folder %s: %s", part, strerror(errno));
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

static bool still_there(const cli_lock *lock)
{
    struct stat opened;
    struct stat named;
    return fstat(lock->file, &opened) == 0 && stat(lock->path, &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

/* "FOLDER/NAME.lock"; of a session that is a link, beside the file that is locked by all its names.
 */
static int lock_path(const cli_options *options, const char *folder, const char *name, char **path)
{
    struct stat info;
    char *session;
    int status = cli_path(options, folder, name, CLI_SESSION_SUFFIX, &session);
    if (status != CLI_EXIT_OK)
        return status;
    char *target =
        lstat(session, &info) == 0 && S_ISLNK(info.st_mode) ? realpath(session, NULL) : NULL;
    free(session);
    if (!target)
        return cli_path(options, folder, name, CLI_LOCK_SUFFIX, path);
    const size_t length = strlen(target);
    const size_t suffix = strlen(CLI_SESSION_SUFFIX);
    if (length > suffix && strcmp(target + length - suffix, CLI_SESSION_SUFFIX) == 0)
        target[length - suffix] = '\0';
    *path = malloc(length + sizeof CLI_LOCK_SUFFIX);
    if (*path)
        snprintf(*path, length + sizeof CLI_LOCK_SUFFIX, "%s" CLI_LOCK_SUFFIX, target);
    else
        status = cli_error(options->command, "out of memory for the path of %.60s", name);
    free(target);
    return status;
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
static int try_lock(const cli_options *options, cli_lock *lock, bool *held, bool *busy)
{
    int status = CLI_EXIT_OK;
    *held = *busy = false;
    lock->file = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (lock->file < 0)
        return cli_error(options->command, "cannot open %s: %s", lock->path, strerror(errno));
    const bool locked = take_lock(lock->file);
    *busy = !locked && errno == EWOULDBLOCK;
    if (!locked && !*busy && !options->no_lock)
        status = cli_error(options->command,
                           "cannot lock %s: %s; without locks, one of two programs that use the "
                           "session at once could lose its work; --no-lock goes on all the same",
                           lock->path, strerror(errno));
    else
        *held = !*busy && still_there(lock);
    if (*held)
        return CLI_EXIT_OK;
    close(lock->file);
    lock->file = -1;
    return status;
}

int cli_session_lock(const cli_options *options, const char *folder, const char *name,
                     cli_lock *lock)
{
    bool held = false;
    bool busy = false;
    lock->file = -1;
    int status = lock_path(options, folder, name, &lock->path);
    for (int i = 0; i < lock_attempts && status == CLI_EXIT_OK && !held && !busy; i++)
        status = try_lock(options, lock, &held, &busy);
    if (held)
        cli_interrupt_remove(lock->path);
    return status == CLI_EXIT_OK && !held
               ? cli_error(options->command, "the session %s is in use by another process", name)
               : status;
}

void cli_session_unlock(cli_lock *lock)
{
    cli_interrupt_keep(lock->path);
    if (lock->file >= 0) {
        unlink(lock->path); /* while it is held: nobody else can hold this file */
        close(lock->file);
    }
    free(lock->path);
    *lock = (cli_lock){-1, NULL};
}

char *cli_saving_path(const char *path)
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
