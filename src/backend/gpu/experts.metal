/*
 * route; grouping of the choices of many tokens by expert, on the device; and the sum over a
 * token's experts. products.metal has the experts' products.
 */
#include <metal_stdlib>

#include "backend/gpu/dense.h"
#include "backend/gpu/dense_math.h"

using namespace metal;

/* ---- route --------------------------------------------------------------------- */

struct ranked_expert {
    float score; /* biased; NaN counts as -infinity */
    uint expert;
};

/* The order of choice: higher score first, then lower expert. It is total. */
static inline bool comes_before(ranked_expert a, ranked_expert b)
{
    return a.score > b.score || (a.score == b.score && a.expert < b.expert);
}

static inline ranked_expert rank_expert(device const float *logits, device const float *bias,
                                        bool has_bias, uint expert)
{
    ranked_expert ranked;
    const float score = kvf_route_score(logits[expert]) + (has_bias ? bias[expert] : 0.0f);
    ranked.score = score > -INFINITY ? score : -INFINITY;
    ranked.expert = expert;
    return ranked;
}

/*
 * The first expert after `last` in the order of choice, for every lane. So what was chosen
 * before need not be remembered, whatever the number of experts.
 */
static inline ranked_expert next_expert(constant kvf_route_kernel_args &args,
                                        device const float *logits, device const float *bias,
                                        ranked_expert last, bool is_first, uint lane)
{
    ranked_expert best;
    best.score = -INFINITY;
    best.expert = 0xffffffffu;
    for (uint e = lane; e < args.n_experts; e += KVF_SIMD_WIDTH) {
        const ranked_expert next = rank_expert(logits, bias, args.bias != 0, e);
        if ((is_first || comes_before(last, next)) && comes_before(next, best))
            best = next;
    }
    for (uint apart = KVF_SIMD_WIDTH / 2; apart > 0; apart /= 2) {
        ranked_expert other;
        other.score = simd_shuffle_xor(best.score, ushort(apart));
        other.expert = simd_shuffle_xor(best.expert, ushort(apart));
        if (comes_before(other, best))
            best = other;
    }
    return best;
}

/* One simdgroup a token, group.x. */
kernel void kvf_route(
    constant kvf_route_kernel_args &args [[buffer(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]])
{
    device const float *logits = reinterpret_cast<device const float *>(args.logits);
    device const float *bias = reinterpret_cast<device const float *>(args.bias);
    device const int *token_map = reinterpret_cast<device const int *>(args.token_map);
    device const int *tokens = reinterpret_cast<device const int *>(args.tokens);
    device int *experts = reinterpret_cast<device int *>(args.experts);
    device float *weights = reinterpret_cast<device float *>(args.weights);
    device const float *token_logits = logits + ulong(group.x) * args.n_experts;
    device int *token_experts = experts + ulong(group.x) * args.top_k;
    device float *token_weights = weights + ulong(group.x) * args.top_k;
    ranked_expert last;
    last.score = INFINITY;
    last.expert = 0;
    float sum = 0.0f;
    for (uint k = 0; k < args.top_k; k++) {
        if (args.token_map)
            last.expert = uint(token_map[ulong(tokens[group.x]) * args.top_k + k]);
        else
            last = next_expert(args, token_logits, bias, last, k == 0, lane);
        const float weight = kvf_route_score(token_logits[last.expert]);
        sum += weight;
        if (lane == 0) {
            token_experts[k] = int(last.expert);
            token_weights[k] = weight;
        }
    }
    if (lane != 0)
        return;
    for (uint k = 0; k < args.top_k; k++) {
        float weight = token_weights[k];
        if (args.normalise)
            weight /= sum + 1e-20f;
        token_weights[k] = weight * args.scaling;
    }
}

/* ---- Grouping ------------------------------------------------------------------------- */

/* Where each expert's choices and blocks begin, from how many it has: one thread, few experts. */
static inline void place_experts(constant kvf_experts_kernel_args &args, device uint *counts)
{
    device uint *firsts = counts + args.n_experts;
    device uint *blocks = firsts + args.n_experts;
    uint first = 0;
    uint block = 0;
    for (uint e = 0; e < args.n_experts; e++) {
        firsts[e] = first;
        blocks[e] = block;
        first += counts[e];
        block += (counts[e] + KVF_TILE_TOKENS - 1) / KVF_TILE_TOKENS;
    }
}

static inline void write_blocks(constant kvf_experts_kernel_args &args,
                                device const uint *counts, uint expert)
{
    device kvf_expert_block *blocks = reinterpret_cast<device kvf_expert_block *>(args.blocks);
    const uint n = counts[expert];
    const uint first = counts[args.n_experts + expert];
    uint block = counts[2 * args.n_experts + expert];
    for (uint done = 0; done < n; done += KVF_TILE_TOKENS) {
        blocks[block].expert = expert;
        blocks[block].first = first + done;
        blocks[block].n = min(n - done, uint(KVF_TILE_TOKENS));
        block++;
    }
}

/*
 * One threadgroup: order, places and blocks of all choices, by expert and then in the order of
 * tokens. A thread reads the list of choices twice for an expert: no atomics, one result.
 */
kernel void kvf_experts_group(constant kvf_experts_kernel_args &args [[buffer(0)]],
                              uint thread_index [[thread_index_in_threadgroup]])
{
    device const int *experts = reinterpret_cast<device const int *>(args.experts);
    device uint *counts = reinterpret_cast<device uint *>(args.counts);
    device uint *order = reinterpret_cast<device uint *>(args.order);
    device uint *places = reinterpret_cast<device uint *>(args.places);
    device kvf_expert_block *blocks = reinterpret_cast<device kvf_expert_block *>(args.blocks);
    const uint n_choices = args.n * args.top_k;
    for (uint b = thread_index; b < args.n_blocks; b += KVF_GROUPING_THREADS)
        blocks[b].n = 0;
    for (uint e = thread_index; e < args.n_experts; e += KVF_GROUPING_THREADS) {
        uint n = 0;
        for (uint i = 0; i < n_choices; i++)
            n += uint(experts[i]) == e;
        counts[e] = n;
    }
    threadgroup_barrier(mem_flags::mem_device);
    if (thread_index == 0)
        place_experts(args, counts);
    threadgroup_barrier(mem_flags::mem_device);
    for (uint e = thread_index; e < args.n_experts; e += KVF_GROUPING_THREADS) {
        uint place = counts[args.n_experts + e];
        for (uint i = 0; i < n_choices; i++) {
            if (uint(experts[i]) != e)
                continue;
            order[place] = i;
            places[i] = place++;
        }
        write_blocks(args, counts, e);
    }
}

/* ---- The sum --------------------------------------------------------------------------- */

/*
 * out[token] (+)= sum of weight * row over the token's choices, in their order. group.x:
 * tokens; group.y: values.
 */
kernel void kvf_experts_combine(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint thread_index [[thread_index_in_threadgroup]])
{
    device const uint *places = reinterpret_cast<device const uint *>(args.places);
    device const float *rows = reinterpret_cast<device const float *>(args.rows);
    device const float *weights = reinterpret_cast<device const float *>(args.weights);
    device float *out = reinterpret_cast<device float *>(args.out);
    const uint i = group.y * KVF_ELEMENT_THREADS + thread_index;
    if (i >= args.hidden)
        return;
    device float *to = out + ulong(group.x) * args.hidden + i;
    float sum = args.accumulate ? *to : 0.0f;
    for (uint k = 0; k < args.top_k; k++) {
        const ulong choice = ulong(group.x) * args.top_k + k;
        const uint place = args.shared ? group.x : places[choice];
        const float row = rows[ulong(place) * args.hidden + i];
        sum = fma(args.shared ? 1.0f : weights[choice], row, sum);
    }
    *to = sum;
}
