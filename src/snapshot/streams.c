/*
 * What a session consists of, one line a stream, and how that is cut into parts
 * (docs/FORMAT.md 10.4). Plan, writer and reader all take it from here.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/plan.h"
#include "cache/session.h"
#include "error.h"
#include "snapshot/snapshot.h"

/* Parts of a ring are small: what a save writes again is what its tokens touched. */
#define STATE_PART_BYTES 32768u
#define TOKENS_OF_PAGE (KVF_SNAPSHOT_PAGE_BYTES / 4)

/* ---- How many pages a stream has ------------------------------------------------------- */

/* A stream of plain bytes in pages of a memory page. */
static void set_bytes(kvf_stream *stream, uint64_t bytes, uint32_t part_bytes)
{
    stream->page_bytes = KVF_SNAPSHOT_PAGE_BYTES;
    stream->end_page = (uint32_t)kvf_ceil_div(bytes, KVF_SNAPSHOT_PAGE_BYTES);
    stream->full_pages = stream->end_page;
    stream->part_pages = part_bytes / KVF_SNAPSHOT_PAGE_BYTES;
}

/* Rows only ever grow: all pages but the last are as they will stay. */
static void set_rows(kvf_stream *stream, kvf_format_id format, uint32_t width, uint64_t n_rows)
{
    stream->format = format;
    stream->width = width;
    stream->page_bytes = (uint32_t)kvf_format_page_bytes(format, width, KVF_PAGE_ROWS);
    stream->end_page = (uint32_t)kvf_ceil_div(n_rows, KVF_PAGE_ROWS);
    stream->full_pages = (uint32_t)(n_rows / KVF_PAGE_ROWS);
    stream->part_pages = KVF_SNAPSHOT_PART_BYTES / stream->page_bytes;
    stream->n_items = n_rows;
}

static void set_state(kvf_stream *stream, kvf_layer layer, uint32_t width)
{
    set_bytes(stream, 4 * kvf_layer_state_floats(layer, width), STATE_PART_BYTES);
    stream->ring_slots = kvf_layer_slots(layer);
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

/* One page a part: all but the last stay in the file until their rows fall off. */
static void measure_window(const kvf_snapshot_shape *shape, kvf_stream *stream)
{
    const uint32_t window = shape->geometry->window_tokens;
    const uint64_t held = shape->n_tokens < window ? shape->n_tokens : window;
    if (shape->version == 1) { /* a ring of token t in row t % window */
        set_rows(stream, shape->profile->window_format, KVF_ROW_WIDTH, held);
        stream->full_pages = stream->end_page;
        return;
    }
    set_rows(stream, shape->profile->window_format, KVF_ROW_WIDTH, shape->n_tokens);
    stream->first_page = (uint32_t)(kvf_window_first(window, shape->n_tokens) / KVF_PAGE_ROWS);
    stream->first_row = shape->n_tokens - held;
    stream->part_pages = 1;
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

/* The windows of all layers, one after the other. */
static void measure_checkpoint_windows(const kvf_snapshot_shape *shape, kvf_stream *stream)
{
    const uint32_t window = shape->geometry->window_tokens;
    const uint64_t n_tokens = shape->checkpoints[stream->number].n_tokens;
    set_rows(stream, shape->profile->window_format, KVF_ROW_WIDTH, n_tokens);
    stream->first_row = n_tokens < window ? 0 : n_tokens - window;
    stream->layer_pages = (uint32_t)kvf_window_pages(window, n_tokens);
    stream->layer_first = (uint32_t)(kvf_window_first(window, n_tokens) / KVF_PAGE_ROWS);
    stream->end_page = shape->geometry->n_layers * stream->layer_pages;
    stream->full_pages = stream->end_page;
}

static void measure_checkpoint_halves(const kvf_snapshot_shape *shape, kvf_stream *stream)
{
    set_bytes(stream, kvf_checkpoint_halves_bytes(shape->geometry), KVF_SNAPSHOT_PART_BYTES);
}

/* ---- Where a stream lies in a session ----------------------------------------------------- */

static kvf_stream_place bytes_of_page(kvf_page **page, uint64_t bytes)
{
    if (!*page)
        return (kvf_stream_place){.page = page, .bytes = bytes};
    return (kvf_stream_place){
        .page = page, .memory = (*page)->memory, .bytes = bytes, .place = (*page)->place};
}

static kvf_stream_place pages_of_rows(kvf_paged_rows *rows)
{
    return (kvf_stream_place){.rows = rows, .pages = rows->pages};
}

static kvf_stream_place place_of_tokens(const kvf_snapshot_content *content, uint32_t number)
{
    (void)number;
    return bytes_of_page(&content->session->tokens, 4 * content->session->header->n_tokens);
}

static kvf_stream_place place_of_logits(const kvf_snapshot_content *content, uint32_t number)
{
    (void)number;
    return (kvf_stream_place){.memory = content->session->logits,
                              .bytes = 4ull * content->session->geometry.vocab,
                              .place = KVF_PLACE_STAGING};
}

static kvf_stream_place place_of_window(const kvf_snapshot_content *content, uint32_t number)
{
    return pages_of_rows(&content->session->layers[number].window);
}

static kvf_stream_place place_of_rows(const kvf_snapshot_content *content, uint32_t number)
{
    return pages_of_rows(&content->session->layers[number].rows);
}

static kvf_stream_place place_of_index_rows(const kvf_snapshot_content *content, uint32_t number)
{
    return pages_of_rows(&content->session->layers[number].index_rows);
}

static kvf_stream_place place_of_row_state(const kvf_snapshot_content *content, uint32_t number)
{
    kvf_page **page = &content->session->layers[number].row_state;
    return bytes_of_page(page, *page ? (*page)->bytes : 0);
}

static kvf_stream_place place_of_index_state(const kvf_snapshot_content *content, uint32_t number)
{
    kvf_page **page = &content->session->layers[number].index_state;
    return bytes_of_page(page, *page ? (*page)->bytes : 0);
}

static kvf_stream_place place_of_checkpoint_windows(const kvf_snapshot_content *content,
                                                    uint32_t number)
{
    return (kvf_stream_place){.pages = content->checkpoints[number]->window};
}

static kvf_stream_place place_of_checkpoint_halves(const kvf_snapshot_content *content,
                                                   uint32_t number)
{
    return bytes_of_page(&content->checkpoints[number]->halves,
                         kvf_checkpoint_halves_bytes(&content->session->geometry));
}

/* ---- The table ---------------------------------------------------------------------------- */

typedef enum owner { OF_SESSION, OF_LAYER, OF_CHECKPOINT, OWNERS } owner;

/* In the order of the file: those of the session, then of each layer, of each checkpoint. */
static const struct entry {
    uint32_t kind;
    owner owner;
    const char *name; /* for messages */
    void (*measure)(const kvf_snapshot_shape *shape, kvf_stream *stream);
    kvf_stream_place (*place)(const kvf_snapshot_content *content, uint32_t number);
} table[] = {
    {KVF_STREAM_TOKENS, OF_SESSION, "token ids", measure_tokens, place_of_tokens},
    {KVF_STREAM_LOGITS, OF_SESSION, "logits", measure_logits, place_of_logits},
    {KVF_STREAM_WINDOW, OF_LAYER, "window rows", measure_window, place_of_window},
    {KVF_STREAM_ROWS, OF_LAYER, "rows", measure_rows, place_of_rows},
    {KVF_STREAM_ROW_STATE, OF_LAYER, "row state", measure_row_state, place_of_row_state},
    {KVF_STREAM_INDEX_ROWS, OF_LAYER, "index rows", measure_index_rows, place_of_index_rows},
    {KVF_STREAM_INDEX_STATE, OF_LAYER, "index state", measure_index_state, place_of_index_state},
    {KVF_STREAM_CHECKPOINT_WINDOWS, OF_CHECKPOINT, "window rows", measure_checkpoint_windows,
     place_of_checkpoint_windows},
    {KVF_STREAM_CHECKPOINT_HALVES, OF_CHECKPOINT, "halves of states", measure_checkpoint_halves,
     place_of_checkpoint_halves},
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

bool kvf_stream_at(const kvf_snapshot_shape *shape, uint64_t i, kvf_stream *stream)
{
    const uint32_t n_of[OWNERS] = {1, shape->geometry->n_layers, shape->n_checkpoints};
    for (size_t first = 0, end; first < TABLE_ENTRIES; first = end) {
        for (end = first; end < TABLE_ENTRIES && table[end].owner == table[first].owner;)
            end++;
        const uint64_t n_kinds = end - first;
        const uint64_t n_streams = n_kinds * n_of[table[first].owner];
        if (i < n_streams) {
            measure(shape, &table[first + i % n_kinds], (uint32_t)(i / n_kinds), stream);
            return true;
        }
        i -= n_streams;
    }
    return false;
}

void kvf_stream_of(const kvf_snapshot_shape *shape, const kvf_part *part, kvf_stream *stream)
{
    measure(shape, entry_of(part->kind), part->number, stream);
}

bool kvf_stream_of_checkpoint(uint32_t kind)
{
    return entry_of(kind)->owner == OF_CHECKPOINT;
}

uint64_t kvf_stream_order(uint32_t kind, uint32_t number)
{
    const struct entry *entry = entry_of(kind);
    return (uint64_t)entry->owner << 48 | (uint64_t)number << 8 | (uint64_t)(entry - table);
}

kvf_stream_title kvf_stream_title_of(uint32_t kind, uint32_t number)
{
    static const char *const owners[OWNERS] = {"", "layer", "checkpoint"};
    const struct entry *entry = entry_of(kind);
    kvf_stream_title title = {"unknown bytes"};
    if (entry && entry->owner == OF_SESSION)
        snprintf(title.text, sizeof title.text, "%s", entry->name);
    else if (entry)
        snprintf(title.text, sizeof title.text, "%s of %s %u", entry->name, owners[entry->owner],
                 number);
    return title;
}

kvf_stream_place kvf_stream_place_in(const kvf_snapshot_content *content, const kvf_stream *stream)
{
    return entry_of(stream->kind)->place(content, stream->number);
}

/* ---- Which checkpoints ------------------------------------------------------------------------
 */

kvf_status kvf_snapshot_choose(const kvf_session *session, uint64_t spacing_tokens,
                               kvf_snapshot_content *content, kvf_error *error)
{
    const kvf_checkpoints *all = &session->checkpoints;
    const uint64_t spacing = spacing_tokens ? spacing_tokens : KVF_SAVED_SPACING_TOKENS;
    uint64_t next = 0;
    *content = (kvf_snapshot_content){.shape = {.geometry = &session->geometry,
                                                .profile = session->profile,
                                                .version = KVF_SNAPSHOT_VERSION,
                                                .n_tokens = session->header->n_tokens}};
    content->entries = malloc((all->n + 1) * sizeof *content->entries);
    content->checkpoints = malloc((all->n + 1) * sizeof *content->checkpoints);
    if (!content->entries || !content->checkpoints) {
        kvf_snapshot_content_free(content);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to save %u checkpoints", all->n);
    }
    for (uint32_t i = 0; i < all->n; i++) {
        kvf_checkpoint *checkpoint = all->list[i];
        const bool due = all->why[i] & KVF_CHECKPOINT_PERIODIC && checkpoint->n_tokens >= next;
        if (due)
            next = checkpoint->n_tokens + spacing;
        if (!due && !(all->why[i] & KVF_CHECKPOINT_REQUESTED))
            continue;
        content->checkpoints[content->shape.n_checkpoints] = checkpoint;
        content->entries[content->shape.n_checkpoints++] =
            (kvf_snapshot_checkpoint){.n_tokens = checkpoint->n_tokens,
                                      .inexact_rows = checkpoint->inexact_rows,
                                      .why = all->why[i]};
    }
    content->shape.checkpoints = content->entries;
    return KVF_OK;
}

void kvf_snapshot_content_free(kvf_snapshot_content *content)
{
    free(content->entries);
    free(content->checkpoints);
    *content = (kvf_snapshot_content){.session = NULL};
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

void kvf_stream_page_rows(const kvf_stream *stream, uint32_t page, uint32_t *first, uint32_t *end)
{
    const uint64_t number =
        stream->layer_pages ? stream->layer_first + page % stream->layer_pages : page;
    const uint64_t begins = number * KVF_PAGE_ROWS;
    const uint64_t ends = begins + KVF_PAGE_ROWS;
    *first = (uint32_t)(stream->first_row > begins ? stream->first_row - begins : 0);
    *end = (uint32_t)((stream->n_items < ends ? stream->n_items : ends) - begins);
}

uint32_t kvf_snapshot_n_parts(const kvf_snapshot_shape *shape)
{
    uint64_t n = 0;
    kvf_stream stream;
    for (uint64_t i = 0; kvf_stream_at(shape, i, &stream); i++)
        n += kvf_ceil_div(stream.full_pages - stream.first_page, stream.part_pages) +
             stream.end_page - stream.full_pages;
    return (uint32_t)n;
}

uint64_t kvf_snapshot_index_bytes(uint32_t n_layers, uint32_t n_checkpoints, uint32_t n_parts)
{
    return sizeof(kvf_snapshot_layer) * (uint64_t)n_layers +
           sizeof(kvf_snapshot_checkpoint) * (uint64_t)n_checkpoints +
           sizeof(kvf_part) * (uint64_t)n_parts;
}

uint64_t kvf_snapshot_file_bytes(const kvf_snapshot_shape *shape)
{
    uint64_t bytes = KVF_SNAPSHOT_HEADERS * KVF_SNAPSHOT_PAGE_BYTES;
    kvf_stream stream;
    for (uint64_t i = 0; kvf_stream_at(shape, i, &stream); i++) {
        const uint64_t page_bytes = stream.page_bytes;
        const uint64_t full = stream.full_pages - stream.first_page;
        bytes += full / stream.part_pages * kvf_snapshot_padded(stream.part_pages * page_bytes);
        bytes += kvf_snapshot_padded(full % stream.part_pages * page_bytes);
        bytes += (stream.end_page - stream.full_pages) * kvf_snapshot_padded(page_bytes);
    }
    return bytes + kvf_snapshot_padded(kvf_snapshot_index_bytes(shape->geometry->n_layers,
                                                                shape->n_checkpoints,
                                                                kvf_snapshot_n_parts(shape)));
}

kvf_status kvf_session_snapshot_bytes(const kvf_session *session, const kvf_save_options *options,
                                      uint64_t *bytes, kvf_error *error)
{
    kvf_snapshot_content content;
    const kvf_status status = kvf_snapshot_choose(
        session, options ? options->checkpoint_spacing_tokens : 0, &content, error);
    if (status != KVF_OK)
        return status;
    *bytes = kvf_snapshot_file_bytes(&content.shape);
    kvf_snapshot_content_free(&content);
    return kvf_ok(error);
}

/* ---- The plan ---------------------------------------------------------------------------------
 */

/*
 * The places of the checkpoints in the file of a session whose chunks ended at each place where
 * one was due: at every `step` tokens, of which the last `count` are kept.
 */
static uint32_t planned_checkpoints(uint64_t step, uint64_t count, uint64_t n_tokens,
                                    kvf_snapshot_checkpoint *entries)
{
    const uint64_t most = n_tokens / step;
    const uint64_t oldest = most > count ? most - count + 1 : 1;
    const uint64_t apart = kvf_ceil_div(KVF_SAVED_SPACING_TOKENS, step);
    uint32_t n = 0;
    for (uint64_t i = oldest; i <= most; i += apart, n++)
        if (entries)
            entries[n] = (kvf_snapshot_checkpoint){.n_tokens = i * step};
    return n;
}

static kvf_status plan_file(const kvf_geometry *geometry, const kvf_session_options *resolved,
                            uint64_t n_tokens, uint64_t *bytes, kvf_error *error)
{
    const uint64_t alignment = kvf_checkpoint_alignment(geometry);
    const uint64_t step = kvf_ceil_div(resolved->checkpoint_spacing_tokens, alignment) * alignment;
    const uint64_t count =
        resolved->checkpoint_count == KVF_NO_CHECKPOINTS ? 0 : resolved->checkpoint_count;
    kvf_snapshot_shape shape = {.geometry = geometry,
                                .profile = kvf_profile_get(resolved->profile),
                                .version = KVF_SNAPSHOT_VERSION,
                                .n_tokens = n_tokens};
    shape.n_checkpoints = count ? planned_checkpoints(step, count, n_tokens, NULL) : 0;
    kvf_snapshot_checkpoint *entries = malloc((shape.n_checkpoints + 1) * sizeof *entries);
    if (!entries)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to plan %u checkpoints",
                        shape.n_checkpoints);
    if (count)
        planned_checkpoints(step, count, n_tokens, entries);
    shape.checkpoints = entries;
    *bytes = kvf_snapshot_file_bytes(&shape);
    free(entries);
    return KVF_OK;
}

kvf_status kvf_plan_make(const kvf_geometry *geometry, const kvf_session_options *options,
                         uint64_t n_tokens, kvf_plan *plan, kvf_error *error)
{
    kvf_session_options resolved;
    kvf_status status = kvf_plan_session(geometry, options, n_tokens, plan, error);
    if (status == KVF_OK)
        status = kvf_options_resolve(geometry, options, &resolved, error);
    if (status == KVF_OK)
        status = plan_file(geometry, &resolved, n_tokens, &plan->snapshot_bytes, error);
    if (status != KVF_OK)
        kvf_plan_free(plan);
    return status == KVF_OK ? kvf_ok(error) : status;
}
