/* The 16-lane vector as four NEON registers (aarch64, dotprod). Lane meaning: v16_scalar.h. */
#ifndef KVF_CPU_V16_NEON_H
#define KVF_CPU_V16_NEON_H

#include <arm_neon.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct v16 {
    float32x4_t part[4];
} v16;
typedef struct v16i {
    int32x4_t part[4];
} v16i;

/* 32 registers: 2 x 2 vectors of sums take 16, operands up to 16. */
#define V16_DOT_HEADS 2
#define V16_DOT_ROWS 2
#define V16_OUT_HEADS 2
#define V16_OUT_VECTORS 2
#define V16_KEY_OFFSET 0
#define V16_QUERY_SHIFT 3
/* Heads x tiles of 16 rows scored together in registers. */
#define V16_SCORE_HEADS 4
#define V16_SCORE_TILES 1
/* Rows of a weight x tokens multiplied together: 24 registers of sums, 8 of operands. */
#define V16_TILE_ROWS 2
#define V16_TILE_TOKENS 3
/* Rows of a weight read in turns for one token, group by group. */
#define V16_BESIDE_ROWS 1
#define V16_FEW_ROWS 1
#define V16_FEW_TOKENS 4
#define V16_MOST_FEW 4

static inline v16 v16_set1(float x)
{
    const float32x4_t v = vdupq_n_f32(x);
    return (v16){{v, v, v, v}};
}

static inline v16 v16_load(const float *p)
{
    return (v16){{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}

static inline void v16_store(float *p, v16 a)
{
    for (int i = 0; i < 4; i++)
        vst1q_f32(p + 4 * i, a.part[i]);
}

static inline v16 v16_add(v16 a, v16 b)
{
    for (int i = 0; i < 4; i++)
        a.part[i] = vaddq_f32(a.part[i], b.part[i]);
    return a;
}

static inline v16 v16_sub(v16 a, v16 b)
{
    for (int i = 0; i < 4; i++)
        a.part[i] = vsubq_f32(a.part[i], b.part[i]);
    return a;
}

static inline v16 v16_mul(v16 a, v16 b)
{
    for (int i = 0; i < 4; i++)
        a.part[i] = vmulq_f32(a.part[i], b.part[i]);
    return a;
}

static inline v16 v16_div(v16 a, v16 b)
{
    for (int i = 0; i < 4; i++)
        a.part[i] = vdivq_f32(a.part[i], b.part[i]);
    return a;
}

static inline v16 v16_max(v16 a, v16 b)
{
    for (int i = 0; i < 4; i++)
        a.part[i] = vbslq_f32(vcgtq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]);
    return a;
}

static inline v16 v16_min(v16 a, v16 b)
{
    for (int i = 0; i < 4; i++)
        a.part[i] = vbslq_f32(vcltq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]);
    return a;
}

static inline v16 v16_select_negative(v16 x, v16 a, v16 b)
{
    for (int i = 0; i < 4; i++)
        a.part[i] = vbslq_f32(vcltzq_f32(x.part[i]), a.part[i], b.part[i]);
    return a;
}

static inline uint32_t v16_not_below(v16 a, float limit)
{
    const uint32x4_t bits = {1, 2, 4, 8};
    uint32_t lanes = 0;
    for (int i = 0; i < 4; i++) {
        const uint32x4_t below = vcltq_f32(a.part[i], vdupq_n_f32(limit));
        lanes |= vaddvq_u32(vbicq_u32(bits, below)) << 4 * i;
    }
    return lanes;
}

static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    for (int i = 0; i < 4; i++)
        c.part[i] = vfmaq_f32(c.part[i], a.part[i], b.part[i]);
    return c;
}

static inline float v16_sum(v16 a)
{
    const float32x4_t low = vaddq_f32(a.part[0], a.part[2]);  /* lanes 0-3 + 8-11 */
    const float32x4_t high = vaddq_f32(a.part[1], a.part[3]); /* lanes 4-7 + 12-15 */
    const float32x4_t four = vaddq_f32(low, high);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

static inline v16 v16_exp_scale(v16 x, float lowest, v16 y, v16 n)
{
    for (int i = 0; i < 4; i++) {
        const int32x4_t bits =
            vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.part[i]), vdupq_n_s32(127)), 23);
        const uint32x4_t kept = vcgeq_f32(x.part[i], vdupq_n_f32(lowest));
        const float32x4_t scaled = vmulq_f32(y.part[i], vreinterpretq_f32_s32(bits));
        y.part[i] = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(scaled), kept));
    }
    return y;
}

static inline v16 v16_load_f16(const void *p)
{
    v16 r;
    for (int i = 0; i < 4; i++)
        r.part[i] = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)p + 8 * i)));
    return r;
}

/* Sign-extended codes have the sign twice: one is f16's, the other its highest exponent bit. */
static inline v16 v16_load_e4m3(const void *p)
{
    const int8x16_t codes = vld1q_s8(p);
    const int16x8_t wide[2] = {vshll_n_s8(vget_low_s8(codes), 7),
                               vshll_n_s8(vget_high_s8(codes), 7)};
    v16 r;
    for (int i = 0; i < 2; i++) {
        const int16x8_t bits = vandq_s16(wide[i], vdupq_n_s16((int16_t)0xbfff));
        const float16x8_t half = vreinterpretq_f16_s16(bits);
        r.part[2 * i] = vcvt_f32_f16(vget_low_f16(half));
        r.part[2 * i + 1] = vcvt_f32_f16(vget_high_f16(half));
    }
    return r;
}

static inline v16i v16i_set1(int32_t x)
{
    const int32x4_t v = vdupq_n_s32(x);
    return (v16i){{v, v, v, v}};
}

static inline v16i v16i_dot4(v16i acc, const uint8_t keys[16][4], const int8_t *query)
{
    int32_t four;
    memcpy(&four, query, sizeof four);
    const int8x16_t q = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int i = 0; i < 4; i++)
        acc.part[i] = vdotq_s32(acc.part[i], vld1q_s8((const int8_t *)keys + 16 * i), q);
    return acc;
}

static inline v16 v16i_to_float(v16i a)
{
    v16 r;
    for (int i = 0; i < 4; i++)
        r.part[i] = vcvtq_f32_s32(a.part[i]);
    return r;
}

static inline void v16i_store(int32_t *p, v16i a)
{
    for (int i = 0; i < 4; i++)
        vst1q_s32(p + 4 * i, a.part[i]);
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
    static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    const int8x16_t table = vld1q_s8(doubled);
    (void)offsets; /* keys are signed: nothing is added */
    for (int i = 0; i < 4; i++) {
        const uint8x16_t word = vreinterpretq_u8_u32(vld1q_u32(words + 4 * i));
        /* a row's shift in each of its four bytes */
        const uint32x4_t shift = vmulq_n_u32(vld1q_u32(shifts + 4 * i), 0x01010101);
        const int8x16_t by = vreinterpretq_s8_u32(shift);
        const int8x16_t even = vqtbl1q_s8(table, vandq_u8(word, vdupq_n_u8(15)));
        const int8x16_t odd = vqtbl1q_s8(table, vshrq_n_u8(word, 4));
        vst1q_s8((int8_t *)low + 16 * i, vshlq_s8(even, by));
        vst1q_s8((int8_t *)high + 16 * i, vshlq_s8(odd, by));
    }
}

static inline v16 v16_abs(v16 a)
{
    for (int i = 0; i < 4; i++)
        a.part[i] = vabsq_f32(a.part[i]);
    return a;
}

static inline float v16_highest(v16 a)
{
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.part[0], a.part[1]), vmaxq_f32(a.part[2], a.part[3])));
}

static inline v16i v16i_abs_bits(v16 a)
{
    v16i r;
    for (int i = 0; i < 4; i++)
        r.part[i] = vreinterpretq_s32_f32(vabsq_f32(a.part[i]));
    return r;
}

static inline v16i v16i_max(v16i a, v16i b)
{
    for (int i = 0; i < 4; i++)
        a.part[i] = vmaxq_s32(a.part[i], b.part[i]);
    return a;
}

static inline uint32_t v16i_highest(v16i a)
{
    return (uint32_t)vmaxvq_s32(
        vmaxq_s32(vmaxq_s32(a.part[0], a.part[1]), vmaxq_s32(a.part[2], a.part[3])));
}

static inline v16 v16_swap(v16 a, int stride)
{
    v16 r;
    for (int i = 0; i < 4; i++)
        r.part[i] = stride == 1   ? vrev64q_f32(a.part[i])
                    : stride == 2 ? vextq_f32(a.part[i], a.part[i], 2)
                                  : a.part[i ^ stride / 4];
    return r;
}

static inline v16 v16_negate_odd(v16 a, int stride)
{
    static const uint32_t flips[2][4] = {{0, 1u << 31, 0, 1u << 31}, {0, 0, 1u << 31, 1u << 31}};
    for (int i = 0; i < 4; i++)
        if (stride >= 4)
            a.part[i] = i & stride / 4 ? vnegq_f32(a.part[i]) : a.part[i];
        else
            a.part[i] = vreinterpretq_f32_u32(
                veorq_u32(vreinterpretq_u32_f32(a.part[i]), vld1q_u32(flips[stride - 1])));
    return a;
}

static inline v16 v16_round_small(v16 a, int drop, float normal, float magic)
{
    const uint32x4_t minus = vdupq_n_u32(1u << 31);
    const float32x4_t step = vdupq_n_f32(magic);
    for (int i = 0; i < 4; i++) {
        const float32x4_t size = vabsq_f32(a.part[i]);
        uint32x4_t bits = vreinterpretq_u32_f32(size);
        const uint32x4_t odd = vandq_u32(vshlq_u32(bits, vdupq_n_s32(-drop)), vdupq_n_u32(1));
        bits = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32((1u << (drop - 1)) - 1));
        bits = vbicq_u32(bits, vdupq_n_u32((1u << drop) - 1));
        const float32x4_t small = vsubq_f32(vaddq_f32(size, step), step);
        const uint32x4_t is_small = vcltq_f32(size, vdupq_n_f32(normal));
        const uint32x4_t rounded = vbslq_u32(is_small, vreinterpretq_u32_f32(small), bits);
        const uint32x4_t sign = vandq_u32(vreinterpretq_u32_f32(a.part[i]), minus);
        a.part[i] = vreinterpretq_f32_u32(vorrq_u32(rounded, sign));
    }
    return a;
}

static inline void v16_store_f16(uint16_t *p, v16 a)
{
    for (int i = 0; i < 4; i++)
        vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.part[i])));
}

/* ---- Codes of weights ------------------------------------------------------------ */

typedef uint8x16_t b16;

static inline b16 b16_load(const void *p)
{
    return vld1q_u8(p);
}

static inline b16 b16_load_8(const void *p)
{
    return vcombine_u8(vld1_u8(p), vdup_n_u8(0));
}

static inline b16 b16_load_8_8(const void *low, const void *high)
{
    return vcombine_u8(vld1_u8(low), vld1_u8(high));
}

static inline b16 b16_load_4_4_4_4(const void *a, const void *b, const void *c, const void *d)
{
    uint32_t four[4];
    memcpy(&four[0], a, 4);
    memcpy(&four[1], b, 4);
    memcpy(&four[2], c, 4);
    memcpy(&four[3], d, 4);
    return vreinterpretq_u8_u32(vld1q_u32(four));
}

static inline b16 b16_negate(b16 a, b16 signs)
{
    return vreinterpretq_u8_s8(vmulq_s8(vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(signs)));
}

static inline b16 b16_set1(uint8_t x)
{
    return vdupq_n_u8(x);
}

static inline b16 b16_sub(b16 a, b16 b)
{
    return vsubq_u8(a, b);
}

static inline b16 b16_shr_and(b16 a, int bits, uint8_t mask)
{
    return vandq_u8(vshlq_u8(a, vdupq_n_s8((int8_t)-bits)), vdupq_n_u8(mask));
}

static inline b16 b16_interleave(b16 a, b16 b)
{
    return vzip1q_u8(a, b);
}

static inline void b16_add_ninth_bits(uint16_t sums[64], const uint8_t *bytes,
                                      const uint8_t *ninth_bits)
{
    for (int k = 0; k < 64; k++)
        sums[k] = (uint16_t)(bytes[k] | (ninth_bits[k / 8] >> k % 8 & 1) << 8);
}

typedef uint8x16x2_t b32;

static inline b32 b32_load(const void *p)
{
    return vld1q_u8_x2(p);
}

static inline void b32_store(uint8_t *p, b32 a)
{
    vst1q_u8_x2(p, a);
}

static inline b32 b32_set1(uint8_t x)
{
    return (b32){{vdupq_n_u8(x), vdupq_n_u8(x)}};
}

static inline b32 b32_or(b32 a, b32 b)
{
    return (b32){{vorrq_u8(a.val[0], b.val[0]), vorrq_u8(a.val[1], b.val[1])}};
}

static inline b32 b32_sub(b32 a, b32 b)
{
    return (b32){{vsubq_u8(a.val[0], b.val[0]), vsubq_u8(a.val[1], b.val[1])}};
}

static inline b32 b32_move_and(b32 a, int down, int up, uint8_t mask)
{
    const int8x16_t by = vdupq_n_s8((int8_t)(up - down));
    const uint8x16_t kept = vdupq_n_u8(mask);
    return (b32){{vandq_u8(vshlq_u8(a.val[0], by), kept), vandq_u8(vshlq_u8(a.val[1], by), kept)}};
}

typedef uint8x16_t v16_highest_code;

static inline v16_highest_code v16_highest_code_of_128(const uint8_t *codes)
{
    uint8x16_t highest = vdupq_n_u8(0);
    for (int i = 0; i < 128; i += 16)
        highest = vmaxq_u8(highest, vorrq_u8(vld1q_u8(codes + i), vdupq_n_u8(0x80)));
    return highest;
}

static inline v16_highest_code v16_higher_code(v16_highest_code a, v16_highest_code b)
{
    return vmaxq_u8(a, b);
}

static inline bool v16_is_nan_code(v16_highest_code highest)
{
    return vmaxvq_u8(highest) == 0xff;
}

#define V16_IN_MEMORY(object) ((void)(object))

static inline float v16_half(const void *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

#define v16_half_4 v16_half

static inline v16 v16_two_halves(const void *p)
{
    const v16 low = v16_set1(v16_half(p));
    const v16 high = v16_set1(v16_half((const uint8_t *)p + 2));
    return (v16){{low.part[0], low.part[1], high.part[2], high.part[3]}};
}

static inline v16 v16_set1_half(const void *p)
{
    return v16_set1(v16_half_4(p));
}

static inline v16 v16_from_i8(b16 a)
{
    const int16x8_t low = vmovl_s8(vget_low_s8(vreinterpretq_s8_u8(a)));
    const int16x8_t high = vmovl_s8(vget_high_s8(vreinterpretq_s8_u8(a)));
    return (v16){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                  vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                  vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                  vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

static inline v16 v16_load_bf16(const void *p)
{
    v16 r;
    for (int i = 0; i < 4; i++) {
        const uint16x4_t high = vreinterpret_u16_u8(vld1_u8((const uint8_t *)p + 8 * i));
        r.part[i] = vreinterpretq_f32_u32(vshll_n_u16(high, 16));
    }
    return r;
}

static inline v16 v16_load_i8(const void *p)
{
    return v16_from_i8(b16_load(p));
}

typedef b16 v16_codes;

static inline v16_codes v16_codes_load(const uint8_t *p)
{
    return b16_load(p);
}

#define V16_FIELD_UNIT(shift) 1.0f
static inline v16 v16_field(v16_codes codes, int shift, int bits)
{
    return v16_from_i8(b16_shr_and(codes, shift, (uint8_t)((1 << bits) - 1)));
}

static inline v16 v16_nibbles(v16_codes codes, int shift, v16 scale, v16 minimum)
{
    return v16_fma(scale, v16_field(codes, shift, 4), minimum);
}

static inline v16 v16_top_nibbles_of_8(const uint8_t *words, int stride)
{
    float nibbles[16] = {0};
    for (int i = 0; i < 8; i++)
        nibbles[i] = (float)(words[4 * stride * (i + 1) - 1] >> 4);
    return v16_load(nibbles);
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
    return v16_mul(v16_from_i8(vqtbl1q_u8(book->values, nibbles)), book->scale);
}

/* Magnitudes as bytes; the sign by itself, since bytes have no -0. */
typedef v16_book v16_e2m1;

static inline void v16_e2m1_of(v16_e2m1 *book, v16 scale, const uint8_t *codes)
{
    static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, 1, 2, 3, 4, 6, 8, 12};
    v16_book_of(book, doubled, scale, codes);
}

static inline v16 v16_e2m1_get(const v16_e2m1 *book, int g)
{
    const b16 pairs = b16_load_8(book->codes + 8 * g);
    const b16 codes = b16_interleave(b16_shr_and(pairs, 0, 15), b16_shr_and(pairs, 4, 15));
    v16 r = v16_mul(v16_from_i8(vqtbl1q_u8(book->values, codes)), book->scale);
    const int16x8_t low = vmovl_s8(vget_low_s8(vreinterpretq_s8_u8(codes)));
    const int16x8_t high = vmovl_s8(vget_high_s8(vreinterpretq_s8_u8(codes)));
    const int32x4_t wide[4] = {vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
                               vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))};
    for (int i = 0; i < 4; i++) {
        const uint32x4_t signs =
            vandq_u32(vshlq_n_u32(vreinterpretq_u32_s32(wide[i]), 28), vdupq_n_u32(0x80000000));
        r.part[i] = vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(r.part[i]), signs));
    }
    return r;
}

#endif
