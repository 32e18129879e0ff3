/*
 * mix and unmix: the two sides of a hyper-connection (docs/ARCHITECTURE.md). mix's product
 * with fn is matmul's; what follows is one threadgroup a token.
 */
#include <metal_stdlib>

#include "backend/gpu/dense.h"
#include "backend/gpu/dense_math.h"

using namespace metal;

/* 1 / rms(flat[n]), the same for all threads. partial[] has a float a simdgroup. */
static inline float inverse_rms(device const float *flat, uint n, float eps,
                                threadgroup float *partial, uint thread_index, uint n_threads,
                                uint lane, uint simd)
{
    float squares = 0.0f;
    for (uint i = thread_index; i < n; i += n_threads)
        squares = fma(flat[i], flat[i], squares);
    squares = simd_sum(squares);
    if (lane == 0)
        partial[simd] = squares;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float sum = 0.0f;
    for (uint s = 0; s < n_threads / KVF_SIMD_WIDTH; s++)
        sum += partial[s];
    return 1.0f / sqrt(sum / float(n) + eps);
}

/*
 * Divides the n values m[0], m[step], .. by their sum + eps. Sinkhorn's row pass gives
 * lane j row j (step 1), the column pass lane k column k (step n).
 */
static inline void divide_by_sum(threadgroup float *m, uint n, uint step, float eps)
{
    float sum = 0.0f;
    for (uint i = 0; i < n; i++)
        sum += m[i * step];
    for (uint i = 0; i < n; i++)
        m[i * step] /= sum + eps;
}

static inline void softmax_row(threadgroup float *row, uint n, float eps)
{
    float highest = row[0];
    for (uint k = 1; k < n; k++)
        highest = max(highest, row[k]);
    float sum = 0.0f;
    for (uint k = 0; k < n; k++) {
        row[k] = kvf_exp_or_nan(row[k] - highest);
        sum += row[k];
    }
    for (uint k = 0; k < n; k++)
        row[k] = row[k] / sum + eps;
}

/* One simdgroup makes comb[n][n] of its logits: row and column passes in turn. */
static inline void sinkhorn(threadgroup float *comb, uint n, uint rounds, float eps, uint lane)
{
    const bool works = lane < n;
    if (works)
        softmax_row(comb + lane * n, n, eps);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    if (works)
        divide_by_sum(comb + lane, n, n, eps);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint round = 1; round < rounds; round++) {
        if (works)
            divide_by_sum(comb + lane * n, n, 1, eps);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        if (works)
            divide_by_sum(comb + lane, n, n, eps);
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}

/* group.x: tokens. shared: a sum a simdgroup, pre, comb. */
[[max_total_threads_per_threadgroup(KVF_MIX_MOST_THREADS)]] kernel void
kvf_mix(constant kvf_mix_kernel_args &args [[buffer(0)]],
        threadgroup float *shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
        uint3 threads [[threads_per_threadgroup]],
        uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
        uint simd [[simdgroup_index_in_threadgroup]])
{
    device const float *mix = reinterpret_cast<device const float *>(args.mix);
    device const float *streams = reinterpret_cast<device const float *>(args.streams);
    device const float *base = reinterpret_cast<device const float *>(args.base);
    device const float *scale = reinterpret_cast<device const float *>(args.scale);
    device float *out = reinterpret_cast<device float *>(args.out);
    device float *post = reinterpret_cast<device float *>(args.post);
    device float *comb = reinterpret_cast<device float *>(args.comb);
    const uint n = args.n_streams;
    const uint n_mix = args.sinkhorn_rounds ? n * (2 + n) : n;
    const ulong token = group.x;
    device const float *flat = streams + token * n * args.hidden;
    device const float *token_mix = mix + token * n_mix;
    threadgroup float *pre = shared + KVF_MIX_PRE;
    threadgroup float *token_comb = shared + KVF_MIX_COMB;
    const float r = inverse_rms(flat, n * args.hidden, args.norm_eps, shared, thread_index,
                                threads.x, lane, simd);

    for (uint m = thread_index; m < n_mix; m += threads.x) {
        const uint part = m < n ? 0 : m < 2 * n ? 1 : 2;
        const float x = token_mix[m] * r * scale[part] + base[m];
        if (part == 0)
            pre[m] = kvf_sigmoid(x) + args.eps;
        else if (part == 1)
            post[token * n + m - n] = 2.0f * kvf_sigmoid(x);
        else
            token_comb[m - 2 * n] = x;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    if (args.sinkhorn_rounds && simd == 0) {
        sinkhorn(token_comb, n, args.sinkhorn_rounds, args.eps, lane);
        for (uint i = lane; i < n * n; i += KVF_SIMD_WIDTH)
            comb[token * n * n + i] = token_comb[i];
    }
    for (uint i = thread_index; i < args.hidden; i += threads.x) {
        float sum = 0.0f;
        for (uint j = 0; j < n; j++)
            sum += pre[j] * flat[ulong(j) * args.hidden + i];
        out[token * args.hidden + i] = sum;
    }
}

/*
 * Bit for bit as the reference: products rounded before the sums, old streams ascending.
 * group.x: tokens; group.y: values, KVF_ELEMENT_THREADS at a time.
 */
kernel void kvf_unmix(constant kvf_unmix_kernel_args &args [[buffer(0)]],
                      uint3 group [[threadgroup_position_in_grid]],
                      uint thread_index [[thread_index_in_threadgroup]])
{
    device const float *sublayer = reinterpret_cast<device const float *>(args.sublayer);
    device const float *post = reinterpret_cast<device const float *>(args.post);
    device const float *comb = reinterpret_cast<device const float *>(args.comb);
    device float *streams = reinterpret_cast<device float *>(args.streams);
    const uint i = group.y * KVF_ELEMENT_THREADS + thread_index;
    const uint n = args.n_streams;
    const ulong token = group.x;
    if (i >= args.hidden)
        return;
    device float *at = streams + token * n * args.hidden + i;
    float old[KVF_MIX_MAX_STREAMS];
    for (uint j = 0; j < n; j++)
        old[j] = at[ulong(j) * args.hidden];
    const float share = sublayer[token * args.hidden + i];
    for (uint k = 0; k < n; k++) {
        float sum = post[token * n + k] * share;
        for (uint j = 0; j < n; j++)
            sum += comb[token * n * n + j * n + k] * old[j];
        at[ulong(k) * args.hidden] = sum;
    }
}
