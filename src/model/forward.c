/*
 * The forward pass: tokens of a batch of sessions through every layer, read from top to
 * bottom. Prefill and decode are the same code; decode brings one token of a session.
 *
 * Method: DeepSeek-V4 (technical report and reference inference code, 2026), with
 * the semantics checked against the goldens in tests/model.
 */
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "model/forward.h"
#include "model/model.h"
#include "model/sample.h"
#include "shared/bits.h"
#include "shared/fp_environment.h"

/* A batch on its way through the layers: all its tokens are one chunk to what is dense. */
typedef struct chunk {
    kvf_model *model;
    kvf_batch *batch;
    kvf_batch_item *items;
    uint32_t n_items;
    const kvf_backend *backend;
    kvf_device *device;
    const kvf_model_config *config;
    float **act; /* by kvf_activation_id */
    uint32_t n;
    bool samples; /* logits stay on the device: each item has a `sampling` */
    kvf_error *error;
} chunk;

/* ---- Small steps ------------------------------------------------------------- */

/*
 * Values of 4 bytes on the device, as the host sees them. What its wait says ends the pass: what
 * later operations would read may not be there.
 */
static kvf_status observe(const chunk *c, const char *name, uint32_t layer, const void *values,
                          uint64_t width)
{
    if (!c->model->observe)
        return KVF_OK;
    const size_t bytes = (size_t)c->n * width * sizeof(float);
    void *copy = malloc(bytes);
    if (!copy)
        return KVF_OK;
    c->backend->read(c->device, copy, values, bytes);
    const kvf_status status = c->backend->wait(c->device, c->error);
    if (status == KVF_OK)
        c->model->observe(c->model->observe_user, name, layer, copy, c->n, width);
    free(copy);
    return status;
}

/* The batch itself, whose selection the observer reads. */
static void observe_selected(const chunk *c, uint32_t layer)
{
    if (c->model->observe)
        c->model->observe(c->model->observe_user, "selected", layer, c->batch, c->n, 0);
}

/* out[n][weight.rows] = in[n][weight.cols] * weight^T, both dense. */
static void matmul(const chunk *c, uint32_t n, kvf_matrix weight, const float *in, float *out)
{
    const kvf_matmul_args args = {.n = n,
                                  .weight = weight,
                                  .in = in,
                                  .in_stride = weight.cols,
                                  .out = out,
                                  .out_stride = weight.rows};
    c->backend->matmul(c->device, &args);
}

/* RMS norm in place over n_rows rows of width values. */
static void norm(const chunk *c, float *values, uint64_t n_rows, uint32_t width,
                 const float *weight)
{
    const kvf_norm_args args = {.n = n_rows,
                                .width = width,
                                .in = values,
                                .in_stride = width,
                                .out = values,
                                .out_stride = width,
                                .weight = weight,
                                .eps = c->config->norm_eps};
    c->backend->norm(c->device, &args);
}

static void rope(const chunk *c, uint32_t n, float *values, uint32_t heads, uint32_t width,
                 kvf_rope_table table, bool inverse)
{
    const kvf_rope_args args = {.n = n,
                                .heads = heads,
                                .width = width,
                                .values = values,
                                .table = table,
                                .inverse = inverse};
    c->backend->rope(c->device, &args);
}

/* ---- Rope tables of the chunk ------------------------------------------------ */

typedef enum rope_id { ROPE_WINDOW, ROPE_COMPRESS, ROPE_CSA_ROWS, ROPE_HCA_ROWS } rope_id;

static kvf_rope_table rope_table(const chunk *c, rope_id id)
{
    const size_t table = (size_t)(c->model->chunk_tokens + 1) * KVF_ROPE_PAIRS;
    float *cosines = c->act[KVF_ACT_ROPE] + 2 * (size_t)id * table;
    return (kvf_rope_table){.cosines = cosines, .sines = cosines + table};
}

/*
 * Rows at .. + n of a table. In pieces that fit small arrays: what is written to the device may
 * be used again at once.
 */
static void fill_rope(const chunk *c, rope_id id, const float *frequencies, uint32_t at,
                      uint64_t first, uint64_t step, uint32_t n)
{
    float cosines[32][KVF_ROPE_PAIRS];
    float sines[32][KVF_ROPE_PAIRS];
    const kvf_rope_table table = rope_table(c, id);
    for (uint32_t i = 0; i < n; i += 32) {
        const uint32_t rows = n - i < 32 ? n - i : 32;
        const size_t offset = (size_t)(at + i) * KVF_ROPE_PAIRS;
        const size_t bytes = rows * sizeof *cosines;
        kvf_rope_fill(frequencies, first + i * step, step, rows, *cosines, *sines);
        c->backend->write(c->device, (float *)table.cosines + offset, cosines, bytes);
        c->backend->write(c->device, (float *)table.sines + offset, sines, bytes);
    }
}

static uint32_t ratio_of_kind(const kvf_geometry *geometry, kvf_layer_kind kind)
{
    for (uint32_t i = 0; i < geometry->n_layers; i++)
        if (geometry->layers[i].kind == kind)
            return geometry->layers[i].ratio;
    return 0;
}

/*
 * Tokens at their positions; a compressed row at the position of its first token, one item's
 * rows after the other's, as kvf_batch_append wants them.
 */
static void fill_rope_tables(const chunk *c)
{
    const struct kvf_forward *forward = c->model->forward;
    uint32_t n_rows[KVF_LAYER_HCA + 1] = {0};
    for (uint32_t i = 0; i < c->n_items; i++) {
        const kvf_item_span span = kvf_batch_span(c->batch, i);
        fill_rope(c, ROPE_WINDOW, forward->window_frequencies, span.first, span.position, 1,
                  span.n);
        fill_rope(c, ROPE_COMPRESS, forward->compress_frequencies, span.first, span.position, 1,
                  span.n);
        for (int kind = KVF_LAYER_CSA; kind <= KVF_LAYER_HCA; kind++) {
            const uint32_t ratio = ratio_of_kind(&c->config->geometry, (kvf_layer_kind)kind);
            if (ratio == 0)
                continue;
            const uint64_t row = span.position / ratio;
            const uint32_t n = (uint32_t)((span.position + span.n) / ratio - row);
            fill_rope(c, kind == KVF_LAYER_CSA ? ROPE_CSA_ROWS : ROPE_HCA_ROWS,
                      forward->compress_frequencies, n_rows[kind], row * ratio, ratio, n);
            n_rows[kind] += n;
        }
    }
}

/* ---- Hyper-connections -------------------------------------------------------- */

/* Streams of tokens first .. + n to the sublayer's input; post and comb are kept for unmix. */
static void mix(const chunk *c, kvf_chunk_span span, kvf_mix_weights weights,
                uint32_t sinkhorn_rounds, float *out)
{
    const size_t token_floats = (size_t)c->config->n_streams * c->config->hidden;
    const kvf_mix_args args = {.n = span.n_tokens,
                               .hidden = c->config->hidden,
                               .n_streams = c->config->n_streams,
                               .sinkhorn_rounds = sinkhorn_rounds,
                               .norm_eps = c->config->norm_eps,
                               .eps = c->config->hc_eps,
                               .streams = c->act[KVF_ACT_STREAMS] + span.first * token_floats,
                               .weights = weights,
                               .mix = c->act[KVF_ACT_MIX],
                               .out = out,
                               .post = c->act[KVF_ACT_POST],
                               .comb = c->act[KVF_ACT_COMB]};
    c->backend->mix(c->device, &args);
}

/* The sublayer's output back into the streams. */
static void unmix(const chunk *c)
{
    const kvf_unmix_args args = {.n = c->n,
                                 .hidden = c->config->hidden,
                                 .n_streams = c->config->n_streams,
                                 .sublayer = c->act[KVF_ACT_OUTPUT],
                                 .post = c->act[KVF_ACT_POST],
                                 .comb = c->act[KVF_ACT_COMB],
                                 .streams = c->act[KVF_ACT_STREAMS]};
    c->backend->unmix(c->device, &args);
}

/* ---- Attention ------------------------------------------------------------------ */

/* compress and pack: the chunk's window rows, compressed rows and index rows. */
static kvf_status append_rows(const chunk *c, uint32_t layer, const kvf_layer_weights *w,
                              kvf_rope_table table)
{
    const kvf_layer_kind kind = c->config->geometry.layers[layer].kind;
    const float *in = c->act[KVF_ACT_INPUT];
    matmul(c, c->n, w->wkv, in, c->act[KVF_ACT_WINDOW]);
    norm(c, c->act[KVF_ACT_WINDOW], c->n, KVF_ROW_WIDTH, w->kv_norm);
    rope(c, c->n, c->act[KVF_ACT_WINDOW], 1, KVF_ROW_WIDTH, table, false);
    kvf_append_args args = {.window = c->act[KVF_ACT_WINDOW]};
    if (kind != KVF_LAYER_WINDOW) {
        matmul(c, c->n, w->rows.wkv, in, c->act[KVF_ACT_ROW_KV]);
        matmul(c, c->n, w->rows.wgate, in, c->act[KVF_ACT_ROW_GATE]);
        args.rows = (kvf_compressor_input){.kv = c->act[KVF_ACT_ROW_KV],
                                           .gate = c->act[KVF_ACT_ROW_GATE],
                                           .position_bias = w->rows.ape,
                                           .norm_weight = w->rows.norm,
                                           .norm_eps = c->config->norm_eps};
        args.row_rope = rope_table(c, kind == KVF_LAYER_CSA ? ROPE_CSA_ROWS : ROPE_HCA_ROWS);
    }
    if (kind == KVF_LAYER_CSA) {
        matmul(c, c->n, w->index.wkv, in, c->act[KVF_ACT_INDEX_KV]);
        matmul(c, c->n, w->index.wgate, in, c->act[KVF_ACT_INDEX_GATE]);
        args.index = (kvf_compressor_input){.kv = c->act[KVF_ACT_INDEX_KV],
                                            .gate = c->act[KVF_ACT_INDEX_GATE],
                                            .position_bias = w->index.ape,
                                            .norm_weight = w->index.norm,
                                            .norm_eps = c->config->norm_eps};
    }
    return kvf_batch_append(c->batch, layer, &args, c->error);
}

/* Some tokens of the chunk on their way through attention. */
typedef struct tile {
    kvf_chunk_span span;
    const float *in;      /* [n_tokens][hidden] */
    float *out;           /* [n_tokens][hidden] */
    kvf_rope_table table; /* row i for token i of the tile */
} tile;

/* Queries: low rank, norm, heads, norm of each head without weight, rope. */
static void make_queries(const chunk *c, const tile *t, const kvf_layer_weights *w)
{
    const uint32_t n = t->span.n_tokens;
    const uint32_t n_heads = c->config->geometry.n_heads;
    matmul(c, n, w->wq_a, t->in, c->act[KVF_ACT_QUERY_RANK]);
    norm(c, c->act[KVF_ACT_QUERY_RANK], n, c->config->q_rank, w->q_norm);
    matmul(c, n, w->wq_b, c->act[KVF_ACT_QUERY_RANK], c->act[KVF_ACT_QUERY]);
    norm(c, c->act[KVF_ACT_QUERY], (uint64_t)n * n_heads, KVF_ROW_WIDTH, NULL);
    rope(c, n, c->act[KVF_ACT_QUERY], n_heads, KVF_ROW_WIDTH, t->table, false);
}

/* select: index queries from the same low rank, weights of the heads from the input. */
static kvf_status select_rows(const chunk *c, const tile *t, uint32_t layer,
                              const kvf_layer_weights *w)
{
    const uint32_t n = t->span.n_tokens;
    const uint32_t n_heads = c->config->geometry.n_index_heads;
    matmul(c, n, w->index_wq_b, c->act[KVF_ACT_QUERY_RANK], c->act[KVF_ACT_INDEX_QUERY]);
    rope(c, n, c->act[KVF_ACT_INDEX_QUERY], n_heads, KVF_INDEX_WIDTH, t->table, false);
    matmul(c, n, w->index_weights, t->in, c->act[KVF_ACT_INDEX_WEIGHTS]);
    return kvf_batch_select(c->batch, layer, t->span, c->act[KVF_ACT_INDEX_QUERY],
                            c->act[KVF_ACT_INDEX_WEIGHTS], c->error);
}

/* The grouped output projection: each group of heads to its rank, all ranks to hidden. */
static void project_output(const chunk *c, const tile *t, const kvf_layer_weights *w)
{
    const kvf_matmul_args args = {.n = t->span.n_tokens,
                                  .groups = c->config->n_out_groups,
                                  .weight = w->wo_a,
                                  .in = c->act[KVF_ACT_ATTENDED],
                                  .in_stride = (size_t)c->config->geometry.n_heads * KVF_ROW_WIDTH,
                                  .out = c->act[KVF_ACT_GROUPS],
                                  .out_stride = w->wo_a.rows};
    c->backend->matmul(c->device, &args);
    matmul(c, t->span.n_tokens, w->wo_b, c->act[KVF_ACT_GROUPS], t->out);
}

/* select and attend for a tile: what takes most memory a token exists for its tokens alone. */
static kvf_status attend_tile(const chunk *c, const tile *t, uint32_t layer,
                              const kvf_layer_weights *w)
{
    kvf_status status = KVF_OK;
    make_queries(c, t, w);
    if (c->config->geometry.layers[layer].kind == KVF_LAYER_CSA)
        status = select_rows(c, t, layer, w);
    if (status == KVF_OK)
        status = kvf_batch_attend(c->batch, layer, t->span, c->act[KVF_ACT_QUERY], w->sinks,
                                  c->act[KVF_ACT_ATTENDED], c->error);
    if (status != KVF_OK)
        return status;
    rope(c, t->span.n_tokens, c->act[KVF_ACT_ATTENDED], c->config->geometry.n_heads, KVF_ROW_WIDTH,
         t->table, true);
    project_output(c, t, w);
    return KVF_OK;
}

static kvf_status attention(const chunk *c, uint32_t layer, const kvf_layer_weights *w)
{
    const kvf_rope_table table =
        rope_table(c, c->config->geometry.layers[layer].kind == KVF_LAYER_WINDOW ? ROPE_WINDOW
                                                                                 : ROPE_COMPRESS);
    kvf_status status = append_rows(c, layer, w, table);
    for (uint32_t first = 0; first < c->n && status == KVF_OK; first += KVF_ATTENTION_TOKENS) {
        const uint32_t left = c->n - first;
        const size_t offset = (size_t)first * c->config->hidden;
        const size_t angles = (size_t)first * KVF_ROPE_PAIRS;
        const tile t = {
            .span = {first, left < KVF_ATTENTION_TOKENS ? left : KVF_ATTENTION_TOKENS},
            .in = c->act[KVF_ACT_INPUT] + offset,
            .out = c->act[KVF_ACT_OUTPUT] + offset,
            .table = {.cosines = table.cosines + angles, .sines = table.sines + angles}};
        status = attend_tile(c, &t, layer, w);
    }
    if (status != KVF_OK)
        return status;
    observe_selected(c, layer);
    return observe(c, "attn_out", layer, c->act[KVF_ACT_OUTPUT], c->config->hidden);
}

/* ---- Weights that come from the disk ---------------------------------------------- */

/*
 * A chunk whose tokens choose about as many experts as there are reads everything, upwards. In
 * decode the system's own guess is right for what every token reads, which stays in memory,
 * and not for experts: it reads two to three times what is used (measured with 4 MiB matrices),
 * unless it is told which are.
 */
static bool reads_all(const chunk *c)
{
    return (uint64_t)c->n * c->config->n_experts_used >= c->config->n_experts;
}

static void advise_files(const chunk *c)
{
    const kvf_file_advice advice = reads_all(c) ? KVF_ADVICE_SEQUENTIAL : KVF_ADVICE_NORMAL;
    const kvf_tensor_file *file;
    if (!c->model->from_disk || c->model->advice == advice)
        return;
    for (uint32_t i = 0; (file = kvf_tensor_set_file(c->model->files, i)); i++)
        kvf_file_advise(file->map.data, file->map.bytes, advice);
    c->model->advice = advice;
}

static void ask_for(const kvf_matrix *matrix)
{
    const kvf_weight_scales scales =
        kvf_weight_scales_of(kvf_weight_get(matrix->type), matrix->rows, matrix->cols);
    kvf_file_advise(matrix->data, matrix->rows * matrix->row_bytes, KVF_ADVICE_WILL_NEED);
    if (matrix->scales)
        kvf_file_advise(matrix->scales, scales.bytes, KVF_ADVICE_WILL_NEED);
}

/*
 * All that were chosen at once: a disk works on many requests in the time of one. They are fewer
 * than there are experts: see reads_all. What the wait says ends the pass, as in observe.
 */
static kvf_status ask_for_experts(const chunk *c, const kvf_layer_weights *w,
                                  const int32_t *experts)
{
    if (!c->model->from_disk || reads_all(c))
        return KVF_OK;
    const uint32_t n = c->n * c->config->n_experts_used;
    int32_t *chosen = c->model->forward->host_experts;
    c->backend->read(c->device, chosen, experts, n * sizeof *chosen);
    const kvf_status status = c->backend->wait(c->device, c->error);
    for (uint32_t i = 0; status == KVF_OK && i < n; i++) {
        const kvf_expert_weights *expert = &w->routed[chosen[i]];
        ask_for(&expert->w1);
        ask_for(&expert->w3);
        ask_for(&expert->w2);
    }
    return status;
}

/* ---- Experts -------------------------------------------------------------------- */

/* Whoever looks at the choices, before experts of that number are looked up. */
static kvf_status look_at_route(const chunk *c, uint32_t layer, const kvf_layer_weights *w,
                                const kvf_route_args *route)
{
    kvf_status status = ask_for_experts(c, w, route->experts);
    if (status == KVF_OK)
        status = observe(c, "experts", layer, route->experts, route->top_k);
    if (status == KVF_OK)
        status = observe(c, "expert_weights", layer, route->weights, route->top_k);
    return status;
}

static kvf_status feed_forward(const chunk *c, uint32_t layer, const kvf_layer_weights *w)
{
    const kvf_model_config *config = c->config;
    matmul(c, c->n, w->gate, c->act[KVF_ACT_INPUT], c->act[KVF_ACT_ROUTER]);
    const kvf_route_args route = {.n = c->n,
                                  .n_experts = config->n_experts,
                                  .top_k = config->n_experts_used,
                                  .logits = c->act[KVF_ACT_ROUTER],
                                  .bias = w->gate_bias,
                                  .token_map = w->token_map,
                                  .tokens = kvf_batch_tokens(c->batch),
                                  .scaling = config->routed_scaling,
                                  .normalise = config->norm_top_k,
                                  .experts = (int32_t *)c->act[KVF_ACT_EXPERT_IDS],
                                  .weights = c->act[KVF_ACT_EXPERT_WEIGHTS]};
    c->backend->route(c->device, &route);
    const kvf_status status = look_at_route(c, layer, w, &route);
    if (status != KVF_OK)
        return status;
    const kvf_experts_args experts = {.n = c->n,
                                      .hidden = config->hidden,
                                      .ffn = config->expert_ffn,
                                      .shared_ffn = w->shared.w1.rows,
                                      .n_experts = config->n_experts,
                                      .top_k = config->n_experts_used,
                                      .limit = config->swiglu_limit,
                                      .in = c->act[KVF_ACT_INPUT],
                                      .experts = route.experts,
                                      .weights = route.weights,
                                      .routed = w->routed,
                                      .shared = w->shared,
                                      .out = c->act[KVF_ACT_OUTPUT],
                                      .workspace = c->act[KVF_ACT_EXPERT_WORK]};
    c->backend->experts(c->device, &experts);
    return observe(c, "ffn_out", layer, c->act[KVF_ACT_OUTPUT], config->hidden);
}

/* ---- The layers ------------------------------------------------------------------ */

static kvf_status run_layer(const chunk *c, uint32_t layer)
{
    const kvf_layer_weights *w = &c->model->weights.layers[layer];
    const kvf_model_config *config = c->config;
    const kvf_chunk_span all = {0, c->n};
    mix(c, all, w->hc_attn, config->sinkhorn_rounds, c->act[KVF_ACT_INPUT]);
    norm(c, c->act[KVF_ACT_INPUT], c->n, config->hidden, w->attn_norm);
    kvf_status status = attention(c, layer, w);
    if (status != KVF_OK)
        return status;
    unmix(c);
    mix(c, all, w->hc_ffn, config->sinkhorn_rounds, c->act[KVF_ACT_INPUT]);
    norm(c, c->act[KVF_ACT_INPUT], c->n, config->hidden, w->ffn_norm);
    status = feed_forward(c, layer, w);
    if (status != KVF_OK)
        return status;
    unmix(c);
    return observe(c, "hidden", layer, c->act[KVF_ACT_STREAMS],
                   (uint64_t)config->n_streams * config->hidden);
}

/* ---- The head -------------------------------------------------------------------- */

/* Tokens of one item that the head reads, as rows of those of all items. */
typedef struct head_part {
    uint32_t item;
    uint32_t first; /* row */
    uint32_t n;
    uint32_t token; /* of the item's, the first */
} head_part;

/* Tokens of an item whose logits are wanted: all of them, or the last. */
static uint32_t head_rows_of(const chunk *c, uint32_t item)
{
    const uint32_t n = kvf_batch_span(c->batch, item).n;
    return c->items[item].all_logits || n == 0 ? n : 1;
}

/* The item's part in rows first .. + n; `begin` is the row of its first one. */
static head_part part_in(const chunk *c, uint32_t item, uint32_t begin, uint32_t first, uint32_t n)
{
    const uint32_t rows = head_rows_of(c, item);
    const uint32_t from = begin > first ? begin : first;
    const uint32_t to = begin + rows < first + n ? begin + rows : first + n;
    const uint32_t skipped = kvf_batch_span(c->batch, item).n - rows;
    return (head_part){item, from, to > from ? to - from : 0, skipped + from - begin};
}

/*
 * The streams of these tokens next to each other, in front. Layers need the others no more, and
 * no row moves up, so that none is overwritten before it has moved.
 */
static uint32_t gather_head_rows(const chunk *c)
{
    const size_t floats = (size_t)c->config->n_streams * c->config->hidden;
    float *streams = c->act[KVF_ACT_STREAMS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_items; i++) {
        const kvf_item_span span = kvf_batch_span(c->batch, i);
        const uint32_t rows = head_rows_of(c, i);
        uint32_t from = span.first + span.n - rows;
        if (from == n) {
            n += rows;
            continue;
        }
        for (uint32_t row = 0; row < rows; row++, n++, from++)
            c->backend->copy(c->device, streams + n * floats, streams + from * floats,
                             floats * sizeof *streams);
    }
    return n;
}

/* Where the logits of an item's token go: to the caller, or until commit to the model. */
static float *logits_of(const chunk *c, uint32_t item, uint32_t token)
{
    const size_t vocab = c->config->geometry.vocab;
    float *all = c->items[item].all_logits;
    return all ? all + token * vocab : c->model->forward->host_logits + item * vocab;
}

static kvf_status not_finite(const chunk *c, const head_part *part, uint32_t token,
                             const char *what)
{
    return kvf_fail(
        &c->items[part->item].error, KVF_NONFINITE, "%s of token %llu: %s", what,
        (unsigned long long)(kvf_batch_span(c->batch, part->item).position + part->token + token),
        kvf_status_string(KVF_NONFINITE));
}

/* The last sublayers' values go into no row, where they would be looked at. */
static kvf_status check_finite(const chunk *c, const head_part *part, const float *rows,
                               uint32_t width, const char *what)
{
    for (uint32_t t = 0; t < part->n; t++) {
        const float *row = rows + (size_t)t * width;
        bool finite = true;
        for (uint32_t i = 0; i < width; i++)
            finite &= (kvf_bits_of(row[i]) & KVF_F32_MAGNITUDE_MASK) < KVF_F32_INFINITY;
        if (!finite)
            return not_finite(c, part, t, what);
    }
    return KVF_OK;
}

static kvf_status check_sampled(const chunk *c, const head_part *part)
{
    return c->items[part->item].sampling->sampled.first_bad == KVF_SAMPLED_ALL_FINITE
               ? KVF_OK
               : not_finite(c, part, 0, "logits");
}

static void check_part(const chunk *c, const head_part *part, const float *input)
{
    kvf_batch_item *item = &c->items[part->item];
    if (part->n == 0 || item->status != KVF_OK)
        return;
    item->status = check_finite(c, part, input, c->config->hidden, "what the head reads");
    if (item->status == KVF_OK && c->samples)
        item->status = check_sampled(c, part);
    else if (item->status == KVF_OK)
        item->status = check_finite(c, part, logits_of(c, part->item, part->token),
                                    c->config->geometry.vocab, "logits");
}

/* ---- Logits that stay on the device -------------------------------------------------- */

/*
 * Whether the rows that the head reads are sampled where they are: the host has them not, all
 * are at hand at once, each item wants its last one alone, and what changes them has room.
 */
static bool can_sample(const chunk *c, uint32_t n_rows)
{
    const uint32_t most = (uint32_t)c->model->forward->head_rows;
    bool can = !c->backend->addresses_host_memory && n_rows <= KVF_HEAD_TOKENS && n_rows <= most;
    for (uint32_t i = 0; i < c->n_items && can; i++) {
        const kvf_batch_item *item = &c->items[i];
        can = item->sampling && !item->all_logits &&
              (kvf_logit_changes_none(&item->sampling->changes) || 2 * n_rows <= most);
    }
    return can;
}

/* The logits of an item that samples, on the device. */
static float *row_of(const chunk *c, uint32_t item)
{
    size_t row = 0;
    for (uint32_t i = 0; i < item; i++)
        row += head_rows_of(c, i);
    return c->act[KVF_ACT_LOGITS] + row * c->config->geometry.vocab;
}

/* Queues the sampling of n rows of logits, and the way of what it finds to the items. */
static void sample_rows(const chunk *c, uint32_t n)
{
    const uint32_t vocab = c->config->geometry.vocab;
    kvf_sample_row *rows = c->model->forward->sample_rows;
    kvf_sampled *sampled = (kvf_sampled *)(void *)c->act[KVF_ACT_SAMPLED];
    kvf_sample_args args = {
        .n = n, .vocab = vocab, .logits = c->act[KVF_ACT_LOGITS], .rows = rows, .out = sampled};
    for (uint32_t i = 0, row = 0; i < c->n_items; row += head_rows_of(c, i++)) {
        const kvf_sampling *sampling = c->items[i].sampling;
        if (head_rows_of(c, i) == 0)
            continue;
        rows[row] = (kvf_sample_row){NULL, sampling->temperature};
        if (kvf_logit_changes_none(&sampling->changes))
            continue;
        rows[row].changes = &sampling->changes;
        args.changed = c->act[KVF_ACT_LOGITS] + (size_t)n * vocab;
    }
    c->backend->sample(c->device, &args);
    for (uint32_t i = 0, row = 0; i < c->n_items; row += head_rows_of(c, i++))
        if (head_rows_of(c, i) > 0)
            c->backend->read(c->device, &c->items[i].sampling->sampled, sampled + row,
                             sizeof *sampled);
}

/* Logits of rows first .. + n to the host, or what is sampled of them. */
static void read_logits(const chunk *c, uint32_t first, uint32_t n)
{
    const size_t vocab = c->config->geometry.vocab;
    if (c->samples) {
        sample_rows(c, n);
        return;
    }
    for (uint32_t i = 0, begin = 0; i < c->n_items; begin += head_rows_of(c, i++)) {
        const head_part part = part_in(c, i, begin, first, n);
        if (part.n > 0)
            c->backend->read(c->device, logits_of(c, i, part.token),
                             c->act[KVF_ACT_LOGITS] + (part.first - first) * vocab,
                             part.n * vocab * sizeof(float));
    }
}

/* Streams to one, norm, logits of rows first .. + n; a wait. */
static kvf_status make_logits(const chunk *c, uint32_t first, uint32_t n)
{
    const kvf_matrix head = c->model->weights.head;
    const uint32_t hidden = c->config->hidden;
    float *input = c->act[KVF_ACT_INPUT];
    float *host_input = c->model->forward->host_input;
    mix(c, (kvf_chunk_span){first, n}, c->model->weights.hc_head, 0, input);
    norm(c, input, n, hidden, c->model->weights.norm);
    matmul(c, n, head, input, c->act[KVF_ACT_LOGITS]);
    c->backend->read(c->device, host_input, input, (size_t)n * hidden * sizeof *input);
    read_logits(c, first, n);
    kvf_status status = kvf_batch_settle(c->batch, c->error); /* of the layers, if anything */
    if (status == KVF_OK)
        status = c->backend->wait(c->device, c->error);
    for (uint32_t i = 0, begin = 0; i < c->n_items && status == KVF_OK;
         begin += head_rows_of(c, i++)) {
        const head_part part = part_in(c, i, begin, first, n);
        check_part(c, &part, host_input + (size_t)(part.first - first) * hidden);
    }
    return status;
}

/* Of all rows that are wanted, as many at a time as there is room for. */
static kvf_status run_head(chunk *c)
{
    const uint32_t n_rows = gather_head_rows(c);
    const uint32_t most = (uint32_t)c->model->forward->head_rows;
    kvf_status status = KVF_OK;
    c->samples = can_sample(c, n_rows);
    for (uint32_t first = 0; first < n_rows && status == KVF_OK; first += most)
        status = make_logits(c, first, n_rows - first < most ? n_rows - first : most);
    return status;
}

/* ---- A pass ------------------------------------------------------------------------ */

/* Memory for the logits of every item's last token: sessions keep theirs until commit. */
kvf_status kvf_forward_reserve_logits(struct kvf_forward *forward, uint32_t n_items, uint32_t vocab,
                                      kvf_error *error)
{
    if (n_items <= forward->n_host_logits)
        return KVF_OK;
    float *larger = realloc(forward->host_logits, (size_t)n_items * vocab * sizeof *larger);
    if (!larger)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the logits of %u sessions",
                        n_items);
    forward->host_logits = larger;
    forward->n_host_logits = n_items;
    return KVF_OK;
}

/* Fails all items that are left: what happened is of none of them alone. */
static kvf_status drop_all(const chunk *c, kvf_status status)
{
    for (uint32_t i = 0; i < c->n_items; i++) {
        kvf_batch_item *item = &c->items[i];
        if (item->status != KVF_OK)
            continue;
        item->status = status;
        if (c->error)
            item->error = *c->error;
    }
    kvf_batch_drop(c->batch);
    return status;
}

/*
 * Takes the items into their sessions, or drops them: after a device that was lost (dense
 * operations return nothing), and because of weights that were zeros as their file is gone,
 * which is then the reason of whatever else failed.
 */
static kvf_status finish(const chunk *c, kvf_status status)
{
    const size_t vocab = c->config->geometry.vocab;
    if (kvf_tensor_set_check_lost(c->model->files, NULL) != KVF_OK) {
        for (uint32_t i = 0; i < c->n_items; i++)
            c->items[i].status = KVF_OK;
        return drop_all(c, kvf_tensor_set_check_lost(c->model->files, c->error));
    }
    if (status != KVF_OK)
        return drop_all(c, status);
    for (uint32_t i = 0; i < c->n_items; i++) {
        const kvf_batch_item *item = &c->items[i];
        const uint32_t n = kvf_batch_span(c->batch, i).n;
        if (item->status != KVF_OK)
            continue;
        if (c->samples)
            kvf_session_queue_logits(item->session, row_of(c, i));
        else
            memcpy(kvf_session_logits(item->session), logits_of(c, i, n - 1),
                   vocab * sizeof(float));
        if (item->sampling)
            item->sampling->is_sampled = c->samples;
    }
    return kvf_batch_commit(c->batch, c->error);
}

static kvf_status run_layers(const chunk *c)
{
    const kvf_embed_args embed = {.n = c->n,
                                  .n_streams = c->config->n_streams,
                                  .tokens = kvf_batch_tokens(c->batch),
                                  .table = c->model->weights.embed,
                                  .streams = c->act[KVF_ACT_STREAMS]};
    kvf_status status = KVF_OK;
    c->backend->embed(c->device, &embed);
    for (uint32_t layer = 0; layer < c->config->geometry.n_layers && status == KVF_OK; layer++)
        status = run_layer(c, layer);
    return status;
}

/* Refuses the whole: with its reason in all items. */
static kvf_status refuse(kvf_batch_item *items, uint32_t n_items, kvf_status status,
                         const kvf_error *why, kvf_error *error)
{
    for (uint32_t i = 0; i < n_items; i++) {
        items[i].status = status;
        items[i].error = *why;
    }
    if (error)
        *error = *why;
    return status;
}

static kvf_status check_pass(kvf_model *model, const kvf_batch *batch, const kvf_batch_item *items,
                             uint32_t n_items, kvf_error *error)
{
    uint64_t n_tokens = 0;
    for (uint32_t i = 0; i < n_items; i++)
        n_tokens += items[i].n;
    if (n_tokens > model->chunk_tokens)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "a chunk of %llu tokens; this model was loaded for up to %u",
                        (unsigned long long)n_tokens, model->chunk_tokens);
    /* Of as many items as the batch may have: later passes find it there. */
    const uint32_t most = kvf_batch_options(batch)->batch_sessions;
    return kvf_forward_reserve_logits(model->forward, most > n_items ? most : n_items,
                                      model->config.geometry.vocab, error);
}

kvf_status kvf_model_forward(kvf_model *model, kvf_batch *batch, kvf_batch_item *items,
                             uint32_t n_items, kvf_error *error)
{
    KVF_FP_DOOR();
    kvf_error why;
    chunk c = {.model = model,
               .batch = batch,
               .items = items,
               .n_items = n_items,
               .backend = model->device->backend,
               .device = model->device,
               .config = &model->config,
               .act = model->forward->act,
               .error = error ? error : &why};
    for (uint32_t i = 0; i < n_items; i++)
        if (items[i].sampling)
            items[i].sampling->is_sampled = false;
    kvf_status status = check_pass(model, batch, items, n_items, &why);
    if (status != KVF_OK)
        return refuse(items, n_items, status, &why, error);
    status = kvf_batch_begin(batch, items, n_items, c.error);
    if (status != KVF_OK)
        return status;
    c.n = kvf_batch_n_tokens(batch);
    advise_files(&c);
    fill_rope_tables(&c);
    status = run_layers(&c);
    if (status == KVF_OK)
        status = run_head(&c);
    return finish(&c, status);
}
