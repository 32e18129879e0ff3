#include "model/file.h"

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

static kvf_status map_descriptor(const char *path, int descriptor, kvf_file *file, kvf_error *error)
{
    struct stat info;
    if (fstat(descriptor, &info) != 0)
        return fail_errno(path, error);
    if (!S_ISREG(info.st_mode))
        return kvf_fail(error, KVF_FILE_IO, "%s: is %s; a regular file was expected",
                        kvf_printable(path).text,
                        S_ISDIR(info.st_mode) ? "a directory" : "not a regular file");
    file->id = kvf_file_id_of(&info);
    if (info.st_size == 0)
        return KVF_OK;
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED)
        return fail_errno(path, error);
    file->data = data;
    file->bytes = (size_t)info.st_size;
    return KVF_OK;
}

kvf_status kvf_file_map(const char *path, kvf_file *file, kvf_error *error)
{
    *file = (kvf_file){0};
    /* O_NONBLOCK: a pipe in place of a file is refused, not waited for. */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
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
