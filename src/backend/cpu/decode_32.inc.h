/*
 * Stored types with blocks of 32: fp4 (DeepSeek's), q8_0, q4_0, iq4_nl, mxfp4. A template
 * over v16; interface: product_type.inc.h.
 *
 * q8_0: 8 operations of which 4 multiply, and a tenth more for d. Types of four bits: 7 on
 * AVX-512, of which 6 share three pipes, 11 on AVX2; fp4 9 and 12, but evenly.
 */
#include "shared/iquant.h"

/*
 * fp4: codes 2 i and 2 i + 1 in byte i, a power of two for 32 of them in the plane. Four such
 * blocks are a unit: as they lie together, one is asked for with one cache line.
 */
typedef struct fp4_unit {
    const uint8_t *codes;
    const uint8_t *scales;
} fp4_unit;

static inline void fp4_open(fp4_unit *unit, const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    unit->codes = bytes;
    unit->scales = scales + 4 * (size_t)u;
}

static inline v16 fp4_group(const fp4_unit *unit, int g)
{
    v16_e2m1 book;
    /* half of the power, since the book has doubled values; 255 is NaN here */
    v16_e2m1_of(&book, v16_set1(kvf_float_of(half_powers_or_nan[unit->scales[g / 2]])),
                unit->codes + KVF_FP4_WEIGHT_BYTES * (g / 2));
    return v16_e2m1_get(&book, g % 2);
}

typedef struct q8_0_unit {
    const uint8_t *codes;
    v16 d;
} q8_0_unit;

static inline void q8_0_open(q8_0_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                             uint32_t u)
{
    (void)scales;
    (void)u;
    unit->codes = bytes + KVF_Q8_0_CODES;
    unit->d = v16_set1(v16_half_4(bytes + KVF_Q8_0_D));
}

static inline v16 q8_0_group(const q8_0_unit *unit, int g)
{
    return v16_mul(v16_load_i8(unit->codes + 16 * g), unit->d);
}

/* 16 values by code, times a scale. */
typedef v16_book q4_0_unit;
typedef v16_book iq4_nl_unit;
typedef v16_book mxfp4_unit;

static inline void q4_0_open(v16_book *unit, const uint8_t *bytes, const uint8_t *scales,
                             uint32_t u)
{
    static const int8_t values[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    (void)scales;
    (void)u;
    v16_book_of(unit, values, v16_set1_half(bytes + KVF_Q4_0_D), bytes + KVF_Q4_0_CODES);
}

static inline void iq4_nl_open(v16_book *unit, const uint8_t *bytes, const uint8_t *scales,
                               uint32_t u)
{
    (void)scales;
    (void)u;
    v16_book_of(unit, kvf_iq4_values, v16_set1_half(bytes + KVF_IQ4_NL_D),
                bytes + KVF_IQ4_NL_CODES);
}

static inline v16 q4_0_group(const v16_book *unit, int g)
{
    return v16_book_get(unit, g);
}
#define iq4_nl_group q4_0_group
#define mxfp4_group q4_0_group

/* e2m1 doubled, but code 8 is +0 here, as in ggml. */
static inline void mxfp4_open(v16_book *unit, const uint8_t *bytes, const uint8_t *scales,
                              uint32_t u)
{
    static const int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    (void)scales;
    (void)u;
    v16_book_of(unit, values, v16_set1(kvf_float_of(half_powers[bytes[KVF_MXFP4_SCALE]])),
                bytes + KVF_MXFP4_CODES);
}
