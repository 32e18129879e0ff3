/* embed: every residual stream of a token starts as the token's row of the table. */
#include <metal_stdlib>

#include "backend/metal/dense.h"
#include "backend/metal/products.h"

using namespace metal;

/* group.x: tokens; group.y: values, KVF_ELEMENT_THREADS at a time. */
template <typename W>
static inline void embed(constant kvf_embed_kernel_args &args, typename W::pointer table,
                         device const int *tokens, device float *streams, uint3 group,
                         uint thread_index)
{
    const uint i = group.y * KVF_ELEMENT_THREADS + thread_index;
    if (i >= args.hidden)
        return;
    const float value = W::value(table[ulong(tokens[group.x]) * args.hidden + i]);
    device float *to = streams + ulong(group.x) * args.n_streams * args.hidden + i;
    for (uint s = 0; s < args.n_streams; s++)
        to[ulong(s) * args.hidden] = value;
}

kernel void kvf_embed_f32(constant kvf_embed_kernel_args &args [[buffer(0)]],
                          device const float *table [[buffer(1)]],
                          device const int *tokens [[buffer(2)]],
                          device float *streams [[buffer(3)]],
                          uint3 group [[threadgroup_position_in_grid]],
                          uint thread_index [[thread_index_in_threadgroup]])
{
    embed<kvf_weight_f32>(args, table, tokens, streams, group, thread_index);
}

kernel void kvf_embed_f16(constant kvf_embed_kernel_args &args [[buffer(0)]],
                          device const half *table [[buffer(1)]],
                          device const int *tokens [[buffer(2)]],
                          device float *streams [[buffer(3)]],
                          uint3 group [[threadgroup_position_in_grid]],
                          uint thread_index [[thread_index_in_threadgroup]])
{
    embed<kvf_weight_f16>(args, table, tokens, streams, group, thread_index);
}

kernel void kvf_embed_bf16(constant kvf_embed_kernel_args &args [[buffer(0)]],
                           device const ushort *table [[buffer(1)]],
                           device const int *tokens [[buffer(2)]],
                           device float *streams [[buffer(3)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint thread_index [[thread_index_in_threadgroup]])
{
    embed<kvf_weight_bf16>(args, table, tokens, streams, group, thread_index);
}
