/* zstd, where the build has it: the parts of a file that is put away for long. */
#include "snapshot/snapshot.h"

#ifdef KVF_ZSTD_NONE

size_t kvf_codec_bound(size_t bytes)
{
    (void)bytes;
    return 0;
}

size_t kvf_codec_compress(void *out, size_t capacity, const void *data, size_t bytes)
{
    (void)out;
    (void)capacity;
    (void)data;
    (void)bytes;
    return 0;
}

bool kvf_codec_decompress(void *out, size_t bytes, const void *data, size_t stored_bytes)
{
    (void)out;
    (void)bytes;
    (void)data;
    (void)stored_bytes;
    return false;
}

#else

#include <zstd.h>

/* Packed rows are near their entropy: higher levels cost time and win next to nothing. */
#define LEVEL 3

size_t kvf_codec_bound(size_t bytes)
{
    return ZSTD_compressBound(bytes);
}

size_t kvf_codec_compress(void *out, size_t capacity, const void *data, size_t bytes)
{
    const size_t n = ZSTD_compress(out, capacity, data, bytes, LEVEL);
    return ZSTD_isError(n) ? 0 : n;
}

bool kvf_codec_decompress(void *out, size_t bytes, const void *data, size_t stored_bytes)
{
    return ZSTD_decompress(out, bytes, data, stored_bytes) == bytes;
}

#endif
