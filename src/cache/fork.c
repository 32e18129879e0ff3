/* fork: another session that holds the same pages. */
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "error.h"

static kvf_page *share(kvf_session *to, kvf_page *page)
{
    if (page)
        kvf_session_hold_page(to, page);
    return page;
}

static void share_rows(kvf_session *to, kvf_paged_rows *rows, const kvf_paged_rows *from)
{
    rows->first_row = from->first_row;
    for (uint64_t i = 0; i < from->n_pages; i++)
        kvf_paged_rows_put(rows, share(to, from->pages[i]));
    kvf_paged_rows_write(to, rows, 0);
    rows->n_checked = from->n_checked;
}

kvf_status kvf_session_fork(kvf_session *session, kvf_session **out, kvf_error *error)
{
    *out = NULL;
    kvf_session *fork;
    kvf_status status = kvf_session_check_free(session, "fork", error);
    /* What a lost device holds is nothing to go on with. */
    if (status == KVF_OK)
        status = session->device->backend->wait(session->device, error);
    if (status == KVF_OK)
        status = kvf_session_open_tables(session->device, &session->geometry, &session->options,
                                         &fork, error);
    if (status != KVF_OK)
        return status;
    memcpy(fork->header, session->header, kvf_session_header_bytes(session));
    memcpy(fork->logits, session->logits, sizeof(float) * session->geometry.vocab);
    fork->inexact_rows = session->inexact_rows;
    fork->saved = session->saved;
    memcpy(fork->caller_state, session->caller_state, sizeof fork->caller_state);
    fork->tokens = share(fork, session->tokens);
    for (uint32_t i = 0; i < session->geometry.n_layers; i++) {
        const kvf_layer_cache *from = &session->layers[i];
        kvf_layer_cache *to = &fork->layers[i];
        share_rows(fork, &to->window, &from->window);
        share_rows(fork, &to->rows, &from->rows);
        share_rows(fork, &to->index_rows, &from->index_rows);
        to->row_state = share(fork, from->row_state);
        to->index_state = share(fork, from->index_state);
    }
    kvf_checkpoints_share(fork, session);
    *out = fork;
    return kvf_ok(error);
}

/* ---- What a save of one spares the other -------------------------------------------------- */

/*
 * Tokens, at most n, whose full pages are the same memory in both. What several sessions
 * hold is never written, so its content is the same too.
 */
static uint64_t common_rows(const kvf_paged_rows *a, const kvf_paged_rows *b, uint32_t ratio,
                            uint64_t n)
{
    const uint64_t page_tokens = (uint64_t)KVF_PAGE_ROWS * ratio;
    for (uint64_t i = 0; i < n / page_tokens; i++)
        if (a->pages[i] != b->pages[i])
            return i * page_tokens;
    return n;
}

static uint64_t common_tokens(const kvf_session *a, const kvf_session *b, uint64_t n)
{
    const int32_t *x = kvf_session_tokens(a);
    const int32_t *y = kvf_session_tokens(b);
    uint64_t same = 0;
    while (same < n && x[same] == y[same])
        same++;
    for (uint32_t i = 0; i < a->geometry.n_layers; i++) {
        const kvf_layer layer = a->geometry.layers[i];
        if (layer.kind != KVF_LAYER_WINDOW)
            same = common_rows(&a->layers[i].rows, &b->layers[i].rows, layer.ratio, same);
        if (layer.kind == KVF_LAYER_CSA)
            same =
                common_rows(&a->layers[i].index_rows, &b->layers[i].index_rows, layer.ratio, same);
    }
    return same;
}

void kvf_session_share_save(kvf_session *session, const kvf_session *other)
{
    const kvf_saved *saved = &other->saved;
    const uint64_t held = session->header->n_tokens;
    if (!saved->known || session->device != other->device || session->profile != other->profile ||
        session->options.grid_off != other->options.grid_off ||
        memcmp(&session->geometry, &other->geometry, sizeof session->geometry) != 0)
        return;
    /* One token less than the file holds: its rings and states are not this session's. */
    uint64_t kept = saved->kept_tokens < held ? saved->kept_tokens : held;
    if (kept == saved->n_tokens && kept > 0)
        kept--;
    kept = common_tokens(session, other, kept);
    if (kept == 0)
        return;
    session->saved = *saved;
    session->saved.kept_tokens = kept;
}
