/* Memory of things that live and die together. Internal. */
#ifndef KVF_TEXT_ARENA_H
#define KVF_TEXT_ARENA_H

#include <stddef.h>

/* Starts as {0}. What it gave is freed with it, nothing before. */
typedef struct kvf_arena {
    struct kvf_arena_chunk *last;
} kvf_arena;

/* Aligned for any type, not zeroed; NULL when memory is short. */
void *kvf_arena_alloc(kvf_arena *arena, size_t bytes);
/* n * size with that product checked, zeroed. */
void *kvf_arena_array(kvf_arena *arena, size_t n, size_t size);
void kvf_arena_free(kvf_arena *arena);

#endif
