/* fork: another session that holds the same pages. */
#include <stdlib.h>
#include <string.h>

#include "assertion.h"
#include "cache/session.h"
#include "error.h"

static kvf_page *share(kvf_session *to, kvf_page *page)
{
    if (page)
        kvf_session_hold_page(to, page);
    return page;
}

/*
 * The pages of rows up to n_rows. More may be there, of a chunk that was dropped: both would take
 * those for their own and write to them.
 */
static void share_rows(kvf_session *to, kvf_paged_rows *rows, const kvf_paged_rows *from,
                       uint64_t n_rows)
{
    const uint64_t n_pages = kvf_ceil_div(n_rows - from->first_row, KVF_PAGE_ROWS);
    KVF_ASSERT(n_pages <= from->n_pages);
    rows->first_row = from->first_row;
    for (uint64_t i = 0; i < n_pages; i++)
        kvf_paged_rows_put(rows, share(to, from->pages[i]));
    kvf_paged_rows_write(to, rows, 0);
    rows->n_checked = from->n_checked < n_pages ? from->n_checked : n_pages;
}

kvf_status kvf_session_fork(kvf_session *session, kvf_session **out, kvf_error *error)
{
    *out = NULL;
    kvf_session *fork;
    kvf_status status = kvf_session_check_ready(session, "fork", error);
    if (status == KVF_OK)
        status = kvf_session_open_tables(session->device, &session->geometry, &session->options,
                                         &fork, error);
    if (status != KVF_OK)
        return status;
    const uint64_t n_tokens = session->header->n_tokens;
    memcpy(fork->header, session->header, kvf_session_header_bytes(session));
    memcpy(fork->logits, kvf_session_logits(session), sizeof(float) * session->geometry.vocab);
    fork->logits_known = session->logits_known;
    fork->inexact_rows = session->inexact_rows;
    fork->saved = session->saved;
    memcpy(fork->caller_state, session->caller_state, sizeof fork->caller_state);
    fork->tokens = share(fork, session->tokens);
    for (uint32_t i = 0; i < session->geometry.n_layers; i++) {
        const kvf_layer_cache *from = &session->layers[i];
        kvf_layer_cache *to = &fork->layers[i];
        const kvf_layer layer = session->geometry.layers[i];
        share_rows(fork, &to->window, &from->window, n_tokens);
        share_rows(fork, &to->rows, &from->rows, kvf_layer_rows(layer, n_tokens));
        share_rows(fork, &to->index_rows, &from->index_rows, kvf_layer_index_rows(layer, n_tokens));
        to->row_state = share(fork, from->row_state);
        to->index_state = share(fork, from->index_state);
    }
    status = kvf_checkpoints_share(fork, session, error);
    if (status != KVF_OK) {
        kvf_session_close(fork);
        return status;
    }
    *out = fork;
    return kvf_ok(error);
}
