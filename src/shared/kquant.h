/*
 * Scales of ggml's K-quants, six bits each in twelve bytes. The bytes come as three
 * little-endian words: s0 has bytes 0 to 3, s1 4 to 7, s2 8 to 11.
 */
#ifndef KVF_SHARED_KQUANT_H
#define KVF_SHARED_KQUANT_H

#include "shared/bits.h"

/* Q4_K, Q5_K: the scale of sub-block j < 8, 0 to 63. The last four keep two bits above the first.
 */
KVF_INLINE uint32_t kvf_q4_k_scale(uint32_t s0, uint32_t s2, uint32_t j)
{
    const uint32_t shift = 8 * (j & 3);
    if (j < 4)
        return (s0 >> shift) & 63;
    return ((s2 >> shift) & 15) | ((s0 >> (shift + 6)) & 3) << 4;
}

/* Q4_K, Q5_K: the minimum of sub-block j < 8, 0 to 63. */
KVF_INLINE uint32_t kvf_q4_k_min(uint32_t s1, uint32_t s2, uint32_t j)
{
    const uint32_t shift = 8 * (j & 3);
    if (j < 4)
        return (s1 >> shift) & 63;
    return ((s2 >> (shift + 4)) & 15) | ((s1 >> (shift + 6)) & 3) << 4;
}

/* Q3_K: the scale of sub-block k < 16, -32 to 31. */
KVF_INLINE int32_t kvf_q3_k_scale(uint32_t s0, uint32_t s1, uint32_t s2, uint32_t k)
{
    const uint32_t shift = 8 * (k & 3);
    const uint32_t low = ((k & 4 ? s1 : s0) >> (shift + 4 * (k >> 3))) & 15;
    const uint32_t high = (s2 >> (shift + 2 * (k >> 2))) & 3;
    return (int32_t)(low | high << 4) - 32;
}

#endif
