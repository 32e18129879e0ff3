/*
 * Stored types with blocks of 32: fp4 (DeepSeek's), q8_0, q4_0, iq4_nl, mxfp4. A template
 * over v16; interface: product_type.inc.h.
 */
#include "shared/iquant.h"

/* 16 bytes of two codes each; group 0 reads the low halves, group 1 the high ones. */
static inline b16 nibbles(const uint8_t *codes, int g)
{
    return b16_shr_and(b16_load(codes), 4 * g, 15);
}

/* fp4: codes 2 i and 2 i + 1 in byte i, a power of two for 32 of them in the plane. */
typedef struct fp4_unit {
    v16_e2m1 book;
    const uint8_t *codes;
} fp4_unit;

static inline fp4_unit fp4_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    /* half of the power, since the book has doubled values; 255 is NaN here */
    const uint8_t code = scales[u];
    const float half = code == 255 ? NAN : kvf_float_of(kvf_ue8m0_decode_half(code));
    return (fp4_unit){v16_e2m1_of(half), bytes};
}

static inline v16 fp4_group(const fp4_unit *unit, int g)
{
    const b16 pairs = b16_load_8(unit->codes + 8 * g);
    return v16_e2m1_get(unit->book,
                        b16_interleave(b16_shr_and(pairs, 0, 15), b16_shr_and(pairs, 4, 15)));
}

typedef struct q8_0_unit {
    const uint8_t *codes;
    float d;
} q8_0_unit;

static inline q8_0_unit q8_0_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    (void)scales;
    (void)u;
    return (q8_0_unit){bytes + KVF_Q8_0_CODES, v16_half(bytes + KVF_Q8_0_D)};
}

static inline v16 q8_0_group(const q8_0_unit *unit, int g)
{
    return v16_mul(v16_from_i8(b16_load(unit->codes + 16 * g)), v16_set1(unit->d));
}

/* 16 values by code, times a scale. */
typedef struct book_unit {
    v16_book book;
    const uint8_t *codes;
} book_unit;
typedef book_unit q4_0_unit;
typedef book_unit iq4_nl_unit;
typedef book_unit mxfp4_unit;

static inline q4_0_unit q4_0_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    static const int8_t values[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    (void)scales;
    (void)u;
    return (q4_0_unit){v16_book_of(values, v16_half(bytes + KVF_Q4_0_D)), bytes + KVF_Q4_0_CODES};
}

static inline iq4_nl_unit iq4_nl_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    (void)scales;
    (void)u;
    return (iq4_nl_unit){v16_book_of(kvf_iq4_values, v16_half(bytes + KVF_IQ4_NL_D)),
                         bytes + KVF_IQ4_NL_CODES};
}

static inline v16 q4_0_group(const q4_0_unit *unit, int g)
{
    return v16_book_get(unit->book, nibbles(unit->codes, g));
}
#define iq4_nl_group q4_0_group

/* e2m1 doubled, but code 8 is +0 here, as in ggml. */
static inline mxfp4_unit mxfp4_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    static const int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    (void)scales;
    (void)u;
    const float half = kvf_float_of(kvf_ue8m0_decode_half(bytes[KVF_MXFP4_SCALE]));
    return (mxfp4_unit){v16_book_of(values, half), bytes + KVF_MXFP4_CODES};
}
#define mxfp4_group q4_0_group
