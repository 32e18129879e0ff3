/*
 * Stored types without blocks, by 16 values: f32, f16, bf16, and DeepSeek's fp8 with its
 * plane of scales. A template over v16; interface: product_type.inc.h.
 */
#include "shared/e4m3.h"
#include "shared/ue8m0.h"

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

static inline f32_unit f32_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    (void)scales;
    (void)u;
    return (f32_unit){bytes};
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
 * but for the NaN codes, and while the scale x 2^8 is finite; else code by code.
 */
typedef struct fp8_unit {
    const uint8_t *codes;
    float scale;
    bool is_plain;
} fp8_unit;
typedef fp8_unit fp8_e8m0_unit;
typedef fp8_unit fp8_f32_unit;

static inline fp8_unit open_fp8(const uint8_t *codes, float scale)
{
    /* false for a NaN too */
    const bool fits = scale > -0x1p119f && scale < 0x1p119f;
    return (fp8_unit){codes, scale, fits && !v16_nan_code_in_128(codes)};
}

static inline fp8_e8m0_unit fp8_e8m0_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    return open_fp8(bytes, kvf_float_of(kvf_ue8m0_decode(scales[u])));
}

static inline fp8_f32_unit fp8_f32_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    return open_fp8(bytes, kvf_load_f32(scales + 4 * (size_t)u));
}

static v16 fp8_group_slowly(const uint8_t *codes, float scale)
{
    float values[16];
    for (int i = 0; i < 16; i++)
        values[i] = kvf_float_of(kvf_e4m3_decode(codes[i])) * scale;
    return v16_load(values);
}

static inline v16 fp8_e8m0_group(const fp8_e8m0_unit *unit, int g)
{
    if (__builtin_expect(!unit->is_plain, 0))
        return fp8_group_slowly(unit->codes + 16 * g, unit->scale);
    return v16_mul(v16_load_e4m3(unit->codes + 16 * g), v16_set1(unit->scale * 256.0f));
}
#define fp8_f32_group fp8_e8m0_group
