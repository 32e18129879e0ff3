/* A row of e4m3 codes, a scale of the plane for each 128 of them; the last may have fewer. */
#ifndef KVF_WEIGHT_FP8_H
#define KVF_WEIGHT_FP8_H

#include "shared/e4m3.h"
#include "weight/block.h"

static inline void kvf_decode_fp8(const kvf_matrix *matrix, uint32_t row, float *out,
                                  float (*load_scale)(const uint8_t *scales, size_t i))
{
    const uint8_t *codes = kvf_weight_row(matrix, row);
    const uint8_t *scales = kvf_weight_scale_row(matrix, row / KVF_FP8_WEIGHT_TILE);
    float scale = 0;
    for (size_t i = 0; i < matrix->cols; i++) {
        if (i % KVF_FP8_WEIGHT_TILE == 0)
            scale = load_scale(scales, i / KVF_FP8_WEIGHT_TILE);
        out[i] = kvf_float_of(kvf_e4m3_decode(codes[i])) * scale;
    }
}

#endif
