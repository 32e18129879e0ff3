/* Kernels of test_overrides.c in the place of generic ones: they say who they are. */
#include <metal_stdlib>

#include "backend/gpu/dense.h"

using namespace metal;

/* In the generic one's shape. */
kernel void kvf_norm(constant kvf_norm_kernel_args &args [[buffer(0)]],
                     uint3 group [[threadgroup_position_in_grid]],
                     uint thread_index [[thread_index_in_threadgroup]])
{
    device float *out = reinterpret_cast<device float *>(args.out);
    const uint row = group.x * KVF_NORM_ROWS + thread_index;
    if (thread_index < KVF_NORM_ROWS && row < args.n)
        out[ulong(row) * args.out_stride] = 100.0f + float(row);
}

/* In a shape of its own: group.y: rows, three at a time. */
kernel void kvf_matmul_one(constant kvf_matmul_kernel_args &args [[buffer(0)]],
                           threadgroup float *shared [[threadgroup(0)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_simdgroup]])
{
    device float *out = reinterpret_cast<device float *>(args.out);
    const uint row = group.y * 3 + lane;
    shared[lane] = float(row);
    if (lane < 3 && row < args.rows)
        out[row] = 200.0f + shared[lane];
}
