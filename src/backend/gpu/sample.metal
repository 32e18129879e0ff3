/*
 * argmax of the logits: the highest, of equal ones the lowest id; NaN and -infinity never
 * win, and without any other value the answer is 0. Two passes: threadgroups each find the
 * best of KVF_ARGMAX_GROUP_VALUES logits, then one threadgroup the best of those.
 */
#include <metal_stdlib>

#include "backend/gpu/dense.h"

using namespace metal;

struct candidate {
    float value;
    uint index;
};

static inline candidate no_candidate()
{
    candidate none;
    none.value = -INFINITY;
    none.index = 0xffffffffu;
    return none;
}

static inline candidate better(candidate a, candidate b)
{
    return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

/* The best of all threads' candidates, for every thread. shared: 8 bytes a simdgroup. */
static inline candidate best_of_threads(candidate best, threadgroup uint *shared, uint lane,
                                        uint simd)
{
    for (uint apart = KVF_SIMD_WIDTH / 2; apart > 0; apart /= 2) {
        candidate other;
        other.value = simd_shuffle_xor(best.value, ushort(apart));
        other.index = simd_shuffle_xor(best.index, ushort(apart));
        best = better(best, other);
    }
    if (lane == 0) {
        shared[2 * simd] = as_type<uint>(best.value);
        shared[2 * simd + 1] = best.index;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint s = 0; s < KVF_ARGMAX_THREADS / KVF_SIMD_WIDTH; s++) {
        candidate other;
        other.value = as_type<float>(shared[2 * s]);
        other.index = shared[2 * s + 1];
        best = better(best, other);
    }
    return best;
}

/* found[group.x] = the best of the group's logits, 0xffffffff where there is none. */
kernel void kvf_argmax_parts(
    constant kvf_argmax_kernel_args &args [[buffer(0)]], threadgroup uint *shared [[threadgroup(0)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    device const float *logits = reinterpret_cast<device const float *>(args.logits);
    device uint *found = reinterpret_cast<device uint *>(args.found);
    const uint first = group.x * KVF_ARGMAX_GROUP_VALUES;
    const uint n = min(args.n - first, uint(KVF_ARGMAX_GROUP_VALUES));
    candidate best = no_candidate();
    for (uint i = thread_index; i < n; i += KVF_ARGMAX_THREADS) {
        candidate next;
        next.value = logits[first + i];
        next.index = first + i;
        if (next.value > best.value)
            best = next;
    }
    best = best_of_threads(best, shared, lane, simd);
    if (thread_index == 0)
        found[group.x] = best.index;
}

/* One threadgroup: answer[0] = the best of args.n parts. */
kernel void kvf_argmax_merge(
    constant kvf_argmax_kernel_args &args [[buffer(0)]],
    threadgroup uint *shared [[threadgroup(0)]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    device const float *logits = reinterpret_cast<device const float *>(args.logits);
    device const uint *found = reinterpret_cast<device const uint *>(args.found);
    device uint *answer = reinterpret_cast<device uint *>(args.answer);
    candidate best = no_candidate();
    for (uint i = thread_index; i < args.n; i += KVF_ARGMAX_THREADS) {
        candidate next;
        next.index = found[i];
        next.value = next.index == 0xffffffffu ? -INFINITY : logits[next.index];
        best = better(best, next);
    }
    best = best_of_threads(best, shared, lane, simd);
    if (thread_index == 0)
        answer[0] = best.index == 0xffffffffu ? 0 : best.index;
}
