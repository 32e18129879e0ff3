/*
 * The stages of one layer inside a chunk: append (compress and pack), select,
 * attend. Each calls the backend with views of the session's pages.
 */
#include <math.h>
#include <string.h>

#include "cache/session.h"
#include "error.h"
#include "format/format.h"
#include "shared/fp_environment.h"

static kvf_status check_chunk(kvf_session *session, uint32_t layer, kvf_error *error)
{
    if (session->chunk_tokens == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "no chunk is open: call begin first");
    if (layer >= session->geometry.n_layers)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "layer %u; the model has %u", layer,
                        session->geometry.n_layers);
    session->settled = false;
    return KVF_OK;
}

/* ---- append: compress, pack -------------------------------------------------- */

/* The layer's window rows, and the token of the first of them. */
static kvf_rows window_view(const kvf_session *session, uint32_t layer, uint64_t *first)
{
    const kvf_paged_rows *window = &session->layers[layer].window;
    *first = window->first_row;
    return kvf_paged_rows_view(window, session->header->n_tokens + session->chunk_tokens);
}

static void pack_window(kvf_session *session, uint32_t layer, const float *rows)
{
    uint64_t first;
    kvf_pack_args args = {.rows = rows,
                          .stride = KVF_ROW_WIDTH,
                          .n_rows = session->chunk_tokens,
                          .grid = session->options.grid_off ? KVF_GRID_NONE : KVF_GRID_FP8,
                          .out = window_view(session, layer, &first)};
    args.first_row = session->header->n_tokens - first;
    session->device->backend->pack(session->device, &args,
                                   kvf_session_found(session, layer, KVF_FOUND_WINDOW, 0));
}

static void compress(kvf_session *session, uint32_t layer, const kvf_append_args *args, bool index)
{
    const kvf_layer kind = session->geometry.layers[layer];
    const kvf_grid grid = index ? KVF_GRID_FP4 : KVF_GRID_FP8;
    const kvf_compress_args compress = {.width = index ? KVF_INDEX_WIDTH : KVF_ROW_WIDTH,
                                        .ratio = kind.ratio,
                                        .overlap = kind.kind == KVF_LAYER_CSA,
                                        .first_token = session->header->n_tokens,
                                        .n = session->chunk_tokens,
                                        .input = index ? args->index : args->rows,
                                        .rope = args->row_rope,
                                        .state = index ? session->layers[layer].index_state->memory
                                                       : session->layers[layer].row_state->memory,
                                        .hadamard = index && !session->options.grid_off,
                                        .grid = session->options.grid_off ? KVF_GRID_NONE : grid,
                                        .out = index ? kvf_session_index_rows(session, layer)
                                                     : kvf_session_rows(session, layer)};
    session->device->backend->compress(
        session->device, &compress,
        kvf_session_found(session, layer, index ? KVF_FOUND_INDEX_ROWS : KVF_FOUND_ROWS, 0));
}

kvf_status kvf_session_append(kvf_session *session, uint32_t layer, const kvf_append_args *args,
                              kvf_error *error)
{
    KVF_FP_DOOR();
    const kvf_status status = check_chunk(session, layer, error);
    if (status != KVF_OK)
        return status;
    const kvf_layer_kind kind = session->geometry.layers[layer].kind;
    pack_window(session, layer, args->window);
    if (kind != KVF_LAYER_WINDOW)
        compress(session, layer, args, false);
    if (kind == KVF_LAYER_CSA)
        compress(session, layer, args, true);
    return kvf_ok(error);
}

/* ---- select ------------------------------------------------------------------ */

/* Rows that the token of the chunk, and all after it, can see. */
static uint32_t n_visible(const kvf_session *session, uint32_t ratio, uint32_t token)
{
    return (uint32_t)((session->header->n_tokens + token + 1) / ratio);
}

/* Tells the device how many rows each token sees; in pieces that fit a small array. */
static void fill_visible(kvf_session *session, uint32_t ratio, kvf_chunk_span span)
{
    const uint32_t end = span.first + span.n_tokens;
    uint32_t counts[256];
    for (uint32_t first = span.first; first < end;) {
        uint32_t n = 0;
        for (; n < sizeof counts / sizeof *counts && n < end - first; n++)
            counts[n] = n_visible(session, ratio, first + n);
        session->device->backend->write(session->device, session->scratch.visible + first, counts,
                                        n * sizeof *counts);
        first += n;
    }
}

/* check_chunk, and that the tokens are the chunk's. */
static kvf_status check_span(kvf_session *session, uint32_t layer, kvf_chunk_span span,
                             kvf_error *error)
{
    const kvf_status status = check_chunk(session, layer, error);
    if (status != KVF_OK)
        return status;
    if (span.n_tokens == 0 || span.first >= session->chunk_tokens ||
        span.n_tokens > session->chunk_tokens - span.first)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "tokens %u .. + %u of a chunk of %u",
                        span.first, span.n_tokens, session->chunk_tokens);
    return KVF_OK;
}

/*
 * A query that is not finite is an error: its scores would be NaN, which drop out of a softmax
 * or a selection unseen. So is a weight of an index head, of which a token has a row.
 */
static void check_values(kvf_session *session, uint32_t layer, kvf_found_place place,
                         kvf_chunk_span span, const float *values, uint32_t rows_per_token,
                         uint32_t width)
{
    const kvf_check_args args = {
        .n_rows = (uint64_t)span.n_tokens * rows_per_token, .width = width, .values = values};
    session->device->backend->check(
        session->device, &args,
        kvf_session_found(session, layer, place, (uint64_t)span.first * rows_per_token));
}

/*
 * Index queries to the grid: packed codes in the profile without a mask, f32 values
 * in place where index rows are f32.
 */
static kvf_rows pack_queries(kvf_session *session, uint32_t layer, kvf_chunk_span span,
                             float *index_q)
{
    const uint32_t n_heads = session->geometry.n_index_heads;
    const kvf_format_id format = session->profile->index_format;
    const kvf_rows queries = {
        .format = format,
        .width = KVF_INDEX_WIDTH,
        .page_rows = n_heads,
        .n_rows = (uint64_t)span.n_tokens * n_heads,
        .base = format == KVF_FORMAT_F32 ? (void *)index_q : (void *)session->scratch.queries,
        .page_stride_bytes = kvf_format_page_bytes(format, KVF_INDEX_WIDTH, n_heads)};
    const kvf_pack_args args = {.rows = index_q,
                                .stride = KVF_INDEX_WIDTH,
                                .n_rows = queries.n_rows,
                                .grid = KVF_GRID_FP4,
                                .hadamard = true,
                                .out = queries};
    if (session->options.grid_off)
        check_values(session, layer, KVF_FOUND_INDEX_QUERIES, span, index_q, n_heads,
                     KVF_INDEX_WIDTH);
    else
        session->device->backend->pack(session->device, &args,
                                       kvf_session_found(session, layer, KVF_FOUND_INDEX_QUERIES,
                                                         (uint64_t)span.first * n_heads));
    return queries;
}

/* The masked profiles: scores by tiles of queries, then each tile's part of the mask. */
static void select_by_mask(kvf_session *session, const kvf_select_args *select,
                           uint32_t first_token)
{
    const kvf_backend *backend = session->device->backend;
    const uint64_t stride = session->size.select_rows;
    const uint32_t tile = session->options.score_tile_tokens;
    for (uint32_t first = 0; first < select->n_queries; first += tile) {
        const uint32_t n = select->n_queries - first < tile ? select->n_queries - first : tile;
        const kvf_score_args score = {.select = select,
                                      .first_query = first,
                                      .n_queries = n,
                                      .n_rows = select->keys.n_rows,
                                      .scores = session->scratch.scores,
                                      .stride = stride};
        backend->score(session->device, &score);
        if (stride == 0) /* a context shorter than the first row: there is no mask */
            continue;
        kvf_mask_args mask = {.n_queries = n,
                              .top_k = select->top_k,
                              .n_rows = select->keys.n_rows,
                              .scores = session->scratch.scores,
                              .score_stride = stride,
                              .n_visible = select->n_visible + first,
                              .mask_stride = stride};
        if (session->profile->mask == KVF_MASK_F32)
            mask.mask_f32 = (float *)session->scratch.mask + (first_token + first) * stride;
        else
            mask.mask_f16 = (uint16_t *)session->scratch.mask + (first_token + first) * stride;
        backend->mask(session->device, &mask);
    }
}

kvf_status kvf_session_select(kvf_session *session, uint32_t layer, kvf_chunk_span span,
                              float *index_q, const float *head_weights, kvf_error *error)
{
    KVF_FP_DOOR();
    kvf_status status = check_span(session, layer, span, error);
    if (status != KVF_OK)
        return status;
    if (session->geometry.layers[layer].kind != KVF_LAYER_CSA)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "layer %u does not select", layer);
    const size_t list_offset = (size_t)span.first * session->geometry.top_k;
    kvf_select_args args = {.n_queries = span.n_tokens,
                            .n_heads = session->geometry.n_index_heads,
                            .top_k = session->geometry.top_k,
                            .head_weights = head_weights,
                            .keys = kvf_session_index_rows(session, layer),
                            .n_visible = session->scratch.visible + span.first,
                            .list = session->scratch.list + list_offset,
                            .list_len = session->scratch.list_len + span.first,
                            .workspace = session->scratch.select_workspace,
                            .workspace_bytes = session->size.select_bytes};
    status = kvf_paged_rows_check(&session->layers[layer].index_rows, args.keys.n_rows, error);
    if (status != KVF_OK) {
        kvf_session_drop(session);
        return status;
    }
    args.queries = pack_queries(session, layer, span, index_q);
    check_values(session, layer, KVF_FOUND_INDEX_WEIGHTS, span, head_weights, 1, args.n_heads);
    fill_visible(session, session->geometry.layers[layer].ratio, span);
    if (session->profile->mask == KVF_MASK_NONE)
        session->device->backend->select(session->device, &args);
    else
        select_by_mask(session, &args, span.first);
    return kvf_ok(error);
}

/* What is on the device, to the host; false where the device was lost. */
static bool fetch(kvf_device *device, void *to, const void *from, size_t bytes)
{
    device->backend->read(device, to, from, bytes);
    return device->backend->wait(device, NULL) == KVF_OK;
}

/* Rows that a query's mask lets through, in ascending order, at most top_k. */
static uint32_t list_of_mask(const kvf_session *session, uint32_t query, int32_t *list)
{
    const bool wide = session->profile->mask == KVF_MASK_F32;
    const size_t element_bytes = wide ? sizeof(float) : sizeof(uint16_t);
    const uint8_t *mask = (const uint8_t *)session->scratch.mask +
                          (size_t)query * session->size.select_rows * element_bytes;
    uint32_t visible;
    uint32_t n = 0;
    if (!fetch(session->device, &visible, session->scratch.visible + query, sizeof visible))
        return 0;
    for (uint32_t row = 0; row < visible && n < session->geometry.top_k;) {
        uint8_t piece[4096];
        const uint32_t most = (uint32_t)(sizeof piece / element_bytes);
        const uint32_t rows = visible - row < most ? visible - row : most;
        if (!fetch(session->device, piece, mask + row * element_bytes, rows * element_bytes))
            return 0;
        for (uint32_t i = 0; i < rows && n < session->geometry.top_k; i++, row++) {
            uint32_t bits = 0; /* of 0, which lets a row through, none is set */
            memcpy(&bits, piece + i * element_bytes, element_bytes);
            if (bits == 0)
                list[n++] = (int32_t)row;
        }
    }
    return n;
}

uint32_t kvf_session_selection(const kvf_session *session, uint32_t query, int32_t *list)
{
    uint32_t n;
    if (!list || !session->has_scratch || !session->size.selects ||
        query >= session->options.chunk_tokens)
        return 0;
    if (session->profile->mask != KVF_MASK_NONE)
        return list_of_mask(session, query, list);
    if (!fetch(session->device, &n, session->scratch.list_len + query, sizeof n) ||
        n > session->geometry.top_k ||
        !fetch(session->device, list,
               session->scratch.list + (size_t)query * session->geometry.top_k, n * sizeof *list))
        return 0;
    return n;
}

/* ---- attend ------------------------------------------------------------------ */

/* What attend is about to read: the window, and of the rows those it can see. */
static kvf_status check_attended(kvf_session *session, uint32_t layer, const kvf_attend_args *args,
                                 kvf_error *error)
{
    kvf_layer_cache *cache = &session->layers[layer];
    kvf_status status =
        kvf_paged_rows_check(&cache->window, args->window_first + args->window.n_rows, error);
    if (!args->list)
        return status == KVF_OK ? kvf_paged_rows_check(&cache->rows, args->rows.n_rows, error)
                                : status;
    /* Elsewhere the list is not the host's to read, and nothing lies in a file. */
    const bool readable = session->device->backend->addresses_host_memory;
    for (uint32_t i = 0; readable && i < args->n_queries && status == KVF_OK; i++)
        status = kvf_paged_rows_check_list(&cache->rows, args->list + i * args->list_stride,
                                           args->list_len[i], error);
    return status;
}

kvf_status kvf_session_attend(kvf_session *session, uint32_t layer, kvf_chunk_span span,
                              const float *q, const float *sinks, float *out, kvf_error *error)
{
    KVF_FP_DOOR();
    kvf_status status = check_span(session, layer, span, error);
    if (status != KVF_OK)
        return status;
    const kvf_layer kind = session->geometry.layers[layer];
    kvf_attend_args args = {.n_queries = span.n_tokens,
                            .n_heads = session->geometry.n_heads,
                            .q = q,
                            .sinks = sinks,
                            .scale = (float)(1.0 / sqrt((double)KVF_ROW_WIDTH)),
                            .first_token = session->header->n_tokens + span.first,
                            .window_tokens = session->geometry.window_tokens,
                            .n_visible = session->scratch.visible + span.first,
                            .out = out,
                            .workspace = session->scratch.attend_workspace,
                            .workspace_bytes = session->size.attend_bytes};
    args.window = window_view(session, layer, &args.window_first);
    if (kind.kind != KVF_LAYER_WINDOW) {
        args.rows = kvf_session_rows(session, layer);
        fill_visible(session, kind.ratio, span);
    }
    if (kind.kind == KVF_LAYER_CSA) {
        args.mask_stride = session->size.select_rows;
        args.list_stride = session->geometry.top_k;
        if (session->profile->mask == KVF_MASK_F32) {
            args.mask_f32 = (const float *)session->scratch.mask + span.first * args.mask_stride;
        } else if (session->profile->mask == KVF_MASK_F16) {
            args.mask_f16 = (const uint16_t *)session->scratch.mask + span.first * args.mask_stride;
        } else {
            args.list = session->scratch.list + span.first * args.list_stride;
            args.list_len = session->scratch.list_len + span.first;
        }
    }
    const size_t needed = session->device->backend->attend_workspace_bytes(session->device, &args);
    if (needed > args.workspace_bytes)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "layer %u: attend needs %zu bytes of workspace, the plan gave %zu", layer,
                        needed, args.workspace_bytes);
    status = check_attended(session, layer, &args, error);
    if (status != KVF_OK) {
        kvf_session_drop(session);
        return status;
    }
    check_values(session, layer, KVF_FOUND_QUERIES, span, q, args.n_heads, KVF_ROW_WIDTH);
    session->device->backend->attend(session->device, &args);
    return kvf_ok(error);
}
