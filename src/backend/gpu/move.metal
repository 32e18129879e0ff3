/* Bytes from one place of memory to another, and zeros: copies and writes of the queue. */
#include <metal_stdlib>

#include "backend/gpu/kernels.h"

using namespace metal;

/* A thread a unit, all of which are aligned. What overlaps is not moved. */
kernel void kvf_move(constant kvf_move_kernel_args &args [[buffer(0)]],
                     uint3 group [[threadgroup_position_in_grid]],
                     uint thread_index [[thread_index_in_threadgroup]])
{
    const ulong i = ulong(group.x) * KVF_ELEMENTS_THREADS + thread_index;
    if (i >= args.n_units)
        return;
    if (args.unit_bytes == 16)
        reinterpret_cast<device uint4 *>(args.to)[i] =
            args.from ? reinterpret_cast<device const uint4 *>(args.from)[i] : uint4(0);
    else if (args.unit_bytes == 4)
        reinterpret_cast<device uint *>(args.to)[i] =
            args.from ? reinterpret_cast<device const uint *>(args.from)[i] : 0;
    else
        reinterpret_cast<device uchar *>(args.to)[i] =
            args.from ? reinterpret_cast<device const uchar *>(args.from)[i] : uchar(0);
}
