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

static uint64_t halves_bytes(const kvf_geometry *geometry)
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
    return halves_bytes(geometry) + logits_bytes(geometry);
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
    float *at = checkpoint->halves;
    for (uint32_t i = 0; i < session->geometry.n_layers; i++) {
        const kvf_layer layer = session->geometry.layers[i];
        if (layer.kind != KVF_LAYER_CSA)
            continue;
        at = move_halves(device, layer, KVF_ROW_WIDTH, checkpoint->n_tokens,
                         session->layers[i].row_state->memory, at, back);
        at = move_halves(device, layer, KVF_INDEX_WIDTH, checkpoint->n_tokens,
                         session->layers[i].index_state->memory, at, back);
    }
    memcpy(back ? session->logits : checkpoint->logits, back ? checkpoint->logits : session->logits,
           logits_bytes(&session->geometry));
}

static void release_memory(kvf_session *session, kvf_checkpoint *checkpoint)
{
    const kvf_geometry *geometry = &session->geometry;
    kvf_device_release(session->device, KVF_MEMORY_CHECKPOINT, checkpoint->halves,
                       halves_bytes(geometry));
    kvf_device_release(session->device, KVF_MEMORY_CHECKPOINT, checkpoint->logits,
                       logits_bytes(geometry));
    free(checkpoint);
}

void kvf_checkpoint_release(kvf_session *session, kvf_checkpoint *checkpoint)
{
    if (!checkpoint || --checkpoint->n_references > 0)
        return;
    const size_t n = (size_t)session->geometry.n_layers * checkpoint->n_pages;
    for (size_t i = 0; i < n; i++)
        kvf_page_unkeep(session->device, checkpoint->window[i]);
    release_memory(session, checkpoint);
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
    session->inexact_rows = checkpoint->inexact_rows;
}

/* ---- Those of a session -------------------------------------------------------- */

kvf_status kvf_checkpoints_open(kvf_session *session, kvf_error *error)
{
    kvf_checkpoints *all = &session->checkpoints;
    const uint32_t count = session->options.checkpoint_count;
    all->alignment_tokens = kvf_checkpoint_alignment(&session->geometry);
    all->spacing_tokens = session->options.checkpoint_spacing_tokens;
    all->capacity = count == KVF_NO_CHECKPOINTS ? 0 : count;
    all->from_start = all->capacity > 0;
    all->list = calloc(all->capacity ? all->capacity : 1, sizeof *all->list);
    if (!all->list)
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
    memset(all, 0, sizeof *all);
}

void kvf_checkpoints_cancel(kvf_session *session)
{
    kvf_checkpoint_release(session, session->checkpoints.pending);
    session->checkpoints.pending = NULL;
}

static bool is_due(const kvf_checkpoints *all, uint64_t n_tokens)
{
    if (all->capacity == 0 || n_tokens % all->alignment_tokens != 0)
        return false;
    if (all->n > 0)
        return n_tokens - all->list[all->n - 1]->n_tokens >= all->spacing_tokens;
    return !all->from_start || n_tokens >= all->spacing_tokens;
}

kvf_status kvf_checkpoints_prepare(kvf_session *session, uint64_t n_tokens, kvf_error *error)
{
    if (!is_due(&session->checkpoints, n_tokens))
        return KVF_OK;
    const kvf_geometry *geometry = &session->geometry;
    const uint32_t n_pages = (uint32_t)kvf_window_pages(geometry->window_tokens, n_tokens);
    kvf_checkpoint *checkpoint =
        calloc(1, sizeof *checkpoint + sizeof(kvf_page *) * geometry->n_layers * n_pages);
    if (checkpoint) {
        checkpoint->halves = kvf_device_alloc(session->device, KVF_MEMORY_CHECKPOINT,
                                              KVF_PLACE_DEVICE, halves_bytes(geometry));
        checkpoint->logits = kvf_device_alloc(session->device, KVF_MEMORY_CHECKPOINT,
                                              KVF_PLACE_STAGING, logits_bytes(geometry));
    }
    if (!checkpoint || !checkpoint->halves || !checkpoint->logits) {
        if (checkpoint)
            release_memory(session, checkpoint);
        return kvf_fail(
            error, KVF_OUT_OF_MEMORY, "no memory for the checkpoint at %llu tokens (%llu bytes)",
            (unsigned long long)n_tokens, (unsigned long long)kvf_checkpoint_own_bytes(geometry));
    }
    checkpoint->n_references = 1;
    checkpoint->n_tokens = n_tokens;
    checkpoint->n_pages = n_pages;
    session->checkpoints.pending = checkpoint;
    return KVF_OK;
}

/* The oldest goes where there is no place for one more. */
static void add(kvf_session *session, kvf_checkpoint *checkpoint)
{
    kvf_checkpoints *all = &session->checkpoints;
    if (all->n == all->capacity) {
        kvf_checkpoint_release(session, all->list[0]);
        memmove(all->list, all->list + 1, (all->n - 1) * sizeof *all->list);
        all->n--;
        all->from_start = false;
    }
    all->list[all->n++] = checkpoint;
}

void kvf_checkpoints_take(kvf_session *session)
{
    kvf_checkpoint *checkpoint = session->checkpoints.pending;
    if (!checkpoint)
        return;
    session->checkpoints.pending = NULL;
    checkpoint->inexact_rows = session->inexact_rows;
    for (uint32_t layer = 0; layer < session->geometry.n_layers; layer++)
        for (uint32_t i = 0; i < checkpoint->n_pages; i++) {
            kvf_page *page = session->layers[layer].window.pages[i];
            kvf_page_keep(session->device, page);
            checkpoint->window[(size_t)layer * checkpoint->n_pages + i] = page;
        }
    move_memory(session, checkpoint, false);
    add(session, checkpoint);
}

kvf_status kvf_checkpoints_restart(kvf_session *session, kvf_error *error)
{
    kvf_checkpoints *all = &session->checkpoints;
    for (uint32_t i = 0; i < all->n; i++)
        kvf_checkpoint_release(session, all->list[i]);
    all->n = 0;
    all->from_start = false;
    kvf_status status = KVF_OK;
    for (uint32_t i = 0; i < session->geometry.n_layers && status == KVF_OK; i++) {
        const kvf_layer_cache *cache = &session->layers[i];
        if (cache->index_state) /* only CSA layers leave something to keep */
            status = kvf_page_check(cache->row_state, error);
        if (status == KVF_OK && cache->index_state)
            status = kvf_page_check(cache->index_state, error);
    }
    if (status == KVF_OK && session->header->n_tokens > 0)
        status = kvf_checkpoints_prepare(session, session->header->n_tokens, error);
    if (status == KVF_OK)
        kvf_checkpoints_take(session);
    return status;
}

void kvf_checkpoints_cut(kvf_session *session, uint64_t n_tokens)
{
    kvf_checkpoints *all = &session->checkpoints;
    while (all->n > 0 && all->list[all->n - 1]->n_tokens > n_tokens)
        kvf_checkpoint_release(session, all->list[--all->n]);
}

kvf_checkpoint *kvf_checkpoints_find(const kvf_session *session, uint64_t n_tokens)
{
    const kvf_checkpoints *all = &session->checkpoints;
    for (uint32_t i = all->n; i > 0; i--)
        if (all->list[i - 1]->n_tokens <= n_tokens)
            return all->list[i - 1];
    return NULL;
}

void kvf_checkpoints_share(kvf_session *to, const kvf_session *from)
{
    to->checkpoints.n = from->checkpoints.n;
    to->checkpoints.from_start = from->checkpoints.from_start;
    for (uint32_t i = 0; i < from->checkpoints.n; i++) {
        to->checkpoints.list[i] = from->checkpoints.list[i];
        to->checkpoints.list[i]->n_references++;
    }
}

uint64_t kvf_session_checkpoint_bytes(const kvf_session *session)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < session->checkpoints.n; i++) {
        const kvf_checkpoint *checkpoint = session->checkpoints.list[i];
        const size_t n = (size_t)session->geometry.n_layers * checkpoint->n_pages;
        bytes += kvf_checkpoint_own_bytes(&session->geometry);
        for (size_t j = 0; j < n; j++)
            if (!checkpoint->window[j]->owner && checkpoint->window[j]->n_sessions == 0)
                bytes += checkpoint->window[j]->bytes;
    }
    return bytes;
}
