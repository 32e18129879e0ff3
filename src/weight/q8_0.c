/*
 * q8_0: d x code, codes of 8 bits with sign.
 */
#include "weight/block.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_Q8_0_D);
    const uint8_t *codes = block + KVF_Q8_0_CODES;
    for (int i = 0; i < KVF_Q8_0_VALUES; i++)
        out[i] = d * (float)(int8_t)codes[i];
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_Q8_0_VALUES, KVF_Q8_0_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_q8_0 = {
    .name = "q8_0",
    .block_values = KVF_Q8_0_VALUES,
    .block_bytes = KVF_Q8_0_BYTES,
    .decode = decode,
};
