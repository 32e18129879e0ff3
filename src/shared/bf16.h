/* bf16: the upper half of an f32. The rope values of fp8_bf16, docs/FORMAT.md 3. */
#ifndef KVF_SHARED_BF16_H
#define KVF_SHARED_BF16_H

#include "shared/bits.h"

/*
 * Nearest bf16, ties to even. As in the engines whose layout this serves, a finite
 * value of at least 2^128 - 2^119 becomes infinity. NaNs become the quiet NaN.
 */
KVF_INLINE uint16_t kvf_bf16_encode(uint32_t f32_bits)
{
    const uint32_t sign = (f32_bits >> 16) & 0x8000;
    const uint32_t magnitude = f32_bits & KVF_F32_MAGNITUDE_MASK;
    if (magnitude > KVF_F32_INFINITY)
        return (uint16_t)(sign | 0x7fc0);
    return (uint16_t)(sign | kvf_shift_to_even(magnitude, 16));
}

/* The f32 bits of a bf16, exact. */
KVF_INLINE uint32_t kvf_bf16_decode(uint16_t code)
{
    return (uint32_t)code << 16;
}

#endif
