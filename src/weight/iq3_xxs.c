/*
 * iq3_xxs: d (0.5 + scale) 0.5 x entry x signs. An index of a byte for 4 values; a word for
 * 32 as in iq2_xxs, after all indices.
 */
#include "weight/block.h"
#include "weight/iq.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_IQ3_XXS_D);
    const uint8_t *index = block + KVF_IQ3_XXS_INDEX;
    for (int g = 0; g < KVF_K_VALUES / 32; g++) {
        const uint32_t word = kvf_load_u32(block + KVF_IQ3_XXS_WORDS + 4 * g);
        const float scale = d * (0.5f + (float)(word >> 28)) * 0.5f;
        for (int k = 0; k < 4; k++) {
            const uint32_t signs = kvf_iq_signs((word >> (7 * k)) & 127);
            kvf_put_iq3(scale, kvf_iq3_xxs_expand(kvf_iq3_xxs_grid[index[0]]), signs, out);
            kvf_put_iq3(scale, kvf_iq3_xxs_expand(kvf_iq3_xxs_grid[index[1]]), signs >> 4, out + 4);
            index += 2;
            out += 8;
        }
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_K_VALUES, KVF_IQ3_XXS_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_iq3_xxs = {
    .name = "iq3_xxs",
    .block_values = KVF_K_VALUES,
    .block_bytes = KVF_IQ3_XXS_BYTES,
    .decode = decode,
};
