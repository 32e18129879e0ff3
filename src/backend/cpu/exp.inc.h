/* kvf_exp (shared/exp.h) lane by lane, over the including file's v16. */
#ifndef KVF_CPU_EXP_INC_H
#define KVF_CPU_EXP_INC_H

#include "shared/exp.h"

static inline v16 v16_exp(v16 x)
{
    const v16 rounder = v16_set1(KVF_EXP_ROUNDER);
    const v16 n = v16_sub(v16_fma(x, v16_set1(KVF_EXP_LOG2E), rounder), rounder);
    v16 r = v16_fma(n, v16_set1(-KVF_EXP_LN2_HI), x);
    r = v16_fma(n, v16_set1(-KVF_EXP_LN2_LO), r);
    v16 q = v16_fma(v16_set1(KVF_EXP_C4), r, v16_set1(KVF_EXP_C3));
    q = v16_fma(q, r, v16_set1(KVF_EXP_C2));
    q = v16_fma(q, r, v16_set1(KVF_EXP_C1));
    q = v16_fma(q, r, v16_set1(KVF_EXP_C0));
    const v16 y = v16_add(v16_fma(v16_mul(r, r), q, r), v16_set1(1.0f));
    return v16_exp_scale(x, KVF_EXP_LOWEST, y, n);
}

#endif
