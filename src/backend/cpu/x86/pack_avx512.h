/*
 * What AVX-512 does its own way in pack.inc.h: codes made of the f32's bits at once, and the
 * seven scales of a row side by side.
 */
#ifndef KVF_CPU_PACK_AVX512_H
#define KVF_CPU_PACK_AVX512_H

#include "backend/cpu/x86/v16_avx512.h"
#include "shared/layout.h"

#define V16_STORE_CODES

/*
 * Stores 16 codes of `mantissa` bits below `exponent` bits (of bias 2^(exponent - 1) - 1), the
 * sign above, a byte each: round to nearest even of values that do not overflow.
 *
 * A power of two M is added whose last bit is worth the code's last bit, so that the sum's
 * mantissa is k, the value in that unit, rounded. M follows the value's exponent down to the
 * smallest normal one. The code is (exponent of M << mantissa) + k + a constant, of which only
 * the lowest byte is wanted; the constant, which is even, is in M's mantissa already.
 */
static inline __attribute__((always_inline)) void
v16_store_codes(uint8_t *codes, v16 a, const int mantissa, const int exponent)
{
    const int drop = 23 - mantissa;
    const int normal = 128 - (1 << (exponent - 1)) + 1; /* biased exponent of the smallest one */
    /* the smallest normal value has k = 2^mantissa and the code 2^mantissa */
    const int constant = -((normal + drop) << mantissa) & 0xff;
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i power = _mm512_and_si512(bits, _mm512_set1_epi32(0x7f800000));
    const __m512i magic =
        _mm512_max_epu32(_mm512_add_epi32(power, _mm512_set1_epi32((drop << 23) + constant)),
                         _mm512_set1_epi32(((normal + drop) << 23) + constant));
    const __m512i sum =
        _mm512_castps_si512(_mm512_add_ps(_mm512_abs_ps(a), _mm512_castsi512_ps(magic)));
    const __m512i code = _mm512_add_epi32(_mm512_srli_epi32(sum, (unsigned)drop), sum);
    const __m512i sign = _mm512_srli_epi32(bits, (unsigned)(31 - mantissa - exponent));
    const __m512i sign_bit = _mm512_set1_epi32(1 << (mantissa + exponent));
    /* sign_bit ? sign : code */
    const __m512i all = _mm512_ternarylogic_epi32(sign_bit, sign, code, 0xca);
    _mm_storeu_si128((__m128i *)codes, _mm512_cvtepi32_epi8(all));
}

/* 32 codes of four bits to 16 bytes, the even ones low. */
static inline void v16_join_nibbles(uint8_t *joined, const uint8_t *codes)
{
    const __m256i all = _mm256_loadu_si256((const __m256i *)codes);
    const __m256i pairs = _mm256_maddubs_epi16(all, _mm256_set1_epi16(0x1001));
    _mm_storeu_si128((__m128i *)joined, _mm256_cvtepi16_epi8(pairs));
}

/* Of two vectors of maxima to one: first the farther halves, then the farther quarters. */
static inline v16 v16_max_halves(v16 a, v16 b)
{
    return _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}

static inline v16 v16_max_quarters(v16 ab, v16 cd)
{
    return _mm512_max_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

/* The largest magnitude of block i in lane 4 i, of block 4 + i in lane 4 i + 2; lane 14 is 0. */
static inline v16 v16_block_maxima(const float *values)
{
    v16 most[8];
    for (int block = 0; block < KVF_FP8_BLOCKS; block++) {
        const float *at = values + block * KVF_FP8_BLOCK_VALUES;
        const v16 low = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(at)),
                                      _mm512_abs_ps(_mm512_loadu_ps(at + 16)));
        const v16 high = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(at + 32)),
                                       _mm512_abs_ps(_mm512_loadu_ps(at + 48)));
        most[block] = _mm512_max_ps(low, high);
    }
    most[7] = _mm512_setzero_ps();
    const v16 a =
        v16_max_quarters(v16_max_halves(most[0], most[1]), v16_max_halves(most[2], most[3]));
    const v16 b =
        v16_max_quarters(v16_max_halves(most[4], most[5]), v16_max_halves(most[6], most[7]));
    const v16 both = _mm512_max_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
    return _mm512_max_ps(both, _mm512_permute_ps(both, 0xb1));
}

/*
 * The codes of a row of 448 and its 7 scale bytes with the zero byte: docs/FORMAT.md 3. The
 * exponent is that of kvf_fp8_exponent, eight at once.
 */
#define V16_PACK_FP8
static inline void v16_pack_fp8(const float *values, uint8_t *codes, uint8_t *scales)
{
    const __m512i floor = _mm512_castps_si512(_mm512_set1_ps(1e-4f));
    const __m512i bits = _mm512_max_epu32(_mm512_castps_si512(v16_block_maxima(values)), floor);
    const __m512i mantissa = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffff));
    /* a mantissa over 1.75 takes the next exponent: 448 is 1.75 * 2^8 */
    const __mmask16 over = _mm512_cmpgt_epi32_mask(mantissa, _mm512_set1_epi32(0x600000));
    const __m512i exponent = _mm512_srli_epi32(bits, 23);
    const __m512i byte =
        _mm512_sub_epi32(_mm512_mask_add_epi32(exponent, over, exponent, _mm512_set1_epi32(1)),
                         _mm512_set1_epi32(8));
    /* 2^-e: e = byte - 127, biased 127 - e */
    float inverses[16];
    _mm512_storeu_ps(inverses, _mm512_castsi512_ps(_mm512_slli_epi32(
                                   _mm512_sub_epi32(_mm512_set1_epi32(254), byte), 23)));
    for (int block = 0; block < KVF_FP8_BLOCKS; block++) {
        const v16 inverse = _mm512_set1_ps(inverses[block < 4 ? 4 * block : 4 * block - 14]);
        for (int i = block * KVF_FP8_BLOCK_VALUES; i < (block + 1) * KVF_FP8_BLOCK_VALUES; i += 16)
            v16_store_codes(codes + i, _mm512_mul_ps(_mm512_loadu_ps(values + i), inverse), 3, 4);
    }
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i ordered = _mm512_maskz_permutexvar_epi32(0x7f, order, byte);
    _mm_storel_epi64((__m128i *)scales, _mm512_cvtepi32_epi8(ordered));
}

#endif
