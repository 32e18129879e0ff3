/*
 * pack: f32 rows to bytes, docs/FORMAT.md 3 and 4. A template over v16; the bits are
 * those of src/format, which the conformance suite holds it against.
 *
 * A code is made in two steps: the value is rounded to the small float as a float
 * (v16_round_small), which is exact to convert to f16 once it is scaled so that the
 * two formats' smallest exponents meet; the code is then a piece of the f16's bits.
 * An instruction set may do it its own way (V16_STORE_CODES, V16_PACK_FP8).
 */
#include <math.h>

#include "assertion.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/rows.h"
#include "format/format.h"
#include "shared/layout.h"
#include "shared/ue8m0.h"

/* ---- Hadamard ------------------------------------------------------------------- */

/* Strides 1 .. 8 within vectors, 16 .. 64 between them; a - b is a + (-b), bit for bit. */
static void hadamard_row(float *values)
{
    v16 v[KVF_INDEX_WIDTH / 16];
    for (int i = 0; i < 8; i++) {
        v[i] = v16_load(values + 16 * i);
        v[i] = v16_add(v16_swap(v[i], 1), v16_negate_odd(v[i], 1));
        v[i] = v16_add(v16_swap(v[i], 2), v16_negate_odd(v[i], 2));
        v[i] = v16_add(v16_swap(v[i], 4), v16_negate_odd(v[i], 4));
        v[i] = v16_add(v16_swap(v[i], 8), v16_negate_odd(v[i], 8));
    }
    for (int stride = 1; stride < 8; stride *= 2)
        for (int i = 0; i < 8; i++)
            if (!(i & stride)) {
                const v16 a = v[i];
                const v16 b = v[i + stride];
                v[i] = v16_add(a, b);
                v[i + stride] = v16_sub(a, b);
            }
    const v16 scale = v16_set1(0.08838834764831845f); /* 128^-0.5 */
    for (int i = 0; i < 8; i++)
        v16_store(values + 16 * i, v16_mul(v[i], scale));
}

/* ---- FP8 -------------------------------------------------------------------------- */

/* The largest magnitude of n values, n a multiple of 16. */
static inline float highest_magnitude(const float *values, uint32_t n)
{
    v16 most = v16_abs(v16_load(values));
    for (uint32_t i = 16; i < n; i += 16)
        most = v16_max(v16_abs(v16_load(values + i)), most);
    return v16_highest(most);
}

/* The bits of the largest magnitude, NaN above infinity; n a multiple of 16. */
static inline uint32_t highest_bits(const float *values, uint32_t n)
{
    v16i most = v16i_abs_bits(v16_load(values));
    for (uint32_t i = 16; i < n; i += 16)
        most = v16i_max(v16i_abs_bits(v16_load(values + i)), most);
    return v16i_highest(most);
}

static inline uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* 2^e for -126 <= e <= 127. */
static inline float power_of_two(int e)
{
    const uint32_t bits = (uint32_t)(e + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* Exponent of a block of 64, and its values rounded to e4m3 in units of 2^e, into rounded. */
static inline int round_fp8_block(const float *values, v16 rounded[4])
{
    const int e = kvf_fp8_exponent(bits_of(highest_magnitude(values, KVF_FP8_BLOCK_VALUES)));
    const v16 scale = v16_set1(power_of_two(-e)); /* amax * 2^-e <= 448: no clamp is needed */
    for (int i = 0; i < 4; i++)
        rounded[i] =
            v16_round_small(v16_mul(v16_load(values + 16 * i), scale), 20, 0x1p-6f, 0x1p14f);
    return e;
}

static inline v16 clamp_f16(v16 x)
{
    const v16 limit = v16_set1(65504.0f);
    const v16 low = v16_max(x, v16_sub(v16_set1(0.0f), limit));
    const v16 minus = v16_set1(-1.0f);
    return v16_mul(v16_max(v16_mul(low, minus), v16_mul(limit, minus)), minus);
}

#ifndef V16_PACK_FP8
/* The codes of 448 values and their scale bytes. */
static inline void v16_pack_fp8(const float *values, uint8_t *codes, uint8_t *scales)
{
    for (uint32_t block = 0; block < KVF_FP8_BLOCKS; block++) {
        v16 rounded[4];
        uint16_t halves[KVF_FP8_BLOCK_VALUES];
        const uint32_t first = block * KVF_FP8_BLOCK_VALUES;
        scales[block] = kvf_ue8m0_encode(round_fp8_block(values + first, rounded));
        for (int i = 0; i < 4; i++) /* e4m3's smallest exponent is -6, f16's -14 */
            v16_store_f16(halves + 16 * i, v16_mul(rounded[i], v16_set1(0x1p-8f)));
        for (uint32_t i = 0; i < KVF_FP8_BLOCK_VALUES; i++)
            codes[first + i] = (uint8_t)((halves[i] >> 8 & 0x80) | (halves[i] >> 7 & 0x7f));
    }
    scales[KVF_FP8_BLOCKS] = 0;
}
#endif

static void pack_fp8_f16(uint8_t *page, uint32_t page_rows, uint32_t row, const float *values)
{
    uint8_t *data = page + (size_t)row * KVF_FP8_DATA_BYTES;
    v16_pack_fp8(values, data,
                 page + (size_t)page_rows * KVF_FP8_DATA_BYTES + (size_t)row * KVF_FP8_SCALE_BYTES);
    for (uint32_t i = 0; i < KVF_FP8_ROPE_VALUES; i += 16) {
        uint16_t halves[16];
        v16_store_f16(halves, clamp_f16(v16_load(values + KVF_FP8_NOPE_VALUES + i)));
        memcpy(data + KVF_FP8_ROPE_OFFSET + 2 * i, halves, sizeof halves);
    }
}

/* The values that the FP8 grid keeps of a row. */
static void round_row_fp8(const float *values, float *out)
{
    for (uint32_t block = 0; block < KVF_FP8_BLOCKS; block++) {
        v16 rounded[4];
        const int e = round_fp8_block(values + block * KVF_FP8_BLOCK_VALUES, rounded);
        for (int i = 0; i < 4; i++)
            v16_store(out + block * KVF_FP8_BLOCK_VALUES + 16 * i,
                      v16_mul(rounded[i], v16_set1(power_of_two(e))));
    }
    for (uint32_t i = KVF_FP8_NOPE_VALUES; i < KVF_ROW_WIDTH; i += 16) {
        uint16_t halves[16];
        v16_store_f16(halves, clamp_f16(v16_load(values + i)));
        v16_store(out + i, v16_load_f16(halves));
    }
}

/* ---- FP4 -------------------------------------------------------------------------- */

/* Exponent of a block of 32, and its values rounded to e2m1 in units of 2^e. */
static inline int round_fp4_block(const float *values, v16 rounded[2])
{
    const int e = kvf_fp4_exponent(bits_of(highest_magnitude(values, KVF_FP4_BLOCK_VALUES)));
    const v16 scale = v16_set1(power_of_two(-e));
    for (int i = 0; i < 2; i++)
        rounded[i] = v16_round_small(v16_mul(v16_load(values + 16 * i), scale), 22, 1.0f, 0x1p22f);
    return e;
}

/* The exponent of a block of 32, and its codes, two a byte. */
static inline int pack_fp4_block(const float *values, uint8_t *codes)
{
    uint8_t bytes[KVF_FP4_BLOCK_VALUES];
#ifdef V16_STORE_CODES
    const int e = kvf_fp4_exponent(bits_of(highest_magnitude(values, KVF_FP4_BLOCK_VALUES)));
    const v16 scale = v16_set1(power_of_two(-e));
    for (int i = 0; i < KVF_FP4_BLOCK_VALUES; i += 16)
        v16_store_codes(bytes + i, v16_mul(v16_load(values + i), scale), 1, 2);
    v16_join_nibbles(codes, bytes);
#else
    v16 rounded[2];
    uint16_t halves[KVF_FP4_BLOCK_VALUES];
    const int e = round_fp4_block(values, rounded);
    for (int i = 0; i < 2; i++) /* e2m1's smallest exponent is 0, f16's -14 */
        v16_store_f16(halves + 16 * i, v16_mul(rounded[i], v16_set1(0x1p-14f)));
    for (uint32_t i = 0; i < KVF_FP4_BLOCK_VALUES; i++)
        bytes[i] = (uint8_t)((halves[i] >> 12 & 8) | (halves[i] >> 9 & 7));
    for (uint32_t i = 0; i < KVF_FP4_BLOCK_CODE_BYTES; i++)
        codes[i] = (uint8_t)(bytes[2 * i] | bytes[2 * i + 1] << 4);
#endif
    return e;
}

static void pack_fp4(uint8_t *page, uint32_t page_rows, uint32_t row, const float *values)
{
    uint8_t *codes = page + (size_t)row * KVF_FP4_CODE_BYTES;
    uint8_t *scales =
        page + (size_t)page_rows * KVF_FP4_CODE_BYTES + (size_t)row * KVF_FP4_SCALE_BYTES;
    for (uint32_t block = 0; block < KVF_FP4_BLOCKS; block++)
        scales[block] = kvf_ue8m0_encode(pack_fp4_block(values + block * KVF_FP4_BLOCK_VALUES,
                                                        codes + block * KVF_FP4_BLOCK_CODE_BYTES));
}

static void round_row_fp4(const float *values, float *out)
{
    for (uint32_t block = 0; block < KVF_FP4_BLOCKS; block++) {
        v16 rounded[2];
        const int e = round_fp4_block(values + block * KVF_FP4_BLOCK_VALUES, rounded);
        for (int i = 0; i < 2; i++)
            v16_store(out + block * KVF_FP4_BLOCK_VALUES + 16 * i,
                      v16_mul(rounded[i], v16_set1(power_of_two(e))));
    }
}

/* ---- Rows -------------------------------------------------------------------------- */

/* Whether a row may be stored; where it may not, kvf_check_row says why. */
static bool row_is_storable(const float *values, uint32_t width, kvf_grid grid)
{
    /* Magnitudes are ordered as their bits are, infinity and NaN above all numbers. */
    uint32_t most = 0;
    for (uint32_t i = 0; grid == KVF_GRID_FP4 && i < width; i += KVF_FP4_BLOCK_VALUES) {
        const uint32_t amax = highest_bits(values + i, KVF_FP4_BLOCK_VALUES);
        if (amax > bits_of(KVF_FP4_LARGEST) || (amax && amax <= bits_of(KVF_FP4_TOO_SMALL)))
            return false;
    }
    if (grid == KVF_GRID_FP4)
        return true;
    if (grid == KVF_GRID_FP8) {
        if (highest_bits(values, KVF_NOPE_WIDTH) >= bits_of(KVF_FP8_TOO_LARGE))
            return false;
        most = highest_bits(values + KVF_NOPE_WIDTH, width - KVF_NOPE_WIDTH);
    } else {
        most = highest_bits(values, width);
    }
    return most < bits_of(INFINITY);
}

static bool store_row(const kvf_rows *out, uint64_t row, kvf_grid grid, const float *values)
{
    uint8_t *page = kvf_rows_page(out, row);
    const uint32_t in_page = (uint32_t)(row % out->page_rows);
    switch (out->format) {
    case KVF_FORMAT_FP8_F16: pack_fp8_f16(page, out->page_rows, in_page, values); return true;
    case KVF_FORMAT_FP4: pack_fp4(page, out->page_rows, in_page, values); return true;
    case KVF_FORMAT_F32:
    case KVF_FORMAT_F16:
    case KVF_FORMAT_FP8_BF16: break;
    case KVF_FORMAT_COUNT: KVF_UNREACHABLE();
    }
    float rounded[KVF_ROW_WIDTH];
    const kvf_format *format = kvf_format_get(out->format);
    if (format->grid == KVF_GRID_NONE && grid != KVF_GRID_NONE) {
        if (grid == KVF_GRID_FP8)
            round_row_fp8(values, rounded);
        else
            round_row_fp4(values, rounded);
        values = rounded;
    }
    return format->pack(page, out->page_rows, in_page, out->width, values);
}
