#include "file/file.h"

#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(size_t) == 8, "checkpoints are mapped whole: 64-bit addresses needed");

static kvf_status fail_errno(const char *path, kvf_error *error)
{
    kvf_status status = errno == ENOENT || errno == ENOTDIR ? KVF_FILE_NOT_FOUND : KVF_FILE_IO;
    return kvf_fail(error, status, "%s: %s", kvf_printable(path).text, strerror(errno));
}

static int64_t nanoseconds(struct timespec time)
{
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static kvf_file_identity identify(const struct stat *info)
{
    kvf_file_identity identity = {(uint64_t)info->st_dev, (uint64_t)info->st_ino,
                                  (uint64_t)info->st_size, 0, 0};
#ifdef __APPLE__
    identity.modified_ns = nanoseconds(info->st_mtimespec);
    identity.changed_ns = nanoseconds(info->st_ctimespec);
#else
    identity.modified_ns = nanoseconds(info->st_mtim);
    identity.changed_ns = nanoseconds(info->st_ctim);
#endif
    return identity;
}

static kvf_status map_descriptor(const char *path, int descriptor, kvf_file *file, kvf_error *error)
{
    struct stat info;
    if (fstat(descriptor, &info) != 0)
        return fail_errno(path, error);
    if (!S_ISREG(info.st_mode))
        return kvf_fail(error, KVF_FILE_IO, "%s: is %s; a regular file was expected",
                        kvf_printable(path).text,
                        S_ISDIR(info.st_mode) ? "a directory" : "not a regular file");
    file->identity = identify(&info);
    if (info.st_size == 0)
        return KVF_OK;
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED && errno == ENOMEM)
        return kvf_fail(error, KVF_FILE_IO,
                        "%s: its %llu bytes cannot be mapped; an address limit (ulimit -v) may be "
                        "lower",
                        kvf_printable(path).text, (unsigned long long)info.st_size);
    if (data == MAP_FAILED)
        return fail_errno(path, error);
    file->data = data;
    file->bytes = (size_t)info.st_size;
    return KVF_OK;
}

/* Its name is there, so it is no file that may be missing; errno stays as it is. */
static bool is_broken_link(const char *path)
{
    struct stat info;
    const int reason = errno;
    const bool is_link = reason == ENOENT && lstat(path, &info) == 0 && S_ISLNK(info.st_mode);
    errno = reason;
    return is_link;
}

kvf_status kvf_file_map(const char *path, kvf_file *file, kvf_error *error)
{
    *file = (kvf_file){0};
    /* O_NONBLOCK: a pipe in place of a file is refused, not waited for. */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0 && is_broken_link(path))
        return kvf_fail(error, KVF_FILE_IO, "%s: is a link to a file that is not there",
                        kvf_printable(path).text);
    if (descriptor < 0)
        return fail_errno(path, error);
    kvf_status status = map_descriptor(path, descriptor, file, error);
    close(descriptor);
    return status;
}

void kvf_file_unmap(kvf_file *file)
{
    if (file->data)
        munmap((void *)(uintptr_t)file->data, file->bytes);
    *file = (kvf_file){0};
}

static bool is_same_file(const kvf_file_identity *a, const kvf_file_identity *b)
{
    return a->device == b->device && a->inode == b->inode;
}

/* Of the descriptor, unless it is of another file, or one that has changed. */
static bool share_descriptor(int descriptor, const kvf_file *file)
{
    struct stat info;
    if (fstat(descriptor, &info) != 0)
        return false;
    const kvf_file_identity now = identify(&info);
    return is_same_file(&now, &file->identity) && now.bytes == file->identity.bytes &&
           now.modified_ns == file->identity.modified_ns &&
           mmap((void *)(uintptr_t)file->data, file->bytes, PROT_READ, MAP_SHARED | MAP_FIXED,
                descriptor, 0) != MAP_FAILED;
}

kvf_status kvf_file_share(const char *path, const kvf_file *file, kvf_error *error)
{
    if (file->bytes == 0)
        return kvf_ok(error);
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    const bool shared = descriptor >= 0 && share_descriptor(descriptor, file);
    if (descriptor >= 0)
        close(descriptor);
    if (shared)
        return kvf_ok(error);
    const kvf_status status = kvf_file_check_unchanged(path, file, error);
    return status != KVF_OK ? status
                            : kvf_fail(error, KVF_FILE_IO, "%s: cannot be mapped for the GPU",
                                       kvf_printable(path).text);
}

kvf_status kvf_file_check_unchanged(const char *path, const kvf_file *file, kvf_error *error)
{
    struct stat info;
    const kvf_file_identity *then = &file->identity;
    if (stat(path, &info) != 0) {
        const bool gone = errno == ENOENT || errno == ENOTDIR;
        return kvf_fail(
            error, KVF_FILE_IO, "%s: %s since it was opened: %s", kvf_printable(path).text,
            gone ? "has been removed" : "cannot be looked at any more", strerror(errno));
    }
    const kvf_file_identity now = identify(&info);
    const char *what = NULL;
    if (!is_same_file(&now, then))
        what = "has been replaced by another file";
    else if (now.bytes != then->bytes)
        what = now.bytes < then->bytes ? "has been shortened" : "has grown";
    else if (now.modified_ns != then->modified_ns)
        what = "has been written to";
    else if (now.changed_ns != then->changed_ns)
        what = "has been changed (its content, its times, its permissions or its links)";
    if (!what)
        return kvf_ok(error);
    return kvf_fail(error, KVF_FILE_IO, "%s: %s since it was opened", kvf_printable(path).text,
                    what);
}

bool kvf_file_is_cut(const char *path, const kvf_file *file)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return false;
    const kvf_file_identity now = identify(&info);
    return is_same_file(&now, &file->identity) && now.bytes < file->bytes;
}

void kvf_file_advise(const void *data, size_t bytes, kvf_file_advice advice)
{
    static const int numbers[] = {[KVF_ADVICE_NORMAL] = POSIX_MADV_NORMAL,
                                  [KVF_ADVICE_SEQUENTIAL] = POSIX_MADV_SEQUENTIAL,
                                  [KVF_ADVICE_RANDOM] = POSIX_MADV_RANDOM,
                                  [KVF_ADVICE_WILL_NEED] = POSIX_MADV_WILLNEED};
    const uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = (uintptr_t)data / page_bytes * page_bytes;
    const uintptr_t end = (uintptr_t)data + bytes;
    /* What is asked for at once is read up to a limit of the disk's, never less than this. */
    const uintptr_t step = advice == KVF_ADVICE_WILL_NEED ? (uintptr_t)128 << 10 : UINTPTR_MAX;
    for (uintptr_t at = begin; bytes > 0 && at < end;) {
        const uintptr_t left = end - at;
        const uintptr_t piece = left < step ? left : step;
        if (advice == KVF_ADVICE_DONE)
            madvise((void *)at, piece, MADV_DONTNEED); /* glibc's posix_madvise ignores this one */
        else
            posix_madvise((void *)at, piece, numbers[advice]);
        at += piece;
    }
}

char *kvf_path_join(const char *dir, const char *name)
{
    size_t dir_bytes = strlen(dir);
    size_t name_bytes = strlen(name) + 1;
    char *path = malloc(dir_bytes + 1 + name_bytes);
    if (!path)
        return NULL;
    memcpy(path, dir, dir_bytes);
    path[dir_bytes] = '/';
    memcpy(path + dir_bytes + 1, name, name_bytes);
    return path;
}
