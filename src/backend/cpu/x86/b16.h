/* 16 bytes, what codes of weights are unpacked in. Meaning of each function: v16_scalar.h. */
#ifndef KVF_CPU_X86_B16_H
#define KVF_CPU_X86_B16_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m128i b16;

static inline b16 b16_load(const void *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

static inline b16 b16_load_8(const void *p)
{
    return _mm_loadl_epi64((const __m128i *)p);
}

static inline b16 b16_set1(uint8_t x)
{
    return _mm_set1_epi8((char)x);
}

static inline b16 b16_and(b16 a, b16 b)
{
    return _mm_and_si128(a, b);
}

static inline b16 b16_or(b16 a, b16 b)
{
    return _mm_or_si128(a, b);
}

static inline b16 b16_sub(b16 a, b16 b)
{
    return _mm_sub_epi8(a, b);
}

static inline b16 b16_shr_and(b16 a, int bits, uint8_t mask)
{
    return _mm_and_si128(_mm_srli_epi16(a, bits), _mm_set1_epi8((char)mask));
}

static inline b16 b16_shl(b16 a, int bits)
{
    return _mm_slli_epi16(a, bits);
}

static inline b16 b16_interleave(b16 a, b16 b)
{
    return _mm_unpacklo_epi8(a, b);
}

static inline float v16_half(const void *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return _cvtsh_ss(half);
}

#endif
