/*
 * iq2_s: d (0.5 + scale) 0.25 x entry x signs. Ten bits of index and eight signs for 8
 * values, scale of four bits for 16.
 */
#include "weight/block.h"
#include "weight/iq.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_IQ2_S_D);
    for (int k = 0; k < KVF_K_VALUES / 8; k++) {
        const uint32_t high = (block[KVF_IQ2_S_HIGH + k / 4] >> (2 * (k % 4))) & 3;
        const uint32_t index = block[KVF_IQ2_S_INDEX + k] | high << 8;
        const uint32_t nibble = (block[KVF_IQ2_S_SCALES + k / 4] >> (4 * (k / 2 % 2))) & 15;
        const float scale = d * (0.5f + (float)nibble) * 0.25f;
        kvf_put_iq2(scale, kvf_iq2_s_grid[index], block[KVF_IQ2_S_SIGNS + k], out);
        out += 8;
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_K_VALUES, KVF_IQ2_S_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_iq2_s = {
    .name = "iq2_s",
    .block_values = KVF_K_VALUES,
    .block_bytes = KVF_IQ2_S_BYTES,
    .decode = decode,
};
