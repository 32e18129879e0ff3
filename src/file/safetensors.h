/*
 * A checkpoint's safetensors shards, memory-mapped read-only and checked before
 * use: header size, offsets, overlaps, gaps, dtypes, shapes against bytes, names
 * unique over all shards, the index file against the shards.
 */
#ifndef KVF_FILE_SAFETENSORS_H
#define KVF_FILE_SAFETENSORS_H

#include "kvfold.h"

typedef enum kvf_dtype {
    KVF_DTYPE_F32,
    KVF_DTYPE_F16,
    KVF_DTYPE_BF16,
    KVF_DTYPE_I64,
    KVF_DTYPE_I32,
    KVF_DTYPE_OTHER /* known to safetensors, not read here: F8_E4M3, F8_E8M0, I8, U8, F64, .. */
} kvf_dtype;

typedef struct kvf_tensor {
    const char *name; /* owned by the file set */
    kvf_dtype dtype;
    char dtype_name[16]; /* as in the file */
    uint32_t n_dims;
    uint64_t shape[8];
    const void *data; /* into the mapping; alignment of 1 is all that is promised */
    uint64_t bytes;
    const char *file; /* its shard's path, owned by the file set */
} kvf_tensor;

typedef struct kvf_safetensors kvf_safetensors;

/*
 * Opens DIR/model.safetensors.index.json and its shards, or DIR/model.safetensors.
 * KVF_FILE_NOT_FOUND, KVF_FILE_IO, KVF_FILE_FORMAT (names file and tensor),
 * KVF_OUT_OF_MEMORY. A shard name with a path separator is refused.
 */
kvf_status kvf_safetensors_open(const char *dir, kvf_safetensors **files, kvf_error *error);
/* One file by its path (goldens, tests). */
kvf_status kvf_safetensors_open_file(const char *path, kvf_safetensors **files, kvf_error *error);
void kvf_safetensors_close(kvf_safetensors *files);

/* NULL when there is none of that name. O(log n). */
const kvf_tensor *kvf_safetensors_find(const kvf_safetensors *files, const char *name);
/* The i-th tensor in order of name; NULL past the last. */
const kvf_tensor *kvf_safetensors_at(const kvf_safetensors *files, uint32_t i);
/* Bytes of all mapped shards. */
uint64_t kvf_safetensors_mapped_bytes(const kvf_safetensors *files);

#endif
