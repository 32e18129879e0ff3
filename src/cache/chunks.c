/*
 * A session's tokens in a batch: begin takes all memory that they need and makes everything they
 * will write the session's own; commit counts them as held; drop goes back.
 */
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "error.h"

/* The states that the open chunk replaced in a layer. */
static kvf_page **before_of(const kvf_session *session, uint32_t layer)
{
    return session->before + (size_t)layer * KVF_LAYER_STATES;
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
    for (uint32_t layer = 0; layer < session->geometry.n_layers; layer++) {
        kvf_layer_cache *cache = &session->layers[layer];
        kvf_page **before = before_of(session, layer);
        give_back_state(session, &cache->row_state, &before[0]);
        give_back_state(session, &cache->index_state, &before[1]);
    }
}

void kvf_session_forget_before(kvf_session *session)
{
    const size_t n = (size_t)session->geometry.n_layers * KVF_LAYER_STATES;
    for (size_t i = 0; i < n; i++) {
        kvf_page_unkeep(session->device, session->before[i]);
        session->before[i] = NULL;
    }
}

void kvf_chunk_drop(kvf_session *session)
{
    kvf_session_give_back(session);
    for (uint32_t i = 0; i < session->geometry.n_layers; i++)
        kvf_paged_rows_shrink(session, &session->layers[i].window, session->header->n_tokens);
    kvf_checkpoints_cancel(session);
    session->chunk_tokens = 0;
}

/* ---- begin --------------------------------------------------------------------- */

static kvf_status check_tokens(const kvf_session *session, const int32_t *tokens, uint32_t n_tokens,
                               kvf_error *error)
{
    if (n_tokens > session->options.chunk_tokens)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "a chunk of %u tokens; this session takes 1 to %u", n_tokens,
                        session->options.chunk_tokens);
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
 * Rows are added behind those held, so nothing of them has to be kept; but the page of
 * the first may be shared.
 */
static kvf_status own_page_of_next(kvf_session *session, kvf_paged_rows *rows, uint64_t n_held,
                                   kvf_error *error)
{
    const uint64_t i = (n_held - rows->first_row) / KVF_PAGE_ROWS;
    return i < rows->n_pages ? kvf_paged_rows_own(session, rows, i, true, NULL, error) : KVF_OK;
}

static kvf_status prepare_rows(kvf_session *session, kvf_paged_rows *rows, uint64_t n_held,
                               uint64_t n_rows, kvf_error *error)
{
    const kvf_status status =
        n_rows > n_held ? own_page_of_next(session, rows, n_held, error) : KVF_OK;
    return status == KVF_OK ? kvf_paged_rows_reserve(session, rows, n_rows, error) : status;
}

/*
 * Window rows. What falls off the front stays until commit, so that the chunk can be dropped;
 * pages that it fills and leaves behind are those of the batch's scratch, in every layer.
 */
static kvf_status prepare_window(kvf_session *session, kvf_paged_rows *window, uint64_t end,
                                 uint8_t *passing, kvf_error *error)
{
    const uint64_t first_after = kvf_window_first(session->geometry.window_tokens, end);
    const uint64_t n_pages = window->n_pages;
    const kvf_status status = own_page_of_next(session, window, session->header->n_tokens, error);
    if (status != KVF_OK)
        return status;
    for (uint64_t row = window->first_row + n_pages * KVF_PAGE_ROWS; row < first_after;
         row += KVF_PAGE_ROWS, passing += kvf_paged_rows_page_bytes(window))
        kvf_paged_rows_put_memory(window, passing);
    kvf_paged_rows_write(session, window, n_pages);
    return kvf_paged_rows_reserve(session, window, end, error);
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
                                uint8_t *passing, kvf_error *error)
{
    const kvf_layer layer = session->geometry.layers[i];
    const uint64_t first = session->header->n_tokens;
    const uint64_t end = first + n_tokens;
    kvf_layer_cache *cache = &session->layers[i];
    kvf_page **before = before_of(session, i);
    kvf_status status = prepare_window(session, &cache->window, end, passing, error);
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
                           uint8_t *passing, kvf_error *error)
{
    kvf_status status = check_tokens(session, tokens, n_tokens, error);
    if (status != KVF_OK)
        return status;
    const uint64_t held = session->header->n_tokens;
    status = prepare_tokens(session, held + n_tokens, error);
    if (status == KVF_OK)
        status = kvf_checkpoints_prepare(session, held + n_tokens, error);
    for (uint32_t i = 0; i < session->geometry.n_layers && status == KVF_OK; i++)
        status = prepare_layer(session, i, n_tokens, passing, error);
    if (status != KVF_OK) {
        kvf_chunk_drop(session);
        return status;
    }
    memcpy((int32_t *)session->tokens->memory + held, tokens, sizeof *tokens * n_tokens);
    session->chunk_tokens = n_tokens;
    return kvf_ok(error);
}

/* ---- commit -------------------------------------------------------------------- */

/* What a file was given of the session is still there up to n_tokens at the most. */
static void lower(kvf_saved *saved, uint64_t n_tokens)
{
    if (n_tokens < saved->kept_tokens)
        saved->kept_tokens = n_tokens;
    if (n_tokens < saved->kept_window)
        saved->kept_window = n_tokens;
    if (n_tokens < saved->kept_checkpoint)
        saved->kept_checkpoint = n_tokens;
}

void kvf_session_set_n_tokens(kvf_session *session, uint64_t n_tokens)
{
    session->header->n_tokens = n_tokens;
    lower(&session->saved, n_tokens);
    lower(&session->opened, n_tokens);
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
    for (uint32_t i = 0; i < session->geometry.n_layers; i++)
        kvf_paged_rows_advance(
            session, &session->layers[i].window,
            kvf_window_first(session->geometry.window_tokens, session->header->n_tokens));
    session->chunk_tokens = 0;
    session->logits_known = true; /* the caller wrote them */
    kvf_checkpoints_take(session);
}
