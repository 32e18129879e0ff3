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
#include "backend/gpu/spans.h"
#include "backend/gpu/top.h"

using namespace metal;

template <typename Pointer> static inline kvf_select_span kvf_copy_select_span(Pointer from)
{
    kvf_select_span span;
    span.weights = from->weights;
    span.n_visible = from->n_visible;
    span.first_token = from->first_token;
    span.list = from->list;
    span.list_len = from->list_len;
    span.queries = kvf_copy_rows(&from->queries);
    span.keys = kvf_copy_rows(&from->keys);
    span.first = from->first;
    return span;
}

/* The span of a query, by its number. */
static inline kvf_select_span kvf_select_span_of(constant kvf_select_kernel_args &args, uint number,
                                                 uint lane)
{
    const uint s = kvf_find_span(args.spans, 0, number, lane);
    return KVF_COPY_SPAN(args, kvf_select_span, kvf_copy_select_span, s);
}

/* Rows that query i of the span sees. */
static inline uint kvf_select_sees(constant kvf_select_kernel_args &args,
                                   thread const kvf_select_span &span, uint i)
{
    return kvf_visible(reinterpret_cast<device const uint *>(span.n_visible), span.first_token,
                       args.ratio, i);
}

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
    const kvf_places places = kvf_find_places(
        query.work + KVF_SELECT_SCRATCH + at.simd * KVF_SELECT_SIMD_SCRATCH, at.lane);
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

/* A query's list, and where its length goes. */
struct kvf_list_place {
    device int *list;
    device uint *list_len;
};

static inline kvf_list_place kvf_list_of(thread const kvf_select_span &span, uint i, uint top_k)
{
    kvf_list_place place;
    place.list = reinterpret_cast<device int *>(span.list) + ulong(i) * top_k;
    place.list_len = reinterpret_cast<device uint *>(span.list_len) + i;
    return place;
}

/* group.x: queries from first_query on, group.y: parts; a slot for each pair. */
template <typename Form>
static inline void select_part(constant kvf_select_kernel_args &args,
                               threadgroup typename Form::value *tile, threadgroup float *work,
                               threadgroup uint *top, uint3 group, kvf_at at)
{
    const uint number = args.first_query + group.x;
    const kvf_select_span span = kvf_select_span_of(args, number, at.lane);
    const uint i = number - span.first;
    const uint slot = group.x * args.n_parts + group.y;
    const uint n_visible = kvf_select_sees(args, span, i);
    const uint tiles = (n_visible + KVF_SELECT_TILE_KEYS - 1) / KVF_SELECT_TILE_KEYS;
    const uint part_rows = (tiles + args.n_parts - 1) / args.n_parts * KVF_SELECT_TILE_KEYS;
    const uint begin = min(group.y * part_rows, n_visible);
    const uint end = min(begin + part_rows, n_visible);
    kvf_candidates candidates;
    candidates.orders = reinterpret_cast<device uint *>(args.orders) + ulong(slot) * args.capacity;
    candidates.rows = reinterpret_cast<device int *>(args.rows) + ulong(slot) * args.capacity;
    candidates.count = 0;
    candidates.bar = 0;
    if (begin < end) {
        const kvf_query<Form> query = {i, span.queries, span.keys,
                                       reinterpret_cast<device const float *>(span.weights), tile,
                                       work};
        stream_rows<Form>(args, query, candidates, begin, end, top, at);
    }
    threadgroup_barrier(mem_flags::mem_device);
    if (args.n_parts == 1) {
        const kvf_list_place to = kvf_list_of(span, i, args.top_k);
        write_list(candidates, args.top_k, to.list, to.list_len, at);
    } else if (at.thread_index == 0) {
        reinterpret_cast<device uint *>(args.counts)[slot] = candidates.count;
    }
}

[[max_total_threads_per_threadgroup(KVF_SELECT_THREADS)]] kernel void kvf_select_codes(
    constant kvf_select_kernel_args &args [[buffer(0)]],
    threadgroup half *tile [[threadgroup(0)]], threadgroup float *work [[threadgroup(1)]],
    threadgroup uint *top [[threadgroup(2)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]])
{
    const kvf_at at = {thread_index, KVF_SELECT_THREADS, lane, simd};
    select_part<kvf_code_form>(args, tile, work, top, group, at);
}

[[max_total_threads_per_threadgroup(KVF_SELECT_THREADS)]] kernel void kvf_select_rows(
    constant kvf_select_kernel_args &args [[buffer(0)]],
    threadgroup float *tile [[threadgroup(0)]], threadgroup float *work [[threadgroup(1)]],
    threadgroup uint *top [[threadgroup(2)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]])
{
    const kvf_at at = {thread_index, KVF_SELECT_THREADS, lane, simd};
    select_part<kvf_value_form>(args, tile, work, top, group, at);
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
 * first part. group.x: queries from first_query on, group.y: groups of parts.
 */
[[max_total_threads_per_threadgroup(KVF_TOP_THREADS)]] kernel void kvf_select_merge(
    constant kvf_select_kernel_args &args [[buffer(0)]],
    threadgroup uint *top [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]])
{
    device uint *counts = reinterpret_cast<device uint *>(args.counts);
    const kvf_at at = {thread_index, KVF_TOP_THREADS, lane, simd};
    const uint first = group.y * KVF_SELECT_MERGE_PARTS;
    const uint slot = group.x * args.n_parts + first * args.step;
    kvf_candidates merged;
    merged.orders = reinterpret_cast<device uint *>(args.orders) + ulong(slot) * args.capacity;
    merged.rows = reinterpret_cast<device int *>(args.rows) + ulong(slot) * args.capacity;
    merged.bar = 0;
    const kvf_parts_source source = {merged.orders, counts + slot,
                                     min(uint(KVF_SELECT_MERGE_PARTS), args.n_live - first),
                                     args.step, args.capacity};
    merge_parts(source, args.top_k, merged, top, at);
    threadgroup_barrier(mem_flags::mem_device); /* and all have read the counts */
    if (args.is_last) {
        const uint number = args.first_query + group.x;
        const kvf_select_span span = kvf_select_span_of(args, number, lane);
        const kvf_list_place to = kvf_list_of(span, number - span.first, args.top_k);
        write_list(merged, args.top_k, to.list, to.list_len, at);
    } else if (thread_index == 0) {
        counts[slot] = merged.count;
    }
}

/* ---- score and mask ---------------------------------------------------------------------- */

/*
 * KVF_SCORE_ROWS columns of a query's scores; -infinity where rows are not visible.
 * group.x: queries from first_query on, group.y: rows, KVF_SCORE_ROWS at a time.
 */
template <typename Form>
static inline void score_rows(constant kvf_select_kernel_args &args,
                              threadgroup typename Form::value *tile, threadgroup float *work,
                              uint3 group, kvf_at at)
{
    const kvf_select_span span = kvf_select_span_of(args, args.first_query + group.x, at.lane);
    const uint i = args.first_query + group.x - span.first;
    const kvf_query<Form> query = {i, span.queries, span.keys,
                                   reinterpret_cast<device const float *>(span.weights), tile,
                                   work};
    device float *scores =
        reinterpret_cast<device float *>(args.scores) + group.x * args.score_stride;
    const uint begin = group.y * KVF_SCORE_ROWS;
    const uint end = min(begin + KVF_SCORE_ROWS, args.n_rows);
    const uint n_visible = kvf_select_sees(args, span, i);
    const uint end_visible = min(end, n_visible);
    if (begin < end_visible)
        kvf_load_only_batch<Form>(args, query, at);
    const kvf_places places = kvf_find_places(
        work + KVF_SELECT_SCRATCH + at.simd * KVF_SELECT_SIMD_SCRATCH, at.lane);
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

[[max_total_threads_per_threadgroup(KVF_SELECT_THREADS)]] kernel void kvf_score_codes(
    constant kvf_select_kernel_args &args [[buffer(0)]],
    threadgroup half *tile [[threadgroup(0)]], threadgroup float *work [[threadgroup(1)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    const kvf_at at = {thread_index, KVF_SELECT_THREADS, lane, simd};
    score_rows<kvf_code_form>(args, tile, work, group, at);
}

[[max_total_threads_per_threadgroup(KVF_SELECT_THREADS)]] kernel void kvf_score_plain(
    constant kvf_select_kernel_args &args [[buffer(0)]],
    threadgroup float *tile [[threadgroup(0)]], threadgroup float *work [[threadgroup(1)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    const kvf_at at = {thread_index, KVF_SELECT_THREADS, lane, simd};
    score_rows<kvf_value_form>(args, tile, work, group, at);
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
