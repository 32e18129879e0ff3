/* f16 (IEEE binary16): 1 sign, 5 exponent (bias 15), 10 mantissa bits. docs/FORMAT.md 3. */
#ifndef KVF_SHARED_HALF_H
#define KVF_SHARED_HALF_H

#include "shared/bits.h"

/* Nearest f16, ties to even. Finite values saturate at +-65504; infinity and NaN stay. */
KVF_INLINE uint16_t kvf_f16_encode(uint32_t f32_bits)
{
    const uint32_t sign = (f32_bits >> 16) & 0x8000;
    uint32_t magnitude = f32_bits & KVF_F32_MAGNITUDE_MASK;
    if (magnitude >= KVF_F32_INFINITY)
        return (uint16_t)(sign | (magnitude > KVF_F32_INFINITY ? 0x7e00 : 0x7c00));
    if (magnitude > 0x477fe000) /* 65504 */
        magnitude = 0x477fe000;
    /* Below 2^-14 (bits 0x38800000) f16 counts in units of 2^-24; a carry into 2^-14 fits. */
    if (magnitude < 0x38800000)
        return (uint16_t)(sign | kvf_magnitude_to_units(magnitude, -24));
    /* 13 mantissa bits go; the exponent changes its bias from 127 to 15. */
    return (uint16_t)(sign | (kvf_shift_to_even(magnitude, 13) - ((127 - 15) << 10)));
}

/* The f32 bits of an f16, exact. NaNs become the quiet NaN of their sign. */
KVF_INLINE uint32_t kvf_f16_decode(uint16_t code)
{
    const uint32_t sign = (uint32_t)(code & 0x8000) << 16;
    const uint32_t magnitude = code & 0x7fff;
    if (magnitude >= 0x7c00)
        return sign | (magnitude > 0x7c00 ? KVF_F32_NAN : KVF_F32_INFINITY);
    if (magnitude < 0x0400)
        return sign | kvf_units_to_magnitude(magnitude, -24);
    return sign | ((magnitude << 13) + ((127 - 15) << 23));
}

#endif
