/*
 * select, score, mask, and what makes lists of masks (docs/FORMAT.md 5).
 *
 * select streams: a threadgroup scores a part of a query's visible rows tile by tile and
 * keeps candidates, in ascending order of row. When their memory is full they are thinned
 * to the k highest, and from then on only higher scores get in. Parts of one query (few
 * queries, many rows) are merged. So nothing grows with the number of rows, and as scores
 * are exact, the set is the same however the rows are cut.
 */
#include <metal_stdlib>
#include <metal_simdgroup_matrix>

#include "backend/gpu/kernels.h"
#include "backend/gpu/score.h"
#include "backend/gpu/top.h"

using namespace metal;

/* ---- select ---------------------------------------------------------------------------- */

/* Candidates of a part, ascending by row. */
struct kvf_candidates {
    device uint *orders;
    device int *rows;
    uint count;
    uint bar; /* only higher orders get in */
};

/*
 * Leaves the k highest of more than k. What was written is read after a barrier: that of
 * the next thinning, or of the end. What is added before goes to places that this leaves.
 */
static inline void thin(thread kvf_candidates &candidates, uint k, threadgroup uint *top, kvf_at at)
{
    kvf_part_source source;
    source.orders = candidates.orders;
    source.count = candidates.count;
    const kvf_threshold threshold =
        kvf_find_kth(source, k, reinterpret_cast<threadgroup atomic_uint *>(top), at);
    kvf_kept kept = kvf_keep_nothing();
    for (uint first = 0; first < candidates.count; first += at.n_threads) {
        const uint i = first + at.thread_index;
        const bool exists = i < candidates.count;
        const uint order = exists ? candidates.orders[i] : 0;
        const int row = exists ? candidates.rows[i] : 0;
        uint place = 0;
        if (kvf_keep(order > threshold.order, order == threshold.order, threshold.left,
                     top + KVF_TOP_SUMS, at, kept, place)) {
            candidates.orders[place] = order;
            candidates.rows[place] = row;
        }
    }
    candidates.count = k;
    candidates.bar = threshold.order;
}

/*
 * Adds those of a tile's scores that are above the bar. Every simdgroup counts the whole
 * tile, so all threads know the new count and no barrier is needed.
 */
static inline void add_tile(thread kvf_candidates &candidates, threadgroup const float *scores,
                            uint first_row, uint end, kvf_at at)
{
    for (uint chunk = 0; chunk < KVF_SELECT_TILE_KEYS / KVF_KERNEL_SIMD_WIDTH; chunk++) {
        const uint i = chunk * KVF_KERNEL_SIMD_WIDTH + at.lane;
        const uint order = first_row + i < end ? kvf_order(scores[i]) : 0;
        const bool taken = order > candidates.bar;
        const uint votes = kvf_votes(taken);
        if (taken && at.simd == chunk) {
            const uint place = candidates.count + popcount(votes & ((1u << at.lane) - 1));
            candidates.orders[place] = order;
            candidates.rows[place] = int(first_row + i);
        }
        candidates.count += popcount(votes);
    }
}

/* A query's list from its candidates, at most k: places that are left are -1. */
static inline void write_list(thread const kvf_candidates &candidates, uint k, device int *list,
                              device uint *list_len, kvf_at at)
{
    for (uint i = at.thread_index; i < k; i += at.n_threads)
        list[i] = i < candidates.count ? candidates.rows[i] : -1;
    if (at.thread_index == 0)
        *list_len = candidates.count;
}

/* All rows of begin .. end through the candidates. */
template <typename Form>
static inline void stream_rows(constant kvf_select_kernel_args &args,
                               thread const kvf_query<Form> &query,
                               thread kvf_candidates &candidates, uint begin, uint end,
                               threadgroup uint *top, kvf_at at)
{
    kvf_load_only_batch<Form>(args, query, at);
    const kvf_places places = kvf_find_places(query.work + KVF_SELECT_SCRATCH, at);
    uint buffer = 0;
    for (uint first = begin; first < end; first += KVF_SELECT_TILE_KEYS) {
        /* Two buffers, used in turn: no score is overwritten before all have read it. */
        threadgroup float *scores = query.work + KVF_SELECT_SCORES + buffer;
        buffer = KVF_SELECT_TILE_KEYS - buffer;
        const uint simd_first = at.simd * KVF_SELECT_SIMD_KEYS;
        const float score = kvf_score_keys<Form>(args, query, places, first + simd_first, end, at);
        if (at.lane < KVF_SELECT_SIMD_KEYS)
            scores[simd_first + at.lane] = score;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        add_tile(candidates, scores, first, end, at);
        if (candidates.count + KVF_SELECT_TILE_KEYS > args.capacity)
            thin(candidates, args.top_k, top, at);
    }
    if (candidates.count > args.top_k)
        thin(candidates, args.top_k, top, at);
}

/* What select reads and writes, besides rows. */
struct kvf_select_memory {
    device const float *weights;
    device const uint *n_visible;
    device uint *orders; /* of a slot: capacity */
    device int *rows;
    device uint *counts; /* one a slot */
    device int *list;
    device uint *list_len;
};

/* group.x: parts, group.y: queries from first_query on; a slot for each pair. */
template <typename Form>
static inline void select_part(constant kvf_select_kernel_args &args,
                               thread const kvf_select_memory &memory,
                               threadgroup typename Form::value *tile, threadgroup float *work,
                               threadgroup uint *top, uint3 group, kvf_at at)
{
    const uint i = args.first_query + group.y;
    const uint slot = group.y * args.n_parts + group.x;
    const uint n_visible = kvf_visible(memory.n_visible, args.first_token, args.ratio, i);
    const uint tiles = (n_visible + KVF_SELECT_TILE_KEYS - 1) / KVF_SELECT_TILE_KEYS;
    const uint part_rows = (tiles + args.n_parts - 1) / args.n_parts * KVF_SELECT_TILE_KEYS;
    const uint begin = min(group.x * part_rows, n_visible);
    const uint end = min(begin + part_rows, n_visible);
    kvf_candidates candidates;
    candidates.orders = memory.orders + ulong(slot) * args.capacity;
    candidates.rows = memory.rows + ulong(slot) * args.capacity;
    candidates.count = 0;
    candidates.bar = 0;
    if (begin < end) {
        const kvf_query<Form> query = {i, memory.weights, tile, work};
        stream_rows<Form>(args, query, candidates, begin, end, top, at);
    }
    threadgroup_barrier(mem_flags::mem_device);
    if (args.n_parts == 1)
        write_list(candidates, args.top_k, memory.list + ulong(i) * args.top_k, memory.list_len + i,
                   at);
    else if (at.thread_index == 0)
        memory.counts[slot] = candidates.count;
}

[[max_total_threads_per_threadgroup(KVF_SELECT_THREADS)]] kernel void kvf_select_codes(
    constant kvf_select_kernel_args &args [[buffer(0)]],
    threadgroup half *tile [[threadgroup(0)]], threadgroup float *work [[threadgroup(1)]],
    threadgroup uint *top [[threadgroup(2)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]])
{
    device const float *weights = reinterpret_cast<device const float *>(args.weights);
    device const uint *n_visible = reinterpret_cast<device const uint *>(args.n_visible);
    device uint *orders = reinterpret_cast<device uint *>(args.orders);
    device int *rows = reinterpret_cast<device int *>(args.rows);
    device uint *counts = reinterpret_cast<device uint *>(args.counts);
    device int *list = reinterpret_cast<device int *>(args.list);
    device uint *list_len = reinterpret_cast<device uint *>(args.list_len);
    const kvf_at at = {thread_index, KVF_SELECT_THREADS, lane, simd};
    const kvf_select_memory memory = {weights, n_visible, orders, rows, counts, list, list_len};
    select_part<kvf_code_form>(args, memory, tile, work, top, group, at);
}

[[max_total_threads_per_threadgroup(KVF_SELECT_THREADS)]] kernel void kvf_select_rows(
    constant kvf_select_kernel_args &args [[buffer(0)]],
    threadgroup float *tile [[threadgroup(0)]], threadgroup float *work [[threadgroup(1)]],
    threadgroup uint *top [[threadgroup(2)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]])
{
    device const float *weights = reinterpret_cast<device const float *>(args.weights);
    device const uint *n_visible = reinterpret_cast<device const uint *>(args.n_visible);
    device uint *orders = reinterpret_cast<device uint *>(args.orders);
    device int *rows = reinterpret_cast<device int *>(args.rows);
    device uint *counts = reinterpret_cast<device uint *>(args.counts);
    device int *list = reinterpret_cast<device int *>(args.list);
    device uint *list_len = reinterpret_cast<device uint *>(args.list_len);
    const kvf_at at = {thread_index, KVF_SELECT_THREADS, lane, simd};
    const kvf_select_memory memory = {weights, n_visible, orders, rows, counts, list, list_len};
    select_part<kvf_value_form>(args, memory, tile, work, top, group, at);
}

/* ---- Merging parts ------------------------------------------------------------------------- */

/* Leaves the k highest of the parts' candidates in those of the first part. */
static inline void merge_parts(thread const kvf_parts_source &source, uint k,
                               thread kvf_candidates &merged, threadgroup uint *top, kvf_at at)
{
    uint total = 0;
    for (uint part = 0; part < source.n_parts; part++)
        total += source.n_orders(part);
    kvf_threshold threshold = {0, 0}; /* all, if there are no more than k */
    if (total > k)
        threshold = kvf_find_kth(source, k, reinterpret_cast<threadgroup atomic_uint *>(top), at);
    kvf_kept kept = kvf_keep_nothing();
    for (uint part = 0; part < source.n_parts; part++) {
        const uint n = source.n_orders(part);
        device const int *part_rows = merged.rows + ulong(part * source.step) * source.capacity;
        for (uint first = 0; first < n; first += at.n_threads) {
            const uint i = first + at.thread_index;
            const uint order = i < n ? source.order(part, i) : 0;
            const int row = i < n ? part_rows[i] : 0;
            uint place = 0;
            if (kvf_keep(order > threshold.order, order == threshold.order, threshold.left,
                         top + KVF_TOP_SUMS, at, kept, place)) {
                merged.orders[place] = order;
                merged.rows[place] = row;
            }
        }
    }
    merged.count = kvf_kept_total(kept, threshold.left);
}

/*
 * Merges KVF_SELECT_MERGE_PARTS parts into the first of them, or into the query's list when
 * these are all. Parts ascend by row, so their candidates, one part after the other, do too.
 * Written in place: a place is never after the element that goes there, and lies in the
 * first part. group.x: groups of parts, group.y: queries from first_query on.
 */
[[max_total_threads_per_threadgroup(KVF_TOP_THREADS)]] kernel void kvf_select_merge(
    constant kvf_merge_kernel_args &args [[buffer(0)]],
    threadgroup uint *top [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]])
{
    device uint *orders = reinterpret_cast<device uint *>(args.orders);
    device int *rows = reinterpret_cast<device int *>(args.rows);
    device uint *counts = reinterpret_cast<device uint *>(args.counts);
    device int *list = reinterpret_cast<device int *>(args.list);
    device uint *list_len = reinterpret_cast<device uint *>(args.list_len);
    const kvf_at at = {thread_index, KVF_TOP_THREADS, lane, simd};
    const uint first = group.x * KVF_SELECT_MERGE_PARTS;
    const uint slot = group.y * args.n_parts + first * args.step;
    const uint i = args.first_query + group.y;
    kvf_candidates merged;
    merged.orders = orders + ulong(slot) * args.capacity;
    merged.rows = rows + ulong(slot) * args.capacity;
    merged.bar = 0;
    const kvf_parts_source source = {merged.orders, counts + slot,
                                     min(uint(KVF_SELECT_MERGE_PARTS), args.n_live - first),
                                     args.step, args.capacity};
    merge_parts(source, args.top_k, merged, top, at);
    threadgroup_barrier(mem_flags::mem_device); /* and all have read the counts */
    if (args.is_last)
        write_list(merged, args.top_k, list + ulong(i) * args.top_k, list_len + i, at);
    else if (thread_index == 0)
        counts[slot] = merged.count;
}

/* ---- score and mask ---------------------------------------------------------------------- */

/* KVF_SCORE_ROWS columns of a query's scores; -infinity where rows are not visible. */
template <typename Form>
static inline void score_rows(constant kvf_select_kernel_args &args,
                              thread const kvf_query<Form> &query, uint n_visible,
                              device float *scores, uint begin, kvf_at at)
{
    const uint end = min(begin + KVF_SCORE_ROWS, args.n_rows);
    const uint end_visible = min(end, n_visible);
    if (begin < end_visible)
        kvf_load_only_batch<Form>(args, query, at);
    const kvf_places places = kvf_find_places(query.work + KVF_SELECT_SCRATCH, at);
    for (uint first = begin; first < end; first += KVF_SELECT_TILE_KEYS) {
        const uint simd_first = first + at.simd * KVF_SELECT_SIMD_KEYS;
        float score = -INFINITY;
        if (first < end_visible)
            score = kvf_score_keys<Form>(args, query, places, simd_first, end_visible, at);
        const uint row = simd_first + at.lane;
        if (at.lane < KVF_SELECT_SIMD_KEYS && row < end)
            scores[row] = row < n_visible ? score : -INFINITY;
    }
}

/* group.x: queries from first_query on, group.y: rows, KVF_SCORE_ROWS at a time. */
[[max_total_threads_per_threadgroup(KVF_SELECT_THREADS)]] kernel void kvf_score_codes(
    constant kvf_select_kernel_args &args [[buffer(0)]],
    threadgroup half *tile [[threadgroup(0)]], threadgroup float *work [[threadgroup(1)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    device const float *weights = reinterpret_cast<device const float *>(args.weights);
    device const uint *n_visible = reinterpret_cast<device const uint *>(args.n_visible);
    device float *scores = reinterpret_cast<device float *>(args.scores);
    const kvf_at at = {thread_index, KVF_SELECT_THREADS, lane, simd};
    const uint i = args.first_query + group.x;
    const kvf_query<kvf_code_form> query = {i, weights, tile, work};
    score_rows<kvf_code_form>(args, query, kvf_visible(n_visible, args.first_token, args.ratio, i),
                              scores + group.x * args.score_stride, group.y * KVF_SCORE_ROWS, at);
}

[[max_total_threads_per_threadgroup(KVF_SELECT_THREADS)]] kernel void kvf_score_plain(
    constant kvf_select_kernel_args &args [[buffer(0)]],
    threadgroup float *tile [[threadgroup(0)]], threadgroup float *work [[threadgroup(1)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    device const float *weights = reinterpret_cast<device const float *>(args.weights);
    device const uint *n_visible = reinterpret_cast<device const uint *>(args.n_visible);
    device float *scores = reinterpret_cast<device float *>(args.scores);
    const kvf_at at = {thread_index, KVF_SELECT_THREADS, lane, simd};
    const uint i = args.first_query + group.x;
    const kvf_query<kvf_value_form> query = {i, weights, tile, work};
    score_rows<kvf_value_form>(args, query, kvf_visible(n_visible, args.first_token, args.ratio, i),
                              scores + group.x * args.score_stride, group.y * KVF_SCORE_ROWS, at);
}

/* A query's mask: 0 for the top_k of its visible rows, else -infinity. group.x: queries. */
[[max_total_threads_per_threadgroup(KVF_TOP_THREADS)]] kernel void
kvf_mask(constant kvf_mask_kernel_args &args [[buffer(0)]],
         threadgroup uint *top [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
         uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
         uint simd [[simdgroup_index_in_threadgroup]])
{
    device const float *scores = reinterpret_cast<device const float *>(args.scores);
    device const uint *n_visible = reinterpret_cast<device const uint *>(args.n_visible);
    device float *mask_f32 = reinterpret_cast<device float *>(args.mask_f32);
    device ushort *mask_f16 = reinterpret_cast<device ushort *>(args.mask_f16);
    const kvf_at at = {thread_index, KVF_TOP_THREADS, lane, simd};
    const kvf_score_source source = {scores + group.x * args.score_stride,
                                     min(kvf_visible(n_visible, args.first_token, args.ratio, group.x),
                                         args.n_rows)};
    kvf_threshold threshold = {0, 0}; /* all, if there are no more than k */
    if (source.count > args.top_k)
        threshold =
            kvf_find_kth(source, args.top_k, reinterpret_cast<threadgroup atomic_uint *>(top), at);
    kvf_kept kept = kvf_keep_nothing();
    for (uint first = 0; first < args.n_rows; first += at.n_threads) {
        const uint row = first + thread_index;
        const uint order = row < source.count ? source.order(0, row) : 0;
        uint place = 0;
        const bool selected = kvf_keep(order > threshold.order, order == threshold.order,
                                       threshold.left, top + KVF_TOP_SUMS, at, kept, place);
        if (row >= args.n_rows)
            continue;
        if (args.half_form)
            mask_f16[group.x * args.mask_stride + row] = selected ? 0 : 0xfc00;
        else
            mask_f32[group.x * args.mask_stride + row] = selected ? 0.0f : -INFINITY;
    }
}

/* ---- Lists of lists and masks ---------------------------------------------------------------- */

/*
 * A list without its -1 entries, or the rows that a mask lets through, ascending.
 * group.x: queries; lengths[query] places of `list` or of a mask are looked at.
 */
[[max_total_threads_per_threadgroup(KVF_TOP_THREADS)]] kernel void
kvf_compact(constant kvf_compact_kernel_args &args [[buffer(0)]],
            threadgroup uint *sums [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
            uint thread_index [[thread_index_in_threadgroup]],
            uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    device const int *list = reinterpret_cast<device const int *>(args.list);
    device const uint *mask_f32 = reinterpret_cast<device const uint *>(args.mask_f32);
    device const ushort *mask_f16 = reinterpret_cast<device const ushort *>(args.mask_f16);
    device const uint *lengths = reinterpret_cast<device const uint *>(args.lengths);
    device int *out = reinterpret_cast<device int *>(args.out);
    device uint *counts = reinterpret_cast<device uint *>(args.counts);
    const kvf_at at = {thread_index, KVF_TOP_THREADS, lane, simd};
    const uint length = kvf_visible(lengths, args.first_token, args.ratio, group.x);
    const ulong begin = group.x * args.in_stride;
    device int *to = out + group.x * args.out_stride;
    kvf_kept kept = kvf_keep_nothing();
    for (uint first = 0; first < length; first += at.n_threads) {
        const uint i = first + thread_index;
        int row = -1;
        if (i < length && args.kind == KVF_COMPACT_LIST)
            row = list[begin + i];
        else if (i < length && args.kind == KVF_COMPACT_MASK_F32)
            row = mask_f32[begin + i] == 0xff800000u ? -1 : int(i); /* bits of -infinity */
        else if (i < length)
            row = mask_f16[begin + i] == 0xfc00 ? -1 : int(i);
        uint place = 0;
        if (kvf_keep(row >= 0, false, 0, sums, at, kept, place) && place < args.out_stride)
            to[place] = row;
    }
    if (thread_index == 0)
        counts[group.x] = min(kept.above, uint(args.out_stride));
}
