/*
 * Which file was opened and in which state, so that what was read from it is not taken
 * for what the file holds later. Internal.
 */
#ifndef KVF_MODEL_FILE_ID_H
#define KVF_MODEL_FILE_ID_H

#include <sys/stat.h>

#include "kvfold.h"

/*
 * What the system says of an open file, as far as it changes when somebody writes to the
 * file, shortens it, puts another one in its place, or sets its times back.
 */
typedef struct kvf_file_id {
    uint64_t device;
    uint64_t inode;
    uint64_t bytes;
    struct timespec modified;
    struct timespec changed; /* content, times, permissions or links: nobody can set it */
} kvf_file_id;

kvf_file_id kvf_file_id_of(const struct stat *info);

/*
 * KVF_OK while the path leads to that file and nothing of it is different; otherwise
 * KVF_FILE_IO, and the message says what. An inode's number means another file only once
 * nobody has the first one open or mapped: keep it so until the last comparison. Thread-safe.
 */
kvf_status kvf_file_id_check(const char *path, const kvf_file_id *id, kvf_error *error);

#endif
