/* Checkpoint files made by tests, in a folder that lives as long as one test. */
#ifndef KVF_TESTS_CHECKPOINT_FILES_H
#define KVF_TESTS_CHECKPOINT_FILES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first. */
#include <cmocka.h>

#include "kvfold.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- A temporary folder: *state of a test --------------------------------------- */

static inline int make_folder(void **state)
{
    char path[] = "/tmp/kvfold-test-XXXXXX";
    if (!mkdtemp(path))
        return -1;
    *state = strdup(path);
    return *state ? 0 : -1;
}

static inline int remove_folder(void **state)
{
    char *folder = *state;
    char path[512];
    DIR *open_folder = opendir(folder);
    for (struct dirent *entry; open_folder && (entry = readdir(open_folder));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (unlink(path) != 0)
            rmdir(path);
    }
    if (open_folder)
        closedir(open_folder);
    rmdir(folder);
    free(folder);
    return 0;
}

static inline void write_file(const char *folder, const char *name, const void *data, size_t bytes)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    if (bytes > 0)
        assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static inline void write_text(const char *folder, const char *name, const char *text)
{
    write_file(folder, name, text, strlen(text));
}

/* The file's content (malloc'd, with a NUL after it). */
static inline char *read_text(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *text = malloc(*bytes + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, *bytes, file), *bytes);
    text[*bytes] = '\0';
    fclose(file);
    return text;
}

/* ---- Safetensors files ------------------------------------------------------------ */

/* header_length is what the file claims; data_bytes zero bytes follow the header. */
static inline void write_safetensors(const char *folder, const char *name, uint64_t header_length,
                                     const char *header, size_t header_bytes, size_t data_bytes)
{
    unsigned char *file = calloc(8 + header_bytes + data_bytes, 1);
    assert_non_null(file);
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)(header_length >> (8 * i));
    memcpy(file + 8, header, header_bytes);
    write_file(folder, name, file, 8 + header_bytes + data_bytes);
    free(file);
}

/* One tensor to be written. */
typedef struct tensor_entry {
    char name[128];
    char dtype[16];
    uint32_t n_dims;
    uint64_t shape[8];
    const void *data;
    uint64_t bytes;
} tensor_entry;

/* Writes the entries, in order, as one safetensors file. An entry without a name is left out. */
static inline void write_entries(const char *folder, const char *name, const tensor_entry *entries,
                                 size_t n)
{
    size_t capacity = 64 + n * 400;
    char *header = malloc(capacity);
    assert_non_null(header);
    size_t used = (size_t)snprintf(header, capacity, "{\"__metadata__\":{\"format\":\"pt\"}");
    uint64_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        const tensor_entry *entry = &entries[i];
        if (!entry->name[0])
            continue;
        used +=
            (size_t)snprintf(header + used, capacity - used,
                             ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", entry->name, entry->dtype);
        for (uint32_t d = 0; d < entry->n_dims; d++)
            used += (size_t)snprintf(header + used, capacity - used, "%s%llu", d ? "," : "",
                                     (unsigned long long)entry->shape[d]);
        used += (size_t)snprintf(header + used, capacity - used, "],\"data_offsets\":[%llu,%llu]}",
                                 (unsigned long long)offset,
                                 (unsigned long long)(offset + entry->bytes));
        offset += entry->bytes;
    }
    used += (size_t)snprintf(header + used, capacity - used, "}");
    assert_true(used < capacity);
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)used >> (8 * i));
    fwrite(length, 1, 8, file);
    fwrite(header, 1, used, file);
    for (size_t i = 0; i < n; i++)
        if (entries[i].name[0] && entries[i].bytes > 0)
            assert_int_equal(fwrite(entries[i].data, 1, entries[i].bytes, file), entries[i].bytes);
    assert_int_equal(fclose(file), 0);
    free(header);
}

/* ---- Failures ----------------------------------------------------------------------- */

/* The status, a message of one line, and every part of it that `parts` lists by '|'. */
static inline void assert_failed(const char *label, kvf_status got, kvf_status wanted,
                                 const kvf_error *error, const char *parts)
{
    char part[256];
    bool right = got == wanted && error->status == wanted && error->message[0];
    for (const unsigned char *c = (const unsigned char *)error->message; *c; c++)
        right = right && *c >= 0x20;
    for (const char *at = parts; right && *at;) {
        size_t bytes = strcspn(at, "|");
        snprintf(part, sizeof part, "%.*s", (int)bytes, at);
        right = strstr(error->message, part) != NULL;
        at += bytes + (at[bytes] == '|');
    }
    if (!right)
        fail_msg("%s: status %d, \"%s\"; wanted status %d and \"%s\"", label, (int)got,
                 error->message, (int)wanted, parts);
}

#endif
