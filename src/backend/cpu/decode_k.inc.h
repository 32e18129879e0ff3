/*
 * ggml's K-quants and iq4_xs: 256 values, a scale (and a minimum) for 16 or 32 of them. A
 * template over v16; interface: product_type.inc.h. Element i lies in group i / 16; scales
 * are made for the whole block at once and wait in memory.
 *
 * d x scale is exact in f32 and so is that x a code, so a fused multiply-subtract with the
 * minimum rounds where the specification does (docs/WEIGHTS.md).
 */
#include "shared/kquant.h"

/* One scale for 16 values each. */
typedef struct scaled_unit {
    const uint8_t *block;
    float scales[16];
} scaled_unit;
typedef scaled_unit q3_k_unit;
typedef scaled_unit q6_k_unit;

/* Scales, and minima to be added (negated), for 16 values each. */
typedef struct offset_unit {
    const uint8_t *block;
    float scales[16];
    float minima[16];
} offset_unit;
typedef offset_unit q2_k_unit;

/* The same for 32 values each: scales in lanes 0 to 7, minima in 8 to 15. */
typedef struct paired_unit {
    const uint8_t *block;
    float scales[16];
} paired_unit;
typedef paired_unit q4_k_unit;
typedef paired_unit q5_k_unit;

static inline q2_k_unit q2_k_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    (void)scales;
    (void)u;
    const b16 both = b16_load(bytes + KVF_Q2_K_SCALES);
    const float d = v16_half(bytes + KVF_Q2_K_D);
    const float dmin = v16_half(bytes + KVF_Q2_K_DMIN);
    q2_k_unit unit = {.block = bytes};
    v16_store(unit.scales, v16_mul(v16_from_i8(b16_shr_and(both, 0, 15)), v16_set1(d)));
    v16_store(unit.minima, v16_mul(v16_from_i8(b16_shr_and(both, 4, 15)), v16_set1(-dmin)));
    return unit;
}

/* Two bits of group g; a byte has one code of each 32 values of its half. */
static inline b16 two_bits(const uint8_t *codes, int g)
{
    return b16_shr_and(b16_load(codes + 32 * (g / 8) + 16 * (g % 2)), g % 8 / 2 * 2, 3);
}

static inline v16 q2_k_group(const q2_k_unit *unit, int g)
{
    return v16_fma(v16_set1(unit->scales[g]),
                   v16_from_i8(two_bits(unit->block + KVF_Q2_K_CODES, g)),
                   v16_set1(unit->minima[g]));
}

static inline q3_k_unit q3_k_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    (void)scales;
    (void)u;
    const uint8_t *packed = bytes + KVF_Q3_K_SCALES;
    const uint32_t s0 = kvf_load_u32(packed);
    const uint32_t s1 = kvf_load_u32(packed + 4);
    const uint32_t s2 = kvf_load_u32(packed + 8);
    /* four scales a word, as kvf_q3_k_scale has them one by one */
    const uint32_t words[4] = {
        (s0 & 0x0f0f0f0f) | (s2 & 0x03030303) << 4,
        (s1 & 0x0f0f0f0f) | (s2 >> 2 & 0x03030303) << 4,
        (s0 >> 4 & 0x0f0f0f0f) | (s2 >> 4 & 0x03030303) << 4,
        (s1 >> 4 & 0x0f0f0f0f) | (s2 >> 6 & 0x03030303) << 4,
    };
    q3_k_unit unit = {.block = bytes};
    v16_store(unit.scales, v16_mul(v16_from_i8(b16_sub(b16_load(words), b16_set1(32))),
                                   v16_set1(v16_half(bytes + KVF_Q3_K_D))));
    return unit;
}

static inline v16 q3_k_group(const q3_k_unit *unit, int g)
{
    const b16 low = two_bits(unit->block + KVF_Q3_K_CODES, g);
    const b16 high = b16_shr_and(b16_load(unit->block + KVF_Q3_K_HIGH + 16 * (g % 2)), g / 2, 1);
    const b16 code = b16_sub(b16_or(low, b16_shl(high, 2)), b16_set1(4));
    return v16_mul(v16_set1(unit->scales[g]), v16_from_i8(code));
}

/* Twelve bytes of scales to eight scales and eight minima, times d and -dmin. */
static inline paired_unit open_pairs(const uint8_t *block, const uint8_t *packed, float d,
                                     float dmin)
{
    const uint32_t s0 = kvf_load_u32(packed);
    const uint32_t s1 = kvf_load_u32(packed + 4);
    const uint32_t s2 = kvf_load_u32(packed + 8);
    /* four a word, as kvf_q4_k_scale and kvf_q4_k_min have them one by one */
    const uint32_t words[4] = {
        s0 & 0x3f3f3f3f,
        (s2 & 0x0f0f0f0f) | (s0 >> 6 & 0x03030303) << 4,
        s1 & 0x3f3f3f3f,
        (s2 >> 4 & 0x0f0f0f0f) | (s1 >> 6 & 0x03030303) << 4,
    };
    const float factors[16] = {d,     d,     d,     d,     d,     d,     d,     d,
                               -dmin, -dmin, -dmin, -dmin, -dmin, -dmin, -dmin, -dmin};
    paired_unit unit = {.block = block};
    v16_store(unit.scales, v16_mul(v16_from_i8(b16_load(words)), v16_load(factors)));
    return unit;
}

static inline q4_k_unit q4_k_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    (void)scales;
    (void)u;
    return open_pairs(bytes, bytes + KVF_Q4_K_SCALES, v16_half(bytes + KVF_Q4_K_D),
                      v16_half(bytes + KVF_Q4_K_DMIN));
}

/* Four bits of group g: sub-blocks 2 j and 2 j + 1 share the 32 bytes j. */
static inline b16 four_bits(const uint8_t *codes, int g)
{
    return b16_shr_and(b16_load(codes + 32 * (g / 4) + 16 * (g % 2)), g % 4 / 2 * 4, 15);
}

static inline v16 q4_k_group(const q4_k_unit *unit, int g)
{
    return v16_fma(v16_set1(unit->scales[g / 2]),
                   v16_from_i8(four_bits(unit->block + KVF_Q4_K_CODES, g)),
                   v16_set1(unit->scales[8 + g / 2]));
}

static inline q5_k_unit q5_k_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    (void)scales;
    (void)u;
    return open_pairs(bytes, bytes + KVF_Q5_K_SCALES, v16_half(bytes + KVF_Q5_K_D),
                      v16_half(bytes + KVF_Q5_K_DMIN));
}

static inline v16 q5_k_group(const q5_k_unit *unit, int g)
{
    const b16 high = b16_shr_and(b16_load(unit->block + KVF_Q5_K_HIGH + 16 * (g % 2)), g / 2, 1);
    const b16 code = b16_or(four_bits(unit->block + KVF_Q5_K_CODES, g), b16_shl(high, 4));
    return v16_fma(v16_set1(unit->scales[g / 2]), v16_from_i8(code),
                   v16_set1(unit->scales[8 + g / 2]));
}

static inline q6_k_unit q6_k_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    (void)scales;
    (void)u;
    q6_k_unit unit = {.block = bytes};
    v16_store(unit.scales, v16_mul(v16_from_i8(b16_load(bytes + KVF_Q6_K_SCALES)),
                                   v16_set1(v16_half(bytes + KVF_Q6_K_D))));
    return unit;
}

static inline v16 q6_k_group(const q6_k_unit *unit, int g)
{
    const int half = g / 8;
    const int quarter = g % 8 / 2; /* of the half: 32 values */
    const int k = 16 * (g % 2);
    const uint8_t *low = unit->block + KVF_Q6_K_LOW + 64 * half + 32 * (quarter % 2) + k;
    const uint8_t *high = unit->block + KVF_Q6_K_HIGH + 32 * half + k;
    const b16 code = b16_or(b16_shr_and(b16_load(low), quarter / 2 * 4, 15),
                            b16_shl(b16_shr_and(b16_load(high), 2 * quarter, 3), 4));
    return v16_mul(v16_set1(unit->scales[g]), v16_from_i8(b16_sub(code, b16_set1(32))));
}

/* iq4_xs: the codes of iq4_nl, a scale of six bits for 32 values. */
typedef struct iq4_xs_unit {
    const uint8_t *block;
    float scales[8];
} iq4_xs_unit;

static inline iq4_xs_unit iq4_xs_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    (void)scales;
    (void)u;
    const float d = v16_half(bytes + KVF_IQ4_XS_D);
    const uint32_t low = kvf_load_u32(bytes + KVF_IQ4_XS_SCALES_LOW);
    const uint32_t high = kvf_load_u16(bytes + KVF_IQ4_XS_SCALES_HIGH);
    iq4_xs_unit unit = {.block = bytes};
    for (uint32_t g = 0; g < 8; g++)
        unit.scales[g] = d * (float)kvf_iq4_xs_scale(low, high, g);
    return unit;
}

static inline v16 iq4_xs_group(const iq4_xs_unit *unit, int g)
{
    return v16_book_get(v16_book_of(kvf_iq4_values, unit->scales[g / 2]),
                        nibbles(unit->block + KVF_IQ4_XS_CODES + 16 * (g / 2), g % 2));
}
