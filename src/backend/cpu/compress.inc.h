/*
 * compress: pooling and RMS norm, docs/FORMAT.md 9.3 and 9.7. A template over v16;
 * pooling is element by element, the norm's sum has the 16 lanes of 9.2.
 */
#include <math.h>

#include "backend/cpu/exp.inc.h"
#include "backend/cpu/kernels.h"

static void pool_row(const float *const *kv, const float *const *gate, const float *const *bias,
                     uint32_t n, uint32_t width, float *out)
{
    for (uint32_t dim = 0; dim < width; dim += 16) {
        v16 max = v16_add(v16_load(gate[0] + dim), v16_load(bias[0] + dim));
        for (uint32_t i = 1; i < n; i++)
            max = v16_max(v16_add(v16_load(gate[i] + dim), v16_load(bias[i] + dim)), max);
        v16 sum = v16_set1(0.0f);
        v16 pooled = v16_set1(0.0f);
        for (uint32_t i = 0; i < n; i++) {
            const v16 logit = v16_add(v16_load(gate[i] + dim), v16_load(bias[i] + dim));
            const v16 p = v16_exp(v16_sub(logit, max));
            sum = v16_add(sum, p);
            pooled = v16_add(pooled, v16_mul(p, v16_load(kv[i] + dim)));
        }
        v16_store(out + dim, v16_div(pooled, sum));
    }
}

static void norm_row(const float *in, float *out, const float *weight, uint32_t width, float eps)
{
    v16 lanes = v16_set1(0.0f);
    uint32_t i = 0;
    for (; i + 16 <= width; i += 16)
        lanes = v16_fma(v16_load(in + i), v16_load(in + i), lanes);
    if (i < width) {
        /* Missing lanes add fma(0, 0, lane), which changes nothing: squares are not -0. */
        float rest[16] = {0};
        memcpy(rest, in + i, (width - i) * sizeof *rest);
        lanes = v16_fma(v16_load(rest), v16_load(rest), lanes);
    }
    const float r = 1.0f / sqrtf(v16_sum(lanes) / (float)width + eps);
    for (i = 0; i + 16 <= width; i += 16) {
        v16 x = v16_mul(v16_load(in + i), v16_set1(r));
        if (weight)
            x = v16_mul(x, v16_load(weight + i));
        v16_store(out + i, x);
    }
    for (; i < width; i++)
        out[i] = weight ? in[i] * r * weight[i] : in[i] * r;
}
