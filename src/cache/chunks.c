/*
 * A session's tokens in a batch: begin takes all memory that they need and makes everything they
 * will write the session's own; commit counts them as held; drop goes back.
 */
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "error.h"

/* What the open chunk replaced in a layer: the ring's pages, then the two states. */
static kvf_page **before_of(const kvf_session *session, uint32_t layer)
{
    return session->before + (size_t)layer * kvf_before_stride(&session->geometry);
}

/* ---- Going back ---------------------------------------------------------------- */

static void give_back_state(kvf_session *session, kvf_page **state, kvf_page **before)
{
    if (!*before)
        return;
    kvf_session_hold_page(session, *before);
    kvf_session_drop_page(session, *state);
    *state = *before;
    kvf_page_unkeep(session->device, *before);
    *before = NULL;
}

void kvf_session_give_back(kvf_session *session)
{
    const uint32_t n_pages = kvf_before_stride(&session->geometry) - 2;
    for (uint32_t layer = 0; layer < session->geometry.n_layers; layer++) {
        kvf_layer_cache *cache = &session->layers[layer];
        kvf_page **before = before_of(session, layer);
        for (uint32_t i = 0; i < n_pages; i++) {
            if (!before[i])
                continue;
            kvf_session_hold_page(session, before[i]);
            kvf_paged_rows_replace(session, &cache->window, i, before[i]);
            kvf_page_unkeep(session->device, before[i]);
            before[i] = NULL;
        }
        give_back_state(session, &cache->row_state, &before[n_pages]);
        give_back_state(session, &cache->index_state, &before[n_pages + 1]);
    }
}

void kvf_session_forget_before(kvf_session *session)
{
    const size_t n = (size_t)session->geometry.n_layers * kvf_before_stride(&session->geometry);
    for (size_t i = 0; i < n; i++) {
        kvf_page_unkeep(session->device, session->before[i]);
        session->before[i] = NULL;
    }
}

void kvf_chunk_drop(kvf_session *session)
{
    kvf_session_give_back(session);
    kvf_checkpoints_cancel(session);
    session->chunk_tokens = 0;
}

/* ---- begin --------------------------------------------------------------------- */

static kvf_status check_tokens(const kvf_session *session, const int32_t *tokens, uint32_t n_tokens,
                               kvf_error *error)
{
    const uint64_t held = session->header->n_tokens;
    if (held + n_tokens > session->options.max_tokens)
        return kvf_fail(
            error, KVF_CONTEXT_FULL, "%llu tokens and %u more do not fit the context of %llu",
            (unsigned long long)held, n_tokens, (unsigned long long)session->options.max_tokens);
    for (uint32_t i = 0; i < n_tokens; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= session->geometry.vocab)
            return kvf_fail(error, KVF_INVALID_ARGUMENT,
                            "token %u of the chunk has id %d; the vocabulary is 0 to %u", i,
                            tokens[i], session->geometry.vocab - 1);
    return KVF_OK;
}

/* Token ids for n_tokens in a page of the session's own. */
static kvf_status prepare_tokens(kvf_session *session, uint64_t n_tokens, kvf_error *error)
{
    kvf_page *old = session->tokens;
    const uint64_t bytes =
        kvf_ceil_div(n_tokens, KVF_TOKEN_BLOCK) * KVF_TOKEN_BLOCK * sizeof(int32_t);
    if (old && bytes <= old->bytes)
        return kvf_session_own_page(session, &session->tokens, true, NULL, error);
    const kvf_status status = old ? kvf_page_check(old, error) : KVF_OK;
    if (status != KVF_OK)
        return status;
    kvf_page *tokens = kvf_session_new_page(session, KVF_PLACE_STAGING, bytes);
    if (!tokens)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %llu token ids",
                        (unsigned long long)(bytes / sizeof(int32_t)));
    if (old)
        memcpy(tokens->memory, old->memory, sizeof(int32_t) * session->header->n_tokens);
    kvf_session_drop_page(session, old);
    session->tokens = tokens;
    return KVF_OK;
}

/*
 * The ring's pages that the chunk will write. One token overwrites a row that is
 * outside every window by now; more of them overwrite rows that the session would need
 * again were the chunk dropped, so those pages are kept as they are and new ones written.
 */
static kvf_status prepare_ring(kvf_session *session, uint32_t layer, uint32_t n_tokens,
                               kvf_error *error)
{
    kvf_paged_rows *ring = &session->layers[layer].window;
    kvf_page **before = before_of(session, layer);
    const uint64_t window = session->geometry.window_tokens;
    const uint64_t first = session->header->n_tokens;
    const uint64_t end = first + n_tokens;
    const uint64_t n_old = ring->n_pages;
    const bool all_rows = n_tokens >= window;
    const bool keep = n_tokens > 1;
    const uint64_t first_written = all_rows ? end - window : first;
    kvf_status status = kvf_paged_rows_reserve(session, ring, end < window ? end : window, error);
    for (uint64_t block = first_written / KVF_PAGE_ROWS;
         block <= (end - 1) / KVF_PAGE_ROWS && status == KVF_OK; block++) {
        const uint64_t i = block % (window / KVF_PAGE_ROWS);
        if (i < n_old && !before[i]) /* the last block may lie in the page of the first */
            status =
                kvf_paged_rows_own(session, ring, i, !all_rows, keep ? &before[i] : NULL, error);
    }
    return status;
}

/*
 * Rows are added behind those held, so nothing of them has to be kept; but the page of
 * the first may be shared.
 */
static kvf_status prepare_rows(kvf_session *session, kvf_paged_rows *rows, uint64_t n_held,
                               uint64_t n_rows, kvf_error *error)
{
    const uint64_t i = n_held / KVF_PAGE_ROWS;
    kvf_status status = KVF_OK;
    if (n_rows > n_held && i < rows->n_pages)
        status = kvf_paged_rows_own(session, rows, i, true, NULL, error);
    return status == KVF_OK ? kvf_paged_rows_reserve(session, rows, n_rows, error) : status;
}

/*
 * Whether a chunk overwrites tokens in the state that are still to be pooled. The ring of
 * docs/FORMAT.md 9.3 has room for the window that is open (and, with overlap, the one
 * before), so only a chunk that goes on into the next window does.
 */
static bool overwrites_state(kvf_layer layer, uint64_t first, uint32_t n_tokens)
{
    const uint64_t in_window = first % layer.ratio;
    if (layer.kind == KVF_LAYER_HCA && in_window == 0)
        return false; /* nothing is in it */
    return in_window + n_tokens > layer.ratio;
}

static kvf_status prepare_layer(kvf_session *session, uint32_t i, uint32_t n_tokens,
                                kvf_error *error)
{
    const kvf_layer layer = session->geometry.layers[i];
    const uint64_t first = session->header->n_tokens;
    const uint64_t end = first + n_tokens;
    kvf_layer_cache *cache = &session->layers[i];
    kvf_page **before = before_of(session, i) + kvf_before_stride(&session->geometry) - 2;
    kvf_status status = prepare_ring(session, i, n_tokens, error);
    if (status != KVF_OK || layer.kind == KVF_LAYER_WINDOW)
        return status;
    const bool keep = n_tokens > 1 && overwrites_state(layer, first, n_tokens);
    status = prepare_rows(session, &cache->rows, kvf_layer_rows(layer, first),
                          kvf_layer_rows(layer, end), error);
    if (status == KVF_OK)
        status =
            kvf_session_own_page(session, &cache->row_state, true, keep ? &before[0] : NULL, error);
    if (status != KVF_OK || layer.kind != KVF_LAYER_CSA)
        return status;
    status = prepare_rows(session, &cache->index_rows, kvf_layer_index_rows(layer, first),
                          kvf_layer_index_rows(layer, end), error);
    if (status == KVF_OK)
        status = kvf_session_own_page(session, &cache->index_state, true, keep ? &before[1] : NULL,
                                      error);
    return status;
}

kvf_status kvf_chunk_begin(kvf_session *session, const int32_t *tokens, uint32_t n_tokens,
                           kvf_error *error)
{
    kvf_status status = check_tokens(session, tokens, n_tokens, error);
    if (status != KVF_OK)
        return status;
    const uint64_t held = session->header->n_tokens;
    status = prepare_tokens(session, held + n_tokens, error);
    if (status == KVF_OK)
        status = kvf_checkpoints_prepare(session, held + n_tokens, error);
    for (uint32_t i = 0; i < session->geometry.n_layers && status == KVF_OK; i++)
        status = prepare_layer(session, i, n_tokens, error);
    if (status != KVF_OK) {
        kvf_chunk_drop(session);
        return status;
    }
    memcpy((int32_t *)session->tokens->memory + held, tokens, sizeof *tokens * n_tokens);
    session->chunk_tokens = n_tokens;
    return kvf_ok(error);
}

/* ---- commit -------------------------------------------------------------------- */

void kvf_session_set_n_tokens(kvf_session *session, uint64_t n_tokens)
{
    session->header->n_tokens = n_tokens;
    if (n_tokens < session->saved.kept_tokens)
        session->saved.kept_tokens = n_tokens;
    for (uint32_t i = 0; i < session->geometry.n_layers; i++) {
        const kvf_layer layer = session->geometry.layers[i];
        session->row_counts[i].rows = (uint32_t)kvf_layer_rows(layer, n_tokens);
        session->row_counts[i].index_rows = (uint32_t)kvf_layer_index_rows(layer, n_tokens);
    }
}

void kvf_chunk_commit(kvf_session *session)
{
    kvf_session_forget_before(session);
    kvf_session_set_n_tokens(session, session->header->n_tokens + session->chunk_tokens);
    session->chunk_tokens = 0;
    kvf_checkpoints_take(session);
}
