/* What a session consists of and how that is cut into parts (docs/FORMAT.md 10.4). */
#include "cache/snapshot.h"

#define STREAMS_OF_SESSION 2
#define STREAMS_OF_LAYER 5
/* Parts of a ring are small: what a save writes again is what its tokens touched. */
#define STATE_PART_BYTES 32768u
#define TOKENS_OF_PAGE (KVF_SNAPSHOT_PAGE_BYTES / 4)

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
    stream->page_bytes = (uint32_t)kvf_format_page_bytes(format, width, KVF_PAGE_ROWS);
    stream->n_pages = (uint32_t)kvf_ceil_div(n_rows, KVF_PAGE_ROWS);
    stream->full_pages = (uint32_t)(n_rows / KVF_PAGE_ROWS);
    stream->part_pages = KVF_SNAPSHOT_PART_BYTES / stream->page_bytes;
    stream->n_items = n_rows;
}

static void set_layer_stream(const kvf_snapshot_shape *shape, kvf_stream *stream)
{
    const kvf_layer layer = shape->geometry->layers[stream->layer];
    const kvf_profile *profile = shape->profile;
    const uint64_t window = shape->geometry->window_tokens;
    const uint64_t n_tokens = shape->n_tokens;
    switch (stream->kind) {
    case KVF_STREAM_WINDOW:
        set_rows(stream, profile->window_format, KVF_ROW_WIDTH,
                 n_tokens < window ? n_tokens : window);
        stream->full_pages = stream->n_pages;
        stream->part_pages = 1;
        break;
    case KVF_STREAM_ROWS:
        set_rows(stream, profile->row_format, KVF_ROW_WIDTH, kvf_layer_rows(layer, n_tokens));
        break;
    case KVF_STREAM_INDEX_ROWS:
        set_rows(stream, profile->index_format, KVF_INDEX_WIDTH,
                 kvf_layer_index_rows(layer, n_tokens));
        break;
    case KVF_STREAM_ROW_STATE:
        set_bytes(stream, 4 * kvf_layer_state_floats(layer, KVF_ROW_WIDTH), STATE_PART_BYTES);
        break;
    default:
        if (layer.kind == KVF_LAYER_CSA)
            set_bytes(stream, 4 * kvf_layer_state_floats(layer, KVF_INDEX_WIDTH), STATE_PART_BYTES);
        break;
    }
}

bool kvf_stream_at(const kvf_snapshot_shape *shape, uint32_t i, kvf_stream *stream)
{
    *stream = (kvf_stream){.part_pages = 1};
    if (i >= STREAMS_OF_SESSION + STREAMS_OF_LAYER * shape->geometry->n_layers)
        return false;
    if (i >= STREAMS_OF_SESSION) {
        stream->layer = (i - STREAMS_OF_SESSION) / STREAMS_OF_LAYER;
        stream->kind = KVF_STREAM_WINDOW + (i - STREAMS_OF_SESSION) % STREAMS_OF_LAYER;
        set_layer_stream(shape, stream);
    } else if (i == 1) {
        stream->kind = KVF_STREAM_LOGITS;
        set_bytes(stream, 4ull * shape->geometry->vocab, KVF_SNAPSHOT_PART_BYTES);
    } else {
        stream->kind = KVF_STREAM_TOKENS;
        set_bytes(stream, 4 * shape->n_tokens, KVF_SNAPSHOT_PART_BYTES);
        stream->full_pages = (uint32_t)(shape->n_tokens / TOKENS_OF_PAGE);
        stream->n_items = shape->n_tokens;
    }
    return true;
}

void kvf_stream_of(const kvf_snapshot_shape *shape, const kvf_part *part, kvf_stream *stream)
{
    const uint32_t of_session = part->kind - KVF_STREAM_TOKENS;
    const uint32_t of_layer = part->layer * STREAMS_OF_LAYER + part->kind - KVF_STREAM_WINDOW;
    kvf_stream_at(shape,
                  of_session < STREAMS_OF_SESSION ? of_session : STREAMS_OF_SESSION + of_layer,
                  stream);
}

bool kvf_stream_is_ring(kvf_stream_kind kind)
{
    return kind == KVF_STREAM_WINDOW || kind == KVF_STREAM_ROW_STATE ||
           kind == KVF_STREAM_INDEX_STATE;
}

const char *kvf_stream_name(uint32_t kind)
{
    static const char *const names[] = {"an unknown stream", "token ids",  "logits",
                                        "window rows",       "rows",       "row state",
                                        "index rows",        "index state"};
    return names[kind < sizeof names / sizeof *names ? kind : 0];
}

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
