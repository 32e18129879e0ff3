/* Parts, index and header pages into a file. Every write is whole pages, zeros included. */
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "cache/snapshot.h"
#include "checksum.h"
#include "error.h"
#include "shared/layout.h"

kvf_status kvf_snapshot_writer_open(kvf_snapshot_writer *writer, size_t largest_part_bytes,
                                    kvf_error *error)
{
    writer->buffer_bytes = kvf_snapshot_padded(largest_part_bytes);
    writer->packed_bytes =
        writer->compress ? kvf_snapshot_padded(kvf_codec_bound(largest_part_bytes)) : 0;
    if (writer->compress && writer->packed_bytes == 0)
        return kvf_fail(error, KVF_UNSUPPORTED, "%s: this build has no zstd to compress with",
                        kvf_printable(writer->path).text);
    writer->buffer = malloc(writer->buffer_bytes + 1);
    writer->packed = malloc(writer->packed_bytes + 1);
    if (!writer->buffer || !writer->packed)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to save by parts of %zu bytes",
                        kvf_printable(writer->path).text, largest_part_bytes);
    return KVF_OK;
}

void kvf_snapshot_writer_close(kvf_snapshot_writer *writer)
{
    free(writer->buffer);
    free(writer->packed);
    writer->buffer = NULL;
    writer->packed = NULL;
}

/* ---- What a session has at a place of a stream ------------------------------------ */

/* Page i of plain bytes on the device: what is there of it, then zeros. */
static void copy_bytes(kvf_device *device, uint8_t *out, const void *bytes, uint64_t n_bytes,
                       uint32_t i)
{
    const uint64_t first = (uint64_t)i * KVF_SNAPSHOT_PAGE_BYTES;
    const uint64_t left = n_bytes - first;
    const size_t n = left < KVF_SNAPSHOT_PAGE_BYTES ? left : KVF_SNAPSHOT_PAGE_BYTES;
    device->backend->read(device, out, (const uint8_t *)bytes + first, n);
    memset(out + n, 0, KVF_SNAPSHOT_PAGE_BYTES - n);
}

static kvf_status copy_page(kvf_device *device, uint8_t *out, kvf_page *page, uint64_t n_bytes,
                            uint32_t i, kvf_error *error)
{
    const kvf_status status = kvf_page_check(page, error);
    if (status == KVF_OK)
        copy_bytes(device, out, page->memory, n_bytes, i);
    return status;
}

static kvf_status copy_rows(kvf_device *device, uint8_t *out, kvf_paged_rows *rows, uint32_t i,
                            kvf_error *error)
{
    const kvf_status status = kvf_paged_rows_check_page(rows, i, error);
    if (status == KVF_OK)
        device->backend->read(device, out, rows->memory[i], kvf_paged_rows_page_bytes(rows));
    return status;
}

/* Rows first .. of a page, where they are in it (docs/FORMAT.md 3). */
static void copy_last_rows(kvf_device *device, uint8_t *out, const kvf_paged_rows *rows,
                           const uint8_t *page, uint64_t first)
{
    const bool scaled = rows->format == KVF_FORMAT_FP8_F16 || rows->format == KVF_FORMAT_FP8_BF16;
    const size_t scale_bytes = scaled ? KVF_FP8_SCALE_BYTES : 0;
    const size_t data_bytes = kvf_format_row_bytes(rows->format, rows->width) - scale_bytes;
    const size_t data = first * data_bytes;
    const size_t scales = KVF_PAGE_ROWS * data_bytes + first * scale_bytes;
    const uint64_t n = KVF_PAGE_ROWS - first;
    device->backend->read(device, out + data, page + data, n * data_bytes);
    if (scaled)
        device->backend->read(device, out + scales, page + scales, n * scale_bytes);
}

/*
 * Page i of the window as the file has it: token t is row t % window_tokens of a ring. The page
 * that is not full has its other rows from the oldest page of the list.
 */
static kvf_status copy_window(kvf_session *session, uint8_t *out, kvf_paged_rows *window,
                              uint32_t i, kvf_error *error)
{
    const uint64_t ring_pages = session->geometry.window_tokens / KVF_PAGE_ROWS;
    const uint64_t n_last = session->header->n_tokens % KVF_PAGE_ROWS;
    const uint64_t first_page = window->first_row / KVF_PAGE_ROWS;
    uint64_t page = (i + ring_pages - first_page % ring_pages) % ring_pages;
    const bool joined = page + ring_pages < window->n_pages;
    if (joined) /* list page 0 and the last one */
        page += ring_pages;
    kvf_status status = copy_rows(session->device, out, window, (uint32_t)page, error);
    if (status == KVF_OK && joined)
        status = kvf_paged_rows_check_page(window, 0, error);
    if (status == KVF_OK && joined)
        copy_last_rows(session->device, out, window, window->memory[0], n_last);
    return status;
}

/* Queued; out is there after a wait. */
static kvf_status copy_stream_page(kvf_session *session, const kvf_stream *stream, uint32_t i,
                                   uint8_t *out, kvf_error *error)
{
    kvf_device *device = session->device;
    kvf_layer_cache *layer = &session->layers[stream->layer];
    switch (stream->kind) {
    case KVF_STREAM_TOKENS:
        return copy_page(device, out, session->tokens, 4 * session->header->n_tokens, i, error);
    case KVF_STREAM_LOGITS:
        copy_bytes(device, out, session->logits, 4ull * session->geometry.vocab, i);
        return KVF_OK;
    case KVF_STREAM_WINDOW: return copy_window(session, out, &layer->window, i, error);
    case KVF_STREAM_ROWS: return copy_rows(device, out, &layer->rows, i, error);
    case KVF_STREAM_INDEX_ROWS: return copy_rows(device, out, &layer->index_rows, i, error);
    case KVF_STREAM_ROW_STATE:
        return copy_page(device, out, layer->row_state, layer->row_state->bytes, i, error);
    case KVF_STREAM_INDEX_STATE:
        return copy_page(device, out, layer->index_state, layer->index_state->bytes, i, error);
    }
    return KVF_OK;
}

/* ---- Writing ------------------------------------------------------------------------- */

/* Writes the bytes and zeros up to the next page; data has room for them. */
static kvf_status write_padded(kvf_snapshot_writer *writer, uint8_t *data, uint64_t bytes,
                               kvf_error *error)
{
    const uint64_t padded = kvf_snapshot_padded(bytes);
    memset(data + bytes, 0, padded - bytes);
    const kvf_status status = kvf_io_write_all(writer->io, writer->file, writer->path, data, padded,
                                               writer->end_bytes, error);
    if (status == KVF_OK) {
        writer->end_bytes += padded;
        writer->written_bytes += padded;
    }
    return status;
}

kvf_status kvf_snapshot_write_part(kvf_snapshot_writer *writer, kvf_session *session,
                                   const kvf_stream *stream, kvf_part *part, kvf_error *error)
{
    for (uint32_t i = 0; i < part->n_pages; i++) {
        const kvf_status status =
            copy_stream_page(session, stream, part->first_page + i,
                             writer->buffer + (size_t)i * stream->page_bytes, error);
        if (status != KVF_OK)
            return status;
    }
    const kvf_status status = session->device->backend->wait(session->device, error);
    if (status != KVF_OK)
        return status;
    uint8_t *data = writer->buffer;
    part->stored_bytes = (uint64_t)part->n_pages * stream->page_bytes;
    if (writer->compress) {
        const size_t n =
            kvf_codec_compress(writer->packed, writer->packed_bytes, data, part->stored_bytes);
        if (n > 0 && n < part->stored_bytes) {
            data = writer->packed;
            part->stored_bytes = n;
            part->codec = KVF_CODEC_ZSTD;
        }
    }
    part->offset = writer->end_bytes;
    part->checksum = kvf_checksum(data, part->stored_bytes);
    return write_padded(writer, data, part->stored_bytes, error);
}

static void fill_header(const kvf_session *session, kvf_snapshot_header *header)
{
    const kvf_geometry *geometry = &session->geometry;
    header->session = *session->header;
    header->inexact_rows = session->inexact_rows;
    header->n_heads = geometry->n_heads;
    header->n_index_heads = geometry->n_index_heads;
    header->top_k = geometry->top_k;
    header->window_tokens = geometry->window_tokens;
    header->model_max_tokens = geometry->max_tokens;
    memcpy(header->caller_state, session->caller_state, sizeof header->caller_state);
}

kvf_status kvf_snapshot_write_index(kvf_snapshot_writer *writer, const kvf_session *session,
                                    const kvf_part *parts, kvf_snapshot_header *header,
                                    kvf_error *error)
{
    const kvf_geometry *geometry = &session->geometry;
    const uint64_t bytes = kvf_snapshot_index_bytes(geometry->n_layers, header->n_parts);
    uint8_t *index = malloc(kvf_snapshot_padded(bytes));
    if (!index)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for an index of %u parts",
                        kvf_printable(writer->path).text, header->n_parts);
    kvf_snapshot_layer *layers = (kvf_snapshot_layer *)index;
    for (uint32_t i = 0; i < geometry->n_layers; i++)
        layers[i] = (kvf_snapshot_layer){.kind = geometry->layers[i].kind,
                                         .ratio = geometry->layers[i].ratio,
                                         .counts = session->row_counts[i]};
    memcpy(layers + geometry->n_layers, parts, header->n_parts * sizeof *parts);
    fill_header(session, header);
    header->index_offset = writer->end_bytes;
    header->index_bytes = bytes;
    header->index_checksum = kvf_checksum(index, bytes);
    const kvf_status status = write_padded(writer, index, bytes, error);
    free(index);
    header->end_bytes = writer->end_bytes;
    header->checksum = kvf_checksum(header, offsetof(kvf_snapshot_header, checksum));
    return status;
}

kvf_status kvf_snapshot_write_header(kvf_snapshot_writer *writer, const kvf_snapshot_header *header,
                                     uint32_t slot, kvf_error *error)
{
    writer->written_bytes += sizeof *header;
    return kvf_io_write_all(writer->io, writer->file, writer->path, header, sizeof *header,
                            slot * sizeof *header, error);
}
