/*
 * What a session consists of, one line a stream, and how that is cut into parts
 * (docs/FORMAT.md 10.4). Plan, writer and reader all take it from here.
 */
#include <string.h>

#include "cache/plan.h"
#include "cache/session.h"
#include "snapshot/snapshot.h"

/* Parts of a ring are small: what a save writes again is what its tokens touched. */
#define STATE_PART_BYTES 32768u
#define TOKENS_OF_PAGE (KVF_SNAPSHOT_PAGE_BYTES / 4)

/* ---- How many pages a stream has ------------------------------------------------------- */

/* A stream of plain bytes in pages of a memory page. */
static void set_bytes(kvf_stream *stream, uint64_t bytes, uint32_t part_bytes)
{
    stream->page_bytes = KVF_SNAPSHOT_PAGE_BYTES;
    stream->n_pages = (uint32_t)kvf_ceil_div(bytes, KVF_SNAPSHOT_PAGE_BYTES);
    stream->full_pages = stream->n_pages;
    stream->part_pages = part_bytes / KVF_SNAPSHOT_PAGE_BYTES;
}

/* Rows only ever grow: all pages but the last are as they will stay. */
static void set_rows(kvf_stream *stream, kvf_format_id format, uint32_t width, uint64_t n_rows)
{
    stream->format = format;
    stream->width = width;
    stream->page_bytes = (uint32_t)kvf_format_page_bytes(format, width, KVF_PAGE_ROWS);
    stream->n_pages = (uint32_t)kvf_ceil_div(n_rows, KVF_PAGE_ROWS);
    stream->full_pages = (uint32_t)(n_rows / KVF_PAGE_ROWS);
    stream->part_pages = KVF_SNAPSHOT_PART_BYTES / stream->page_bytes;
    stream->n_items = n_rows;
}

static void set_state(kvf_stream *stream, kvf_layer layer, uint32_t width)
{
    set_bytes(stream, 4 * kvf_layer_state_floats(layer, width), STATE_PART_BYTES);
    stream->ring_slots = kvf_layer_slots(layer);
    stream->ring_pages = stream->n_pages;
}

static void measure_tokens(const kvf_snapshot_shape *shape, kvf_stream *stream)
{
    set_bytes(stream, 4 * shape->n_tokens, KVF_SNAPSHOT_PART_BYTES);
    stream->full_pages = (uint32_t)(shape->n_tokens / TOKENS_OF_PAGE);
    stream->n_items = shape->n_tokens;
}

static void measure_logits(const kvf_snapshot_shape *shape, kvf_stream *stream)
{
    set_bytes(stream, 4ull * shape->geometry->vocab, KVF_SNAPSHOT_PART_BYTES);
}

static void measure_window(const kvf_snapshot_shape *shape, kvf_stream *stream)
{
    const uint32_t window = shape->geometry->window_tokens;
    set_rows(stream, shape->profile->window_format, KVF_ROW_WIDTH,
             shape->n_tokens < window ? shape->n_tokens : window);
    stream->full_pages = stream->n_pages;
    stream->part_pages = 1;
    stream->ring_slots = window;
    stream->ring_pages = window / KVF_PAGE_ROWS; /* it may have fewer pages yet */
}

static void measure_rows(const kvf_snapshot_shape *shape, kvf_stream *stream)
{
    set_rows(stream, shape->profile->row_format, KVF_ROW_WIDTH,
             kvf_layer_rows(shape->geometry->layers[stream->number], shape->n_tokens));
}

static void measure_row_state(const kvf_snapshot_shape *shape, kvf_stream *stream)
{
    set_state(stream, shape->geometry->layers[stream->number], KVF_ROW_WIDTH);
}

static void measure_index_rows(const kvf_snapshot_shape *shape, kvf_stream *stream)
{
    set_rows(stream, shape->profile->index_format, KVF_INDEX_WIDTH,
             kvf_layer_index_rows(shape->geometry->layers[stream->number], shape->n_tokens));
}

static void measure_index_state(const kvf_snapshot_shape *shape, kvf_stream *stream)
{
    const kvf_layer layer = shape->geometry->layers[stream->number];
    if (layer.kind == KVF_LAYER_CSA)
        set_state(stream, layer, KVF_INDEX_WIDTH);
}

/* ---- Where a stream lies in a session ----------------------------------------------------- */

static kvf_stream_place bytes_of_page(kvf_page *page, uint64_t bytes)
{
    if (!page)
        return (kvf_stream_place){.memory = NULL};
    return (kvf_stream_place){
        .page = page, .memory = page->memory, .bytes = bytes, .place = page->place};
}

static kvf_stream_place place_of_tokens(kvf_session *session, uint32_t number)
{
    (void)number;
    return bytes_of_page(session->tokens, 4 * session->header->n_tokens);
}

static kvf_stream_place place_of_logits(kvf_session *session, uint32_t number)
{
    (void)number;
    return (kvf_stream_place){.memory = session->logits,
                              .bytes = 4ull * session->geometry.vocab,
                              .place = KVF_PLACE_STAGING};
}

static kvf_stream_place place_of_window(kvf_session *session, uint32_t number)
{
    return (kvf_stream_place){.rows = &session->layers[number].window};
}

static kvf_stream_place place_of_rows(kvf_session *session, uint32_t number)
{
    return (kvf_stream_place){.rows = &session->layers[number].rows};
}

static kvf_stream_place place_of_index_rows(kvf_session *session, uint32_t number)
{
    return (kvf_stream_place){.rows = &session->layers[number].index_rows};
}

static kvf_stream_place place_of_row_state(kvf_session *session, uint32_t number)
{
    kvf_page *page = session->layers[number].row_state;
    return bytes_of_page(page, page ? page->bytes : 0);
}

static kvf_stream_place place_of_index_state(kvf_session *session, uint32_t number)
{
    kvf_page *page = session->layers[number].index_state;
    return bytes_of_page(page, page ? page->bytes : 0);
}

/* ---- The table ---------------------------------------------------------------------------- */

typedef enum owner { OF_SESSION, OF_LAYER, OWNERS } owner;

/* In the order of the file: those of the session, then of each layer. */
static const struct entry {
    uint32_t kind;
    owner owner;
    const char *name; /* for messages */
    void (*measure)(const kvf_snapshot_shape *shape, kvf_stream *stream);
    kvf_stream_place (*place)(kvf_session *session, uint32_t number);
} table[] = {
    {KVF_STREAM_TOKENS, OF_SESSION, "token ids", measure_tokens, place_of_tokens},
    {KVF_STREAM_LOGITS, OF_SESSION, "logits", measure_logits, place_of_logits},
    {KVF_STREAM_WINDOW, OF_LAYER, "window rows", measure_window, place_of_window},
    {KVF_STREAM_ROWS, OF_LAYER, "rows", measure_rows, place_of_rows},
    {KVF_STREAM_ROW_STATE, OF_LAYER, "row state", measure_row_state, place_of_row_state},
    {KVF_STREAM_INDEX_ROWS, OF_LAYER, "index rows", measure_index_rows, place_of_index_rows},
    {KVF_STREAM_INDEX_STATE, OF_LAYER, "index state", measure_index_state, place_of_index_state},
};
#define TABLE_ENTRIES (sizeof table / sizeof *table)

/* NULL: there is no such stream. */
static const struct entry *entry_of(uint32_t kind)
{
    for (size_t i = 0; i < TABLE_ENTRIES; i++)
        if (table[i].kind == kind)
            return &table[i];
    return NULL;
}

static void measure(const kvf_snapshot_shape *shape, const struct entry *entry, uint32_t number,
                    kvf_stream *stream)
{
    *stream = (kvf_stream){.kind = (kvf_stream_kind)entry->kind, .number = number, .part_pages = 1};
    entry->measure(shape, stream);
}

bool kvf_stream_at(const kvf_snapshot_shape *shape, uint32_t i, kvf_stream *stream)
{
    const uint32_t n_of[OWNERS] = {1, shape->geometry->n_layers};
    for (size_t first = 0, end; first < TABLE_ENTRIES; first = end) {
        for (end = first; end < TABLE_ENTRIES && table[end].owner == table[first].owner;)
            end++;
        const uint32_t n_kinds = (uint32_t)(end - first);
        const uint32_t n_streams = n_kinds * n_of[table[first].owner];
        if (i < n_streams) {
            measure(shape, &table[first + i % n_kinds], i / n_kinds, stream);
            return true;
        }
        i -= n_streams;
    }
    return false;
}

void kvf_stream_of(const kvf_snapshot_shape *shape, const kvf_part *part, kvf_stream *stream)
{
    measure(shape, entry_of(part->kind), part->layer, stream);
}

uint64_t kvf_stream_order(uint32_t kind, uint32_t number)
{
    const struct entry *entry = entry_of(kind);
    return (uint64_t)entry->owner << 48 | (uint64_t)number << 8 | (uint64_t)(entry - table);
}

const char *kvf_stream_name(uint32_t kind)
{
    const struct entry *entry = entry_of(kind);
    return entry ? entry->name : "an unknown stream";
}

kvf_stream_place kvf_stream_place_in(kvf_session *session, const kvf_stream *stream)
{
    return entry_of(stream->kind)->place(session, stream->number);
}

kvf_status kvf_stream_read_page(kvf_session *session, const kvf_stream *stream, uint32_t i,
                                uint8_t *out, kvf_error *error)
{
    const kvf_stream_place place = kvf_stream_place_in(session, stream);
    kvf_device *device = session->device;
    const kvf_status status = place.rows   ? kvf_paged_rows_check_page(place.rows, i, error)
                              : place.page ? kvf_page_check(place.page, error)
                                           : KVF_OK;
    if (status != KVF_OK)
        return status;
    if (place.rows) {
        device->backend->read(device, out, place.rows->memory[i], stream->page_bytes);
        return KVF_OK;
    }
    /* What is there of a page of plain bytes, then zeros. */
    const uint64_t first = (uint64_t)i * stream->page_bytes;
    const uint64_t left = place.bytes - first;
    const size_t n = left < stream->page_bytes ? left : stream->page_bytes;
    device->backend->read(device, out, (const uint8_t *)place.memory + first, n);
    memset(out + n, 0, stream->page_bytes - n);
    return KVF_OK;
}

/* ---- Parts and bytes of a first save ----------------------------------------------------------
 */

uint32_t kvf_stream_part_pages(const kvf_stream *stream, uint32_t page)
{
    /* The page that is still growing stands alone, so that replacing it costs no other. */
    if (page >= stream->full_pages)
        return 1;
    const uint32_t left = stream->full_pages - page;
    return left < stream->part_pages ? left : stream->part_pages;
}

uint32_t kvf_snapshot_n_parts(const kvf_snapshot_shape *shape)
{
    uint64_t n = 0;
    kvf_stream stream;
    for (uint32_t i = 0; kvf_stream_at(shape, i, &stream); i++)
        n +=
            kvf_ceil_div(stream.full_pages, stream.part_pages) + stream.n_pages - stream.full_pages;
    return (uint32_t)n;
}

uint64_t kvf_snapshot_index_bytes(uint32_t n_layers, uint32_t n_parts)
{
    return sizeof(kvf_snapshot_layer) * (uint64_t)n_layers + sizeof(kvf_part) * (uint64_t)n_parts;
}

uint64_t kvf_snapshot_file_bytes(const kvf_snapshot_shape *shape)
{
    uint64_t bytes = KVF_SNAPSHOT_HEADERS * KVF_SNAPSHOT_PAGE_BYTES;
    kvf_stream stream;
    for (uint32_t i = 0; kvf_stream_at(shape, i, &stream); i++) {
        const uint64_t page_bytes = stream.page_bytes;
        const uint64_t whole_parts = stream.full_pages / stream.part_pages;
        bytes += whole_parts * kvf_snapshot_padded(stream.part_pages * page_bytes);
        bytes += kvf_snapshot_padded(stream.full_pages % stream.part_pages * page_bytes);
        bytes += (stream.n_pages - stream.full_pages) * kvf_snapshot_padded(page_bytes);
    }
    return bytes + kvf_snapshot_padded(kvf_snapshot_index_bytes(shape->geometry->n_layers,
                                                                kvf_snapshot_n_parts(shape)));
}

kvf_snapshot_shape kvf_snapshot_shape_of_session(const kvf_session *session)
{
    return (kvf_snapshot_shape){.geometry = &session->geometry,
                                .profile = session->profile,
                                .n_tokens = session->header->n_tokens};
}

/* ---- The plan ---------------------------------------------------------------------------------
 */

kvf_status kvf_plan_make(const kvf_geometry *geometry, const kvf_session_options *options,
                         uint64_t n_tokens, kvf_plan *plan, kvf_error *error)
{
    const kvf_status status = kvf_plan_session(geometry, options, n_tokens, plan, error);
    if (status != KVF_OK)
        return status;
    const kvf_snapshot_shape shape = {
        .geometry = geometry, .profile = kvf_profile_get(options->profile), .n_tokens = n_tokens};
    plan->snapshot_bytes = kvf_snapshot_file_bytes(&shape);
    return KVF_OK;
}
