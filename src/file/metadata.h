/* The metadata of a GGUF, by key, as it lies in the mapping. Internal. */
#ifndef KVF_FILE_METADATA_H
#define KVF_FILE_METADATA_H

#include "error.h"
#include "file/tensor_set.h"

/* The numbers are the format's. */
typedef enum kvf_value_type {
    KVF_VALUE_U8 = 0,
    KVF_VALUE_I8 = 1,
    KVF_VALUE_U16 = 2,
    KVF_VALUE_I16 = 3,
    KVF_VALUE_U32 = 4,
    KVF_VALUE_I32 = 5,
    KVF_VALUE_F32 = 6,
    KVF_VALUE_BOOL = 7,
    KVF_VALUE_TEXT = 8,
    KVF_VALUE_ARRAY = 9, /* in the file only: kvf_metadata has is_array instead */
    KVF_VALUE_U64 = 10,
    KVF_VALUE_I64 = 11,
    KVF_VALUE_F64 = 12
} kvf_value_type;

typedef struct kvf_metadata {
    const char *key;     /* owned by the set */
    kvf_value_type type; /* of the value, or of the array's */
    bool is_array;
    uint64_t n_values; /* 1 where it is no array */
    /* [bytes], into the mapping at any address; each text after 8 bytes of its length */
    const unsigned char *data;
    uint64_t bytes;
} kvf_metadata;

/* Bytes that are not checked for UTF-8 and have no NUL after them. */
typedef struct kvf_text {
    const char *data;
    uint64_t bytes;
} kvf_text;

/* NULL: no such key (never one of safetensors). Of a split file, the first part's. */
const kvf_metadata *kvf_tensor_set_metadata(const kvf_tensor_set *set, const char *key);
/* The i-th entry in order of key; NULL past the last. */
const kvf_metadata *kvf_tensor_set_metadata_at(const kvf_tensor_set *set, uint32_t i);

/*
 * Value i, which must be below n_values, as that class of type: a whole number of any
 * width that is not negative; a float of either width; a truth value; a text. False where
 * it is none.
 */
bool kvf_metadata_u64(const kvf_metadata *metadata, uint64_t i, uint64_t *value);
bool kvf_metadata_f64(const kvf_metadata *metadata, uint64_t i, double *value);
bool kvf_metadata_bool(const kvf_metadata *metadata, uint64_t i, bool *value);
/*
 * The text at *at (0 for the first one), which is moved to the next one; false after
 * the last, or where it is no text.
 */
bool kvf_metadata_text(const kvf_metadata *metadata, uint64_t *at, kvf_text *text);

/* "of type u32", "an array of 3 string": what messages say a key is. */
typedef struct kvf_metadata_shown {
    char text[64];
} kvf_metadata_shown;
kvf_metadata_shown kvf_metadata_show(const kvf_metadata *metadata);
/* Value i, which must be below n_values: 12, -1, 0.5, true, "text" (that of an array is left out).
 */
kvf_printed kvf_metadata_show_value(const kvf_metadata *metadata, uint64_t i);

#endif
