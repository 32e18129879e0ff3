/*
 * select, score and mask: queries (or rows, for few queries) over threads. Scores
 * are score.inc.h's; the best k are kept by candidates.h as they come.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/candidates.h"
#include "backend/cpu/kernels.h"
#include "format/format.h"
#include "shared/layout.h"
#include "shared/visible.h"
#include "backend/cpu/workspace.h"

/* A thread's group of queries in its part of the workspace (kvf_select_thread_bytes). */
typedef struct query_group {
    kvf_index_query queries[KVF_SELECT_GROUP_QUERIES];
    kvf_candidates candidates[KVF_SELECT_GROUP_QUERIES];
    float *scores; /* [KVF_SELECT_GROUP_QUERIES][KVF_SELECT_BLOCK_ROWS] */
} query_group;

/* Cuts the heads' part of one query: weight, then f32 values or the packed forms. */
static void cut_query(uint8_t *place, uint32_t n_heads, kvf_index_query *query)
{
    query->n_heads = n_heads;
    query->weights = (float *)place;
    query->values = (float *)(place += 4ull * n_heads);
    query->scales = (float *)place;
    query->sums = (int32_t *)(place += 4ull * KVF_FP4_BLOCKS * n_heads);
    query->aligned_starts = (int32_t *)(place += 4ull * KVF_FP4_BLOCKS * n_heads);
    query->aligned_weights = (float *)(place += 4ull * n_heads);
    query->codes = (int8_t *)(place += 4ull * n_heads);
    query->aligned = (int8_t *)(place += (size_t)KVF_INDEX_WIDTH * n_heads);
}

static query_group group_of_thread(const kvf_select_args *args, size_t thread)
{
    uint8_t *place =
        (uint8_t *)args->workspace + thread * kvf_select_thread_bytes(args->n_heads, args->top_k);
    query_group group;
    const uint32_t capacity = kvf_select_key_capacity(args->top_k);
    group.scores = (float *)place;
    place += KVF_SELECT_GROUP_QUERIES * kvf_round_up_64(4ull * KVF_SELECT_BLOCK_ROWS);
    uint64_t *spare = (uint64_t *)place;
    place += kvf_round_up_64(8ull * capacity);
    for (uint32_t i = 0; i < KVF_SELECT_GROUP_QUERIES; i++) {
        kvf_candidates_start(&group.candidates[i], (uint64_t *)place, spare, capacity, args->top_k);
        place += kvf_round_up_64(8ull * capacity);
        cut_query(place, args->n_heads, &group.queries[i]);
        place += kvf_round_up_64(args->n_heads * (KVF_INDEX_WIDTH * 4ull + 16));
    }
    return group;
}

size_t kvf_cpu_select_workspace(uint32_t n_threads, const kvf_select_args *args)
{
    return n_threads * kvf_select_thread_bytes(args->n_heads, args->top_k);
}

/* Query i, ready to be scored. */
static void load_query(const kvf_cpu_kernels *kernels, const kvf_select_args *args, uint32_t i,
                       bool packed, kvf_index_query *query)
{
    const float c = (float)(1.0 / sqrt(args->n_heads * (double)KVF_INDEX_WIDTH));
    const uint64_t first_row = (uint64_t)i * args->n_heads;
    query->packed = packed;
    query->is_aligned = false;
    for (uint32_t h = 0; h < args->n_heads; h++)
        query->weights[h] = args->head_weights[first_row + h] * c;
    if (packed) {
        kernels->load_query(&args->queries, first_row, query);
        return;
    }
    for (uint32_t h = 0; h < args->n_heads; h++) {
        const uint64_t row = first_row + h;
        kvf_format_get(args->queries.format)
            ->unpack(kvf_rows_page(&args->queries, row), args->queries.page_rows,
                     (uint32_t)(row % args->queries.page_rows), KVF_INDEX_WIDTH,
                     query->values + (size_t)h * KVF_INDEX_WIDTH);
    }
}

static bool both_packed(const kvf_select_args *args)
{
    return args->queries.format == KVF_FORMAT_FP4 && args->keys.format == KVF_FORMAT_FP4;
}

/* Streams rows begin .. end through the candidates of n queries, each up to its last visible row.
 */
static void select_rows(const kvf_cpu_kernels *kernels, const kvf_select_args *args,
                        query_group *group, const uint32_t *n_visible, uint32_t n, uint64_t begin,
                        uint64_t end)
{
    for (uint64_t row = begin; row < end; row += KVF_SELECT_BLOCK_ROWS) {
        const uint64_t last = end - row < KVF_SELECT_BLOCK_ROWS ? end : row + KVF_SELECT_BLOCK_ROWS;
        kernels->score(group->queries, n, &args->keys, row, last, group->scores,
                       KVF_SELECT_BLOCK_ROWS);
        for (uint32_t i = 0; i < n; i++) {
            const uint64_t visible = n_visible[i] < last ? n_visible[i] : last;
            if (row < visible)
                kernels->push(&group->candidates[i],
                              group->scores + (size_t)i * KVF_SELECT_BLOCK_ROWS,
                              (uint32_t)(visible - row), (uint32_t)row);
        }
    }
}

/* A query whose rows are cut in parts; part i has the workspace of thread i. */
typedef struct rows_work {
    const kvf_cpu_kernels *kernels;
    const kvf_select_args *args;
    uint32_t query;
    uint64_t part_rows;
    kvf_candidates best; /* of part 0 */
} rows_work;

static void select_parts(void *context, size_t first, size_t end_part, uint32_t thread)
{
    rows_work *work = context;
    const kvf_select_args *args = work->args;
    const uint32_t visible = kvf_select_visible(args, work->query);
    (void)thread;
    for (size_t part = first; part < end_part; part++) {
        query_group group = group_of_thread(args, part);
        const uint64_t begin = part * work->part_rows < visible ? part * work->part_rows : visible;
        const uint64_t end = begin + work->part_rows < visible ? begin + work->part_rows : visible;
        load_query(work->kernels, args, work->query, both_packed(args), &group.queries[0]);
        select_rows(work->kernels, args, &group, &visible, 1, begin, end);
        kvf_candidates_thin(&group.candidates[0]);
        if (part == 0)
            work->best = group.candidates[0];
        else
            /* Where its scores were: how many keys this part leaves. */
            memcpy(group.scores, &group.candidates[0].n, sizeof group.candidates[0].n);
    }
}

/* Few queries: each query's rows are shared out, then the parts' best are merged. */
static void select_by_rows(kvf_device *device, const kvf_select_args *args, uint32_t query)
{
    const uint32_t visible = kvf_select_visible(args, query);
    const uint64_t products = (uint64_t)visible * args->n_heads * KVF_INDEX_WIDTH;
    const uint32_t n_parts = products < KVF_LEAST_THREADED_WORK ? 1 : device->n_threads;
    const uint64_t share = ((uint64_t)visible + n_parts - 1) / n_parts;
    rows_work work = {.kernels = kvf_kernels_of(device),
                      .args = args,
                      .query = query,
                      .part_rows = (share + KVF_PAGE_ROWS - 1) / KVF_PAGE_ROWS * KVF_PAGE_ROWS};
    kvf_cpu_loop(device, n_parts > 1, n_parts, 1, select_parts, &work);
    for (uint32_t part = 1; part < n_parts; part++) {
        const query_group group = group_of_thread(args, part);
        uint32_t n;
        memcpy(&n, group.scores, sizeof n);
        kvf_candidates_merge(&work.best, group.candidates[0].keys, n);
    }
    args->list_len[query] =
        kvf_candidates_finish(&work.best, args->list + (size_t)query * args->top_k);
}

static void select_group(const kvf_cpu_kernels *kernels, const kvf_select_args *args,
                         uint32_t first, uint32_t n, size_t thread)
{
    query_group group = group_of_thread(args, thread);
    uint32_t n_visible[KVF_SELECT_GROUP_QUERIES] = {0};
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++) {
        load_query(kernels, args, first + i, both_packed(args), &group.queries[i]);
        n_visible[i] = kvf_select_visible(args, first + i);
        most = n_visible[i] > most ? n_visible[i] : most;
    }
    select_rows(kernels, args, &group, n_visible, n, 0, most);
    for (uint32_t i = 0; i < n; i++)
        args->list_len[first + i] = kvf_candidates_finish(
            &group.candidates[i], args->list + (size_t)(first + i) * args->top_k);
}

/* Groups of queries of several args, those of one after another's. */
typedef struct groups_work {
    const kvf_cpu_kernels *kernels;
    const kvf_select_args *args;
    uint32_t share_threads; /* that share the queries of each args */
} groups_work;

/* Queries a group: as many as leave every thread a few. */
static uint32_t queries_of_group(const kvf_select_args *args, uint32_t n_threads)
{
    const uint32_t share = args->n_queries / (2 * n_threads);
    return share < 1 ? 1 : share < KVF_SELECT_GROUP_QUERIES ? share : KVF_SELECT_GROUP_QUERIES;
}

static size_t n_groups(const kvf_select_args *args, uint32_t n_threads)
{
    const uint32_t step = queries_of_group(args, n_threads);
    return (args->n_queries + step - 1) / step;
}

static void select_groups(void *context, size_t first, size_t end, uint32_t thread)
{
    const groups_work *work = context;
    const kvf_select_args *args = work->args;
    size_t begin = 0; /* of the groups of args */
    for (size_t i = first; i < end; i++) {
        while (i - begin >= n_groups(args, work->share_threads))
            begin += n_groups(args++, work->share_threads);
        const uint32_t step = queries_of_group(args, work->share_threads);
        const uint32_t query = (uint32_t)(i - begin) * step;
        const uint32_t left = args->n_queries - query;
        select_group(work->kernels, args, query, left < step ? left : step, thread);
    }
}

static void select_by_groups(kvf_device *device, const kvf_select_args *args, uint32_t n_args)
{
    /* Several args are work for several threads as they are. */
    groups_work work = {kvf_kernels_of(device), args, (device->n_threads + n_args - 1) / n_args};
    size_t n = 0;
    for (uint32_t i = 0; i < n_args; i++)
        n += n_groups(&args[i], work.share_threads);
    kvf_cpu_loop(device, true, n, 1, select_groups, &work);
}

static void select_session(kvf_device *device, const kvf_select_args *args)
{
    if (args->n_queries >= device->n_threads) {
        select_by_groups(device, args, 1);
        return;
    }
    for (uint32_t i = 0; i < args->n_queries; i++)
        select_by_rows(device, args, i);
}

/* Heads and top_k, by which the workspace is cut, are the same in all. */
void kvf_cpu_select(kvf_device *device, const kvf_select_args *args, uint32_t n)
{
    uint64_t n_queries = 0;
    for (uint32_t i = 0; i < n; i++)
        n_queries += args[i].n_queries;
    /* Fewer leave threads without work at the end: they had better share each. */
    if (n > 1 && n_queries >= 4 * (uint64_t)device->n_threads) {
        select_by_groups(device, args, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        select_session(device, &args[i]);
}

/* ---- The masked profiles ------------------------------------------------------ */

/* Rows begin .. end of the score matrix for a group of queries; hidden rows are -infinity. */
static void score_group(const kvf_cpu_kernels *kernels, const kvf_score_args *args, uint32_t first,
                        uint32_t n, uint64_t begin, uint64_t end, size_t thread)
{
    const kvf_select_args *select = args->select;
    query_group group = group_of_thread(select, thread);
    uint32_t n_visible[KVF_SELECT_GROUP_QUERIES] = {0};
    uint64_t most = begin;
    for (uint32_t i = 0; i < n; i++) {
        load_query(kernels, select, args->first_query + first + i, both_packed(select),
                   &group.queries[i]);
        n_visible[i] = kvf_select_visible(select, args->first_query + first + i);
        most = n_visible[i] > most ? n_visible[i] : most;
    }
    float *scores = args->scores + first * args->stride;
    if (begin < most)
        kernels->score(group.queries, n, &select->keys, begin, end < most ? end : most,
                       scores + begin, args->stride);
    for (uint32_t i = 0; i < n; i++)
        for (uint64_t row = begin > n_visible[i] ? begin : n_visible[i]; row < end; row++)
            scores[i * args->stride + row] = -INFINITY;
}

/* Item i is part i % parts of the rows, for a group of queries. */
typedef struct score_work {
    const kvf_cpu_kernels *kernels;
    const kvf_score_args *args;
    uint32_t queries; /* of a group */
    uint64_t parts;
    uint64_t part_rows;
} score_work;

static void score_parts(void *context, size_t first_item, size_t end_item, uint32_t thread)
{
    const score_work *work = context;
    const kvf_score_args *args = work->args;
    for (size_t item = first_item; item < end_item; item++) {
        const uint64_t begin = item % work->parts * work->part_rows;
        const uint64_t end =
            begin + work->part_rows < args->n_rows ? begin + work->part_rows : args->n_rows;
        const uint32_t first = (uint32_t)(item / work->parts) * work->queries;
        const uint32_t left = args->n_queries - first;
        if (begin < end)
            score_group(work->kernels, args, first, left < work->queries ? left : work->queries,
                        begin, end, thread);
    }
}

void kvf_cpu_score(kvf_device *device, const kvf_score_args *args)
{
    const uint64_t products =
        args->n_queries * args->n_rows * args->select->n_heads * (uint64_t)KVF_INDEX_WIDTH;
    const bool threaded = products >= KVF_LEAST_THREADED_WORK;
    /* One query is cut by rows so that every thread has a part. */
    const uint64_t parts = threaded && args->n_queries < device->n_threads ? device->n_threads : 1;
    const uint64_t share = (args->n_rows + parts - 1) / parts;
    score_work work = {.kernels = kvf_kernels_of(device),
                       .args = args,
                       .queries = parts > 1 ? 1 : KVF_SELECT_GROUP_QUERIES,
                       .parts = parts,
                       .part_rows = (share + KVF_PAGE_ROWS - 1) / KVF_PAGE_ROWS * KVF_PAGE_ROWS};
    const uint64_t groups = (args->n_queries + work.queries - 1) / work.queries;
    kvf_cpu_loop(device, threaded, groups * parts, 1, score_parts, &work);
}

/* Marks the rows whose key is not below the k-th best; one pass finds it, one writes. */
static void mask_query(const kvf_cpu_kernels *kernels, const kvf_mask_args *args, uint32_t i,
                       kvf_stage_space *space)
{
    const float *scores = args->scores + i * args->score_stride;
    const uint32_t visible = kvf_visible_rows(args->n_visible, args->first_token, args->ratio, i);
    kvf_candidates candidates;
    kvf_candidates_start(&candidates, space->keys[0], space->keys[1], KVF_MASK_KEYS(args->top_k),
                         args->top_k);
    kernels->push(&candidates, scores, visible, 0);
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

typedef struct mask_work {
    const kvf_cpu_device *device;
    const kvf_mask_args *args;
} mask_work;

static void mask_queries(void *context, size_t first, size_t end, uint32_t thread)
{
    const mask_work *work = context;
    for (size_t i = first; i < end; i++)
        mask_query(work->device->kernels, work->args, (uint32_t)i,
                   &work->device->stage_spaces[thread]);
}

void kvf_cpu_mask(kvf_device *device, const kvf_mask_args *args)
{
    mask_work work = {(const kvf_cpu_device *)device, args};
    kvf_cpu_loop(device, args->n_queries > 1, args->n_queries, 1, mask_queries, &work);
}
