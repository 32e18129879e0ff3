/*
 * iq3_s: d (1 + 2 scale) x entry x signs. Nine bits of index for 4 values, eight signs for
 * 8, scale of four bits for 32.
 */
#include "weight/block.h"
#include "weight/iq.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_IQ3_S_D);
    for (int k = 0; k < KVF_K_VALUES / 4; k++) {
        const int g = k / 8;
        const uint32_t high = (block[KVF_IQ3_S_HIGH + g] >> (k % 8)) & 1;
        const uint32_t entry = kvf_iq3_s_grid[block[KVF_IQ3_S_INDEX + k] | high << 8];
        const uint32_t nibble = (block[KVF_IQ3_S_SCALES + g / 2] >> (4 * (g % 2))) & 15;
        const uint32_t signs = block[KVF_IQ3_S_SIGNS + k / 2] >> (4 * (k % 2));
        kvf_put_iq3(d * (float)(1 + 2 * nibble), kvf_iq3_s_expand(entry), signs, out);
        out += 4;
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_K_VALUES, KVF_IQ3_S_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_iq3_s = {
    .name = "iq3_s",
    .block_values = KVF_K_VALUES,
    .block_bytes = KVF_IQ3_S_BYTES,
    .decode = decode,
};
