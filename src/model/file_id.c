#include "model/file_id.h"

#include <errno.h>
#include <string.h>

#include "error.h"
#include "model/file.h"

#ifdef __APPLE__
#define MODIFIED st_mtimespec
#define CHANGED st_ctimespec
#else
#define MODIFIED st_mtim
#define CHANGED st_ctim
#endif

kvf_file_id kvf_file_id_of(const struct stat *info)
{
    return (kvf_file_id){.device = (uint64_t)info->st_dev,
                         .inode = (uint64_t)info->st_ino,
                         .bytes = (uint64_t)info->st_size,
                         .modified = info->MODIFIED,
                         .changed = info->CHANGED};
}

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

kvf_status kvf_file_id_check(const char *path, const kvf_file_id *id, kvf_error *error)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        const bool gone = errno == ENOENT || errno == ENOTDIR;
        return kvf_fail(
            error, KVF_FILE_IO, "%s: %s since it was opened: %s", kvf_printable(path).text,
            gone ? "has been removed" : "cannot be looked at any more", strerror(errno));
    }
    const kvf_file_id now = kvf_file_id_of(&info);
    const char *what = NULL;
    if (now.device != id->device || now.inode != id->inode)
        what = "has been replaced by another file";
    else if (now.bytes != id->bytes)
        what = now.bytes < id->bytes ? "has been shortened" : "has grown";
    else if (!same_time(now.modified, id->modified))
        what = "has been written to";
    else if (!same_time(now.changed, id->changed))
        what = "has been changed (its content, its times, its permissions or its links)";
    if (!what)
        return KVF_OK;
    return kvf_fail(error, KVF_FILE_IO, "%s: %s since it was opened", kvf_printable(path).text,
                    what);
}
