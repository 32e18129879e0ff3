/*
 * The 16-lane vector as one AVX-512 register (F, BW, DQ, VL); with VNNI where the
 * including file is compiled for it. Lane meaning: v16_scalar.h.
 */
#ifndef KVF_CPU_V16_AVX512_H
#define KVF_CPU_V16_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/x86/b16.h"

typedef __m512 v16;
typedef __m512i v16i;

/* 32 registers: 4 x 6 sums and 10 operands, of which the rows come from memory. */
#define V16_DOT_HEADS 4
#define V16_DOT_ROWS 4
#define V16_OUT_HEADS 4
#define V16_OUT_VECTORS 4
/* dpbusd and maddubs want one unsigned factor. */
#define V16_KEY_OFFSET 12
/*
 * maddubs saturates at 2^15: 2 * (24 << 3) * (12 << 2) = 18432 fits, << 3 does not.
 * dpbusd adds up in 32 bits.
 */
#ifdef __AVX512VNNI__
#define V16_QUERY_SHIFT 3
#else
#define V16_QUERY_SHIFT 2
#endif
/* Heads x tiles of 16 rows scored together in registers. */
#define V16_SCORE_HEADS 8
#define V16_SCORE_TILES 2
/* Rows of a weight x tokens multiplied together: 24 sums, 4 rows, one token. */
#define V16_TILE_ROWS 4
#define V16_TILE_TOKENS 6
/* Rows of a weight read in turns for one token, group by group. */
#define V16_BESIDE_ROWS 4
#define V16_FEW_ROWS 2
#define V16_FEW_TOKENS 8
#define V16_MOST_FEW 16

static inline v16 v16_set1(float x)
{
    return _mm512_set1_ps(x);
}

static inline v16 v16_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void v16_store(float *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}

static inline v16 v16_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}

static inline v16 v16_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}

static inline v16 v16_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}

static inline v16 v16_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}

static inline v16 v16_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}

static inline v16 v16_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}

static inline v16 v16_select_negative(v16 x, v16 a, v16 b)
{
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), b, a);
}

static inline uint32_t v16_not_below(v16 a, float limit)
{
    return _mm512_cmp_ps_mask(a, _mm512_set1_ps(limit), _CMP_NLT_UQ);
}

static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline float v16_sum(v16 a)
{
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}

/* Two vectors to one: lane l + lane l + 8 of a in the low half, of b in the high half. */
static inline v16 v16_fold_8(v16 a, v16 b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}

/* The next step of the tree, + 4: quarters a, b of the first and c, d of the second. */
static inline v16 v16_fold_4(v16 ab, v16 cd)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

/*
 * scores[r * stride + h] = v16_sum(sums[h][r]) * scale, 16 trees at once: each step
 * adds the same lanes as v16_sum and halves the number of vectors.
 */
#define V16_SUM_4X4
static inline void v16_sum_4x4(v16 sums[4][4], float scale, float *scores, uint32_t stride)
{
    v16 head[4]; /* quarter r: the four lanes left of sums[h][r] */
    for (int h = 0; h < 4; h++)
        head[h] =
            v16_fold_4(v16_fold_8(sums[h][0], sums[h][1]), v16_fold_8(sums[h][2], sums[h][3]));
    /* + 2, then + 1, within quarters; heads end up beside each other. */
    const v16 p = _mm512_add_ps(_mm512_shuffle_ps(head[0], head[1], 0x44),
                                _mm512_shuffle_ps(head[0], head[1], 0xee));
    const v16 q = _mm512_add_ps(_mm512_shuffle_ps(head[2], head[3], 0x44),
                                _mm512_shuffle_ps(head[2], head[3], 0xee));
    v16 all = _mm512_add_ps(_mm512_shuffle_ps(p, q, 0x88), _mm512_shuffle_ps(p, q, 0xdd));
    all = _mm512_mul_ps(all, _mm512_set1_ps(scale));
    _mm_storeu_ps(scores, _mm512_extractf32x4_ps(all, 0));
    _mm_storeu_ps(scores + stride, _mm512_extractf32x4_ps(all, 1));
    _mm_storeu_ps(scores + 2 * (size_t)stride, _mm512_extractf32x4_ps(all, 2));
    _mm_storeu_ps(scores + 3 * (size_t)stride, _mm512_extractf32x4_ps(all, 3));
}

static inline v16 v16_exp_scale(v16 x, float lowest, v16 y, v16 n)
{
    const __m512i bits =
        _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    const __mmask16 kept = _mm512_cmp_ps_mask(x, _mm512_set1_ps(lowest), _CMP_GE_OQ);
    return _mm512_maskz_mul_ps(kept, y, _mm512_castsi512_ps(bits));
}

static inline v16 v16_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Sign-extended codes have the sign twice: one is f16's, the other its highest exponent bit. */
static inline v16 v16_load_e4m3(const void *p)
{
    const __m256i codes = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
    return _mm512_cvtph_ps(
        _mm256_and_si256(_mm256_slli_epi16(codes, 7), _mm256_set1_epi16((short)0xbfff)));
}

static inline v16i v16i_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}

/* Here the value is in a register: without it gcc copies sums around the end of a loop. */
#define V16_KEEP
static inline void v16i_keep(v16i *a)
{
    __asm__("" : "+v"(*a));
}

static inline v16i v16i_dot4(v16i acc, const uint8_t keys[16][4], const int8_t *query)
{
    int32_t four;
    memcpy(&four, query, sizeof four);
    const __m512i k = _mm512_load_si512(keys);
    const __m512i q = _mm512_set1_epi32(four);
#ifdef __AVX512VNNI__
    return _mm512_dpbusd_epi32(acc, k, q);
#else
    return _mm512_add_epi32(acc,
                            _mm512_madd_epi16(_mm512_maddubs_epi16(k, q), _mm512_set1_epi16(1)));
#endif
}

static inline v16 v16i_to_float(v16i a)
{
    return _mm512_cvtepi32_ps(a);
}

static inline void v16i_store(int32_t *p, v16i a)
{
    _mm512_storeu_si512(p, a);
}

/*
 * A 16 x 16 transpose of words in eight steps: four times four rows, then four times four
 * words of all rows.
 */
#define V16_QUADS

/* Rows 4 q .. + 4: quads[4 q + k] holds, in its quarter i, word 4 i + k of these rows. */
static inline void v16_load_quad_words(const uint8_t *const *rows, uint32_t (*quads)[16])
{
    const __m512i a0 = _mm512_loadu_si512(rows[0]);
    const __m512i a1 = _mm512_loadu_si512(rows[1]);
    const __m512i a2 = _mm512_loadu_si512(rows[2]);
    const __m512i a3 = _mm512_loadu_si512(rows[3]);
    const __m512i b0 = _mm512_unpacklo_epi32(a0, a1);
    const __m512i b1 = _mm512_unpackhi_epi32(a0, a1);
    const __m512i b2 = _mm512_unpacklo_epi32(a2, a3);
    const __m512i b3 = _mm512_unpackhi_epi32(a2, a3);
    _mm512_store_si512(quads[0], _mm512_unpacklo_epi64(b0, b2));
    _mm512_store_si512(quads[1], _mm512_unpackhi_epi64(b0, b2));
    _mm512_store_si512(quads[2], _mm512_unpacklo_epi64(b1, b3));
    _mm512_store_si512(quads[3], _mm512_unpackhi_epi64(b1, b3));
}

/* words[4 i + k] of all rows from the four quads [k], [4 + k] .. */
static inline void v16_merge_quad_words(uint32_t (*quads)[16], uint32_t k, uint32_t (*words)[16])
{
    const __m512i q0 = _mm512_load_si512(quads[k]);
    const __m512i q1 = _mm512_load_si512(quads[4 + k]);
    const __m512i q2 = _mm512_load_si512(quads[8 + k]);
    const __m512i q3 = _mm512_load_si512(quads[12 + k]);
    const __m512i low01 = _mm512_shuffle_i32x4(q0, q1, 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(q0, q1, 0xee);
    const __m512i low23 = _mm512_shuffle_i32x4(q2, q3, 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(q2, q3, 0xee);
    _mm512_store_si512(words[k], _mm512_shuffle_i32x4(low01, low23, 0x88));
    _mm512_store_si512(words[4 + k], _mm512_shuffle_i32x4(low01, low23, 0xdd));
    _mm512_store_si512(words[8 + k], _mm512_shuffle_i32x4(high01, high23, 0x88));
    _mm512_store_si512(words[12 + k], _mm512_shuffle_i32x4(high01, high23, 0xdd));
}

static inline void v16_expand_codes(const uint32_t words[16], const uint32_t shifts[16],
                                    const uint32_t offsets[16], uint8_t low[16][4],
                                    uint8_t high[16][4])
{
    /* doubled codes 0 1 2 3 4 6 8 12 and their negatives, plus 12: at most 24, so that a
       shift by 3 stays within its byte */
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i word = _mm512_load_si512(words);
    const __m512i shift = _mm512_load_si512(shifts);
    const __m512i offset = _mm512_load_si512(offsets);
    const __m512i even = _mm512_shuffle_epi8(table, _mm512_and_si512(word, nibble));
    const __m512i odd =
        _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(word, 4), nibble));
    _mm512_store_si512(low, _mm512_add_epi8(_mm512_sllv_epi32(even, shift), offset));
    _mm512_store_si512(high, _mm512_add_epi8(_mm512_sllv_epi32(odd, shift), offset));
}

static inline v16 v16_abs(v16 a)
{
    return _mm512_abs_ps(a);
}

static inline float v16_highest(v16 a)
{
    return _mm512_reduce_max_ps(a);
}

static inline v16 v16_swap(v16 a, int stride)
{
    return stride == 1   ? _mm512_permute_ps(a, 0xb1)
           : stride == 2 ? _mm512_permute_ps(a, 0x4e)
           : stride == 4 ? _mm512_shuffle_f32x4(a, a, 0xb1)
                         : _mm512_shuffle_f32x4(a, a, 0x4e);
}

static inline v16 v16_negate_odd(v16 a, int stride)
{
    const __mmask16 odd = stride == 1   ? 0xaaaa
                          : stride == 2 ? 0xcccc
                          : stride == 4 ? 0xf0f0
                                        : 0xff00;
    return _mm512_mask_xor_ps(a, odd, a, _mm512_set1_ps(-0.0f));
}

static inline v16 v16_round_small(v16 a, int drop, float normal, float magic)
{
    const __m512 size = _mm512_abs_ps(a);
    __m512i bits = _mm512_castps_si512(size);
    const __m512i odd =
        _mm512_and_si512(_mm512_srli_epi32(bits, (unsigned)drop), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32((1 << (drop - 1)) - 1));
    bits = _mm512_andnot_si512(_mm512_set1_epi32((1 << drop) - 1), bits);
    const __m512 step = _mm512_set1_ps(magic);
    const __mmask16 small = _mm512_cmp_ps_mask(size, _mm512_set1_ps(normal), _CMP_LT_OQ);
    const __m512 rounded =
        _mm512_mask_sub_ps(_mm512_castsi512_ps(bits), small, _mm512_add_ps(size, step), step);
    return _mm512_or_ps(rounded, _mm512_and_ps(a, _mm512_set1_ps(-0.0f)));
}

static inline v16i v16i_abs_bits(v16 a)
{
    return _mm512_castps_si512(_mm512_abs_ps(a));
}

static inline v16i v16i_max(v16i a, v16i b)
{
    return _mm512_max_epu32(a, b);
}

static inline uint32_t v16i_highest(v16i a)
{
    return _mm512_reduce_max_epu32(a);
}

static inline void v16_store_f16(uint16_t *p, v16 a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

/* v16_align_scales of score.inc.h, 16 rows at once. */
#define V16_ALIGN_SCALES
static inline bool v16_align_scales(const uint32_t scales[16], uint32_t most_shift,
                                    uint32_t shifts[4][16], uint32_t offsets[4][16],
                                    float *half_scales)
{
    const __m512i words = _mm512_load_si512(scales);
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i most = _mm512_set1_epi32(255);
    __m512i bytes[4];
    __m512i low = most;
    __m512i high = _mm512_setzero_si512();
    for (unsigned b = 0; b < 4; b++) {
        bytes[b] = _mm512_and_si512(_mm512_srli_epi32(words, 8 * b), most);
        low = _mm512_mask_min_epu32(low, _mm512_cmpgt_epu32_mask(bytes[b], one), low, bytes[b]);
        high = _mm512_max_epu32(high, bytes[b]);
    }
    const __mmask16 zero = _mm512_cmple_epu32_mask(high, one);
    low = _mm512_mask_mov_epi32(low, zero, _mm512_set1_epi32(127));
    high = _mm512_mask_mov_epi32(high, zero, _mm512_set1_epi32(127));
    const __mmask16 outside =
        _mm512_cmpgt_epu32_mask(_mm512_sub_epi32(high, low), _mm512_set1_epi32((int)most_shift)) |
        _mm512_cmplt_epu32_mask(low, _mm512_set1_epi32(KVF_ALIGNED_LOWEST)) |
        _mm512_cmpgt_epu32_mask(high, _mm512_set1_epi32(KVF_ALIGNED_HIGHEST));
    if (outside)
        return false;
    _mm512_storeu_si512(half_scales, _mm512_slli_epi32(_mm512_sub_epi32(low, one), 23));
    const __m512i offset = _mm512_set1_epi32(V16_KEY_OFFSET);
    const __m512i largest = _mm512_set1_epi32(V16_KEY_OFFSET << KVF_ALIGNED_KEY_SHIFT);
    /* the lowest byte of each word into all four */
    const __m512i spread =
        _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    for (unsigned b = 0; b < 4; b++) {
        const __mmask16 nonzero = _mm512_cmpgt_epu32_mask(bytes[b], one);
        const __m512i shift = _mm512_maskz_sub_epi32(nonzero, bytes[b], low);
        const __m512i missing = _mm512_sub_epi32(largest, _mm512_sllv_epi32(offset, shift));
        _mm512_store_si512(shifts[b], shift);
        _mm512_store_si512(offsets[b], _mm512_shuffle_epi8(missing, spread));
    }
    return true;
}

/* v16_sum of four vectors of each of four tokens: four sums a token behind each other. */
static inline v16 v16_sum_4_of_4(const v16 a[4], const v16 b[4], const v16 c[4], const v16 d[4])
{
    /* quarter r: the four lanes left of vector r */
    const v16 qa = v16_fold_4(v16_fold_8(a[0], a[1]), v16_fold_8(a[2], a[3]));
    const v16 qb = v16_fold_4(v16_fold_8(b[0], b[1]), v16_fold_8(b[2], b[3]));
    const v16 qc = v16_fold_4(v16_fold_8(c[0], c[1]), v16_fold_8(c[2], c[3]));
    const v16 qd = v16_fold_4(v16_fold_8(d[0], d[1]), v16_fold_8(d[2], d[3]));
    /* + 2, then + 1 within quarters: quarter r holds vector r of all four */
    const v16 p = _mm512_add_ps(_mm512_shuffle_ps(qa, qb, 0x44), _mm512_shuffle_ps(qa, qb, 0xee));
    const v16 q = _mm512_add_ps(_mm512_shuffle_ps(qc, qd, 0x44), _mm512_shuffle_ps(qc, qd, 0xee));
    const v16 all = _mm512_add_ps(_mm512_shuffle_ps(p, q, 0x88), _mm512_shuffle_ps(p, q, 0xdd));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_ps(order, all);
}

/* out[t * stride + r] = v16_sum(acc[t][r]); tokens that are not there repeat one that is. */
#define V16_FINISH
static inline __attribute__((always_inline)) void
v16_finish(v16 acc[V16_TILE_TOKENS][V16_TILE_ROWS], const int n_tokens, float *out, size_t stride)
{
    KVF_UNROLL
    for (int t = 0; t < n_tokens; t += 4) {
        const int last = n_tokens - 1;
        const int t1 = t + 1 < last ? t + 1 : last;
        const int t2 = t + 2 < last ? t + 2 : last;
        const int t3 = t + 3 < last ? t + 3 : last;
        const v16 sums = v16_sum_4_of_4(acc[t], acc[t1], acc[t2], acc[t3]);
        _mm_storeu_ps(out + (size_t)t * stride, _mm512_extractf32x4_ps(sums, 0));
        if (t + 1 < n_tokens)
            _mm_storeu_ps(out + (size_t)(t + 1) * stride, _mm512_extractf32x4_ps(sums, 1));
        if (t + 2 < n_tokens)
            _mm_storeu_ps(out + (size_t)(t + 2) * stride, _mm512_extractf32x4_ps(sums, 2));
        if (t + 3 < n_tokens)
            _mm_storeu_ps(out + (size_t)(t + 3) * stride, _mm512_extractf32x4_ps(sums, 3));
    }
}

/* ---- Codes of weights ------------------------------------------------------------ */

typedef __m512i v16_highest_code;

/* Of 128 e4m3 codes with the sign bit set, as unsigned bytes. */
static inline v16_highest_code v16_highest_code_of_128(const uint8_t *codes)
{
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    return _mm512_max_epu8(_mm512_or_si512(_mm512_loadu_si512(codes), sign),
                           _mm512_or_si512(_mm512_loadu_si512(codes + 64), sign));
}

static inline v16_highest_code v16_higher_code(v16_highest_code a, v16_highest_code b)
{
    return _mm512_max_epu8(a, b);
}

static inline bool v16_is_nan_code(v16_highest_code highest)
{
    return _mm512_cmpeq_epi8_mask(highest, _mm512_set1_epi8(-1)) != 0;
}

static inline v16 v16_from_i8(b16 a)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(a));
}

static inline v16 v16_load_i8(const void *p)
{
    return v16_from_i8(b16_load(p));
}

static inline v16 v16_two_halves(const void *p)
{
    int32_t two;
    memcpy(&two, p, sizeof two);
    const __m128 values = _mm_cvtph_ps(_mm_cvtsi32_si128(two));
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1),
                                 _mm512_castps128_ps512(values));
}

static inline v16 v16_set1_half(const void *p)
{
    float half = v16_half_4(p);
    V16_IN_MEMORY(half);
    return v16_set1(half);
}

static inline v16 v16_load_bf16(const void *p)
{
    const __m256i high = _mm256_loadu_si256((const __m256i *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

/* 16 codes, one a lane. */
typedef __m512i v16_codes;

static inline v16_codes v16_codes_load(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(b16_load(p));
}

/* In place: no shift is needed, the scale takes it back. */
#define V16_FIELD_UNIT(shift) (1.0f / (float)(1 << (shift)))
static inline v16 v16_field(v16_codes codes, int shift, int bits)
{
    return _mm512_cvtepi32_ps(
        _mm512_and_si512(codes, _mm512_set1_epi32(((1 << bits) - 1) << shift)));
}

/*
 * Four bits times a scale, plus a minimum: a book, which serves two groups, and one permutation
 * of it instead of a conversion, a mask and an operation of the multipliers.
 */
static inline v16 v16_nibbles(v16_codes codes, int shift, v16 scale, v16 minimum)
{
    const __m512 low = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512 high =
        _mm512_setr_ps(0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240);
    const v16 book = v16_fma(scale, shift ? high : low, minimum);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(codes, (unsigned)shift), book);
}

static inline v16 v16_top_nibbles_of_8(const uint8_t *words, int stride)
{
    return _mm512_castps256_ps512(v8_top_nibbles(words, stride));
}

/* All 16 values in one register; permutexvar reads the four lowest bits of a widened byte. */
typedef struct v16_book {
    __m512 values;
    __m512i codes;
} v16_book;

static inline void v16_book_of(v16_book *book, const int8_t values[16], v16 scale,
                               const uint8_t *codes)
{
    book->values = v16_mul(v16_load_i8(values), scale);
    book->codes = _mm512_cvtepu8_epi32(b16_load(codes));
}

static inline v16 v16_book_get(const v16_book *book, int g)
{
    return _mm512_permutexvar_ps(_mm512_srli_epi32(book->codes, 4 * (unsigned)g), book->values);
}

/* The same; a group's codes are in order in two words. */
typedef struct v16_e2m1 {
    __m512 values;
    const uint8_t *codes;
} v16_e2m1;

static inline void v16_e2m1_of(v16_e2m1 *book, v16 scale, const uint8_t *codes)
{
    const __m512 doubled = _mm512_setr_ps(0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 6.0f, 8.0f, 12.0f, -0.0f,
                                          -1.0f, -2.0f, -3.0f, -4.0f, -6.0f, -8.0f, -12.0f);
    book->values = _mm512_mul_ps(doubled, scale);
    book->codes = codes;
}

/* Loading a word to all lanes takes none of the pipes that permutations need. */
static inline v16 v16_e2m1_get(const v16_e2m1 *book, int g)
{
    typedef struct word {
        uint8_t bytes[4];
    } word;
    const word *words = (const word *)(book->codes + 8 * g);
    /* in assembler, as gcc would load both at once into another register */
    __m512i both;
    __asm__("vpbroadcastd %1, %0" : "=v"(both) : "m"(words[0]));
    __asm__("vpbroadcastd %1, %0%{%2%}" : "+v"(both) : "m"(words[1]), "Yk"((__mmask16)0xff00));
    const __m512i shifts =
        _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(both, shifts), book->values);
}

#endif
