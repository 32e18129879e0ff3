/*
 * q6_K: d scale (v - 32), v of 6 bits, scale of 8 bits with sign for 16 values. In each
 * half of 128, quarter g and byte k: the low four bits are nibble g / 2 of LOW's byte
 * 32 (g % 2) + k, the other two bits 2 g and 2 g + 1 of HIGH's byte k.
 */
#include "weight/block.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_Q6_K_D);
    for (int i = 0; i < KVF_K_VALUES; i += 16) {
        const int half = i / 128;
        const int g = i % 128 / 32;
        const float scale = d * (float)(int8_t)block[KVF_Q6_K_SCALES + i / 16];
        const uint8_t *low = block + KVF_Q6_K_LOW + 64 * half + 32 * (g % 2) + i % 32;
        const uint8_t *high = block + KVF_Q6_K_HIGH + 32 * half + i % 32;
        for (int k = 0; k < 16; k++) {
            const int v = ((low[k] >> (4 * (g / 2))) & 15) | ((high[k] >> (2 * g)) & 3) << 4;
            out[i + k] = scale * (float)(v - 32);
        }
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_K_VALUES, KVF_Q6_K_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_q6_k = {
    .name = "q6_K",
    .block_values = KVF_K_VALUES,
    .block_bytes = KVF_Q6_K_BYTES,
    .decode = decode,
};
