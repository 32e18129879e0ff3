#include "text/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Most trees are of one short request; a long one takes few chunks. */
#define CHUNK_BYTES 16384

struct kvf_arena_chunk {
    struct kvf_arena_chunk *before;
    size_t used_bytes;
    size_t room_bytes;
    alignas(max_align_t) char data[];
};

void *kvf_arena_alloc(kvf_arena *arena, size_t bytes)
{
    const size_t step = alignof(max_align_t);
    struct kvf_arena_chunk *chunk = arena->last;
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + step - 1) / step * step;
    if (!chunk || bytes > chunk->room_bytes - chunk->used_bytes) {
        const size_t room_bytes = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        chunk = malloc(sizeof *chunk + room_bytes);
        if (!chunk)
            return NULL;
        *chunk = (struct kvf_arena_chunk){arena->last, 0, room_bytes};
        arena->last = chunk;
    }
    void *place = chunk->data + chunk->used_bytes;
    chunk->used_bytes += bytes;
    return place;
}

void *kvf_arena_array(kvf_arena *arena, size_t n, size_t size)
{
    if (size > 0 && n > SIZE_MAX / 2 / size)
        return NULL;
    void *place = kvf_arena_alloc(arena, n * size);
    return place ? memset(place, 0, n * size) : NULL;
}

void kvf_arena_free(kvf_arena *arena)
{
    while (arena->last) {
        struct kvf_arena_chunk *before = arena->last->before;
        free(arena->last);
        arena->last = before;
    }
}
