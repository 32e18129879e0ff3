/* The 16-lane vector in plain C: what every other v16_*.h must equal, lane by lane. */
#ifndef KVF_CPU_V16_SCALAR_H
#define KVF_CPU_V16_SCALAR_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "shared/half.h"

/* No block becomes registers here; unrolled 16 lanes deep it took 40 s to compile, not 6. */
#define KVF_UNROLL

typedef struct v16 {
    float lane[16];
} v16;
typedef struct v16i {
    int32_t lane[16];
} v16i;

/* Register blocks of the templates: heads x rows of dots, heads x vectors of outputs. */
#define V16_DOT_HEADS 1
#define V16_DOT_ROWS 1
#define V16_OUT_HEADS 1
#define V16_OUT_VECTORS 1
/* What key codes are stored plus; 0: stored signed. */
#define V16_KEY_OFFSET 0
#define V16_QUERY_SHIFT 3
/* Heads x tiles of 16 rows scored together in registers. */
#define V16_SCORE_HEADS 1
#define V16_SCORE_TILES 1
/* Rows of a weight x tokens multiplied together in registers. */
#define V16_TILE_ROWS 1
#define V16_TILE_TOKENS 1
/* Rows of a weight read in turns for one token, group by group. */
#define V16_BESIDE_ROWS 1
#define V16_FEW_ROWS 1
#define V16_FEW_TOKENS 4
#define V16_MOST_FEW 4

static inline v16 v16_set1(float x)
{
    v16 r;
    for (int i = 0; i < 16; i++)
        r.lane[i] = x;
    return r;
}

static inline v16 v16_load(const float *p)
{
    v16 r;
    memcpy(r.lane, p, sizeof r.lane);
    return r;
}

static inline void v16_store(float *p, v16 a)
{
    memcpy(p, a.lane, sizeof a.lane);
}

static inline v16 v16_add(v16 a, v16 b)
{
    for (int i = 0; i < 16; i++)
        a.lane[i] += b.lane[i];
    return a;
}

static inline v16 v16_sub(v16 a, v16 b)
{
    for (int i = 0; i < 16; i++)
        a.lane[i] -= b.lane[i];
    return a;
}

static inline v16 v16_mul(v16 a, v16 b)
{
    for (int i = 0; i < 16; i++)
        a.lane[i] *= b.lane[i];
    return a;
}

static inline v16 v16_div(v16 a, v16 b)
{
    for (int i = 0; i < 16; i++)
        a.lane[i] /= b.lane[i];
    return a;
}

/* a where a > b, else b. */
static inline v16 v16_max(v16 a, v16 b)
{
    for (int i = 0; i < 16; i++)
        a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}

/* a where a < b, else b. */
static inline v16 v16_min(v16 a, v16 b)
{
    for (int i = 0; i < 16; i++)
        a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}

/* a where x is negative, else b; either for -0 and NaN. */
static inline v16 v16_select_negative(v16 x, v16 a, v16 b)
{
    for (int i = 0; i < 16; i++)
        a.lane[i] = x.lane[i] < 0.0f ? a.lane[i] : b.lane[i];
    return a;
}

/* Bit i: lane i is not below the limit. */
static inline uint32_t v16_not_below(v16 a, float limit)
{
    uint32_t lanes = 0;
    for (int i = 0; i < 16; i++)
        lanes |= (uint32_t) !(a.lane[i] < limit) << i;
    return lanes;
}

/* a * b + c, rounded once. */
static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    for (int i = 0; i < 16; i++)
        c.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return c;
}

/* The tree of docs/FORMAT.md 9.2: lane l += lane l + 8, then + 4, + 2, + 1. */
static inline float v16_sum(v16 a)
{
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++)
            a.lane[i] += a.lane[i + half];
    return a.lane[0];
}

/* y * 2^n for integral n in -126 .. 127; 0 where not x >= lowest. */
static inline v16 v16_exp_scale(v16 x, float lowest, v16 y, v16 n)
{
    for (int i = 0; i < 16; i++) {
        if (!(x.lane[i] >= lowest)) {
            y.lane[i] = 0.0f;
            continue;
        }
        const uint32_t bits = (uint32_t)((int32_t)n.lane[i] + 127) << 23;
        float scale;
        memcpy(&scale, &bits, sizeof scale);
        y.lane[i] *= scale;
    }
    return y;
}

static inline v16 v16_load_f16(const void *p)
{
    v16 r;
    for (int i = 0; i < 16; i++) {
        uint16_t half;
        memcpy(&half, (const uint8_t *)p + 2 * i, sizeof half);
        const uint32_t bits = kvf_f16_decode(half);
        memcpy(&r.lane[i], &bits, sizeof bits);
    }
    return r;
}

/* 16 e4m3 codes as f16 bits shifted right, i.e. value * 2^-8; exact. */
static inline v16 v16_load_e4m3(const void *p)
{
    v16 r;
    for (int i = 0; i < 16; i++) {
        const uint32_t code = ((const uint8_t *)p)[i];
        const uint32_t half = (code & 0x80) << 8 | (code & 0x7f) << 7;
        const uint32_t bits = kvf_f16_decode((uint16_t)half);
        memcpy(&r.lane[i], &bits, sizeof bits);
    }
    return r;
}

static inline v16i v16i_set1(int32_t x)
{
    v16i r;
    for (int i = 0; i < 16; i++)
        r.lane[i] = x;
    return r;
}

/* acc[i] += sum of keys[i][0..3] * query[0..3]; keys are stored plus V16_KEY_OFFSET. */
static inline v16i v16i_dot4(v16i acc, const uint8_t keys[16][4], const int8_t *query)
{
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++)
            acc.lane[i] += (int8_t)keys[i][j] * query[j];
    return acc;
}

static inline v16 v16i_to_float(v16i a)
{
    v16 r;
    for (int i = 0; i < 16; i++)
        r.lane[i] = (float)a.lane[i];
    return r;
}

static inline void v16i_store(int32_t *p, v16i a)
{
    memcpy(p, a.lane, sizeof a.lane);
}

/* words[j][r] = word j of row r: 16 rows of 64 bytes, transposed. */
static inline void v16_load_words(const uint8_t *const rows[16], uint32_t words[16][16])
{
    for (int r = 0; r < 16; r++)
        for (int j = 0; j < 16; j++)
            memcpy(&words[j][r], rows[r] + 4 * j, 4);
}

/*
 * 16 words of 8 nibbles (e2m1) to doubled codes: ((code + V16_KEY_OFFSET) << shifts[i])
 * plus the bytes of offsets[i]; the low nibbles of word i to low[i], the high to high[i].
 */
static inline void v16_expand_codes(const uint32_t words[16], const uint32_t shifts[16],
                                    const uint32_t offsets[16], uint8_t low[16][4],
                                    uint8_t high[16][4])
{
    static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) {
            const uint32_t byte = words[i] >> 8 * j;
            const int scale = 1 << shifts[i];
            low[i][j] =
                (uint8_t)((doubled[byte & 15] + V16_KEY_OFFSET) * scale + (int)(offsets[i] & 255));
            high[i][j] = (uint8_t)((doubled[byte >> 4 & 15] + V16_KEY_OFFSET) * scale +
                                   (int)(offsets[i] & 255));
        }
}

static inline v16 v16_abs(v16 a)
{
    for (int i = 0; i < 16; i++)
        a.lane[i] = fabsf(a.lane[i]);
    return a;
}

/* The largest lane; no lane is NaN. */
static inline float v16_highest(v16 a)
{
    float highest = a.lane[0];
    for (int i = 1; i < 16; i++)
        highest = a.lane[i] > highest ? a.lane[i] : highest;
    return highest;
}

/* The bits of the magnitudes: ordered as these are, infinity and NaN above all numbers. */
static inline v16i v16i_abs_bits(v16 a)
{
    v16i r;
    for (int i = 0; i < 16; i++) {
        const float magnitude = fabsf(a.lane[i]);
        memcpy(&r.lane[i], &magnitude, sizeof magnitude);
    }
    return r;
}

/* Of lanes that are not negative. */
static inline v16i v16i_max(v16i a, v16i b)
{
    for (int i = 0; i < 16; i++)
        a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}

static inline uint32_t v16i_highest(v16i a)
{
    int32_t highest = a.lane[0];
    for (int i = 1; i < 16; i++)
        highest = a.lane[i] > highest ? a.lane[i] : highest;
    return (uint32_t)highest;
}

/* Lane l takes lane l ^ stride; stride 1, 2, 4 or 8. */
static inline v16 v16_swap(v16 a, int stride)
{
    v16 r;
    for (int i = 0; i < 16; i++)
        r.lane[i] = a.lane[i ^ stride];
    return r;
}

/* a with the sign of lane l turned where l & stride. */
static inline v16 v16_negate_odd(v16 a, int stride)
{
    for (int i = 0; i < 16; i++)
        if (i & stride)
            a.lane[i] = -a.lane[i];
    return a;
}

/*
 * Rounds to a small float, ties to even, the sign kept: magnitudes from `normal` on by
 * dropping mantissa bits, smaller ones to multiples of the step that adding `magic` has.
 */
static inline v16 v16_round_small(v16 a, int drop, float normal, float magic)
{
    for (int i = 0; i < 16; i++) {
        const float size = fabsf(a.lane[i]);
        uint32_t bits;
        memcpy(&bits, &size, sizeof bits);
        bits += ((1u << (drop - 1)) - 1) + (bits >> drop & 1);
        bits &= ~((1u << drop) - 1);
        float rounded;
        memcpy(&rounded, &bits, sizeof bits);
        if (size < normal)
            rounded = (size + magic) - magic;
        a.lane[i] = copysignf(rounded, a.lane[i]);
    }
    return a;
}

/* 16 f16, round to nearest even; finite within +-65504. */
static inline void v16_store_f16(uint16_t *p, v16 a)
{
    for (int i = 0; i < 16; i++) {
        uint32_t bits;
        memcpy(&bits, &a.lane[i], sizeof bits);
        p[i] = (uint16_t)kvf_f16_encode(bits);
    }
}

/* ---- Codes of weights (product.inc.h) ------------------------------------------- */

/* 16 bytes; they become lanes one by one. */
typedef struct b16 {
    uint8_t byte[16];
} b16;

static inline b16 b16_load(const void *p)
{
    b16 r;
    memcpy(r.byte, p, sizeof r.byte);
    return r;
}

/* Eight bytes, and eight of no meaning. */
static inline b16 b16_load_8(const void *p)
{
    b16 r = {{0}};
    memcpy(r.byte, p, 8);
    return r;
}

static inline b16 b16_load_8_8(const void *low, const void *high)
{
    b16 r;
    memcpy(r.byte, low, 8);
    memcpy(r.byte + 8, high, 8);
    return r;
}

static inline b16 b16_load_4_4_4_4(const void *a, const void *b, const void *c, const void *d)
{
    b16 r;
    memcpy(r.byte, a, 4);
    memcpy(r.byte + 4, b, 4);
    memcpy(r.byte + 8, c, 4);
    memcpy(r.byte + 12, d, 4);
    return r;
}

static inline b16 b16_set1(uint8_t x)
{
    b16 r;
    memset(r.byte, x, sizeof r.byte);
    return r;
}

/* Each byte times its sign, 1 or -1. */
static inline b16 b16_negate(b16 a, b16 signs)
{
    for (int i = 0; i < 16; i++)
        a.byte[i] = (uint8_t)((int8_t)a.byte[i] * (int8_t)signs.byte[i]);
    return a;
}

static inline b16 b16_sub(b16 a, b16 b)
{
    for (int i = 0; i < 16; i++)
        a.byte[i] = (uint8_t)(a.byte[i] - b.byte[i]);
    return a;
}

/* (byte >> bits) & mask; the mask is within 255 >> bits. */
static inline b16 b16_shr_and(b16 a, int bits, uint8_t mask)
{
    for (int i = 0; i < 16; i++)
        a.byte[i] = (uint8_t)(a.byte[i] >> bits & mask);
    return a;
}

/* a0 b0 a1 b1 .. of the first eight bytes each. */
static inline b16 b16_interleave(b16 a, b16 b)
{
    b16 r;
    for (int i = 0; i < 16; i++)
        r.byte[i] = (i % 2 ? b : a).byte[i / 2];
    return r;
}

/* sums[k] = bytes[k] + 256 times bit k. */
static inline void b16_add_ninth_bits(uint16_t sums[64], const uint8_t *bytes,
                                      const uint8_t *ninth_bits)
{
    for (int k = 0; k < 64; k++)
        sums[k] = (uint16_t)(bytes[k] | (ninth_bits[k / 8] >> k % 8 & 1) << 8);
}

/* 32 bytes. */
typedef struct b32 {
    uint8_t byte[32];
} b32;

static inline b32 b32_load(const void *p)
{
    b32 r;
    memcpy(r.byte, p, sizeof r.byte);
    return r;
}

static inline void b32_store(uint8_t *p, b32 a)
{
    memcpy(p, a.byte, sizeof a.byte);
}

static inline b32 b32_set1(uint8_t x)
{
    b32 r;
    memset(r.byte, x, sizeof r.byte);
    return r;
}

static inline b32 b32_or(b32 a, b32 b)
{
    for (int i = 0; i < 32; i++)
        a.byte[i] |= b.byte[i];
    return a;
}

static inline b32 b32_sub(b32 a, b32 b)
{
    for (int i = 0; i < 32; i++)
        a.byte[i] = (uint8_t)(a.byte[i] - b.byte[i]);
    return a;
}

/* (byte >> down << up) & mask; the mask is within what byte has left of 255. */
static inline b32 b32_move_and(b32 a, int down, int up, uint8_t mask)
{
    for (int i = 0; i < 32; i++)
        a.byte[i] = (uint8_t)(a.byte[i] >> down << up & mask);
    return a;
}

/*
 * Of e4m3 codes with the sign bit set, the highest, here in one byte, in others in each byte of a
 * vector: 255 is NaN.
 */
typedef uint8_t v16_highest_code;

static inline v16_highest_code v16_highest_code_of_128(const uint8_t *codes)
{
    uint8_t highest = 0;
    for (int i = 0; i < 128; i++)
        highest = (codes[i] | 0x80) > highest ? (uint8_t)(codes[i] | 0x80) : highest;
    return highest;
}

static inline v16_highest_code v16_higher_code(v16_highest_code a, v16_highest_code b)
{
    return a > b ? a : b;
}

static inline bool v16_is_nan_code(v16_highest_code highest)
{
    return highest == 255;
}

/*
 * Tells the compiler that what was just stored there is not in a register any more, where
 * loading it again is cheaper: see x86/b16.h.
 */
#define V16_IN_MEMORY(object) ((void)(object))

/* The f16 at any address. */
static inline float v16_half(const void *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return kvf_float_of(kvf_f16_decode(half));
}

/* The same where four bytes may be read, which takes one load. */
#define v16_half_4 v16_half

/* The f16 at p in lanes 0 to 7, the next one in the others. */
static inline v16 v16_two_halves(const void *p)
{
    v16 r;
    for (int i = 0; i < 16; i++)
        r.lane[i] = v16_half((const uint8_t *)p + i / 8 * 2);
    return r;
}

static inline v16 v16_set1_half(const void *p)
{
    return v16_set1(v16_half_4(p));
}

/* Signed bytes to lanes. */
static inline v16 v16_from_i8(b16 a)
{
    v16 r;
    for (int i = 0; i < 16; i++)
        r.lane[i] = (float)(int8_t)a.byte[i];
    return r;
}

static inline v16 v16_load_bf16(const void *p)
{
    v16 r;
    for (int i = 0; i < 16; i++) {
        uint16_t high;
        memcpy(&high, (const uint8_t *)p + 2 * i, sizeof high);
        r.lane[i] = kvf_float_of((uint32_t)high << 16);
    }
    return r;
}

static inline v16 v16_load_i8(const void *p)
{
    return v16_from_i8(b16_load(p));
}

/* 16 codes, one a lane. */
typedef b16 v16_codes;

static inline v16_codes v16_codes_load(const uint8_t *p)
{
    return b16_load(p);
}

/*
 * The `bits` at `shift` of each code as a multiple of a unit: V16_FIELD_UNIT(shift) is what the
 * scale has to be multiplied with, 1 here, 2^-shift where they stay where they are.
 */
#define V16_FIELD_UNIT(shift) 1.0f
static inline v16 v16_field(v16_codes codes, int shift, int bits)
{
    return v16_from_i8(b16_shr_and(codes, shift, (uint8_t)((1 << bits) - 1)));
}

/* v16_field of four bits times a scale, plus a minimum. */
static inline v16 v16_nibbles(v16_codes codes, int shift, v16 scale, v16 minimum)
{
    return v16_fma(scale, v16_field(codes, shift, 4), minimum);
}

/*
 * The four highest bits of 8 words of 4 bytes in lanes 0 to 7: of each word (stride 1) or the
 * second of each two (stride 2).
 */
static inline v16 v16_top_nibbles_of_8(const uint8_t *words, int stride)
{
    v16 r = v16_set1(0.0f);
    for (int i = 0; i < 8; i++)
        r.lane[i] = (float)(words[4 * stride * (i + 1) - 1] >> 4);
    return r;
}

/* 16 integers times a scale, to be looked up by 32 nibbles: group 0 the low, 1 the high ones. */
typedef struct v16_book {
    v16 values;
    const uint8_t *codes;
} v16_book;

static inline void v16_book_of(v16_book *book, const int8_t values[16], v16 scale,
                               const uint8_t *codes)
{
    book->values = v16_mul(v16_load_i8(values), scale);
    book->codes = codes;
}

static inline v16 v16_book_get(const v16_book *book, int g)
{
    v16 r;
    for (int i = 0; i < 16; i++)
        r.lane[i] = book->values.lane[book->codes[i] >> 4 * g & 15];
    return r;
}

/*
 * e2m1 values doubled, 0 1 2 3 4 6 8 12, bit 3 the sign, times a scale, to be looked up by 32
 * nibbles: group 0 those of the first eight bytes, the low one of each first.
 */
typedef v16_book v16_e2m1;

static inline void v16_e2m1_of(v16_e2m1 *book, v16 scale, const uint8_t *codes)
{
    static const float doubled[16] = {0.0f,  1.0f,  2.0f,  3.0f,  4.0f,  6.0f,  8.0f,  12.0f,
                                      -0.0f, -1.0f, -2.0f, -3.0f, -4.0f, -6.0f, -8.0f, -12.0f};
    book->values = v16_mul(v16_load(doubled), scale);
    book->codes = codes;
}

static inline v16 v16_e2m1_get(const v16_e2m1 *book, int g)
{
    v16 r;
    for (int i = 0; i < 16; i++)
        r.lane[i] = book->values.lane[book->codes[8 * g + i / 2] >> 4 * (i % 2) & 15];
    return r;
}

#endif
