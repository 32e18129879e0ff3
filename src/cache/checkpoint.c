/* Checkpoints: how much they hold, when they are taken, how long they are kept. */
#include "cache/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "error.h"

/* ---- Sizes --------------------------------------------------------------------- */

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        const uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

uint64_t kvf_checkpoint_alignment(const kvf_geometry *geometry)
{
    uint64_t lcm = 1;
    for (uint32_t i = 0; i < geometry->n_layers; i++) {
        const kvf_layer layer = geometry->layers[i];
        if (layer.kind == KVF_LAYER_WINDOW)
            continue;
        lcm = lcm / greatest_common_divisor(lcm, layer.ratio) * layer.ratio;
        if (lcm > KVF_MAX_CONTEXT_TOKENS)
            return KVF_MAX_CONTEXT_TOKENS + 1; /* no session is that long */
    }
    return lcm;
}

/* Floats of the first halves of one window: kv and gate of ratio tokens. */
static uint64_t half_floats(kvf_layer layer, uint32_t width)
{
    return (uint64_t)layer.ratio * 2 * width;
}

uint64_t kvf_checkpoint_halves_bytes(const kvf_geometry *geometry)
{
    uint64_t floats = 0;
    for (uint32_t i = 0; i < geometry->n_layers; i++)
        if (geometry->layers[i].kind == KVF_LAYER_CSA)
            floats += half_floats(geometry->layers[i], KVF_ROW_WIDTH) +
                      half_floats(geometry->layers[i], KVF_INDEX_WIDTH);
    return 4 * floats;
}

static uint64_t logits_bytes(const kvf_geometry *geometry)
{
    return 4ull * geometry->vocab;
}

uint64_t kvf_checkpoint_own_bytes(const kvf_geometry *geometry)
{
    return kvf_checkpoint_halves_bytes(geometry) + logits_bytes(geometry);
}

/* n_pages of window rows in every layer. */
static uint64_t windows_bytes(const kvf_geometry *geometry, const kvf_session_options *options,
                              uint64_t n_pages)
{
    return geometry->n_layers * n_pages *
           kvf_format_page_bytes(kvf_profile_get(options->profile)->window_format, KVF_ROW_WIDTH,
                                 KVF_PAGE_ROWS);
}

uint64_t kvf_checkpoints_bytes(const kvf_geometry *geometry, const kvf_session_options *options,
                               uint64_t n_tokens)
{
    if (options->checkpoint_count == KVF_NO_CHECKPOINTS)
        return 0;
    const uint64_t alignment = kvf_checkpoint_alignment(geometry);
    const uint64_t step = kvf_ceil_div(options->checkpoint_spacing_tokens, alignment) * alignment;
    const uint64_t most = n_tokens / step;
    const uint64_t n = most < options->checkpoint_count ? most : options->checkpoint_count;
    /* Where checkpoints end inside pages, a window may begin and end inside one. */
    const uint64_t n_pages =
        geometry->window_tokens / KVF_PAGE_ROWS + (alignment % KVF_PAGE_ROWS != 0);
    return n * (kvf_checkpoint_own_bytes(geometry) + windows_bytes(geometry, options, n_pages));
}

/*
 * Pages of a window that an open chunk holds besides those of the session, as the plan counts
 * them where all are full: the longest list, or the pages held before and those held after.
 */
static uint64_t open_window_pages(const kvf_geometry *geometry, const kvf_session_options *options)
{
    const uint64_t window = geometry->window_tokens / KVF_PAGE_ROWS;
    const uint64_t context = kvf_ceil_div(options->max_tokens, KVF_PAGE_ROWS);
    uint64_t most = kvf_window_most_pages(geometry->window_tokens, options->chunk_tokens);
    if (most > 2 * (window + 1))
        most = 2 * (window + 1);
    if (most > context)
        most = context;
    return most > window ? most - window : 0;
}

uint64_t kvf_chunk_undo_bytes(const kvf_geometry *geometry, const kvf_session_options *options)
{
    uint64_t bytes =
        options->checkpoint_count == KVF_NO_CHECKPOINTS ? 0 : kvf_checkpoint_own_bytes(geometry);
    bytes += windows_bytes(geometry, options, open_window_pages(geometry, options));
    if (options->chunk_tokens == 1)
        return bytes;
    for (uint32_t i = 0; i < geometry->n_layers; i++) {
        const kvf_layer layer = geometry->layers[i];
        bytes += 4 * kvf_layer_state_floats(layer, KVF_ROW_WIDTH);
        if (layer.kind == KVF_LAYER_CSA)
            bytes += 4 * kvf_layer_state_floats(layer, KVF_INDEX_WIDTH);
    }
    return bytes;
}

/* ---- One checkpoint ------------------------------------------------------------ */

/*
 * The first halves of the window that ends at n_tokens, from a layer's state to dense
 * [ratio][kv, gate][width] or back. Returns the end of the dense halves.
 */
static float *move_halves(kvf_device *device, kvf_layer layer, uint32_t width, uint64_t n_tokens,
                          float *state, float *halves, bool back)
{
    const size_t columns = (size_t)kvf_layer_parts(layer) * width;
    for (uint64_t token = n_tokens - layer.ratio; token < n_tokens; token++) {
        float *slot = state + token % kvf_layer_slots(layer) * 2 * columns;
        for (int part = 0; part < 2; part++, halves += width, slot += columns)
            device->backend->copy(device, back ? slot : halves, back ? halves : slot,
                                  width * sizeof *slot);
    }
    return halves;
}

/* Halves of all CSA layers, then logits: from the session to the checkpoint or back. */
static void move_memory(kvf_session *session, const kvf_checkpoint *checkpoint, bool back)
{
    kvf_device *device = session->device;
    float *at = checkpoint->halves ? checkpoint->halves->memory : NULL;
    for (uint32_t i = 0; i < session->geometry.n_layers; i++) {
        const kvf_layer layer = session->geometry.layers[i];
        if (layer.kind != KVF_LAYER_CSA)
            continue;
        at = move_halves(device, layer, KVF_ROW_WIDTH, checkpoint->n_tokens,
                         session->layers[i].row_state->memory, at, back);
        at = move_halves(device, layer, KVF_INDEX_WIDTH, checkpoint->n_tokens,
                         session->layers[i].index_state->memory, at, back);
    }
    const size_t bytes = logits_bytes(&session->geometry);
    kvf_session_wait_logits(session, NULL); /* once a checkpoint */
    if (back && checkpoint->logits)
        memcpy(session->logits, checkpoint->logits, bytes);
    else if (back)
        memset(session->logits, 0, bytes);
    else if (checkpoint->logits)
        memcpy(checkpoint->logits, session->logits, bytes);
}

kvf_checkpoint *kvf_checkpoint_new(const kvf_session *session, uint64_t n_tokens)
{
    const kvf_geometry *geometry = &session->geometry;
    const uint32_t n_pages = (uint32_t)kvf_window_pages(geometry->window_tokens, n_tokens);
    kvf_checkpoint *checkpoint =
        calloc(1, sizeof *checkpoint + sizeof(kvf_page *) * geometry->n_layers * n_pages);
    if (checkpoint) {
        checkpoint->n_references = 1;
        checkpoint->n_tokens = n_tokens;
        checkpoint->n_pages = n_pages;
    }
    return checkpoint;
}

void kvf_checkpoint_release(kvf_session *session, kvf_checkpoint *checkpoint)
{
    if (!checkpoint || --checkpoint->n_references > 0)
        return;
    const size_t n = (size_t)session->geometry.n_layers * checkpoint->n_pages;
    for (size_t i = 0; i < n; i++)
        kvf_page_unkeep(session->device, checkpoint->window[i]);
    kvf_page_unkeep(session->device, checkpoint->halves);
    kvf_device_release(session->device, KVF_MEMORY_CHECKPOINT, checkpoint->logits,
                       logits_bytes(&session->geometry));
    free(checkpoint);
}

void kvf_checkpoint_restore(kvf_session *session, const kvf_checkpoint *checkpoint)
{
    for (uint32_t layer = 0; layer < session->geometry.n_layers; layer++) {
        kvf_paged_rows *window = &session->layers[layer].window;
        kvf_paged_rows_shrink(session, window, window->first_row);
        window->first_row = kvf_window_first(session->geometry.window_tokens, checkpoint->n_tokens);
        for (uint32_t i = 0; i < checkpoint->n_pages; i++) {
            kvf_page *page = checkpoint->window[(size_t)layer * checkpoint->n_pages + i];
            kvf_session_hold_page(session, page);
            kvf_paged_rows_put(window, page);
        }
        kvf_paged_rows_write(session, window, 0);
    }
    move_memory(session, checkpoint, true);
    session->logits_known = checkpoint->logits != NULL;
    session->inexact_rows = checkpoint->inexact_rows;
}

/* ---- Those of a session -------------------------------------------------------- */

/* Room for that many periodic ones; what is held stays. */
static bool make_room(kvf_checkpoints *all, uint32_t capacity)
{
    const size_t n =
        (size_t)capacity + KVF_REQUESTED_CHECKPOINTS + 1; /* one more until it is cut */
    kvf_checkpoint **list = realloc(all->list, n * sizeof *list);
    if (list)
        all->list = list;
    uint32_t *why = realloc(all->why, n * sizeof *why);
    if (why)
        all->why = why;
    if (list && why)
        all->capacity = capacity;
    return list && why;
}

kvf_status kvf_checkpoints_open(kvf_session *session, kvf_error *error)
{
    kvf_checkpoints *all = &session->checkpoints;
    const uint32_t count = session->options.checkpoint_count;
    all->alignment_tokens = kvf_checkpoint_alignment(&session->geometry);
    all->spacing_tokens = session->options.checkpoint_spacing_tokens;
    all->periodic = count != KVF_NO_CHECKPOINTS;
    all->from_start = all->periodic;
    if (!make_room(all, all->periodic ? count : 0))
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a list of %u checkpoints", count);
    return KVF_OK;
}

void kvf_checkpoints_close(kvf_session *session)
{
    kvf_checkpoints *all = &session->checkpoints;
    for (uint32_t i = 0; i < all->n; i++)
        kvf_checkpoint_release(session, all->list[i]);
    kvf_checkpoint_release(session, all->pending);
    free(all->list);
    free(all->why);
    memset(all, 0, sizeof *all);
}

void kvf_checkpoints_cancel(kvf_session *session)
{
    kvf_checkpoint_release(session, session->checkpoints.pending);
    session->checkpoints.pending = NULL;
}

static bool is_due(const kvf_checkpoints *all, uint64_t n_tokens)
{
    if (!all->periodic || n_tokens % all->alignment_tokens != 0)
        return false;
    for (uint32_t i = all->n; i > 0; i--)
        if (all->why[i - 1] & KVF_CHECKPOINT_PERIODIC)
            return n_tokens - all->list[i - 1]->n_tokens >= all->spacing_tokens;
    return !all->from_start || n_tokens >= all->spacing_tokens;
}

static float *alloc_logits(kvf_session *session)
{
    return kvf_device_alloc(session->device, KVF_MEMORY_CHECKPOINT, KVF_PLACE_STAGING,
                            logits_bytes(&session->geometry));
}

/* Memory for the checkpoint at n_tokens. */
static kvf_status prepare(kvf_session *session, uint64_t n_tokens, kvf_error *error)
{
    const kvf_geometry *geometry = &session->geometry;
    const uint64_t halves_bytes = kvf_checkpoint_halves_bytes(geometry);
    kvf_checkpoint *checkpoint = kvf_checkpoint_new(session, n_tokens);
    if (checkpoint && halves_bytes > 0)
        checkpoint->halves = kvf_session_new_page(session, KVF_PLACE_DEVICE, halves_bytes);
    if (checkpoint && checkpoint->halves) { /* the checkpoint's alone */
        kvf_page_keep(session->device, checkpoint->halves);
        kvf_session_drop_page(session, checkpoint->halves);
    }
    if (checkpoint)
        checkpoint->logits = alloc_logits(session);
    if (!checkpoint || (halves_bytes > 0 && !checkpoint->halves) || !checkpoint->logits) {
        kvf_checkpoint_release(session, checkpoint);
        return kvf_fail(
            error, KVF_OUT_OF_MEMORY, "no memory for the checkpoint at %llu tokens (%llu bytes)",
            (unsigned long long)n_tokens, (unsigned long long)kvf_checkpoint_own_bytes(geometry));
    }
    session->checkpoints.pending = checkpoint;
    return KVF_OK;
}

kvf_status kvf_checkpoints_prepare(kvf_session *session, uint64_t n_tokens, kvf_error *error)
{
    return is_due(&session->checkpoints, n_tokens) ? prepare(session, n_tokens, error) : KVF_OK;
}

/* Where more than `most` are kept for that reason, the oldest is not any more. */
static void keep_last(kvf_session *session, uint32_t reason, uint32_t most)
{
    kvf_checkpoints *all = &session->checkpoints;
    uint32_t n = 0;
    uint32_t oldest = 0;
    for (uint32_t i = all->n; i > 0; i--)
        if (all->why[i - 1] & reason) {
            n++;
            oldest = i - 1;
        }
    if (n <= most)
        return;
    all->why[oldest] &= ~reason;
    if (reason == KVF_CHECKPOINT_PERIODIC)
        all->from_start = false;
    if (all->why[oldest] != 0)
        return;
    kvf_checkpoint_release(session, all->list[oldest]);
    memmove(all->list + oldest, all->list + oldest + 1, (all->n - 1 - oldest) * sizeof *all->list);
    memmove(all->why + oldest, all->why + oldest + 1, (all->n - 1 - oldest) * sizeof *all->why);
    all->n--;
}

static void add(kvf_session *session, kvf_checkpoint *checkpoint, uint32_t reason)
{
    kvf_checkpoints *all = &session->checkpoints;
    all->list[all->n] = checkpoint;
    all->why[all->n++] = reason;
    keep_last(session, reason,
              reason == KVF_CHECKPOINT_PERIODIC ? all->capacity : KVF_REQUESTED_CHECKPOINTS);
}

/* Puts the session's state into the one that is prepared. */
static void take(kvf_session *session, uint32_t reason)
{
    kvf_checkpoint *checkpoint = session->checkpoints.pending;
    session->checkpoints.pending = NULL;
    checkpoint->inexact_rows = session->inexact_rows;
    for (uint32_t layer = 0; layer < session->geometry.n_layers; layer++)
        for (uint32_t i = 0; i < checkpoint->n_pages; i++) {
            kvf_page *page = session->layers[layer].window.pages[i];
            kvf_page_keep(session->device, page);
            checkpoint->window[(size_t)layer * checkpoint->n_pages + i] = page;
        }
    move_memory(session, checkpoint, false);
    add(session, checkpoint, reason);
}

void kvf_checkpoints_take(kvf_session *session)
{
    if (session->checkpoints.pending)
        take(session, KVF_CHECKPOINT_PERIODIC);
}

/* What a checkpoint of the present state is made of, where it lies in a file. */
static kvf_status check_states(kvf_session *session, kvf_error *error)
{
    kvf_status status = KVF_OK;
    for (uint32_t i = 0; i < session->geometry.n_layers && status == KVF_OK; i++) {
        const kvf_layer_cache *cache = &session->layers[i];
        if (cache->index_state) /* only CSA layers leave something to keep */
            status = kvf_page_check(cache->row_state, error);
        if (status == KVF_OK && cache->index_state)
            status = kvf_page_check(cache->index_state, error);
    }
    return status;
}

/* The one at the present state, if it is the last; its logits are known from here on. */
static kvf_status find_present(kvf_session *session, bool *found, kvf_error *error)
{
    const kvf_checkpoints *all = &session->checkpoints;
    kvf_checkpoint *last = all->n ? all->list[all->n - 1] : NULL;
    *found = last && last->n_tokens == session->header->n_tokens;
    if (!*found || last->logits || !session->logits_known)
        return KVF_OK;
    last->logits = alloc_logits(session);
    if (!last->logits)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the logits of %llu tokens",
                        (unsigned long long)last->n_tokens);
    memcpy(last->logits, kvf_session_logits(session), logits_bytes(&session->geometry));
    return KVF_OK;
}

kvf_status kvf_checkpoints_restart(kvf_session *session, kvf_checkpoint *const *list,
                                   const uint32_t *why, uint32_t n, bool from_start,
                                   kvf_error *error)
{
    kvf_checkpoints *all = &session->checkpoints;
    const uint64_t n_tokens = session->header->n_tokens;
    for (uint32_t i = 0; i < all->n; i++)
        kvf_checkpoint_release(session, all->list[i]);
    all->n = 0;
    all->from_start = from_start;
    /* None of them is given up because this session was to keep fewer. */
    if (!make_room(all, n > all->capacity ? n : all->capacity)) {
        for (uint32_t i = 0; i < n; i++)
            kvf_checkpoint_release(session, list[i]);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a list of %u checkpoints", n);
    }
    for (; all->n < n; all->n++) {
        all->list[all->n] = list[all->n];
        all->why[all->n] = why[all->n];
    }
    bool found;
    kvf_status status = find_present(session, &found, error);
    if (status != KVF_OK || found || n_tokens == 0 || !session->logits_known)
        return status;
    status = check_states(session, error);
    if (status == KVF_OK)
        status = kvf_checkpoints_prepare(session, n_tokens, error);
    if (status == KVF_OK)
        kvf_checkpoints_take(session);
    return status;
}

kvf_status kvf_session_checkpoint(kvf_session *session, kvf_error *error)
{
    kvf_checkpoints *all = &session->checkpoints;
    const uint64_t n_tokens = session->header->n_tokens;
    if (n_tokens == 0 || n_tokens % all->alignment_tokens != 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "a checkpoint at %llu tokens; they are taken at multiples of %llu",
                        (unsigned long long)n_tokens, (unsigned long long)all->alignment_tokens);
    bool found = false;
    kvf_status status = kvf_session_check_ready(session, "a checkpoint", error);
    if (status == KVF_OK)
        status = find_present(session, &found, error);
    if (status == KVF_OK && !found)
        status = check_states(session, error);
    if (status == KVF_OK && !found)
        status = prepare(session, n_tokens, error);
    if (status != KVF_OK)
        return status;
    if (!found) {
        take(session, KVF_CHECKPOINT_REQUESTED);
    } else {
        all->why[all->n - 1] |= KVF_CHECKPOINT_REQUESTED;
        keep_last(session, KVF_CHECKPOINT_REQUESTED, KVF_REQUESTED_CHECKPOINTS);
    }
    return kvf_ok(error);
}

uint64_t kvf_session_checkpoint_alignment(const kvf_session *session)
{
    return session->checkpoints.alignment_tokens;
}

uint32_t kvf_session_checkpoints(const kvf_session *session, uint64_t *n_tokens, uint32_t capacity)
{
    const kvf_checkpoints *all = &session->checkpoints;
    for (uint32_t i = 0; i < all->n && i < capacity; i++)
        n_tokens[i] = all->list[i]->n_tokens;
    return all->n;
}

void kvf_checkpoints_cut(kvf_session *session, uint64_t n_tokens)
{
    kvf_checkpoints *all = &session->checkpoints;
    while (all->n > 0 && all->list[all->n - 1]->n_tokens > n_tokens)
        kvf_checkpoint_release(session, all->list[--all->n]);
}

kvf_checkpoint *kvf_checkpoints_find(const kvf_session *session, uint64_t n_tokens, bool known)
{
    const kvf_checkpoints *all = &session->checkpoints;
    for (uint32_t i = all->n; i > 0; i--) {
        kvf_checkpoint *checkpoint = all->list[i - 1];
        if (checkpoint->n_tokens < n_tokens ||
            (checkpoint->n_tokens == n_tokens && (checkpoint->logits || !known)))
            return checkpoint;
    }
    return NULL;
}

kvf_status kvf_checkpoints_share(kvf_session *to, const kvf_session *from, kvf_error *error)
{
    const kvf_checkpoints *all = &from->checkpoints;
    if (!make_room(&to->checkpoints, all->capacity))
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a list of %u checkpoints", all->n);
    to->checkpoints.n = all->n;
    to->checkpoints.from_start = all->from_start;
    for (uint32_t i = 0; i < all->n; i++) {
        to->checkpoints.list[i] = all->list[i];
        to->checkpoints.why[i] = all->why[i];
        to->checkpoints.list[i]->n_references++;
    }
    return KVF_OK;
}

static uint64_t own_page_bytes(const kvf_page *page)
{
    return page && !page->owner && page->n_sessions == 0 ? page->bytes : 0;
}

uint64_t kvf_session_checkpoint_bytes(const kvf_session *session)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < session->checkpoints.n; i++) {
        const kvf_checkpoint *checkpoint = session->checkpoints.list[i];
        const size_t n = (size_t)session->geometry.n_layers * checkpoint->n_pages;
        bytes += own_page_bytes(checkpoint->halves);
        bytes += checkpoint->logits ? logits_bytes(&session->geometry) : 0;
        for (size_t j = 0; j < n; j++)
            bytes += own_page_bytes(checkpoint->window[j]);
    }
    return bytes;
}
