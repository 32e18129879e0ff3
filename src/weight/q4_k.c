/*
 * q4_K: d a v - dmin m, v of 4 bits, scale a and minimum m of 6 bits for 32 values. Byte b
 * of each 32 code bytes has value b of one such 32 low and value b of the next high.
 */
#include "shared/kquant.h"
#include "weight/block.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_Q4_K_D);
    const float dmin = kvf_load_f16(block + KVF_Q4_K_DMIN);
    const uint32_t s0 = kvf_load_u32(block + KVF_Q4_K_SCALES);
    const uint32_t s1 = kvf_load_u32(block + KVF_Q4_K_SCALES + 4);
    const uint32_t s2 = kvf_load_u32(block + KVF_Q4_K_SCALES + 8);
    for (uint32_t j = 0; j < KVF_K_VALUES / 32; j++) {
        const float scale = d * (float)kvf_q4_k_scale(s0, s2, j);
        const float min = dmin * (float)kvf_q4_k_min(s1, s2, j);
        const uint8_t *codes = block + KVF_Q4_K_CODES + 32 * (j / 2);
        const uint32_t shift = 4 * (j % 2);
        for (int i = 0; i < 32; i++)
            *out++ = scale * (float)((codes[i] >> shift) & 15) - min;
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_K_VALUES, KVF_Q4_K_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_q4_k = {
    .name = "q4_K",
    .block_values = KVF_K_VALUES,
    .block_bytes = KVF_Q4_K_BYTES,
    .decode = decode,
};
