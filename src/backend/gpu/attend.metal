/*
 * attend: one softmax over a query's window, the rows of its list and the sink
 * (docs/FORMAT.md 6), online: a threadgroup walks a split of the query's places for 16
 * heads, tile by tile. Splits depend on the number of places alone, and their results are added
 * one after the other: by merge or, where there are queries enough to keep the GPU busy, by the
 * threadgroup that walks all of them. Both do the same steps, so the bits of a query do not
 * depend on what else is in the dispatch.
 *
 * What is attended is numbered by place, whether rows come from a list
 * or not, and values are f32 in threadgroup memory, whatever the format: so every profile
 * takes the same steps on the same numbers.
 *
 * Each simdgroup has 64 of the 512 values: of the queries, of the outputs, and of a tile,
 * which it keeps between the dots and the sums, so that the next tile can be unpacked over
 * it while the softmax is made.
 */
#include <metal_stdlib>
#include <metal_simdgroup_matrix>

#include "backend/gpu/kernels.h"
#include "backend/gpu/places.h"
#include "backend/gpu/rows.h"
#include "backend/gpu/spans.h"
#include "backend/gpu/top.h"
#include "shared/exp.h"

using namespace metal;

typedef simdgroup_matrix<float, 8, 8> kvf_matrix8;

/* Matrices stay in registers only where every index is known. */
#define KVF_UNROLLED _Pragma("unroll")

/* ---- Queries and their places ---------------------------------------------------------- */

template <typename Pointer> static inline kvf_attend_span kvf_copy_attend_span(Pointer from)
{
    kvf_attend_span span;
    span.q = from->q;
    span.out = from->out;
    span.lse = from->lse;
    span.chosen = from->chosen;
    span.lengths = from->lengths;
    span.first_token = from->first_token;
    span.first_row = from->first_row;
    span.window = kvf_copy_rows(&from->window);
    span.rows = kvf_copy_rows(&from->rows);
    span.first = from->first;
    return span;
}

/* The span of query first_query + `query` of the dispatch. */
static inline kvf_attend_span kvf_attend_span_of(constant kvf_attend_kernel_args &args, uint query,
                                                 uint lane)
{
    const uint s = kvf_find_span(args.spans, 0, args.first_query + query, lane);
    return KVF_COPY_SPAN(args, kvf_attend_span, kvf_copy_attend_span, s);
}

/* What a query attends. */
struct kvf_attended {
    uint n_window;
    uint n_places;   /* with the rows of its list */
    ulong first_row; /* of the window, the oldest */
};

/* Query i of the span is the dispatch's `query`, whose list has counts[query] entries. */
static inline kvf_attended kvf_find_attended(constant kvf_attend_kernel_args &args,
                                             thread const kvf_attend_span &span, uint i, uint query)
{
    const uint n_tokens_before = i + 1; /* since first_token */
    kvf_attended attended;
    attended.n_window = uint(min(span.first_token + n_tokens_before, ulong(args.window_tokens)));
    attended.n_places = attended.n_window;
    if (args.kind != KVF_ATTEND_FIRST_ROWS)
        attended.n_places += reinterpret_cast<device const uint *>(args.counts)[query];
    else if (span.rows.n_rows > 0)
        attended.n_places += kvf_visible(reinterpret_cast<device const uint *>(span.lengths),
                                         span.first_token, args.ratio, i);
    attended.first_row = span.first_row + n_tokens_before - attended.n_window;
    return attended;
}

/* Places of a split: of nothing but the number of all. */
static inline uint kvf_split_places(uint n_places)
{
    const uint share = (n_places + KVF_ATTEND_MAX_SPLITS - 1) / KVF_ATTEND_MAX_SPLITS;
    const uint tiles = (share + KVF_ATTEND_ROWS - 1) / KVF_ATTEND_ROWS;
    return max(tiles * KVF_ATTEND_ROWS, uint(KVF_ATTEND_LEAST_PLACES));
}

/* A query of the dispatch, for one threadgroup. */
struct kvf_attend_query {
    kvf_attended attended;
    kvf_kernel_rows window;
    kvf_kernel_rows rows;
    device const int *list;
    bool has_list;
};

/* A simdgroup unpacks the row at a place, or zeros from `end` on: those get p = 0. */
static inline void kvf_unpack_place(thread const kvf_attend_query &query, uint place, uint end,
                                    uint lane, threadgroup float *to)
{
    if (place >= end) {
        for (uint i = lane; i < 512; i += KVF_KERNEL_SIMD_WIDTH)
            to[i] = 0.0f;
        return;
    }
    const bool in_window = place < query.attended.n_window;
    ulong row = query.attended.first_row + place;
    kvf_kernel_rows rows = query.window; /* a copy: a choice of references would not be in registers */
    if (!in_window) {
        const uint entry = place - query.attended.n_window;
        row = query.has_list ? ulong(query.list[entry]) : ulong(entry);
        rows = query.rows;
    }
    kvf_read_row(rows, row, 512, lane, to);
}

/* ---- Matrices -------------------------------------------------------------------- */

/* What a simdgroup keeps: [KVF_ATTEND_HEAD_PARTS][KVF_ATTEND_VALUE_PARTS] and its values. */
struct kvf_attend_matrices {
    kvf_matrix8 queries[KVF_ATTEND_HEAD_PARTS * KVF_ATTEND_VALUE_PARTS]; /* [value][head] */
    kvf_matrix8 sums[KVF_ATTEND_HEAD_PARTS * KVF_ATTEND_VALUE_PARTS];    /* [head][value] */
    kvf_matrix8 rows[KVF_ATTEND_VALUE_PARTS];                            /* [row][value] */
};

/* Through `tile`, 8 heads at a time: q has n_heads heads left, and need not be aligned. */
static inline void kvf_load_queries(device const float *q, uint n_heads, threadgroup float *tile,
                                    uint thread_index, uint simd,
                                    thread kvf_attend_matrices &matrices)
{
    KVF_UNROLLED
    for (uint h = 0; h < KVF_ATTEND_HEAD_PARTS; h++) {
        for (uint i = thread_index; i < 8 * 512; i += KVF_ATTEND_THREADS) {
            const uint head = 8 * h + i / 512;
            tile[i / 512 * KVF_ATTEND_STRIDE + i % 512] =
                head < n_heads ? q[head * 512 + i % 512] : 0.0f;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        KVF_UNROLLED
        for (uint v = 0; v < KVF_ATTEND_VALUE_PARTS; v++) {
            const uint at = h * KVF_ATTEND_VALUE_PARTS + v;
            simdgroup_load(matrices.queries[at], tile + simd * KVF_ATTEND_VALUES_A_SIMD + 8 * v,
                           KVF_ATTEND_STRIDE, ulong2(0, 0), true);
            matrices.sums[at] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

/* The simdgroup's share of all dots, to dots[head][row]. */
static inline void kvf_make_dots(threadgroup const float *tile, uint simd, threadgroup float *dots,
                                 thread kvf_attend_matrices &matrices)
{
    KVF_UNROLLED
    for (uint v = 0; v < KVF_ATTEND_VALUE_PARTS; v++)
        simdgroup_load(matrices.rows[v], tile + simd * KVF_ATTEND_VALUES_A_SIMD + 8 * v,
                       KVF_ATTEND_STRIDE);
    KVF_UNROLLED
    for (uint h = 0; h < KVF_ATTEND_HEAD_PARTS; h++) {
        kvf_matrix8 share = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        KVF_UNROLLED
        for (uint v = 0; v < KVF_ATTEND_VALUE_PARTS; v++)
            simdgroup_multiply_accumulate(share, matrices.rows[v],
                                          matrices.queries[h * KVF_ATTEND_VALUE_PARTS + v], share);
        simdgroup_store(share, dots + (simd * KVF_ATTEND_HEADS + 8 * h) * KVF_ATTEND_ROWS,
                        KVF_ATTEND_ROWS, ulong2(0, 0), true);
    }
}

/* sums = diagonal * sums, where a maximum has grown, + p * rows. */
static inline void kvf_add_rows(threadgroup const float *work, thread kvf_attend_matrices &matrices)
{
    bool grown = false;
    for (uint s = 0; s < KVF_ATTEND_PAIRS / KVF_KERNEL_SIMD_WIDTH; s++)
        grown = grown || work[KVF_ATTEND_FLAGS + s] != 0.0f;
    KVF_UNROLLED
    for (uint h = 0; h < KVF_ATTEND_HEAD_PARTS; h++) {
        const uint first = h * KVF_ATTEND_VALUE_PARTS;
        const uint part = 8 * h * KVF_ATTEND_ROWS;
        kvf_matrix8 left;
        if (grown) {
            simdgroup_load(left, work + KVF_ATTEND_DIAGONALS + part, 8);
            KVF_UNROLLED
            for (uint v = 0; v < KVF_ATTEND_VALUE_PARTS; v++)
                simdgroup_multiply(matrices.sums[first + v], left, matrices.sums[first + v]);
        }
        simdgroup_load(left, work + KVF_ATTEND_P + part, KVF_ATTEND_ROWS);
        KVF_UNROLLED
        for (uint v = 0; v < KVF_ATTEND_VALUE_PARTS; v++)
            simdgroup_multiply_accumulate(matrices.sums[first + v], left, matrices.rows[v],
                                          matrices.sums[first + v]);
    }
}

/* ---- Softmax --------------------------------------------------------------------- */

/* A head's so far; its 8 threads have the same. */
struct kvf_softmax {
    float highest;
    float sum; /* of exp(score - highest) */
};

/*
 * The first KVF_ATTEND_PAIRS threads: one for each head and row of a tile, rows side by
 * side. p, a diagonal of what old sums are multiplied by, and a flag whether one is not 1.
 */
static inline void kvf_soften(threadgroup float *work, float scale, uint n_rows, uint thread_index,
                              uint lane, thread kvf_softmax &softmax)
{
    const uint row = thread_index % KVF_ATTEND_ROWS;
    const uint head = thread_index / KVF_ATTEND_ROWS;
    float dot = 0.0f;
    for (uint s = 0; s < KVF_ATTEND_SIMDS; s++)
        dot += work[s * KVF_ATTEND_PAIRS + thread_index];
    const float score = row < n_rows ? dot * scale : -INFINITY;
    float highest = score;
    for (uint apart = KVF_ATTEND_ROWS / 2; apart > 0; apart /= 2)
        highest = max(highest, simd_shuffle_xor(highest, ushort(apart)));
    const float before = softmax.highest;
    softmax.highest = max(before, highest);
    /* kvf_exp of a NaN, which -infinity less itself is, is 0. */
    const float p = kvf_exp(score - softmax.highest);
    const float factor = kvf_exp(before - softmax.highest);
    float sum = p;
    for (uint apart = KVF_ATTEND_ROWS / 2; apart > 0; apart /= 2)
        sum += simd_shuffle_xor(sum, ushort(apart));
    softmax.sum = softmax.sum * factor + sum;
    work[KVF_ATTEND_P + thread_index] = p;
    work[KVF_ATTEND_DIAGONALS + thread_index] = head % 8 == row ? factor : 0.0f;
    /* Sums of a head without a maximum are zero. */
    const bool grown = simd_any(softmax.highest > before && before != -INFINITY);
    if (lane == 0)
        work[KVF_ATTEND_FLAGS + thread_index / KVF_KERNEL_SIMD_WIDTH] = grown ? 1.0f : 0.0f;
}

/* What a head's denominator is, of a sum under the highest score, sink and all. */
static inline float kvf_denominator(float sum, float sink, float highest)
{
    /* Nothing was attended: 0 / 1. */
    return highest == -INFINITY ? 1.0f : sum + kvf_exp(sink - highest);
}

/* Without a sink: -infinity, whose exp is 0. */
static inline float kvf_sink(constant kvf_attend_kernel_args &args, device const float *sinks,
                             uint head)
{
    return args.sinks ? sinks[head] : -INFINITY;
}

/* ---- Results --------------------------------------------------------------------- */

/* What the sums of a head are multiplied with, then divided by, at the end; and its lse. */
struct kvf_finish {
    float factor;
    float denominator;
    float lse;
};

static inline kvf_finish kvf_finish_head(kvf_softmax softmax, float sink)
{
    const float highest = max(softmax.highest, sink);
    kvf_finish finish;
    finish.factor = kvf_exp(softmax.highest - highest);
    finish.denominator = kvf_denominator(softmax.sum * finish.factor, sink, highest);
    finish.lse = highest + log(finish.denominator);
    return finish;
}

/* + 0 turns -0 into +0. */
static inline float kvf_finish_value(float value, float factor, float denominator)
{
    return value * factor / denominator + 0.0f;
}

/* What sums are multiplied with when a split's are added to those of the splits before it. */
struct kvf_factors {
    float before;
    float split;
};

static inline kvf_factors kvf_add_split(thread kvf_softmax &all, kvf_softmax split)
{
    const float highest = max(all.highest, split.highest);
    kvf_factors factors;
    /* kvf_exp of a NaN, which -infinity less itself is, is 0. */
    factors.before = kvf_exp(all.highest - highest);
    factors.split = kvf_exp(split.highest - highest);
    all.sum = fma(split.sum, factors.split, all.sum * factors.before);
    all.highest = highest;
    return factors;
}

static inline float kvf_add_value(float before, float split, float before_factor,
                                  float split_factor)
{
    return fma(split, split_factor, before * before_factor);
}

/*
 * The sums of the n_heads heads that exist to `to`, as they are or, with `work`, finished.
 * Through `tile`, 8 heads at a time.
 */
static inline void kvf_store_sums(thread const kvf_attend_matrices &matrices, uint n_heads,
                                  bool finished, threadgroup const float *work,
                                  threadgroup float *tile, uint thread_index, uint simd,
                                  device float *to)
{
    KVF_UNROLLED
    for (uint h = 0; h < KVF_ATTEND_HEAD_PARTS; h++) {
        /* The tile was read, work was written. */
        threadgroup_barrier(mem_flags::mem_threadgroup);
        KVF_UNROLLED
        for (uint v = 0; v < KVF_ATTEND_VALUE_PARTS; v++)
            simdgroup_store(matrices.sums[h * KVF_ATTEND_VALUE_PARTS + v],
                            tile + simd * KVF_ATTEND_VALUES_A_SIMD + 8 * v, KVF_ATTEND_STRIDE);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint n_stored = n_heads > 8 * h ? min(n_heads - 8 * h, 8u) : 0;
        for (uint i = thread_index; i < n_stored * 512; i += KVF_ATTEND_THREADS) {
            const uint head = 8 * h + i / 512;
            float value = tile[i / 512 * KVF_ATTEND_STRIDE + i % 512];
            if (finished)
                value = kvf_finish_value(value, work[KVF_ATTEND_FACTORS + head],
                                         work[KVF_ATTEND_DENOMINATORS + head]);
            to[head * 512 + i % 512] = value;
        }
    }
}

/* ---- Kernels --------------------------------------------------------------------- */

/* Where a thread is, and the threadgroup's memory. */
struct kvf_attend_place {
    uint thread_index;
    uint lane;
    uint simd;
    threadgroup float *tile;
    threadgroup float *work;
};

/* Threads that have a head's softmax when a split is done: of each eight that share it, one. */
static inline bool kvf_tells_head(kvf_attend_place at, uint n_heads)
{
    return at.thread_index % KVF_ATTEND_ROWS == 0 && at.thread_index / KVF_ATTEND_ROWS < n_heads;
}

static inline kvf_attend_query kvf_make_query(constant kvf_attend_kernel_args &args,
                                              thread const kvf_attend_span &span, uint i,
                                              uint query)
{
    kvf_attend_query made;
    made.attended = kvf_find_attended(args, span, i, query);
    made.window = span.window;
    made.rows = span.rows;
    made.list = reinterpret_cast<device const int *>(args.lists) + query * args.list_stride;
    made.has_list = args.kind != KVF_ATTEND_FIRST_ROWS;
    return made;
}

/*
 * Places first .. end: sums, which are zeros at first, and the softmax of the head that the
 * thread shares. Nobody may still read the tile or p.
 */
static inline void kvf_walk_split(constant kvf_attend_kernel_args &args,
                                  thread const kvf_attend_query &query, uint first, uint end,
                                  kvf_attend_place at, thread kvf_attend_matrices &matrices,
                                  thread kvf_softmax &softmax)
{
    threadgroup float *row = at.tile + at.simd * KVF_ATTEND_STRIDE;
    kvf_unpack_place(query, first + at.simd, end, at.lane, row);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint place = first; place < end; place += KVF_ATTEND_ROWS) {
        kvf_make_dots(at.tile, at.simd, at.work, matrices);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (at.thread_index < KVF_ATTEND_PAIRS)
            kvf_soften(at.work, args.scale, end - place, at.thread_index, at.lane, softmax);
        if (place + KVF_ATTEND_ROWS < end)
            kvf_unpack_place(query, place + KVF_ATTEND_ROWS + at.simd, end, at.lane, row);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        kvf_add_rows(at.work, matrices);
    }
}

/*
 * A split of KVF_ATTEND_HEADS heads of a query: its sums and, two floats a head, its maximum
 * and sum of p: [query][part][head]. group.x: heads, those of the same query side by side as
 * they read the same rows; group.y: splits. The attribute keeps the compiler from using more
 * registers than so many threads can have.
 */
[[max_total_threads_per_threadgroup(KVF_ATTEND_THREADS)]] kernel void
kvf_attend(constant kvf_attend_kernel_args &args [[buffer(0)]], threadgroup float *tile [[threadgroup(0)]],
           threadgroup float *work [[threadgroup(1)]], uint3 group [[threadgroup_position_in_grid]],
           uint thread_index [[thread_index_in_threadgroup]],
           uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    device float *partial_sums = reinterpret_cast<device float *>(args.partial_sums);
    device float *partial_softmax = reinterpret_cast<device float *>(args.partial_softmax);
    const uint n_blocks = (args.n_heads + KVF_ATTEND_HEADS - 1) / KVF_ATTEND_HEADS;
    const uint number = group.x / n_blocks;
    const uint first_head = group.x % n_blocks * KVF_ATTEND_HEADS;
    const uint n_heads = min(args.n_heads - first_head, uint(KVF_ATTEND_HEADS));
    const kvf_attend_span span = kvf_attend_span_of(args, number, lane);
    const uint i = args.first_query + number - span.first;
    const kvf_attend_query query = kvf_make_query(args, span, i, number);
    const uint split_places = kvf_split_places(query.attended.n_places);
    const uint first = group.y * split_places;
    if (first >= query.attended.n_places)
        return;

    const kvf_attend_place at = {thread_index, lane, simd, tile, work};
    device const float *q = reinterpret_cast<device const float *>(span.q);
    kvf_attend_matrices matrices;
    kvf_load_queries(q + (ulong(i) * args.n_heads + first_head) * 512, n_heads, tile, thread_index,
                     simd, matrices);
    kvf_softmax softmax = {-INFINITY, 0.0f};
    kvf_walk_split(args, query, first, min(query.attended.n_places, first + split_places), at,
                   matrices, softmax);
    const ulong part = (ulong(number) * args.n_parts + group.y) * args.n_heads + first_head;
    if (kvf_tells_head(at, n_heads)) {
        const ulong head = part + thread_index / KVF_ATTEND_ROWS;
        partial_softmax[2 * head] = softmax.highest;
        partial_softmax[2 * head + 1] = softmax.sum;
    }
    kvf_store_sums(matrices, n_heads, false, work, tile, thread_index, simd,
                   partial_sums + part * 512);
}

/* group.x: a query; group.y: a head. Splits are added one after the other. */
kernel void kvf_attend_merge(
    constant kvf_attend_kernel_args &args [[buffer(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]])
{
    device const float *sinks = reinterpret_cast<device const float *>(args.sinks);
    device const float *partial_sums = reinterpret_cast<device const float *>(args.partial_sums);
    device const float *partial_softmax = reinterpret_cast<device const float *>(args.partial_softmax);
    const kvf_attend_span span = kvf_attend_span_of(args, group.x, lane);
    const uint i = args.first_query + group.x - span.first;
    const uint n_places = kvf_find_attended(args, span, i, group.x).n_places;
    const uint split_places = kvf_split_places(n_places);
    const uint n_parts = (n_places + split_places - 1) / split_places;
    kvf_softmax all = {-INFINITY, 0.0f};
    float sums[512 / KVF_ATTEND_MERGE_THREADS];
    for (uint v = 0; v < 512 / KVF_ATTEND_MERGE_THREADS; v++)
        sums[v] = 0.0f;
    for (uint part = 0; part < n_parts; part++) {
        const ulong from = (ulong(group.x) * args.n_parts + part) * args.n_heads + group.y;
        const kvf_softmax split = {partial_softmax[2 * from], partial_softmax[2 * from + 1]};
        const kvf_factors factors = kvf_add_split(all, split);
        device const float *values = partial_sums + from * 512 + thread_index;
        for (uint v = 0; v < 512 / KVF_ATTEND_MERGE_THREADS; v++)
            sums[v] = kvf_add_value(sums[v], values[v * KVF_ATTEND_MERGE_THREADS], factors.before,
                                    factors.split);
    }
    const kvf_finish finish = kvf_finish_head(all, kvf_sink(args, sinks, group.y));
    const ulong head = ulong(i) * args.n_heads + group.y;
    device float *out = reinterpret_cast<device float *>(span.out) + head * 512 + thread_index;
    for (uint v = 0; v < 512 / KVF_ATTEND_MERGE_THREADS; v++)
        out[v * KVF_ATTEND_MERGE_THREADS] =
            kvf_finish_value(sums[v], finish.factor, finish.denominator);
    if (span.lse && thread_index == 0)
        reinterpret_cast<device float *>(span.lse)[head] = finish.lse;
}

/* A lane's elements of all sums, and the softmax that belongs to them. */
struct kvf_attend_totals {
    float at[2 * KVF_ATTEND_HEAD_PARTS * KVF_ATTEND_VALUE_PARTS];
    kvf_softmax softmax; /* of the head that the thread shares */
};

/* The split's results to those of the splits before it, as merge does; sums are zeros again. */
static inline void kvf_add_to_totals(kvf_attend_place at, kvf_places places, kvf_softmax split,
                                     thread kvf_attend_matrices &matrices,
                                     thread kvf_attend_totals &totals)
{
    const kvf_factors factors = kvf_add_split(totals.softmax, split);
    if (kvf_tells_head(at, KVF_ATTEND_HEADS)) {
        at.work[KVF_ATTEND_FACTORS + at.thread_index / KVF_ATTEND_ROWS] = factors.before;
        at.work[KVF_ATTEND_DENOMINATORS + at.thread_index / KVF_ATTEND_ROWS] = factors.split;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    KVF_UNROLLED
    for (uint m = 0; m < KVF_ATTEND_HEAD_PARTS * KVF_ATTEND_VALUE_PARTS; m++) {
        const uint first_head = 8 * (m / KVF_ATTEND_VALUE_PARTS);
        KVF_UNROLLED
        for (uint e = 0; e < 2; e++) {
            const uint head = first_head + places.row[e];
            totals.at[2 * m + e] = kvf_add_value(
                totals.at[2 * m + e], matrices.sums[m].thread_elements()[e],
                at.work[KVF_ATTEND_FACTORS + head], at.work[KVF_ATTEND_DENOMINATORS + head]);
        }
        matrices.sums[m] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
}

/* As kvf_attend and its merge: all splits of the heads. group.x: heads, as there. */
[[max_total_threads_per_threadgroup(KVF_ATTEND_THREADS)]] kernel void
kvf_attend_whole(constant kvf_attend_kernel_args &args [[buffer(0)]],
                 threadgroup float *tile [[threadgroup(0)]], threadgroup float *work [[threadgroup(1)]],
                 uint3 group [[threadgroup_position_in_grid]],
                 uint thread_index [[thread_index_in_threadgroup]],
                 uint lane [[thread_index_in_simdgroup]],
                 uint simd [[simdgroup_index_in_threadgroup]])
{
    device const float *sinks = reinterpret_cast<device const float *>(args.sinks);
    const uint n_blocks = (args.n_heads + KVF_ATTEND_HEADS - 1) / KVF_ATTEND_HEADS;
    const uint number = group.x / n_blocks;
    const uint first_head = group.x % n_blocks * KVF_ATTEND_HEADS;
    const uint n_heads = min(args.n_heads - first_head, uint(KVF_ATTEND_HEADS));
    const kvf_attend_span span = kvf_attend_span_of(args, number, lane);
    const uint i = args.first_query + number - span.first;
    const kvf_attend_query query = kvf_make_query(args, span, i, number);
    const uint n_places = query.attended.n_places;
    const uint split_places = kvf_split_places(n_places);
    const ulong span_head = ulong(i) * args.n_heads + first_head;

    const kvf_attend_place at = {thread_index, lane, simd, tile, work};
    const kvf_places places = kvf_find_places(work + simd * KVF_ATTEND_PAIRS, lane);
    kvf_attend_matrices matrices;
    kvf_attend_totals totals;
    KVF_UNROLLED
    for (uint e = 0; e < 2 * KVF_ATTEND_HEAD_PARTS * KVF_ATTEND_VALUE_PARTS; e++)
        totals.at[e] = 0.0f;
    totals.softmax.highest = -INFINITY;
    totals.softmax.sum = 0.0f;
    kvf_load_queries(reinterpret_cast<device const float *>(span.q) + span_head * 512, n_heads, tile,
                     thread_index, simd, matrices);
    for (uint first = 0; first < n_places; first += split_places) {
        kvf_softmax softmax = {-INFINITY, 0.0f};
        kvf_walk_split(args, query, first, min(n_places, first + split_places), at, matrices,
                       softmax);
        kvf_add_to_totals(at, places, softmax, matrices, totals);
    }
    KVF_UNROLLED
    for (uint m = 0; m < KVF_ATTEND_HEAD_PARTS * KVF_ATTEND_VALUE_PARTS; m++) {
        matrices.sums[m].thread_elements()[0] = totals.at[2 * m];
        matrices.sums[m].thread_elements()[1] = totals.at[2 * m + 1];
    }
    if (kvf_tells_head(at, n_heads)) {
        const uint head = thread_index / KVF_ATTEND_ROWS;
        const kvf_finish finish =
            kvf_finish_head(totals.softmax, kvf_sink(args, sinks, first_head + head));
        work[KVF_ATTEND_FACTORS + head] = finish.factor;
        work[KVF_ATTEND_DENOMINATORS + head] = finish.denominator;
        if (span.lse)
            reinterpret_cast<device float *>(span.lse)[span_head + head] = finish.lse;
    }
    kvf_store_sums(matrices, n_heads, true, work, tile, thread_index, simd,
                   reinterpret_cast<device float *>(span.out) + span_head * 512);
}

/* ---- Lists of lists and masks ---------------------------------------------------------------- */

/*
 * A list without its -1 entries, or the rows that a mask lets through, ascending; no longer
 * than list_stride. group.x: queries from first_query on.
 */
[[max_total_threads_per_threadgroup(KVF_TOP_THREADS)]] kernel void
kvf_compact(constant kvf_attend_kernel_args &args [[buffer(0)]],
            threadgroup uint *sums [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
            uint thread_index [[thread_index_in_threadgroup]],
            uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    const kvf_attend_span span = kvf_attend_span_of(args, group.x, lane);
    const uint query = args.first_query + group.x - span.first;
    device const int *list = reinterpret_cast<device const int *>(span.chosen);
    device const uint *mask_f32 = reinterpret_cast<device const uint *>(span.chosen);
    device const ushort *mask_f16 = reinterpret_cast<device const ushort *>(span.chosen);
    device const uint *lengths = reinterpret_cast<device const uint *>(span.lengths);
    const kvf_at at = {thread_index, KVF_TOP_THREADS, lane, simd};
    const uint ratio = args.kind == KVF_ATTEND_LIST ? 0 : args.ratio;
    const uint length =
        span.rows.n_rows ? kvf_visible(lengths, span.first_token, ratio, query) : 0;
    const ulong begin = query * args.in_stride;
    device int *to = reinterpret_cast<device int *>(args.lists) + group.x * args.list_stride;
    kvf_kept kept = kvf_keep_nothing();
    for (uint first = 0; first < length; first += at.n_threads) {
        const uint i = first + thread_index;
        int row = -1;
        if (i < length && args.kind == KVF_ATTEND_LIST)
            row = list[begin + i];
        else if (i < length && args.kind == KVF_ATTEND_MASK_F32)
            row = mask_f32[begin + i] == 0xff800000u ? -1 : int(i); /* bits of -infinity */
        else if (i < length)
            row = mask_f16[begin + i] == 0xfc00 ? -1 : int(i);
        uint place = 0;
        if (kvf_keep(row >= 0, false, 0, sums, at, kept, place) && place < args.list_stride)
            to[place] = row;
    }
    if (thread_index == 0)
        reinterpret_cast<device uint *>(args.counts)[group.x] =
            min(kept.above, uint(args.list_stride));
}
