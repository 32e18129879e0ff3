/* Bytes and token ids that grow. Internal. */
#ifndef KVF_TEXT_BUFFER_H
#define KVF_TEXT_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * All zero is an empty one. Where memory runs out, failed is set, and what comes later is
 * dropped: one check at the end is enough.
 */
typedef struct kvf_buffer {
    char *data; /* [bytes], malloc'd; NULL as long as nothing was added */
    size_t bytes;
    size_t capacity;
    bool failed;
} kvf_buffer;

void kvf_buffer_add(kvf_buffer *buffer, const void *data, size_t bytes);
/* The buffer is an empty one then. */
void kvf_buffer_free(kvf_buffer *buffer);

/* All zero is an empty one. */
typedef struct kvf_ids {
    int32_t *ids; /* [n], malloc'd */
    size_t n;
    size_t capacity;
} kvf_ids;

/* Room for `more` ids behind those that are there; false, and nothing changed, without memory. */
bool kvf_ids_reserve(kvf_ids *ids, size_t more);
void kvf_ids_free(kvf_ids *ids);

#endif
