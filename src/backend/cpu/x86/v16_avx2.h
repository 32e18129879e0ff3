/* The 16-lane vector as two AVX2 registers. Lane meaning: v16_scalar.h. */
#ifndef KVF_CPU_V16_AVX2_H
#define KVF_CPU_V16_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/x86/b16.h"

typedef struct v16 {
    __m256 lo, hi;
} v16;
typedef struct v16i {
    __m256i lo, hi;
} v16i;

/* 16 registers: 2 x 2 vectors of sums take 8, operands up to 8. */
#define V16_DOT_HEADS 2
#define V16_DOT_ROWS 2
#define V16_OUT_HEADS 2
#define V16_OUT_VECTORS 2
/* maddubs wants one unsigned factor. */
#define V16_KEY_OFFSET 12
/* maddubs saturates at 2^15: 2 * (24 << 3) * (12 << 2) = 18432 fits, << 3 does not. */
#define V16_QUERY_SHIFT 2
/* Heads x tiles of 16 rows scored together in registers. */
#define V16_SCORE_HEADS 4
#define V16_SCORE_TILES 1
/* Rows of a weight x tokens multiplied together: 12 registers of sums, 4 of operands. */
#define V16_TILE_ROWS 2
#define V16_TILE_TOKENS 3
/* Rows of a weight read in turns for one token, group by group. */
#define V16_BESIDE_ROWS 2
#define V16_FEW_ROWS 1
#define V16_FEW_TOKENS 4
#define V16_MOST_FEW 4

static inline v16 v16_set1(float x)
{
    return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

static inline v16 v16_load(const float *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static inline void v16_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

static inline v16 v16_add(v16 a, v16 b)
{
    return (v16){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}

static inline v16 v16_sub(v16 a, v16 b)
{
    return (v16){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}

static inline v16 v16_mul(v16 a, v16 b)
{
    return (v16){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}

static inline v16 v16_div(v16 a, v16 b)
{
    return (v16){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}

static inline v16 v16_max(v16 a, v16 b)
{
    return (v16){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}

static inline v16 v16_min(v16 a, v16 b)
{
    return (v16){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}

static inline v16 v16_select_negative(v16 x, v16 a, v16 b)
{
    return (v16){_mm256_blendv_ps(b.lo, a.lo, x.lo), _mm256_blendv_ps(b.hi, a.hi, x.hi)};
}

static inline uint32_t v16_not_below(v16 a, float limit)
{
    const __m256 limits = _mm256_set1_ps(limit);
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.lo, limits, _CMP_NLT_UQ)) |
           (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.hi, limits, _CMP_NLT_UQ)) << 8;
}

static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    return (v16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

static inline float v16_sum(v16 a)
{
    const __m256 eight = _mm256_add_ps(a.lo, a.hi);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}

static inline __m256 v8_exp_scale(__m256 x, __m256 lowest, __m256 y, __m256 n)
{
    const __m256i bits =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    const __m256 scaled = _mm256_mul_ps(y, _mm256_castsi256_ps(bits));
    return _mm256_and_ps(scaled, _mm256_cmp_ps(x, lowest, _CMP_GE_OQ));
}

static inline v16 v16_exp_scale(v16 x, float lowest, v16 y, v16 n)
{
    const __m256 limit = _mm256_set1_ps(lowest);
    return (v16){v8_exp_scale(x.lo, limit, y.lo, n.lo), v8_exp_scale(x.hi, limit, y.hi, n.hi)};
}

static inline v16 v16_load_f16(const void *p)
{
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1))};
}

/* Sign-extended codes have the sign twice: one is f16's, the other its highest exponent bit. */
static inline v16 v16_load_e4m3(const void *p)
{
    const __m256i codes = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
    const __m256i halves =
        _mm256_and_si256(_mm256_slli_epi16(codes, 7), _mm256_set1_epi16((short)0xbfff));
    return (v16){_mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
                 _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
}

static inline v16i v16i_set1(int32_t x)
{
    return (v16i){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}

static inline v16i v16i_dot4(v16i acc, const uint8_t keys[16][4], const int8_t *query)
{
    int32_t four;
    memcpy(&four, query, sizeof four);
    const __m256i q = _mm256_set1_epi32(four);
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i lo = _mm256_maddubs_epi16(_mm256_load_si256((const __m256i *)keys), q);
    const __m256i hi = _mm256_maddubs_epi16(_mm256_load_si256((const __m256i *)keys + 1), q);
    return (v16i){_mm256_add_epi32(acc.lo, _mm256_madd_epi16(lo, ones)),
                  _mm256_add_epi32(acc.hi, _mm256_madd_epi16(hi, ones))};
}

static inline v16 v16i_to_float(v16i a)
{
    return (v16){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}

static inline void v16i_store(int32_t *p, v16i a)
{
    _mm256_storeu_si256((__m256i *)p, a.lo);
    _mm256_storeu_si256((__m256i *)(p + 8), a.hi);
}

static inline void v16_load_words(const uint8_t *const rows[16], uint32_t words[16][16])
{
    for (int r = 0; r < 16; r++)
        for (int j = 0; j < 16; j++)
            memcpy(&words[j][r], rows[r] + 4 * j, 4);
}

static inline void v16_expand_codes(const uint32_t words[16], const uint32_t shifts[16],
                                    const uint32_t offsets[16], uint8_t low[16][4],
                                    uint8_t high[16][4])
{
    /* doubled codes 0 1 2 3 4 6 8 12 and their negatives, plus 12: at most 24, so that a
       shift by 3 stays within its byte */
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int i = 0; i < 2; i++) {
        const __m256i word = _mm256_load_si256((const __m256i *)words + i);
        const __m256i shift = _mm256_load_si256((const __m256i *)shifts + i);
        const __m256i offset = _mm256_load_si256((const __m256i *)offsets + i);
        const __m256i even = _mm256_shuffle_epi8(table, _mm256_and_si256(word, nibble));
        const __m256i odd =
            _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(word, 4), nibble));
        _mm256_store_si256((__m256i *)low + i,
                           _mm256_add_epi8(_mm256_sllv_epi32(even, shift), offset));
        _mm256_store_si256((__m256i *)high + i,
                           _mm256_add_epi8(_mm256_sllv_epi32(odd, shift), offset));
    }
}

static inline v16 v16_abs(v16 a)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16){_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}

static inline float v16_highest(v16 a)
{
    const __m256 eight = _mm256_max_ps(a.lo, a.hi);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}

static inline __m256 v8_swap(__m256 a, int stride)
{
    return stride == 1   ? _mm256_permute_ps(a, 0xb1)
           : stride == 2 ? _mm256_permute_ps(a, 0x4e)
                         : _mm256_permute2f128_ps(a, a, 0x01);
}

static inline v16i v16i_abs_bits(v16 a)
{
    const v16 abs = v16_abs(a);
    return (v16i){_mm256_castps_si256(abs.lo), _mm256_castps_si256(abs.hi)};
}

static inline v16i v16i_max(v16i a, v16i b)
{
    return (v16i){_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)};
}

static inline uint32_t v16i_highest(v16i a)
{
    const __m256i eight = _mm256_max_epi32(a.lo, a.hi);
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

static inline v16 v16_swap(v16 a, int stride)
{
    return stride == 8 ? (v16){a.hi, a.lo} : (v16){v8_swap(a.lo, stride), v8_swap(a.hi, stride)};
}

static inline v16 v16_negate_odd(v16 a, int stride)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 minus = _mm256_set1_ps(-0.0f);
    if (stride == 8)
        return (v16){a.lo, _mm256_xor_ps(a.hi, minus)};
    const __m256i even = _mm256_cmpeq_epi32(_mm256_and_si256(lane, _mm256_set1_epi32(stride)),
                                            _mm256_setzero_si256());
    const __m256 flip = _mm256_andnot_ps(_mm256_castsi256_ps(even), minus);
    return (v16){_mm256_xor_ps(a.lo, flip), _mm256_xor_ps(a.hi, flip)};
}

static inline __m256 v8_round_small(__m256 a, int drop, float normal, float magic)
{
    const __m256 minus = _mm256_set1_ps(-0.0f);
    const __m256 size = _mm256_andnot_ps(minus, a);
    __m256i bits = _mm256_castps_si256(size);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, drop), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32((1 << (drop - 1)) - 1));
    bits = _mm256_andnot_si256(_mm256_set1_epi32((1 << drop) - 1), bits);
    const __m256 step = _mm256_set1_ps(magic);
    const __m256 small = _mm256_sub_ps(_mm256_add_ps(size, step), step);
    const __m256 is_small = _mm256_cmp_ps(size, _mm256_set1_ps(normal), _CMP_LT_OQ);
    const __m256 rounded = _mm256_blendv_ps(_mm256_castsi256_ps(bits), small, is_small);
    return _mm256_or_ps(rounded, _mm256_and_ps(a, minus));
}

static inline v16 v16_round_small(v16 a, int drop, float normal, float magic)
{
    return (v16){v8_round_small(a.lo, drop, normal, magic),
                 v8_round_small(a.hi, drop, normal, magic)};
}

static inline void v16_store_f16(uint16_t *p, v16 a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)p + 1, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}

/* Lane l + lane l + 8 of a in the low half, of b in the high half, then l + 4. */
static inline __m256 v8_fold_4(v16 a, v16 b)
{
    const __m256 x = _mm256_add_ps(a.lo, a.hi);
    const __m256 y = _mm256_add_ps(b.lo, b.hi);
    return _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
}

/*
 * out[t * stride + r] = v16_sum(acc[t][r]) of three tokens and two rows, six trees at once;
 * tokens that are not there repeat the first.
 */
#define V16_FINISH
static inline __attribute__((always_inline)) void
v16_finish(v16 acc[V16_TILE_TOKENS][V16_TILE_ROWS], const int n_tokens, float *out, size_t stride)
{
    const int t1 = n_tokens > 1 ? 1 : 0;
    const int t2 = n_tokens > 2 ? 2 : 0;
    const __m256 a = v8_fold_4(acc[0][0], acc[0][1]); /* row 0 in the low half, 1 in the high */
    const __m256 b = v8_fold_4(acc[t1][0], acc[t1][1]);
    const __m256 c = v8_fold_4(acc[t2][0], acc[t2][1]);
    /* + 2, then + 1, within halves */
    const __m256 ab = _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
    const __m256 cc = _mm256_add_ps(c, _mm256_permute_ps(c, 0x4e));
    const __m256 all =
        _mm256_add_ps(_mm256_shuffle_ps(ab, cc, 0x88), _mm256_shuffle_ps(ab, cc, 0xdd));
    /* tokens 0 1 2 2 of row 0, and of row 1 */
    const __m128 low = _mm256_castps256_ps128(all);
    const __m128 high = _mm256_extractf128_ps(all, 1);
    const __m128 pairs = _mm_unpacklo_ps(low, high);
    _mm_storel_pi((__m64 *)out, pairs);
    if (n_tokens > 1)
        _mm_storeh_pi((__m64 *)(out + stride), pairs);
    if (n_tokens > 2)
        _mm_storel_pi((__m64 *)(out + 2 * stride), _mm_unpackhi_ps(low, high));
}

/* In a register: gcc would load it again for each of its multiply-adds. */
static inline __m256 v8_load_once(const float *p)
{
    __m256 eight = _mm256_loadu_ps(p);
    __asm__("" : "+x"(eight));
    return eight;
}

/*
 * One half of all, then the other: 12 sums, two rows and a token are 15 of 16 registers, and 10
 * loads serve 12 multiply-adds. Whole rows would take 18 registers, or 18 loads.
 */
#define V16_TILE_STEP
static inline __attribute__((always_inline)) void
v16_tile_step(v16 acc[V16_TILE_TOKENS][V16_TILE_ROWS], const float *rows,
              const float *const *tokens, size_t at, const int n_tokens)
{
    const __m256 low0 = _mm256_loadu_ps(rows);
    const __m256 low1 = _mm256_loadu_ps(rows + 16);
    KVF_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        const __m256 token = v8_load_once(tokens[t] + at);
        acc[t][0].lo = _mm256_fmadd_ps(low0, token, acc[t][0].lo);
        acc[t][1].lo = _mm256_fmadd_ps(low1, token, acc[t][1].lo);
    }
    const __m256 high0 = _mm256_loadu_ps(rows + 8);
    const __m256 high1 = _mm256_loadu_ps(rows + 24);
    KVF_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        const __m256 token = v8_load_once(tokens[t] + at + 8);
        acc[t][0].hi = _mm256_fmadd_ps(high0, token, acc[t][0].hi);
        acc[t][1].hi = _mm256_fmadd_ps(high1, token, acc[t][1].hi);
    }
}

/* ---- Codes of weights ------------------------------------------------------------ */

typedef __m256i v16_highest_code;

/* Of 128 e4m3 codes with the sign bit set, as unsigned bytes. */
static inline v16_highest_code v16_highest_code_of_128(const uint8_t *codes)
{
    const __m256i sign = _mm256_set1_epi8((char)0x80);
    __m256i highest = sign;
    KVF_UNROLL
    for (int i = 0; i < 128; i += 32)
        highest = _mm256_max_epu8(
            highest, _mm256_or_si256(_mm256_loadu_si256((const __m256i *)(codes + i)), sign));
    return highest;
}

static inline v16_highest_code v16_higher_code(v16_highest_code a, v16_highest_code b)
{
    return _mm256_max_epu8(a, b);
}

static inline bool v16_is_nan_code(v16_highest_code highest)
{
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(highest, _mm256_set1_epi8(-1))) != 0;
}

static inline v16 v16_from_i8(b16 a)
{
    return (v16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(a)),
                 _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(a, a)))};
}

static inline v16 v16_load_i8(const void *p)
{
    return (v16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b16_load_8(p))),
                 _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b16_load_8((const char *)p + 8)))};
}

static inline v16 v16_two_halves(const void *p)
{
    int32_t two;
    memcpy(&two, p, sizeof two);
    const __m128 values = _mm_cvtph_ps(_mm_cvtsi32_si128(two));
    return (v16){_mm256_broadcastss_ps(values), _mm256_broadcastss_ps(_mm_movehdup_ps(values))};
}

static inline v16 v16_set1_half(const void *p)
{
    float half = v16_half_4(p);
    V16_IN_MEMORY(half);
    return v16_set1(half);
}

static inline __m256 v8_load_bf16(const void *p)
{
    const __m128i high = _mm_loadu_si128((const __m128i *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(high), 16));
}

static inline v16 v16_load_bf16(const void *p)
{
    return (v16){v8_load_bf16(p), v8_load_bf16((const __m128i *)p + 1)};
}

/* 16 codes, one a lane. */
typedef v16i v16_codes;

static inline v16_codes v16_codes_load(const uint8_t *p)
{
    return (v16_codes){_mm256_cvtepu8_epi32(b16_load_8(p)),
                       _mm256_cvtepu8_epi32(b16_load_8(p + 8))};
}

/* In place: no shift is needed, the scale takes it back. */
#define V16_FIELD_UNIT(shift) (1.0f / (float)(1 << (shift)))
static inline v16 v16_field(v16_codes codes, int shift, int bits)
{
    const __m256i mask = _mm256_set1_epi32(((1 << bits) - 1) << shift);
    return (v16){_mm256_cvtepi32_ps(_mm256_and_si256(codes.lo, mask)),
                 _mm256_cvtepi32_ps(_mm256_and_si256(codes.hi, mask))};
}

/* Four bits times a scale, plus a minimum. */
static inline v16 v16_nibbles(v16_codes codes, int shift, v16 scale, v16 minimum)
{
    return v16_fma(scale, v16_field(codes, shift, 4), minimum);
}

static inline v16 v16_top_nibbles_of_8(const uint8_t *words, int stride)
{
    return (v16){v8_top_nibbles(words, stride), _mm256_setzero_ps()};
}

/* Looked up as bytes, then scaled. */
typedef struct v16_book {
    b16 values;
    v16 scale;
    const uint8_t *codes;
} v16_book;

static inline void v16_book_of(v16_book *book, const int8_t values[16], v16 scale,
                               const uint8_t *codes)
{
    *book = (v16_book){b16_load(values), scale, codes};
}

static inline v16 v16_book_get(const v16_book *book, int g)
{
    const b16 nibbles = b16_shr_and(b16_load(book->codes), 4 * g, 15);
    return v16_mul(v16_from_i8(_mm_shuffle_epi8(book->values, nibbles)), book->scale);
}

/* Magnitudes, three bits of a code; the fourth is the sign. Eight codes are in order in a word. */
typedef struct v16_e2m1 {
    __m256 values;
    const uint8_t *codes;
} v16_e2m1;

static inline void v16_e2m1_of(v16_e2m1 *book, v16 scale, const uint8_t *codes)
{
    const __m256 doubled = _mm256_setr_ps(0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 6.0f, 8.0f, 12.0f);
    book->values = _mm256_mul_ps(doubled, scale.lo);
    book->codes = codes;
}

static inline __m256 v8_e2m1_get(__m256 values, const uint8_t *codes)
{
    int32_t word;
    memcpy(&word, codes, sizeof word);
    const __m256i all = _mm256_set1_epi32(word);
    /* permutevar8x32 reads the three lowest bits */
    const __m256 value = _mm256_permutevar8x32_ps(
        values, _mm256_srlv_epi32(all, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28)));
    const __m256i signs = _mm256_sllv_epi32(all, _mm256_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0));
    return _mm256_xor_ps(
        value, _mm256_castsi256_ps(_mm256_and_si256(signs, _mm256_set1_epi32(INT32_MIN))));
}

static inline v16 v16_e2m1_get(const v16_e2m1 *book, int g)
{
    return (v16){v8_e2m1_get(book->values, book->codes + 8 * g),
                 v8_e2m1_get(book->values, book->codes + 8 * g + 4)};
}

#endif
