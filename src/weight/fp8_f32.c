/*
 * fp8_f32: e4m3 codes and an f32 scale, which may be any number, for each tile of
 * 128 x 128. The value is code x scale, rounded once; a NaN on either side gives NaN.
 */
#include "weight/fp8.h"

static float load_scale(const uint8_t *scales, size_t i)
{
    return kvf_load_f32(scales + 4 * i);
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_fp8(matrix, row, out, load_scale);
}

const kvf_weight_type kvf_weight_fp8_f32 = {
    .name = "fp8_f32",
    .block_values = 1,
    .block_bytes = 1,
    .scale_rows = KVF_FP8_WEIGHT_TILE,
    .scale_cols = KVF_FP8_WEIGHT_TILE,
    .scale_bytes = 4,
    .decode = decode,
};
