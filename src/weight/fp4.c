/*
 * fp4: e2m1 codes as DeepSeek packs them, value 2 j in the low nibble of byte j, and a
 * power of two for each 32 of a row. Exact, but for an overflow to infinity.
 */
#include "shared/e2m1.h"
#include "shared/ue8m0.h"
#include "weight/block.h"

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    const uint8_t *codes = kvf_weight_row(matrix, row);
    const uint8_t *scales = kvf_weight_scale_row(matrix, row);
    for (uint32_t n = matrix->cols / KVF_FP4_WEIGHT_VALUES; n > 0; n--) {
        const float scale = kvf_float_of(kvf_ue8m0_decode(*scales++));
        for (int j = 0; j < KVF_FP4_WEIGHT_BYTES; j++) {
            out[2 * j] = kvf_float_of(kvf_e2m1_decode(codes[j])) * scale;
            out[2 * j + 1] = kvf_float_of(kvf_e2m1_decode(codes[j] >> 4)) * scale;
        }
        codes += KVF_FP4_WEIGHT_BYTES;
        out += KVF_FP4_WEIGHT_VALUES;
    }
}

const kvf_weight_type kvf_weight_fp4 = {
    .name = "fp4",
    .block_values = KVF_FP4_WEIGHT_VALUES,
    .block_bytes = KVF_FP4_WEIGHT_BYTES,
    .scale_rows = 1,
    .scale_cols = KVF_FP4_WEIGHT_VALUES,
    .scale_bytes = 1,
    .decode = decode,
};
