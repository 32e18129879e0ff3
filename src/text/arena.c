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

bool kvf_span_is(kvf_span text, const char *literal)
{
    return kvf_span_equal(text, (kvf_span){literal, strlen(literal)});
}

bool kvf_span_equal(kvf_span a, kvf_span b)
{
    return a.bytes == b.bytes && (a.bytes == 0 || memcmp(a.data, b.data, a.bytes) == 0);
}

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

void kvf_buffer_add(kvf_buffer *buffer, const char *data, size_t bytes)
{
    if (buffer->failed || bytes == 0)
        return;
    if (bytes > buffer->capacity_bytes - buffer->bytes) {
        size_t capacity_bytes = buffer->capacity_bytes < 256 ? 256 : buffer->capacity_bytes;
        while (capacity_bytes - buffer->bytes < bytes && capacity_bytes <= SIZE_MAX / 4)
            capacity_bytes *= 2;
        char *grown =
            capacity_bytes - buffer->bytes < bytes ? NULL : realloc(buffer->data, capacity_bytes);
        if (!grown) {
            buffer->failed = true;
            return;
        }
        buffer->data = grown;
        buffer->capacity_bytes = capacity_bytes;
    }
    memcpy(buffer->data + buffer->bytes, data, bytes);
    buffer->bytes += bytes;
}

void kvf_buffer_add_text(kvf_buffer *buffer, kvf_span text)
{
    kvf_buffer_add(buffer, text.data, text.bytes);
}

void kvf_buffer_add_string(kvf_buffer *buffer, const char *string)
{
    kvf_buffer_add(buffer, string, strlen(string));
}

kvf_span kvf_buffer_text(const kvf_buffer *buffer)
{
    return (kvf_span){buffer->data, buffer->bytes};
}

void kvf_buffer_free(kvf_buffer *buffer)
{
    free(buffer->data);
    *buffer = (kvf_buffer){0};
}
