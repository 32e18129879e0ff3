/*
 * matmul: out[n][rows] = in[n][cols] * weight^T, weights in f32, f16 or bf16, inputs and
 * sums in f32. Two forms: by dots for one or a few tokens (decode: each weight is read
 * once and the memory is the limit), by tiles for more.
 */
#include <metal_stdlib>
#include <metal_simdgroup_matrix>

#include "backend/metal/dense.h"
#include "backend/metal/products.h"

using namespace metal;

/* group.x: rows, KVF_VECTOR_ROWS at a time; group.y: tokens, TOKENS at a time. */
template <typename W, uint TOKENS>
static inline void matmul_vector(constant kvf_matmul_kernel_args &args, typename W::pointer weight,
                                 device const float *in, device float *out,
                                 threadgroup float *shared, uint3 group, uint lane, uint simd)
{
    const uint row = group.x * KVF_VECTOR_ROWS;
    const uint token = group.y * TOKENS;
    kvf_row_set<W, KVF_VECTOR_ROWS> weights;
    kvf_row_set<kvf_weight_f32, TOKENS> inputs;
    kvf_dot_sums<KVF_VECTOR_ROWS, TOKENS> sums;
    for (uint r = 0; r < KVF_VECTOR_ROWS; r++)
        weights.row[r] = weight + ulong(min(row + r, args.rows - 1)) * args.cols;
    for (uint t = 0; t < TOKENS; t++)
        inputs.row[t] = in + ulong(min(token + t, args.n - 1)) * args.in_stride;

    kvf_clear_dots(sums);
    kvf_add_dots(weights, inputs, args.cols, args.vectors != 0, lane, simd, sums);
    kvf_share_dots(sums, shared, lane, simd);
    if (simd != 0 || lane >= KVF_VECTOR_ROWS * TOKENS)
        return;
    const uint r = lane % KVF_VECTOR_ROWS;
    const uint t = lane / KVF_VECTOR_ROWS;
    if (row + r < args.rows && token + t < args.n)
        out[ulong(token + t) * args.out_stride + row + r] =
            kvf_total_dot<KVF_VECTOR_ROWS, TOKENS>(shared, r, t);
}

/* group.x: rows, KVF_TILE_ROWS at a time; group.y: tokens, KVF_TILE_TOKENS at a time. */
template <typename W>
static inline void matmul_tile(constant kvf_matmul_kernel_args &args, typename W::pointer weight,
                               device const float *in, device float *out, threadgroup float *shared,
                               uint3 group, uint thread_index, uint simd)
{
    const uint row = group.x * KVF_TILE_ROWS;
    const uint token = group.y * KVF_TILE_TOKENS;
    const uint loaded = thread_index / (KVF_TILE_K / 4);
    kvf_row_set<W, KVF_TILE_WEIGHT_LOADS> weights;
    kvf_row_set<kvf_weight_f32, KVF_TILE_TOKEN_LOADS> inputs;
    for (uint i = 0; i < KVF_TILE_WEIGHT_LOADS; i++)
        weights.row[i] =
            weight + ulong(min(row + loaded + i * KVF_TILE_LOAD_ROWS, args.rows - 1)) * args.cols;
    for (uint i = 0; i < KVF_TILE_TOKEN_LOADS; i++)
        inputs.row[i] =
            in + ulong(min(token + loaded + i * KVF_TILE_LOAD_ROWS, args.n - 1)) * args.in_stride;

    kvf_tile_multiply<W>(weights, inputs, args.cols, args.vectors != 0, shared, thread_index, simd);
    for (uint i = thread_index; i < KVF_TILE_TOKENS * KVF_TILE_ROWS; i += KVF_TILE_THREADS) {
        const uint t = i / KVF_TILE_ROWS;
        const uint r = i % KVF_TILE_ROWS;
        if (row + r < args.rows && token + t < args.n)
            out[ulong(token + t) * args.out_stride + row + r] = shared[t * KVF_TILE_OUT_STRIDE + r];
    }
}

/* ---- f32 ------------------------------------------------------------------------ */

kernel void kvf_matmul_one_f32(
    constant kvf_matmul_kernel_args &args [[buffer(0)]], device const float *weight [[buffer(1)]],
    device const float *in [[buffer(2)]], device float *out [[buffer(3)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul_vector<kvf_weight_f32, 1>(args, weight, in, out, shared, group, lane, simd);
}

kernel void kvf_matmul_few_f32(
    constant kvf_matmul_kernel_args &args [[buffer(0)]], device const float *weight [[buffer(1)]],
    device const float *in [[buffer(2)]], device float *out [[buffer(3)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul_vector<kvf_weight_f32, KVF_VECTOR_MANY_TOKENS>(args, weight, in, out, shared, group,
                                                          lane, simd);
}

kernel void kvf_matmul_tile_f32(
    constant kvf_matmul_kernel_args &args [[buffer(0)]], device const float *weight [[buffer(1)]],
    device const float *in [[buffer(2)]], device float *out [[buffer(3)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul_tile<kvf_weight_f32>(args, weight, in, out, shared, group, thread_index, simd);
}

/* ---- f16 ------------------------------------------------------------------------ */

kernel void kvf_matmul_one_f16(
    constant kvf_matmul_kernel_args &args [[buffer(0)]], device const half *weight [[buffer(1)]],
    device const float *in [[buffer(2)]], device float *out [[buffer(3)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul_vector<kvf_weight_f16, 1>(args, weight, in, out, shared, group, lane, simd);
}

kernel void kvf_matmul_few_f16(
    constant kvf_matmul_kernel_args &args [[buffer(0)]], device const half *weight [[buffer(1)]],
    device const float *in [[buffer(2)]], device float *out [[buffer(3)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul_vector<kvf_weight_f16, KVF_VECTOR_MANY_TOKENS>(args, weight, in, out, shared, group,
                                                          lane, simd);
}

kernel void kvf_matmul_tile_f16(
    constant kvf_matmul_kernel_args &args [[buffer(0)]], device const half *weight [[buffer(1)]],
    device const float *in [[buffer(2)]], device float *out [[buffer(3)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul_tile<kvf_weight_f16>(args, weight, in, out, shared, group, thread_index, simd);
}

/* ---- bf16 ----------------------------------------------------------------------- */

kernel void kvf_matmul_one_bf16(
    constant kvf_matmul_kernel_args &args [[buffer(0)]], device const ushort *weight [[buffer(1)]],
    device const float *in [[buffer(2)]], device float *out [[buffer(3)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul_vector<kvf_weight_bf16, 1>(args, weight, in, out, shared, group, lane, simd);
}

kernel void kvf_matmul_few_bf16(
    constant kvf_matmul_kernel_args &args [[buffer(0)]], device const ushort *weight [[buffer(1)]],
    device const float *in [[buffer(2)]], device float *out [[buffer(3)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul_vector<kvf_weight_bf16, KVF_VECTOR_MANY_TOKENS>(args, weight, in, out, shared, group,
                                                           lane, simd);
}

kernel void kvf_matmul_tile_bf16(
    constant kvf_matmul_kernel_args &args [[buffer(0)]], device const ushort *weight [[buffer(1)]],
    device const float *in [[buffer(2)]], device float *out [[buffer(3)]],
    threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul_tile<kvf_weight_bf16>(args, weight, in, out, shared, group, thread_index, simd);
}
