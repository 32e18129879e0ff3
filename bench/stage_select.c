/* select: 1, 8 or 512 queries against all index rows of one layer's context. */
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "bench/peer.h"
#include "bench/stages.h"
#include "error.h"

typedef struct select_case {
    bench_case base;
    const kvf_profile *storage;
    kvf_device *device;
    kvf_select_args args;
    uint32_t *visible; /* [n_queries], all of them every row */
    /* The profiles with a mask: scores and mask as a session has them. */
    uint32_t tile; /* queries scored at a time */
    float *scores; /* [tile][n_rows] */
    void *mask;    /* [n_queries][n_rows] */
    bench_peer_select_args peer;
} select_case;

static bool has_mask(const bench_input *input)
{
    return input->profile < BENCH_LIST &&
           bench_profile_storage(input->profile)->mask != KVF_MASK_NONE;
}

static uint32_t tile_of(const bench_input *input)
{
    const uint32_t tile = bench_profile_storage(input->profile)->score_tile_tokens;
    return tile && tile < input->n_queries ? tile : input->n_queries;
}

static size_t mask_value_bytes(const bench_input *input)
{
    return bench_profile_storage(input->profile)->mask == KVF_MASK_F32 ? 4 : 2;
}

static uint32_t top_k_of(const bench_input *input)
{
    const uint64_t rows = bench_layer_rows(input, KVF_LAYER_CSA);
    return rows < input->geometry->top_k ? (uint32_t)rows : input->geometry->top_k;
}

uint64_t bench_select_bytes(const bench_input *input)
{
    const uint64_t rows = bench_layer_rows(input, KVF_LAYER_CSA);
    const kvf_format_id format = bench_profile_storage(input->profile)->index_format;
    uint64_t bytes = bench_rows_bytes(format, KVF_INDEX_WIDTH, rows);
    if (has_mask(input))
        bytes += rows * (4ull * tile_of(input) + mask_value_bytes(input) * input->n_queries);
    if (input->profile == BENCH_OPENBLAS)
        bytes += rows * (4ull * input->geometry->n_index_heads + 8);
    return bytes;
}

/* ---- Running ------------------------------------------------------------------- */

static kvf_status run_select(bench_case *self, kvf_error *error)
{
    select_case *c = (select_case *)self;
    return kvf_select(c->device, &c->args, error);
}

/* As a session does it: tiles of queries, each scored and then masked. */
static kvf_status run_masked(bench_case *self, kvf_error *error)
{
    select_case *c = (select_case *)self;
    const kvf_backend *backend = c->device->backend;
    const uint64_t n_rows = c->args.keys.n_rows;
    for (uint32_t first = 0; first < c->args.n_queries; first += c->tile) {
        const uint32_t left = c->args.n_queries - first;
        const kvf_score_args score = {.select = &c->args,
                                      .first_query = first,
                                      .n_queries = left < c->tile ? left : c->tile,
                                      .n_rows = n_rows,
                                      .scores = c->scores,
                                      .stride = n_rows};
        backend->score(c->device, &score);
        kvf_mask_args mask = {.n_queries = score.n_queries,
                              .top_k = c->args.top_k,
                              .n_rows = n_rows,
                              .scores = c->scores,
                              .score_stride = n_rows,
                              .n_visible = c->visible,
                              .mask_stride = n_rows};
        if (c->storage->mask == KVF_MASK_F32)
            mask.mask_f32 = (float *)c->mask + first * n_rows;
        else
            mask.mask_f16 = (uint16_t *)c->mask + first * n_rows;
        backend->mask(c->device, &mask);
    }
    return kvf_ok(error);
}

static kvf_status run_peer(bench_case *self, kvf_error *error)
{
    bench_peer_select(&((select_case *)self)->peer);
    return kvf_ok(error);
}

static kvf_status output(bench_case *self, bench_output *out, kvf_error *error)
{
    select_case *c = (select_case *)self;
    const uint64_t n_rows = c->args.keys.n_rows;
    const size_t value_bytes = c->storage->mask == KVF_MASK_F32 ? 4 : 2;
    for (uint32_t i = 0; c->mask && i < c->args.n_queries; i++)
        bench_list_of_mask((const uint8_t *)c->mask + i * n_rows * value_bytes, c->storage->mask,
                           n_rows, c->args.top_k, c->args.list + (size_t)i * c->args.top_k);
    *out =
        (bench_output){.list = c->args.list, .n_list = (size_t)c->args.n_queries * c->args.top_k};
    return kvf_ok(error);
}

/* ---- Opening ------------------------------------------------------------------- */

static void close_case(bench_case *self)
{
    select_case *c = (select_case *)self;
    free(c->args.queries.base);
    free((void *)c->args.head_weights);
    free(c->args.keys.base);
    free(c->args.list);
    free(c->args.list_len);
    free(c->args.workspace);
    free(c->visible);
    free(c->scores);
    free(c->mask);
    free(c->peer.head_scores);
    free(c->peer.scores);
    free(c->peer.order);
    free(c);
}

/* Packs the queries' heads as the profile wants them and makes head weights. */
static kvf_status make_queries(select_case *c, const bench_input *input, kvf_error *error)
{
    const uint64_t n_heads = (uint64_t)input->n_queries * input->geometry->n_index_heads;
    float *weights = bench_alloc(4 * n_heads, error);
    c->args.head_weights = weights;
    if (!weights || bench_rows_open(c->storage->index_format, KVF_INDEX_WIDTH, n_heads,
                                    &c->args.queries, error) != KVF_OK)
        return KVF_OUT_OF_MEMORY;
    bench_fill_values(weights, n_heads, 2);
    return bench_fill_index_rows(c->device, &c->args.queries, 3, error);
}

static kvf_status make_keys(select_case *c, uint64_t n_rows, kvf_error *error)
{
    const kvf_status status =
        bench_rows_open(c->storage->index_format, KVF_INDEX_WIDTH, n_rows, &c->args.keys, error);
    return status == KVF_OK ? bench_fill_index_rows(c->device, &c->args.keys, 4, error) : status;
}

static kvf_status make_outputs(select_case *c, kvf_error *error)
{
    const uint32_t n = c->args.n_queries;
    c->visible = bench_alloc(4ull * n, error);
    c->args.list = bench_alloc(4ull * n * c->args.top_k, error);
    c->args.list_len = bench_alloc(4ull * n, error);
    c->args.workspace_bytes = kvf_select_workspace_bytes(c->device, &c->args);
    c->args.workspace = bench_alloc(c->args.workspace_bytes, error);
    if (!c->visible || !c->args.list || !c->args.list_len || !c->args.workspace)
        return KVF_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < n; i++)
        c->visible[i] = (uint32_t)c->args.keys.n_rows;
    c->args.n_visible = c->visible;
    return KVF_OK;
}

static kvf_status make_mask(select_case *c, const bench_input *input, kvf_error *error)
{
    const uint64_t n_rows = c->args.keys.n_rows;
    c->tile = tile_of(input);
    c->scores = bench_alloc(4ull * c->tile * n_rows, error);
    c->mask = bench_alloc(mask_value_bytes(input) * input->n_queries * n_rows, error);
    c->base.run = run_masked;
    return c->scores && c->mask ? KVF_OK : KVF_OUT_OF_MEMORY;
}

static kvf_status make_peer(select_case *c, kvf_error *error)
{
    const uint64_t n_rows = c->args.keys.n_rows;
    c->peer = (bench_peer_select_args){.device = c->device,
                                       .n_queries = c->args.n_queries,
                                       .n_heads = c->args.n_heads,
                                       .top_k = c->args.top_k,
                                       .n_rows = n_rows,
                                       .queries = c->args.queries.base,
                                       .head_weights = c->args.head_weights,
                                       .keys = c->args.keys.base,
                                       .list = c->args.list};
    c->peer.head_scores = bench_alloc(4 * n_rows * c->args.n_heads, error);
    c->peer.scores = bench_alloc(4 * n_rows, error);
    c->peer.order = bench_alloc(4 * n_rows, error);
    c->base.run = run_peer;
    return c->peer.head_scores && c->peer.scores && c->peer.order ? KVF_OK : KVF_OUT_OF_MEMORY;
}

kvf_status bench_select_open(const bench_input *input, bench_case **out, kvf_error *error)
{
    const uint64_t n_rows = bench_layer_rows(input, KVF_LAYER_CSA);
    select_case *c = bench_alloc(sizeof *c, error);
    if (!c)
        return KVF_OUT_OF_MEMORY;
    memset(c, 0, sizeof *c);
    c->base = (bench_case){.rows = n_rows,
                           .steps_per_run = 1,
                           .n_parts = 1,
                           .run = run_select,
                           .output = output,
                           .close = close_case};
    c->base.work[0] = bench_select_work(input->profile, input->geometry, n_rows, input->n_queries);
    c->storage = bench_profile_storage(input->profile);
    c->device = input->device;
    c->args.n_queries = input->n_queries;
    c->args.n_heads = input->geometry->n_index_heads;
    c->args.top_k = top_k_of(input);
    kvf_status status = make_queries(c, input, error);
    if (status == KVF_OK)
        status = make_keys(c, n_rows, error);
    if (status == KVF_OK)
        status = make_outputs(c, error);
    if (status == KVF_OK && has_mask(input))
        status = make_mask(c, input, error);
    if (status == KVF_OK && input->profile == BENCH_OPENBLAS)
        status = make_peer(c, error);
    if (status != KVF_OK) {
        close_case(&c->base);
        return status;
    }
    *out = &c->base;
    return kvf_ok(error);
}
