/* The blocks of 32 e2m1 codes that the fp4 format and the FP4 grid share (docs/FORMAT.md 4). */
#ifndef KVF_FORMAT_FP4_H
#define KVF_FORMAT_FP4_H

#include "format/format.h"
#include "shared/e2m1.h"
#include "shared/layout.h"
#include "shared/ue8m0.h"

/*
 * The scale exponent of one block and its codes[16], two values a byte, the even one in
 * the low nibble. values * 2^-e is exact, or so small that every rounding of it has the
 * code 0.
 */
static inline int32_t kvf_fp4_encode_block(const float *values, uint8_t *codes)
{
    /* Bits of magnitudes order as the magnitudes do. */
    uint32_t amax = 0;
    for (int i = 0; i < KVF_FP4_BLOCK_VALUES; i++) {
        const uint32_t magnitude = kvf_bits_of(values[i]) & KVF_F32_MAGNITUDE_MASK;
        amax = magnitude > amax ? magnitude : amax;
    }
    const int32_t exponent = kvf_fp4_exponent(amax);
    const float inverse = kvf_float_of(kvf_power_of_two(-exponent));
    for (int i = 0; i < KVF_FP4_BLOCK_CODE_BYTES; i++) {
        const uint8_t even = kvf_e2m1_encode(kvf_bits_of(values[2 * i] * inverse));
        const uint8_t odd = kvf_e2m1_encode(kvf_bits_of(values[2 * i + 1] * inverse));
        codes[i] = (uint8_t)(even | odd << 4);
    }
    return exponent;
}

/*
 * The values of codes[16] under the scale byte, exact. Only exponents of 126 and more,
 * which no engine stores (docs/FORMAT.md 9.4), can reach infinity.
 */
static inline void kvf_fp4_decode_block(const uint8_t *codes, uint8_t scale_byte, float *values)
{
    const float scale = kvf_float_of(kvf_ue8m0_decode(scale_byte));
    for (int i = 0; i < KVF_FP4_BLOCK_CODE_BYTES; i++) {
        values[2 * i] = kvf_float_of(kvf_e2m1_decode(codes[i] & 0xf)) * scale;
        values[2 * i + 1] = kvf_float_of(kvf_e2m1_decode(codes[i] >> 4)) * scale;
    }
}

#endif
