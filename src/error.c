#include "error.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

size_t kvf_utf8_bytes(const char *text, size_t bytes)
{
    const unsigned char *c = (const unsigned char *)text;
    if (bytes == 0)
        return 0;
    if (c[0] < 0x80)
        return 1;
    size_t n = c[0] >= 0xF0 ? 4 : c[0] >= 0xE0 ? 3 : 2;
    if (c[0] < 0xC2 || c[0] > 0xF4 || n > bytes)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((c[i] & 0xC0) != 0x80)
            return 0;
    if ((c[0] == 0xE0 && c[1] < 0xA0) || (c[0] == 0xF0 && c[1] < 0x90)) /* overlong */
        return 0;
    if ((c[0] == 0xED && c[1] > 0x9F) || (c[0] == 0xF4 && c[1] > 0x8F)) /* surrogate, too high */
        return 0;
    return n;
}

/* Writes the characters that fit, one '?' for each that would not be shown; the bytes written. */
static size_t copy_printable(char *out, size_t capacity, const char *text, size_t bytes)
{
    size_t used = 0;
    for (size_t at = 0; at < bytes;) {
        const size_t n = kvf_utf8_bytes(text + at, bytes - at);
        const unsigned char *c = (const unsigned char *)text + at;
        /* C0 controls, DEL, and the C1 controls U+0080 .. U+009F */
        const bool plain = n > 0 && c[0] >= 0x20 && c[0] != 0x7F && !(c[0] == 0xC2 && c[1] < 0xA0);
        const size_t wanted = plain ? n : 1;
        if (used + wanted > capacity)
            break;
        if (plain)
            memcpy(out + used, c, n);
        else
            out[used] = '?';
        used += wanted;
        at += n > 0 ? n : 1;
    }
    return used;
}

static void print_bytes(char *out, size_t room_bytes, const char *text, size_t bytes)
{
    static const char dots[] = "...";
    const size_t room = room_bytes - 1;
    const size_t half = (room - strlen(dots)) / 2;
    size_t used = 0;
    if (bytes <= room) {
        used = copy_printable(out, room, text, bytes);
    } else {
        const char *tail = text + bytes - half;
        while (tail < text + bytes && ((unsigned char)*tail & 0xC0) == 0x80)
            tail++; /* start at a character */
        used = copy_printable(out, half, text, bytes);
        memcpy(out + used, dots, strlen(dots));
        used += strlen(dots);
        used += copy_printable(out + used, half, tail, (size_t)(text + bytes - tail));
    }
    out[used] = '\0';
}

void kvf_print_line(char *out, size_t room_bytes, const char *text)
{
    print_bytes(out, room_bytes, text, strlen(text));
}

kvf_printed kvf_printable(const char *text)
{
    kvf_printed printed;
    kvf_print_line(printed.text, sizeof printed.text, text);
    return printed;
}

kvf_printed kvf_printable_bytes(const char *text, size_t bytes)
{
    kvf_printed printed;
    print_bytes(printed.text, sizeof printed.text, text, bytes);
    return printed;
}

/* A message that did not fit ends before the character that was cut in two (UTF-8). */
static void drop_cut_character(char *message, size_t bytes)
{
    size_t start = bytes;
    while (start > 0 && ((unsigned char)message[start - 1] & 0xC0) == 0x80)
        start--;
    if (start == 0 || (unsigned char)message[start - 1] < 0xC0)
        return;
    const unsigned char first = (unsigned char)message[start - 1];
    const size_t following = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
    if (bytes - start < following)
        message[start - 1] = '\0';
}

kvf_status kvf_fail(kvf_error *error, kvf_status status, const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        error->status = status;
        const int bytes = vsnprintf(error->message, sizeof error->message, format, arguments);
        if (bytes >= (int)sizeof error->message)
            drop_cut_character(error->message, sizeof error->message - 1);
        va_end(arguments);
    }
    return status;
}

kvf_status kvf_ok(kvf_error *error)
{
    if (error) {
        error->status = KVF_OK;
        error->message[0] = '\0';
    }
    return KVF_OK;
}

const char *kvf_status_string(kvf_status status)
{
    switch (status) {
    case KVF_OK: return "success";
    case KVF_INVALID_ARGUMENT: return "invalid argument";
    case KVF_UNSUPPORTED: return "not supported by this build or device";
    case KVF_OUT_OF_MEMORY: return "out of memory";
    case KVF_CONTEXT_FULL: return "the session's context is full";
    case KVF_NOT_COVERED: return "no checkpoint that old is kept";
    case KVF_NONFINITE: return "a value is NaN or infinite";
    case KVF_RANGE: return "a value is outside the range that its row can hold";
    case KVF_INEXACT: return "a row cannot be held exactly";
    case KVF_FILE_NOT_FOUND: return "no such file";
    case KVF_FILE_IO: return "the file cannot be read or written";
    case KVF_FILE_FORMAT: return "the file's content is not valid";
    case KVF_FILE_BUSY: return "the file is being written by somebody else";
    case KVF_WRONG_MODEL: return "the file belongs to another model";
    case KVF_SESSION_FAILED: return "the session failed earlier";
    case KVF_DEVICE_LOST: return "the device was lost";
    case KVF_INTERNAL: return "a fault of the library";
    }
    return "unknown status";
}

#define KVF_STRING_OF(x) #x
#define KVF_STRING(x) KVF_STRING_OF(x)

const char *kvf_version_string(void)
{
    return KVF_STRING(KVF_VERSION_MAJOR) "." KVF_STRING(KVF_VERSION_MINOR) "." KVF_STRING(
        KVF_VERSION_PATCH);
}
