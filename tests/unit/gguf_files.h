/* Writing GGUF files that are right or wrong on purpose, byte by byte. */
#ifndef KVF_TESTS_GGUF_FILES_H
#define KVF_TESTS_GGUF_FILES_H

#include "checkpoint_files.h"

/* The file under construction, and what its header claims. */
typedef struct gguf_file {
    unsigned char bytes[1 << 18];
    size_t n;
} gguf_file;

static gguf_file gguf;

static inline void put_bytes(const void *data, size_t bytes)
{
    assert_true(bytes <= sizeof gguf.bytes - gguf.n);
    memcpy(gguf.bytes + gguf.n, data, bytes);
    gguf.n += bytes;
}

/* The low `bytes` bytes of value, little endian. */
static inline void put(uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char byte = (unsigned char)(value >> (8 * i));
        put_bytes(&byte, 1);
    }
}

static inline void put_text(const char *text)
{
    put(strlen(text), 8);
    put_bytes(text, strlen(text));
}

static inline void put_zeros(size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        put(0, 1);
}

static inline void put_header(uint32_t version, uint64_t n_tensors, uint64_t n_keys)
{
    gguf.n = 0;
    put_bytes("GGUF", 4);
    put(version, 4);
    put(n_tensors, 8);
    put(n_keys, 8);
}

/* A key of a type of `bytes` bytes. */
static inline void put_key(const char *key, uint32_t type, uint64_t value, size_t bytes)
{
    put_text(key);
    put(type, 4);
    put(value, bytes);
}

/* dims has the fastest one first, as in the file. */
static inline void put_info(const char *name, uint32_t n_dims, const uint64_t *dims, uint32_t type,
                            uint64_t offset)
{
    put_text(name);
    put(n_dims, 4);
    for (uint32_t i = 0; i < n_dims; i++)
        put(dims[i], 8);
    put(type, 4);
    put(offset, 8);
}

static inline void put_padding(size_t alignment)
{
    while (gguf.n % alignment != 0)
        put(0, 1);
}

#endif
