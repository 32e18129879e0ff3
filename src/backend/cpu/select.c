/*
 * select, score and mask: queries (or rows, for few queries) over threads. Scores
 * are score.inc.h's; the best k are kept by candidates.h as they come.
 */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "backend/cpu/candidates.h"
#include "backend/cpu/kernels.h"
#include "format/format.h"
#include "shared/layout.h"
#include "shared/workspace.h"

/* One thread's part of the workspace (kvf_select_thread_bytes). */
typedef struct thread_space {
    float *scores;  /* [KVF_SELECT_BLOCK_ROWS] */
    uint64_t *keys; /* [2 * top_k + KVF_SELECT_BLOCK_ROWS] */
    kvf_index_query query;
    float *weights;
} thread_space;

static uint32_t key_capacity(uint32_t top_k)
{
    return 2 * top_k + KVF_SELECT_BLOCK_ROWS;
}

static thread_space space_of_thread(const kvf_select_args *args, size_t thread)
{
    uint8_t *place =
        (uint8_t *)args->workspace + thread * kvf_select_thread_bytes(args->n_heads, args->top_k);
    thread_space space;
    space.scores = (float *)place;
    place += kvf_round_up_64(4ull * KVF_SELECT_BLOCK_ROWS);
    space.keys = (uint64_t *)place;
    place += kvf_round_up_64(8ull * key_capacity(args->top_k));
    /* Per head: 128 f32 values, 128 codes, 4 scales, 4 sums, 1 weight: under 5 * 128 + 64 bytes. */
    space.query.n_heads = args->n_heads;
    space.query.values = (float *)place;
    place += 4ull * KVF_INDEX_WIDTH * args->n_heads;
    space.query.scales = (float *)place;
    place += 4ull * KVF_FP4_BLOCKS * args->n_heads;
    space.query.sums = (int32_t *)place;
    place += 4ull * KVF_FP4_BLOCKS * args->n_heads;
    space.weights = (float *)place;
    space.query.weights = space.weights;
    place += 4ull * args->n_heads;
    space.query.codes = (int8_t *)place;
    return space;
}

size_t kvf_cpu_select_workspace(const kvf_device *device, const kvf_select_args *args)
{
    return device->n_threads * kvf_select_thread_bytes(args->n_heads, args->top_k);
}

/* One head's codes in the order of the key tile, with scales and sums of blocks. */
static void load_packed_head(const kvf_rows *queries, uint64_t row, kvf_index_query *query,
                             uint32_t h)
{
    static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    const uint8_t *page = kvf_rows_page(queries, row);
    const uint32_t in_page = (uint32_t)(row % queries->page_rows);
    const uint8_t *codes = page + (size_t)in_page * KVF_FP4_CODE_BYTES;
    const uint8_t *scales = page + (size_t)queries->page_rows * KVF_FP4_CODE_BYTES +
                            (size_t)in_page * KVF_FP4_SCALE_BYTES;
    int8_t *out = query->codes + (size_t)h * KVF_INDEX_WIDTH;
    for (uint32_t b = 0; b < KVF_FP4_BLOCKS; b++) {
        int32_t sum = 0;
        for (uint32_t i = 0; i < KVF_FP4_BLOCK_CODE_BYTES; i++) {
            const uint32_t at =
                b * KVF_FP4_BLOCK_CODE_BYTES + i; /* byte: two codes of word at / 4 */
            const int8_t low = doubled[codes[at] & 15];
            const int8_t high = doubled[codes[at] >> 4];
            out[(at / 4) * 8 + at % 4] = low;
            out[(at / 4) * 8 + 4 + at % 4] = high;
            sum += low + high;
        }
        query->sums[h * KVF_FP4_BLOCKS + b] = sum;
        const uint32_t bits = scales[b] ? (uint32_t)(scales[b] - 1) << 23 : 0;
        memcpy(&query->scales[h * KVF_FP4_BLOCKS + b], &bits, sizeof bits); /* 2^(e - 1) */
    }
}

/* Query i, ready to be scored. */
static void load_query(const kvf_select_args *args, uint32_t i, bool packed, thread_space *space)
{
    const float c = (float)(1.0 / sqrt(args->n_heads * (double)KVF_INDEX_WIDTH));
    space->query.packed = packed;
    for (uint32_t h = 0; h < args->n_heads; h++) {
        const uint64_t row = (uint64_t)i * args->n_heads + h;
        space->weights[h] = args->head_weights[row] * c;
        if (packed)
            load_packed_head(&args->queries, row, &space->query, h);
        else
            kvf_format_get(args->queries.format)
                ->unpack(kvf_rows_page(&args->queries, row), args->queries.page_rows,
                         (uint32_t)(row % args->queries.page_rows), KVF_INDEX_WIDTH,
                         space->query.values + (size_t)h * KVF_INDEX_WIDTH);
    }
}

static bool both_packed(const kvf_select_args *args)
{
    return args->queries.format == KVF_FORMAT_FP4 && args->keys.format == KVF_FORMAT_FP4;
}

static kvf_status check_weights(const kvf_select_args *args, uint32_t first, uint32_t n)
{
    const float *weights = args->head_weights + (size_t)first * args->n_heads;
    for (size_t i = 0; i < (size_t)n * args->n_heads; i++)
        if (!isfinite(weights[i]))
            return KVF_NONFINITE;
    return KVF_OK;
}

/* Scores of rows begin .. end into out. */
static void score_rows(const kvf_cpu_kernels *kernels, const kvf_select_args *args,
                       const kvf_index_query *query, uint64_t begin, uint64_t end, float *out)
{
    kvf_key_tile tile;
    for (uint64_t row = begin; row < end; row += KVF_TILE_ROWS) {
        const uint32_t n = end - row < KVF_TILE_ROWS ? (uint32_t)(end - row) : KVF_TILE_ROWS;
        float scores[KVF_TILE_ROWS];
        kernels->load_keys(&args->keys, row, n, query->packed, &tile);
        kernels->score(query, &tile, scores);
        memcpy(out + (row - begin), scores, n * sizeof *scores);
    }
}

/* Streams rows begin .. end through the candidates. */
static void select_rows(const kvf_cpu_kernels *kernels, const kvf_select_args *args,
                        thread_space *space, uint64_t begin, uint64_t end,
                        kvf_candidates *candidates)
{
    for (uint64_t row = begin; row < end; row += KVF_SELECT_BLOCK_ROWS) {
        const uint64_t last = end - row < KVF_SELECT_BLOCK_ROWS ? end : row + KVF_SELECT_BLOCK_ROWS;
        score_rows(kernels, args, &space->query, row, last, space->scores);
        kvf_candidates_push(candidates, space->scores, (uint32_t)(last - row), (uint32_t)row);
    }
}

/* Few queries: each query's rows are shared out, then the threads' best are merged. */
static void select_by_rows(kvf_device *device, const kvf_select_args *args, uint32_t i)
{
    const kvf_cpu_kernels *kernels = kvf_kernels_of(device);
    const uint64_t visible = args->n_visible[i];
    const uint64_t work = visible * args->n_heads * KVF_INDEX_WIDTH;
    const uint32_t n_threads = work < KVF_LEAST_THREADED_WORK ? 1 : device->n_threads;
    const uint64_t share = (visible + n_threads - 1) / n_threads;
    const uint64_t step = (share + KVF_TILE_ROWS - 1) / KVF_TILE_ROWS * KVF_TILE_ROWS;
    kvf_candidates first;
    kvf_candidates_start(&first, space_of_thread(args, 0).keys, key_capacity(args->top_k),
                         args->top_k);
#pragma omp parallel for schedule(static, 1) num_threads((int)n_threads)
    for (uint32_t t = 0; t < n_threads; t++) {
        thread_space space = space_of_thread(args, t);
        const uint64_t begin = t * step < visible ? t * step : visible;
        const uint64_t end = begin + step < visible ? begin + step : visible;
        kvf_candidates candidates;
        kvf_candidates_start(&candidates, space.keys, key_capacity(args->top_k), args->top_k);
        load_query(args, i, both_packed(args), &space);
        select_rows(kernels, args, &space, begin, end, &candidates);
        kvf_candidates_thin(&candidates);
        if (t == 0)
            first = candidates;
        else
            /* Where the scores of the block were: how many keys this thread leaves. */
            memcpy(space.scores, &candidates.n, sizeof candidates.n);
    }
    for (uint32_t t = 1; t < n_threads; t++) {
        const thread_space space = space_of_thread(args, t);
        uint32_t n;
        memcpy(&n, space.scores, sizeof n);
        for (uint32_t j = 0; j < n; j++)
            kvf_candidates_push_key(&first, space.keys[j]);
    }
    args->list_len[i] = kvf_candidates_finish(&first, args->list + (size_t)i * args->top_k);
}

static void select_query(const kvf_cpu_kernels *kernels, const kvf_select_args *args, uint32_t i,
                         size_t thread)
{
    thread_space space = space_of_thread(args, thread);
    kvf_candidates candidates;
    kvf_candidates_start(&candidates, space.keys, key_capacity(args->top_k), args->top_k);
    load_query(args, i, both_packed(args), &space);
    select_rows(kernels, args, &space, 0, args->n_visible[i], &candidates);
    args->list_len[i] = kvf_candidates_finish(&candidates, args->list + (size_t)i * args->top_k);
}

kvf_status kvf_cpu_select(kvf_device *device, const kvf_select_args *args)
{
    const kvf_status status = check_weights(args, 0, args->n_queries);
    if (status != KVF_OK)
        return status;
    if (args->n_queries < device->n_threads) {
        for (uint32_t i = 0; i < args->n_queries; i++)
            select_by_rows(device, args, i);
        return KVF_OK;
    }
    const kvf_cpu_kernels *kernels = kvf_kernels_of(device);
#pragma omp parallel for schedule(dynamic) num_threads((int)device->n_threads)
    for (uint32_t i = 0; i < args->n_queries; i++)
        select_query(kernels, args, i, (size_t)omp_get_thread_num());
    return KVF_OK;
}

/* ---- The masked profiles ------------------------------------------------------ */

static void score_query(const kvf_cpu_kernels *kernels, const kvf_score_args *args, uint32_t i,
                        uint64_t begin, uint64_t end, size_t thread)
{
    const kvf_select_args *select = args->select;
    const uint32_t query = args->first_query + i;
    const uint64_t visible = select->n_visible[query];
    float *scores = args->scores + i * args->stride;
    const uint64_t scored = end < visible ? end : visible;
    if (begin < scored) {
        thread_space space = space_of_thread(select, thread);
        load_query(select, query, both_packed(select), &space);
        score_rows(kernels, select, &space.query, begin, scored, scores + begin);
    }
    for (uint64_t row = begin > visible ? begin : visible; row < end; row++)
        scores[row] = -INFINITY;
}

kvf_status kvf_cpu_score(kvf_device *device, const kvf_score_args *args)
{
    const kvf_cpu_kernels *kernels = kvf_kernels_of(device);
    const kvf_status status = check_weights(args->select, args->first_query, args->n_queries);
    if (status != KVF_OK)
        return status;
    /* One query is cut by rows so that every thread has a part. */
    const uint64_t work =
        args->n_queries * args->n_rows * args->select->n_heads * (uint64_t)KVF_INDEX_WIDTH;
    const bool threaded = work >= KVF_LEAST_THREADED_WORK;
    const uint64_t parts = threaded && args->n_queries < device->n_threads ? device->n_threads : 1;
    const uint64_t step =
        ((args->n_rows + parts - 1) / parts + KVF_TILE_ROWS - 1) / KVF_TILE_ROWS * KVF_TILE_ROWS;
    const int64_t n_items = (int64_t)(args->n_queries * parts);
#pragma omp parallel for schedule(dynamic) num_threads((int)device->n_threads) if (threaded)
    for (int64_t item = 0; item < n_items; item++) {
        const uint64_t begin = (uint64_t)item % parts * step;
        const uint64_t end = begin + step < args->n_rows ? begin + step : args->n_rows;
        if (begin < end)
            score_query(kernels, args, (uint32_t)((uint64_t)item / parts), begin, end,
                        (size_t)omp_get_thread_num());
    }
    return KVF_OK;
}

/* Marks the rows whose key is not below the k-th best; one pass finds it, one writes. */
static void mask_query(const kvf_mask_args *args, uint32_t i)
{
    const float *scores = args->scores + i * args->score_stride;
    const uint32_t visible = args->n_visible[i];
    const uint32_t capacity = args->top_k + 1024; /* top_k is at most 65536: 532 KB of stack */
    uint64_t keys[capacity];
    kvf_candidates candidates;
    kvf_candidates_start(&candidates, keys, capacity, args->top_k);
    kvf_candidates_push(&candidates, scores, visible, 0);
    kvf_candidates_thin(&candidates);
    /* Fewer than k: every visible row is selected, floor is still 0. */
    for (uint64_t row = 0; row < args->n_rows; row++) {
        const bool selected =
            row < visible && kvf_candidate_key(scores[row], (uint32_t)row) >= candidates.floor;
        if (args->mask_f32)
            args->mask_f32[i * args->mask_stride + row] = selected ? 0.0f : -INFINITY;
        else
            args->mask_f16[i * args->mask_stride + row] = selected ? 0 : 0xfc00; /* -infinity */
    }
}

void kvf_cpu_mask(kvf_device *device, const kvf_mask_args *args)
{
#pragma omp parallel for schedule(dynamic)                                                         \
    num_threads((int)device->n_threads) if (args->n_queries > 1)
    for (uint32_t i = 0; i < args->n_queries; i++)
        mask_query(args, i);
}
