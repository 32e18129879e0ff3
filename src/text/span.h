/* Text that somebody else holds and that need not end with NUL. Internal. */
#ifndef KVF_TEXT_SPAN_H
#define KVF_TEXT_SPAN_H

#include "error.h"
#include "text/buffer.h"

/* data may be NULL where bytes is 0. May hold NUL characters. */
typedef struct kvf_span {
    const char *data;
    size_t bytes;
} kvf_span;

#define KVF_SPAN(literal) ((kvf_span){literal, sizeof(literal) - 1})

/* What a buffer holds, until it is added to. */
static inline kvf_span kvf_buffer_span(const kvf_buffer *buffer)
{
    return (kvf_span){buffer->data, buffer->bytes};
}

/* Whether it is that literal, or has the same bytes as another. */
bool kvf_span_is(kvf_span span, const char *literal);
bool kvf_span_equal(kvf_span a, kvf_span b);
bool kvf_span_is_utf8(kvf_span span);
bool kvf_span_begins(kvf_span span, const char *literal);
/* Without its first n bytes; it has as many. */
kvf_span kvf_span_after(kvf_span span, size_t n);

/* As kvf_printable, of as much of it as messages show. */
kvf_printed kvf_span_printable(kvf_span span);

void kvf_buffer_add_span(kvf_buffer *buffer, kvf_span span);
void kvf_buffer_add_string(kvf_buffer *buffer, const char *string);

#endif
