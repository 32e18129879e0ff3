/* The operating system behind kvf_io, and reading and writing to the end. */
#include "snapshot/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "error.h"

/*
 * Whether a call is to be made again because a signal came. Not only waits: on network and
 * FUSE folders each of these may be a message to a server.
 */
static bool again(int result)
{
    return result < 0 && errno == EINTR;
}

/* Whether the system has no such operation for this kind of file or folder. */
static bool unsupported(int reason)
{
    return reason == EINVAL || reason == ENOTSUP || reason == EOPNOTSUPP || reason == ENOSYS;
}

static int system_open(const kvf_io *io, const char *path, int flags, mode_t mode)
{
    (void)io;
    int file;
    do
        file = open(path, flags | O_CLOEXEC, mode);
    while (again(file));
    return file;
}

static int system_follow(const kvf_io *io, const char *path, char **target)
{
    (void)io;
    struct stat info;
    *target = NULL;
    if (lstat(path, &info) != 0)
        return errno == ENOENT ? 0 : -1; /* a file that is to be made */
    if (!S_ISLNK(info.st_mode))
        return 0;
    *target = realpath(path, NULL);
    return *target ? 0 : -1;
}

static int system_close(const kvf_io *io, int file)
{
    (void)io;
    return close(file);
}

static int system_lock(const kvf_io *io, int file)
{
    (void)io;
    int result;
    do
        result = flock(file, LOCK_EX | LOCK_NB);
    while (again(result));
    return result;
}

static int system_stat(const kvf_io *io, int file, struct stat *info)
{
    (void)io;
    int result;
    do
        result = fstat(file, info);
    while (again(result));
    return result;
}

static int system_stat_path(const kvf_io *io, const char *path, struct stat *info)
{
    (void)io;
    int result;
    do
        result = stat(path, info);
    while (again(result));
    return result;
}

static int system_stat_link(const kvf_io *io, const char *path, struct stat *info)
{
    (void)io;
    int result;
    do
        result = lstat(path, info);
    while (again(result));
    return result;
}

static ssize_t system_read(const kvf_io *io, int file, void *data, size_t bytes, uint64_t offset)
{
    (void)io;
    return pread(file, data, bytes, (off_t)offset);
}

static ssize_t system_write(const kvf_io *io, int file, const void *data, size_t bytes,
                            uint64_t offset)
{
    (void)io;
    return pwrite(file, data, bytes, (off_t)offset);
}

static int system_truncate(const kvf_io *io, int file, uint64_t bytes)
{
    (void)io;
    int result;
    do
        result = ftruncate(file, (off_t)bytes);
    while (again(result));
    return result;
}

static uint64_t system_free_bytes(const kvf_io *io, const char *path)
{
    (void)io;
    struct statvfs disk;
    uint64_t bytes;
    if (statvfs(path, &disk) != 0 ||
        __builtin_mul_overflow((uint64_t)disk.f_bavail, (uint64_t)disk.f_frsize, &bytes))
        return UINT64_MAX;
    return bytes;
}

static int system_set_mode(const kvf_io *io, int file, mode_t mode)
{
    (void)io;
    int result;
    do
        result = fchmod(file, mode);
    while (again(result));
    return result;
}

/*
 * A file system without the notion of a sync (some network and FUSE ones) cannot be asked for
 * more than it does by itself; that is no failure of the data. What says that the data are
 * not there (EIO, ENOSPC, EDQUOT and all others) always is.
 */
static int sync_descriptor(int file)
{
    int result;
    do
        result = fsync(file);
    while (again(result));
    return result < 0 && unsupported(errno) ? 0 : result;
}

static int system_sync(const kvf_io *io, int file)
{
    (void)io;
#ifdef F_FULLFSYNC
    /* macOS: fsync stops at the drive's own cache; not every file system has this. */
    if (fcntl(file, F_FULLFSYNC) == 0)
        return 0;
#endif
    return sync_descriptor(file);
}

static int system_rename(const kvf_io *io, const char *from, const char *to)
{
    (void)io;
    bool interrupted = false;
    int result;
    while (again(result = rename(from, to)))
        interrupted = true;
    /* The server had done it before the signal came. */
    return result < 0 && interrupted && errno == ENOENT ? 0 : result;
}

static int system_unlink(const kvf_io *io, const char *path)
{
    (void)io;
    bool interrupted = false;
    int result;
    while (again(result = unlink(path)))
        interrupted = true;
    return result < 0 && interrupted && errno == ENOENT ? 0 : result;
}

static int system_sync_folder(const kvf_io *io, const char *folder)
{
    const int file = system_open(io, folder, O_RDONLY | O_DIRECTORY, 0);
    if (file < 0) /* one that may not be read cannot be synced; its files are in it all the same */
        return errno == EACCES || errno == EPERM ? 0 : -1;
    const int result = sync_descriptor(file);
    const int reason = errno;
    close(file);
    errno = reason;
    return result;
}

static int system_make_folder(const kvf_io *io, const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') /* "a/" is in ".", not in "a" */
        length--;
    char *folder = malloc(length + 1);
    char *parent = NULL;
    int reason = ENOMEM;
    if (folder) {
        memcpy(folder, path, length);
        folder[length] = '\0';
        parent = kvf_io_folder_of(folder);
    }
    if (parent && mkdir(folder, S_IRWXU) != 0)
        reason = errno == EEXIST ? 0 : errno;
    else if (parent)
        reason = system_sync_folder(io, parent) == 0 ? 0 : errno;
    free(parent);
    free(folder);
    errno = reason;
    return reason == 0 ? 0 : -1;
}

static int system_set_time(const kvf_io *io, const char *path, struct timespec time)
{
    (void)io;
    const struct timespec times[2] = {time, time};
    int result;
    do
        result = utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW);
    while (again(result));
    return result;
}

static int system_list(const kvf_io *io, const char *folder, kvf_io_taker take, void *user)
{
    (void)io;
    DIR *listing = opendir(folder);
    bool more = true;
    if (!listing)
        return -1;
    for (const struct dirent *entry; more && (entry = readdir(listing));) {
        struct stat info;
        if (fstatat(dirfd(listing), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0)
            more = take(user, entry->d_name, &info);
    }
    closedir(listing);
    return 0;
}

static struct timespec system_now(const kvf_io *io)
{
    (void)io;
    struct timespec time = {0};
    clock_gettime(CLOCK_REALTIME, &time);
    return time;
}

static void *system_map(const kvf_io *io, int file, size_t bytes)
{
    (void)io;
    void *view = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    return view == MAP_FAILED ? NULL : view;
}

static void system_unmap(const kvf_io *io, void *view, size_t bytes)
{
    (void)io;
    munmap(view, bytes);
}

const kvf_io kvf_io_system = {.open = system_open,
                              .follow = system_follow,
                              .close = system_close,
                              .lock = system_lock,
                              .stat = system_stat,
                              .stat_path = system_stat_path,
                              .stat_link = system_stat_link,
                              .read = system_read,
                              .write = system_write,
                              .truncate = system_truncate,
                              .free_bytes = system_free_bytes,
                              .set_mode = system_set_mode,
                              .sync = system_sync,
                              .rename = system_rename,
                              .unlink = system_unlink,
                              .sync_folder = system_sync_folder,
                              .set_time = system_set_time,
                              .make_folder = system_make_folder,
                              .list = system_list,
                              .now = system_now,
                              .map = system_map,
                              .unmap = system_unmap};

char *kvf_io_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = malloc(strlen(path) + 2);
    if (!folder)
        return NULL;
    if (!slash) {
        strcpy(folder, ".");
        return folder;
    }
    /* "/NAME" lies in "/". */
    const size_t n = slash == path ? 1 : (size_t)(slash - path);
    memcpy(folder, path, n);
    folder[n] = '\0';
    return folder;
}

kvf_status kvf_io_fail(const char *path, const char *what, int reason, kvf_error *error)
{
    const kvf_status status = reason == ENOENT || reason == ENOTDIR ? KVF_FILE_NOT_FOUND
                              : reason == ENOMEM                    ? KVF_OUT_OF_MEMORY
                                                                    : KVF_FILE_IO;
    return kvf_fail(error, status, "%s: cannot %s: %s", kvf_printable(path).text, what,
                    strerror(reason));
}

bool kvf_io_no_room(int reason)
{
    return reason == ENOSPC || reason == EDQUOT || reason == EFBIG;
}

kvf_status kvf_io_lock(const kvf_io *io, int file, const char *path, bool no_lock, kvf_error *error)
{
    const int reason = io->lock(io, file) == 0 ? 0 : errno;
    if (reason == 0)
        return KVF_OK;
    if (reason == EWOULDBLOCK)
        return kvf_fail(error, KVF_FILE_BUSY, "%s: somebody else is writing it",
                        kvf_printable(path).text);
    if (no_lock)
        return KVF_OK;
    return kvf_fail(error, KVF_FILE_IO,
                    "%s: cannot be locked: %s; without locks one of two programs that save here "
                    "at once could lose its work; the option no-lock goes on all the same",
                    kvf_printable(path).text, strerror(reason));
}

kvf_status kvf_io_read_all(const kvf_io *io, int file, const char *path, void *data, size_t bytes,
                           uint64_t offset, kvf_error *error)
{
    for (size_t done = 0; done < bytes;) {
        const ssize_t n = io->read(io, file, (uint8_t *)data + done, bytes - done, offset + done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return kvf_io_fail(path, "read", errno, error);
        if (n == 0)
            return kvf_fail(error, KVF_FILE_FORMAT, "%s: ends at byte %llu, %zu more belong",
                            kvf_printable(path).text, (unsigned long long)(offset + done),
                            bytes - done);
        done += (size_t)n;
    }
    return KVF_OK;
}

int kvf_io_write_all(const kvf_io *io, int file, const void *data, size_t bytes, uint64_t offset)
{
    for (size_t done = 0; done < bytes;) {
        const ssize_t n =
            io->write(io, file, (const uint8_t *)data + done, bytes - done, offset + done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0)
            return ENOSPC; /* a disk that takes nothing and gives no reason would be asked for ever
                            */
        else if (errno != EINTR)
            return errno;
    }
    return 0;
}
