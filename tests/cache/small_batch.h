/* Batches of sessions of small.h: every token brings what it brings to a session alone. */
#ifndef KVF_TESTS_CACHE_SMALL_BATCH_H
#define KVF_TESTS_CACHE_SMALL_BATCH_H

#include "cache/small.h"

#define SMALL_MOST_ITEMS 32

/* The next n tokens of a text for a session. */
typedef struct small_part {
    kvf_session *session;
    uint32_t n;
    uint32_t text;
} small_part;

static int32_t small_ids[SMALL_MOST_ITEMS][SMALL_CHUNK];
static small_inputs *small_piece; /* of one item */
/* Called before an item's inputs of a layer take their place; NULL: they stay good. */
static void (*small_spoil_item)(uint32_t item, uint32_t layer);

static inline kvf_batch *small_open_batch(kvf_profile_id profile, uint32_t n_items)
{
    kvf_batch *batch;
    kvf_error error;
    const kvf_session_options options = {.profile = profile,
                                         .max_tokens = 8192,
                                         .chunk_tokens = SMALL_CHUNK,
                                         .batch_sessions = n_items};
    if (kvf_batch_open(small_device, &small_geometry, &options, &batch, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return batch;
}

static inline void small_items(const small_part *parts, uint32_t n, kvf_batch_item *items)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t first = parts[i].session ? kvf_session_n_tokens(parts[i].session) : 0;
        for (uint32_t t = 0; t < parts[i].n && t < SMALL_CHUNK; t++)
            small_ids[i][t] = small_token(first + t, parts[i].text);
        items[i] =
            (kvf_batch_item){.session = parts[i].session, .ids = small_ids[i], .n = parts[i].n};
    }
}

#define SMALL_PLACE(member, at, n)                                                                 \
    memcpy(all->member + (size_t)(at), small_piece->member, (size_t)(n) * sizeof(float))

/* An item's inputs of a layer, behind those of the ones before; *row: compressed rows so far. */
static inline void small_place_item(small_inputs *all, uint32_t item, kvf_item_span span,
                                    const int32_t *ids, uint32_t layer, uint64_t *row)
{
    const kvf_layer kind = small_geometry.layers[layer];
    const uint32_t parts = kind.kind == KVF_LAYER_HCA ? 1 : 2;
    small_in = small_piece;
    small_fill_chunk(span.position, ids, span.n, layer);
    for (uint32_t i = 1; parts == 1 && i < span.n; i++) {
        memmove(small_in->kv + i * 512, small_in->kv + i * 1024, 512 * sizeof(float));
        memmove(small_in->gate + i * 512, small_in->gate + i * 1024, 512 * sizeof(float));
    }
    small_append_args(span.position, span.n, kind);
    if (small_spoil_item)
        small_spoil_item(item, layer);
    SMALL_PLACE(window, span.first * 512, span.n * 512);
    SMALL_PLACE(kv, span.first * parts * 512, span.n * parts * 512);
    SMALL_PLACE(gate, span.first * parts * 512, span.n * parts * 512);
    SMALL_PLACE(index_kv, span.first * 256, span.n * 256);
    SMALL_PLACE(index_gate, span.first * 256, span.n * 256);
    SMALL_PLACE(q, span.first * SMALL_HEADS * 512, span.n * SMALL_HEADS * 512);
    SMALL_PLACE(index_q, span.first * SMALL_INDEX_HEADS * 128, span.n * SMALL_INDEX_HEADS * 128);
    SMALL_PLACE(head_weights, span.first * SMALL_INDEX_HEADS, span.n * SMALL_INDEX_HEADS);
    if (kind.ratio) {
        const uint64_t n_rows = (span.position + span.n) / kind.ratio - span.position / kind.ratio;
        SMALL_PLACE(cosines, *row * 32, n_rows * 32);
        SMALL_PLACE(sines, *row * 32, n_rows * 32);
        *row += n_rows;
    }
    small_in = all;
}

/* One layer, select and attend in pieces of `piece` tokens. */
static inline kvf_status small_batch_layer(kvf_batch *batch, uint32_t n_items, uint32_t layer,
                                           uint32_t piece, kvf_error *error)
{
    const uint32_t n_tokens = kvf_batch_n_tokens(batch);
    uint64_t row = 0;
    for (uint32_t i = 0; i < n_items; i++)
        if (kvf_batch_span(batch, i).n > 0)
            small_place_item(small_in, i, kvf_batch_span(batch, i),
                             kvf_batch_tokens(batch) + kvf_batch_span(batch, i).first, layer, &row);
    small_send(n_tokens);
    const small_inputs *there = small_there;
    const kvf_append_args args = {
        .window = there->window,
        .rows = {there->kv, there->gate, there->bias, there->norm, 1e-6f},
        .index = {there->index_kv, there->index_gate, there->bias, there->norm, 1e-6f},
        .row_rope = {there->cosines, there->sines}};
    kvf_status status = kvf_batch_append(batch, layer, &args, error);
    for (uint32_t first = 0; first < n_tokens && status == KVF_OK; first += piece) {
        const kvf_chunk_span span = {first, n_tokens - first < piece ? n_tokens - first : piece};
        const size_t heads = (size_t)first * SMALL_HEADS * 512;
        if (small_geometry.layers[layer].kind == KVF_LAYER_CSA)
            status = kvf_batch_select(batch, layer, span,
                                      small_there->index_q + first * SMALL_INDEX_HEADS * 128,
                                      small_there->head_weights + first * SMALL_INDEX_HEADS, error);
        if (status == KVF_OK)
            status = kvf_batch_attend(batch, layer, span, small_there->q + heads, NULL,
                                      small_there->out + heads, error);
    }
    small_device->backend->read(small_device, small_in->out, small_there->out,
                                n_tokens * SMALL_HEADS * 512 * sizeof(float));
    return status;
}

/* A whole batch; an item's logits are the last layer's output for its last token. */
static inline kvf_status small_batch(kvf_batch *batch, kvf_batch_item *items, uint32_t n_items,
                                     uint32_t piece, kvf_error *error)
{
    kvf_status status = kvf_batch_begin(batch, items, n_items, error);
    for (uint32_t layer = 0; layer < small_geometry.n_layers && status == KVF_OK; layer++)
        status = small_batch_layer(batch, n_items, layer, piece, error);
    if (status == KVF_OK)
        status = kvf_batch_settle(batch, error);
    if (status != KVF_OK)
        return status;
    for (uint32_t i = 0; i < n_items; i++) {
        const kvf_item_span span = kvf_batch_span(batch, i);
        if (items[i].status == KVF_OK)
            memcpy(kvf_session_logits(items[i].session),
                   small_in->out + (size_t)(span.first + span.n - 1) * SMALL_HEADS * 512,
                   SMALL_VOCAB * sizeof(float));
    }
    return kvf_batch_commit(batch, error);
}

static inline int small_batch_setup(void **state)
{
    small_piece = calloc(1, sizeof *small_piece);
    return small_piece ? small_setup(state) : 1;
}

static inline int small_batch_teardown(void **state)
{
    free(small_piece);
    return small_teardown(state);
}

#endif
