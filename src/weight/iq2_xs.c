/*
 * iq2_xs: d (0.5 + scale) 0.25 x entry x signs. A u16 for 8 values: nine bits of index,
 * seven of signs; scale of four bits for 16 values.
 */
#include "weight/block.h"
#include "weight/iq.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_IQ2_XS_D);
    for (int k = 0; k < KVF_K_VALUES / 8; k++) {
        const uint32_t code = kvf_load_u16(block + KVF_IQ2_XS_CODES + 2 * k);
        const uint32_t nibble = (block[KVF_IQ2_XS_SCALES + k / 4] >> (4 * (k / 2 % 2))) & 15;
        const float scale = d * (0.5f + (float)nibble) * 0.25f;
        kvf_put_iq2(scale, kvf_iq2_xs_grid[code & 511], kvf_iq_signs(code >> 9), out);
        out += 8;
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_K_VALUES, KVF_IQ2_XS_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_iq2_xs = {
    .name = "iq2_xs",
    .block_values = KVF_K_VALUES,
    .block_bytes = KVF_IQ2_XS_BYTES,
    .decode = decode,
};
