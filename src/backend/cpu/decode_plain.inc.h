/*
 * Stored types without blocks, by 16 values: f32, f16, bf16, and DeepSeek's fp8 with its
 * plane of scales. A template over v16; interface: product_type.inc.h.
 */
#include "shared/e4m3.h"
#include "shared/ue8m0.h"

/*
 * 2^(code - 128) at code, the scale of mxfp4; in the second table, for DeepSeek's scales, 255 is
 * NaN. One load and no arithmetic.
 */
#define HALF_4(code) (code) << 23, ((code) + 1) << 23, ((code) + 2) << 23, ((code) + 3) << 23
#define HALF_16(code) HALF_4(code), HALF_4((code) + 4), HALF_4((code) + 8), HALF_4((code) + 12)
#define HALF_64(code)                                                                              \
    HALF_16(code), HALF_16((code) + 16), HALF_16((code) + 32), HALF_16((code) + 48)
/* 0 and 1 are subnormal; from 2 on the exponent is code - 1 */
#define HALF_255                                                                                   \
    0x00200000u, 0x00400000u, HALF_64(1u), HALF_64(65u), HALF_64(129u), HALF_16(193u),             \
        HALF_16(209u), HALF_16(225u), HALF_4(241u), HALF_4(245u), HALF_4(249u), 253u << 23
static const uint32_t half_powers[256] = {HALF_255, 254u << 23};
static const uint32_t half_powers_or_nan[256] = {HALF_255, KVF_F32_NAN};
#undef HALF_255
#undef HALF_4
#undef HALF_16
#undef HALF_64

/* Where a row and, for types that have them, its scales begin. */
typedef struct weight_place {
    const uint8_t *data;
    const uint8_t *scales;
} weight_place;

static inline weight_place place_of_row(const kvf_matrix *matrix, uint32_t row,
                                        const uint32_t scale_rows)
{
    return (weight_place){kvf_weight_row(matrix, row),
                          scale_rows ? kvf_weight_scale_row(matrix, row / scale_rows) : NULL};
}

typedef struct plain_unit {
    const uint8_t *data;
} plain_unit;
typedef plain_unit f32_unit;
typedef plain_unit f16_unit;
typedef plain_unit bf16_unit;

static inline void f32_open(f32_unit *unit, const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    (void)scales;
    (void)u;
    unit->data = bytes;
}
#define f16_open f32_open
#define bf16_open f32_open

/* v16_load takes any address on every processor that is served. */
static inline v16 f32_group(const f32_unit *unit, int g)
{
    return v16_load((const float *)(const void *)(unit->data + 64 * g));
}

static inline v16 f16_group(const f16_unit *unit, int g)
{
    return v16_load_f16(unit->data + 32 * g);
}

static inline v16 bf16_group(const bf16_unit *unit, int g)
{
    return v16_load_bf16(unit->data + 32 * g);
}

/*
 * 128 codes and their scale. The quick way takes a code as an f16 of its value x 2^-8: right
 * but for the NaN codes, and while the scale x 2^8 is finite; else code by code. Which way is
 * found out with no branch and no comparison of floats, as it is done for each unit.
 *
 * 3 to widen and permute, 3 to shift and convert, 4 to multiply and 2 of logic, of which one is
 * the search for NaN. To move a code into place in an f32 instead (value x 2^-120) takes one
 * less, but makes subnormal codes subnormal numbers, which cost 1 to 3 cycles each.
 */
typedef struct fp8_unit {
    const uint8_t *codes;
    const uint8_t *scale;
    float raised_scale; /* x 2^8 */
    bool fits;          /* it is finite */
    v16_highest_code highest;
} fp8_unit;
typedef fp8_unit fp8_e8m0_unit;
typedef fp8_unit fp8_f32_unit;

static inline void open_fp8(fp8_unit *unit, const uint8_t *codes, float scale)
{
    unit->codes = codes;
    unit->raised_scale = scale * 256.0f;
    unit->fits = (kvf_bits_of(unit->raised_scale) & KVF_F32_MAGNITUDE_MASK) < KVF_F32_INFINITY;
    unit->highest = v16_highest_code_of_128(codes);
}

/* All of a few rows at once, so that a branch is taken for all of them. */
static inline bool fp8_e8m0_is_plain(const fp8_unit *units, const int n_rows)
{
    bool fit = units[0].fits;
    v16_highest_code highest = units[0].highest;
    KVF_UNROLL
    for (int r = 1; r < n_rows; r++) {
        fit &= units[r].fits;
        highest = v16_higher_code(highest, units[r].highest);
    }
    return fit & !v16_is_nan_code(highest);
}
#define fp8_f32_is_plain fp8_e8m0_is_plain

static inline void fp8_e8m0_open(fp8_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                                 uint32_t u)
{
    unit->scale = scales + u;
    open_fp8(unit, bytes, 2.0f * kvf_float_of(half_powers_or_nan[scales[u]]));
}

static inline void fp8_f32_open(fp8_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                                uint32_t u)
{
    unit->scale = scales + 4 * (size_t)u;
    open_fp8(unit, bytes, kvf_load_f32(unit->scale));
}

static v16 fp8_slowly(const uint8_t *codes, float scale)
{
    float values[16];
    for (int i = 0; i < 16; i++)
        values[i] = kvf_float_of(kvf_e4m3_decode(codes[i])) * scale;
    return v16_load(values);
}

static v16 fp8_e8m0_slowly(const fp8_unit *unit, int g)
{
    return fp8_slowly(unit->codes + 16 * g, kvf_float_of(kvf_ue8m0_decode(*unit->scale)));
}

static v16 fp8_f32_slowly(const fp8_unit *unit, int g)
{
    return fp8_slowly(unit->codes + 16 * g, kvf_load_f32(unit->scale));
}

static inline v16 fp8_e8m0_group(const fp8_e8m0_unit *unit, int g)
{
    return v16_mul(v16_load_e4m3(unit->codes + 16 * g), v16_set1(unit->raised_scale));
}
#define fp8_f32_group fp8_e8m0_group
