/*
 * iq4_nl: d x T[code], T a table of sixteen unevenly spaced values; nibbles as in q4_0.
 */
#include "shared/iquant.h"
#include "weight/block.h"

static void decode_block(const uint8_t *block, float *out)
{
    const float d = kvf_load_f16(block + KVF_IQ4_NL_D);
    const uint8_t *codes = block + KVF_IQ4_NL_CODES;
    for (int i = 0; i < KVF_IQ4_NL_VALUES / 2; i++) {
        out[i] = d * (float)kvf_iq4_values[codes[i] & 15];
        out[i + KVF_IQ4_NL_VALUES / 2] = d * (float)kvf_iq4_values[codes[i] >> 4];
    }
}

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    kvf_decode_blocks(matrix, row, out, KVF_IQ4_NL_VALUES, KVF_IQ4_NL_BYTES, decode_block);
}

const kvf_weight_type kvf_weight_iq4_nl = {
    .name = "iq4_nl",
    .block_values = KVF_IQ4_NL_VALUES,
    .block_bytes = KVF_IQ4_NL_BYTES,
    .decode = decode,
};
