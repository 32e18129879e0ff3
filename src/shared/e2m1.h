/*
 * e2m1: 1 sign, 2 exponent (bias 1), 1 mantissa bit: 0, .5, 1, 1.5, 2, 3, 4, 6 with
 * sign, in four bits. No infinity, no NaN. docs/FORMAT.md 4.
 */
#ifndef KVF_SHARED_E2M1_H
#define KVF_SHARED_E2M1_H

#include "shared/bits.h"

/*
 * Nearest code, ties to even code, +-6 beyond the grid. Zeros keep their sign. Callers
 * refuse infinity and NaN before; here they give +-6.
 *
 * The code is the number of midpoints between neighbours that the magnitude passes. A
 * midpoint itself goes to the even code: up (>=) from an odd code, down (>) from an
 * even one.
 */
KVF_INLINE uint8_t kvf_e2m1_encode(uint32_t f32_bits)
{
    const uint32_t sign = (f32_bits >> 28) & 0x8;
    const uint32_t magnitude = f32_bits & KVF_F32_MAGNITUDE_MASK;
    uint32_t code = magnitude > 0x3e800000; /* 0.25 */
    code += magnitude >= 0x3f400000;        /* 0.75 */
    code += magnitude > 0x3fa00000;         /* 1.25 */
    code += magnitude >= 0x3fe00000;        /* 1.75 */
    code += magnitude > 0x40200000;         /* 2.5 */
    code += magnitude >= 0x40600000;        /* 3.5 */
    code += magnitude > 0x40a00000;         /* 5 */
    return (uint8_t)(sign | code);
}

/* The f32 bits of a code's value, exact. Bits above the lowest four are ignored. */
KVF_INLINE uint32_t kvf_e2m1_decode(uint8_t code)
{
    const uint32_t sign = (uint32_t)(code & 0x8) << 28;
    const uint32_t magnitude = code & 0x7;
    if (magnitude < 2) /* 0 and the one subnormal, 0.5 */
        return sign | (magnitude ? 0x3f000000 : 0);
    return sign | ((magnitude << 22) + ((127 - 1) << 23));
}

/* Twice the code's value, an integer: 0, 1, 2, 3, 4, 6, 8, 12 with sign (docs/FORMAT.md 5). */
KVF_INLINE int32_t kvf_e2m1_doubled(uint8_t code)
{
    const uint32_t magnitude = code & 0x7;
    const uint32_t doubled =
        magnitude < 2 ? magnitude : (2 | (magnitude & 1)) << ((magnitude >> 1) - 1);
    return code & 0x8 ? -(int32_t)doubled : (int32_t)doubled;
}

#endif
