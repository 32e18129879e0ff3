/* The types that tensors are stored in, one list for all containers. Internal. */
#ifndef KVF_FILE_STORED_TYPE_H
#define KVF_FILE_STORED_TYPE_H

#include "kvfold.h"

typedef enum kvf_stored_type {
#define KVF_STORED_TYPE(id, block_values, block_bytes, ggml_id, in_safetensors) KVF_STORED_##id,
#include "file/stored_types.def"
#undef KVF_STORED_TYPE
    KVF_STORED_COUNT
} kvf_stored_type;

/* Values lie in blocks of block_values, block_bytes each; a plain type has blocks of one. */
typedef struct kvf_stored_info {
    const char *name; /* "BF16", "F8_E4M3", "Q2_K" */
    uint32_t block_values;
    uint32_t block_bytes;
    int32_t ggml_id; /* -1: GGUF cannot hold it */
    bool in_safetensors;
} kvf_stored_info;

/* Of a type below KVF_STORED_COUNT. Static storage. */
const kvf_stored_info *kvf_stored_info_of(kvf_stored_type type);

/* By the word of a safetensors header, by the number of a GGUF; false: there is none. */
bool kvf_stored_type_by_dtype(const char *dtype, kvf_stored_type *type);
bool kvf_stored_type_by_ggml_id(uint32_t ggml_id, kvf_stored_type *type);

#endif
