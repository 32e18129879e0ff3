/* The grids that rows are rounded to before any format stores them, and the Hadamard. */
#include "format/fp4.h"
#include "format/fp8.h"

void kvf_grid_fp8(float *values)
{
    uint8_t codes[KVF_FP8_BLOCK_VALUES];
    for (int b = 0; b < KVF_FP8_BLOCKS; b++) {
        float *block = values + b * KVF_FP8_BLOCK_VALUES;
        const int32_t exponent = kvf_fp8_encode_block(block, codes);
        kvf_fp8_decode_block(codes, kvf_ue8m0_encode(exponent), block);
    }
    for (int i = KVF_NOPE_WIDTH; i < KVF_ROW_WIDTH; i++)
        values[i] = kvf_float_of(kvf_f16_decode(kvf_f16_encode(kvf_bits_of(values[i]))));
}

void kvf_grid_fp4(float *values)
{
    uint8_t codes[KVF_FP4_BLOCK_CODE_BYTES];
    for (int b = 0; b < KVF_FP4_BLOCKS; b++) {
        float *block = values + b * KVF_FP4_BLOCK_VALUES;
        const int32_t exponent = kvf_fp4_encode_block(block, codes);
        kvf_fp4_decode_block(codes, kvf_ue8m0_encode(exponent), block);
    }
}

void kvf_hadamard_128(float *values)
{
    for (int stride = 1; stride < KVF_INDEX_WIDTH; stride *= 2) {
        for (int first = 0; first < KVF_INDEX_WIDTH; first += 2 * stride) {
            for (int i = first; i < first + stride; i++) {
                const float a = values[i];
                const float b = values[i + stride];
                values[i] = a + b;
                values[i + stride] = a - b;
            }
        }
    }
    for (int i = 0; i < KVF_INDEX_WIDTH; i++)
        values[i] *= 0.08838834764831845f; /* 1 / sqrt(128) */
}
