/*
 * route and experts. The routed experts' products come in two forms, as matmul's do:
 *
 *   by vectors  a few tokens; a table entry a choice; the sum over a token's experts is
 *               taken in the product with w2, in the order of its list
 *   by tiles    choices grouped by expert; an entry for each 32 choices of one expert;
 *               w2's products go to memory and a third kernel sums them up
 *
 * The shared expert is a batch of its own, with one choice a token.
 */
#include <metal_stdlib>
#include <metal_simdgroup_matrix>

#include "backend/metal/dense.h"
#include "backend/metal/dense_math.h"
#include "backend/metal/products.h"

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
        const ranked_expert next = rank_expert(logits, bias, args.has_bias != 0, e);
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
    constant kvf_route_kernel_args &args [[buffer(0)]], device const float *logits [[buffer(1)]],
    device const float *bias [[buffer(2)]], device const int *token_map [[buffer(3)]],
    device const int *tokens [[buffer(4)]], device int *experts [[buffer(5)]],
    device float *weights [[buffer(6)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]])
{
    device const float *token_logits = logits + ulong(group.x) * args.n_experts;
    device int *token_experts = experts + ulong(group.x) * args.top_k;
    device float *token_weights = weights + ulong(group.x) * args.top_k;
    ranked_expert last;
    last.score = INFINITY;
    last.expert = 0;
    float sum = 0.0f;
    for (uint k = 0; k < args.top_k; k++) {
        if (args.has_map)
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

/* ---- What both forms share ------------------------------------------------------- */

/* silu(min(gate, limit)) * clamp(up, -limit, limit) */
static inline float activate(float gate, float up, float limit)
{
    if (limit != 0.0f) {
        gate = limit < gate ? limit : gate; /* fmin would swallow a NaN */
        up = limit < up ? limit : up;
        up = -limit > up ? -limit : up;
    }
    return gate * kvf_sigmoid(gate) * up;
}

template <typename W> static inline typename W::pointer weights_at(ulong address)
{
    return reinterpret_cast<typename W::pointer>(address);
}

/* ---- By vectors ------------------------------------------------------------------ */

/*
 * act[token][slot][ffn]. group.x: values of ffn, KVF_VECTOR_ROWS at a time; group.y: slots
 * of the batch; group.z: tokens. One table entry a token and slot.
 */
template <typename W>
static inline void gate_up_vector(constant kvf_experts_kernel_args &args,
                                  device const kvf_expert_block *table, device const float *in,
                                  device float *act, threadgroup float *shared, uint3 group,
                                  uint lane, uint simd)
{
    const uint choice = group.z * args.n_slots + group.y;
    const uint row = group.x * KVF_VECTOR_ROWS;
    const typename W::pointer w1 = weights_at<W>(table[choice].w1);
    const typename W::pointer w3 = weights_at<W>(table[choice].w3);
    kvf_row_set<W, 2 * KVF_VECTOR_ROWS> weights;
    kvf_row_set<kvf_weight_f32, 1> input;
    kvf_dot_sums<2 * KVF_VECTOR_ROWS, 1> sums;
    for (uint r = 0; r < KVF_VECTOR_ROWS; r++) {
        const ulong offset = ulong(min(row + r, args.ffn - 1)) * args.hidden;
        weights.row[r] = w1 + offset;
        weights.row[KVF_VECTOR_ROWS + r] = w3 + offset;
    }
    input.row[0] = in + ulong(group.z) * args.hidden;

    kvf_clear_dots(sums);
    kvf_add_dots(weights, input, args.hidden, args.vectors != 0, lane, simd, sums);
    kvf_share_dots(sums, shared, lane, simd);
    if (simd != 0 || lane >= KVF_VECTOR_ROWS || row + lane >= args.ffn)
        return;
    const float gate = kvf_total_dot<2 * KVF_VECTOR_ROWS, 1>(shared, lane, 0);
    const float up = kvf_total_dot<2 * KVF_VECTOR_ROWS, 1>(shared, KVF_VECTOR_ROWS + lane, 0);
    act[ulong(choice) * args.ffn + row + lane] = activate(gate, up, args.limit);
}

/*
 * out[token][hidden] = sum over the batch's slots of weight * (w2 * act). A slot's shares
 * are weighed before they are summed across lanes, so that there is one such sum in all.
 * group.x: values of hidden, KVF_VECTOR_ROWS at a time; group.y: tokens.
 */
template <typename W>
static inline void down_vector(constant kvf_experts_kernel_args &args,
                               device const kvf_expert_block *table, device const float *act,
                               device const float *weights, device float *out,
                               threadgroup float *shared, uint3 group, uint lane, uint simd)
{
    const uint row = group.x * KVF_VECTOR_ROWS;
    kvf_dot_sums<KVF_VECTOR_ROWS, 1> totals;
    kvf_clear_dots(totals);
    for (uint slot = 0; slot < args.n_slots; slot++) {
        const uint choice = group.y * args.n_slots + slot;
        const typename W::pointer w2 = weights_at<W>(table[choice].w2);
        const ulong place = ulong(group.y) * args.top_k + args.first + slot;
        const float weight = args.shared ? 1.0f : weights[place];
        kvf_row_set<W, KVF_VECTOR_ROWS> rows;
        kvf_row_set<kvf_weight_f32, 1> input;
        kvf_dot_sums<KVF_VECTOR_ROWS, 1> sums;
        for (uint r = 0; r < KVF_VECTOR_ROWS; r++)
            rows.row[r] = w2 + ulong(min(row + r, args.hidden - 1)) * args.ffn;
        input.row[0] = act + ulong(choice) * args.ffn;
        kvf_clear_dots(sums);
        kvf_add_dots(rows, input, args.ffn, args.vectors != 0, lane, simd, sums);
        for (uint r = 0; r < KVF_VECTOR_ROWS; r++)
            totals.sum[r][0] = fma(weight, sums.sum[r][0], totals.sum[r][0]);
    }
    kvf_share_dots(totals, shared, lane, simd);
    if (simd != 0 || lane >= KVF_VECTOR_ROWS || row + lane >= args.hidden)
        return;
    const float sum = kvf_total_dot<KVF_VECTOR_ROWS, 1>(shared, lane, 0);
    device float *to = out + ulong(group.y) * args.hidden + row + lane;
    *to = args.accumulate ? *to + sum : sum;
}

/* ---- By tiles -------------------------------------------------------------------- */

/*
 * act[choice][ffn]. group.x: values of ffn, KVF_EXPERT_TILE_FFN at a time; group.y: blocks
 * of at most KVF_TILE_TOKENS choices of one expert. order[args.first + choice] says which
 * token's which place a choice is.
 */
template <typename W>
static inline void
gate_up_tile(constant kvf_experts_kernel_args &args, device const kvf_expert_block *table,
             device const uint *order, device const float *in, device float *act,
             threadgroup float *shared, uint3 group, uint thread_index, uint simd)
{
    const uint first_choice = table[group.y].first;
    const uint n_choices = table[group.y].n;
    const typename W::pointer w1 = weights_at<W>(table[group.y].w1);
    const typename W::pointer w3 = weights_at<W>(table[group.y].w3);
    const uint row = group.x * KVF_EXPERT_TILE_FFN;
    const uint loaded = thread_index / (KVF_TILE_K / 4);
    kvf_row_set<W, KVF_TILE_WEIGHT_LOADS> weights;
    kvf_row_set<kvf_weight_f32, KVF_TILE_TOKEN_LOADS> inputs;
    for (uint i = 0; i < KVF_TILE_WEIGHT_LOADS; i++) {
        const uint r = loaded + i * KVF_TILE_LOAD_ROWS;
        const uint f = min(row + r % KVF_EXPERT_TILE_FFN, args.ffn - 1);
        weights.row[i] = (r < KVF_EXPERT_TILE_FFN ? w1 : w3) + ulong(f) * args.hidden;
    }
    for (uint i = 0; i < KVF_TILE_TOKEN_LOADS; i++) {
        const uint choice =
            args.first + first_choice + min(loaded + i * KVF_TILE_LOAD_ROWS, n_choices - 1);
        const uint token = args.shared ? choice : order[choice] / args.top_k;
        inputs.row[i] = in + ulong(token) * args.hidden;
    }

    kvf_tile_multiply<W>(weights, inputs, args.hidden, args.vectors != 0, shared, thread_index,
                         simd);
    for (uint i = thread_index; i < n_choices * KVF_EXPERT_TILE_FFN; i += KVF_TILE_THREADS) {
        const uint c = i / KVF_EXPERT_TILE_FFN;
        const uint f = i % KVF_EXPERT_TILE_FFN;
        threadgroup const float *products = shared + c * KVF_TILE_OUT_STRIDE;
        if (row + f < args.ffn)
            act[ulong(first_choice + c) * args.ffn + row + f] =
                activate(products[f], products[KVF_EXPERT_TILE_FFN + f], args.limit);
    }
}

/* rows[choice][hidden] = w2 * act[choice]. group.x: hidden by KVF_TILE_ROWS; group.y: blocks. */
template <typename W>
static inline void down_tile(constant kvf_experts_kernel_args &args,
                             device const kvf_expert_block *table, device const float *act,
                             device float *rows, threadgroup float *shared, uint3 group,
                             uint thread_index, uint simd)
{
    const uint first_choice = table[group.y].first;
    const uint n_choices = table[group.y].n;
    const typename W::pointer w2 = weights_at<W>(table[group.y].w2);
    const uint row = group.x * KVF_TILE_ROWS;
    const uint loaded = thread_index / (KVF_TILE_K / 4);
    kvf_row_set<W, KVF_TILE_WEIGHT_LOADS> weights;
    kvf_row_set<kvf_weight_f32, KVF_TILE_TOKEN_LOADS> inputs;
    for (uint i = 0; i < KVF_TILE_WEIGHT_LOADS; i++)
        weights.row[i] =
            w2 + ulong(min(row + loaded + i * KVF_TILE_LOAD_ROWS, args.hidden - 1)) * args.ffn;
    for (uint i = 0; i < KVF_TILE_TOKEN_LOADS; i++)
        inputs.row[i] =
            act +
            ulong(first_choice + min(loaded + i * KVF_TILE_LOAD_ROWS, n_choices - 1)) * args.ffn;

    kvf_tile_multiply<W>(weights, inputs, args.ffn, args.vectors != 0, shared, thread_index, simd);
    for (uint i = thread_index; i < n_choices * KVF_TILE_ROWS; i += KVF_TILE_THREADS) {
        const uint c = i / KVF_TILE_ROWS;
        const uint r = i % KVF_TILE_ROWS;
        if (row + r < args.hidden)
            rows[ulong(first_choice + c) * args.hidden + row + r] =
                shared[c * KVF_TILE_OUT_STRIDE + r];
    }
}

/*
 * out[token] (+)= sum of weight * row over the token's places that the batch holds.
 * place_of[token][place] is the choice's number among all. group.x: tokens; group.y: values.
 */
kernel void kvf_experts_combine(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                device const uint *place_of [[buffer(1)]],
                                device const float *rows [[buffer(2)]],
                                device const float *weights [[buffer(3)]],
                                device float *out [[buffer(4)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint thread_index [[thread_index_in_threadgroup]])
{
    const uint i = group.y * KVF_ELEMENT_THREADS + thread_index;
    if (i >= args.hidden)
        return;
    device float *to = out + ulong(group.x) * args.hidden + i;
    float sum = args.accumulate ? *to : 0.0f;
    for (uint k = 0; k < args.top_k; k++) {
        const ulong place = ulong(group.x) * args.top_k + k;
        const uint choice = args.shared ? group.x : place_of[place];
        if (choice < args.first || choice - args.first >= args.n_choices)
            continue;
        const float row = rows[ulong(choice - args.first) * args.hidden + i];
        sum = fma(args.shared ? 1.0f : weights[place], row, sum);
    }
    *to = sum;
}

/* ---- f32 ------------------------------------------------------------------------ */

kernel void kvf_experts_gate_up_vector_f32(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                           device const kvf_expert_block *table [[buffer(1)]],
                                           device const float *in [[buffer(2)]],
                                           device float *act [[buffer(3)]],
                                           threadgroup float *shared [[threadgroup(0)]],
                                           uint3 group [[threadgroup_position_in_grid]],
                                           uint lane [[thread_index_in_simdgroup]],
                                           uint simd [[simdgroup_index_in_threadgroup]])
{
    gate_up_vector<kvf_weight_f32>(args, table, in, act, shared, group, lane, simd);
}

kernel void kvf_experts_down_vector_f32(
    constant kvf_experts_kernel_args &args [[buffer(0)]],
    device const kvf_expert_block *table [[buffer(1)]], device const float *act [[buffer(2)]],
    device const float *weights [[buffer(3)]], device float *out [[buffer(4)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    down_vector<kvf_weight_f32>(args, table, act, weights, out, shared, group, lane, simd);
}

kernel void kvf_experts_gate_up_tile_f32(
    constant kvf_experts_kernel_args &args [[buffer(0)]],
    device const kvf_expert_block *table [[buffer(1)]], device const uint *order [[buffer(2)]],
    device const float *in [[buffer(3)]], device float *act [[buffer(4)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    gate_up_tile<kvf_weight_f32>(args, table, order, in, act, shared, group, thread_index, simd);
}

kernel void kvf_experts_down_tile_f32(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                      device const kvf_expert_block *table [[buffer(1)]],
                                      device const float *act [[buffer(2)]],
                                      device float *rows [[buffer(3)]],
                                      threadgroup float *shared [[threadgroup(0)]],
                                      uint3 group [[threadgroup_position_in_grid]],
                                      uint thread_index [[thread_index_in_threadgroup]],
                                      uint simd [[simdgroup_index_in_threadgroup]])
{
    down_tile<kvf_weight_f32>(args, table, act, rows, shared, group, thread_index, simd);
}

/* ---- f16 ------------------------------------------------------------------------ */

kernel void kvf_experts_gate_up_vector_f16(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                           device const kvf_expert_block *table [[buffer(1)]],
                                           device const float *in [[buffer(2)]],
                                           device float *act [[buffer(3)]],
                                           threadgroup float *shared [[threadgroup(0)]],
                                           uint3 group [[threadgroup_position_in_grid]],
                                           uint lane [[thread_index_in_simdgroup]],
                                           uint simd [[simdgroup_index_in_threadgroup]])
{
    gate_up_vector<kvf_weight_f16>(args, table, in, act, shared, group, lane, simd);
}

kernel void kvf_experts_down_vector_f16(
    constant kvf_experts_kernel_args &args [[buffer(0)]],
    device const kvf_expert_block *table [[buffer(1)]], device const float *act [[buffer(2)]],
    device const float *weights [[buffer(3)]], device float *out [[buffer(4)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    down_vector<kvf_weight_f16>(args, table, act, weights, out, shared, group, lane, simd);
}

kernel void kvf_experts_gate_up_tile_f16(
    constant kvf_experts_kernel_args &args [[buffer(0)]],
    device const kvf_expert_block *table [[buffer(1)]], device const uint *order [[buffer(2)]],
    device const float *in [[buffer(3)]], device float *act [[buffer(4)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    gate_up_tile<kvf_weight_f16>(args, table, order, in, act, shared, group, thread_index, simd);
}

kernel void kvf_experts_down_tile_f16(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                      device const kvf_expert_block *table [[buffer(1)]],
                                      device const float *act [[buffer(2)]],
                                      device float *rows [[buffer(3)]],
                                      threadgroup float *shared [[threadgroup(0)]],
                                      uint3 group [[threadgroup_position_in_grid]],
                                      uint thread_index [[thread_index_in_threadgroup]],
                                      uint simd [[simdgroup_index_in_threadgroup]])
{
    down_tile<kvf_weight_f16>(args, table, act, rows, shared, group, thread_index, simd);
}

/* ---- bf16 ----------------------------------------------------------------------- */

kernel void kvf_experts_gate_up_vector_bf16(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                            device const kvf_expert_block *table [[buffer(1)]],
                                            device const float *in [[buffer(2)]],
                                            device float *act [[buffer(3)]],
                                            threadgroup float *shared [[threadgroup(0)]],
                                            uint3 group [[threadgroup_position_in_grid]],
                                            uint lane [[thread_index_in_simdgroup]],
                                            uint simd [[simdgroup_index_in_threadgroup]])
{
    gate_up_vector<kvf_weight_bf16>(args, table, in, act, shared, group, lane, simd);
}

kernel void kvf_experts_down_vector_bf16(
    constant kvf_experts_kernel_args &args [[buffer(0)]],
    device const kvf_expert_block *table [[buffer(1)]], device const float *act [[buffer(2)]],
    device const float *weights [[buffer(3)]], device float *out [[buffer(4)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    down_vector<kvf_weight_bf16>(args, table, act, weights, out, shared, group, lane, simd);
}

kernel void kvf_experts_gate_up_tile_bf16(
    constant kvf_experts_kernel_args &args [[buffer(0)]],
    device const kvf_expert_block *table [[buffer(1)]], device const uint *order [[buffer(2)]],
    device const float *in [[buffer(3)]], device float *act [[buffer(4)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    gate_up_tile<kvf_weight_bf16>(args, table, order, in, act, shared, group, thread_index, simd);
}

kernel void kvf_experts_down_tile_bf16(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                       device const kvf_expert_block *table [[buffer(1)]],
                                       device const float *act [[buffer(2)]],
                                       device float *rows [[buffer(3)]],
                                       threadgroup float *shared [[threadgroup(0)]],
                                       uint3 group [[threadgroup_position_in_grid]],
                                       uint thread_index [[thread_index_in_threadgroup]],
                                       uint simd [[simdgroup_index_in_threadgroup]])
{
    down_tile<kvf_weight_bf16>(args, table, act, rows, shared, group, thread_index, simd);
}
