/* What the decoders share: little-endian loads at any address, and the walk over a row. */
#ifndef KVF_WEIGHT_BLOCK_H
#define KVF_WEIGHT_BLOCK_H

#include <stddef.h>

#include "shared/bits.h"
#include "shared/half.h"
#include "shared/weight_blocks.h"
#include "weight/weight.h"

/* From bytes, so that neither alignment nor the machine's byte order matters; one load on x86. */
static inline uint16_t kvf_load_u16(const uint8_t *from)
{
    return (uint16_t)(from[0] | from[1] << 8);
}

static inline uint32_t kvf_load_u32(const uint8_t *from)
{
    return kvf_load_u16(from) | (uint32_t)kvf_load_u16(from + 2) << 16;
}

static inline float kvf_load_f32(const uint8_t *from)
{
    return kvf_float_of(kvf_load_u32(from));
}

static inline float kvf_load_f16(const uint8_t *from)
{
    return kvf_float_of(kvf_f16_decode(kvf_load_u16(from)));
}

static inline const uint8_t *kvf_weight_row(const kvf_matrix *matrix, uint32_t row)
{
    return (const uint8_t *)matrix->data + row * matrix->row_bytes;
}

/* Row `row` of the scale plane, counted in scales' rows: row / scale_rows. */
static inline const uint8_t *kvf_weight_scale_row(const kvf_matrix *matrix, uint32_t row)
{
    return (const uint8_t *)matrix->scales + (uint64_t)row * matrix->scale_stride;
}

/* A row of blocks that stand for themselves; decode_block writes `values` values of one. */
static inline void kvf_decode_blocks(const kvf_matrix *matrix, uint32_t row, float *out,
                                     uint32_t values, uint32_t bytes,
                                     void (*decode_block)(const uint8_t *block, float *out))
{
    const uint8_t *block = kvf_weight_row(matrix, row);
    for (uint32_t n = matrix->cols / values; n > 0; n--) {
        decode_block(block, out);
        block += bytes;
        out += values;
    }
}

#endif
