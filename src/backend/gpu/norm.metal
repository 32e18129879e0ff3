/*
 * norm: RMS norm, bit for bit as docs/FORMAT.md 9.7: half a simdgroup a row, its 16 lanes
 * those of the promised dot product.
 */
#include <metal_stdlib>

#include "backend/gpu/dense.h"

using namespace metal;

/* group.x: rows, KVF_NORM_ROWS at a time. `out` may be `in`: a lane writes what it alone reads. */
kernel void kvf_norm(constant kvf_norm_kernel_args &args [[buffer(0)]],
                     uint3 group [[threadgroup_position_in_grid]],
                     uint thread_index [[thread_index_in_threadgroup]])
{
    device const float *in = reinterpret_cast<device const float *>(args.in);
    device float *out = reinterpret_cast<device float *>(args.out);
    device const float *weight = reinterpret_cast<device const float *>(args.weight);
    const ulong row = ulong(group.x) * KVF_NORM_ROWS + thread_index / KVF_NORM_LANES;
    const uint first = thread_index % KVF_NORM_LANES;
    device const float *x = in + row * args.in_stride;
    /* A row past the end has no values; its lanes still take part in the shuffles below. */
    const uint width = row < args.n ? args.width : 0;
    float sum = 0.0f;
    for (uint i = first; i < width; i += KVF_NORM_LANES)
        sum = fma(x[i], x[i], sum);
    /* Lane l += lane l + 8, + 4, + 2, + 1. The exchange gives the same sum to both lanes. */
    for (uint apart = KVF_NORM_LANES / 2; apart > 0; apart /= 2)
        sum = sum + simd_shuffle_xor(sum, ushort(apart));
    if (row >= args.n)
        return;

    const float r = 1.0f / sqrt(sum / float(args.width) + args.eps);
    device float *to = out + row * args.out_stride;
    for (uint i = first; i < width; i += KVF_NORM_LANES) {
        const float normed = x[i] * r;
        to[i] = args.weight ? normed * weight[i] : normed;
    }
}
