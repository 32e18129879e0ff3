#include "text/span.h"

#include <string.h>

bool kvf_span_equal(kvf_span a, kvf_span b)
{
    return a.bytes == b.bytes && (a.bytes == 0 || memcmp(a.data, b.data, a.bytes) == 0);
}

bool kvf_span_is(kvf_span span, const char *literal)
{
    return kvf_span_equal(span, (kvf_span){literal, strlen(literal)});
}

bool kvf_span_is_utf8(kvf_span span)
{
    for (size_t at = 0; at < span.bytes;) {
        const size_t n = kvf_utf8_bytes(span.data + at, span.bytes - at);
        if (n == 0)
            return false;
        at += n;
    }
    return true;
}

bool kvf_span_begins(kvf_span span, const char *literal)
{
    const size_t n = strlen(literal);
    return span.bytes >= n && kvf_span_is((kvf_span){span.data, n}, literal);
}

kvf_span kvf_span_after(kvf_span span, size_t n)
{
    return n > 0 ? (kvf_span){span.data + n, span.bytes - n}
                 : span; /* of no text NULL + 0 is none */
}

kvf_printed kvf_span_printable(kvf_span span)
{
    char shown[128]; /* a name that is cut says so by its dots */
    const char *dots = span.bytes < sizeof shown ? "" : "...";
    const size_t room = sizeof shown - 1 - strlen(dots);
    const size_t n = span.bytes < room ? span.bytes : room;
    for (size_t i = 0; i < n; i++)
        shown[i] = (char)(span.data[i] ? span.data[i] : '\1'); /* shown as a control character */
    memcpy(shown + n, dots, strlen(dots) + 1);
    return kvf_printable(shown);
}

void kvf_buffer_add_span(kvf_buffer *buffer, kvf_span span)
{
    kvf_buffer_add(buffer, span.data, span.bytes);
}

void kvf_buffer_add_string(kvf_buffer *buffer, const char *string)
{
    kvf_buffer_add(buffer, string, strlen(string));
}
