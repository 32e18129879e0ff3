/*
 * The model's pointwise functions, scalar: what ref/ and cpu/ compute alike, to the bit
 * (docs/FORMAT.md 9.9). NaN in, NaN out: a damaged weight is to be found, not swallowed.
 */
#ifndef KVF_SHARED_ACTIVATION_H
#define KVF_SHARED_ACTIVATION_H

#include <math.h>

#include "shared/exp.h"
#include "shared/math64.h"

/* kvf_exp, which is 0 for NaN, with NaN kept. */
static inline float kvf_exp_or_nan(float x)
{
    return x != x ? x : kvf_exp(x);
}

/* 1 / (1 + exp(-x)) by the exponential of -|x|, which cannot overflow. */
static inline float kvf_sigmoid(float x)
{
    const float e = kvf_exp_or_nan(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

/* sqrt(softplus(x)), softplus(x) = max(x, 0) + ln(1 + exp(-|x|)). */
static inline float kvf_route_score(float x)
{
    const float rest = (float)kvf_log1p_f64((double)kvf_exp_or_nan(-fabsf(x)));
    return sqrtf((x > 0.0f ? x : 0.0f) + rest);
}

/* silu(min(gate, limit)) * clamp(up, -limit, limit); limit 0: no limit. */
static inline float kvf_swiglu(float gate, float up, float limit)
{
    if (limit > 0.0f) {
        gate = limit < gate ? limit : gate;
        up = limit < up ? limit : up;
        up = -limit > up ? -limit : up;
    }
    return gate * kvf_sigmoid(gate) * up;
}

#endif
