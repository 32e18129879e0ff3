/*
 * compress: pools the tokens of a window into one row (docs/FORMAT.md 2 and 9.3), then RMS
 * norm and rope. The rows it makes are f32; pack.metal's kernels check, round and store them.
 */
#include <metal_stdlib>

#include "backend/gpu/kernels.h"
#include "backend/gpu/spans.h"
#include "shared/exp.h"

using namespace metal;

enum { KVF_NORM_DOT_LANES = 16 }; /* of the promised dot: docs/FORMAT.md 9.7 */

/* What elements are numbered by. */
enum { KVF_BY_TOKEN = 0, KVF_BY_ROW = 1, KVF_BY_KEPT = 2 };

template <typename Pointer> static inline kvf_compress_span kvf_copy_compress_span(Pointer from)
{
    kvf_compress_span span;
    span.kv = from->kv;
    span.gate = from->gate;
    span.state = from->state;
    span.cosines = from->cosines;
    span.sines = from->sines;
    span.first = from->first;
    span.first_made = from->first_made;
    span.first_kept = from->first_kept;
    span.kept_from = from->kept_from;
    span.first_slot = from->first_slot;
    span.phase = from->phase;
    span.at_start = from->at_start;
    return span;
}

static inline kvf_compress_span kvf_compress_span_at(constant kvf_compress_kernel_args &args,
                                                     uint span)
{
    return KVF_COPY_SPAN(args, kvf_compress_span, kvf_copy_compress_span, span);
}

/*
 * Looks for values that are not finite: the first token of each span that has one; report
 * finds which. group.x: tokens, group.y: values of a token.
 */
kernel void kvf_compress_check(constant kvf_compress_kernel_args &args [[buffer(0)]],
                               uint3 group [[threadgroup_position_in_grid]],
                               uint thread_index [[thread_index_in_threadgroup]],
                               uint lane [[thread_index_in_simdgroup]])
{
    const uint s = kvf_find_span(args.spans, KVF_BY_TOKEN, group.x, lane);
    const kvf_compress_span span = kvf_compress_span_at(args, s);
    device const float *kv = reinterpret_cast<device const float *>(span.kv);
    device const float *gate = reinterpret_cast<device const float *>(span.gate);
    device atomic_uint *found =
        reinterpret_cast<device atomic_uint *>(args.found) + s * KVF_FOUND_WORDS;
    const uint column = group.y * KVF_ELEMENTS_THREADS + thread_index;
    if (column >= args.columns)
        return;
    const uint token = group.x - span.first;
    const ulong place = ulong(token) * args.columns + column;
    const uint largest = max(as_type<uint>(kv[place]) & uint(KVF_F32_MAGNITUDE_MASK),
                             as_type<uint>(gate[place]) & uint(KVF_F32_MAGNITUDE_MASK));
    if (largest >= uint(KVF_F32_INFINITY))
        atomic_fetch_min_explicit(found + KVF_FOUND_BAD_INPUT, token, memory_order_relaxed);
}

/* One dimension of a token that a row pools. */
struct kvf_candidate {
    float kv;
    float gate;
};

/* What candidates are read from, and where the chunk begins in windows and ring. */
struct kvf_pool_input {
    uint first_slot;
    uint phase;
    bool at_start;
    device const float *kv;
    device const float *gate;
    device const float *bias;
    device const float *state;
};

/*
 * Dimension d of the candidate that is `token` tokens after the chunk's first (before it:
 * negative, and in the state), the i-th of its row.
 */
static inline kvf_candidate find_candidate(constant kvf_compress_kernel_args &args,
                                           thread const kvf_pool_input &input, int token, uint i,
                                           uint d)
{
    /* With overlap the row's own window, the last one, gives its second halves. */
    const bool second_half = args.overlap && i >= args.ratio;
    const uint column = second_half ? args.width + d : d;
    kvf_candidate found;
    if (token >= 0) {
        const ulong place = ulong(token) * args.columns + column;
        found.kv = input.kv[place];
        found.gate = input.gate[place];
    } else {
        const uint slot = (input.first_slot + args.n_slots - uint(-token)) % args.n_slots;
        const ulong place = ulong(slot) * 2 * args.columns + column;
        found.kv = input.state[place];
        found.gate = input.state[place + args.columns];
    }
    found.gate = found.gate + input.bias[ulong(i % args.ratio) * args.columns + column];
    return found;
}

/* Softmax of the gates over the candidates, weighted sum of the kv, in order of token. */
static inline float pool(constant kvf_compress_kernel_args &args,
                         thread const kvf_pool_input &input, uint emitted, uint d)
{
    /* Row 0 of an overlapping layer has no window before its own. */
    const bool alone = args.overlap && input.at_start && emitted == 0;
    const uint n = args.overlap ? 2 * args.ratio : args.ratio;
    const uint first = alone ? args.ratio : 0;
    /* Of candidate 0; the row's own window begins at emitted * ratio - phase. */
    const int token =
        int(emitted * args.ratio) - int(input.phase) - int(args.overlap ? args.ratio : 0);
    float highest = -INFINITY;
    for (uint i = first; i < n; i++)
        highest = max(highest, find_candidate(args, input, token + int(i), i, d).gate);
    float sum = 0.0f;
    float sum_kv = 0.0f;
    for (uint i = first; i < n; i++) {
        const kvf_candidate candidate = find_candidate(args, input, token + int(i), i, d);
        const float p = kvf_exp(candidate.gate - highest);
        sum += p;
        sum_kv += p * candidate.kv; /* two roundings: contraction is off */
    }
    return sum_kv / sum;
}

/*
 * 1 / sqrt(mean square + eps) of values[width], over 16 lanes as docs/FORMAT.md 9.7 says.
 * Every simdgroup does it for itself, twice over: cheaper than a barrier.
 */
static inline float inverse_rms(threadgroup const float *values, uint width, float eps, uint lane)
{
    float sum = 0.0f;
    for (uint i = lane % KVF_NORM_DOT_LANES; i < width; i += KVF_NORM_DOT_LANES)
        sum = fma(values[i], values[i], sum);
    for (uint apart = KVF_NORM_DOT_LANES / 2; apart > 0; apart /= 2)
        sum = sum + simd_shuffle_xor(sum, ushort(apart));
    return 1.0f / sqrt(sum / float(width) + eps);
}

/* The pair's other value lies in the neighbouring lane. */
static inline float rotate(float x, float cosine, float sine, uint d)
{
    const float other = simd_shuffle_xor(x, ushort(1));
    return d % 2 ? x * cosine + other * sine : x * cosine - other * sine;
}

/*
 * group.x: rows that the chunk completes; a thread a dimension. values has args.width
 * floats.
 */
[[max_total_threads_per_threadgroup(KVF_COMPRESS_MAX_THREADS)]] kernel void kvf_compress_make(
    constant kvf_compress_kernel_args &args [[buffer(0)]], threadgroup float *values [[threadgroup(0)]],
    uint3 group [[threadgroup_position_in_grid]], uint d [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    const uint s = kvf_find_span(args.spans, KVF_BY_ROW, group.x, lane);
    const kvf_compress_span span = kvf_compress_span_at(args, s);
    device const float *kv = reinterpret_cast<device const float *>(span.kv);
    device const float *gate = reinterpret_cast<device const float *>(span.gate);
    device const float *bias = reinterpret_cast<device const float *>(args.bias);
    device const float *state = reinterpret_cast<device const float *>(span.state);
    device const float *weight = reinterpret_cast<device const float *>(args.weight);
    device const float *cosines = reinterpret_cast<device const float *>(span.cosines);
    device const float *sines = reinterpret_cast<device const float *>(span.sines);
    device float *rows = reinterpret_cast<device float *>(args.rows);
    const kvf_pool_input input = {span.first_slot, span.phase, span.at_start != 0,
                                  kv, gate, bias, state};
    const uint emitted = group.x - span.first_made; /* of the span */
    const float pooled = pool(args, input, emitted, d);
    values[d] = pooled;
    threadgroup_barrier(mem_flags::mem_threadgroup);

    float x = pooled * inverse_rms(values, args.width, args.norm_eps, lane);
    x = x * weight[d];
    const uint tail = args.width - KVF_ROPE_PAIRS * 2; /* whole simdgroups are in it or not */
    if (d >= tail) {
        const ulong angle = ulong(emitted) * KVF_ROPE_PAIRS + (d - tail) / 2;
        x = rotate(x, cosines[angle], sines[angle], d);
    }
    rows[ulong(group.x) * args.width + d] = x;
}

/*
 * Takes the chunk's last tokens into the ring, unless something was wrong with the chunk.
 * group.x: tokens that are kept, group.y: values of a token.
 */
kernel void kvf_compress_keep(constant kvf_compress_kernel_args &args [[buffer(0)]],
                              uint3 group [[threadgroup_position_in_grid]],
                              uint thread_index [[thread_index_in_threadgroup]],
                              uint lane [[thread_index_in_simdgroup]])
{
    const uint s = kvf_find_span(args.spans, KVF_BY_KEPT, group.x, lane);
    device atomic_uint *found =
        reinterpret_cast<device atomic_uint *>(args.found) + s * KVF_FOUND_WORDS;
    const uint column = group.y * KVF_ELEMENTS_THREADS + thread_index;
    const uint bad = atomic_load_explicit(found + KVF_FOUND_BAD_INPUT, memory_order_relaxed) &
                     atomic_load_explicit(found + KVF_FOUND_BAD_ROW, memory_order_relaxed);
    if (column >= args.columns || bad != KVF_FOUND_NOTHING)
        return;
    const kvf_compress_span span = kvf_compress_span_at(args, s);
    device const float *kv = reinterpret_cast<device const float *>(span.kv);
    device const float *gate = reinterpret_cast<device const float *>(span.gate);
    device float *state = reinterpret_cast<device float *>(span.state);
    const uint token = span.kept_from + group.x - span.first_kept;
    const ulong from = ulong(token) * args.columns + column;
    const ulong slot = (span.first_slot + token) % args.n_slots;
    device float *to = state + slot * 2 * args.columns + column;
    to[0] = kv[from];
    to[args.columns] = gate[from];
}
