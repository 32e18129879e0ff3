/*
 * Finding the k highest of many scores by one threadgroup, and keeping them in order: what
 * select, its merge and mask share, and compact the latter. Metal only.
 *
 * Scores are compared as their order: integers that order as the scores do. The k-th
 * highest is found a byte at a time, from the top, by counting how many have each value of
 * the byte. What is kept is kept stably, so a list that begins ascending by row stays so,
 * and of equal scores the lower rows are kept.
 */
#ifndef KVF_BACKEND_GPU_TOP_H
#define KVF_BACKEND_GPU_TOP_H

#include <metal_stdlib>

#include "backend/gpu/kernels.h"

using namespace metal;

/* Where a thread is. */
struct kvf_at {
    uint thread_index;
    uint n_threads;
    uint lane;
    uint simd;
};

/* Orders as the scores do, -0 as +0; more than 0, also that of -infinity. No NaN. */
static inline uint kvf_order(float score)
{
    uint bits = as_type<uint>(score);
    bits = bits == 0x80000000u ? 0 : bits;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The scores of a query. A source is segments of orders. */
struct kvf_score_source {
    device const float *scores;
    uint count;

    inline uint n_segments() const
    {
        return 1;
    }
    inline uint n_orders(uint) const
    {
        return count;
    }
    inline uint order(uint, uint i) const
    {
        return kvf_order(scores[i]);
    }
};

/* The candidates of one part of a query's rows. */
struct kvf_part_source {
    device const uint *orders;
    uint count;

    inline uint n_segments() const
    {
        return 1;
    }
    inline uint n_orders(uint) const
    {
        return count;
    }
    inline uint order(uint, uint i) const
    {
        return orders[i];
    }
};

/* The candidates of several parts, `step` slots apart. */
struct kvf_parts_source {
    device const uint *orders;
    device const uint *counts;
    uint n_parts;
    uint step;
    uint capacity;

    inline uint n_segments() const
    {
        return n_parts;
    }
    inline uint n_orders(uint part) const
    {
        return counts[part * step];
    }
    inline uint order(uint part, uint i) const
    {
        return orders[ulong(part * step) * capacity + i];
    }
};

/* ---- The k-th highest ------------------------------------------------------------- */

/* An order, and how many that equal it are among the k highest. */
struct kvf_threshold {
    uint order;
    uint left;
};

/*
 * The bin in which the k-th highest is, and its place k there. Every simdgroup finds it for
 * itself. Lane l adds up the bins 255 - 8l .. 248 - 8l.
 */
static inline uint2 kvf_find_bin(threadgroup const atomic_uint *bins, uint k, uint lane)
{
    const uint highest = KVF_TOP_BINS - 1 - 8 * lane;
    uint n = 0;
    for (uint b = 0; b < 8; b++)
        n += atomic_load_explicit(bins + (highest - b), memory_order_relaxed);
    const uint above = simd_prefix_exclusive_sum(n);
    uint2 found = uint2(0, 0);
    if (above < k && k <= above + n) { /* true in one lane */
        found = uint2(highest, k - above);
        uint in_bin = atomic_load_explicit(bins + found.x, memory_order_relaxed);
        while (found.y > in_bin) {
            found = uint2(found.x - 1, found.y - in_bin);
            in_bin = atomic_load_explicit(bins + found.x, memory_order_relaxed);
        }
    }
    return uint2(simd_max(found.x), simd_max(found.y));
}

/* Of a source that has k or more. bins: KVF_TOP_PASSES * KVF_TOP_BINS. Begins with a barrier. */
template <typename Source>
static inline kvf_threshold kvf_find_kth(thread const Source &source, uint k,
                                         threadgroup atomic_uint *bins, kvf_at at)
{
    for (uint i = at.thread_index; i < KVF_TOP_PASSES * KVF_TOP_BINS; i += at.n_threads)
        atomic_store_explicit(bins + i, 0u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
    uint known = 0; /* the upper bytes */
    for (uint pass = 0; pass < KVF_TOP_PASSES; pass++) {
        const uint shift = 24 - 8 * pass;
        threadgroup atomic_uint *pass_bins = bins + pass * KVF_TOP_BINS;
        for (uint segment = 0; segment < source.n_segments(); segment++) {
            const uint n = source.n_orders(segment);
            for (uint i = at.thread_index; i < n; i += at.n_threads) {
                const uint order = source.order(segment, i);
                if (pass == 0 || order >> (shift + 8) == known)
                    atomic_fetch_add_explicit(pass_bins + (order >> shift & 255), 1u,
                                              memory_order_relaxed);
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint2 found = kvf_find_bin(pass_bins, k, at.lane);
        known = known << 8 | found.x;
        k = found.y;
    }
    kvf_threshold threshold;
    threshold.order = known;
    threshold.left = k;
    return threshold;
}

/* ---- Keeping some of a sequence ------------------------------------------------------ */

/* How many of the chunks before were above the threshold, and equal to it. */
struct kvf_kept {
    uint above;
    uint equal;
    uint chunk; /* number of the chunk */
};

static inline kvf_kept kvf_keep_nothing()
{
    kvf_kept kept;
    kept.above = 0;
    kept.equal = 0;
    kept.chunk = 0;
    return kept;
}

static inline uint kvf_kept_total(kvf_kept kept, uint left)
{
    return kept.above + min(kept.equal, left);
}

static inline uint kvf_votes(bool vote)
{
    return uint(simd_vote::vote_t(simd_ballot(vote)));
}

/*
 * The next chunk of a sequence, an element a thread: is this thread's kept, being above the
 * threshold or among the first `left` that equal it, and at which place? One barrier: after
 * it all threads have read their elements, so kept ones may be written over the sequence.
 * sums (2 * KVF_TOP_SIMDS) alternate, so that none is overwritten while it is read.
 */
static inline bool kvf_keep(bool above, bool equal, uint left, threadgroup uint *sums, kvf_at at,
                            thread kvf_kept &kept, thread uint &place)
{
    const uint lanes_below = (1u << at.lane) - 1;
    const uint above_votes = kvf_votes(above);
    const uint equal_votes = kvf_votes(equal);
    threadgroup uint *chunk_sums = sums + kept.chunk % 2 * KVF_TOP_SIMDS;
    if (at.lane == 0)
        chunk_sums[at.simd] = popcount(above_votes) | popcount(equal_votes) << 16;
    threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
    uint before = 0; /* both numbers in a word: a chunk has fewer than 2^16 elements */
    uint total = 0;
    for (uint s = 0; s < at.n_threads / KVF_KERNEL_SIMD_WIDTH; s++) {
        before += s < at.simd ? chunk_sums[s] : 0;
        total += chunk_sums[s];
    }
    const uint above_before = kept.above + (before & 0xffff) + popcount(above_votes & lanes_below);
    const uint equal_before = kept.equal + (before >> 16) + popcount(equal_votes & lanes_below);
    kept.above += total & 0xffff;
    kept.equal += total >> 16;
    kept.chunk++;
    place = above_before + min(equal_before, left);
    return above || (equal && equal_before < left);
}

#endif
