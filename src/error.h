/* Filling kvf_error, and what of a text may be shown in it. Internal. */
#ifndef KVF_ERROR_H
#define KVF_ERROR_H

#include "kvfold.h"

/*
 * Stores status and a printf-style message (truncated to fit) and returns status:
 *     return kvf_fail(error, KVF_INVALID_ARGUMENT, "top_k is 0; ...");
 * error may be NULL. The format is always a literal of ours, never data.
 */
kvf_status kvf_fail(kvf_error *error, kvf_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Text from outside (a path above all), fit for a one-line message: control characters and
 * bytes that are not UTF-8 become '?', a long text loses its middle, so that what is said of
 * it keeps its room. Returned by value, so that it lives as long as the call it is an
 * argument of:
 *     kvf_fail(error, status, "%s: ..", kvf_printable(path).text)
 */
typedef struct kvf_printed {
    char text[148];
} kvf_printed;
kvf_printed kvf_printable(const char *text);
/* The same of bytes among which a NUL may be: a '?', not the end. */
kvf_printed kvf_printable_bytes(const char *text, size_t bytes);
/* The same into room_bytes (8 at least), the terminating NUL included. */
void kvf_print_line(char *out, size_t room_bytes, const char *text);

/*
 * Bytes of the UTF-8 character at text (1 to 4, never more than `bytes`), 0 where
 * it is not one (overlong forms, surrogates and values past U+10FFFF included).
 */
size_t kvf_utf8_bytes(const char *text, size_t bytes);

/* Clears *error (if any) and returns KVF_OK. */
kvf_status kvf_ok(kvf_error *error);

#endif
