/* Files read by mapping them. Internal. */
#ifndef KVF_FILE_FILE_H
#define KVF_FILE_FILE_H

#include "kvfold.h"

/* Which file it is and which of its contents: what differs after a change of any kind. */
typedef struct kvf_file_identity {
    uint64_t device;
    uint64_t inode;
    uint64_t bytes;
    int64_t modified_ns; /* since 1970: of the content */
    int64_t changed_ns;  /* of the content, the owner, the permissions or the links */
} kvf_file_identity;

/* A whole regular file, mapped read-only. An empty file has data NULL. */
typedef struct kvf_file {
    const void *data;
    size_t bytes;
    kvf_file_identity identity; /* when it was mapped */
} kvf_file;

/*
 * KVF_FILE_NOT_FOUND where there is no such file, KVF_FILE_IO for everything else
 * (a folder, no permission). Where somebody shortens the file while it is mapped, reading
 * what is gone is a SIGBUS (kvf_tensor_set_fault).
 */
kvf_status kvf_file_map(const char *path, kvf_file *file, kvf_error *error);
void kvf_file_unmap(kvf_file *file);

/*
 * Maps the same bytes at the same addresses once more, now shared (MAP_SHARED): what Apple's GPUs
 * take without a copy. (Others keep a private mapping: macOS has had faults with programs that
 * read tens of gigabytes by a shared one.) KVF_FILE_IO, with nothing changed, where the file at
 * path is not the one that was mapped any more. Nobody reads the bytes meanwhile.
 */
kvf_status kvf_file_share(const char *path, const kvf_file *file, kvf_error *error);

/* KVF_FILE_IO, with what differs, unless the file at path is still the one that was mapped. */
kvf_status kvf_file_check_unchanged(const char *path, const kvf_file *file, kvf_error *error);
/* Whether the mapped file is at path and shorter than its mapping. */
bool kvf_file_is_cut(const char *path, const kvf_file *file);

/*
 * Tells the system how bytes of a mapping will be read; they need no alignment. Advice
 * only: nothing fails. Thread-safe.
 */
typedef enum kvf_file_advice {
    KVF_ADVICE_NORMAL,
    KVF_ADVICE_SEQUENTIAL, /* once, upwards: read ahead */
    KVF_ADVICE_RANDOM,     /* here and there: read ahead nothing */
    KVF_ADVICE_WILL_NEED,  /* soon: begin to read now */
    KVF_ADVICE_DONE        /* not again: its pages need not stay in this process */
} kvf_file_advice;
void kvf_file_advise(const void *data, size_t bytes, kvf_file_advice advice);

/* "DIR/NAME", malloc'd; NULL when memory is short. */
char *kvf_path_join(const char *dir, const char *name);

#endif
