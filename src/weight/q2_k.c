/*
 * q2_K: d a v - dmin m, v of 2 bits, scale a and minimum m of 4 bits for 16 values.
 * Byte b of each 32 code bytes has values b, 32 + b, 64 + b, 96 + b of its half.
 */
#include "weight/block.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_Q2_K_D);
    const float dmin = kvf_load_f16(block + KVF_Q2_K_DMIN);
    for (int i = 0; i < KVF_K_VALUES; i += 16) {
        const uint8_t both = block[KVF_Q2_K_SCALES + i / 16];
        const float scale = d * (float)(both & 15);
        const float min = dmin * (float)(both >> 4);
        const uint8_t *codes = block + KVF_Q2_K_CODES + 32 * (i / 128) + i % 32;
        const int shift = 2 * (i % 128 / 32);
        for (int j = 0; j < 16; j++)
            out[i + j] = scale * (float)((codes[j] >> shift) & 3) - min;
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_K_VALUES, KVF_Q2_K_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_q2_k = {
    .name = "q2_K",
    .block_values = KVF_K_VALUES,
    .block_bytes = KVF_Q2_K_BYTES,
    .decode = decode,
};
