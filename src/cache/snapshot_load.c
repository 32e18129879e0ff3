/* A session from a file: what is small is copied, rows stay where they are. */
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "cache/snapshot.h"
#include "error.h"

/* ---- Content of parts ---------------------------------------------------------------- */

kvf_status kvf_snapshot_part_data(kvf_snapshot_map *map, uint32_t i, uint64_t bytes,
                                  uint8_t *unpacked, const uint8_t **data, kvf_error *error)
{
    const kvf_part *part = &map->parts[i];
    const kvf_status status = kvf_snapshot_map_check(map, i, error);
    if (status != KVF_OK)
        return status;
    *data = map->view + part->offset;
    if (part->codec == KVF_CODEC_NONE)
        return KVF_OK;
    if (kvf_codec_bound(bytes) == 0)
        return kvf_fail(error, KVF_UNSUPPORTED, "%s: is compressed; this build has no zstd",
                        kvf_printable(map->path).text);
    if (!kvf_codec_decompress(unpacked, bytes, *data, part->stored_bytes))
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: the %s of layer %u, pages from %u on, do not unpack to %llu bytes",
                        kvf_printable(map->path).text, kvf_stream_name(part->kind), part->layer,
                        part->first_page, (unsigned long long)bytes);
    *data = unpacked;
    return KVF_OK;
}

kvf_status kvf_snapshot_check_tokens(const char *path, uint32_t vocab, const kvf_part *part,
                                     const uint8_t *data, uint64_t n_tokens, kvf_error *error)
{
    const uint64_t page_tokens = KVF_SNAPSHOT_PAGE_BYTES / sizeof(int32_t);
    const uint64_t first = part->first_page * page_tokens;
    const uint64_t end = first + part->n_pages * page_tokens;
    for (uint64_t i = first; i < end && i < n_tokens; i++) {
        int32_t token;
        memcpy(&token, data + (i - first) * sizeof token, sizeof token);
        if (token < 0 || (uint32_t)token >= vocab)
            return kvf_fail(error, KVF_FILE_FORMAT,
                            "%s: token %llu has id %d; the vocabulary is 0 to %u",
                            kvf_printable(path).text, (unsigned long long)i, token, vocab - 1);
    }
    return KVF_OK;
}

/* ---- Parts into the session ------------------------------------------------------------ */

/* The pages of a part where they are to be in plain memory of n_bytes. */
static void take_bytes(kvf_device *device, kvf_place place, void *memory, uint64_t n_bytes,
                       const kvf_part *part, const uint8_t *data)
{
    const uint64_t first = (uint64_t)part->first_page * KVF_SNAPSHOT_PAGE_BYTES;
    const uint64_t bytes = (uint64_t)part->n_pages * KVF_SNAPSHOT_PAGE_BYTES;
    const uint64_t left = n_bytes - first;
    uint8_t *to = (uint8_t *)memory + first;
    const uint64_t n = left < bytes ? left : bytes;
    if (place == KVF_PLACE_STAGING)
        memcpy(to, data, n);
    else
        device->backend->write(device, to, data, n);
}

kvf_paged_rows *kvf_snapshot_rows_of(kvf_session *session, const kvf_part *part)
{
    kvf_layer_cache *layer = &session->layers[part->layer];
    switch (part->kind) {
    case KVF_STREAM_WINDOW: return &layer->window;
    case KVF_STREAM_ROWS: return &layer->rows;
    case KVF_STREAM_INDEX_ROWS: return &layer->index_rows;
    default: return NULL;
    }
}

/* Pages of rows as they are in the file: referred to, or copied where data is not NULL. */
static kvf_status take_pages(kvf_session *session, kvf_snapshot_map *map, const kvf_part *part,
                             const uint8_t *data, kvf_error *error)
{
    kvf_paged_rows *rows = kvf_snapshot_rows_of(session, part);
    const uint64_t page_bytes = kvf_paged_rows_page_bytes(rows);
    const uint64_t first = rows->n_pages;
    for (uint32_t i = 0; i < part->n_pages; i++) {
        const uint8_t *in_file = map->view + part->offset + i * page_bytes;
        kvf_page *page = data ? kvf_session_new_page(session, KVF_PLACE_DEVICE, page_bytes)
                              : kvf_session_map_page(session, &map->owner, in_file, page_bytes);
        if (!page)
            return kvf_fail(error, KVF_OUT_OF_MEMORY,
                            "%s: no memory for page %u of the %s of layer %u",
                            kvf_printable(map->path).text, part->first_page + i,
                            kvf_stream_name(part->kind), part->layer);
        if (data)
            session->device->backend->write(session->device, page->memory, data + i * page_bytes,
                                            page_bytes);
        kvf_paged_rows_put(rows, page);
    }
    kvf_paged_rows_write(session, rows, first);
    return KVF_OK;
}

static kvf_status take_part(kvf_session *session, kvf_snapshot_map *map, uint32_t i,
                            const kvf_snapshot_shape *shape, uint8_t *unpacked, kvf_error *error)
{
    const kvf_part *part = &map->parts[i];
    kvf_device *device = session->device;
    kvf_layer_cache *layer = &session->layers[part->layer];
    const bool rows = kvf_snapshot_rows_of(session, part) != NULL;
    if (rows && part->codec == KVF_CODEC_NONE && device->backend->addresses_host_memory)
        return take_pages(session, map, part, NULL, error);
    const uint8_t *data;
    kvf_stream stream;
    kvf_stream_of(shape, part, &stream);
    const kvf_status status = kvf_snapshot_part_data(
        map, i, (uint64_t)part->n_pages * stream.page_bytes, unpacked, &data, error);
    if (status != KVF_OK)
        return status;
    switch (part->kind) {
    case KVF_STREAM_TOKENS:
        take_bytes(device, KVF_PLACE_STAGING, session->tokens->memory, session->tokens->bytes, part,
                   data);
        return kvf_snapshot_check_tokens(map->path, session->geometry.vocab, part, data,
                                         shape->n_tokens, error);
    case KVF_STREAM_LOGITS:
        take_bytes(device, KVF_PLACE_STAGING, session->logits, 4ull * session->geometry.vocab, part,
                   data);
        break;
    case KVF_STREAM_ROW_STATE:
        take_bytes(device, KVF_PLACE_DEVICE, layer->row_state->memory, layer->row_state->bytes,
                   part, data);
        break;
    case KVF_STREAM_INDEX_STATE:
        take_bytes(device, KVF_PLACE_DEVICE, layer->index_state->memory, layer->index_state->bytes,
                   part, data);
        break;
    default: return take_pages(session, map, part, data, error);
    }
    return KVF_OK;
}

/* All parts; rows only where the session keeps them as the file does. */
static kvf_status take_parts(kvf_session *session, kvf_snapshot_map *map,
                             const kvf_snapshot_index *index, kvf_error *error)
{
    const kvf_snapshot_shape shape = kvf_snapshot_shape_of(index);
    const bool same = session->profile == shape.profile;
    uint8_t *unpacked = malloc(KVF_SNAPSHOT_PART_BYTES);
    if (!unpacked)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to unpack parts",
                        kvf_printable(map->path).text);
    kvf_status status = KVF_OK;
    for (uint32_t i = 0; i < map->n_parts && status == KVF_OK; i++)
        if (same || !kvf_snapshot_rows_of(session, &map->parts[i]))
            status = take_part(session, map, i, &shape, unpacked, error);
        else
            status = kvf_snapshot_repack(session, map, i, &shape, unpacked, error);
    free(unpacked);
    return status;
}

/* ---- The window ------------------------------------------------------------------------- */

static void reverse(kvf_page **pages, uint64_t n)
{
    for (uint64_t i = 0; i < n / 2; i++) {
        kvf_page *page = pages[i];
        pages[i] = pages[n - 1 - i];
        pages[n - 1 - i] = page;
    }
}

/*
 * The file has the window as a ring, of token t in row t % window_tokens. In the session its
 * pages are a list, oldest first; where the last is not full, it is also the oldest: the same
 * bytes are put at both ends, and each end's rows are read from its own.
 */
static kvf_status unroll_window(kvf_session *session, const kvf_snapshot_map *map, uint32_t layer,
                                kvf_error *error)
{
    const uint32_t window_tokens = session->geometry.window_tokens;
    const uint64_t n_tokens = session->header->n_tokens;
    kvf_paged_rows *window = &session->layers[layer].window;
    if (n_tokens <= window_tokens)
        return KVF_OK;
    window->first_row = kvf_window_first(window_tokens, n_tokens);
    const uint64_t ring_pages = window_tokens / KVF_PAGE_ROWS;
    const uint64_t oldest = window->first_row / KVF_PAGE_ROWS % ring_pages;
    reverse(window->pages, oldest);
    reverse(window->pages + oldest, ring_pages - oldest);
    reverse(window->pages, ring_pages);
    for (uint64_t i = 0; i < ring_pages; i++)
        window->memory[i] = window->pages[i]->memory;
    if (n_tokens % KVF_PAGE_ROWS != 0) {
        const kvf_page *page = window->pages[0];
        kvf_page *last = page->owner
                             ? kvf_session_map_page(session, page->owner, page->memory, page->bytes)
                             : kvf_session_new_page(session, KVF_PLACE_DEVICE, page->bytes);
        if (!last)
            return kvf_fail(error, KVF_OUT_OF_MEMORY,
                            "%s: no memory for the last page of the window rows of layer %u",
                            kvf_printable(map->path).text, layer);
        if (!page->owner)
            session->device->backend->copy(session->device, last->memory, page->memory,
                                           page->bytes);
        kvf_paged_rows_put(window, last);
    }
    kvf_paged_rows_write(session, window, 0);
    return KVF_OK;
}

/* ---- Which session ------------------------------------------------------------------------ */

static kvf_status compare_geometry(const kvf_geometry *file, const kvf_geometry *model,
                                   const char *path, kvf_error *error)
{
    const struct {
        const char *name;
        uint32_t file;
        uint32_t model;
    } numbers[] = {{"layers", file->n_layers, model->n_layers},
                   {"tokens in its vocabulary", file->vocab, model->vocab},
                   {"heads", file->n_heads, model->n_heads},
                   {"index heads", file->n_index_heads, model->n_index_heads},
                   {"selected rows", file->top_k, model->top_k},
                   {"window tokens", file->window_tokens, model->window_tokens}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].file != numbers[i].model)
            return kvf_fail(
                error, KVF_WRONG_MODEL, "%s: was saved with a model of %u %s; this one has %u",
                kvf_printable(path).text, numbers[i].file, numbers[i].name, numbers[i].model);
    for (uint32_t i = 0; i < file->n_layers; i++)
        if (file->layers[i].kind != model->layers[i].kind ||
            file->layers[i].ratio != model->layers[i].ratio)
            return kvf_fail(error, KVF_WRONG_MODEL,
                            "%s: layer %u was saved with kind %d and ratio %u; this model has "
                            "kind %d and ratio %u",
                            kvf_printable(path).text, i, (int)file->layers[i].kind,
                            file->layers[i].ratio, (int)model->layers[i].kind,
                            model->layers[i].ratio);
    return KVF_OK;
}

static kvf_status compare_model(const kvf_snapshot_index *index, const kvf_load_options *options,
                                const char *path, kvf_error *error)
{
    const uint64_t saved = index->header.session.model_fingerprint;
    if (options->geometry) {
        const kvf_status status =
            compare_geometry(&index->geometry, options->geometry, path, error);
        if (status != KVF_OK)
            return status;
    }
    if (options->model_fingerprint != 0 && options->model_fingerprint != saved)
        return kvf_fail(error, KVF_WRONG_MODEL,
                        "%s: was saved with model %016llx; this one is %016llx",
                        kvf_printable(path).text, (unsigned long long)saved,
                        (unsigned long long)options->model_fingerprint);
    return KVF_OK;
}

/* The options of the session to open; zero in those wanted means: as saved. */
static kvf_status resolve_options(const kvf_snapshot_index *index, const kvf_load_options *options,
                                  const char *path, kvf_session_options *resolved, kvf_error *error)
{
    const kvf_session_header *header = &index->header.session;
    const bool grid_off = header->flags & KVF_SNAPSHOT_GRID_OFF;
    if (options->session)
        *resolved = *options->session;
    else
        *resolved =
            (kvf_session_options){.profile = (kvf_profile_id)header->profile, .grid_off = grid_off};
    if (resolved->max_tokens == 0)
        resolved->max_tokens = header->max_tokens;
    if (resolved->grid_off != grid_off)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "%s: was saved with the grid %s; it cannot be restored with it %s",
                        kvf_printable(path).text, grid_off ? "off" : "on", grid_off ? "on" : "off");
    if (header->n_tokens > resolved->max_tokens)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%s: holds %llu tokens; they do not fit a context of %llu",
                        kvf_printable(path).text, (unsigned long long)header->n_tokens,
                        (unsigned long long)resolved->max_tokens);
    return KVF_OK;
}

/* An empty session with room for the tokens. */
static kvf_status open_session(kvf_device *device, const kvf_snapshot_index *index,
                               const kvf_load_options *options, const char *path,
                               kvf_session **session, kvf_error *error)
{
    kvf_session_options resolved;
    kvf_status status = compare_model(index, options, path, error);
    if (status == KVF_OK)
        status = resolve_options(index, options, path, &resolved, error);
    if (status != KVF_OK)
        return status;
    const kvf_geometry *geometry = options->geometry ? options->geometry : &index->geometry;
    status = kvf_session_open(device, geometry, &resolved, session, error);
    const uint64_t n_tokens = index->header.session.n_tokens;
    if (status != KVF_OK || n_tokens == 0)
        return status;
    const uint64_t bytes = kvf_ceil_div(n_tokens, KVF_TOKEN_BLOCK) * KVF_TOKEN_BLOCK * 4;
    (*session)->tokens = kvf_session_new_page(*session, KVF_PLACE_STAGING, bytes);
    return (*session)->tokens
               ? KVF_OK
               : kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for %llu token ids",
                          kvf_printable(path).text, (unsigned long long)n_tokens);
}

static kvf_status fill_session(kvf_session *session, kvf_snapshot_map *map,
                               const kvf_snapshot_index *index, kvf_error *error)
{
    const kvf_snapshot_header *header = &index->header;
    const uint64_t n_tokens = header->session.n_tokens;
    kvf_status status = take_parts(session, map, index, error);
    if (status != KVF_OK)
        return status;
    kvf_session_set_n_tokens(session, n_tokens);
    for (uint32_t i = 0; i < session->geometry.n_layers && status == KVF_OK; i++)
        status = unroll_window(session, map, i, error);
    if (status != KVF_OK)
        return status;
    session->header->model_fingerprint = header->session.model_fingerprint;
    session->inexact_rows = header->inexact_rows;
    memcpy(session->caller_state, header->caller_state, sizeof session->caller_state);
    /* Another profile's file holds nothing that a later save could keep. */
    session->saved = (kvf_saved){.known = header->session.profile == session->header->profile,
                                 .header_checksum = header->checksum,
                                 .n_tokens = n_tokens,
                                 .kept_tokens = n_tokens};
    const kvf_status started = kvf_checkpoints_restart(session, error);
    return started == KVF_OK ? session->device->backend->wait(session->device, error) : started;
}

static kvf_status check_all(kvf_snapshot_map *map, kvf_error *error)
{
    kvf_status status = KVF_OK;
    for (uint32_t i = 0; i < map->n_parts && status == KVF_OK; i++)
        status = kvf_snapshot_map_check(map, i, error);
    return status;
}

kvf_status kvf_snapshot_open(const kvf_io *io, const char *path, kvf_snapshot_index *index,
                             kvf_snapshot_map **map, bool verify, kvf_error *error)
{
    int file;
    *map = NULL;
    kvf_status status = kvf_snapshot_open_file(io, path, false, &file, error);
    if (status != KVF_OK)
        return status;
    status = kvf_snapshot_read_index(io, file, path, index, error);
    if (status == KVF_OK)
        status = kvf_snapshot_map_open(io, file, path, index, map, error);
    io->close(io, file);
    kvf_snapshot_free_index(index); /* where the map did not take the parts */
    if (status == KVF_OK && verify)
        status = check_all(*map, error);
    if (status != KVF_OK && *map) {
        kvf_page_owner_release(&(*map)->owner);
        *map = NULL;
    }
    return status;
}

kvf_status kvf_session_load_from(kvf_device *device, const char *path,
                                 const kvf_load_options *options, kvf_session **session,
                                 const kvf_io *io, kvf_error *error)
{
    static const kvf_load_options defaults = {0};
    const kvf_load_options *wanted = options ? options : &defaults;
    kvf_snapshot_index index;
    kvf_snapshot_map *map;
    *session = NULL;
    if (!path || !*path)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "no path to restore from");
    kvf_status status = kvf_snapshot_open(io, path, &index, &map, wanted->verify, error);
    if (status != KVF_OK)
        return status;
    status = open_session(device, &index, wanted, path, session, error);
    if (status == KVF_OK)
        status = fill_session(*session, map, &index, error);
    kvf_page_owner_release(&map->owner);
    if (status == KVF_OK)
        return kvf_ok(error);
    kvf_session_close(*session);
    *session = NULL;
    return status;
}

kvf_status kvf_session_load(kvf_device *device, const char *path, const kvf_load_options *options,
                            kvf_session **session, kvf_error *error)
{
    return kvf_session_load_from(device, path, options, session, &kvf_io_system, error);
}
