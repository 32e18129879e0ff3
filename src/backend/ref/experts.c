/*
 * experts: the sparse feed-forward. A token's output is the sum, from zero, of its
 * routed experts' weighted outputs in the order of the list, then of the shared
 * expert's output, unweighted.
 */
#include "backend/ref/ref.h"

#include <math.h>

/* silu(min(gate, limit)) * clamp(up, -limit, limit); limit 0: no limit. */
static float activate(float gate, float up, float limit)
{
    if (limit != 0.0f) {
        gate = fminf(gate, limit);
        up = fmaxf(fminf(up, limit), -limit);
    }
    return gate / (1.0f + expf(-gate)) * up;
}

/* out[hidden] += weight * expert(x); workspace[ffn]. */
static void add_expert(const kvf_expert_weights *expert, const float *x, float weight, float limit,
                       float *workspace, float *out)
{
    const size_t hidden = expert->w1.cols;
    const size_t ffn = expert->w1.rows;
    float *act = workspace;
    for (size_t f = 0; f < ffn; f++)
        act[f] = activate(kvf_ref_dot(expert->w1.data + f * hidden, x, hidden),
                          kvf_ref_dot(expert->w3.data + f * hidden, x, hidden), limit);
    for (size_t i = 0; i < hidden; i++)
        out[i] += weight * kvf_ref_dot(expert->w2.data + i * ffn, act, ffn);
}

void kvf_ref_experts(kvf_device *device, const kvf_experts_args *args)
{
    (void)device;
    for (size_t t = 0; t < args->n; t++) {
        const float *x = args->in + t * args->hidden;
        float *out = args->out + t * args->hidden;
        for (size_t i = 0; i < args->hidden; i++)
            out[i] = 0.0f;
        for (size_t k = 0; k < args->top_k; k++) {
            const size_t place = t * args->top_k + k;
            add_expert(&args->routed[args->experts[place]], x, args->weights[place], args->limit,
                       args->workspace, out);
        }
        if (args->shared_ffn)
            add_expert(&args->shared, x, 1.0f, args->limit, args->workspace, out);
    }
}
