/*
 * fp8_e8m0: e4m3 codes and a power of two for each tile of 128 x 128, as DeepSeek stores
 * them. code x scale is exact, but for an overflow to infinity. A NaN on either side gives
 * NaN.
 */
#include "shared/ue8m0.h"
#include "weight/fp8.h"

static float load_scale(const uint8_t *scales, size_t i)
{
    return kvf_float_of(kvf_ue8m0_decode(scales[i]));
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_fp8(matrix, row, out, load_scale);
}

const kvf_weight_type kvf_weight_fp8_e8m0 = {
    .name = "fp8_e8m0",
    .block_values = 1,
    .block_bytes = 1,
    .scale_rows = KVF_FP8_WEIGHT_TILE,
    .scale_cols = KVF_FP8_WEIGHT_TILE,
    .scale_bytes = 1,
    .decode = decode,
};
