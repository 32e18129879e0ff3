/*
 * A small geometry and tokens for it without a model: all inputs of a layer follow from
 * the token's id and position, so that the same tokens in any chunks bring the same rows.
 */
#ifndef KVF_TESTS_CACHE_SMALL_H
#define KVF_TESTS_CACHE_SMALL_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"

#ifndef SMALL_CHUNK
#define SMALL_CHUNK 300
#endif
#define SMALL_VOCAB 97
#define SMALL_HEADS 2
#define SMALL_INDEX_HEADS 8

/* What a chunk brings to any layer, and what attend gives for it. */
typedef struct small_inputs {
    float window[SMALL_CHUNK * 512];
    float kv[SMALL_CHUNK * 1024], gate[SMALL_CHUNK * 1024];
    float index_kv[SMALL_CHUNK * 256], index_gate[SMALL_CHUNK * 256];
    float bias[128 * 1024], norm[512];
    float cosines[SMALL_CHUNK * 32], sines[SMALL_CHUNK * 32];
    float q[SMALL_CHUNK * SMALL_HEADS * 512], out[SMALL_CHUNK * SMALL_HEADS * 512];
    float index_q[SMALL_CHUNK * SMALL_INDEX_HEADS * 128];
    float head_weights[SMALL_CHUNK * SMALL_INDEX_HEADS];
} small_inputs;

static small_inputs *small_in;
static small_inputs *small_there; /* the same on the device: an address, not looked at */
/* Called before a layer's inputs go to the device; NULL: they stay good. */
static void (*small_spoil)(uint32_t layer);

/* One layer of each kind, a second CSA layer. */
static const kvf_geometry small_geometry = {
    .n_layers = 4,
    .vocab = SMALL_VOCAB,
    .n_heads = SMALL_HEADS,
    .n_index_heads = SMALL_INDEX_HEADS,
    .top_k = 16,
    .window_tokens = 128,
    .max_tokens = 1 << 20,
    .layers = {[1] = {KVF_LAYER_CSA, 4}, [2] = {KVF_LAYER_HCA, 128}, [3] = {KVF_LAYER_CSA, 4}}};
/* A device of one thread, opened by small_setup: the CPU, or what KVF_TEST_BACKEND names. */
static kvf_device *small_device;

/* n values of -2 .. 2 that follow from the seed. */
static inline void small_fill(float *values, size_t n, uint64_t seed)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
    for (size_t i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        values[i] = (float)((double)(state >> 11) / 9007199254740992.0 * 4.0 - 2.0);
    }
}

/* The id of token t of text `text`; texts share the tokens before their branch. */
static inline int32_t small_token(uint64_t t, uint32_t text)
{
    return (int32_t)((t * 31 + t / 7 + text * 13) % SMALL_VOCAB);
}

static inline void small_fill_chunk(uint64_t first, const int32_t *tokens, uint32_t n,
                                    uint32_t layer)
{
    small_inputs *in = small_in;
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t seed = ((first + i) * SMALL_VOCAB + (uint64_t)tokens[i]) * 8 + layer + 1;
        small_fill(in->window + i * 512, 512, seed);
        small_fill(in->kv + i * 1024, 1024, seed + (1ull << 40));
        small_fill(in->gate + i * 1024, 1024, seed + (2ull << 40));
        small_fill(in->index_kv + i * 256, 256, seed + (3ull << 40));
        small_fill(in->index_gate + i * 256, 256, seed + (4ull << 40));
        small_fill(in->q + (size_t)i * SMALL_HEADS * 512, SMALL_HEADS * 512, seed + (5ull << 40));
        small_fill(in->index_q + (size_t)i * SMALL_INDEX_HEADS * 128, SMALL_INDEX_HEADS * 128,
                   seed + (6ull << 40));
        small_fill(in->head_weights + (size_t)i * SMALL_INDEX_HEADS, SMALL_INDEX_HEADS,
                   seed + (7ull << 40));
    }
}

/* HCA layers have one part: the same buffers, read as [n][512]. Rope is the row's. */
static inline kvf_append_args small_append_args(uint64_t first, uint32_t n, kvf_layer layer)
{
    small_inputs *in = small_in;
    const uint32_t ratio = layer.kind == KVF_LAYER_WINDOW ? 1 : layer.ratio;
    for (uint64_t row = first / ratio; layer.ratio && row < (first + n) / ratio; row++) {
        const size_t at = (size_t)(row - first / ratio) * 32;
        small_fill(in->cosines + at, 32, row + 1000003);
        small_fill(in->sines + at, 32, row + 2000003);
    }
    const small_inputs *there = small_there;
    return (kvf_append_args){
        .window = there->window,
        .rows = {there->kv, there->gate, there->bias, there->norm, 1e-6f},
        .index = {there->index_kv, there->index_gate, there->bias, there->norm, 1e-6f},
        .row_rope = {there->cosines, there->sines}};
}

#define SMALL_SEND(member, n)                                                                      \
    small_device->backend->write(small_device, small_there->member, small_in->member,              \
                                 (n) * sizeof(float))

/* What a layer reads of n tokens. */
static inline void small_send(uint32_t n)
{
    SMALL_SEND(window, n * 512);
    SMALL_SEND(kv, n * 1024);
    SMALL_SEND(gate, n * 1024);
    SMALL_SEND(index_kv, n * 256);
    SMALL_SEND(index_gate, n * 256);
    SMALL_SEND(cosines, n * 32);
    SMALL_SEND(sines, n * 32);
    SMALL_SEND(q, n * SMALL_HEADS * 512);
    SMALL_SEND(index_q, n * SMALL_INDEX_HEADS * 128);
    SMALL_SEND(head_weights, n * SMALL_INDEX_HEADS);
}

/* One layer of an open chunk; its output is in small_in after a wait. */
static inline kvf_status small_layer(kvf_session *session, const int32_t *tokens, uint32_t n,
                                     uint32_t layer, kvf_error *error)
{
    const uint64_t first = kvf_session_n_tokens(session);
    small_fill_chunk(first, tokens, n, layer);
    if (small_geometry.layers[layer].kind == KVF_LAYER_HCA)
        for (uint32_t i = 1; i < n; i++) { /* to [n][512] */
            memmove(small_in->kv + i * 512, small_in->kv + i * 1024, 512 * sizeof(float));
            memmove(small_in->gate + i * 512, small_in->gate + i * 1024, 512 * sizeof(float));
        }
    const kvf_append_args args = small_append_args(first, n, small_geometry.layers[layer]);
    if (small_spoil)
        small_spoil(layer);
    small_send(n);
    kvf_status status = kvf_session_append(session, layer, &args, error);
    if (status == KVF_OK && small_geometry.layers[layer].kind == KVF_LAYER_CSA)
        status = kvf_session_select(session, layer, (kvf_chunk_span){0, n}, small_there->index_q,
                                    small_there->head_weights, error);
    if (status == KVF_OK)
        status = kvf_session_attend(session, layer, (kvf_chunk_span){0, n}, small_there->q, NULL,
                                    small_there->out, error);
    small_device->backend->read(small_device, small_in->out, small_there->out,
                                n * SMALL_HEADS * 512 * sizeof(float));
    return status;
}

/* A whole chunk; its logits are the last layer's output for its last token. */
static inline kvf_status small_chunk(kvf_session *session, const int32_t *tokens, uint32_t n,
                                     kvf_error *error)
{
    kvf_status status = kvf_session_begin(session, tokens, n, error);
    for (uint32_t layer = 0; layer < small_geometry.n_layers && status == KVF_OK; layer++)
        status = small_layer(session, tokens, n, layer, error);
    if (status == KVF_OK)
        status = kvf_session_settle(session, error);
    if (status != KVF_OK)
        return status;
    memcpy(kvf_session_logits(session), small_in->out + (size_t)(n - 1) * SMALL_HEADS * 512,
           SMALL_VOCAB * sizeof(float));
    return kvf_session_commit(session, error);
}

/* n more tokens of a text in one chunk. */
static inline void small_feed(kvf_session *session, uint32_t n, uint32_t text)
{
    int32_t tokens[SMALL_CHUNK];
    kvf_error error;
    const uint64_t first = kvf_session_n_tokens(session);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = small_token(first + i, text);
    if (small_chunk(session, tokens, n, &error) != KVF_OK)
        fail_msg("%s", error.message);
}

static inline kvf_session *small_open(kvf_profile_id profile, uint32_t checkpoint_count)
{
    kvf_session *session;
    kvf_error error;
    const kvf_session_options options = {.profile = profile,
                                         .max_tokens = 8192,
                                         .chunk_tokens = SMALL_CHUNK,
                                         .checkpoint_count = checkpoint_count};
    if (kvf_session_open(small_device, &small_geometry, &options, &session, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return session;
}

static inline int small_setup(void **state)
{
    (void)state;
    const kvf_device_options options = {
        .backend = getenv("KVF_TEST_BACKEND"), .isa = getenv("KVF_TEST_ISA"), .n_threads = 1};
    small_in = calloc(1, sizeof *small_in);
    if (!small_in || kvf_device_open(&options, &small_device, NULL) != KVF_OK)
        return 1;
    small_there = small_device->backend->alloc(small_device, sizeof *small_in, KVF_PLACE_DEVICE);
    small_fill(small_in->bias, sizeof small_in->bias / sizeof(float), 1);
    small_fill(small_in->norm, 512, 2);
    if (!small_there)
        return 1;
    SMALL_SEND(bias, sizeof small_in->bias / sizeof(float));
    SMALL_SEND(norm, 512);
    return 0;
}

static inline int small_teardown(void **state)
{
    (void)state;
    free(small_in);
    small_device->backend->release(small_device, small_there, sizeof *small_there);
    kvf_device_close(small_device);
    return 0;
}

#endif
