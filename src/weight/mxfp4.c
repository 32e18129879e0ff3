/*
 * mxfp4: e2m1 codes and a power of two for 32 of them, read as ggml reads them: the scale
 * is half of OCP's and goes with twice the code's value, an integer. So code 8 is +0, and
 * the byte 255, NaN in OCP, is a scale of 2^127. Nibbles as in q4_0, not as in fp4.
 */
#include "shared/e2m1.h"
#include "shared/ue8m0.h"
#include "weight/block.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float scale = kvf_float_of(kvf_ue8m0_decode_half(block[KVF_MXFP4_SCALE]));
    const uint8_t *codes = block + KVF_MXFP4_CODES;
    for (int i = 0; i < KVF_MXFP4_VALUES / 2; i++) {
        out[i] = scale * (float)kvf_e2m1_doubled(codes[i]);
        out[i + KVF_MXFP4_VALUES / 2] = scale * (float)kvf_e2m1_doubled(codes[i] >> 4);
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_MXFP4_VALUES, KVF_MXFP4_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_mxfp4 = {
    .name = "mxfp4",
    .block_values = KVF_MXFP4_VALUES,
    .block_bytes = KVF_MXFP4_BYTES,
    .decode = decode,
};
