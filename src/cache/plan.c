/*
 * The plan: every buffer of a session from geometry, profile and tokens, by pure
 * arithmetic (docs/FORMAT.md 8). The session allocates by the same layout.h.
 */
#include "cache/plan.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/checkpoint.h"
#include "cache/layout.h"
#include "error.h"
#include "shared/args.h"

static kvf_status check_layer(const kvf_geometry *geometry, uint32_t i, kvf_error *error)
{
    const kvf_layer layer = geometry->layers[i];
    if (layer.kind == KVF_LAYER_WINDOW)
        return KVF_OK;
    if (layer.kind != KVF_LAYER_CSA && layer.kind != KVF_LAYER_HCA)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "layer %u has kind %d; 0, 1 and 2 are known",
                        i, (int)layer.kind);
    if (layer.ratio < 1 || layer.ratio > KVF_MAX_RATIO)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "layer %u has ratio %u; 1 to %d is served", i,
                        layer.ratio, KVF_MAX_RATIO);
    if (layer.kind == KVF_LAYER_CSA &&
        (geometry->n_index_heads == 0 || geometry->n_index_heads % 8 ||
         geometry->n_index_heads > 1024 || geometry->top_k == 0 || geometry->top_k > KVF_MAX_TOP_K))
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "layer %u selects: %u index heads (a multiple of 8 up to 1024), top_k %u "
                        "(1 to %d)",
                        i, geometry->n_index_heads, geometry->top_k, KVF_MAX_TOP_K);
    return KVF_OK;
}

kvf_status kvf_geometry_check(const kvf_geometry *geometry, kvf_error *error)
{
    if (geometry->n_layers == 0 || geometry->n_layers > KVF_MAX_LAYERS)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "%u layers; 1 to %d are served",
                        geometry->n_layers, KVF_MAX_LAYERS);
    if (geometry->window_tokens == 0 || geometry->window_tokens % KVF_PAGE_ROWS ||
        geometry->window_tokens > 65536)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "a window of %u tokens; a multiple of %d up to 65536 is served",
                        geometry->window_tokens, KVF_PAGE_ROWS);
    if (geometry->n_heads == 0 || geometry->n_heads > 1024 || geometry->vocab == 0 ||
        geometry->vocab > (1u << 24) || geometry->max_tokens == 0 ||
        geometry->max_tokens > KVF_MAX_CONTEXT_TOKENS)
        return kvf_fail(
            error, KVF_INVALID_ARGUMENT,
            "%u heads (1 to 1024), vocabulary %u (up to 2^24), %llu tokens (up to 2^31)",
            geometry->n_heads, geometry->vocab, (unsigned long long)geometry->max_tokens);
    for (uint32_t i = 0; i < geometry->n_layers; i++) {
        const kvf_status status = check_layer(geometry, i, error);
        if (status != KVF_OK)
            return status;
    }
    return KVF_OK;
}

/* Checkpoints: how many, how far apart. */
static kvf_status resolve_checkpoints(const kvf_geometry *geometry, kvf_session_options *resolved,
                                      kvf_error *error)
{
    if (resolved->checkpoint_count == 0)
        resolved->checkpoint_count = KVF_DEFAULT_CHECKPOINTS;
    if (resolved->checkpoint_count > KVF_MAX_CHECKPOINTS &&
        resolved->checkpoint_count != KVF_NO_CHECKPOINTS)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%u checkpoints; 1 to %d are kept, or KVF_NO_CHECKPOINTS",
                        resolved->checkpoint_count, KVF_MAX_CHECKPOINTS);
    if (resolved->checkpoint_spacing_tokens == 0) {
        const uint64_t alignment = kvf_checkpoint_alignment(geometry);
        resolved->checkpoint_spacing_tokens = KVF_MIN_CHECKPOINT_SPACING;
        if (alignment > KVF_MIN_CHECKPOINT_SPACING)
            resolved->checkpoint_spacing_tokens = alignment;
    }
    if (resolved->checkpoint_spacing_tokens > KVF_MAX_CONTEXT_TOKENS)
        resolved->checkpoint_spacing_tokens = KVF_MAX_CONTEXT_TOKENS; /* sums stay small */
    if (resolved->checkpoint_spacing_tokens < KVF_MIN_CHECKPOINT_SPACING)
        return kvf_fail(
            error, KVF_INVALID_ARGUMENT, "a checkpoint every %llu tokens; %d or more are served",
            (unsigned long long)resolved->checkpoint_spacing_tokens, KVF_MIN_CHECKPOINT_SPACING);
    return KVF_OK;
}

kvf_status kvf_options_resolve(const kvf_geometry *geometry, const kvf_session_options *options,
                               kvf_session_options *resolved, kvf_error *error)
{
    const kvf_status status = kvf_geometry_check(geometry, error);
    if (status != KVF_OK)
        return status;
    const kvf_profile *profile = kvf_profile_get(options->profile);
    if (!profile)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "profile %d; 0 to %d are known",
                        (int)options->profile, KVF_PROFILE_COUNT - 1);
    *resolved = *options;
    if (resolved->chunk_tokens == 0)
        resolved->chunk_tokens = KVF_DEFAULT_CHUNK_TOKENS;
    if (resolved->chunk_tokens > KVF_MAX_CHUNK_TOKENS)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "a chunk of %u tokens; 1 to %d are served",
                        options->chunk_tokens, KVF_MAX_CHUNK_TOKENS);
    if (resolved->batch_sessions == 0)
        resolved->batch_sessions = 1;
    if (resolved->batch_sessions > KVF_MAX_BATCH_SESSIONS)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "a batch of %u sessions; 1 to %d are served",
                        resolved->batch_sessions, KVF_MAX_BATCH_SESSIONS);
    if (resolved->max_tokens > geometry->max_tokens)
        return kvf_fail(
            error, KVF_INVALID_ARGUMENT, "a context of %llu tokens; the model's maximum is %llu",
            (unsigned long long)options->max_tokens, (unsigned long long)geometry->max_tokens);
    /* A session's part cannot be longer than the context, and scratch is sized by all of them. */
    const uint64_t most = resolved->max_tokens * resolved->batch_sessions;
    if (resolved->chunk_tokens > most)
        resolved->chunk_tokens = most ? (uint32_t)most : 1;
    if (resolved->score_tile_tokens == 0)
        resolved->score_tile_tokens = profile->score_tile_tokens;
    if (resolved->score_tile_tokens == 0 || resolved->score_tile_tokens > resolved->chunk_tokens ||
        options->profile == KVF_PROFILE_LEGACY)
        resolved->score_tile_tokens = resolved->chunk_tokens;
    if (resolved->n_threads == 0)
        resolved->n_threads = 1;
    const kvf_backend *backend;
    const kvf_status found = kvf_backend_find(resolved->backend, &backend, error);
    if (found != KVF_OK)
        return found;
    resolved->backend = backend->name;
    if (resolved->grid_off && options->profile != KVF_PROFILE_LEGACY)
        return kvf_fail(
            error, KVF_INVALID_ARGUMENT,
            "grid off keeps unrounded f32 rows, which only the legacy profile stores, not %s",
            profile->name);
    return resolve_checkpoints(geometry, resolved, error);
}

/* ---- Building the list ------------------------------------------------------ */

typedef struct builder {
    kvf_plan *plan;
    uint32_t capacity;
} builder;

/* Appends a buffer of the given dims; capacity was computed beforehand. */
static kvf_plan_buffer *add(builder *b, kvf_memory_class klass, const char *dtype, uint64_t bytes,
                            const char *name_format, ...) __attribute__((format(printf, 5, 6)));

static kvf_plan_buffer *add(builder *b, kvf_memory_class klass, const char *dtype, uint64_t bytes,
                            const char *name_format, ...)
{
    kvf_plan_buffer *buffer = &b->plan->buffers[b->plan->n_buffers++];
    memset(buffer, 0, sizeof *buffer);
    va_list arguments;
    va_start(arguments, name_format);
    vsnprintf(buffer->name, sizeof buffer->name, name_format, arguments);
    va_end(arguments);
    snprintf(buffer->dtype, sizeof buffer->dtype, "%s", dtype);
    buffer->klass = klass;
    buffer->bytes = bytes;
    return buffer;
}

static void set_shape(kvf_plan_buffer *buffer, uint32_t n_dims, uint64_t d0, uint64_t d1,
                      uint64_t d2)
{
    buffer->n_dims = n_dims;
    buffer->shape[0] = d0;
    buffer->shape[1] = d1;
    buffer->shape[2] = d2;
}

/* Rows in whole pages. */
static void add_rows(builder *b, uint32_t layer, const char *what, kvf_format_id format,
                     uint32_t width, uint64_t n_rows, uint64_t n_pages)
{
    kvf_plan_buffer *buffer = add(b, KVF_MEMORY_CACHE, kvf_format_name(format),
                                  n_pages * kvf_format_page_bytes(format, width, KVF_PAGE_ROWS),
                                  "layer.%u.%s", layer, what);
    buffer->held_bytes = n_rows * kvf_format_row_bytes(format, width);
    buffer->page_bytes = kvf_format_page_bytes(format, width, KVF_PAGE_ROWS);
    set_shape(buffer, 3, n_pages, KVF_PAGE_ROWS, width);
}

static void add_state(builder *b, uint32_t i, const char *what, kvf_layer layer, uint32_t width)
{
    const uint64_t bytes = 4 * kvf_layer_state_floats(layer, width);
    kvf_plan_buffer *buffer = add(b, KVF_MEMORY_CACHE, "f32", bytes, "layer.%u.%s", i, what);
    buffer->held_bytes = bytes;
    buffer->page_bytes = bytes;
    set_shape(buffer, 3, kvf_layer_slots(layer), 2, (uint64_t)kvf_layer_parts(layer) * width);
}

static void add_layer(builder *b, const kvf_geometry *geometry, const kvf_profile *profile,
                      uint32_t i, uint64_t n_tokens)
{
    const kvf_layer layer = geometry->layers[i];
    const uint32_t window = geometry->window_tokens;
    const uint64_t n_rows = kvf_layer_rows(layer, n_tokens);
    const uint64_t n_pages = kvf_ceil_div(n_rows, KVF_PAGE_ROWS);
    add_rows(b, i, "window", profile->window_format, KVF_ROW_WIDTH,
             n_tokens < window ? n_tokens : window, kvf_window_pages(window, n_tokens));
    if (layer.kind == KVF_LAYER_WINDOW)
        return;
    add_rows(b, i, "rows", profile->row_format, KVF_ROW_WIDTH, n_rows, n_pages);
    add_state(b, i, "row_state", layer, KVF_ROW_WIDTH);
    if (layer.kind != KVF_LAYER_CSA)
        return;
    add_rows(b, i, "index_rows", profile->index_format, KVF_INDEX_WIDTH, n_rows, n_pages);
    add_state(b, i, "index_state", layer, KVF_INDEX_WIDTH);
}

static void add_session(builder *b, const kvf_geometry *geometry, uint64_t n_tokens)
{
    kvf_plan_buffer *buffer;
    const uint64_t header_bytes =
        sizeof(kvf_session_header) + sizeof(kvf_row_counts) * geometry->n_layers;
    buffer = add(b, KVF_MEMORY_CACHE, "u8", header_bytes, "header");
    buffer->held_bytes = header_bytes;
    set_shape(buffer, 1, header_bytes, 0, 0);
    buffer = add(b, KVF_MEMORY_CACHE, "f32", 4ull * geometry->vocab, "logits");
    buffer->held_bytes = buffer->bytes;
    set_shape(buffer, 1, geometry->vocab, 0, 0);
    const uint64_t tokens_allocated = kvf_ceil_div(n_tokens, KVF_TOKEN_BLOCK) * KVF_TOKEN_BLOCK;
    buffer = add(b, KVF_MEMORY_CACHE, "i32", 4 * tokens_allocated, "tokens");
    buffer->held_bytes = 4 * n_tokens;
    set_shape(buffer, 1, tokens_allocated, 0, 0);
}

/* As session.c opens them: for all pages that the session may come to hold. */
static void add_tables(builder *b, const kvf_geometry *geometry, const kvf_session_options *options)
{
    const uint64_t window_pages =
        kvf_window_most_pages(geometry->window_tokens, options->chunk_tokens);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < geometry->n_layers; i++) {
        const kvf_layer layer = geometry->layers[i];
        const uint64_t pages =
            kvf_ceil_div(kvf_layer_rows(layer, options->max_tokens), KVF_PAGE_ROWS);
        bytes += kvf_table_bytes(window_pages);
        if (layer.kind != KVF_LAYER_WINDOW)
            bytes += kvf_table_bytes(pages);
        if (layer.kind == KVF_LAYER_CSA) /* index rows: as many */
            bytes += kvf_table_bytes(pages);
    }
    set_shape(add(b, KVF_MEMORY_TABLE, "u64", bytes, "tables"), 1, bytes / kvf_table_bytes(1), 0,
              0);
}

/* Workspace of attend in one layer, for the longest chunk at the context's end. */
static uint64_t attend_bytes_of(const kvf_geometry *geometry, const kvf_session_options *options,
                                const kvf_backend *backend, kvf_layer layer)
{
    static const int32_t list = 0; /* says that there is one */
    static const float mask_f32 = 0;
    static const uint16_t mask_f16 = 0;
    const kvf_profile *profile = kvf_profile_get(options->profile);
    kvf_attend_args args = {
        .n_queries = options->chunk_tokens,
        .n_heads = geometry->n_heads,
        .window_tokens = geometry->window_tokens,
        .window = {.format = profile->window_format,
                   .width = KVF_ROW_WIDTH,
                   .page_rows = KVF_PAGE_ROWS,
                   .n_rows = geometry->window_tokens + (uint64_t)options->chunk_tokens},
        .rows = {.format = profile->row_format,
                 .width = KVF_ROW_WIDTH,
                 .page_rows = KVF_PAGE_ROWS,
                 .n_rows = kvf_layer_rows(layer, options->max_tokens)}};
    if (layer.kind == KVF_LAYER_CSA) {
        args.list_stride = geometry->top_k;
        args.mask_stride = args.rows.n_rows;
        args.list = profile->mask == KVF_MASK_NONE ? &list : NULL;
        args.mask_f32 = profile->mask == KVF_MASK_F32 ? &mask_f32 : NULL;
        args.mask_f16 = profile->mask == KVF_MASK_F16 ? &mask_f16 : NULL;
    }
    return backend->attend_workspace_bytes(options->n_threads, &args);
}

void kvf_scratch_sizes(const kvf_geometry *geometry, const kvf_session_options *options,
                       const kvf_backend *backend, kvf_scratch_size *size)
{
    const kvf_profile *profile = kvf_profile_get(options->profile);
    const uint64_t chunk = options->chunk_tokens;
    memset(size, 0, sizeof *size);
    for (uint32_t i = 0; i < geometry->n_layers; i++) {
        const kvf_layer layer = geometry->layers[i];
        const uint64_t rows = kvf_layer_rows(layer, options->max_tokens);
        const uint64_t attend_bytes = attend_bytes_of(geometry, options, backend, layer);
        if (layer.kind == KVF_LAYER_CSA && rows > size->select_rows)
            size->select_rows = rows;
        if (attend_bytes > size->attend_bytes)
            size->attend_bytes = attend_bytes;
        size->selects = size->selects || layer.kind == KVF_LAYER_CSA;
    }
    size->window_rows =
        kvf_window_passing_pages(geometry->window_tokens, options->chunk_tokens) * KVF_PAGE_ROWS;
    size->window_bytes =
        size->window_rows / KVF_PAGE_ROWS *
        kvf_format_page_bytes(profile->window_format, KVF_ROW_WIDTH, KVF_PAGE_ROWS);
    size->token_bytes = 4 * chunk;
    size->found_bytes = (uint64_t)options->batch_sessions * geometry->n_layers * KVF_FOUND_PLACES *
                        sizeof(kvf_finding);
    if (!size->selects)
        return;
    if (profile->mask == KVF_MASK_NONE) {
        size->query_bytes = chunk * kvf_format_page_bytes(profile->index_format, KVF_INDEX_WIDTH,
                                                          geometry->n_index_heads);
        size->list_bytes = 4 * chunk * geometry->top_k;
        size->list_len_bytes = 4 * chunk;
    } else {
        size->score_bytes = 4 * size->select_rows * options->score_tile_tokens;
        size->mask_bytes = (profile->mask == KVF_MASK_F32 ? 4 : 2) * size->select_rows * chunk;
    }
    const kvf_select_args select = {.n_queries = options->chunk_tokens,
                                    .n_heads = geometry->n_index_heads,
                                    .top_k = geometry->top_k};
    size->select_bytes = backend->select_workspace_bytes(options->n_threads, &select);
}

static void add_scratch(builder *b, const kvf_geometry *geometry,
                        const kvf_session_options *options)
{
    const kvf_profile *profile = kvf_profile_get(options->profile);
    const uint64_t chunk = options->chunk_tokens;
    const kvf_backend *backend;
    kvf_scratch_size size;
    kvf_backend_find(options->backend, &backend, NULL); /* as it was resolved */
    kvf_scratch_sizes(geometry, options, backend, &size);
    set_shape(add(b, KVF_MEMORY_SCRATCH, "i32", size.token_bytes, "chunk.tokens"), 1, chunk, 0, 0);
    set_shape(add(b, KVF_MEMORY_SCRATCH, kvf_format_name(profile->window_format), size.window_bytes,
                  "chunk.window"),
              2, size.window_rows, KVF_ROW_WIDTH, 0);
    set_shape(add(b, KVF_MEMORY_SCRATCH, "u64", size.found_bytes, "chunk.findings"), 3,
              (uint64_t)options->batch_sessions * geometry->n_layers, KVF_FOUND_PLACES, 2);
    set_shape(add(b, KVF_MEMORY_SCRATCH, "u8", size.attend_bytes, "attend.workspace"), 1,
              size.attend_bytes, 0, 0);
    if (!size.selects)
        return;
    set_shape(add(b, KVF_MEMORY_SCRATCH, "u8", size.select_bytes, "select.workspace"), 1,
              size.select_bytes, 0, 0);
    if (profile->mask == KVF_MASK_NONE) {
        set_shape(add(b, KVF_MEMORY_SCRATCH, kvf_format_name(profile->index_format),
                      size.query_bytes, "select.queries"),
                  3, chunk, geometry->n_index_heads, KVF_INDEX_WIDTH);
        set_shape(add(b, KVF_MEMORY_SCRATCH, "i32", size.list_bytes, "select.list"), 2, chunk,
                  geometry->top_k, 0);
        set_shape(add(b, KVF_MEMORY_SCRATCH, "u32", size.list_len_bytes, "select.list_len"), 1,
                  chunk, 0, 0);
        return;
    }
    set_shape(add(b, KVF_MEMORY_SCRATCH, "f32", size.score_bytes, "select.scores"), 2,
              options->score_tile_tokens, size.select_rows, 0);
    set_shape(add(b, KVF_MEMORY_SCRATCH, profile->mask == KVF_MASK_F32 ? "f32" : "f16",
                  size.mask_bytes, "select.mask"),
              2, chunk, size.select_rows, 0);
}

/*
 * The most that slabs have free while a session takes pages: a slab is opened where no page of the
 * size is free, so all but one page of one slab of each size.
 */
static uint64_t pool_bytes_of(const kvf_plan *plan, uint64_t halves_bytes, size_t slab_bytes)
{
    uint64_t sizes[KVF_SLAB_SIZES];
    uint32_t n = 0;
    uint64_t bytes = 0;
    /* Checkpoints have pages too, of halves: the last one here. */
    for (uint32_t i = 0; i <= plan->n_buffers; i++) {
        const uint64_t page_bytes =
            i < plan->n_buffers ? plan->buffers[i].page_bytes : halves_bytes;
        const uint32_t n_pages = kvf_slab_pages(slab_bytes, page_bytes);
        uint32_t at = 0;
        while (at < n && sizes[at] != page_bytes)
            at++;
        if (n_pages == 0 || at < n)
            continue;
        if (n == KVF_SLAB_SIZES) /* those that come first have slabs, whichever they are */
            return n * slab_bytes;
        sizes[n++] = page_bytes;
        bytes += (n_pages - 1) * page_bytes;
    }
    return bytes;
}

kvf_status kvf_plan_session(const kvf_geometry *geometry, const kvf_session_options *options,
                            uint64_t n_tokens, kvf_plan *plan, kvf_error *error)
{
    kvf_session_options resolved;
    memset(plan, 0, sizeof *plan);
    const kvf_status status = kvf_options_resolve(geometry, options, &resolved, error);
    if (status != KVF_OK)
        return status;
    if (n_tokens > resolved.max_tokens)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "%llu tokens do not fit a context of %llu",
                        (unsigned long long)n_tokens, (unsigned long long)resolved.max_tokens);
    /* At most 5 buffers a layer, 4 of the session, 9 of scratch. */
    builder b = {plan, geometry->n_layers * 5 + 4 + 9};
    plan->buffers = malloc(b.capacity * sizeof *plan->buffers);
    if (!plan->buffers)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a plan of %u buffers", b.capacity);
    add_session(&b, geometry, n_tokens);
    for (uint32_t i = 0; i < geometry->n_layers; i++)
        add_layer(&b, geometry, kvf_profile_get(resolved.profile), i, n_tokens);
    add_tables(&b, geometry, &resolved);
    add_scratch(&b, geometry, &resolved);
    for (uint32_t i = 0; i < plan->n_buffers; i++) {
        plan->session_bytes += plan->buffers[i].held_bytes;
        if (plan->buffers[i].klass == KVF_MEMORY_CACHE)
            plan->allocated_bytes += plan->buffers[i].bytes;
        else if (plan->buffers[i].klass == KVF_MEMORY_TABLE)
            plan->table_bytes += plan->buffers[i].bytes;
        else
            plan->scratch_bytes += plan->buffers[i].bytes;
    }
    plan->checkpoint_bytes = kvf_checkpoints_bytes(geometry, &resolved, n_tokens);
    plan->chunk_undo_bytes = kvf_chunk_undo_bytes(geometry, &resolved);
    const kvf_backend *backend;
    kvf_backend_find(resolved.backend, &backend, NULL); /* as it was resolved */
    plan->pool_bytes =
        pool_bytes_of(plan, kvf_checkpoint_halves_bytes(geometry), backend->slab_bytes);
    return kvf_ok(error);
}

void kvf_plan_free(kvf_plan *plan)
{
    if (plan) {
        free(plan->buffers);
        memset(plan, 0, sizeof *plan);
    }
}
