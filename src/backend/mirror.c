#include "backend/mirror.h"

#include <stdlib.h>

#include "error.h"
#include "format/format.h"
#include "shared/layout.h"

/* ---- Copies --------------------------------------------------------------------------- */

void kvf_mirror_begin(kvf_mirror *mirror, kvf_device *device)
{
    *mirror = (kvf_mirror){.device = device};
}

static kvf_mirror_part *add_part(kvf_mirror *mirror, size_t bytes)
{
    if (mirror->n_parts == mirror->capacity) {
        const uint32_t capacity = mirror->capacity ? 2 * mirror->capacity : 16;
        kvf_mirror_part *parts = realloc(mirror->parts, capacity * sizeof *parts);
        if (!parts) {
            mirror->failed = true;
            return NULL;
        }
        mirror->parts = parts;
        mirror->capacity = capacity;
    }
    kvf_mirror_part *part = &mirror->parts[mirror->n_parts];
    *part = (kvf_mirror_part){.bytes = bytes};
    part->there = mirror->device->backend->alloc(mirror->device, bytes, KVF_PLACE_DEVICE);
    if (!part->there) {
        mirror->failed = true;
        return NULL;
    }
    mirror->n_parts++;
    return part;
}

static kvf_mirror_part *find_part(const kvf_mirror *mirror, const void *host, size_t bytes)
{
    for (uint32_t i = 0; i < mirror->n_parts; i++) {
        kvf_mirror_part *part = &mirror->parts[i];
        const uintptr_t offset = (uintptr_t)host - (uintptr_t)part->host;
        if (part->host && offset <= part->bytes && bytes <= part->bytes - offset)
            return part;
    }
    return NULL;
}

void *kvf_mirror_in(kvf_mirror *mirror, const void *host, size_t bytes)
{
    if (!host || bytes == 0)
        return NULL;
    if (mirror->device->backend->is_device_memory(mirror->device, host))
        return (void *)host; /* the caller's pointer, as it was given */
    const kvf_mirror_part *known = find_part(mirror, host, bytes);
    if (known)
        return known->there + ((const uint8_t *)host - known->host);
    kvf_mirror_part *part = add_part(mirror, bytes);
    if (!part)
        return NULL;
    part->host = (uint8_t *)host; /* written to for outputs alone */
    mirror->device->backend->write(mirror->device, part->there, host, bytes);
    return part->there;
}

void *kvf_mirror_out(kvf_mirror *mirror, void *host, size_t bytes)
{
    void *there = kvf_mirror_in(mirror, host, bytes);
    if (there && there != host)
        find_part(mirror, host, bytes)->written = true;
    return there;
}

void *kvf_mirror_scratch(kvf_mirror *mirror, size_t bytes)
{
    const kvf_mirror_part *part = bytes ? add_part(mirror, bytes) : NULL;
    return part ? part->there : NULL;
}

kvf_status kvf_mirror_end(kvf_mirror *mirror, kvf_error *error)
{
    kvf_device *device = mirror->device;
    const kvf_backend *backend = device->backend;
    for (uint32_t i = 0; i < mirror->n_parts && !mirror->failed; i++)
        if (mirror->parts[i].written)
            backend->read(device, mirror->parts[i].host, mirror->parts[i].there,
                          mirror->parts[i].bytes);
    kvf_status status = backend->wait(device, error);
    for (uint32_t i = 0; i < mirror->n_parts; i++)
        backend->release(device, mirror->parts[i].there, mirror->parts[i].bytes);
    free(mirror->parts);
    if (status == KVF_OK && mirror->failed)
        status = kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory on the device for copies of arrays");
    return status;
}

/* ---- Views ------------------------------------------------------------------------------ */

/* Bytes from a page's start to the end of its n-th row, which are not all of it. */
static size_t used_bytes(const kvf_rows *view, uint64_t n)
{
    switch (view->format) {
    case KVF_FORMAT_FP8_F16:
    case KVF_FORMAT_FP8_BF16:
        return (size_t)view->page_rows * KVF_FP8_DATA_BYTES + (size_t)n * KVF_FP8_SCALE_BYTES;
    case KVF_FORMAT_FP4:
        return (size_t)view->page_rows * KVF_FP4_CODE_BYTES + (size_t)n * KVF_FP4_SCALE_BYTES;
    case KVF_FORMAT_F32:
    case KVF_FORMAT_F16:
    case KVF_FORMAT_COUNT: break;
    }
    return (size_t)n * kvf_format_row_bytes(view->format, view->width);
}

static void *mirror_page(kvf_mirror *mirror, void *page, size_t bytes, bool written)
{
    return written ? kvf_mirror_out(mirror, page, bytes) : kvf_mirror_in(mirror, page, bytes);
}

static void mirror_pages(kvf_mirror *mirror, const kvf_rows *view, uint64_t n_pages, bool written,
                         kvf_rows *there)
{
    void **table = malloc(n_pages * sizeof *table);
    there->pages = kvf_mirror_scratch(mirror, n_pages * sizeof *table);
    if (!table || !there->pages) {
        mirror->failed = true;
        free(table);
        return;
    }
    for (uint64_t p = 0; p < n_pages; p++) {
        const uint64_t left = view->n_rows - p * view->page_rows;
        table[p] =
            mirror_page(mirror, view->pages[p],
                        used_bytes(view, left < view->page_rows ? left : view->page_rows), written);
    }
    mirror->device->backend->write(mirror->device, (void *)there->pages, table,
                                   n_pages * sizeof *table);
    free(table);
}

kvf_rows kvf_mirror_rows(kvf_mirror *mirror, const kvf_rows *view, bool written)
{
    kvf_rows there = *view;
    if (view->n_rows == 0)
        return there;
    const uint64_t n_pages = (view->n_rows - 1) / view->page_rows + 1;
    if (view->pages &&
        mirror->device->backend->is_device_memory(mirror->device, (const void *)view->pages))
        return there; /* a session's rows */
    if (view->pages) {
        mirror_pages(mirror, view, n_pages, written, &there);
        return there;
    }
    const uint64_t last_rows = view->n_rows - (n_pages - 1) * view->page_rows;
    there.base = mirror_page(
        mirror, view->base,
        (size_t)(n_pages - 1) * view->page_stride_bytes + used_bytes(view, last_rows), written);
    return there;
}

/* ---- Stages ----------------------------------------------------------------------------- */

/* From the first to the last value of n rows, stride values apart. */
static size_t row_bytes(uint64_t n, size_t stride, size_t width)
{
    return n ? ((size_t)(n - 1) * stride + width) * sizeof(float) : 0;
}

kvf_status kvf_mirror_check(kvf_device *device, const kvf_check_args *args, kvf_findings found,
                            kvf_error *error)
{
    kvf_mirror m;
    kvf_check_args there = *args;
    kvf_mirror_begin(&m, device);
    there.values =
        kvf_mirror_in(&m, args->values, row_bytes(args->n_rows, args->width, args->width));
    if (!m.failed)
        device->backend->check(device, &there, &found, 1);
    return kvf_mirror_end(&m, error);
}

kvf_status kvf_mirror_pack(kvf_device *device, const kvf_pack_args *args, kvf_findings found,
                           kvf_error *error)
{
    kvf_mirror m;
    kvf_pack_args there = *args;
    kvf_mirror_begin(&m, device);
    there.out = kvf_mirror_rows(&m, &args->out, true);
    there.rows =
        kvf_mirror_in(&m, args->rows, row_bytes(args->n_rows, args->stride, args->out.width));
    if (!m.failed)
        device->backend->pack(device, &there, &found, 1);
    return kvf_mirror_end(&m, error);
}

kvf_status kvf_mirror_unpack(kvf_device *device, const kvf_unpack_args *args, kvf_error *error)
{
    kvf_mirror m;
    kvf_unpack_args there = *args;
    kvf_mirror_begin(&m, device);
    there.out =
        kvf_mirror_out(&m, args->out, row_bytes(args->n_rows, args->stride, args->in.width));
    there.in = kvf_mirror_rows(&m, &args->in, false);
    there.row_list =
        kvf_mirror_in(&m, args->row_list, (size_t)args->n_rows * sizeof *args->row_list);
    if (!m.failed)
        device->backend->unpack(device, &there);
    return kvf_mirror_end(&m, error);
}

kvf_select_args kvf_mirror_select_inputs(kvf_mirror *mirror, const kvf_select_args *args)
{
    kvf_select_args there = *args;
    const size_t n = args->n_queries;
    there.queries = kvf_mirror_rows(mirror, &args->queries, false);
    there.keys = kvf_mirror_rows(mirror, &args->keys, false);
    there.head_weights =
        kvf_mirror_in(mirror, args->head_weights, n * args->n_heads * sizeof(float));
    there.n_visible = kvf_mirror_in(mirror, args->n_visible, n * sizeof *args->n_visible);
    there.workspace = kvf_mirror_scratch(mirror, args->workspace ? args->workspace_bytes : 0);
    return there;
}

kvf_select_args kvf_mirror_select_args(kvf_mirror *mirror, const kvf_select_args *args)
{
    const size_t n = args->n_queries;
    kvf_select_args there = kvf_mirror_select_inputs(mirror, args);
    there.list = kvf_mirror_out(mirror, args->list, n * args->top_k * sizeof *args->list);
    there.list_len = kvf_mirror_out(mirror, args->list_len, n * sizeof *args->list_len);
    return there;
}

kvf_status kvf_mirror_select(kvf_device *device, const kvf_select_args *args, kvf_error *error)
{
    kvf_mirror m;
    kvf_mirror_begin(&m, device);
    const kvf_select_args there = kvf_mirror_select_args(&m, args);
    if (!m.failed)
        device->backend->select(device, &there, 1);
    return kvf_mirror_end(&m, error);
}

kvf_attend_args kvf_mirror_attend_args(kvf_mirror *mirror, const kvf_attend_args *args)
{
    kvf_attend_args there = *args;
    const size_t n = args->n_queries;
    const size_t n_heads = n * args->n_heads;
    there.out = kvf_mirror_out(mirror, args->out, n_heads * KVF_ROW_WIDTH * sizeof(float));
    there.lse = kvf_mirror_out(mirror, args->lse, n_heads * sizeof(float));
    there.q = kvf_mirror_in(mirror, args->q, n_heads * KVF_ROW_WIDTH * sizeof(float));
    there.sinks = kvf_mirror_in(mirror, args->sinks, args->n_heads * sizeof(float));
    if (args->window_tokens)
        there.window = kvf_mirror_rows(mirror, &args->window, false);
    there.rows = kvf_mirror_rows(mirror, &args->rows, false);
    if (args->rows.n_rows > 0) {
        there.n_visible = kvf_mirror_in(mirror, args->n_visible, n * sizeof *args->n_visible);
        there.list = kvf_mirror_in(mirror, args->list, n * args->list_stride * sizeof *args->list);
        there.list_len = kvf_mirror_in(mirror, args->list_len, n * sizeof *args->list_len);
        there.mask_f32 =
            kvf_mirror_in(mirror, args->mask_f32, n * args->mask_stride * sizeof(float));
        there.mask_f16 =
            kvf_mirror_in(mirror, args->mask_f16, n * args->mask_stride * sizeof(uint16_t));
    }
    there.workspace = kvf_mirror_scratch(mirror, args->workspace ? args->workspace_bytes : 0);
    return there;
}

kvf_status kvf_mirror_attend(kvf_device *device, const kvf_attend_args *args, kvf_error *error)
{
    kvf_mirror m;
    kvf_mirror_begin(&m, device);
    const kvf_attend_args there = kvf_mirror_attend_args(&m, args);
    if (!m.failed)
        device->backend->attend(device, &there, 1);
    return kvf_mirror_end(&m, error);
}
