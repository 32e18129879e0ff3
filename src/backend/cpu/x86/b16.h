/* 16 bytes, what codes of weights are unpacked in. Meaning of each function: v16_scalar.h. */
#ifndef KVF_CPU_X86_B16_H
#define KVF_CPU_X86_B16_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "shared/weight_blocks.h"

typedef __m128i b16;

/*
 * What was just stored there is loaded again: eight bytes widened, or one float to all lanes,
 * cost nothing or one operation from memory, two or three out of a register, and gcc would
 * take the register.
 */
#define V16_IN_MEMORY(object) __asm__("" : "+m"(object))

static inline b16 b16_load(const void *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

static inline b16 b16_load_8(const void *p)
{
    return _mm_loadl_epi64((const __m128i *)p);
}

static inline b16 b16_load_8_8(const void *low, const void *high)
{
    return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(b16_load_8(low)), (const __m64 *)high));
}

static inline b16 b16_load_4_4_4_4(const void *a, const void *b, const void *c, const void *d)
{
    int32_t four[4];
    memcpy(&four[0], a, 4);
    memcpy(&four[1], b, 4);
    memcpy(&four[2], c, 4);
    memcpy(&four[3], d, 4);
    return _mm_setr_epi32(four[0], four[1], four[2], four[3]);
}

static inline b16 b16_negate(b16 a, b16 signs)
{
    return _mm_sign_epi8(a, signs);
}

static inline b16 b16_set1(uint8_t x)
{
    return _mm_set1_epi8((char)x);
}

static inline b16 b16_sub(b16 a, b16 b)
{
    return _mm_sub_epi8(a, b);
}

static inline b16 b16_shr_and(b16 a, int bits, uint8_t mask)
{
    return _mm_and_si128(_mm_srli_epi16(a, bits), _mm_set1_epi8((char)mask));
}

static inline b16 b16_interleave(b16 a, b16 b)
{
    return _mm_unpacklo_epi8(a, b);
}

/* 32 bytes, likewise. */
typedef __m256i b32;

static inline b32 b32_load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline void b32_store(uint8_t *p, b32 a)
{
    _mm256_storeu_si256((__m256i *)p, a);
}

static inline b32 b32_set1(uint8_t x)
{
    return _mm256_set1_epi8((char)x);
}

static inline b32 b32_or(b32 a, b32 b)
{
    return _mm256_or_si256(a, b);
}

static inline b32 b32_sub(b32 a, b32 b)
{
    return _mm256_sub_epi8(a, b);
}

/* ((byte >> down) << up) & mask, the mask without bits that come from a neighbour. */
static inline b32 b32_move_and(b32 a, int down, int up, uint8_t mask)
{
    const __m256i moved =
        down >= up ? _mm256_srli_epi16(a, down - up) : _mm256_slli_epi16(a, up - down);
    return _mm256_and_si256(moved, _mm256_set1_epi8((char)mask));
}

/* v16_top_nibbles_of_8 */
static inline __m256 v8_top_nibbles(const uint8_t *words, int stride)
{
    __m256i eight = b32_load(words);
    if (stride == 2) { /* the second of each pair */
        const __m256i high = _mm256_castps_si256(_mm256_shuffle_ps(
            _mm256_castsi256_ps(eight), _mm256_castsi256_ps(b32_load(words + 32)), 0xdd));
        eight = _mm256_permute4x64_epi64(high, 0xd8);
    }
    return _mm256_cvtepi32_ps(_mm256_srli_epi32(eight, 28));
}

/*
 * b16_q3_k_scales and b16_q4_k_scales of decode_k.inc.h, where words are put together one by one:
 * four of a unit's rows took a third of its time.
 */
#define B16_K_SCALES
static inline b16 b16_q3_k_scales(const uint8_t *block)
{
    /* two bytes of codes, the twelve, and d: a load that starts with them ends past the block */
    const b16 all = b16_load(block + KVF_Q3_K_SCALES - 2);
    const b16 low =
        _mm_shuffle_epi8(all, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    const b16 high = _mm_shuffle_epi8(
        all, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    const b16 four = _mm_and_si128(_mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 4, 4)), b16_set1(15));
    const b16 two = _mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)), b16_set1(3));
    return _mm_or_si128(four, _mm_slli_epi16(two, 4));
}

static inline b16 b16_q4_k_scales(const uint8_t *block)
{
    const b16 all = b16_load(block); /* d, dmin, then the twelve */
    const b16 first =
        _mm_srlv_epi32(_mm_shuffle_epi32(all, _MM_SHUFFLE(3, 2, 3, 1)), _mm_setr_epi32(0, 0, 0, 4));
    const b16 second = _mm_srli_epi32(_mm_shuffle_epi32(all, _MM_SHUFFLE(2, 2, 1, 1)), 2);
    return _mm_or_si128(
        _mm_and_si128(first, _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f)),
        _mm_and_si128(second, _mm_setr_epi32(0, 0x30303030, 0, 0x30303030)));
}

static inline void b16_add_ninth_bits(uint16_t sums[64], const uint8_t *bytes,
                                      const uint8_t *ninth_bits)
{
    const __m256i bits = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
                                           8192, 16384, INT16_MIN);
    for (int k = 0; k < 64; k += 16) {
        int16_t sixteen;
        memcpy(&sixteen, ninth_bits + k / 8, sizeof sixteen);
        const __m256i is_set =
            _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(sixteen), bits), bits);
        const __m256i low = _mm256_cvtepu8_epi16(b16_load(bytes + k));
        _mm256_store_si256((__m256i *)(sums + k),
                           _mm256_or_si256(low, _mm256_and_si256(is_set, _mm256_set1_epi16(256))));
    }
}

static inline float v16_half_4(const void *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(four)));
}

static inline float v16_half(const void *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return _cvtsh_ss(half);
}

#endif
