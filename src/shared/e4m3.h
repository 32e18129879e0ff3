/*
 * e4m3fn: 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinity, NaN is 0x7f and
 * 0xff, the largest value 448 (0x7e), the smallest 2^-9 (0x01). docs/FORMAT.md 3.
 */
#ifndef KVF_SHARED_E4M3_H
#define KVF_SHARED_E4M3_H

#include "shared/bits.h"

/*
 * Code of the value clamped to +-448, to nearest, ties to even code. Zeros keep their
 * sign. A value of 448 * 2^k or less never needs the clamp when it was scaled by 2^-k.
 * NaN gives a NaN code, infinity +-448; callers refuse both before.
 */
KVF_INLINE uint8_t kvf_e4m3_encode(uint32_t f32_bits)
{
    const uint32_t sign = (f32_bits >> 24) & 0x80;
    uint32_t magnitude = f32_bits & KVF_F32_MAGNITUDE_MASK;
    if (magnitude > KVF_F32_INFINITY)
        return (uint8_t)(sign | 0x7f);
    if (magnitude > 0x43e00000) /* 448 */
        magnitude = 0x43e00000;
    /* Below 2^-6 (bits 0x3c800000) codes count in units of 2^-9; a carry into 2^-6 fits. */
    if (magnitude < 0x3c800000)
        return (uint8_t)(sign | kvf_magnitude_to_units(magnitude, -9));
    /* 20 mantissa bits go; the exponent changes its bias from 127 to 7. */
    return (uint8_t)(sign | (kvf_shift_to_even(magnitude, 20) - ((127 - 7) << 3)));
}

/* The f32 bits of a code's value, exact. */
KVF_INLINE uint32_t kvf_e4m3_decode(uint8_t code)
{
    const uint32_t sign = (uint32_t)(code & 0x80) << 24;
    const uint32_t magnitude = code & 0x7f;
    if (magnitude == 0x7f)
        return sign | KVF_F32_NAN;
    if (magnitude < 8)
        return sign | kvf_units_to_magnitude(magnitude, -9);
    return sign | ((magnitude << 20) + ((127 - 7) << 23));
}

#endif
