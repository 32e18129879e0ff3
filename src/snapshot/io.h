/*
 * What snapshots ask of the system, as a table, so that a test can put a failing disk
 * in its place. Every function is the system call of its name and fails the same way:
 * -1 (map: NULL) and errno; but a signal interrupts none of them, except read and write.
 * The helpers below turn that into a status. Internal.
 */
#ifndef KVF_SNAPSHOT_IO_H
#define KVF_SNAPSHOT_IO_H

#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include "kvfold.h"

typedef struct kvf_io kvf_io;
typedef bool (*kvf_io_taker)(void *user, const char *name, const struct stat *info);
struct kvf_io {
    int (*open)(const kvf_io *io, const char *path, int flags, mode_t mode);
    /* Where a path that is a link leads, malloc'd; NULL and success where it is no link. */
    int (*follow)(const kvf_io *io, const char *path, char **target);
    int (*close)(const kvf_io *io, int file);
    /* Exclusive, without waiting (EWOULDBLOCK: somebody holds it); gone when the file is closed. */
    int (*lock)(const kvf_io *io, int file);
    int (*stat)(const kvf_io *io, int file, struct stat *info);
    /* What a path leads to now; and the path itself, where that is a link. */
    int (*stat_path)(const kvf_io *io, const char *path, struct stat *info);
    int (*stat_link)(const kvf_io *io, const char *path, struct stat *info);
    ssize_t (*read)(const kvf_io *io, int file, void *data, size_t bytes, uint64_t offset);
    ssize_t (*write)(const kvf_io *io, int file, const void *data, size_t bytes, uint64_t offset);
    int (*truncate)(const kvf_io *io, int file, uint64_t bytes);
    /* Of the disk that a path is on; UINT64_MAX where it does not say. */
    uint64_t (*free_bytes)(const kvf_io *io, const char *path);
    int (*set_mode)(const kvf_io *io, int file, mode_t mode);
    /*
     * Returns when what was written is on the disk itself, or as near to it as the file system
     * goes: one that knows no such request (EINVAL, ENOTSUP, ENOSYS) does not fail it.
     */
    int (*sync)(const kvf_io *io, int file);
    int (*rename)(const kvf_io *io, const char *from, const char *to);
    int (*unlink)(const kvf_io *io, const char *path);
    /* The names in a folder, the same way; one that may not be read cannot be asked for that. */
    int (*sync_folder)(const kvf_io *io, const char *folder);
    /* When a file was changed; a link at the path is meant itself. */
    int (*set_time)(const kvf_io *io, const char *path, struct timespec time);
    /* Makes a folder for its owner alone, if it is not there, that outlives a power cut. */
    int (*make_folder)(const kvf_io *io, const char *path);
    /*
     * Calls `take` with every name in a folder and what it is itself; one that goes away
     * meanwhile is passed over. It ends early where `take` says false.
     */
    int (*list)(const kvf_io *io, const char *folder, kvf_io_taker take, void *user);
    /* The time of day, by which files are stamped. */
    struct timespec (*now)(const kvf_io *io);
    /* A view of the file's first `bytes`, to be read only. */
    void *(*map)(const kvf_io *io, int file, size_t bytes);
    void (*unmap)(const kvf_io *io, void *view, size_t bytes);
};

/* The operating system. */
extern const kvf_io kvf_io_system;

/* "DIR" of "DIR/NAME", malloc'd; NULL without memory. */
char *kvf_io_folder_of(const char *path);

/*
 * Locks an open file. KVF_FILE_BUSY where somebody holds it. Where the system has no locks for
 * this file: KVF_FILE_IO with its reason, or KVF_OK if `no_lock` says to go on without.
 */
kvf_status kvf_io_lock(const kvf_io *io, int file, const char *path, bool no_lock,
                       kvf_error *error);

/*
 * A reason of the system's (errno, asked for where the call was made) as a status:
 * KVF_FILE_NOT_FOUND, KVF_OUT_OF_MEMORY or KVF_FILE_IO. "PATH: cannot WHAT: ..".
 */
kvf_status kvf_io_fail(const char *path, const char *what, int reason, kvf_error *error);
/* Whether the reason is that the disk, a quota or the process's limit has no room. */
bool kvf_io_no_room(int reason);

/* All of the bytes, however many calls that takes; a file that ends early is KVF_FILE_FORMAT. */
kvf_status kvf_io_read_all(const kvf_io *io, int file, const char *path, void *data, size_t bytes,
                           uint64_t offset, kvf_error *error);
/* The same; 0, or the system's reason. */
int kvf_io_write_all(const kvf_io *io, int file, const void *data, size_t bytes, uint64_t offset);

#endif
