/*
 * exp and log(1 + x) of the dense kernels. Metal leaves a few units in the last place
 * open; these are made of correctly rounded operations, so that routing chooses the same
 * experts on every GPU. Metal only.
 */
#ifndef KVF_BACKEND_METAL_DENSE_MATH_H
#define KVF_BACKEND_METAL_DENSE_MATH_H

#include <metal_stdlib>

#include "shared/exp.h"

using namespace metal;

/* 2^n for -126 <= n <= 127. */
static inline float kvf_power_of_two(int n)
{
    return as_type<float>(uint(n + 127) << 23);
}

/* exp of docs/FORMAT.md 9.1 for every x: infinite above, subnormal and then 0 below. */
static inline float kvf_full_exp(float x)
{
    if (x != x)
        return x;
    if (x > 89.0f)
        return INFINITY;
    if (x < -104.0f)
        return 0.0f;
    const float n = fma(x, KVF_EXP_LOG2E, KVF_EXP_ROUNDER) - KVF_EXP_ROUNDER;
    float r = fma(n, -KVF_EXP_LN2_HI, x);
    r = fma(n, -KVF_EXP_LN2_LO, r);
    float q = fma(KVF_EXP_C4, r, KVF_EXP_C3);
    q = fma(q, r, KVF_EXP_C2);
    q = fma(q, r, KVF_EXP_C1);
    q = fma(q, r, KVF_EXP_C0);
    const float y = fma(r * r, q, r) + 1.0f;
    /* In two steps: 2^n alone may be out of range where y * 2^n is not. */
    const int half_n = int(n) / 2;
    return y * kvf_power_of_two(half_n) * kvf_power_of_two(int(n) - half_n);
}

static inline float kvf_sigmoid(float x)
{
    return 1.0f / (1.0f + kvf_full_exp(-x));
}

/*
 * log(1 + x) for 0 <= x <= 1: 2 atanh(s), s = x / (2 + x) <= 1/3, whose series is cut
 * after s^17 (relative 2e-9). Below 2^-25 it is x: s would lose a bit of a subnormal one.
 */
static inline float kvf_log_1_plus(float x)
{
    if (x < 0x1p-25f)
        return x;
    const float divisor = 2.0f + x;
    const float lost = x - (divisor - 2.0f);
    float s = x / divisor;
    s = fma(-s, lost / divisor, s);
    const float z = s * s;
    float q = fma(1.0f / 17.0f, z, 1.0f / 15.0f);
    q = fma(q, z, 1.0f / 13.0f);
    q = fma(q, z, 1.0f / 11.0f);
    q = fma(q, z, 1.0f / 9.0f);
    q = fma(q, z, 1.0f / 7.0f);
    q = fma(q, z, 1.0f / 5.0f);
    q = fma(q, z, 1.0f / 3.0f);
    const float two_s = s + s;
    return fma(two_s * z, q, two_s);
}

/* sqrt(softplus(x)), softplus(x) = max(x, 0) + log(1 + exp(-|x|)): never overflows. */
static inline float kvf_route_score(float logit)
{
    return sqrt(max(logit, 0.0f) + kvf_log_1_plus(kvf_full_exp(-fabs(logit))));
}

#endif
