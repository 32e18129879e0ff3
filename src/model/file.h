/* Files read by mapping them. Internal. */
#ifndef KVF_MODEL_FILE_H
#define KVF_MODEL_FILE_H

#include "kvfold.h"
#include "model/file_id.h"

/* A whole regular file, mapped read-only. An empty file has data NULL. */
typedef struct kvf_file {
    const void *data;
    size_t bytes;
    kvf_file_id id; /* of what is mapped */
} kvf_file;

/*
 * KVF_FILE_NOT_FOUND where there is no such file, KVF_FILE_IO for everything else
 * (a folder, no permission). Nobody may shorten the file while it is mapped.
 */
kvf_status kvf_file_map(const char *path, kvf_file *file, kvf_error *error);
void kvf_file_unmap(kvf_file *file);

/* "DIR/NAME", malloc'd; NULL when memory is short. */
char *kvf_path_join(const char *dir, const char *name);

#endif
