/* The 16-lane vector in plain C: what every other v16_*.h must equal, lane by lane. */
#ifndef KVF_CPU_V16_SCALAR_H
#define KVF_CPU_V16_SCALAR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "shared/half.h"

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

#endif
