/* How much two texts have in common. Internal to server/. */
#ifndef KVF_SERVER_COMMON_H
#define KVF_SERVER_COMMON_H

#include <stdint.h>
#include <string.h>

/* Tokens that both begin with. */
static inline uint64_t kvf_common_tokens(const int32_t *a, uint64_t n_a, const int32_t *b,
                                         uint64_t n_b)
{
    enum { COMPARED = 1024 }; /* at a time: most texts part early */
    const uint64_t n = n_a < n_b ? n_a : n_b;
    uint64_t at = 0;
    while (n - at >= COMPARED && memcmp(a + at, b + at, COMPARED * sizeof *a) == 0)
        at += COMPARED;
    while (at < n && a[at] == b[at])
        at++;
    return at;
}

#endif
