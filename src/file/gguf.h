/* The parts of a GGUF. Included by gguf.c, gguf_split.c and tensor_set.c alone. */
#ifndef KVF_FILE_GGUF_H
#define KVF_FILE_GGUF_H

#include "file/set_build.h"

/* What one file says of itself. */
typedef struct kvf_gguf_part {
    uint64_t n_tensors;
    kvf_metadata *metadata; /* [n_metadata], in order of key; to be freed */
    size_t n_metadata;
} kvf_gguf_part;

/*
 * Takes over path (NULL: out of memory), maps it as the set's next file and adds its tensors.
 * part->metadata is to be freed after a failure too.
 */
kvf_status kvf_gguf_read_part(kvf_tensor_set *set, char *path, kvf_gguf_part *part,
                              kvf_error *error);

/*
 * Whether path is named as a part of a split file is, STEM-00002-of-00003.gguf: *no counts
 * from 1 and is at most *count; *stem_bytes are those of the path before that '-'.
 */
bool kvf_gguf_split_name(const char *path, uint32_t *no, uint32_t *count, size_t *stem_bytes);

#endif
