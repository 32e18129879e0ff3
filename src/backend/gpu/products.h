/*
 * What products are made of: inputs, dots of a few rows by simdgroups, and a tile of
 * products by simdgroup_matrix. Metal only.
 *
 * Both forms accumulate in f32 whatever the weights' type. Their orders of sums differ
 * from each other and depend on nothing but the shapes.
 */
#ifndef KVF_BACKEND_GPU_PRODUCTS_H
#define KVF_BACKEND_GPU_PRODUCTS_H

#include <metal_stdlib>
#include <metal_simdgroup_matrix>

#include "backend/gpu/dense.h"
#include "backend/gpu/weights.h"

using namespace metal;

/* ---- Inputs ------------------------------------------------------------------- */

struct kvf_input_row {
    device const float *data;
    uint cols;
    bool vectors; /* four values at once may be loaded */
};

/* Rows of `cols` values begin at `first`, stride values apart. */
static inline kvf_input_row kvf_find_input(device const float *first, ulong row, ulong stride,
                                           uint cols)
{
    kvf_input_row found;
    found.data = first + row * stride;
    found.cols = cols;
    found.vectors = (stride | cols) % 4 == 0 && reinterpret_cast<ulong>(first) % 16 == 0;
    return found;
}

/*
 * Values i .. i + 3, zero from cols on; i is a multiple of 4 below cols. Both ways of loading
 * give the same values, so alignment never changes a result; weights have the same.
 */
static inline float4 kvf_input_four(thread const kvf_input_row &row, uint i)
{
    if (row.vectors)
        return *reinterpret_cast<device const float4 *>(row.data + i);
    float4 values = float4(0.0f);
    values.x = row.data[i];
    if (i + 1 < row.cols)
        values.y = row.data[i + 1];
    if (i + 2 < row.cols)
        values.z = row.data[i + 2];
    if (i + 3 < row.cols)
        values.w = row.data[i + 3];
    return values;
}

static inline float kvf_fma4(float4 a, float4 b, float sum)
{
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

/* The rows that a thread loads. All are rows that exist: those past an edge repeat the last. */
template <uint N> struct kvf_weight_rows {
    kvf_weight_row at[N];
};
template <uint N> struct kvf_input_rows {
    kvf_input_row at[N];
};

/* ---- Few tokens: dots by simdgroups -------------------------------------------- */

template <uint ROWS, uint TOKENS> struct kvf_dot_sums {
    float sum[ROWS][TOKENS];
};

/*
 * A thread's share of the dots of ROWS rows with TOKENS inputs, added to `sums`: the
 * threadgroup's simdgroups take chunks of 128 values in turn, a lane four values of each.
 */
template <typename W, uint ROWS, uint TOKENS>
static inline void kvf_add_dots(thread const kvf_weight_rows<ROWS> &weights,
                                thread const kvf_input_rows<TOKENS> &in, uint cols, uint lane,
                                uint simd, thread kvf_dot_sums<ROWS, TOKENS> &sums)
{
    const uint step = 4 * KVF_VECTOR_THREADS;
    for (uint i = 4 * (simd * KVF_SIMD_WIDTH + lane); i < cols; i += step) {
        float4 x[TOKENS];
        for (uint t = 0; t < TOKENS; t++)
            x[t] = kvf_input_four(in.at[t], i);
        for (uint r = 0; r < ROWS; r++) {
            const float4 w = W::four(weights.at[r], i);
            for (uint t = 0; t < TOKENS; t++)
                sums.sum[r][t] = kvf_fma4(w, x[t], sums.sum[r][t]);
        }
    }
}

template <uint ROWS, uint TOKENS>
static inline void kvf_clear_dots(thread kvf_dot_sums<ROWS, TOKENS> &sums)
{
    for (uint r = 0; r < ROWS; r++)
        for (uint t = 0; t < TOKENS; t++)
            sums.sum[r][t] = 0.0f;
}

/*
 * All threads' shares into shared[ROWS * TOKENS]-many sums a simdgroup. Afterwards
 * kvf_total_dot of any thread gives row r's dot with input t.
 */
template <uint ROWS, uint TOKENS>
static inline void kvf_share_dots(thread const kvf_dot_sums<ROWS, TOKENS> &sums,
                                  threadgroup float *shared, uint lane, uint simd)
{
    for (uint r = 0; r < ROWS; r++) {
        for (uint t = 0; t < TOKENS; t++) {
            const float total = simd_sum(sums.sum[r][t]);
            if (lane == 0)
                shared[(simd * ROWS + r) * TOKENS + t] = total;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
}

template <uint ROWS, uint TOKENS>
static inline float kvf_total_dot(threadgroup const float *shared, uint row, uint token)
{
    float total = 0.0f;
    for (uint s = 0; s < KVF_VECTOR_SIMDS; s++)
        total += shared[(s * ROWS + row) * TOKENS + token];
    return total;
}

/* ---- Many tokens: tiles ---------------------------------------------------------- */

/* Of a tile, a thread loads four values of rows tid / 8, + 16, + 32, .. */
enum {
    KVF_TILE_LOAD_ROWS = KVF_TILE_THREADS / (KVF_TILE_K / 4),
    KVF_TILE_WEIGHT_LOADS = KVF_TILE_ROWS / KVF_TILE_LOAD_ROWS,
    KVF_TILE_TOKEN_LOADS = KVF_TILE_TOKENS / KVF_TILE_LOAD_ROWS,
    /* Each simdgroup has 16 tokens and 32 rows of the result. */
    KVF_TILE_SIMD_TOKENS = 16,
    KVF_TILE_SIMD_ROWS = 32,
    KVF_TILE_PARTS_T = KVF_TILE_SIMD_TOKENS / 8,
    KVF_TILE_PARTS_R = KVF_TILE_SIMD_ROWS / 8
};

static inline void kvf_put_four(float4 values, threadgroup float *to)
{
    to[0] = values.x;
    to[1] = values.y;
    to[2] = values.z;
    to[3] = values.w;
}

/* This thread's four columns k .. k + 3 of its rows of weights and inputs, as f32. */
template <typename W>
static inline void kvf_tile_load(thread const kvf_weight_rows<KVF_TILE_WEIGHT_LOADS> &weights,
                                 thread const kvf_input_rows<KVF_TILE_TOKEN_LOADS> &in, uint k,
                                 uint cols, threadgroup float *weight_tile,
                                 threadgroup float *in_tile, uint thread_index)
{
    const uint column = thread_index % (KVF_TILE_K / 4) * 4;
    const uint first = thread_index / (KVF_TILE_K / 4) * KVF_TILE_STRIDE + column;
    const uint step = KVF_TILE_LOAD_ROWS * KVF_TILE_STRIDE;
    const bool exists = k + column < cols;
    for (uint i = 0; i < KVF_TILE_WEIGHT_LOADS; i++)
        kvf_put_four(exists ? W::four(weights.at[i], k + column) : float4(0.0f),
                     weight_tile + first + i * step);
    for (uint i = 0; i < KVF_TILE_TOKEN_LOADS; i++)
        kvf_put_four(exists ? kvf_input_four(in.at[i], k + column) : float4(0.0f),
                     in_tile + first + i * step);
}

/*
 * shared[token][row] (KVF_TILE_OUT_STRIDE) = the tile's products, once the threadgroup has
 * passed the barrier that ends this. The rows of `weights` and `in` are those this thread
 * loads: KVF_TILE_LOAD_ROWS apart. shared is KVF_TILE_BYTES.
 */
template <typename W>
static inline void kvf_tile_multiply(thread const kvf_weight_rows<KVF_TILE_WEIGHT_LOADS> &weights,
                                     thread const kvf_input_rows<KVF_TILE_TOKEN_LOADS> &in,
                                     uint cols, threadgroup float *shared, uint thread_index,
                                     uint simd)
{
    threadgroup float *weight_tile = shared;
    threadgroup float *in_tile = shared + KVF_TILE_ROWS * KVF_TILE_STRIDE;
    const uint token = simd % 2 * KVF_TILE_SIMD_TOKENS;
    const uint row = simd / 2 * KVF_TILE_SIMD_ROWS;
    simdgroup_matrix<float, 8, 8> sums[KVF_TILE_PARTS_T * KVF_TILE_PARTS_R];
    KVF_UNROLL
    for (uint i = 0; i < KVF_TILE_PARTS_T * KVF_TILE_PARTS_R; i++)
        sums[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);

    for (uint k = 0; k < cols; k += KVF_TILE_K) {
        kvf_tile_load<W>(weights, in, k, cols, weight_tile, in_tile, thread_index);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint part = 0; part < KVF_TILE_K; part += 8) {
            simdgroup_matrix<float, 8, 8> x[KVF_TILE_PARTS_T];
            KVF_UNROLL
            for (uint t = 0; t < KVF_TILE_PARTS_T; t++)
                simdgroup_load(x[t], in_tile + (token + 8 * t) * KVF_TILE_STRIDE + part,
                               KVF_TILE_STRIDE);
            KVF_UNROLL
            for (uint r = 0; r < KVF_TILE_PARTS_R; r++) {
                simdgroup_matrix<float, 8, 8> w;
                simdgroup_load(w, weight_tile + (row + 8 * r) * KVF_TILE_STRIDE + part,
                               KVF_TILE_STRIDE, ulong2(0, 0), true);
                KVF_UNROLL
                for (uint t = 0; t < KVF_TILE_PARTS_T; t++)
                    simdgroup_multiply_accumulate(sums[t * KVF_TILE_PARTS_R + r], x[t], w,
                                                  sums[t * KVF_TILE_PARTS_R + r]);
            }
        }
        /* The next step, or the result, overwrites the tiles. */
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    KVF_UNROLL
    for (uint t = 0; t < KVF_TILE_PARTS_T; t++) {
        KVF_UNROLL
        for (uint r = 0; r < KVF_TILE_PARTS_R; r++)
            simdgroup_store(sums[t * KVF_TILE_PARTS_R + r],
                            shared + (token + 8 * t) * KVF_TILE_OUT_STRIDE + row + 8 * r,
                            KVF_TILE_OUT_STRIDE);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
}

#endif
