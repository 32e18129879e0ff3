/*
 * exp and log(1 + x) of the dense kernels. Metal leaves a few units in the last place
 * open; these are made of correctly rounded operations, so that routing chooses the same
 * experts on every GPU. Metal only.
 */
#ifndef KVF_BACKEND_GPU_DENSE_MATH_H
#define KVF_BACKEND_GPU_DENSE_MATH_H

#include <metal_stdlib>

#include "shared/exp.h"

using namespace metal;

/* kvf_exp, which is 0 for NaN, with NaN kept: shared/activation.h has the same. */
static inline float kvf_exp_or_nan(float x)
{
    return x != x ? x : kvf_exp(x);
}

/* 1 / (1 + exp(-x)) by the exponential of -|x|, which cannot overflow. */
static inline float kvf_sigmoid(float x)
{
    const float e = kvf_exp_or_nan(-fabs(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
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
    return sqrt(max(logit, 0.0f) + kvf_log_1_plus(kvf_exp_or_nan(-fabs(logit))));
}

#endif
