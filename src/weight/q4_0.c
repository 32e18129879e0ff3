/*
 * q4_0: d x (code - 8); value i in the low nibble of byte i, i + 16 in the high one.
 */
#include "weight/block.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_Q4_0_D);
    const uint8_t *codes = block + KVF_Q4_0_CODES;
    for (int i = 0; i < KVF_Q4_0_VALUES / 2; i++) {
        out[i] = d * (float)((codes[i] & 15) - 8);
        out[i + KVF_Q4_0_VALUES / 2] = d * (float)((codes[i] >> 4) - 8);
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_Q4_0_VALUES, KVF_Q4_0_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_q4_0 = {
    .name = "q4_0",
    .block_values = KVF_Q4_0_VALUES,
    .block_bytes = KVF_Q4_0_BYTES,
    .decode = decode,
};
