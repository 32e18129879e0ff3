/*
 * attend: one softmax over a query's window, the rows of its list and the sink
 * (docs/FORMAT.md 6), online: a threadgroup walks one split of the query's places for 16
 * heads, tile by tile. What is attended is numbered by place, whether rows come from a list
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
#include "backend/gpu/rows.h"
#include "shared/exp.h"

using namespace metal;

typedef simdgroup_matrix<float, 8, 8> kvf_matrix8;

/* Matrices stay in registers only where every index is known. */
#define KVF_UNROLLED _Pragma("unroll")

/* ---- Places ---------------------------------------------------------------------- */

/* What a query attends. */
struct kvf_attended {
    uint n_window;
    uint n_places;   /* with the rows of its list */
    ulong first_row; /* of the window, the oldest */
};

/* `query` is one of the batch; `count` are the entries of its list. */
static inline kvf_attended kvf_find_attended(constant kvf_attend_kernel_args &args, uint query,
                                             device const uint *counts)
{
    const uint n_tokens_before = args.first_query + query + 1; /* since first_token */
    kvf_attended attended;
    attended.n_window = uint(min(args.first_token + n_tokens_before, ulong(args.window_tokens)));
    attended.n_places = attended.n_window;
    if (args.has_rows)
        attended.n_places += kvf_visible(counts, args.first_token + args.first_query,
                                         args.has_list ? 0 : args.ratio, query);
    attended.first_row = args.first_row + n_tokens_before - attended.n_window;
    return attended;
}

/* Places of a split. */
static inline uint kvf_split_places(constant kvf_attend_kernel_args &args, uint n_places)
{
    const uint share = n_places / args.n_splits + (n_places % args.n_splits != 0);
    const uint tiles = (share + KVF_ATTEND_ROWS - 1) / KVF_ATTEND_ROWS;
    return max(tiles * KVF_ATTEND_ROWS, uint(KVF_ATTEND_LEAST_PLACES));
}

/* A simdgroup unpacks the row at a place, or zeros from `end` on: those get p = 0. */
static inline void kvf_unpack_place(constant kvf_attend_kernel_args &args, kvf_attended attended,
                                    device const int *list, uint place, uint end, uint lane,
                                    threadgroup float *to)
{
    if (place >= end) {
        for (uint i = lane; i < 512; i += KVF_KERNEL_SIMD_WIDTH)
            to[i] = 0.0f;
        return;
    }
    const bool in_window = place < attended.n_window;
    ulong row = attended.first_row + place;
    if (!in_window) {
        const uint entry = place - attended.n_window;
        row = args.has_list ? ulong(list[entry]) : ulong(entry);
    }
    constant kvf_kernel_rows &rows = in_window ? args.window : args.rows;
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

/* What the sums of this head are multiplied with and divided by at the end, and its lse. */
static inline void kvf_finish_head(constant kvf_attend_kernel_args &args, kvf_softmax softmax,
                                   float sink, uint place, threadgroup float *work,
                                   device float *lse)
{
    const float highest = max(softmax.highest, sink);
    const float factor = kvf_exp(softmax.highest - highest);
    const float denominator = kvf_denominator(softmax.sum * factor, sink, highest);
    work[KVF_ATTEND_FACTORS + place] = factor;
    work[KVF_ATTEND_DENOMINATORS + place] = denominator;
    if (args.lse)
        *lse = highest + log(denominator);
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
            /* + 0 turns -0 into +0. */
            if (finished)
                value =
                    value * work[KVF_ATTEND_FACTORS + head] / work[KVF_ATTEND_DENOMINATORS + head] +
                    0.0f;
            to[head * 512 + i % 512] = value;
        }
    }
}

/* ---- Kernels --------------------------------------------------------------------- */

/*
 * group.x: KVF_ATTEND_HEADS heads of a query, those of the same query side by side as they
 * read the same rows; group.y: splits. With one split, out and lse are written; else
 * partial sums and, two floats each, their maxima and sums of p: [query][part][head]. The
 * attribute keeps the compiler from using more registers than so many threads can have.
 */
[[max_total_threads_per_threadgroup(KVF_ATTEND_THREADS)]] kernel void
kvf_attend(constant kvf_attend_kernel_args &args [[buffer(0)]], threadgroup float *tile [[threadgroup(0)]],
           threadgroup float *work [[threadgroup(1)]], uint3 group [[threadgroup_position_in_grid]],
           uint thread_index [[thread_index_in_threadgroup]],
           uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    device const float *q = reinterpret_cast<device const float *>(args.q);
    device const float *sinks = reinterpret_cast<device const float *>(args.sinks);
    device const int *lists = reinterpret_cast<device const int *>(args.lists);
    device const uint *counts = reinterpret_cast<device const uint *>(args.counts);
    device float *out = reinterpret_cast<device float *>(args.out);
    device float *lse = reinterpret_cast<device float *>(args.lse);
    device float *partial_sums = reinterpret_cast<device float *>(args.partial_sums);
    device float *partial_softmax = reinterpret_cast<device float *>(args.partial_softmax);
    const uint n_blocks = (args.n_heads + KVF_ATTEND_HEADS - 1) / KVF_ATTEND_HEADS;
    const uint query = group.x / n_blocks;
    const uint first_head = group.x % n_blocks * KVF_ATTEND_HEADS;
    const uint n_heads = min(args.n_heads - first_head, uint(KVF_ATTEND_HEADS));
    const bool whole = args.n_splits == 1;
    const kvf_attended attended = kvf_find_attended(args, query, counts);
    const uint split_places = kvf_split_places(args, attended.n_places);
    const uint first = group.y * split_places;
    const uint end = min(attended.n_places, first + split_places);
    if (first >= attended.n_places && !whole)
        return;

    const ulong call_head = (args.first_query + ulong(query)) * args.n_heads + first_head;
    device const int *list = lists + query * args.list_stride;
    kvf_attend_matrices matrices;
    kvf_load_queries(q + call_head * 512, n_heads, tile, thread_index, simd, matrices);
    kvf_softmax softmax = {-INFINITY, 0.0f};
    threadgroup float *row = tile + simd * KVF_ATTEND_STRIDE;
    kvf_unpack_place(args, attended, list, first + simd, end, lane, row);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint place = first; place < end; place += KVF_ATTEND_ROWS) {
        kvf_make_dots(tile, simd, work, matrices);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (thread_index < KVF_ATTEND_PAIRS)
            kvf_soften(work, args.scale, end - place, thread_index, lane, softmax);
        if (place + KVF_ATTEND_ROWS < end)
            kvf_unpack_place(args, attended, list, place + KVF_ATTEND_ROWS + simd, end, lane, row);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        kvf_add_rows(work, matrices);
    }

    const ulong part = (ulong(query) * args.n_parts + group.y) * args.n_heads + first_head;
    const uint head = thread_index / KVF_ATTEND_ROWS;
    if (thread_index % KVF_ATTEND_ROWS == 0 && head < n_heads) {
        if (whole) {
            kvf_finish_head(args, softmax, kvf_sink(args, sinks, first_head + head), head, work,
                            lse + call_head + head);
        } else {
            partial_softmax[2 * (part + head)] = softmax.highest;
            partial_softmax[2 * (part + head) + 1] = softmax.sum;
        }
    }
    kvf_store_sums(matrices, n_heads, whole, work, tile, thread_index, simd,
                   whole ? out + call_head * 512 : partial_sums + part * 512);
}

/* group.x: a query; group.y: a head. Parts are added in order; a lane has two of them. */
kernel void kvf_attend_merge(
    constant kvf_attend_kernel_args &args [[buffer(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]])
{
    device const float *sinks = reinterpret_cast<device const float *>(args.sinks);
    device const uint *counts = reinterpret_cast<device const uint *>(args.counts);
    device const float *partial_sums = reinterpret_cast<device const float *>(args.partial_sums);
    device const float *partial_softmax = reinterpret_cast<device const float *>(args.partial_softmax);
    device float *out = reinterpret_cast<device float *>(args.out);
    device float *lse = reinterpret_cast<device float *>(args.lse);
    const kvf_attended attended = kvf_find_attended(args, group.x, counts);
    const uint split_places = kvf_split_places(args, attended.n_places);
    const uint n_parts = (attended.n_places + split_places - 1) / split_places;
    const ulong first = ulong(group.x) * args.n_parts * args.n_heads + group.y;
    float highest[2];
    float sum[2];
    for (uint i = 0; i < 2; i++) {
        const uint part = lane + i * KVF_KERNEL_SIMD_WIDTH;
        const ulong at = 2 * (first + ulong(part) * args.n_heads);
        highest[i] = part < n_parts ? partial_softmax[at] : -INFINITY;
        sum[i] = part < n_parts ? partial_softmax[at + 1] : 0.0f;
    }
    const float sink = kvf_sink(args, sinks, group.y);
    const float all = max(simd_max(max(highest[0], highest[1])), sink);
    const float factor[2] = {kvf_exp(highest[0] - all), kvf_exp(highest[1] - all)};
    const float denominator =
        kvf_denominator(simd_sum(sum[0] * factor[0] + sum[1] * factor[1]), sink, all);

    const ulong head = (args.first_query + ulong(group.x)) * args.n_heads + group.y;
    float sums[512 / KVF_ATTEND_MERGE_THREADS];
    for (uint i = 0; i < 512 / KVF_ATTEND_MERGE_THREADS; i++)
        sums[i] = 0.0f;
    for (uint part = 0; part < n_parts; part++) {
        const float mine = part < KVF_KERNEL_SIMD_WIDTH ? factor[0] : factor[1];
        const float weight = simd_shuffle(mine, ushort(part % KVF_KERNEL_SIMD_WIDTH));
        device const float *from = partial_sums + (first + ulong(part) * args.n_heads) * 512;
        for (uint i = 0; i < 512 / KVF_ATTEND_MERGE_THREADS; i++)
            sums[i] = fma(from[i * KVF_ATTEND_MERGE_THREADS + thread_index], weight, sums[i]);
    }
    for (uint i = 0; i < 512 / KVF_ATTEND_MERGE_THREADS; i++)
        out[head * 512 + i * KVF_ATTEND_MERGE_THREADS + thread_index] =
            sums[i] / denominator + 0.0f;
    if (args.lse && thread_index == 0)
        lse[head] = all + log(denominator);
}
