/* How the containers' readers fill a tensor set. Included by the files of one alone. */
#ifndef KVF_FILE_SET_BUILD_H
#define KVF_FILE_SET_BUILD_H

#include "file/metadata.h"
#include "file/tensor_set.h"

#include <stddef.h>

/* More than a hundred times what the largest checkpoint has: memory has a bound. */
#define KVF_MAX_TENSORS (1u << 24)

struct kvf_tensor_set {
    kvf_container container;
    char *config_path;
    char *index_path;       /* NULL: there is none */
    kvf_file index;         /* stays mapped: an inode's number is that file's as long as it is */
    kvf_tensor_file *files; /* [file_capacity]: never moved, a signal handler reads them */
    size_t file_capacity;
    atomic_size_t n_files;
    kvf_tensor *tensors; /* in order of name once it is open */
    size_t n_tensors;
    size_t tensor_capacity;
    uint32_t *slots; /* [slot_mask + 1]: a tensor's place + 1, or 0 */
    uint64_t slot_mask;
    kvf_metadata *metadata; /* in order of key */
    size_t n_metadata;
    struct kvf_kept_text *kept; /* names and keys */
};

/* Makes room for the files of the set; once, before the first kvf_set_map. */
kvf_status kvf_set_reserve_files(kvf_tensor_set *set, size_t n, kvf_error *error);
/* Takes over path (NULL: out of memory), maps it as the next file. */
kvf_status kvf_set_map(kvf_tensor_set *set, char *path, kvf_tensor_file **file, kvf_error *error);
/* Room for one more tensor, of which name, file and file_index are set. text may lack a NUL. */
kvf_status kvf_set_add(kvf_tensor_set *set, const kvf_tensor_file *file, const char *name,
                       size_t name_bytes, kvf_tensor **tensor, kvf_error *error);
/* A copy of text with a NUL after it, owned by the set; NULL when memory is short. */
const char *kvf_set_keep(kvf_tensor_set *set, const char *text, size_t bytes);
/*
 * Sorts the tensors from number `first` on, all of one file, by the place of their data,
 * and refuses two that overlap.
 */
kvf_status kvf_set_check_overlap(kvf_tensor_set *set, size_t first, kvf_error *error);

/* Sorts all tensors by name and refuses two of one name: what a reader ends with. */
kvf_status kvf_set_sort_names(kvf_tensor_set *set, kvf_error *error);

/* "FILE: tensor "NAME": " and what is wrong with it: KVF_FILE_FORMAT. */
kvf_status kvf_set_fail_tensor(const kvf_tensor *tensor, const char *what, kvf_error *error);

/* Among n entries in order of key; NULL: there is none. */
const kvf_metadata *kvf_metadata_find(const kvf_metadata *metadata, size_t n, const char *key);
/* Bytes of a value of a type below 13; 0 of texts and arrays, which have no fixed size. */
uint32_t kvf_value_bytes(kvf_value_type type);

/* ---- The readers: each fills an empty set ------------------------------------------- */

/* A folder's index and what it names. */
kvf_status kvf_safetensors_read_index(kvf_tensor_set *set, const char *dir, const char *index,
                                      const kvf_file *file, kvf_error *error);
/* One file. */
kvf_status kvf_safetensors_read(kvf_tensor_set *set, const char *path, kvf_error *error);
/* One file, or all parts of the split one that it is a part of. */
kvf_status kvf_gguf_read(kvf_tensor_set *set, const char *path, kvf_error *error);

#endif
