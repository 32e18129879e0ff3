/*
 * The choices of experts that kernels work on (kvf_experts_kernel_args), and what gate and up
 * become. Metal only.
 */
#ifndef KVF_BACKEND_GPU_CHOICES_H
#define KVF_BACKEND_GPU_CHOICES_H

#include <metal_stdlib>

#include "backend/gpu/dense.h"
#include "backend/gpu/dense_math.h"

using namespace metal;

/* silu(min(gate, limit)) * clamp(up, -limit, limit) */
static inline float kvf_activate(float gate, float up, float limit)
{
    if (limit != 0.0f) {
        gate = limit < gate ? limit : gate; /* fmin would swallow a NaN */
        up = limit < up ? limit : up;
        up = -limit > up ? -limit : up;
    }
    return gate * kvf_sigmoid(gate) * up;
}

/* The expert of a choice. */
static inline device const kvf_expert_entry &
kvf_chosen_expert(constant kvf_experts_kernel_args &args, uint choice)
{
    device const kvf_expert_entry *table =
        reinterpret_cast<device const kvf_expert_entry *>(args.table);
    device const int *experts = reinterpret_cast<device const int *>(args.experts);
    return table[args.shared ? args.n_experts : uint(experts[choice])];
}

static inline float kvf_choice_weight(constant kvf_experts_kernel_args &args, ulong choice)
{
    return args.shared ? 1.0f : reinterpret_cast<device const float *>(args.weights)[choice];
}

#endif
