/*
 * A session from a file: what is small is copied, rows stay where they are. Rows of another
 * profile are unpacked, packed, and unpacked again to see that every value is what it was: values
 * of a grid stay on it, though a block whose largest value was rounded down may get a smaller
 * scale and other codes.
 */
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "error.h"
#include "shared/fp_environment.h"
#include "snapshot/snapshot.h"

/* One restore under way. */
struct kvf_load {
    kvf_load_options options;
    kvf_snapshot_map *map;
    kvf_snapshot_shape shape;     /* of the file */
    kvf_session *session;         /* NULL: no step was made, or it is the caller's */
    kvf_snapshot_content content; /* what is filled */
    uint8_t *unpacked;            /* [KVF_SNAPSHOT_PART_BYTES] */
    uint32_t n_taken;             /* parts */
};
/* What referring to a page costs, in bytes that could be copied instead. */
#define MAPPED_PAGE_BYTES 1024u

/* A page that a checkpoint alone holds. */
static void give_to_checkpoint(kvf_session *session, kvf_page **place, kvf_page *page)
{
    kvf_page_keep(session->device, page);
    kvf_session_drop_page(session, page);
    *place = page;
}

/*
 * A page of rows for page i of the part, where the session is to have it: in the file where it
 * lies at `in_file`, else new memory that is to be filled.
 */
static kvf_status next_page(kvf_load *load, const kvf_part *part, const kvf_stream_place *place,
                            uint32_t i, uint64_t bytes, const uint8_t *in_file, kvf_page **page,
                            kvf_error *error)
{
    kvf_session *session = load->session;
    *page = in_file ? kvf_session_map_page(session, &load->map->owner, in_file, bytes)
                    : kvf_session_new_page(session, KVF_PLACE_DEVICE, bytes);
    if (!*page)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for page %u of the %s",
                        kvf_printable(load->map->path).text, part->first_page + i,
                        kvf_stream_title_of(part->kind, part->number).text);
    if (place->rows)
        kvf_paged_rows_put(place->rows, *page);
    else
        give_to_checkpoint(session, &place->pages[part->first_page + i], *page);
    return KVF_OK;
}

/* ---- Rows of another profile ----------------------------------------------------------- */

/* On the device a page of the file, its values, its new values; and both on the host. */
typedef struct workspace {
    void *memory;
    size_t bytes;
    kvf_finding *finding;
    uint8_t *page;
    float *values;
    float *repacked;
    float *host_values; /* malloc'd; the new ones follow */
    float *host_repacked;
} workspace;

static kvf_status open_workspace(kvf_device *device, size_t page_bytes, uint32_t width,
                                 workspace *work, kvf_error *error)
{
    const size_t page_room = (page_bytes + 63) / 64 * 64;
    const size_t n_values = (size_t)KVF_PAGE_ROWS * width;
    work->bytes = 64 + page_room + 2 * n_values * sizeof(float);
    work->memory = kvf_device_alloc(device, KVF_MEMORY_SCRATCH, KVF_PLACE_DEVICE, work->bytes);
    work->host_values = malloc(2 * n_values * sizeof(float));
    if (!work->memory || !work->host_values)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to repack rows: %zu bytes",
                        work->bytes);
    work->finding = work->memory;
    work->page = (uint8_t *)work->memory + 64;
    work->values = (float *)(work->page + page_room);
    work->repacked = work->values + n_values;
    work->host_repacked = work->host_values + n_values;
    return KVF_OK;
}

static void close_workspace(kvf_device *device, workspace *work)
{
    kvf_device_release(device, KVF_MEMORY_SCRATCH, work->memory, work->bytes);
    free(work->host_values);
}

static kvf_rows one_page(kvf_format_id format, uint32_t width, void *page)
{
    return (kvf_rows){.format = format,
                      .width = width,
                      .page_rows = KVF_PAGE_ROWS,
                      .n_rows = KVF_PAGE_ROWS,
                      .base = page,
                      .page_stride_bytes = kvf_format_page_bytes(format, width, KVF_PAGE_ROWS)};
}

static void unpack(kvf_device *device, kvf_rows in, uint32_t first, uint32_t end, float *out)
{
    const kvf_unpack_args args = {
        .in = in, .first_row = first, .n_rows = end - first, .out = out, .stride = in.width};
    device->backend->unpack(device, &args);
}

/* The grid that a format contains; pack wants it named. */
static kvf_grid grid_of(kvf_format_id format)
{
    if (format == KVF_FORMAT_FP4)
        return KVF_GRID_FP4;
    return format == KVF_FORMAT_FP8_F16 || format == KVF_FORMAT_FP8_BF16 ? KVF_GRID_FP8
                                                                         : KVF_GRID_NONE;
}

/*
 * Packs the values into rows first .. end of the page. KVF_INEXACT, without a message, where the
 * format cannot hold one of them: the first, counted over all of these rows, is then in *at.
 */
static kvf_status pack_exactly(kvf_device *device, const workspace *work, kvf_rows page,
                               uint32_t first, uint32_t end, size_t *at, kvf_error *error)
{
    const kvf_finding nothing = {.first_bad = KVF_NOTHING_FOUND};
    kvf_finding finding;
    const kvf_pack_args args = {.rows = work->values,
                                .stride = page.width,
                                .n_rows = end - first,
                                .grid = grid_of(page.format),
                                .out = page,
                                .first_row = first};
    const size_t bytes = (size_t)(end - first) * page.width * sizeof(float);
    device->backend->write(device, work->finding, &nothing, sizeof nothing);
    device->backend->pack(device, &args, &(kvf_findings){.place = work->finding}, 1);
    unpack(device, page, first, end, work->repacked);
    device->backend->read(device, work->host_values, work->values, bytes);
    device->backend->read(device, work->host_repacked, work->repacked, bytes);
    device->backend->read(device, &finding, work->finding, sizeof finding);
    const kvf_status status = device->backend->wait(device, error);
    const kvf_found found = kvf_found_of(finding.first_bad);
    if (status != KVF_OK)
        return status;
    if (found.reason != KVF_OK) {
        *at = found.index * page.width + found.dim;
        return KVF_INEXACT;
    }
    if (memcmp(work->host_values, work->host_repacked, bytes) == 0)
        return KVF_OK;
    for (*at = 0; memcmp(&work->host_values[*at], &work->host_repacked[*at], sizeof(float)) == 0;)
        ++*at;
    return KVF_INEXACT;
}

/* Page i of the part, whose bytes are in work->page: the rows of it that mean something. */
static kvf_status repack_page(kvf_load *load, const kvf_part *part, const kvf_stream *stream,
                              const kvf_stream_place *place, kvf_format_id format, uint32_t i,
                              workspace *work, kvf_error *error)
{
    kvf_session *session = load->session;
    const uint32_t width = stream->width;
    uint32_t first;
    uint32_t end;
    kvf_page *page;
    size_t at = 0;
    kvf_stream_page_rows(stream, part->first_page + i, &first, &end);
    kvf_status status =
        next_page(load, part, place, i, kvf_format_page_bytes(format, width, KVF_PAGE_ROWS), NULL,
                  &page, error);
    if (status != KVF_OK)
        return status;
    unpack(session->device, one_page(stream->format, width, work->page), first, end, work->values);
    status = pack_exactly(session->device, work, one_page(format, width, page->memory), first, end,
                          &at, error);
    if (status != KVF_INEXACT)
        return status;
    return kvf_fail(error, KVF_INEXACT,
                    "%s: row %llu of the %s, dimension %zu is %.9g, which %s in the %s profile "
                    "cannot hold; restore it as %s",
                    kvf_printable(load->map->path).text,
                    (unsigned long long)(part->first_page + i) * KVF_PAGE_ROWS + first + at / width,
                    kvf_stream_title_of(part->kind, part->number).text, at % width,
                    (double)work->host_values[at], kvf_format_name(format), session->profile->name,
                    load->shape.profile->name);
}

/* Rows of another profile. KVF_INEXACT where a value cannot be held. */
static kvf_status repack_part(kvf_load *load, const kvf_part *part, const kvf_stream *stream,
                              const kvf_stream_place *place, kvf_format_id format,
                              const uint8_t *data, kvf_error *error)
{
    KVF_FP_DOOR(); /* the only place where loading computes */
    kvf_device *device = load->session->device;
    const size_t page_bytes = stream->page_bytes;
    workspace work = {0};
    kvf_status status = open_workspace(device, page_bytes, stream->width, &work, error);
    for (uint32_t i = 0; i < part->n_pages && status == KVF_OK; i++) {
        device->backend->write(device, work.page, data + i * page_bytes, page_bytes);
        status = repack_page(load, part, stream, place, format, i, &work, error);
    }
    close_workspace(device, &work);
    return status;
}

/* ---- Parts into the session ------------------------------------------------------------ */

/* Pages of rows as they are in the file: referred to, or copied where data is not NULL. */
static kvf_status take_rows(kvf_load *load, const kvf_part *part, const kvf_stream *stream,
                            const kvf_stream_place *place, const uint8_t *data, kvf_error *error)
{
    const uint64_t page_bytes = stream->page_bytes;
    kvf_device *device = load->session->device;
    kvf_status status = KVF_OK;
    for (uint32_t i = 0; i < part->n_pages && status == KVF_OK; i++) {
        kvf_page *page;
        const uint8_t *in_file = load->map->view + part->offset + i * page_bytes;
        status = next_page(load, part, place, i, page_bytes, data ? NULL : in_file, &page, error);
        if (status == KVF_OK && data)
            device->backend->write(device, page->memory, data + i * page_bytes, page_bytes);
    }
    return status;
}

/* The pages of a part where they are to be in plain memory. */
static void take_bytes(kvf_device *device, const kvf_stream_place *place, const kvf_part *part,
                       const uint8_t *data)
{
    const uint64_t first = (uint64_t)part->first_page * KVF_SNAPSHOT_PAGE_BYTES;
    const uint64_t bytes = (uint64_t)part->n_pages * KVF_SNAPSHOT_PAGE_BYTES;
    const uint64_t left = place->bytes - first;
    uint8_t *to = (uint8_t *)place->memory + first;
    const uint64_t n = left < bytes ? left : bytes;
    if (place->place == KVF_PLACE_STAGING)
        memcpy(to, data, n);
    else
        device->backend->write(device, to, data, n);
}

/* Plain bytes that the session has no page for yet: a checkpoint's. */
static kvf_status make_page(kvf_load *load, kvf_stream_place *place, const uint8_t *in_file,
                            kvf_error *error)
{
    kvf_session *session = load->session;
    kvf_page *page = in_file
                         ? kvf_session_map_page(session, &load->map->owner, in_file, place->bytes)
                         : kvf_session_new_page(session, KVF_PLACE_DEVICE, place->bytes);
    if (!page)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for a checkpoint of %llu bytes",
                        kvf_printable(load->map->path).text, (unsigned long long)place->bytes);
    place->memory = page->memory;
    place->place = page->place;
    give_to_checkpoint(session, place->page, page);
    return KVF_OK;
}

/* In which the session has the stream's rows. */
static kvf_format_id format_of(const kvf_load *load, const kvf_part *part)
{
    kvf_snapshot_shape shape = load->shape;
    kvf_stream stream;
    shape.profile = load->session->profile;
    kvf_stream_of(&shape, part, &stream);
    return stream.format;
}

/*
 * Rows, and what checkpoints have, stay in the file where the session keeps them as it does, they
 * can be reached there, and lie together. *bytes: what that was.
 */
static kvf_status take_part(kvf_load *load, uint32_t number, uint64_t *bytes, kvf_error *error)
{
    kvf_session *session = load->session;
    const kvf_part *part = &load->map->index.parts[number];
    kvf_stream stream;
    kvf_stream_of(&load->shape, part, &stream);
    kvf_stream_place place = kvf_stream_place_in(&load->content, &stream);
    const kvf_format_id format = format_of(load, part);
    const bool new_page = place.page && !*place.page;
    const bool stays = part->codec == KVF_CODEC_NONE && format == stream.format &&
                       session->device->backend->addresses_host_memory &&
                       (place.pages || (new_page && part->n_pages == stream.end_page));
    const uint64_t first = place.rows ? place.rows->n_pages : 0;
    const uint8_t *in_file = load->map->view + part->offset;
    const uint8_t *data = NULL;
    kvf_status status = KVF_OK;
    *bytes = (uint64_t)part->n_pages * (stays ? MAPPED_PAGE_BYTES : stream.page_bytes);
    if (!stays)
        status =
            kvf_snapshot_part_data(load->map, number, (uint64_t)part->n_pages * stream.page_bytes,
                                   load->unpacked, &data, error);
    if (status == KVF_OK && part->kind == KVF_STREAM_TOKENS)
        status = kvf_snapshot_check_tokens(load->map, part, data, error);
    if (status == KVF_OK && new_page)
        status = make_page(load, &place, stays ? in_file : NULL, error);
    if (status == KVF_OK && !place.pages && !stays)
        take_bytes(session->device, &place, part, data);
    else if (status == KVF_OK && place.pages && format == stream.format)
        status = take_rows(load, part, &stream, &place, data, error);
    else if (status == KVF_OK && place.pages)
        status = repack_part(load, part, &stream, &place, format, data, error);
    if (place.rows)
        kvf_paged_rows_write(session, place.rows, first);
    return status;
}

/* Parts of at most max_bytes, one at the least where one is left. */
static kvf_status take_parts(kvf_load *load, uint64_t max_bytes, kvf_error *error)
{
    kvf_status status = KVF_OK;
    uint64_t bytes = 0;
    while (load->n_taken < load->map->index.header.n_parts && status == KVF_OK &&
           bytes < max_bytes) {
        uint64_t taken;
        status = take_part(load, load->n_taken++, &taken, error);
        bytes += taken;
    }
    return status;
}

/* ---- The window of version 1 -------------------------------------------------------------- */

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
static kvf_status unroll_window(kvf_load *load, uint32_t layer, kvf_error *error)
{
    kvf_session *session = load->session;
    const uint32_t window_tokens = session->geometry.window_tokens;
    const uint64_t n_tokens = session->header->n_tokens;
    kvf_paged_rows *window = &session->layers[layer].window;
    if (n_tokens <= window_tokens)
        return KVF_OK;
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
                            kvf_printable(load->map->path).text, layer);
        if (!page->owner)
            session->device->backend->copy(session->device, last->memory, page->memory,
                                           page->bytes);
        kvf_paged_rows_put(window, last);
    }
    kvf_paged_rows_write(session, window, 0);
    return KVF_OK;
}

/* Where the windows begin, which of version 1's is a ring. */
static void set_windows(kvf_session *session)
{
    for (uint32_t i = 0; i < session->geometry.n_layers; i++)
        session->layers[i].window.first_row =
            kvf_window_first(session->geometry.window_tokens, session->header->n_tokens);
}

/* ---- Checkpoints ---------------------------------------------------------------------------- */

/* Empty ones for all of the file's. */
static kvf_status open_checkpoints(kvf_load *load, kvf_error *error)
{
    const uint32_t n = load->shape.n_checkpoints;
    load->content = (kvf_snapshot_content){.session = load->session, .shape = load->shape};
    load->content.checkpoints = calloc(n + 1, sizeof *load->content.checkpoints);
    bool memory = load->content.checkpoints != NULL;
    for (uint32_t i = 0; memory && i < n; i++) {
        kvf_checkpoint *checkpoint =
            kvf_checkpoint_new(load->session, load->shape.checkpoints[i].n_tokens);
        load->content.checkpoints[i] = checkpoint;
        memory = checkpoint != NULL;
        if (memory)
            checkpoint->inexact_rows = load->shape.checkpoints[i].inexact_rows;
    }
    if (!memory)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for %u checkpoints",
                        kvf_printable(load->map->path).text, n);
    return KVF_OK;
}

/* Gives them to the session, whatever comes of it, but where memory for that is short. */
static kvf_status keep_checkpoints(kvf_load *load, kvf_error *error)
{
    const uint32_t n = load->shape.n_checkpoints;
    const bool from_start = load->map->index.header.state & KVF_SNAPSHOT_FROM_START;
    uint32_t *why = malloc((n + 1) * sizeof *why);
    if (!why)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for %u checkpoints",
                        kvf_printable(load->map->path).text, n);
    for (uint32_t i = 0; i < n; i++)
        why[i] = load->shape.checkpoints[i].why;
    const kvf_status status = kvf_checkpoints_restart(load->session, load->content.checkpoints, why,
                                                      n, from_start, error);
    free(why);
    free(load->content.checkpoints);
    load->content.checkpoints = NULL;
    return status;
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

/* A session as long as the file says, with nothing in it yet. */
static kvf_status begin_session(kvf_load *load, kvf_device *device, kvf_error *error)
{
    const kvf_snapshot_map *map = load->map;
    kvf_status status =
        open_session(device, &map->index, &load->options, map->path, &load->session, error);
    if (status != KVF_OK)
        return status;
    load->unpacked = malloc(KVF_SNAPSHOT_PART_BYTES);
    if (!load->unpacked)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to unpack parts",
                        kvf_printable(map->path).text);
    /* Streams are as long as they say. */
    kvf_session_set_n_tokens(load->session, map->index.header.session.n_tokens);
    set_windows(load->session);
    return open_checkpoints(load, error);
}

/* All parts are there. */
static kvf_status end_session(kvf_load *load, kvf_error *error)
{
    kvf_session *session = load->session;
    const kvf_snapshot_header *header = &load->map->index.header;
    const uint64_t n_tokens = header->session.n_tokens;
    kvf_status status = KVF_OK;
    for (uint32_t i = 0; load->shape.version == 1 && i < session->geometry.n_layers; i++)
        if (status == KVF_OK)
            status = unroll_window(load, i, error);
    session->header->model_fingerprint = header->session.model_fingerprint;
    session->inexact_rows = header->inexact_rows;
    session->logits_known = !(header->state & KVF_SNAPSHOT_LOGITS_UNKNOWN);
    memcpy(session->caller_state, header->caller_state, sizeof session->caller_state);
    /* The file of another profile or version holds nothing that a later save could keep. */
    session->saved = (kvf_saved){.known = header->session.profile == session->header->profile &&
                                          load->shape.version == KVF_SNAPSHOT_VERSION,
                                 .header_checksum = header->checksum,
                                 .n_tokens = n_tokens,
                                 .kept_tokens = n_tokens,
                                 .kept_window = n_tokens,
                                 .kept_checkpoint = n_tokens};
    if (status == KVF_OK)
        status = keep_checkpoints(load, error);
    return status == KVF_OK ? session->device->backend->wait(session->device, error) : status;
}

/* What was filled is given up. */
static void close_session(kvf_load *load)
{
    for (uint32_t i = 0; load->content.checkpoints && i < load->shape.n_checkpoints; i++)
        kvf_checkpoint_release(load->session, load->content.checkpoints[i]);
    free(load->content.checkpoints);
    load->content.checkpoints = NULL;
    kvf_session_close(load->session);
    load->session = NULL;
    free(load->unpacked);
    load->unpacked = NULL;
}

kvf_status kvf_load_step(kvf_load *load, kvf_device *device, uint64_t max_bytes,
                         kvf_session **session, kvf_error *error)
{
    kvf_status status = KVF_OK;
    *session = NULL;
    if (load->n_taken == load->map->index.header.n_parts)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "%s: the load is over",
                        kvf_printable(load->map->path).text);
    if (!load->session)
        status = begin_session(load, device, error);
    if (status == KVF_OK)
        status = take_parts(load, max_bytes, error);
    const bool is_over = load->n_taken == load->map->index.header.n_parts;
    if (status == KVF_OK && is_over) {
        status = end_session(load, error);
        if (status == KVF_OK) {
            *session = load->session;
            load->session = NULL;
        }
    }
    if (status != KVF_OK || is_over) {
        load->n_taken = load->map->index.header.n_parts;
        close_session(load);
    }
    return status == KVF_OK ? kvf_ok(error) : status;
}

kvf_status kvf_load_open_on(const char *path, const kvf_load_options *options, const kvf_io *io,
                            kvf_load **out, kvf_error *error)
{
    *out = NULL;
    if (!path || !*path)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "no path to restore from");
    kvf_load *load = calloc(1, sizeof *load);
    if (!load)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to restore it",
                        kvf_printable(path).text);
    if (options)
        load->options = *options;
    const kvf_status status = kvf_snapshot_open(io, path, load->options.verify, &load->map, error);
    if (status != KVF_OK) {
        free(load);
        return status;
    }
    load->shape = kvf_snapshot_shape_of(&load->map->index);
    *out = load;
    return kvf_ok(error);
}

kvf_status kvf_load_open(const char *path, const kvf_load_options *options, kvf_load **load,
                         kvf_error *error)
{
    return kvf_load_open_on(path, options, &kvf_io_system, load, error);
}

void kvf_load_close(kvf_load *load)
{
    if (!load)
        return;
    close_session(load);
    kvf_page_owner_release(&load->map->owner);
    free(load);
}

kvf_status kvf_session_load_from(kvf_device *device, const char *path,
                                 const kvf_load_options *options, kvf_session **session,
                                 const kvf_io *io, kvf_error *error)
{
    kvf_load *load;
    *session = NULL;
    kvf_status status = kvf_load_open_on(path, options, io, &load, error);
    if (status != KVF_OK)
        return status;
    status = kvf_load_step(load, device, UINT64_MAX, session, error);
    kvf_load_close(load);
    return status;
}

kvf_status kvf_session_load(kvf_device *device, const char *path, const kvf_load_options *options,
                            kvf_session **session, kvf_error *error)
{
    return kvf_session_load_from(device, path, options, session, &kvf_io_system, error);
}
