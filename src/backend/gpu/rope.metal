/* rope: rotates the interleaved pairs of the trailing 64 values by the position's angles. */
#include <metal_stdlib>

#include "backend/gpu/dense.h"

using namespace metal;

/* One thread a pair: pairs of a head, heads of a token, tokens. */
kernel void kvf_rope(constant kvf_rope_kernel_args &args [[buffer(0)]],
                     uint3 group [[threadgroup_position_in_grid]],
                     uint thread_index [[thread_index_in_threadgroup]])
{
    device float *values = reinterpret_cast<device float *>(args.values);
    device const float *cosines = reinterpret_cast<device const float *>(args.cosines);
    device const float *sines = reinterpret_cast<device const float *>(args.sines);
    const ulong place = ulong(group.x) * KVF_ELEMENT_THREADS + thread_index;
    const ulong head = place / KVF_ROPE_PAIRS_A_HEAD;
    if (head >= ulong(args.n) * args.heads)
        return;
    const uint pair = uint(place % KVF_ROPE_PAIRS_A_HEAD);
    const ulong angle = head / args.heads * KVF_ROPE_PAIRS_A_HEAD + pair;
    device float *at = values + (head + 1) * args.width - 2 * KVF_ROPE_PAIRS_A_HEAD + 2 * pair;
    const float cosine = cosines[angle];
    const float sine = args.inverse ? -sines[angle] : sines[angle];
    const float x = at[0];
    const float y = at[1];
    /* Products rounded before the sum, as in the reference: contraction is off. */
    at[0] = x * cosine - y * sine;
    at[1] = y * cosine + x * sine;
}
