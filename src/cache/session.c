/* A session: opening, closing, and what it reports of itself. */
#include "cache/session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "format/format.h"

/* Empty tables of a layer's rows. */
static kvf_status open_layer(kvf_session *session, uint32_t i, kvf_error *error)
{
    const kvf_layer layer = session->geometry.layers[i];
    const kvf_profile *profile = session->profile;
    const uint64_t max_tokens = session->options.max_tokens;
    const uint64_t window_pages =
        kvf_window_most_pages(session->geometry.window_tokens, session->options.chunk_tokens);
    kvf_layer_cache *cache = &session->layers[i];
    kvf_status status = kvf_paged_rows_open(session, &cache->window, profile->window_format,
                                            KVF_ROW_WIDTH, window_pages * KVF_PAGE_ROWS, error);
    if (status == KVF_OK && layer.kind != KVF_LAYER_WINDOW)
        status = kvf_paged_rows_open(session, &cache->rows, profile->row_format, KVF_ROW_WIDTH,
                                     kvf_layer_rows(layer, max_tokens), error);
    if (status == KVF_OK && layer.kind == KVF_LAYER_CSA)
        status =
            kvf_paged_rows_open(session, &cache->index_rows, profile->index_format, KVF_INDEX_WIDTH,
                                kvf_layer_index_rows(layer, max_tokens), error);
    return status;
}

static kvf_status open_states(kvf_session *session, uint32_t i, kvf_error *error)
{
    const kvf_layer layer = session->geometry.layers[i];
    kvf_layer_cache *cache = &session->layers[i];
    if (layer.kind == KVF_LAYER_WINDOW)
        return KVF_OK;
    cache->row_state = kvf_session_new_page(session, KVF_PLACE_DEVICE,
                                            4 * kvf_layer_state_floats(layer, KVF_ROW_WIDTH));
    if (layer.kind == KVF_LAYER_CSA)
        cache->index_state = kvf_session_new_page(
            session, KVF_PLACE_DEVICE, 4 * kvf_layer_state_floats(layer, KVF_INDEX_WIDTH));
    if (!cache->row_state || (layer.kind == KVF_LAYER_CSA && !cache->index_state))
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the compressor state of layer %u",
                        i);
    return KVF_OK;
}

uint64_t kvf_session_header_bytes(const kvf_session *session)
{
    return sizeof(kvf_session_header) + sizeof(kvf_row_counts) * session->geometry.n_layers;
}

static kvf_status open_parts(kvf_session *session, kvf_error *error)
{
    session->layers = calloc(session->geometry.n_layers, sizeof *session->layers);
    session->header = kvf_session_alloc(session, kvf_session_header_bytes(session));
    session->logits = kvf_session_alloc(session, 4ull * session->geometry.vocab);
    session->before =
        calloc((size_t)session->geometry.n_layers * KVF_LAYER_STATES, sizeof(kvf_page *));
    if (!session->layers || !session->header || !session->logits || !session->before)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a session");
    const kvf_status opened = kvf_checkpoints_open(session, error);
    if (opened != KVF_OK)
        return opened;
    /* 52 is a multiple of 4, the alignment of the counts. */
    session->row_counts =
        (kvf_row_counts *)((uint8_t *)session->header + sizeof(kvf_session_header));
    memcpy(session->header->magic, "kvfold\0", 8);
    session->header->version = 1;
    session->header->profile = session->options.profile;
    session->header->n_layers = session->geometry.n_layers;
    session->header->vocab = session->geometry.vocab;
    session->header->max_tokens = session->options.max_tokens;
    session->header->flags = session->options.grid_off ? 1 : 0;
    session->logits_known = true; /* zeros, while there is no token */
    for (uint32_t i = 0; i < session->geometry.n_layers; i++) {
        const kvf_status status = open_layer(session, i, error);
        if (status != KVF_OK)
            return status;
    }
    return KVF_OK;
}

kvf_status kvf_session_open_tables(kvf_device *device, const kvf_geometry *geometry,
                                   const kvf_session_options *resolved, kvf_session **out,
                                   kvf_error *error)
{
    *out = NULL;
    kvf_session *session = calloc(1, sizeof *session);
    if (!session)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a session");
    session->device = device;
    session->profile = kvf_profile_get(resolved->profile);
    session->geometry = *geometry;
    session->options = *resolved;
    const kvf_status status = open_parts(session, error);
    if (status == KVF_OK)
        *out = session;
    else
        kvf_session_close(session);
    return status;
}

kvf_status kvf_session_open(kvf_device *device, const kvf_geometry *geometry,
                            const kvf_session_options *options, kvf_session **out, kvf_error *error)
{
    *out = NULL;
    kvf_session_options resolved;
    kvf_status status = kvf_options_resolve(geometry, options, &resolved, error);
    if (status != KVF_OK)
        return status;
    resolved.backend = device->backend->name;
    resolved.n_threads = device->n_threads;
    status = kvf_session_check_memory(device, geometry, &resolved, error);
    if (status != KVF_OK)
        return status;
    kvf_session *session;
    status = kvf_session_open_tables(device, geometry, &resolved, &session, error);
    if (status != KVF_OK)
        return status;
    for (uint32_t i = 0; i < geometry->n_layers && status == KVF_OK; i++)
        status = open_states(session, i, error);
    if (status != KVF_OK) {
        kvf_session_close(session);
        return status;
    }
    *out = session;
    return kvf_ok(error);
}

/* What there is of a session that is in no batch. */
static void close_parts(kvf_session *session)
{
    for (uint32_t i = 0; session->layers && i < session->geometry.n_layers; i++) {
        kvf_layer_cache *cache = &session->layers[i];
        kvf_paged_rows_close(session, &cache->window);
        kvf_paged_rows_close(session, &cache->rows);
        kvf_paged_rows_close(session, &cache->index_rows);
        kvf_session_drop_page(session, cache->row_state);
        kvf_session_drop_page(session, cache->index_state);
    }
    free(session->layers);
    kvf_session_release(session, session->header, kvf_session_header_bytes(session));
    kvf_session_release(session, session->logits, 4ull * session->geometry.vocab);
    kvf_session_drop_page(session, session->tokens);
    kvf_checkpoints_close(session);
    free(session->before);
    free(session);
}

kvf_status kvf_session_close(kvf_session *session)
{
    if (!session)
        return KVF_OK;
    kvf_session_drop(session);
    if (session->batch)
        return KVF_INVALID_ARGUMENT;
    kvf_batch_close(session->alone);
    kvf_device *device = session->device;
    close_parts(session);
    kvf_device_trim(device);
    return KVF_OK;
}

/* ---- Reports ----------------------------------------------------------------- */

uint64_t kvf_session_n_tokens(const kvf_session *session)
{
    return session->header->n_tokens;
}

const int32_t *kvf_session_tokens(const kvf_session *session)
{
    return session->tokens ? session->tokens->memory : NULL;
}

float *kvf_session_logits(kvf_session *session)
{
    kvf_session_wait_logits(session, NULL);
    return session->logits;
}

void kvf_session_queue_logits(kvf_session *session, const float *logits)
{
    session->device->backend->copy(session->device, session->logits, logits,
                                   sizeof(float) * session->geometry.vocab);
    session->logits_queued = true;
}

kvf_status kvf_session_wait_logits(kvf_session *session, kvf_error *error)
{
    if (!session->logits_queued)
        return kvf_ok(error);
    const kvf_status status = session->device->backend->wait(session->device, error);
    for (uint32_t i = 0; status != KVF_OK && i < session->geometry.vocab; i++)
        session->logits[i] = NAN;
    session->logits_queued = status != KVF_OK;
    return status;
}

bool kvf_session_logits_known(const kvf_session *session)
{
    return session->logits_known;
}

uint64_t kvf_session_inexact_rows(const kvf_session *session)
{
    return session->inexact_rows;
}

static uint64_t held_rows_bytes(const kvf_paged_rows *rows, uint64_t n_rows)
{
    return n_rows * kvf_format_row_bytes(rows->format, rows->width);
}

uint64_t kvf_session_held_bytes(const kvf_session *session)
{
    const uint64_t n_tokens = session->header->n_tokens;
    const uint64_t window = session->geometry.window_tokens;
    uint64_t bytes =
        kvf_session_header_bytes(session) + 4ull * session->geometry.vocab + 4 * n_tokens;
    for (uint32_t i = 0; i < session->geometry.n_layers; i++) {
        const kvf_layer_cache *cache = &session->layers[i];
        bytes += held_rows_bytes(&cache->window, n_tokens < window ? n_tokens : window);
        bytes += held_rows_bytes(&cache->rows, session->row_counts[i].rows);
        bytes += held_rows_bytes(&cache->index_rows, session->row_counts[i].index_rows);
        bytes += cache->row_state ? cache->row_state->bytes : 0;
        bytes += cache->index_state ? cache->index_state->bytes : 0;
    }
    return bytes;
}

uint64_t kvf_session_allocated_bytes(const kvf_session *session)
{
    return session->allocated_bytes;
}

static uint64_t shared_page_bytes(const kvf_page *page)
{
    return page && !page->owner && page->n_sessions > 1 ? page->bytes : 0;
}

static uint64_t shared_rows_bytes(const kvf_paged_rows *rows)
{
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < rows->n_pages; i++)
        bytes += shared_page_bytes(rows->pages[i]);
    return bytes;
}

uint64_t kvf_session_shared_bytes(const kvf_session *session)
{
    uint64_t bytes = shared_page_bytes(session->tokens);
    for (uint32_t i = 0; i < session->geometry.n_layers; i++) {
        const kvf_layer_cache *cache = &session->layers[i];
        bytes += shared_rows_bytes(&cache->window) + shared_rows_bytes(&cache->rows) +
                 shared_rows_bytes(&cache->index_rows) + shared_page_bytes(cache->row_state) +
                 shared_page_bytes(cache->index_state);
    }
    return bytes;
}

uint64_t kvf_session_mapped_bytes(const kvf_session *session)
{
    return session->mapped_bytes;
}

kvf_rows kvf_session_rows(const kvf_session *session, uint32_t layer)
{
    if (layer >= session->geometry.n_layers)
        return (kvf_rows){.page_rows = KVF_PAGE_ROWS};
    const uint64_t n_tokens = session->header->n_tokens + session->chunk_tokens;
    return kvf_paged_rows_view(&session->layers[layer].rows,
                               kvf_layer_rows(session->geometry.layers[layer], n_tokens));
}

kvf_rows kvf_session_index_rows(const kvf_session *session, uint32_t layer)
{
    if (layer >= session->geometry.n_layers)
        return (kvf_rows){.page_rows = KVF_PAGE_ROWS};
    const uint64_t n_tokens = session->header->n_tokens + session->chunk_tokens;
    return kvf_paged_rows_view(&session->layers[layer].index_rows,
                               kvf_layer_index_rows(session->geometry.layers[layer], n_tokens));
}

/* ---- What it carries into its file -------------------------------------------- */

uint8_t *kvf_session_caller_state(kvf_session *session)
{
    return session->caller_state;
}

void kvf_session_set_model_fingerprint(kvf_session *session, uint64_t fingerprint)
{
    session->header->model_fingerprint = fingerprint;
}

uint64_t kvf_session_model_fingerprint(const kvf_session *session)
{
    return session->header->model_fingerprint;
}

kvf_status kvf_session_check(kvf_session *session, kvf_error *error)
{
    for (uint32_t i = 0; i < session->geometry.n_layers; i++) {
        kvf_layer_cache *layer = &session->layers[i];
        kvf_paged_rows *const all[] = {&layer->window, &layer->rows, &layer->index_rows};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) {
            const kvf_status status = kvf_paged_rows_check(
                all[j], all[j]->first_row + all[j]->n_pages * KVF_PAGE_ROWS, error);
            if (status != KVF_OK)
                return status;
        }
    }
    for (uint32_t i = 0; i < session->checkpoints.n; i++) {
        const kvf_checkpoint *checkpoint = session->checkpoints.list[i];
        const size_t n = (size_t)session->geometry.n_layers * checkpoint->n_pages;
        kvf_status status = kvf_page_check(checkpoint->halves, error);
        for (size_t j = 0; j < n && status == KVF_OK; j++)
            status = kvf_page_check(checkpoint->window[j], error);
        if (status != KVF_OK)
            return status;
    }
    return kvf_ok(error);
}
