/* What a save of one session spares another one, which goes on with its file. */
#include <string.h>

#include "cache/session.h"

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

/* The token up to which all pages of a's windows are b's too. */
static uint64_t common_window(const kvf_session *a, const kvf_session *b)
{
    const kvf_paged_rows *first = &a->layers[0].window;
    for (uint64_t i = 0; i < first->n_pages; i++)
        for (uint32_t layer = 0; layer < a->geometry.n_layers; layer++) {
            const kvf_paged_rows *x = &a->layers[layer].window;
            const kvf_paged_rows *y = &b->layers[layer].window;
            const uint64_t row = x->first_row + i * KVF_PAGE_ROWS;
            if (row < y->first_row || (row - y->first_row) / KVF_PAGE_ROWS >= y->n_pages ||
                y->pages[(row - y->first_row) / KVF_PAGE_ROWS] != x->pages[i])
                return i > 0 ? row : 0;
        }
    return first->first_row + first->n_pages * KVF_PAGE_ROWS;
}

/* The last place of a checkpoint that both have, where all before it are shared too. */
static uint64_t common_checkpoint(const kvf_session *a, const kvf_session *b)
{
    const kvf_checkpoints *x = &a->checkpoints;
    const kvf_checkpoints *y = &b->checkpoints;
    for (uint32_t i = x->n; i > 0; i--)
        for (uint32_t j = y->n; j > 0; j--)
            if (x->list[i - 1] == y->list[j - 1])
                return x->list[i - 1]->n_tokens;
    return 0;
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
    const uint64_t common = common_checkpoint(session, other);
    const uint64_t window = common_window(session, other);
    session->saved = *saved;
    session->saved.kept_tokens = kept;
    session->saved.kept_window = window < kept ? window : kept;
    if (common < session->saved.kept_checkpoint)
        session->saved.kept_checkpoint = common;
}
