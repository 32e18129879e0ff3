/*
 * iq2_xxs: d (0.5 + scale) 0.25 x entry x signs. A group of 32 values has four indices of a
 * byte, then a word: scale in its top four bits, four times seven bits of signs below.
 */
#include "weight/block.h"
#include "weight/iq.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_IQ2_XXS_D);
    const uint8_t *group = block + KVF_IQ2_XXS_GROUPS;
    for (int g = 0; g < KVF_K_VALUES / 32; g++) {
        const uint32_t word = kvf_load_u32(group + 4);
        const float scale = d * (0.5f + (float)(word >> 28)) * 0.25f;
        for (int k = 0; k < 4; k++) {
            const uint32_t signs = kvf_iq_signs((word >> (7 * k)) & 127);
            kvf_put_iq2(scale, kvf_iq2_xxs_grid[group[k]], signs, out);
            out += 8;
        }
        group += KVF_IQ2_XXS_GROUP_BYTES;
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_K_VALUES, KVF_IQ2_XXS_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_iq2_xxs = {
    .name = "iq2_xxs",
    .block_values = KVF_K_VALUES,
    .block_bytes = KVF_IQ2_XXS_BYTES,
    .decode = decode,
};
