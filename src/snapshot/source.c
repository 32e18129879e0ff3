/*
 * What a save writes: the session as it was when the save began (docs/SAVING.md). Pages are kept,
 * so that whoever goes on with the session copies those that it writes; what is small is copied.
 */
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "error.h"
#include "snapshot/snapshot.h"

/* Where a stream's bytes are. */
struct kvf_source_stream {
    kvf_page **pages; /* [n_pages]: of rows, each a page of the stream; else one, of its bytes */
    uint64_t n_pages;
    uint64_t bytes;     /* of plain bytes; the stream's pages go on with zeros */
    const void *memory; /* plain bytes of the host's, in place of a page */
    bool is_rows;
};

static void fill_header(const kvf_session *session, kvf_snapshot_source *source)
{
    const kvf_geometry *geometry = &session->geometry;
    kvf_snapshot_header *header = &source->header;
    header->session = *session->header;
    header->session.version = source->shape.version;
    header->inexact_rows = session->inexact_rows;
    header->n_heads = geometry->n_heads;
    header->n_index_heads = geometry->n_index_heads;
    header->top_k = geometry->top_k;
    header->window_tokens = geometry->window_tokens;
    header->model_max_tokens = geometry->max_tokens;
    memcpy(header->caller_state, session->caller_state, sizeof header->caller_state);
    header->n_checkpoints = source->shape.n_checkpoints;
    header->state = (session->checkpoints.from_start ? KVF_SNAPSHOT_FROM_START : 0) |
                    (session->logits_known ? 0 : KVF_SNAPSHOT_LOGITS_UNKNOWN);
    for (uint32_t i = 0; i < geometry->n_layers; i++)
        source->layers[i] = (kvf_snapshot_layer){.kind = geometry->layers[i].kind,
                                                 .ratio = geometry->layers[i].ratio,
                                                 .counts = session->row_counts[i]};
}

/* How many streams there are, and the most pages of a session that they can lie in. */
static void count(const kvf_snapshot_shape *shape, uint64_t *n_streams, uint64_t *n_pages)
{
    kvf_stream stream;
    *n_streams = 0;
    *n_pages = 0;
    for (; kvf_stream_at(shape, *n_streams, &stream); ++*n_streams)
        *n_pages += stream.width > 0 ? stream.end_page - stream.first_page : 1;
}

static kvf_status allocate(kvf_snapshot_source *source, uint64_t n_streams, uint64_t n_pages,
                           kvf_error *error)
{
    const size_t logits_bytes = sizeof(float) * source->geometry.vocab;
    source->streams = calloc(n_streams + 1, sizeof *source->streams);
    source->pages = calloc(n_pages + 1, sizeof(kvf_page *));
    source->layers = calloc(source->geometry.n_layers, sizeof *source->layers);
    source->logits = malloc(logits_bytes + 1);
    if (!source->streams || !source->pages || !source->layers || !source->logits)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to save %llu streams",
                        (unsigned long long)n_streams);
    return KVF_OK;
}

/* Keeps the pages of one stream, behind those of the streams before it. */
static void keep(kvf_snapshot_source *source, const kvf_snapshot_content *content,
                 const kvf_stream *stream, kvf_source_stream *kept)
{
    const kvf_stream_place place = kvf_stream_place_in(content, stream);
    kept->pages = source->pages + source->n_pages;
    kept->bytes = place.bytes;
    kept->is_rows = place.pages != NULL;
    if (place.pages)
        kept->n_pages = stream->end_page - stream->first_page;
    else if (place.page)
        kept->n_pages = *place.page != NULL;
    else
        kept->memory = source->logits;
    for (uint64_t i = 0; i < kept->n_pages; i++) {
        kept->pages[i] = place.pages ? place.pages[i] : *place.page;
        kvf_page_keep(source->device, kept->pages[i]);
    }
    source->n_pages += kept->n_pages;
}

kvf_status kvf_source_take(kvf_session *session, uint64_t spacing_tokens,
                           kvf_snapshot_source *source, kvf_error *error)
{
    kvf_snapshot_content content;
    uint64_t n_streams;
    uint64_t n_pages;
    memset(source, 0, sizeof *source);
    kvf_status status = kvf_snapshot_choose(session, spacing_tokens, &content, error);
    if (status != KVF_OK)
        return status;
    content.session = session;
    source->device = session->device;
    source->geometry = session->geometry;
    source->shape = content.shape;
    source->shape.geometry = &source->geometry;
    source->entries = content.entries; /* its own from here on */
    content.entries = NULL;
    count(&source->shape, &n_streams, &n_pages);
    status = allocate(source, n_streams, n_pages, error);
    if (status == KVF_OK) {
        kvf_stream stream;
        fill_header(session, source);
        memcpy(source->logits, session->logits, sizeof(float) * source->geometry.vocab);
        for (uint64_t i = 0; kvf_stream_at(&source->shape, i, &stream); i++)
            keep(source, &content, &stream, &source->streams[i]);
    }
    kvf_snapshot_content_free(&content);
    if (status != KVF_OK)
        kvf_source_close(source);
    return status;
}

void kvf_source_let_go(kvf_snapshot_source *source)
{
    for (uint64_t i = 0; i < source->n_pages; i++)
        kvf_page_unkeep(source->device, source->pages[i]);
    source->n_pages = 0;
}

void kvf_source_close(kvf_snapshot_source *source)
{
    kvf_source_let_go(source);
    free(source->streams);
    free(source->pages);
    free(source->layers);
    free(source->logits);
    free(source->entries);
    memset(source, 0, sizeof *source);
}

kvf_status kvf_source_read_page(const kvf_snapshot_source *source, uint64_t number,
                                const kvf_stream *stream, uint32_t i, uint8_t *out,
                                kvf_error *error)
{
    const kvf_source_stream *kept = &source->streams[number];
    const kvf_backend *backend = source->device->backend;
    kvf_page *page = kept->memory ? NULL : kept->pages[kept->is_rows ? i - stream->first_page : 0];
    const kvf_status status = kvf_page_check(page, error);
    if (status != KVF_OK)
        return status;
    if (kept->is_rows) {
        backend->read(source->device, out, page->memory, stream->page_bytes);
        return KVF_OK;
    }
    /* What is there of a page of plain bytes, then zeros. */
    const uint64_t first = (uint64_t)i * stream->page_bytes;
    const uint64_t left = kept->bytes - first;
    const size_t n = left < stream->page_bytes ? left : stream->page_bytes;
    if (kept->memory)
        memcpy(out, (const uint8_t *)kept->memory + first, n);
    else
        backend->read(source->device, out, (const uint8_t *)page->memory + first, n);
    memset(out + n, 0, stream->page_bytes - n);
    return KVF_OK;
}
