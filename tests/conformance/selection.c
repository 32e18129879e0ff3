/* Conformance of score, select and mask. */
#include "conformance.h"
#include "shared/visible.h"

#include <math.h>

/* What the scores of a case look like. */
enum shape {
    PLAIN,
    DUPLICATE_KEYS, /* few different keys: ties everywhere */
    ZERO_QUERIES,   /* every score is +0 */
    EQUAL_KEYS,     /* one key: all scores equal */
    NEGATIVE_WEIGHTS,
    WIDE_BLOCKS, /* block scales from 2^-25 to 2^20 */
    N_SHAPES
};

/* A query and key set, packed and as the f32 values that the packed form decodes to. */
struct index_data {
    kvf_select_args args;
    kvf_rows other_queries; /* the format that args does not use */
    kvf_rows other_keys;
};

/* n rows of which row i equals row i % n_different. */
static float *make_rows(cf_run *run, cf_pattern pattern, size_t n, size_t n_different)
{
    float *rows = cf_floats(run, n * KVF_INDEX_WIDTH);
    const size_t drawn = n < n_different ? n : n_different;
    cf_values(&run->random, pattern, rows, drawn * KVF_INDEX_WIDTH);
    for (size_t i = drawn; i < n; i++)
        memcpy(rows + i * KVF_INDEX_WIDTH, rows + i % drawn * KVF_INDEX_WIDTH,
               KVF_INDEX_WIDTH * sizeof *rows);
    return rows;
}

/* Stores the rows in both formats; returns the one asked for, the other in *other. */
static kvf_rows store_both(cf_run *run, const float *rows, uint64_t n, kvf_format_id format,
                           kvf_rows *other)
{
    kvf_rows fp4 = cf_rows(run, KVF_FORMAT_FP4, KVF_INDEX_WIDTH, n);
    kvf_rows f32 = cf_rows(run, KVF_FORMAT_F32, KVF_INDEX_WIDTH, n);
    cf_store(&fp4, KVF_GRID_FP4, rows);
    cf_store(&f32, KVF_GRID_FP4, rows);
    *other = format == KVF_FORMAT_FP4 ? f32 : fp4;
    return format == KVF_FORMAT_FP4 ? fp4 : f32;
}

static float *make_weights(cf_run *run, enum shape shape, size_t n)
{
    float *weights = cf_random_floats(run, CF_NORMAL, n);
    for (size_t i = 0; shape == NEGATIVE_WEIGHTS && i < n; i++)
        weights[i] = -fabsf(weights[i]);
    if (n && cf_chance(&run->random, 4))
        weights[cf_pick(&run->random, (uint32_t)n)] = -0.0f;
    return weights;
}

static uint32_t *make_visible(cf_run *run, uint32_t n_queries, uint32_t n_rows)
{
    uint32_t *n_visible = cf_alloc(run, n_queries * sizeof *n_visible);
    for (uint32_t i = 0; i < n_queries; i++) {
        const uint32_t some = cf_pick(&run->random, n_rows + 1);
        n_visible[i] = CF_ONE_OF(&run->random, 0, 1, some, some, n_rows, n_rows);
    }
    return n_visible;
}

/* In every third case tokens a row, and a first token with which no more rows are seen. 0: counts.
 */
static uint32_t make_ratio(cf_run *run, uint32_t n_queries, uint32_t n_rows, uint64_t *first_token)
{
    const uint32_t ratio = CF_ONE_OF(&run->random, 1, 4, 128);
    const uint32_t end = (n_rows + 1) * ratio; /* the token that would see one more */
    if (!cf_chance(&run->random, 3) || end < n_queries + 1)
        return 0;
    *first_token = cf_pick(&run->random, end - n_queries);
    return ratio;
}

static struct index_data make_index(cf_run *run)
{
    uint64_t *random = &run->random;
    const uint32_t n_rows = cf_n_rows(run->index);
    const enum shape shape = (enum shape)(run->index / CF_N_SIZES % N_SHAPES);
    struct index_data data = {.args.n_heads = CF_ONE_OF(random, 8, 8, 16, 24, 64)};
    kvf_select_args *args = &data.args;
    args->n_queries = n_rows == 1000 ? 1 : CF_ONE_OF(random, 1, 2, 5);
    args->top_k = CF_ONE_OF(random, 1, 2, 7, 64, 512);

    const cf_pattern pattern = shape == WIDE_BLOCKS ? CF_WIDE : CF_NORMAL;
    const size_t n_heads = (size_t)args->n_queries * args->n_heads;
    float *queries = make_rows(run, pattern, n_heads, n_heads);
    if (shape == ZERO_QUERIES)
        memset(queries, 0, n_heads * KVF_INDEX_WIDTH * sizeof *queries);
    const size_t n_different = shape == EQUAL_KEYS ? 1 : shape == DUPLICATE_KEYS ? 5 : n_rows;
    const float *keys = make_rows(run, pattern, n_rows, n_different);
    const kvf_format_id formats[] = {KVF_FORMAT_FP4, KVF_FORMAT_FP4, KVF_FORMAT_F32};
    args->queries =
        store_both(run, queries, n_heads, formats[cf_pick(random, 3)], &data.other_queries);
    args->keys = store_both(run, keys, n_rows, formats[cf_pick(random, 3)], &data.other_keys);
    args->head_weights = make_weights(run, shape, n_heads);
    const uint32_t *n_visible = make_visible(run, args->n_queries, n_rows);
    args->ratio = make_ratio(run, args->n_queries, n_rows, &args->first_token);
    args->n_visible = args->ratio ? NULL : n_visible;
    return data;
}

/* Makes one head weight of query NaN or infinite in every eighth case; whether this is one. */
static bool maybe_spoil_weight(cf_run *run, kvf_select_args *args, uint32_t query)
{
    if (!cf_chance(&run->random, 8))
        return false;
    const size_t n = (size_t)args->n_queries * args->n_heads;
    float *weights = cf_floats(run, n);
    memcpy(weights, args->head_weights, n * sizeof *weights);
    weights[(size_t)query * args->n_heads + cf_pick(&run->random, args->n_heads)] =
        cf_chance(&run->random, 2) ? NAN : -INFINITY;
    args->head_weights = weights;
    return true;
}

/* ---- score ------------------------------------------------------------------- */

/* Gives select and score the workspace that they ask for, to the byte. */
static void add_workspace(cf_run *run, kvf_select_args *args)
{
    args->workspace_bytes = kvf_select_workspace_bytes(run->device, args);
    args->workspace = cf_alloc(run, args->workspace_bytes);
}

static float *score_into(cf_run *run, kvf_select_args *select, kvf_score_args *args)
{
    const size_t n = args->n_queries * args->stride;
    add_workspace(run, select);
    args->select = select;
    args->scores = cf_floats(run, n);
    run->device->backend->score(run->device, args);
    cf_wait(run);
    return args->scores;
}

static void run_score(cf_run *run)
{
    uint64_t *random = &run->random;
    struct index_data data = make_index(run);
    kvf_score_args args = {.first_query = cf_pick(random, data.args.n_queries)};
    args.n_queries = 1 + cf_pick(random, data.args.n_queries - args.first_query);
    /* All columns, or only the first ones; some after the last visible row. */
    args.n_rows = cf_chance(random, 3) ? cf_pick(random, (uint32_t)data.args.keys.n_rows + 1)
                                       : data.args.keys.n_rows;
    args.stride = args.n_rows + CF_ONE_OF(random, 0, 0, 3, 64);
    const bool spoilt = maybe_spoil_weight(run, &data.args, args.first_query);

    const size_t bytes = args.n_queries * args.stride * sizeof(float);
    const float *scores = score_into(run, &data.args, &args);
    if (spoilt) /* undefined, but it comes to an end */
        return;
    cf_report(run, "scores", scores, bytes);

    /* The same bits from the other store formats. */
    kvf_select_args other = data.args;
    other.queries = data.other_queries;
    const float *from_other_queries = score_into(run, &other, &args);
    assert_memory_equal(from_other_queries, scores, bytes);
    other.keys = data.other_keys;
    const float *from_both = score_into(run, &other, &args);
    assert_memory_equal(from_both, scores, bytes);
}

const cf_operation cf_score = {"score", "bit-identical", CF_N_SIZES *N_SHAPES * 3, false,
                               run_score};

/*
 * f32 rows that are on no grid. A head's score has 128 products, whatever the order:
 * 2.02 * 128 u sum |q k|; then one weight, one product, n_heads sums.
 */
static void run_score_plain(cf_run *run)
{
    uint64_t *random = &run->random;
    kvf_select_args select = {.n_queries = 2, .n_heads = CF_ONE_OF(random, 8, 16, 64), .top_k = 64};
    const uint32_t n_rows = cf_n_rows(run->index % (CF_N_SIZES - 1));
    const size_t n_heads = (size_t)select.n_queries * select.n_heads;
    const float *queries = make_rows(run, CF_NORMAL, n_heads, n_heads);
    const float *keys = make_rows(run, CF_NORMAL, n_rows, n_rows);
    select.queries = cf_rows(run, KVF_FORMAT_F32, KVF_INDEX_WIDTH, n_heads);
    select.keys = cf_rows(run, KVF_FORMAT_F32, KVF_INDEX_WIDTH, n_rows);
    cf_store(&select.queries, KVF_GRID_NONE, queries);
    cf_store(&select.keys, KVF_GRID_NONE, keys);
    select.head_weights = make_weights(run, PLAIN, n_heads);
    uint32_t n_visible[] = {n_rows, n_rows};
    select.n_visible = n_visible;
    kvf_score_args args = {.n_queries = 2, .n_rows = n_rows, .stride = n_rows};
    const float *scores = score_into(run, &select, &args);

    double *bounds = cf_alloc(run, 2 * n_rows * sizeof *bounds);
    for (size_t i = 0; i < 2 * (size_t)n_rows; i++) {
        bounds[i] = 0x1p-140;
        for (size_t h = 0; h < select.n_heads; h++) {
            const size_t head = i / n_rows * select.n_heads + h;
            double size = 0.0;
            for (size_t d = 0; d < KVF_INDEX_WIDTH; d++)
                size += fabs((double)queries[head * KVF_INDEX_WIDTH + d] *
                             (double)keys[i % n_rows * KVF_INDEX_WIDTH + d]);
            bounds[i] += 2.02 * (KVF_INDEX_WIDTH + 2.0 + select.n_heads) * CF_U * size *
                         fabs((double)select.head_weights[head]) /
                         sqrt(select.n_heads * (double)KVF_INDEX_WIDTH);
        }
    }
    cf_report_close(run, "scores", scores, bounds, 2 * (size_t)n_rows);
}

const cf_operation cf_score_plain = {"score (plain)", "within 2k u sum|w q k|", CF_N_SIZES * 2,
                                     false, run_score_plain};

/* ---- select ------------------------------------------------------------------ */

static void select_into(cf_run *run, kvf_select_args *args)
{
    args->list = cf_alloc(run, (size_t)args->n_queries * args->top_k * sizeof *args->list);
    args->list_len = cf_alloc(run, args->n_queries * sizeof *args->list_len);
    add_workspace(run, args);
    run->device->backend->select(run->device, args, 1);
    cf_wait(run);
}

/* The dense way must come to the same rows: scores, then a mask of each form. */
static void check_masks(cf_run *run, kvf_select_args *select)
{
    const uint64_t n_rows = select->keys.n_rows;
    kvf_score_args score = {
        .n_queries = select->n_queries, .n_rows = n_rows, .stride = (size_t)n_rows};
    const float *scores = score_into(run, select, &score);
    kvf_mask_args mask = {.n_queries = select->n_queries,
                          .top_k = select->top_k,
                          .n_rows = n_rows,
                          .scores = scores,
                          .score_stride = (size_t)n_rows,
                          .n_visible = select->n_visible,
                          .first_token = select->first_token,
                          .ratio = select->ratio,
                          .mask_stride = (size_t)n_rows};
    mask.mask_f32 = cf_floats(run, select->n_queries * n_rows);
    run->device->backend->mask(run->device, &mask);
    cf_wait(run);
    const float *mask_f32 = mask.mask_f32;
    mask.mask_f32 = NULL;
    mask.mask_f16 = cf_alloc(run, select->n_queries * n_rows * sizeof *mask.mask_f16);
    run->device->backend->mask(run->device, &mask);
    cf_wait(run);

    for (size_t i = 0; i < select->n_queries; i++) {
        const int32_t *next = select->list + i * select->top_k;
        const int32_t *end = next + select->list_len[i];
        for (size_t row = 0; row < n_rows; row++) {
            const bool listed = next < end && *next == (int32_t)row;
            const size_t place = i * n_rows + row;
            next += listed;
            if (mask_f32[place] != (listed ? 0.0f : -INFINITY) ||
                mask.mask_f16[place] != (listed ? 0x0000 : 0xFC00))
                fail_msg("case %u: row %zu of query %zu: list and masks disagree", run->index, row,
                         i);
        }
    }
}

/* Whatever the scores are: rows that are visible, ascending, then -1. */
static void check_lists(cf_run *run, const kvf_select_args *select)
{
    for (size_t i = 0; i < select->n_queries; i++) {
        const int32_t *list = select->list + i * select->top_k;
        const uint32_t n = select->list_len[i];
        if (n > select->top_k)
            fail_msg("case %u: %u rows in the list of query %zu", run->index, n, i);
        for (uint32_t j = 0; j < select->top_k; j++)
            if (j < n ? list[j] <= (j ? list[j - 1] : -1) ||
                            list[j] >= (int32_t)kvf_select_visible(select, i)
                      : list[j] != -1)
                fail_msg("case %u: place %u of query %zu has row %d", run->index, j, i, list[j]);
    }
}

/*
 * Sessions with some of the queries, and some of the keys where counts say what is seen, in one
 * operation: as each alone.
 */
static void check_sessions(cf_run *run, const kvf_select_args *args)
{
    kvf_select_args sessions[CF_MOST_SESSIONS];
    kvf_select_args alone[CF_MOST_SESSIONS];
    const uint32_t n = CF_ONE_OF(&run->random, 2, 7, CF_MOST_SESSIONS);
    for (uint32_t i = 0; i < n; i++) {
        kvf_select_args *one = &alone[i];
        *one = *args;
        one->n_queries = 1 + cf_pick(&run->random, args->n_queries);
        if (args->ratio) {
            one->first_token = cf_pick(&run->random, (uint32_t)args->first_token + 1);
        } else {
            one->keys.n_rows = 1 + cf_pick(&run->random, (uint32_t)args->keys.n_rows);
            one->n_visible = make_visible(run, one->n_queries, (uint32_t)one->keys.n_rows);
        }
        select_into(run, one);
        sessions[i] = *one;
        sessions[i].list = cf_alloc(run, (size_t)one->n_queries * one->top_k * sizeof *one->list);
        sessions[i].list_len = cf_alloc(run, one->n_queries * sizeof *one->list_len);
    }
    kvf_select_args most = *args;
    add_workspace(run, &most);
    for (uint32_t i = 0; i < n; i++) {
        sessions[i].workspace = most.workspace;
        sessions[i].workspace_bytes = most.workspace_bytes;
    }
    run->device->backend->select(run->device, sessions, n);
    cf_wait(run);
    for (uint32_t i = 0; i < n; i++)
        if (memcmp(sessions[i].list, alone[i].list,
                   (size_t)alone[i].n_queries * args->top_k * sizeof *args->list) != 0 ||
            memcmp(sessions[i].list_len, alone[i].list_len,
                   alone[i].n_queries * sizeof *args->list_len) != 0)
            fail_msg("case %u: session %u of %u differs from itself alone", run->index, i, n);
}

static void run_select(cf_run *run)
{
    struct index_data data = make_index(run);
    const bool spoilt =
        maybe_spoil_weight(run, &data.args, cf_pick(&run->random, data.args.n_queries));
    select_into(run, &data.args);
    if (spoilt) {
        check_lists(run, &data.args);
        return;
    }
    const size_t list_bytes =
        (size_t)data.args.n_queries * data.args.top_k * sizeof *data.args.list;
    cf_report(run, "list", data.args.list, list_bytes);
    cf_report(run, "list_len", data.args.list_len,
              data.args.n_queries * sizeof *data.args.list_len);

    kvf_select_args other = data.args;
    other.queries = data.other_queries;
    other.keys = data.other_keys;
    select_into(run, &other);
    assert_memory_equal(other.list, data.args.list, list_bytes);
    check_masks(run, &data.args);
    check_sessions(run, &data.args);
}

const cf_operation cf_select = {"select", "bit-identical", CF_N_SIZES *N_SHAPES * 4, false,
                                run_select};

/* ---- mask -------------------------------------------------------------------- */

static void run_mask(cf_run *run)
{
    uint64_t *random = &run->random;
    kvf_mask_args args = {.n_queries = CF_ONE_OF(random, 1, 2, 5),
                          .top_k = CF_ONE_OF(random, 1, 2, 7, 64, 512),
                          .n_rows = cf_n_rows(run->index)};
    args.score_stride = args.n_rows + CF_ONE_OF(random, 0, 0, 3);
    args.mask_stride = args.n_rows + CF_ONE_OF(random, 0, 0, 5);
    /* Constant: all tie; sparse: -0 and +0 tie; rounded: many ties. */
    const cf_pattern patterns[] = {CF_NORMAL, CF_SPARSE, CF_CONSTANT, CF_NORMAL};
    const uint32_t p = cf_pick(random, 4);
    float *scores = cf_random_floats(run, patterns[p], args.n_queries * args.score_stride);
    for (size_t i = 0; p == 3 && i < args.n_queries * args.score_stride; i++)
        scores[i] = rintf(scores[i] * 4.0f);
    args.scores = scores;
    const uint32_t *n_visible = make_visible(run, args.n_queries, (uint32_t)args.n_rows);
    args.ratio = make_ratio(run, args.n_queries, (uint32_t)args.n_rows, &args.first_token);
    args.n_visible = args.ratio ? NULL : n_visible;
    const size_t n_mask = args.n_queries * args.mask_stride;
    if (cf_chance(random, 2)) {
        args.mask_f32 = cf_floats(run, n_mask);
        run->device->backend->mask(run->device, &args);
        cf_wait(run);
        cf_report(run, "mask_f32", args.mask_f32, n_mask * sizeof *args.mask_f32);
    } else {
        args.mask_f16 = cf_alloc(run, n_mask * sizeof *args.mask_f16);
        run->device->backend->mask(run->device, &args);
        cf_wait(run);
        cf_report(run, "mask_f16", args.mask_f16, n_mask * sizeof *args.mask_f16);
    }
}

const cf_operation cf_mask = {"mask", "bit-identical", CF_N_SIZES * 16, false, run_mask};
