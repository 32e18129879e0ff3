/*
 * What fp8_f16 and fp8_bf16 share, and the FP8 grid: the blocks of 64 codes and the
 * place of a row in its page (docs/FORMAT.md 3, shared/layout.h). The two formats
 * differ in how the 64 rope values are coded, which they pass in.
 */
#ifndef KVF_FORMAT_FP8_H
#define KVF_FORMAT_FP8_H

#include "format/format.h"
#include "shared/e4m3.h"
#include "shared/half.h"
#include "shared/layout.h"
#include "shared/ue8m0.h"

/* How a rope value becomes two bytes and back: f32 bits to code, code to f32 bits. */
typedef struct kvf_fp8_rope {
    uint16_t (*encode)(uint32_t f32_bits);
    uint32_t (*decode)(uint16_t code);
} kvf_fp8_rope;

/*
 * The scale exponent of one block and its codes[64]. values * 2^-e is exact, or so
 * small that every rounding of it has the code 0.
 */
static inline int32_t kvf_fp8_encode_block(const float *values, uint8_t *codes)
{
    /* Bits of magnitudes order as the magnitudes do. */
    uint32_t amax = 0;
    for (int i = 0; i < KVF_FP8_BLOCK_VALUES; i++) {
        const uint32_t magnitude = kvf_bits_of(values[i]) & KVF_F32_MAGNITUDE_MASK;
        amax = magnitude > amax ? magnitude : amax;
    }
    const int32_t exponent = kvf_fp8_exponent(amax);
    const float inverse = kvf_float_of(kvf_power_of_two(-exponent));
    for (int i = 0; i < KVF_FP8_BLOCK_VALUES; i++)
        codes[i] = kvf_e4m3_encode(kvf_bits_of(values[i] * inverse));
    return exponent;
}

/*
 * The values of codes[64] under the scale byte: exact, but for one corner that f32
 * lacks. From 248 * 2^120 on (3.3e38) a value rounds to 256 * 2^120 = 2^128, which
 * decodes to infinity.
 */
static inline void kvf_fp8_decode_block(const uint8_t *codes, uint8_t scale_byte, float *values)
{
    const float scale = kvf_float_of(kvf_ue8m0_decode(scale_byte));
    for (int i = 0; i < KVF_FP8_BLOCK_VALUES; i++)
        values[i] = kvf_float_of(kvf_e4m3_decode(codes[i])) * scale;
}

static inline size_t kvf_fp8_row_bytes(uint32_t width)
{
    return width == KVF_ROW_WIDTH ? KVF_FP8_ROW_BYTES : 0;
}

static inline size_t kvf_fp8_page_bytes(uint32_t width, uint32_t page_rows)
{
    const size_t rows_bytes = page_rows * kvf_fp8_row_bytes(width);
    const size_t multiple = KVF_FP8_PAGE_MULTIPLE_BYTES;
    return (rows_bytes + multiple - 1) / multiple * multiple;
}

/* Where in its page a row's 576 data bytes and its 8 scale bytes begin. */
static inline size_t kvf_fp8_data_offset(uint32_t row)
{
    return (size_t)row * KVF_FP8_DATA_BYTES;
}

static inline size_t kvf_fp8_scale_offset(uint32_t page_rows, uint32_t row)
{
    return (size_t)page_rows * KVF_FP8_DATA_BYTES + (size_t)row * KVF_FP8_SCALE_BYTES;
}

/*
 * Stores one row. Returns whether every rope value as stored is the grid's, which is
 * the f16 nearest to the input; the nope values are on the grid by construction.
 */
static inline bool kvf_fp8_pack(void *page, uint32_t page_rows, uint32_t row, const float *values,
                                kvf_fp8_rope rope)
{
    uint8_t *data = (uint8_t *)page + kvf_fp8_data_offset(row);
    uint8_t *scales = (uint8_t *)page + kvf_fp8_scale_offset(page_rows, row);
    for (int b = 0; b < KVF_FP8_BLOCKS; b++) {
        const int first = b * KVF_FP8_BLOCK_VALUES;
        scales[b] = kvf_ue8m0_encode(kvf_fp8_encode_block(values + first, data + first));
    }
    scales[KVF_FP8_BLOCKS] = 0;

    bool exact = true;
    for (int i = 0; i < KVF_FP8_ROPE_VALUES; i++) {
        const uint32_t bits = kvf_bits_of(values[KVF_FP8_NOPE_VALUES + i]);
        const uint16_t code = rope.encode(bits);
        memcpy(data + KVF_FP8_ROPE_OFFSET + i * sizeof code, &code, sizeof code);
        exact &= rope.decode(code) == kvf_f16_decode(kvf_f16_encode(bits));
    }
    return exact;
}

static inline void kvf_fp8_unpack(const void *page, uint32_t page_rows, uint32_t row, float *values,
                                  kvf_fp8_rope rope)
{
    const uint8_t *data = (const uint8_t *)page + kvf_fp8_data_offset(row);
    const uint8_t *scales = (const uint8_t *)page + kvf_fp8_scale_offset(page_rows, row);
    for (int b = 0; b < KVF_FP8_BLOCKS; b++) {
        const int first = b * KVF_FP8_BLOCK_VALUES;
        kvf_fp8_decode_block(data + first, scales[b], values + first);
    }
    for (int i = 0; i < KVF_FP8_ROPE_VALUES; i++) {
        uint16_t code;
        memcpy(&code, data + KVF_FP8_ROPE_OFFSET + i * sizeof code, sizeof code);
        values[KVF_FP8_NOPE_VALUES + i] = kvf_float_of(rope.decode(code));
    }
}

#endif
