/*
 * Scores of docs/FORMAT.md 5 by simdgroup_matrix, bit-identical to the reference. Metal only.
 *
 * A simdgroup scores 16 keys, which it holds in registers as 2 x 16 matrices [8 keys][8
 * values], with the query's heads, which lie in threadgroup memory as [value][head]. For
 * eight heads and one block of 32 values four products give the 8 x 8 dots of the block. These
 * are integers (codes), or integers times one power of two (values on the grid): exact in
 * any order of sums. What follows is done with a lane's two elements of the dots: scale,
 * sum of blocks, maximum with 0, and the sum over heads, of which column l of the matrix is
 * lane l of the format. So nothing is stored before the score is.
 *
 * Which two elements a lane has, is found out at the start (places.h).
 */
#ifndef KVF_BACKEND_GPU_SCORE_H
#define KVF_BACKEND_GPU_SCORE_H

#include <metal_stdlib>
#include <metal_simdgroup_matrix>

#include "backend/gpu/kernels.h"
#include "backend/gpu/places.h"
#include "backend/gpu/rows.h"
#include "backend/gpu/top.h"

using namespace metal;

enum {
    KVF_BLOCK_PARTS = KVF_FP4_BLOCK_VALUES / 8,     /* matrices a block */
    KVF_KEY_PARTS = KVF_FP4_VALUES / 8,             /* matrices a group of 8 keys */
    KVF_SELECT_ELEMENTS = 2 * KVF_SELECT_KEY_GROUPS /* of 8 x 8 sums, in a lane */
};

/* What the threads of a threadgroup have of their query. */
template <typename Form> struct kvf_query {
    uint index;                  /* in its span */
    kvf_kernel_rows queries;     /* of its span */
    kvf_kernel_rows keys;        /* of its span */
    device const float *weights; /* of its span's queries */
    threadgroup typename Form::value *tile;
    threadgroup float *work;
};

/* ---- Two forms: codes, and values --------------------------------------------------------- */

/* Half of a block's scale, so that a product of two has FORMAT 5's 2^(eq + ek - 2); a block
   of zeros may have 2^-126 and gets 0. */
static inline float kvf_half_scale(uint scale_byte)
{
    return kvf_scale_value(max(scale_byte, 1u) - 1);
}

static inline float4 kvf_half_scales(uint scale_bytes)
{
    return float4(kvf_half_scale(scale_bytes & 0xff), kvf_half_scale(scale_bytes >> 8 & 0xff),
                  kvf_half_scale(scale_bytes >> 16 & 0xff), kvf_half_scale(scale_bytes >> 24));
}

/*
 * Twice the value of an e2m1 code: 0, 1, 2, 3, 4, 6, 8, 12 with sign. From 2 on codes and
 * the bits of halves count alike; no table, no subnormal.
 */
static inline half kvf_e2m1_twice(uint code)
{
    const uint magnitude = code & 7;
    const uint bits = magnitude < 2 ? magnitude * 0x3c00 : 0x3c00 + magnitude * 0x200;
    return as_type<half>(ushort(bits | (code & 8) << 12));
}

/* The keys that a lane has elements of. */
template <typename Value> struct kvf_keys {
    simdgroup_matrix<Value, 8, 8> part[KVF_SELECT_KEY_GROUPS * KVF_KEY_PARTS];
    float4 scales[KVF_SELECT_ELEMENTS];
};

/* Queries and keys are FP4: products of doubled codes, scaled afterwards. */
struct kvf_code_form {
    typedef half value;
    enum { HEADS = KVF_SELECT_CODE_HEADS, STRIDE = KVF_SELECT_CODE_STRIDE };

    static inline float scaled(float dot, float query_scale, float key_scale)
    {
        return dot * (query_scale * key_scale); /* both exact */
    }

    /* Element e of group g of the simdgroup's keys. */
    static inline void load_key(thread const kvf_kernel_rows &rows, uint key, uint column, uint g,
                                uint e, thread kvf_keys<half> &keys)
    {
        const kvf_row_place place = kvf_find_row(rows, key);
        device const uint *words =
            reinterpret_cast<device const uint *>(kvf_row_data(rows, place, KVF_FP4_VALUES));
        device const uint *scales =
            reinterpret_cast<device const uint *>(kvf_row_scales(rows, place));
        /* A word has the eight values of a matrix's row. */
        KVF_UNROLL
        for (uint m = 0; m < KVF_KEY_PARTS; m++)
            keys.part[g * KVF_KEY_PARTS + m].thread_elements()[e] =
                kvf_e2m1_twice(words[m] >> 4 * column);
        keys.scales[2 * g + e] = kvf_half_scales(scales[0]);
    }

    /* Heads first .. first + n of the batch into the tile. Threads side by side take heads. */
    static inline void load_heads(thread const kvf_kernel_rows &rows, uint first_row, uint n,
                                  threadgroup half *tile, threadgroup float *work, kvf_at at)
    {
        for (uint i = at.thread_index; i < n * KVF_KEY_PARTS; i += at.n_threads) {
            const uint head = i % n;
            const uint m = i / n;
            const kvf_row_place place = kvf_find_row(rows, first_row + head);
            const uint word =
                reinterpret_cast<device const uint *>(kvf_row_data(rows, place, KVF_FP4_VALUES))[m];
            for (uint v = 0; v < 8; v++)
                tile[(8 * m + v) * STRIDE + head] = kvf_e2m1_twice(word >> 4 * v);
        }
        for (uint head = at.thread_index; head < n; head += at.n_threads) {
            const kvf_row_place place = kvf_find_row(rows, first_row + head);
            const float4 scales = kvf_half_scales(
                *reinterpret_cast<device const uint *>(kvf_row_scales(rows, place)));
            reinterpret_cast<threadgroup float4 *>(work + KVF_SELECT_SCALES)[head] = scales;
        }
    }
};

/* Four values of an index row, FP4 or f32. */
static inline float4 kvf_index_values(thread const kvf_kernel_rows &rows, kvf_row_place place,
                                      uint quad)
{
    device const uint *words =
        reinterpret_cast<device const uint *>(kvf_row_data(rows, place, KVF_FP4_VALUES));
    if (rows.format != KVF_ROWS_FP4)
        return float4(as_type<float>(words[4 * quad]), as_type<float>(words[4 * quad + 1]),
                      as_type<float>(words[4 * quad + 2]), as_type<float>(words[4 * quad + 3]));
    const uint codes = words[quad / 2] >> 16 * (quad % 2);
    const uint scales = *reinterpret_cast<device const uint *>(kvf_row_scales(rows, place));
    return kvf_fp4_values(codes, scales >> 8 * (quad / 8) & 0xff);
}

/* Rows of f32, or of both formats: products of values. On the grid they are as exact. */
struct kvf_value_form {
    typedef float value;
    enum { HEADS = KVF_SELECT_VALUE_HEADS, STRIDE = KVF_SELECT_VALUE_STRIDE };

    static inline float scaled(float dot, float, float)
    {
        return dot;
    }

    static inline void load_key(thread const kvf_kernel_rows &rows, uint key, uint column, uint g,
                                uint e, thread kvf_keys<float> &keys)
    {
        const kvf_row_place place = kvf_find_row(rows, key);
        KVF_UNROLL
        for (uint m = 0; m < KVF_KEY_PARTS; m++) {
            const float4 values = kvf_index_values(rows, place, 2 * m + column / 4);
            const float2 pair =
                column & 2 ? float2(values.z, values.w) : float2(values.x, values.y);
            keys.part[g * KVF_KEY_PARTS + m].thread_elements()[e] = column & 1 ? pair.y : pair.x;
        }
        keys.scales[2 * g + e] = float4(0.0f); /* not used */
    }

    static inline void load_heads(thread const kvf_kernel_rows &rows, uint first_row, uint n,
                                  threadgroup float *tile, threadgroup float *work, kvf_at at)
    {
        for (uint i = at.thread_index; i < n * (KVF_FP4_VALUES / 4); i += at.n_threads) {
            const uint head = i % n;
            const uint quad = i / n;
            const float4 values =
                kvf_index_values(rows, kvf_find_row(rows, first_row + head), quad);
            threadgroup float *to = tile + 4 * quad * STRIDE + head;
            to[0] = values.x;
            to[STRIDE] = values.y;
            to[2 * STRIDE] = values.z;
            to[3 * STRIDE] = values.w;
        }
        for (uint i = at.thread_index; i < 4 * n; i += at.n_threads)
            work[KVF_SELECT_SCALES + i] = 0.0f; /* not used */
    }
};

/* ---- A query's heads ------------------------------------------------------------------------ */

/* Heads first .. first + n of the query, their scales and weights. Barriers before and after. */
template <typename Form>
static inline void kvf_load_batch(constant kvf_select_kernel_args &args,
                                  thread const kvf_query<Form> &query, uint first, uint n,
                                  kvf_at at)
{
    const uint first_row = query.index * args.n_heads + first;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    Form::load_heads(query.queries, first_row, n, query.tile, query.work, at);
    for (uint head = at.thread_index; head < n; head += at.n_threads)
        query.work[KVF_SELECT_WEIGHTS + head] =
            query.weights[ulong(query.index) * args.n_heads + first + head] * args.weight_scale;
    threadgroup_barrier(mem_flags::mem_threadgroup);
}

/* Once for all tiles, where all heads fit; else every tile loads them batch by batch. */
template <typename Form>
static inline void kvf_load_only_batch(constant kvf_select_kernel_args &args,
                                       thread const kvf_query<Form> &query, kvf_at at)
{
    if (args.n_heads <= uint(Form::HEADS))
        kvf_load_batch<Form>(args, query, 0, args.n_heads, at);
}

/* A lane's elements of 8 x 8 sums, two for each group of keys. */
struct kvf_lane_sums {
    float at[KVF_SELECT_ELEMENTS];
};

/* Adds eight heads of the tile, from `first` on, to the sums of lanes. */
template <typename Form>
static inline void kvf_add_heads(thread const kvf_query<Form> &query,
                                 thread const kvf_keys<typename Form::value> &keys,
                                 kvf_places places, uint first, thread kvf_lane_sums &sums)
{
    typedef simdgroup_matrix<typename Form::value, 8, 8> matrix;
    threadgroup const float4 *head_scales =
        reinterpret_cast<threadgroup const float4 *>(query.work + KVF_SELECT_SCALES) + first;
    const float4 query_scales[2] = {head_scales[places.column[0]], head_scales[places.column[1]]};
    float scores[KVF_SELECT_ELEMENTS];
    KVF_UNROLL
    for (uint i = 0; i < KVF_SELECT_ELEMENTS; i++)
        scores[i] = 0.0f;
    KVF_UNROLL
    for (uint b = 0; b < KVF_FP4_BLOCKS; b++) {
        matrix heads[KVF_BLOCK_PARTS];
        KVF_UNROLL
        for (uint p = 0; p < KVF_BLOCK_PARTS; p++)
            simdgroup_load(heads[p],
                           query.tile + 8 * (KVF_BLOCK_PARTS * b + p) * Form::STRIDE + first,
                           Form::STRIDE);
        KVF_UNROLL
        for (uint g = 0; g < KVF_SELECT_KEY_GROUPS; g++) {
            simdgroup_matrix<float, 8, 8> dots = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
            KVF_UNROLL
            for (uint p = 0; p < KVF_BLOCK_PARTS; p++)
                simdgroup_multiply_accumulate(
                    dots, keys.part[g * KVF_KEY_PARTS + KVF_BLOCK_PARTS * b + p], heads[p], dots);
            KVF_UNROLL
            for (uint e = 0; e < 2; e++) {
                const float dot = dots.thread_elements()[e];
                scores[2 * g + e] = scores[2 * g + e] + Form::scaled(dot, query_scales[e][b],
                                                                     keys.scales[2 * g + e][b]);
            }
        }
    }
    KVF_UNROLL
    for (uint i = 0; i < KVF_SELECT_ELEMENTS; i++) {
        const float weight = query.work[KVF_SELECT_WEIGHTS + first + places.column[i % 2]];
        const float score = scores[i] > 0.0f ? scores[i] : 0.0f;
        sums.at[i] = fma(weight, score, sums.at[i]);
    }
}

/* ---- Scores ------------------------------------------------------------------------------- */

/* The eight lanes of each key in the order of the format: the score of key `lane`. */
static inline float kvf_add_lanes(threadgroup float *scratch, kvf_lane_sums sums, kvf_at at)
{
    simdgroup_barrier(mem_flags::mem_threadgroup); /* what was there has been read */
    KVF_UNROLL
    for (uint g = 0; g < KVF_SELECT_KEY_GROUPS; g++) {
        simdgroup_matrix<float, 8, 8> matrix;
        matrix.thread_elements()[0] = sums.at[2 * g];
        matrix.thread_elements()[1] = sums.at[2 * g + 1];
        simdgroup_store(matrix, scratch + 64 * g, 8);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    threadgroup const float *a = scratch + 8 * (at.lane % KVF_SELECT_SIMD_KEYS);
    const float score = ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]));
    /* NaN (infinities of both signs) counts as the lowest. */
    return score > -INFINITY ? score : -INFINITY;
}

/* The simdgroup's keys; past the last one, the last. */
template <typename Form>
static inline void kvf_load_keys(thread const kvf_kernel_rows &rows, kvf_places places, uint first,
                                 uint last, thread kvf_keys<typename Form::value> &keys)
{
    KVF_UNROLL
    for (uint i = 0; i < KVF_SELECT_ELEMENTS; i++) {
        const uint key = min(first + 8 * (i / 2) + places.row[i % 2], last);
        Form::load_key(rows, key, places.column[i % 2], i / 2, i % 2, keys);
    }
}

/*
 * Lane l < KVF_SELECT_SIMD_KEYS gets the score of key first + l; of keys from `end` on it is
 * something. All simdgroups come here, as there may be barriers; one whose keys are all past
 * the end computes nothing.
 */
template <typename Form>
static inline float kvf_score_keys(constant kvf_select_kernel_args &args,
                                   thread const kvf_query<Form> &query, kvf_places places,
                                   uint first, uint end, kvf_at at)
{
    const bool works = first < end;
    kvf_keys<typename Form::value> keys;
    kvf_lane_sums sums;
    KVF_UNROLL
    for (uint i = 0; i < KVF_SELECT_ELEMENTS; i++)
        sums.at[i] = 0.0f;
    if (works)
        kvf_load_keys<Form>(query.keys, places, first, end - 1, keys);
    for (uint head = 0; head < args.n_heads; head += Form::HEADS) {
        const uint n = min(uint(Form::HEADS), args.n_heads - head);
        if (args.n_heads > uint(Form::HEADS))
            kvf_load_batch<Form>(args, query, head, n, at);
        for (uint h = 0; works && h < n; h += 8)
            kvf_add_heads<Form>(query, keys, places, h, sums);
    }
    if (!works)
        return -INFINITY;
    return kvf_add_lanes(query.work + KVF_SELECT_SCRATCH + at.simd * KVF_SELECT_SIMD_SCRATCH, sums,
                         at);
}

#endif
