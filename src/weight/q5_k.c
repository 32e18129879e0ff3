/*
 * q5_K: as q4_K with v of 5 bits; bit j of HIGH's byte i is the fifth of value i of the
 * j-th 32.
 */
#include "shared/kquant.h"
#include "weight/block.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_Q5_K_D);
    const float dmin = kvf_load_f16(block + KVF_Q5_K_DMIN);
    const uint32_t s0 = kvf_load_u32(block + KVF_Q5_K_SCALES);
    const uint32_t s1 = kvf_load_u32(block + KVF_Q5_K_SCALES + 4);
    const uint32_t s2 = kvf_load_u32(block + KVF_Q5_K_SCALES + 8);
    const uint8_t *high = block + KVF_Q5_K_HIGH;
    for (uint32_t j = 0; j < KVF_K_VALUES / 32; j++) {
        const float scale = d * (float)kvf_q4_k_scale(s0, s2, j);
        const float min = dmin * (float)kvf_q4_k_min(s1, s2, j);
        const uint8_t *codes = block + KVF_Q5_K_CODES + 32 * (j / 2);
        const uint32_t shift = 4 * (j % 2);
        for (int i = 0; i < 32; i++) {
            const int v = ((codes[i] >> shift) & 15) | ((high[i] >> j) & 1) << 4;
            *out++ = scale * (float)v - min;
        }
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_K_VALUES, KVF_Q5_K_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_q5_k = {
    .name = "q5_K",
    .block_values = KVF_K_VALUES,
    .block_bytes = KVF_Q5_K_BYTES,
    .decode = decode,
};
