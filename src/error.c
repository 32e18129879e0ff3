#include "error.h"

#include <stdarg.h>
#include <stdio.h>

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
