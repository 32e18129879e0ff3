/*
 * The stages of one layer inside a batch: append (compress and pack), select, attend. Each asks
 * the backend for what is to be done with the pages of all sessions at once.
 */
#include <math.h>
#include <string.h>

#include "assertion.h"
#include "cache/batch.h"
#include "error.h"
#include "format/format.h"
#include "shared/fp_environment.h"

static kvf_status check_layer(kvf_batch *batch, uint32_t layer, kvf_error *error)
{
    if (batch->n_tokens == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "no chunk is open: call begin first");
    if (layer >= batch->geometry.n_layers)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "layer %u; the model has %u", layer,
                        batch->geometry.n_layers);
    batch->settled = false;
    return kvf_batch_check_done(batch, error);
}

/* Tokens of one item that a stage is given. */
typedef struct part {
    uint32_t item;
    kvf_session *session;
    uint32_t first;    /* in the batch */
    uint32_t n;        /* at least 1 */
    uint32_t at;       /* of the item's tokens, the first */
    uint64_t position; /* of it in the session */
} part;

/* The next item that is left and has tokens in the span; p->item is where to look from. */
static bool next_part(const kvf_batch *batch, kvf_chunk_span span, part *p)
{
    const uint32_t end = span.first + span.n_tokens;
    for (; p->item < batch->n_items; p->item++) {
        const kvf_item_span tokens = batch->spans[p->item];
        const uint32_t first = tokens.first > span.first ? tokens.first : span.first;
        const uint32_t last = tokens.first + tokens.n < end ? tokens.first + tokens.n : end;
        if (!batch->sessions[p->item] || first >= last)
            continue;
        *p = (part){.item = p->item,
                    .session = batch->sessions[p->item],
                    .first = first,
                    .n = last - first,
                    .at = first - tokens.first,
                    .position = tokens.position + first - tokens.first};
        return true;
    }
    return false;
}

/* Where an operation on the part's tokens tells what it finds; `per_token` rows are a token's. */
static kvf_findings found_of(const kvf_batch *batch, const part *p, uint32_t layer,
                             kvf_found_place place, uint32_t per_token)
{
    return (kvf_findings){kvf_batch_found(batch, batch->scratch.found, p->item, layer) + place,
                          (uint64_t)p->at * per_token};
}

/* ---- append: compress, pack -------------------------------------------------- */

/* The layer's window rows, and the token of the first of them. */
static kvf_rows window_view(const kvf_session *session, uint32_t layer, uint64_t *first)
{
    const kvf_paged_rows *window = &session->layers[layer].window;
    *first = window->first_row;
    return kvf_paged_rows_view(window, session->header->n_tokens + session->chunk_tokens);
}

static void pack_windows(const kvf_batch *batch, uint32_t layer, const float *rows)
{
    const kvf_chunk_span all = {0, batch->n_tokens};
    uint32_t n = 0;
    part p = {0};
    for (; next_part(batch, all, &p); p.item++, n++) {
        uint64_t first;
        kvf_pack_args *args = &batch->stage.pack[n];
        *args = (kvf_pack_args){.rows = rows + (size_t)p.first * KVF_ROW_WIDTH,
                                .stride = KVF_ROW_WIDTH,
                                .n_rows = p.n,
                                .grid = batch->options.grid_off ? KVF_GRID_NONE : KVF_GRID_FP8,
                                .out = window_view(p.session, layer, &first)};
        args->first_row = p.position - first;
        batch->stage.found[n] = found_of(batch, &p, layer, KVF_FOUND_WINDOW, 1);
    }
    batch->device->backend->pack(batch->device, batch->stage.pack, batch->stage.found, n);
}

/* `input` from the token on; values of a token: parts * width. */
static kvf_compressor_input input_at(kvf_compressor_input input, uint32_t token, uint32_t n_values)
{
    input.kv += (size_t)token * n_values;
    input.gate += (size_t)token * n_values;
    return input;
}

/* The item's angles are row `rope_row` and on of those given. */
static kvf_compress_args compress_args(const kvf_batch *batch, const part *p, uint32_t layer,
                                       const kvf_append_args *args, uint64_t rope_row, bool index)
{
    const kvf_session *session = p->session;
    const kvf_layer kind = batch->geometry.layers[layer];
    const kvf_grid grid = index ? KVF_GRID_FP4 : KVF_GRID_FP8;
    const uint32_t width = index ? KVF_INDEX_WIDTH : KVF_ROW_WIDTH;
    const size_t angles = rope_row * (KVF_ROPE_WIDTH / 2);
    return (kvf_compress_args){
        .width = width,
        .ratio = kind.ratio,
        .overlap = kind.kind == KVF_LAYER_CSA,
        .first_token = p->position,
        .n = p->n,
        .input =
            input_at(index ? args->index : args->rows, p->first, kvf_layer_parts(kind) * width),
        .rope = {args->row_rope.cosines + angles, args->row_rope.sines + angles},
        .state = index ? session->layers[layer].index_state->memory
                       : session->layers[layer].row_state->memory,
        .hadamard = index && !batch->options.grid_off,
        .grid = batch->options.grid_off ? KVF_GRID_NONE : grid,
        .out = index ? kvf_session_index_rows(session, layer) : kvf_session_rows(session, layer)};
}

/* Angles of items that have failed are among those given, so all items are gone through. */
static void compress(const kvf_batch *batch, uint32_t layer, const kvf_append_args *args,
                     bool index)
{
    const kvf_found_place place = index ? KVF_FOUND_INDEX_ROWS : KVF_FOUND_ROWS;
    const kvf_layer kind = batch->geometry.layers[layer];
    uint64_t rope_row = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < batch->n_items; i++) {
        const kvf_item_span span = batch->spans[i];
        part p = {.item = i};
        if (batch->sessions[i] && next_part(batch, (kvf_chunk_span){span.first, span.n}, &p)) {
            batch->stage.compress[n] = compress_args(batch, &p, layer, args, rope_row, index);
            batch->stage.found[n++] = found_of(batch, &p, layer, place, 1);
        }
        rope_row +=
            kvf_layer_rows(kind, span.position + span.n) - kvf_layer_rows(kind, span.position);
    }
    batch->device->backend->compress(batch->device, batch->stage.compress, batch->stage.found, n);
}

kvf_status kvf_batch_append(kvf_batch *batch, uint32_t layer, const kvf_append_args *args,
                            kvf_error *error)
{
    KVF_FP_DOOR();
    const kvf_status status = check_layer(batch, layer, error);
    if (status != KVF_OK)
        return status;
    const kvf_layer_kind kind = batch->geometry.layers[layer].kind;
    pack_windows(batch, layer, args->window);
    if (kind != KVF_LAYER_WINDOW)
        compress(batch, layer, args, false);
    if (kind == KVF_LAYER_CSA)
        compress(batch, layer, args, true);
    return kvf_ok(error);
}

/* ---- select ------------------------------------------------------------------ */

/* The plan is the library's own: where it gave too little, nobody else can do anything about it. */
static kvf_status check_workspace(const char *what, uint32_t layer, size_t given, size_t needed,
                                  kvf_error *error)
{
    KVF_ASSERT(needed <= given);
    if (needed <= given)
        return KVF_OK;
    return kvf_fail(error, KVF_INTERNAL,
                    "layer %u: %s needs %zu bytes of workspace, the plan gave %zu; this is a fault "
                    "of kvfold",
                    layer, what, needed, given);
}

/* check_layer, and that the tokens are the batch's. */
static kvf_status check_span(kvf_batch *batch, uint32_t layer, kvf_chunk_span span,
                             kvf_error *error)
{
    const kvf_status status = check_layer(batch, layer, error);
    if (status != KVF_OK)
        return status;
    if (span.n_tokens == 0 || span.first >= batch->n_tokens ||
        span.n_tokens > batch->n_tokens - span.first)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "tokens %u .. + %u of a chunk of %u",
                        span.first, span.n_tokens, batch->n_tokens);
    return KVF_OK;
}

/*
 * A query that is not finite is an error: its scores would be NaN, which drop out of a softmax
 * or a selection unseen. So is a weight of an index head, of which a token has a row. `values`
 * begin with the span's.
 */
static void check_values(const kvf_batch *batch, uint32_t layer, kvf_chunk_span span,
                         kvf_found_place place, const float *values, uint32_t rows_per_token,
                         uint32_t width)
{
    uint32_t n = 0;
    part p = {0};
    for (; next_part(batch, span, &p); p.item++, n++) {
        const size_t first_row = (size_t)(p.first - span.first) * rows_per_token;
        batch->stage.check[n] = (kvf_check_args){.n_rows = (uint64_t)p.n * rows_per_token,
                                                 .width = width,
                                                 .values = values + first_row * width};
        batch->stage.found[n] = found_of(batch, &p, layer, place, rows_per_token);
    }
    batch->device->backend->check(batch->device, batch->stage.check, batch->stage.found, n);
}

/*
 * Index queries to the grid: packed codes in the profile without a mask, f32 values in place where
 * index rows are f32. They are the queries of stage.select.
 */
static void pack_queries(const kvf_batch *batch, uint32_t layer, kvf_chunk_span span,
                         float *index_q)
{
    const uint32_t n_heads = batch->geometry.n_index_heads;
    const kvf_format_id format = batch->profile->index_format;
    const size_t token_bytes = kvf_format_page_bytes(format, KVF_INDEX_WIDTH, n_heads);
    uint32_t n = 0;
    part p = {0};
    for (; next_part(batch, span, &p); p.item++, n++) {
        float *values = index_q + (size_t)(p.first - span.first) * n_heads * KVF_INDEX_WIDTH;
        const kvf_rows queries = {.format = format,
                                  .width = KVF_INDEX_WIDTH,
                                  .page_rows = n_heads,
                                  .n_rows = (uint64_t)p.n * n_heads,
                                  .base = format == KVF_FORMAT_F32
                                              ? (void *)values
                                              : batch->scratch.queries + p.first * token_bytes,
                                  .page_stride_bytes = token_bytes};
        batch->stage.select[n].queries = queries;
        batch->stage.pack[n] = (kvf_pack_args){.rows = values,
                                               .stride = KVF_INDEX_WIDTH,
                                               .n_rows = queries.n_rows,
                                               .grid = KVF_GRID_FP4,
                                               .hadamard = true,
                                               .out = queries};
        batch->stage.found[n] = found_of(batch, &p, layer, KVF_FOUND_INDEX_QUERIES, n_heads);
    }
    if (batch->options.grid_off)
        check_values(batch, layer, span, KVF_FOUND_INDEX_QUERIES, index_q, n_heads,
                     KVF_INDEX_WIDTH);
    else
        batch->device->backend->pack(batch->device, batch->stage.pack, batch->stage.found, n);
}

/* The masked profiles: scores by tiles of queries, then each tile's part of the mask. */
static void select_by_mask(const kvf_batch *batch, const kvf_select_args *select,
                           uint32_t first_token)
{
    const kvf_backend *backend = batch->device->backend;
    const uint64_t stride = batch->size.select_rows;
    const uint32_t tile = batch->options.score_tile_tokens;
    for (uint32_t first = 0; first < select->n_queries; first += tile) {
        const uint32_t n = select->n_queries - first < tile ? select->n_queries - first : tile;
        const kvf_score_args score = {.select = select,
                                      .first_query = first,
                                      .n_queries = n,
                                      .n_rows = select->keys.n_rows,
                                      .scores = batch->scratch.scores,
                                      .stride = stride};
        backend->score(batch->device, &score);
        if (stride == 0) /* a context shorter than the first row: there is no mask */
            continue;
        kvf_mask_args mask = {.n_queries = n,
                              .top_k = select->top_k,
                              .n_rows = select->keys.n_rows,
                              .scores = batch->scratch.scores,
                              .score_stride = stride,
                              .first_token = select->first_token + first,
                              .ratio = select->ratio,
                              .mask_stride = stride};
        if (batch->profile->mask == KVF_MASK_F32)
            mask.mask_f32 = (float *)batch->scratch.mask + (first_token + first) * stride;
        else
            mask.mask_f16 = (uint16_t *)batch->scratch.mask + (first_token + first) * stride;
        backend->mask(batch->device, &mask);
    }
}

static kvf_select_args select_args(const kvf_batch *batch, const part *p, uint32_t layer,
                                   const float *head_weights)
{
    kvf_select_args args = {.n_queries = p->n,
                            .n_heads = batch->geometry.n_index_heads,
                            .top_k = batch->geometry.top_k,
                            .head_weights = head_weights,
                            .keys = kvf_session_index_rows(p->session, layer),
                            .first_token = p->position,
                            .ratio = batch->geometry.layers[layer].ratio,
                            .workspace = batch->scratch.select_workspace,
                            .workspace_bytes = batch->size.select_bytes};
    if (batch->profile->mask == KVF_MASK_NONE) { /* with a mask there are no lists */
        args.list = batch->scratch.list + (size_t)p->first * args.top_k;
        args.list_len = batch->scratch.list_len + p->first;
    }
    return args;
}

/* All of the span's, but for queries. An item that cannot be read fails; how many are left. */
static uint32_t prepare_select(kvf_batch *batch, uint32_t layer, kvf_chunk_span span,
                               const float *head_weights)
{
    uint32_t n = 0;
    part p = {0};
    for (; next_part(batch, span, &p); p.item++) {
        const size_t heads = (size_t)(p.first - span.first) * batch->geometry.n_index_heads;
        kvf_select_args *args = &batch->stage.select[n];
        kvf_error *why = &batch->items[p.item].error;
        *args = select_args(batch, &p, layer, head_weights + heads);
        kvf_status status = check_workspace("select", layer, args->workspace_bytes,
                                            kvf_select_workspace_bytes(batch->device, args), why);
        if (status == KVF_OK)
            status =
                kvf_paged_rows_check(&p.session->layers[layer].index_rows, args->keys.n_rows, why);
        if (status != KVF_OK)
            kvf_batch_fail(batch, p.item, status);
        else
            n++;
    }
    return n;
}

/* The masked profiles, whose scores share memory: one session after the other. */
static void select_by_masks(const kvf_batch *batch, kvf_chunk_span span)
{
    uint32_t n = 0;
    part p = {0};
    for (; next_part(batch, span, &p); p.item++)
        select_by_mask(batch, &batch->stage.select[n++], p.first);
}

kvf_status kvf_batch_select(kvf_batch *batch, uint32_t layer, kvf_chunk_span span, float *index_q,
                            const float *head_weights, kvf_error *error)
{
    KVF_FP_DOOR();
    kvf_status status = check_span(batch, layer, span, error);
    if (status != KVF_OK)
        return status;
    if (batch->geometry.layers[layer].kind != KVF_LAYER_CSA)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "layer %u does not select", layer);
    batch->select_tokens = batch->n_tokens;
    batch->select_ratio = batch->geometry.layers[layer].ratio;
    const uint32_t n = prepare_select(batch, layer, span, head_weights);
    status = kvf_batch_left(batch, error);
    if (n == 0)
        return status;
    pack_queries(batch, layer, span, index_q);
    check_values(batch, layer, span, KVF_FOUND_INDEX_WEIGHTS, head_weights, 1,
                 batch->geometry.n_index_heads);
    if (batch->profile->mask == KVF_MASK_NONE)
        batch->device->backend->select(batch->device, batch->stage.select, n);
    else
        select_by_masks(batch, span);
    return status;
}

/* What is on the device, to the host. */
static kvf_status fetch(kvf_device *device, void *to, const void *from, size_t bytes,
                        kvf_error *error)
{
    device->backend->read(device, to, from, bytes);
    return device->backend->wait(device, error);
}

/* Rows that a token saw in the layer that was selected last. */
static uint32_t n_visible(const kvf_batch *batch, uint32_t query)
{
    uint32_t item = 0;
    while (query - batch->spans[item].first >= batch->spans[item].n)
        item++;
    const uint64_t token = batch->spans[item].position + (query - batch->spans[item].first);
    return (uint32_t)((token + 1) / batch->select_ratio);
}

/* Rows that a query's mask lets through, in ascending order, at most top_k. */
static kvf_status list_of_mask(const kvf_batch *batch, uint32_t query, int32_t *list, uint32_t *n,
                               kvf_error *error)
{
    const bool wide = batch->profile->mask == KVF_MASK_F32;
    const size_t element_bytes = wide ? sizeof(float) : sizeof(uint16_t);
    const uint8_t *mask = (const uint8_t *)batch->scratch.mask +
                          (size_t)query * batch->size.select_rows * element_bytes;
    const uint32_t visible = n_visible(batch, query);
    for (uint32_t row = 0; row < visible && *n < batch->geometry.top_k;) {
        uint8_t piece[4096];
        const uint32_t most = (uint32_t)(sizeof piece / element_bytes);
        const uint32_t rows = visible - row < most ? visible - row : most;
        const kvf_status status =
            fetch(batch->device, piece, mask + row * element_bytes, rows * element_bytes, error);
        if (status != KVF_OK)
            return status;
        for (uint32_t i = 0; i < rows && *n < batch->geometry.top_k; i++, row++) {
            uint32_t bits = 0; /* of 0, which lets a row through, none is set */
            memcpy(&bits, piece + i * element_bytes, element_bytes);
            if (bits == 0)
                list[(*n)++] = (int32_t)row;
        }
    }
    return kvf_ok(error);
}

kvf_status kvf_batch_selection(const kvf_batch *batch, uint32_t query, int32_t *list, uint32_t *n,
                               kvf_error *error)
{
    uint32_t len;
    *n = 0;
    if (!list || query >= batch->select_tokens)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "the selection of token %u %s; there are those of %u tokens", query,
                        list ? "is asked for" : "needs a list", batch->select_tokens);
    if (batch->profile->mask != KVF_MASK_NONE)
        return list_of_mask(batch, query, list, n, error);
    kvf_status status =
        fetch(batch->device, &len, batch->scratch.list_len + query, sizeof len, error);
    if (status != KVF_OK)
        return status;
    KVF_ASSERT(len <= batch->geometry.top_k);
    status = fetch(batch->device, list, batch->scratch.list + (size_t)query * batch->geometry.top_k,
                   len * sizeof *list, error);
    if (status == KVF_OK)
        *n = len;
    return status;
}

/* ---- attend ------------------------------------------------------------------ */

/* What attend is about to read: the window, and of the rows those it can see. */
static kvf_status check_attended(const kvf_batch *batch, const part *p, uint32_t layer,
                                 const kvf_attend_args *args, kvf_error *error)
{
    kvf_layer_cache *cache = &p->session->layers[layer];
    kvf_status status =
        kvf_paged_rows_check(&cache->window, args->window_first + args->window.n_rows, error);
    if (!args->list)
        return status == KVF_OK ? kvf_paged_rows_check(&cache->rows, args->rows.n_rows, error)
                                : status;
    /* Elsewhere the list is not the host's to read, and nothing lies in a file. */
    const bool readable = batch->device->backend->addresses_host_memory;
    for (uint32_t i = 0; readable && i < args->n_queries && status == KVF_OK; i++)
        status = kvf_paged_rows_check_list(&cache->rows, args->list + i * args->list_stride,
                                           args->list_len[i], error);
    return status;
}

static void set_selection(const kvf_batch *batch, uint32_t first, kvf_attend_args *args)
{
    args->mask_stride = batch->size.select_rows;
    args->list_stride = batch->geometry.top_k;
    if (batch->profile->mask == KVF_MASK_F32) {
        args->mask_f32 = (const float *)batch->scratch.mask + first * args->mask_stride;
    } else if (batch->profile->mask == KVF_MASK_F16) {
        args->mask_f16 = (const uint16_t *)batch->scratch.mask + first * args->mask_stride;
    } else {
        args->list = batch->scratch.list + first * args->list_stride;
        args->list_len = batch->scratch.list_len + first;
    }
}

static kvf_attend_args attend_args(const kvf_batch *batch, const part *p, uint32_t layer)
{
    const kvf_layer_kind kind = batch->geometry.layers[layer].kind;
    kvf_attend_args args = {.n_queries = p->n,
                            .n_heads = batch->geometry.n_heads,
                            .scale = (float)(1.0 / sqrt((double)KVF_ROW_WIDTH)),
                            .first_token = p->position,
                            .window_tokens = batch->geometry.window_tokens,
                            .ratio = batch->geometry.layers[layer].ratio,
                            .workspace = batch->scratch.attend_workspace,
                            .workspace_bytes = batch->size.attend_bytes};
    args.window = window_view(p->session, layer, &args.window_first);
    if (kind != KVF_LAYER_WINDOW)
        args.rows = kvf_session_rows(p->session, layer);
    if (kind == KVF_LAYER_CSA)
        set_selection(batch, p->first, &args);
    return args;
}

/* All of the span's. An item that cannot be read fails; how many are left. */
static uint32_t prepare_attend(kvf_batch *batch, uint32_t layer, kvf_chunk_span span,
                               const float *q, const float *sinks, float *out)
{
    uint32_t n = 0;
    part p = {0};
    for (; next_part(batch, span, &p); p.item++) {
        const size_t values =
            (size_t)(p.first - span.first) * batch->geometry.n_heads * KVF_ROW_WIDTH;
        kvf_attend_args *args = &batch->stage.attend[n];
        kvf_error *why = &batch->items[p.item].error;
        *args = attend_args(batch, &p, layer);
        args->q = q + values;
        args->sinks = sinks;
        args->out = out + values;
        kvf_status status = check_workspace("attend", layer, args->workspace_bytes,
                                            kvf_attend_workspace_bytes(batch->device, args), why);
        if (status == KVF_OK)
            status = check_attended(batch, &p, layer, args, why);
        if (status != KVF_OK)
            kvf_batch_fail(batch, p.item, status);
        else
            n++;
    }
    return n;
}

kvf_status kvf_batch_attend(kvf_batch *batch, uint32_t layer, kvf_chunk_span span, const float *q,
                            const float *sinks, float *out, kvf_error *error)
{
    KVF_FP_DOOR();
    kvf_status status = check_span(batch, layer, span, error);
    if (status != KVF_OK)
        return status;
    const uint32_t n = prepare_attend(batch, layer, span, q, sinks, out);
    if (n > 0) {
        check_values(batch, layer, span, KVF_FOUND_QUERIES, q, batch->geometry.n_heads,
                     KVF_ROW_WIDTH);
        batch->device->backend->attend(batch->device, batch->stage.attend, n);
    }
    return kvf_batch_left(batch, error);
}
