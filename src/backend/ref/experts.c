/*
 * experts: the sparse feed-forward. A token's output is the sum, from zero, of its
 * routed experts' weighted outputs in the order of the list, then of the shared
 * expert's output, unweighted.
 */
#include "backend/ref/ref.h"

#include "shared/activation.h"

/* out[hidden] += weight * expert(x); workspace[ffn]. */
static void add_expert(const kvf_expert_weights *expert, const float *x, float weight, float limit,
                       float *workspace, float *out)
{
    float *act = workspace;
    for (uint32_t f = 0; f < expert->w1.rows; f++)
        act[f] = kvf_swiglu(kvf_ref_dot_row(&expert->w1, f, x), kvf_ref_dot_row(&expert->w3, f, x),
                            limit);
    for (uint32_t i = 0; i < expert->w2.rows; i++)
        out[i] += weight * kvf_ref_dot_row(&expert->w2, i, act);
}

size_t kvf_ref_experts_workspace_bytes(const kvf_device *device, const kvf_experts_args *args)
{
    (void)device;
    return (args->ffn > args->shared_ffn ? args->ffn : args->shared_ffn) * sizeof(float);
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
