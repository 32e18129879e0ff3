/*
 * What every codec of shared/ is made of: the qualifiers of functions and tables that let
 * C, CUDA and Metal compile one text, the casts between a float and its bits, and the one
 * rounding rule.
 *
 * The codecs take and return integers (the bits of an f32, the code of a format), by
 * value: no pointers, so no address spaces, and no float arithmetic, so nothing that a
 * compiler may contract or a GPU may flush to zero.
 */
#ifndef KVF_SHARED_BITS_H
#define KVF_SHARED_BITS_H

#if defined(__METAL_VERSION__)
#include <metal_stdlib>
using namespace metal;
#define KVF_INLINE static inline
#define KVF_SHARED_TABLE constant
#elif defined(__CUDACC__)
#include <stdint.h>
#include <string.h>
#define KVF_INLINE static inline __host__ __device__
/* For kernels; host code of a .cu has no use for it. */
#define KVF_SHARED_TABLE static __device__ const
#else
#include <stdint.h>
#include <string.h>
#define KVF_INLINE static inline
#define KVF_SHARED_TABLE static const
#endif

/* The parts of an f32. */
enum {
    KVF_F32_MANTISSA_BITS = 23,
    KVF_F32_BIAS = 127,
    KVF_F32_MANTISSA_MASK = 0x007fffff,
    KVF_F32_MAGNITUDE_MASK = 0x7fffffff,
    KVF_F32_INFINITY = 0x7f800000, /* magnitudes above this are NaN */
    KVF_F32_NAN = 0x7fc00000
};

KVF_INLINE uint32_t kvf_bits_of(float value)
{
#if defined(__METAL_VERSION__)
    return as_type<uint32_t>(value);
#else
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

KVF_INLINE float kvf_float_of(uint32_t bits)
{
#if defined(__METAL_VERSION__)
    return as_type<float>(bits);
#else
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

/* value / 2^shift to the nearest integer, ties to even. value < 2^31, 1 <= shift <= 31. */
KVF_INLINE uint32_t kvf_shift_to_even(uint32_t value, uint32_t shift)
{
    const uint32_t under_half = (1u << (shift - 1)) - 1;
    return (value + under_half + ((value >> shift) & 1)) >> shift;
}

/*
 * An f32 magnitude in units of 2^unit, to the nearest integer, ties to even: how a
 * small format rounds below its smallest normal value. magnitude < 2^(unit + 23), and
 * unit >= -100, so that f32's own subnormals are far below half a unit.
 */
KVF_INLINE uint32_t kvf_magnitude_to_units(uint32_t magnitude, int32_t unit)
{
    /* magnitude = significand * 2^(exponent field - 150), 150 = bias + mantissa bits. */
    const uint32_t significand = (magnitude & KVF_F32_MANTISSA_MASK) | 0x00800000;
    const int32_t shift = unit + 150 - (int32_t)(magnitude >> KVF_F32_MANTISSA_BITS);
    /* From 25 on even the largest significand, 2^24 - 1, is under half a unit. */
    return shift > 24 ? 0 : kvf_shift_to_even(significand, (uint32_t)shift);
}

/* f32 bits of integer * 2^unit; integer < 2^24, the result zero or a normal f32. */
KVF_INLINE uint32_t kvf_units_to_magnitude(uint32_t integer, int32_t unit)
{
    if (integer == 0)
        return 0;
    uint32_t exponent_field = (uint32_t)(unit + 150);
    while (integer < 0x00800000) {
        integer <<= 1;
        exponent_field--;
    }
    return (exponent_field << KVF_F32_MANTISSA_BITS) | (integer & KVF_F32_MANTISSA_MASK);
}

#endif
