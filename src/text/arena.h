/* Memory of things that live and die together, and text that need not end with NUL. Internal. */
#ifndef KVF_TEXT_ARENA_H
#define KVF_TEXT_ARENA_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of somebody else; data may be NULL where bytes is 0. May hold NUL characters. */
typedef struct kvf_span {
    const char *data;
    size_t bytes;
} kvf_span;

#define KVF_SPAN(literal) ((kvf_span){literal, sizeof(literal) - 1})

/* Whether a text is that literal, or has the same bytes as another. */
bool kvf_span_is(kvf_span text, const char *literal);
bool kvf_span_equal(kvf_span a, kvf_span b);

/* Starts as {0}. What it gave is freed with it, nothing before. */
typedef struct kvf_arena {
    struct kvf_arena_chunk *last;
} kvf_arena;

/* Aligned for any type, not zeroed; NULL when memory is short. */
void *kvf_arena_alloc(kvf_arena *arena, size_t bytes);
/* n * size with that product checked, zeroed. */
void *kvf_arena_array(kvf_arena *arena, size_t n, size_t size);
void kvf_arena_free(kvf_arena *arena);

/*
 * Bytes that grow. Starts as {0}. Where memory is short, `failed` is set, further additions
 * do nothing, and the one who reads the result looks at it once.
 */
typedef struct kvf_buffer {
    char *data;
    size_t bytes;
    size_t capacity_bytes;
    bool failed;
} kvf_buffer;

void kvf_buffer_add(kvf_buffer *buffer, const char *data, size_t bytes);
void kvf_buffer_add_text(kvf_buffer *buffer, kvf_span text);
void kvf_buffer_add_string(kvf_buffer *buffer, const char *string);
kvf_span kvf_buffer_text(const kvf_buffer *buffer);
void kvf_buffer_free(kvf_buffer *buffer);

#endif
