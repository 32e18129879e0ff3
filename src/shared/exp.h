/*
 * exp(x) for x <= 0 with the same bits everywhere: docs/FORMAT.md 9.1. The vector
 * forms in backend/cpu evaluate the same operations lane by lane.
 */
#ifndef KVF_SHARED_EXP_H
#define KVF_SHARED_EXP_H

#include "shared/bits.h"

#if defined(__METAL_VERSION__)
#define KVF_FMA(a, b, c) fma((a), (b), (c))
#else
#include <math.h>
#define KVF_FMA(a, b, c) fmaf((a), (b), (c))
#endif

/* Below this exp is 0; the smallest result, exp(-87) = 1.6e-38, is a normal number. */
#define KVF_EXP_LOWEST (-87.0f)
#define KVF_EXP_LOG2E 0x1.715476p+0f
/* 1.5 * 2^23: adding it rounds to the nearest integer, ties to even. */
#define KVF_EXP_ROUNDER 0x1.8p+23f
/* ln 2 as f32, and what is missing from it. */
#define KVF_EXP_LN2_HI 0x1.62e430p-1f
#define KVF_EXP_LN2_LO (-0x1.05c610p-29f)
/* exp(r) = 1 + r + r^2 q(r), |r| <= ln(2)/2: scripts/exp_coefficients.py. */
#define KVF_EXP_C0 0x1.fffffcp-2f
#define KVF_EXP_C1 0x1.55548cp-3f
#define KVF_EXP_C2 0x1.555858p-5f
#define KVF_EXP_C3 0x1.123de0p-7f
#define KVF_EXP_C4 0x1.6ac752p-10f

KVF_INLINE float kvf_exp(float x)
{
    if (!(x >= KVF_EXP_LOWEST))
        return 0.0f;
    const float n = KVF_FMA(x, KVF_EXP_LOG2E, KVF_EXP_ROUNDER) - KVF_EXP_ROUNDER;
    float r = KVF_FMA(n, -KVF_EXP_LN2_HI, x);
    r = KVF_FMA(n, -KVF_EXP_LN2_LO, r);
    float q = KVF_FMA(KVF_EXP_C4, r, KVF_EXP_C3);
    q = KVF_FMA(q, r, KVF_EXP_C2);
    q = KVF_FMA(q, r, KVF_EXP_C1);
    q = KVF_FMA(q, r, KVF_EXP_C0);
    const float y = KVF_FMA(r * r, q, r) + 1.0f;
    const float scale = kvf_float_of((uint32_t)((int32_t)n + 127) << 23);
    return y * scale;
}

#endif
