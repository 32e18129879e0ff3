/*
 * q3_K: d (scale - 32) v, v of 3 bits, -4 to 3, scale of 6 bits for 16 values. The two low
 * bits lie as in q2_K; bit i / 32 of HIGH's byte i % 32 is the third, and clear means minus 4.
 */
#include "shared/kquant.h"
#include "weight/block.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_Q3_K_D);
    const uint32_t s0 = kvf_load_u32(block + KVF_Q3_K_SCALES);
    const uint32_t s1 = kvf_load_u32(block + KVF_Q3_K_SCALES + 4);
    const uint32_t s2 = kvf_load_u32(block + KVF_Q3_K_SCALES + 8);
    for (int i = 0; i < KVF_K_VALUES; i += 16) {
        const float scale = d * (float)kvf_q3_k_scale(s0, s1, s2, (uint32_t)i / 16);
        const uint8_t *codes = block + KVF_Q3_K_CODES + 32 * (i / 128) + i % 32;
        const uint8_t *high = block + KVF_Q3_K_HIGH + i % 32;
        const int shift = 2 * (i % 128 / 32);
        for (int j = 0; j < 16; j++) {
            const int v = (codes[j] >> shift) & 3;
            out[i + j] = scale * (float)((high[j] >> (i / 32)) & 1 ? v : v - 4);
        }
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_K_VALUES, KVF_Q3_K_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_q3_k = {
    .name = "q3_K",
    .block_values = KVF_K_VALUES,
    .block_bytes = KVF_Q3_K_BYTES,
    .decode = decode,
};
