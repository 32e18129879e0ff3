/*
 * The tensors of a checkpoint by name, whatever contains them: a folder of safetensors, one
 * safetensors file, or a GGUF, whole or split. Files are mapped read-only and checked
 * before use; opening reads their headers and no data. Internal.
 */
#ifndef KVF_FILE_TENSOR_SET_H
#define KVF_FILE_TENSOR_SET_H

#include "file/file.h"
#include "file/stored_type.h"

#include <stdatomic.h>

#define KVF_TENSOR_DIMS 8

typedef struct kvf_tensor {
    const char *name; /* owned by the set */
    const char *file; /* the path of its file, owned by the set */
    const void *data; /* into the mapping; alignment of 1 is all that is promised */
    uint64_t bytes;
    /*
     * The last dimension is the one whose values lie side by side, so a matrix is
     * {rows, cols} in every container: safetensors' order, and GGUF's turned round.
     * GGUF leaves leading dimensions of 1 out.
     */
    uint64_t shape[KVF_TENSOR_DIMS];
    uint32_t n_dims;
    uint32_t file_index;
    kvf_stored_type type;
} kvf_tensor;

/* One of the mapped files. */
typedef struct kvf_tensor_file {
    char *path;
    kvf_file map;
    uint64_t surplus_bytes; /* at its end, after the last tensor and its padding */
    atomic_bool lost;       /* see kvf_tensor_set_fault */
} kvf_tensor_file;

typedef enum kvf_container { KVF_CONTAINER_SAFETENSORS, KVF_CONTAINER_GGUF } kvf_container;

typedef struct kvf_tensor_set kvf_tensor_set;

/*
 * path is a folder with model.safetensors.index.json and its shards, with
 * model.safetensors, or with one GGUF (whole or split); or one such file: what begins
 * as a GGUF is one, anything else is safetensors. Of a split GGUF any part will do.
 * KVF_FILE_NOT_FOUND, KVF_FILE_IO, KVF_FILE_FORMAT (names file and tensor),
 * KVF_OUT_OF_MEMORY. A shard name with a path separator is refused.
 *   *set is set before the first file is mapped, so that a handler can give it to
 * kvf_tensor_set_fault while it is being opened; it is NULL again after a failure.
 */
kvf_status kvf_tensor_set_open(const char *path, kvf_tensor_set **set, kvf_error *error);
void kvf_tensor_set_close(kvf_tensor_set *set);

/* A set does not change after it was opened: all of these may be called by any thread. */

kvf_container kvf_tensor_set_container(const kvf_tensor_set *set);
/* The path of config.json beside safetensors files; NULL where the set holds the config. */
const char *kvf_tensor_set_config_path(const kvf_tensor_set *set);

/* NULL when there is none of that name. O(1). */
const kvf_tensor *kvf_tensor_set_find(const kvf_tensor_set *set, const char *name);
/* The i-th tensor in order of name; NULL past the last. */
const kvf_tensor *kvf_tensor_set_at(const kvf_tensor_set *set, uint32_t i);
/* The i-th file; NULL past the last. */
const kvf_tensor_file *kvf_tensor_set_file(const kvf_tensor_set *set, uint32_t i);
/* Bytes of all mapped files. */
uint64_t kvf_tensor_set_mapped_bytes(const kvf_tensor_set *set);

/* ---- Files that change while they are mapped ------------------------------------- */

/*
 * KVF_FILE_IO, naming the file and what differs, unless every file is still the one that
 * was opened, with its content as it was: what is saved now is of the same weights.
 */
kvf_status kvf_tensor_set_check_unchanged(const kvf_tensor_set *set, kvf_error *error);

/*
 * For a handler of SIGBUS: where address lies in one of the mappings, puts zeros in the
 * place of that whole mapping, marks the file as lost and returns true: what faulted can go
 * on, with zeros. False, and nothing done, for any other address. Async-signal-safe and
 * thread-safe; the set is not being closed meanwhile.
 */
bool kvf_tensor_set_fault(kvf_tensor_set *set, const void *address);

/* The path of a file that was lost; NULL: there is none. Owned by the set. */
const char *kvf_tensor_set_lost(const kvf_tensor_set *set);

/*
 * To be called at the end of a step: KVF_FILE_IO, naming the file, where one has become
 * shorter since it was opened or could not be read, so that the step may have been computed
 * with zeros in the place of weights. It must then be undone, and so must every later one.
 * Asks the system once for each file: the zeros in the rest of a page are no fault.
 */
kvf_status kvf_tensor_set_check_lost(kvf_tensor_set *set, kvf_error *error);

#endif
