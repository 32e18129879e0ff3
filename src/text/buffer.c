#include "text/buffer.h"

#include <stdlib.h>
#include <string.h>

/* Doubling: all that is ever copied is no more than what is there at the end. */
static bool grow(void **data, size_t *capacity, size_t used, size_t more, size_t item_bytes)
{
    const size_t most = SIZE_MAX / 2 / item_bytes;
    if (more > most || used > most - more)
        return false;
    size_t larger = *capacity < 64 ? 64 : *capacity;
    while (larger < used + more)
        larger *= 2;
    void *moved = realloc(*data, larger * item_bytes);
    if (!moved)
        return false;
    *data = moved;
    *capacity = larger;
    return true;
}

void kvf_buffer_add(kvf_buffer *buffer, const void *data, size_t bytes)
{
    if (buffer->failed || bytes == 0)
        return;
    if (bytes > buffer->capacity - buffer->bytes) {
        void *moved = buffer->data;
        buffer->failed = !grow(&moved, &buffer->capacity, buffer->bytes, bytes, 1);
        buffer->data = moved;
        if (buffer->failed)
            return;
    }
    memcpy(buffer->data + buffer->bytes, data, bytes);
    buffer->bytes += bytes;
}

void kvf_buffer_free(kvf_buffer *buffer)
{
    free(buffer->data);
    *buffer = (kvf_buffer){.data = NULL};
}

bool kvf_ids_reserve(kvf_ids *ids, size_t more)
{
    void *moved = ids->ids;
    if (more <= ids->capacity - ids->n)
        return true;
    if (!grow(&moved, &ids->capacity, ids->n, more, sizeof *ids->ids))
        return false;
    ids->ids = moved;
    return true;
}

void kvf_ids_free(kvf_ids *ids)
{
    free(ids->ids);
    *ids = (kvf_ids){.ids = NULL};
}
