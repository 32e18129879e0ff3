/*
 * ggml's K-quants and iq4_xs: 256 values, a scale (and a minimum) for 16 or 32 of them. A
 * template over v16; interface: product_type.inc.h. Element i lies in group i / 16; scales
 * are made for the whole block at once and wait in memory.
 *
 * q2_K, q4_K: widening a byte serves two or four groups; 9 operations of which 4 multiply (q2_K,
 * and all on AVX2), or 7 of which 6 share three pipes (q4_K on AVX-512); q2_K's two scales a group
 * are loads of 512 bits to a processor that does one a cycle. q3_K, q5_K, q6_K put 32 codes
 * together as bytes, in memory: 11 operations; making them in registers and taking these apart
 * was slower by a tenth.
 *
 * d x scale is exact in f32 and so is that x a code, so a fused multiply-subtract with the
 * minimum rounds where the specification does (docs/WEIGHTS.md).
 */
#include "shared/kquant.h"

#ifndef B16_K_SCALES
/* The 16 scales of a block, 0 to 63: four a word, as kvf_q3_k_scale has them one by one. */
static inline b16 b16_q3_k_scales(const uint8_t *block)
{
    const uint8_t *packed = block + KVF_Q3_K_SCALES;
    const uint32_t s0 = kvf_load_u32(packed);
    const uint32_t s1 = kvf_load_u32(packed + 4);
    const uint32_t s2 = kvf_load_u32(packed + 8);
    const uint32_t words[4] = {
        (s0 & 0x0f0f0f0f) | (s2 & 0x03030303) << 4,
        (s1 & 0x0f0f0f0f) | (s2 >> 2 & 0x03030303) << 4,
        (s0 >> 4 & 0x0f0f0f0f) | (s2 >> 4 & 0x03030303) << 4,
        (s1 >> 4 & 0x0f0f0f0f) | (s2 >> 6 & 0x03030303) << 4,
    };
    return b16_load(words);
}

/* Eight scales and eight minima of a block of q4_K or q5_K, as kvf_q4_k_scale and _min. */
static inline b16 b16_q4_k_scales(const uint8_t *block)
{
    const uint8_t *packed = block + KVF_Q4_K_SCALES;
    const uint32_t s0 = kvf_load_u32(packed);
    const uint32_t s1 = kvf_load_u32(packed + 4);
    const uint32_t s2 = kvf_load_u32(packed + 8);
    const uint32_t words[4] = {
        s0 & 0x3f3f3f3f,
        (s2 & 0x0f0f0f0f) | (s0 >> 6 & 0x03030303) << 4,
        s1 & 0x3f3f3f3f,
        (s2 >> 4 & 0x0f0f0f0f) | (s1 >> 6 & 0x03030303) << 4,
    };
    return b16_load(words);
}
#endif

/* One scale for 16 values each; q3_K and q6_K have their codes made whole, signed. */
typedef struct scaled_unit {
    _Alignas(32) uint8_t codes[256];
    _Alignas(64) float scales[16];
} scaled_unit;
typedef scaled_unit q3_k_unit;
typedef scaled_unit q6_k_unit;

/* Scales, and minima to be added (negated), for 16 values each. */
typedef struct offset_unit {
    const uint8_t *block;
    _Alignas(64) float scales[16];
    _Alignas(64) float minima[16];
} offset_unit;
typedef offset_unit q2_k_unit;

/* The same for 32 values each: scales in lanes 0 to 7, minima in 8 to 15. */
typedef struct paired_unit {
    const uint8_t *block;
    _Alignas(64) float scales[16];
} paired_unit;
typedef paired_unit q4_k_unit;

typedef struct q5_k_unit {
    paired_unit pairs;
    _Alignas(32) uint8_t codes[256];
} q5_k_unit;

/* The shift of two bits of group g: a byte has one code of each 32 values of its half. */
#define TWO_BITS(g) ((g) % 8 / 2 * 2)

static inline void q2_k_open(q2_k_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                             uint32_t u)
{
#define UNITS_4(g)                                                                                 \
    V16_FIELD_UNIT(TWO_BITS(g)), V16_FIELD_UNIT(TWO_BITS((g) + 1)),                                \
        V16_FIELD_UNIT(TWO_BITS((g) + 2)), V16_FIELD_UNIT(TWO_BITS((g) + 3))
    static const float units[16] = {UNITS_4(0), UNITS_4(4), UNITS_4(8), UNITS_4(12)};
#undef UNITS_4
    (void)scales;
    (void)u;
    const b16 both = b16_load(bytes + KVF_Q2_K_SCALES);
    const float d = v16_half_4(bytes + KVF_Q2_K_D);
    const float dmin = v16_half(bytes + KVF_Q2_K_DMIN);
    unit->block = bytes;
    v16_store(unit->scales, v16_mul(v16_from_i8(b16_shr_and(both, 0, 15)),
                                    v16_mul(v16_set1(d), v16_load(units))));
    v16_store(unit->minima, v16_mul(v16_from_i8(b16_shr_and(both, 4, 15)), v16_set1(-dmin)));
    V16_IN_MEMORY(unit->scales);
    V16_IN_MEMORY(unit->minima);
}

static inline v16 q2_k_group(const q2_k_unit *unit, int g)
{
    const v16_codes codes =
        v16_codes_load(unit->block + KVF_Q2_K_CODES + 32 * (g / 8) + 16 * (g % 2));
    return v16_fma(v16_set1(unit->scales[g]), v16_field(codes, TWO_BITS(g), 2),
                   v16_set1(unit->minima[g]));
}

static inline void q3_k_open(q3_k_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                             uint32_t u)
{
    (void)scales;
    (void)u;
    const b16 codes = b16_sub(b16_q3_k_scales(bytes), b16_set1(32));
    v16_store(unit->scales, v16_mul(v16_from_i8(codes), v16_set1(v16_half(bytes + KVF_Q3_K_D))));
    V16_IN_MEMORY(unit->scales);
    const b32 high = b32_load(bytes + KVF_Q3_K_HIGH);
    KVF_UNROLL
    for (int i = 0; i < 8; i++) {
        const b32 low = b32_load(bytes + KVF_Q3_K_CODES + 32 * (i / 4));
        const b32 code = b32_or(b32_move_and(low, 2 * (i % 4), 0, 3), b32_move_and(high, i, 2, 4));
        b32_store(unit->codes + 32 * i, b32_sub(code, b32_set1(4)));
    }
    V16_IN_MEMORY(unit->codes);
}

static inline v16 q3_k_group(const q3_k_unit *unit, int g)
{
    return v16_mul(v16_set1(unit->scales[g]), v16_load_i8(unit->codes + 16 * g));
}
#define q6_k_group q3_k_group

/*
 * The first 16 bytes of q4_K and q5_K: d, dmin and twelve bytes of scales and minima, to be
 * multiplied with d and -dmin; unit: V16_FIELD_UNIT of odd sub-blocks.
 */
static inline void open_pairs(paired_unit *unit, const uint8_t *block, const float unit_of_odd)
{
    const float factors[16] = {1,  unit_of_odd, 1,  unit_of_odd, 1,  unit_of_odd, 1,  unit_of_odd,
                               -1, -1,          -1, -1,          -1, -1,          -1, -1};
    unit->block = block;
    v16_store(unit->scales, v16_mul(v16_from_i8(b16_q4_k_scales(block)),
                                    v16_mul(v16_two_halves(block), v16_load(factors))));
    V16_IN_MEMORY(unit->scales);
}
static_assert(KVF_Q4_K_D == 0 && KVF_Q4_K_DMIN == 2 && KVF_Q4_K_SCALES == 4 && KVF_Q5_K_D == 0 &&
                  KVF_Q5_K_DMIN == 2 && KVF_Q5_K_SCALES == 4,
              "open_pairs");

static inline void q4_k_open(q4_k_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                             uint32_t u)
{
    (void)scales;
    (void)u;
    open_pairs(unit, bytes, V16_FIELD_UNIT(4));
}

/* Sub-blocks 2 j and 2 j + 1 share the 32 bytes j. */
static inline v16 q4_k_group(const q4_k_unit *unit, int g)
{
    const v16_codes codes =
        v16_codes_load(unit->block + KVF_Q4_K_CODES + 32 * (g / 4) + 16 * (g % 2));
    return v16_nibbles(codes, g % 4 / 2 * 4, v16_set1(unit->scales[g / 2]),
                       v16_set1(unit->scales[8 + g / 2]));
}

static inline void q5_k_open(q5_k_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                             uint32_t u)
{
    (void)scales;
    (void)u;
    open_pairs(&unit->pairs, bytes, 1.0f);
    const b32 high = b32_load(bytes + KVF_Q5_K_HIGH);
    KVF_UNROLL
    for (int i = 0; i < 8; i++) {
        const b32 low = b32_load(bytes + KVF_Q5_K_CODES + 32 * (i / 2));
        b32_store(unit->codes + 32 * i,
                  b32_or(b32_move_and(low, 4 * (i % 2), 0, 15), b32_move_and(high, i, 4, 16)));
    }
    V16_IN_MEMORY(unit->codes);
}

static inline v16 q5_k_group(const q5_k_unit *unit, int g)
{
    return v16_fma(v16_set1(unit->pairs.scales[g / 2]), v16_load_i8(unit->codes + 16 * g),
                   v16_set1(unit->pairs.scales[8 + g / 2]));
}

static inline void q6_k_open(q6_k_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                             uint32_t u)
{
    (void)scales;
    (void)u;
    v16_store(unit->scales, v16_mul(v16_load_i8(bytes + KVF_Q6_K_SCALES),
                                    v16_set1(v16_half(bytes + KVF_Q6_K_D))));
    V16_IN_MEMORY(unit->scales);
    KVF_UNROLL
    for (int i = 0; i < 8; i++) { /* 32 values */
        const b32 low = b32_load(bytes + KVF_Q6_K_LOW + 64 * (i / 4) + 32 * (i % 2));
        const b32 high = b32_load(bytes + KVF_Q6_K_HIGH + 32 * (i / 4));
        const b32 code =
            b32_or(b32_move_and(low, i % 4 / 2 * 4, 0, 15), b32_move_and(high, 2 * (i % 4), 4, 48));
        b32_store(unit->codes + 32 * i, b32_sub(code, b32_set1(32)));
    }
    V16_IN_MEMORY(unit->codes);
}

/* iq4_xs: the codes of iq4_nl, a scale of six bits for 32 values. */
typedef struct iq4_xs_unit {
    const uint8_t *block;
    float scales[8];
} iq4_xs_unit;

static inline void iq4_xs_open(iq4_xs_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                               uint32_t u)
{
    (void)scales;
    (void)u;
    const float d = v16_half(bytes + KVF_IQ4_XS_D);
    const uint32_t low = kvf_load_u32(bytes + KVF_IQ4_XS_SCALES_LOW);
    const uint32_t high = kvf_load_u16(bytes + KVF_IQ4_XS_SCALES_HIGH);
    unit->block = bytes;
    for (uint32_t g = 0; g < 8; g++)
        unit->scales[g] = d * (float)kvf_iq4_xs_scale(low, high, g);
}

static inline v16 iq4_xs_group(const iq4_xs_unit *unit, int g)
{
    v16_book book;
    v16_book_of(&book, kvf_iq4_values, v16_set1(unit->scales[g / 2]),
                unit->block + KVF_IQ4_XS_CODES + 16 * (g / 2));
    return v16_book_get(&book, g % 2);
}
