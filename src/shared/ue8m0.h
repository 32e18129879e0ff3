/*
 * ue8m0: a power of two in one byte, 2^(byte - 127), and the choice of a block's
 * exponent from its largest magnitude (docs/FORMAT.md 3, 4). The choice reads the bits:
 * ceil(log2f(amax / 448)) is wrong next to the boundaries.
 *
 * For finite input the exponents are -22 .. 120 on the FP8 grid and -126 .. 126 on the
 * FP4 grid: the byte is 1 .. 253, and 2^e and 2^-e are both normal f32.
 */
#ifndef KVF_SHARED_UE8M0_H
#define KVF_SHARED_UE8M0_H

#include "shared/bits.h"

/* Smallest e with amax <= 448 * 2^e, amax floored at 1e-4f. Takes the bits of amax >= 0. */
KVF_INLINE int32_t kvf_fp8_exponent(uint32_t amax_bits)
{
    if (amax_bits < 0x38d1b717) /* 1e-4f */
        amax_bits = 0x38d1b717;
    const int32_t exponent = (int32_t)(amax_bits >> KVF_F32_MANTISSA_BITS) - KVF_F32_BIAS;
    /* 448 = 1.75 * 2^8; 1.75 has the mantissa 0x600000. */
    return (amax_bits & KVF_F32_MANTISSA_MASK) <= 0x600000 ? exponent - 8 : exponent - 7;
}

/* Smallest e with amax <= 6 * 2^e, amax floored at 6 * 2^-126. Takes the bits of amax >= 0. */
KVF_INLINE int32_t kvf_fp4_exponent(uint32_t amax_bits)
{
    if (amax_bits < 0x01c00000) /* 6 * 2^-126 = 1.5 * 2^-124 */
        amax_bits = 0x01c00000;
    const int32_t exponent = (int32_t)(amax_bits >> KVF_F32_MANTISSA_BITS) - KVF_F32_BIAS;
    /* 6 = 1.5 * 2^2; 1.5 has the mantissa 0x400000. */
    return (amax_bits & KVF_F32_MANTISSA_MASK) <= 0x400000 ? exponent - 2 : exponent - 1;
}

/* f32 bits of 2^exponent, -126 <= exponent <= 127. */
KVF_INLINE uint32_t kvf_power_of_two(int32_t exponent)
{
    return (uint32_t)(exponent + KVF_F32_BIAS) << KVF_F32_MANTISSA_BITS;
}

/* The scale byte of 2^exponent, -127 <= exponent <= 127. */
KVF_INLINE uint8_t kvf_ue8m0_encode(int32_t exponent)
{
    return (uint8_t)(exponent + KVF_F32_BIAS);
}

/*
 * f32 bits of a scale byte's power of two; any byte is accepted, as bytes may come from
 * a file: 0 is 2^-127, a subnormal f32, and 255 is NaN.
 */
KVF_INLINE uint32_t kvf_ue8m0_decode(uint8_t code)
{
    if (code == 0)
        return 0x00400000;
    return code == 255 ? KVF_F32_NAN : (uint32_t)code << KVF_F32_MANTISSA_BITS;
}

/*
 * f32 bits of 2^(code - 128), the scale of MXFP4 blocks as ggml reads it: half of the
 * power above, since it goes with doubled values, and 255 is 2^127 like any other.
 */
KVF_INLINE uint32_t kvf_ue8m0_decode_half(uint8_t code)
{
    if (code < 2) /* 2^-128, 2^-127: subnormal */
        return 0x00200000u << code;
    return (uint32_t)(code - 1) << KVF_F32_MANTISSA_BITS;
}

#endif
