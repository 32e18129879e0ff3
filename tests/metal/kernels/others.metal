/* As overrides.metal, of another ISA. */
#include <metal_stdlib>

#include "backend/gpu/dense.h"

using namespace metal;

kernel void kvf_norm(constant kvf_norm_kernel_args &args [[buffer(0)]],
                     uint3 group [[threadgroup_position_in_grid]],
                     uint lane [[thread_index_in_simdgroup]])
{
    device float *out = reinterpret_cast<device float *>(args.out);
    if (lane == 0)
        out[ulong(group.x) * args.out_stride] = 300.0f;
}
