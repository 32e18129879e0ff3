/*
 * Products with weights as they are stored: embed, matmul, and the experts'. This text is
 * compiled once for each type of weights that has kernels of its own, KVF_W being its struct
 * in weights.h, and once with kvf_weight_any, which takes all the others and mixtures.
 *
 * Two forms: by dots for a few tokens (decode: each weight is read once and the memory is the
 * limit), by tiles for more. The experts' are
 *
 *   by vectors  gate, up and their activation for every choice in one dispatch; w2's products
 *               and their weighted sum, in the order of a token's list, in another
 *   by tiles    choices grouped by expert, 32 of one at a time; w2's products go to memory
 *               and experts.metal sums them up
 */
#include <metal_stdlib>
#include <metal_simdgroup_matrix>

#include "backend/gpu/choices.h"
#include "backend/gpu/dense.h"
#include "backend/gpu/products.h"
#include "backend/gpu/weights.h"

using namespace metal;

/* ---- embed ----------------------------------------------------------------------- */

/*
 * Every residual stream of a token starts as the token's row of the table. group.x: tokens;
 * group.y: values, 4 * KVF_ELEMENT_THREADS at a time.
 */
kernel void kvf_embed(constant kvf_embed_kernel_args &args [[buffer(0)]],
                      uint3 group [[threadgroup_position_in_grid]],
                      uint thread_index [[thread_index_in_threadgroup]])
{
    device const int *tokens = reinterpret_cast<device const int *>(args.tokens);
    device float *streams = reinterpret_cast<device float *>(args.streams);
    const uint i = 4 * (group.y * KVF_ELEMENT_THREADS + thread_index);
    if (i >= args.hidden)
        return;
    const kvf_weight_row row = kvf_find_weights(
        args.table.data, args.table.scales, args.table.row_bytes, args.table.scale_stride,
        args.table.type, uint(tokens[group.x]), args.hidden);
    const float4 values = KVF_W::four(row, i);
    device float *to = streams + ulong(group.x) * args.n_streams * args.hidden + i;
    for (uint s = 0; s < args.n_streams; s++) {
        to[0] = values.x;
        if (i + 1 < args.hidden)
            to[1] = values.y;
        if (i + 2 < args.hidden)
            to[2] = values.z;
        if (i + 3 < args.hidden)
            to[3] = values.w;
        to += args.hidden;
    }
}

/* ---- matmul ------------------------------------------------------------------------ */

static inline kvf_weight_row matmul_row(constant kvf_matmul_kernel_args &args, uint part, uint row)
{
    const uint exists = part * args.rows + min(row, args.rows - 1);
    return kvf_find_weights(args.weight.data, args.weight.scales, args.weight.row_bytes,
                            args.weight.scale_stride, args.weight.type, exists, args.cols);
}

static inline kvf_input_row matmul_input(constant kvf_matmul_kernel_args &args, uint part,
                                         uint token)
{
    device const float *in =
        reinterpret_cast<device const float *>(args.in) + ulong(part) * args.cols;
    return kvf_find_input(in, min(token, args.n - 1), args.in_stride, args.cols);
}

static inline void store_product(constant kvf_matmul_kernel_args &args, uint part, uint token,
                                 uint row, float value)
{
    device float *out = reinterpret_cast<device float *>(args.out) + ulong(part) * args.rows;
    if (row < args.rows && token < args.n)
        out[ulong(token) * args.out_stride + row] = value;
}

/* group.x: tokens, TOKENS at a time; group.y: rows, KVF_VECTOR_ROWS at a time; group.z: parts. */
template <uint TOKENS>
static inline void matmul_vector(constant kvf_matmul_kernel_args &args, threadgroup float *shared,
                                 uint3 group, uint lane, uint simd)
{
    const uint row = group.y * KVF_VECTOR_ROWS;
    const uint token = group.x * TOKENS;
    kvf_weight_rows<KVF_VECTOR_ROWS> weights;
    kvf_input_rows<TOKENS> inputs;
    kvf_dot_sums<KVF_VECTOR_ROWS, TOKENS> sums;
    for (uint r = 0; r < KVF_VECTOR_ROWS; r++)
        weights.at[r] = matmul_row(args, group.z, row + r);
    for (uint t = 0; t < TOKENS; t++)
        inputs.at[t] = matmul_input(args, group.z, token + t);

    kvf_clear_dots(sums);
    kvf_add_dots<KVF_W>(weights, inputs, args.cols, lane, simd, sums);
    kvf_share_dots(sums, shared, lane, simd);
    if (simd != 0 || lane >= KVF_VECTOR_ROWS * TOKENS)
        return;
    const uint r = lane % KVF_VECTOR_ROWS;
    const uint t = lane / KVF_VECTOR_ROWS;
    store_product(args, group.z, token + t, row + r,
                  kvf_total_dot<KVF_VECTOR_ROWS, TOKENS>(shared, r, t));
}

kernel void kvf_matmul_one(constant kvf_matmul_kernel_args &args [[buffer(0)]],
                           threadgroup float *shared [[threadgroup(0)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul_vector<1>(args, shared, group, lane, simd);
}

kernel void kvf_matmul_few(constant kvf_matmul_kernel_args &args [[buffer(0)]],
                           threadgroup float *shared [[threadgroup(0)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul_vector<KVF_VECTOR_MANY_TOKENS>(args, shared, group, lane, simd);
}

/* group.x: tokens, KVF_TILE_TOKENS at a time; group.y: rows, KVF_TILE_ROWS; group.z: parts. */
kernel void kvf_matmul_tile(constant kvf_matmul_kernel_args &args [[buffer(0)]],
                            threadgroup float *shared [[threadgroup(0)]],
                            uint3 group [[threadgroup_position_in_grid]],
                            uint thread_index [[thread_index_in_threadgroup]],
                            uint simd [[simdgroup_index_in_threadgroup]])
{
    const uint row = group.y * KVF_TILE_ROWS;
    const uint token = group.x * KVF_TILE_TOKENS;
    const uint loaded = thread_index / (KVF_TILE_K / 4);
    kvf_weight_rows<KVF_TILE_WEIGHT_LOADS> weights;
    kvf_input_rows<KVF_TILE_TOKEN_LOADS> inputs;
    for (uint i = 0; i < KVF_TILE_WEIGHT_LOADS; i++)
        weights.at[i] = matmul_row(args, group.z, row + loaded + i * KVF_TILE_LOAD_ROWS);
    for (uint i = 0; i < KVF_TILE_TOKEN_LOADS; i++)
        inputs.at[i] = matmul_input(args, group.z, token + loaded + i * KVF_TILE_LOAD_ROWS);

    kvf_tile_multiply<KVF_W>(weights, inputs, args.cols, shared, thread_index, simd);
    for (uint i = thread_index; i < KVF_TILE_TOKENS * KVF_TILE_ROWS; i += KVF_TILE_THREADS) {
        const uint t = i / KVF_TILE_ROWS;
        const uint r = i % KVF_TILE_ROWS;
        store_product(args, group.z, token + t, row + r, shared[t * KVF_TILE_OUT_STRIDE + r]);
    }
}

/* ---- Experts: what both forms share ---------------------------------------------------- */

static inline kvf_weight_row expert_row(device const kvf_kernel_matrix &matrix, uint row, uint cols)
{
    return kvf_find_weights(matrix.data, matrix.scales, matrix.row_bytes, matrix.scale_stride,
                            matrix.type, row, cols);
}

/* ---- Experts by vectors ------------------------------------------------------------------ */

/* act[choice][ffn]. group.x: choices; group.y: values of ffn, KVF_VECTOR_ROWS at a time. */
kernel void kvf_experts_gate_up_vector(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                       threadgroup float *shared [[threadgroup(0)]],
                                       uint3 group [[threadgroup_position_in_grid]],
                                       uint lane [[thread_index_in_simdgroup]],
                                       uint simd [[simdgroup_index_in_threadgroup]])
{
    const uint row = group.y * KVF_VECTOR_ROWS;
    device const kvf_expert_entry &expert = kvf_chosen_expert(args, group.x);
    kvf_weight_rows<2 * KVF_VECTOR_ROWS> weights;
    kvf_input_rows<1> input;
    kvf_dot_sums<2 * KVF_VECTOR_ROWS, 1> sums;
    for (uint r = 0; r < KVF_VECTOR_ROWS; r++) {
        const uint exists = min(row + r, args.ffn - 1);
        weights.at[r] = expert_row(expert.w1, exists, args.hidden);
        weights.at[KVF_VECTOR_ROWS + r] = expert_row(expert.w3, exists, args.hidden);
    }
    input.at[0] = kvf_find_input(reinterpret_cast<device const float *>(args.in),
                                 group.x / args.top_k, args.hidden, args.hidden);

    kvf_clear_dots(sums);
    kvf_add_dots<KVF_W>(weights, input, args.hidden, lane, simd, sums);
    kvf_share_dots(sums, shared, lane, simd);
    if (simd != 0 || lane >= KVF_VECTOR_ROWS || row + lane >= args.ffn)
        return;
    const float gate = kvf_total_dot<2 * KVF_VECTOR_ROWS, 1>(shared, lane, 0);
    const float up = kvf_total_dot<2 * KVF_VECTOR_ROWS, 1>(shared, KVF_VECTOR_ROWS + lane, 0);
    device float *act = reinterpret_cast<device float *>(args.act);
    act[ulong(group.x) * args.ffn + row + lane] = kvf_activate(gate, up, args.limit);
}

/*
 * out[token][hidden] = sum over the token's choices of weight * (w2 * act). A choice's shares
 * are weighed before they are summed across lanes, so that there is one such sum in all.
 * group.x: tokens; group.y: values of hidden, KVF_VECTOR_ROWS at a time.
 */
kernel void kvf_experts_down_vector(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                    threadgroup float *shared [[threadgroup(0)]],
                                    uint3 group [[threadgroup_position_in_grid]],
                                    uint lane [[thread_index_in_simdgroup]],
                                    uint simd [[simdgroup_index_in_threadgroup]])
{
    const uint row = group.y * KVF_VECTOR_ROWS;
    device const float *act = reinterpret_cast<device const float *>(args.act);
    kvf_dot_sums<KVF_VECTOR_ROWS, 1> totals;
    kvf_clear_dots(totals);
    for (uint slot = 0; slot < args.top_k; slot++) {
        const uint choice = group.x * args.top_k + slot;
        device const kvf_expert_entry &expert = kvf_chosen_expert(args, choice);
        const float weight = kvf_choice_weight(args, choice);
        kvf_weight_rows<KVF_VECTOR_ROWS> weights;
        kvf_input_rows<1> input;
        kvf_dot_sums<KVF_VECTOR_ROWS, 1> sums;
        for (uint r = 0; r < KVF_VECTOR_ROWS; r++)
            weights.at[r] = expert_row(expert.w2, min(row + r, args.hidden - 1), args.ffn);
        input.at[0] = kvf_find_input(act, choice, args.ffn, args.ffn);
        kvf_clear_dots(sums);
        kvf_add_dots<KVF_W>(weights, input, args.ffn, lane, simd, sums);
        for (uint r = 0; r < KVF_VECTOR_ROWS; r++)
            totals.sum[r][0] = fma(weight, sums.sum[r][0], totals.sum[r][0]);
    }
    kvf_share_dots(totals, shared, lane, simd);
    if (simd != 0 || lane >= KVF_VECTOR_ROWS || row + lane >= args.hidden)
        return;
    const float sum = kvf_total_dot<KVF_VECTOR_ROWS, 1>(shared, lane, 0);
    device float *to =
        reinterpret_cast<device float *>(args.out) + ulong(group.x) * args.hidden + row + lane;
    *to = args.accumulate ? *to + sum : sum;
}

/* ---- Experts by tiles ---------------------------------------------------------------------- */

/* A block of choices; the shared expert's are the tokens, in pieces. */
static inline kvf_expert_block find_block(constant kvf_experts_kernel_args &args, uint i)
{
    kvf_expert_block block;
    block.expert = args.n_experts;
    block.first = i * KVF_TILE_TOKENS;
    block.n = min(args.n - min(args.n, block.first), uint(KVF_TILE_TOKENS));
    if (!args.shared) {
        device const kvf_expert_block *blocks =
            reinterpret_cast<device const kvf_expert_block *>(args.blocks);
        block.expert = blocks[i].expert;
        block.first = blocks[i].first;
        block.n = blocks[i].n;
    }
    return block;
}

/* act[place][ffn]. group.x: blocks; group.y: values of ffn, KVF_EXPERT_TILE_FFN at a time. */
kernel void kvf_experts_gate_up_tile(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                     threadgroup float *shared [[threadgroup(0)]],
                                     uint3 group [[threadgroup_position_in_grid]],
                                     uint thread_index [[thread_index_in_threadgroup]],
                                     uint simd [[simdgroup_index_in_threadgroup]])
{
    const kvf_expert_block block = find_block(args, group.x);
    if (block.n == 0)
        return;
    device const kvf_expert_entry *table =
        reinterpret_cast<device const kvf_expert_entry *>(args.table);
    device const uint *order = reinterpret_cast<device const uint *>(args.order);
    device const kvf_expert_entry &expert = table[block.expert];
    const uint row = group.y * KVF_EXPERT_TILE_FFN;
    const uint loaded = thread_index / (KVF_TILE_K / 4);
    kvf_weight_rows<KVF_TILE_WEIGHT_LOADS> weights;
    kvf_input_rows<KVF_TILE_TOKEN_LOADS> inputs;
    for (uint i = 0; i < KVF_TILE_WEIGHT_LOADS; i++) {
        const uint r = loaded + i * KVF_TILE_LOAD_ROWS;
        const uint f = min(row + r % KVF_EXPERT_TILE_FFN, args.ffn - 1);
        if (r < KVF_EXPERT_TILE_FFN)
            weights.at[i] = expert_row(expert.w1, f, args.hidden);
        else
            weights.at[i] = expert_row(expert.w3, f, args.hidden);
    }
    for (uint i = 0; i < KVF_TILE_TOKEN_LOADS; i++) {
        const uint place = block.first + min(loaded + i * KVF_TILE_LOAD_ROWS, block.n - 1);
        const uint token = args.shared ? place : order[place] / args.top_k;
        inputs.at[i] = kvf_find_input(reinterpret_cast<device const float *>(args.in), token,
                                      args.hidden, args.hidden);
    }

    kvf_tile_multiply<KVF_W>(weights, inputs, args.hidden, shared, thread_index, simd);
    device float *act = reinterpret_cast<device float *>(args.act);
    for (uint i = thread_index; i < block.n * KVF_EXPERT_TILE_FFN; i += KVF_TILE_THREADS) {
        const uint c = i / KVF_EXPERT_TILE_FFN;
        const uint f = i % KVF_EXPERT_TILE_FFN;
        threadgroup const float *products = shared + c * KVF_TILE_OUT_STRIDE;
        if (row + f < args.ffn)
            act[ulong(block.first + c) * args.ffn + row + f] =
                kvf_activate(products[f], products[KVF_EXPERT_TILE_FFN + f], args.limit);
    }
}

/* rows[place][hidden] = w2 * act[place]. group.x: blocks; group.y: hidden by KVF_TILE_ROWS. */
kernel void kvf_experts_down_tile(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                  threadgroup float *shared [[threadgroup(0)]],
                                  uint3 group [[threadgroup_position_in_grid]],
                                  uint thread_index [[thread_index_in_threadgroup]],
                                  uint simd [[simdgroup_index_in_threadgroup]])
{
    const kvf_expert_block block = find_block(args, group.x);
    if (block.n == 0)
        return;
    device const kvf_expert_entry *table =
        reinterpret_cast<device const kvf_expert_entry *>(args.table);
    device const kvf_expert_entry &expert = table[block.expert];
    const uint row = group.y * KVF_TILE_ROWS;
    const uint loaded = thread_index / (KVF_TILE_K / 4);
    kvf_weight_rows<KVF_TILE_WEIGHT_LOADS> weights;
    kvf_input_rows<KVF_TILE_TOKEN_LOADS> inputs;
    for (uint i = 0; i < KVF_TILE_WEIGHT_LOADS; i++)
        weights.at[i] = expert_row(
            expert.w2, min(row + loaded + i * KVF_TILE_LOAD_ROWS, args.hidden - 1), args.ffn);
    for (uint i = 0; i < KVF_TILE_TOKEN_LOADS; i++)
        inputs.at[i] =
            kvf_find_input(reinterpret_cast<device const float *>(args.act),
                           block.first + min(loaded + i * KVF_TILE_LOAD_ROWS, block.n - 1),
                           args.ffn, args.ffn);

    kvf_tile_multiply<KVF_W>(weights, inputs, args.ffn, shared, thread_index, simd);
    device float *rows = reinterpret_cast<device float *>(args.rows);
    for (uint i = thread_index; i < block.n * KVF_TILE_ROWS; i += KVF_TILE_THREADS) {
        const uint c = i / KVF_TILE_ROWS;
        const uint r = i % KVF_TILE_ROWS;
        if (row + r < args.hidden)
            rows[ulong(block.first + c) * args.hidden + row + r] =
                shared[c * KVF_TILE_OUT_STRIDE + r];
    }
}
