/*
 * Rows of one profile as rows of another: unpacked, packed, and unpacked again to see
 * that every value is what it was. Values of a grid stay on it, though a block whose
 * largest value was rounded down may get a smaller scale and other codes.
 */
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "cache/snapshot.h"
#include "error.h"
#include "shared/fp_environment.h"

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

static kvf_rows one_page(kvf_format_id format, uint32_t width, void *page, uint32_t n_rows)
{
    return (kvf_rows){.format = format,
                      .width = width,
                      .page_rows = KVF_PAGE_ROWS,
                      .n_rows = n_rows,
                      .base = page,
                      .page_stride_bytes = kvf_format_page_bytes(format, width, KVF_PAGE_ROWS)};
}

static void unpack(kvf_device *device, kvf_rows in, float *out)
{
    const kvf_unpack_args args = {.in = in, .n_rows = in.n_rows, .out = out, .stride = in.width};
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
 * Packs the values into the page. KVF_INEXACT, without a message, where the format cannot hold
 * one of them: the first, counted over all rows, is then in *at.
 */
static kvf_status pack_exactly(kvf_device *device, const workspace *work, kvf_rows page, size_t *at,
                               kvf_error *error)
{
    const kvf_finding nothing = {.first_bad = KVF_NOTHING_FOUND};
    kvf_finding finding;
    const kvf_pack_args args = {.rows = work->values,
                                .stride = page.width,
                                .n_rows = page.n_rows,
                                .grid = grid_of(page.format),
                                .out = page};
    const size_t bytes = page.n_rows * page.width * sizeof(float);
    device->backend->write(device, work->finding, &nothing, sizeof nothing);
    device->backend->pack(device, &args, (kvf_findings){.place = work->finding});
    unpack(device, page, work->repacked);
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

/* Rows of the stream that mean something. */
static uint64_t held_rows(const kvf_snapshot_shape *shape, const kvf_part *part)
{
    const kvf_layer layer = shape->geometry->layers[part->layer];
    const uint64_t window = shape->geometry->window_tokens;
    if (part->kind == KVF_STREAM_WINDOW)
        return shape->n_tokens < window ? shape->n_tokens : window;
    return kvf_layer_rows(layer, shape->n_tokens);
}

static kvf_format_id format_in_file(const kvf_profile *profile, const kvf_part *part)
{
    if (part->kind == KVF_STREAM_WINDOW)
        return profile->window_format;
    return part->kind == KVF_STREAM_ROWS ? profile->row_format : profile->index_format;
}

static kvf_status repack_page(kvf_session *session, const kvf_snapshot_map *map,
                              const kvf_snapshot_shape *shape, const kvf_part *part, uint32_t i,
                              workspace *work, kvf_error *error)
{
    kvf_paged_rows *rows = kvf_snapshot_rows_of(session, part);
    const uint64_t first_row = (uint64_t)(part->first_page + i) * KVF_PAGE_ROWS;
    const uint64_t left = held_rows(shape, part) - first_row;
    const uint32_t n_rows = left < KVF_PAGE_ROWS ? (uint32_t)left : KVF_PAGE_ROWS;
    kvf_page *page =
        kvf_session_new_page(session, KVF_PLACE_DEVICE, kvf_paged_rows_page_bytes(rows));
    if (!page)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for page %u of the %s of layer %u",
                        kvf_printable(map->path).text, part->first_page + i,
                        kvf_stream_name(part->kind), part->layer);
    kvf_paged_rows_put(rows, page);
    size_t at = 0;
    unpack(session->device,
           one_page(format_in_file(shape->profile, part), rows->width, work->page, n_rows),
           work->values);
    const kvf_status status =
        pack_exactly(session->device, work,
                     one_page(rows->format, rows->width, page->memory, n_rows), &at, error);
    if (status != KVF_INEXACT)
        return status;
    return kvf_fail(error, KVF_INEXACT,
                    "%s: layer %u, row %llu of the %s, dimension %zu is %.9g, which %s in the "
                    "%s profile cannot hold; restore it as %s",
                    kvf_printable(map->path).text, part->layer,
                    (unsigned long long)(first_row + at / rows->width), kvf_stream_name(part->kind),
                    at % rows->width, (double)work->host_values[at], kvf_format_name(rows->format),
                    session->profile->name, shape->profile->name);
}

kvf_status kvf_snapshot_repack(kvf_session *session, kvf_snapshot_map *map, uint32_t number,
                               const kvf_snapshot_shape *shape, uint8_t *unpacked, kvf_error *error)
{
    KVF_FP_DOOR(); /* the only place where loading computes */
    const kvf_part *part = &map->parts[number];
    const kvf_paged_rows *rows = kvf_snapshot_rows_of(session, part);
    const size_t page_bytes =
        kvf_format_page_bytes(format_in_file(shape->profile, part), rows->width, KVF_PAGE_ROWS);
    const uint8_t *data;
    workspace work = {0};
    kvf_status status = kvf_snapshot_part_data(map, number, (uint64_t)part->n_pages * page_bytes,
                                               unpacked, &data, error);
    const uint64_t first = rows->n_pages;
    if (status == KVF_OK)
        status = open_workspace(session->device, page_bytes, rows->width, &work, error);
    for (uint32_t i = 0; i < part->n_pages && status == KVF_OK; i++) {
        session->device->backend->write(session->device, work.page, data + i * page_bytes,
                                        page_bytes);
        status = repack_page(session, map, shape, part, i, &work, error);
    }
    kvf_paged_rows_write(session, rows, first);
    close_workspace(session->device, &work);
    return status;
}
