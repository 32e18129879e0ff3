/*
 * truncate: back to a checkpoint, and what has to be appended again from there. All
 * memory is taken first, so that a failure leaves the session as it was.
 */
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "error.h"

void kvf_replay_free(kvf_replay *replay)
{
    if (!replay)
        return;
    free(replay->tokens);
    memset(replay, 0, sizeof *replay);
}

uint64_t kvf_session_first_covered(const kvf_session *session)
{
    const kvf_checkpoints *all = &session->checkpoints;
    if (all->from_start)
        return 0;
    if (all->n == 0)
        return session->header->n_tokens;
    /* One from a file has no logits: the place behind it is the first that can be made. */
    return all->list[0]->n_tokens + (all->list[0]->logits == NULL);
}

static kvf_status fill_replay(kvf_session *session, uint64_t first, uint64_t n_tokens,
                              kvf_replay *replay, kvf_error *error)
{
    replay->first_token = first;
    replay->n_tokens = n_tokens - first;
    if (replay->n_tokens == 0)
        return KVF_OK;
    kvf_status status = kvf_page_check(session->tokens, error);
    if (status != KVF_OK)
        return status;
    replay->tokens = malloc(replay->n_tokens * sizeof *replay->tokens);
    if (!replay->tokens)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %llu tokens to append again",
                        (unsigned long long)replay->n_tokens);
    memcpy(replay->tokens, (const int32_t *)session->tokens->memory + first,
           replay->n_tokens * sizeof *replay->tokens);
    return KVF_OK;
}

/* Empty states in place of all; those that they replace are kept until it is done. */
static kvf_status empty_states(kvf_session *session, kvf_error *error)
{
    kvf_status status = KVF_OK;
    for (uint32_t i = 0; i < session->geometry.n_layers && status == KVF_OK; i++) {
        kvf_layer_cache *cache = &session->layers[i];
        kvf_page **before = session->before + (size_t)i * KVF_LAYER_STATES;
        if (cache->row_state)
            status = kvf_session_own_page(session, &cache->row_state, false, &before[0], error);
        if (status == KVF_OK && cache->index_state)
            status = kvf_session_own_page(session, &cache->index_state, false, &before[1], error);
    }
    return status;
}

/* Token ids in as many blocks as n_tokens need. */
static kvf_status shrink_tokens(kvf_session *session, uint64_t n_tokens, kvf_error *error)
{
    const uint64_t bytes =
        kvf_ceil_div(n_tokens, KVF_TOKEN_BLOCK) * KVF_TOKEN_BLOCK * sizeof(int32_t);
    kvf_page *tokens = NULL;
    if (!session->tokens || bytes == session->tokens->bytes)
        return KVF_OK;
    if (bytes) {
        const kvf_status status = kvf_page_check(session->tokens, error);
        if (status != KVF_OK)
            return status;
        tokens = kvf_session_new_page(session, KVF_PLACE_STAGING, bytes);
        if (!tokens)
            return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %llu token ids",
                            (unsigned long long)n_tokens);
        memcpy(tokens->memory, session->tokens->memory, n_tokens * sizeof(int32_t));
    }
    kvf_session_drop_page(session, session->tokens);
    session->tokens = tokens;
    return KVF_OK;
}

/* Cannot fail. checkpoint NULL: back to the start. */
static void go_back(kvf_session *session, const kvf_checkpoint *checkpoint)
{
    const uint64_t n_tokens = checkpoint ? checkpoint->n_tokens : 0;
    kvf_session_set_n_tokens(session, n_tokens);
    for (uint32_t i = 0; i < session->geometry.n_layers; i++) {
        const kvf_layer layer = session->geometry.layers[i];
        kvf_layer_cache *cache = &session->layers[i];
        kvf_paged_rows_shrink(session, &cache->rows, kvf_layer_rows(layer, n_tokens));
        kvf_paged_rows_shrink(session, &cache->index_rows, kvf_layer_index_rows(layer, n_tokens));
        if (checkpoint) /* which brings its own */
            continue;
        kvf_paged_rows_shrink(session, &cache->window, cache->window.first_row);
        cache->window.first_row = 0;
    }
    kvf_checkpoints_cut(session, n_tokens);
    if (checkpoint) {
        kvf_checkpoint_restore(session, checkpoint);
        return;
    }
    session->checkpoints.from_start = session->checkpoints.periodic;
    session->logits_known = true;
    session->inexact_rows = 0;
    memset(kvf_session_logits(session), 0, sizeof(float) * session->geometry.vocab);
}

static kvf_status not_covered(const kvf_session *session, uint64_t n_tokens, kvf_error *error)
{
    if (!session->checkpoints.periodic && session->checkpoints.n == 0)
        return kvf_fail(error, KVF_NOT_COVERED,
                        "token %llu cannot be gone back to: this session keeps no checkpoints",
                        (unsigned long long)n_tokens);
    if (session->checkpoints.n == 0)
        return kvf_fail(error, KVF_NOT_COVERED,
                        "token %llu cannot be gone back to: no checkpoint was taken yet, the next "
                        "is at a multiple of %llu tokens",
                        (unsigned long long)n_tokens,
                        (unsigned long long)kvf_checkpoint_alignment(&session->geometry));
    const kvf_checkpoint *oldest = session->checkpoints.list[0];
    if (n_tokens == oldest->n_tokens)
        return kvf_fail(error, KVF_NOT_COVERED,
                        "token %llu is where the oldest checkpoint is, which came from a file "
                        "without logits: they cannot be had again there",
                        (unsigned long long)n_tokens);
    return kvf_fail(error, KVF_NOT_COVERED,
                    "token %llu is before the oldest checkpoint that is kept, which is at %llu of "
                    "%llu tokens",
                    (unsigned long long)n_tokens, (unsigned long long)oldest->n_tokens,
                    (unsigned long long)session->header->n_tokens);
}

/* Takes the memory for going back to the checkpoint; on failure nothing has changed. */
static kvf_status prepare(kvf_session *session, const kvf_checkpoint *checkpoint, uint64_t n_tokens,
                          kvf_replay *replay, kvf_error *error)
{
    const uint64_t first = checkpoint ? checkpoint->n_tokens : 0;
    kvf_status status = KVF_OK;
    if (replay)
        status = fill_replay(session, first, n_tokens, replay, error);
    else if (first != n_tokens)
        status = kvf_fail(error, KVF_NOT_COVERED,
                          "there is no checkpoint at token %llu; from the one before, at %llu, "
                          "tokens have to be appended again",
                          (unsigned long long)n_tokens, (unsigned long long)first);
    if (status == KVF_OK && checkpoint)
        status = kvf_page_check(checkpoint->halves, error);
    if (status == KVF_OK)
        status = empty_states(session, error);
    if (status == KVF_OK)
        status = shrink_tokens(session, first, error);
    if (status != KVF_OK) {
        kvf_session_give_back(session);
        kvf_replay_free(replay);
    }
    return status;
}

kvf_status kvf_session_truncate(kvf_session *session, uint64_t n_tokens, kvf_replay *replay,
                                kvf_error *error)
{
    const uint64_t held = session->header->n_tokens;
    if (replay)
        *replay = (kvf_replay){.first_token = held, .chunk_tokens = session->options.chunk_tokens};
    kvf_status status = kvf_session_check_ready(session, "truncate", error);
    if (status != KVF_OK)
        return status;
    if (n_tokens > held)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "truncate to %llu tokens; the session holds %llu",
                        (unsigned long long)n_tokens, (unsigned long long)held);
    /* Whoever takes tokens to append is to have the logits of the last of them. */
    const bool known = replay != NULL;
    if (n_tokens == held && (session->logits_known || !known))
        return kvf_ok(error);
    const kvf_checkpoint *checkpoint =
        n_tokens ? kvf_checkpoints_find(session, n_tokens, known) : NULL;
    if (!checkpoint && n_tokens && !session->checkpoints.from_start)
        return not_covered(session, n_tokens, error);
    status = prepare(session, checkpoint, n_tokens, replay, error);
    if (status != KVF_OK)
        return status;
    go_back(session, checkpoint);
    kvf_session_forget_before(session);
    kvf_device_trim(session->device);
    return kvf_ok(error);
}
