/*
 * iq4_xs: d (scale - 32) T[code], T as in iq4_nl, scale of 6 bits for 32 values, whose
 * nibbles lie as in q4_0.
 */
#include "shared/iquant.h"
#include "weight/block.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_IQ4_XS_D);
    const uint32_t high = kvf_load_u16(block + KVF_IQ4_XS_SCALES_HIGH);
    const uint32_t low = kvf_load_u32(block + KVF_IQ4_XS_SCALES_LOW);
    const uint8_t *codes = block + KVF_IQ4_XS_CODES;
    for (uint32_t g = 0; g < KVF_K_VALUES / 32; g++) {
        const float scale = d * (float)kvf_iq4_xs_scale(low, high, g);
        for (int i = 0; i < 16; i++) {
            out[i] = scale * (float)kvf_iq4_values[codes[i] & 15];
            out[i + 16] = scale * (float)kvf_iq4_values[codes[i] >> 4];
        }
        codes += 16;
        out += 32;
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_K_VALUES, KVF_IQ4_XS_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_iq4_xs = {
    .name = "iq4_xs",
    .block_values = KVF_K_VALUES,
    .block_bytes = KVF_IQ4_XS_BYTES,
    .decode = decode,
};
