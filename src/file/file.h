/* Files read by mapping them, and paths as they are shown in messages. Internal. */
#ifndef KVF_FILE_FILE_H
#define KVF_FILE_FILE_H

#include "kvfold.h"

/* A whole regular file, mapped read-only. An empty file has data NULL. */
typedef struct kvf_file {
    const void *data;
    size_t bytes;
} kvf_file;

/*
 * KVF_FILE_NOT_FOUND where there is no such file, KVF_FILE_IO for everything else
 * (a folder, no permission). Nobody may shorten the file while it is mapped.
 */
kvf_status kvf_file_map(const char *path, kvf_file *file, kvf_error *error);
void kvf_file_unmap(kvf_file *file);

/* "DIR/NAME", malloc'd; NULL when memory is short. */
char *kvf_path_join(const char *dir, const char *name);

/*
 * Text from outside, fit for a one-line message: control characters and bytes that
 * are not UTF-8 become '?', a long text loses its middle. Returned by value, so
 * that it lives as long as the call it is an argument of:
 *     kvf_fail(error, status, "%s: ..", kvf_printable(path).text)
 */
typedef struct kvf_printed {
    char text[148];
} kvf_printed;
kvf_printed kvf_printable(const char *text);

/*
 * Bytes of the UTF-8 character at text (1 to 4, never more than `bytes`), 0 where
 * it is not one (overlong forms, surrogates and values past U+10FFFF included).
 */
size_t kvf_utf8_bytes(const char *text, size_t bytes);

#endif
