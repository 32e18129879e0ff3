/*
 * How many rows, pages and state slots a layer of a session has. Used by the plan
 * (which predicts) and by the session (which allocates), so that both count alike.
 */
#ifndef KVF_CACHE_LAYOUT_H
#define KVF_CACHE_LAYOUT_H

#include "kvfold.h"
#include "shared/finding.h"

/* Token ids are stored in blocks of this many, so that the array moves rarely. */
#define KVF_TOKEN_BLOCK 4096
#define KVF_DEFAULT_CHUNK_TOKENS 4096
#define KVF_MAX_CHUNK_TOKENS 65536
#define KVF_MAX_BATCH_SESSIONS 65536 /* each brings a token at least */
#define KVF_DEFAULT_CHECKPOINTS 8
#define KVF_MAX_CHECKPOINTS 65536
/* Closer together they would cost more than the tokens between them. */
#define KVF_MIN_CHECKPOINT_SPACING 128

/* What of a layer is looked at for values that cannot be, in the order that errors have. */
typedef enum kvf_found_place {
    KVF_FOUND_WINDOW,
    KVF_FOUND_ROWS,
    KVF_FOUND_INDEX_ROWS,
    KVF_FOUND_INDEX_QUERIES,
    KVF_FOUND_INDEX_WEIGHTS,
    KVF_FOUND_QUERIES,
    KVF_FOUND_PLACES
} kvf_found_place;

/* The session's fixed part, with which a snapshot's header begins; row counts follow it here. */
typedef struct __attribute__((packed)) kvf_session_header {
    char magic[8]; /* "kvfold\0\0" */
    uint32_t version;
    uint32_t profile;
    uint32_t n_layers;
    uint32_t vocab;
    uint64_t n_tokens;
    uint64_t max_tokens;
    uint64_t model_fingerprint; /* 0: not computed */
    uint32_t flags;             /* bit 0: grid off */
} kvf_session_header;
_Static_assert(sizeof(kvf_session_header) == 52, "docs/FORMAT.md 8 counts 52 bytes");

typedef struct kvf_row_counts {
    uint32_t rows;
    uint32_t index_rows;
} kvf_row_counts;
_Static_assert(sizeof(kvf_row_counts) == 8, "docs/FORMAT.md 8 counts 8 bytes a layer");

/* Row counts are u32 and lists i32; 2^31 / 1 token a row bounds any context. */
#define KVF_MAX_CONTEXT_TOKENS ((uint64_t)1 << 31)

static inline uint64_t kvf_ceil_div(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

/* Parts of a compressor: Ca and Cb with overlap. */
static inline uint32_t kvf_layer_parts(kvf_layer layer)
{
    return layer.kind == KVF_LAYER_CSA ? 2 : 1;
}

/* Compressed rows after n_tokens. */
static inline uint64_t kvf_layer_rows(kvf_layer layer, uint64_t n_tokens)
{
    return layer.kind == KVF_LAYER_WINDOW ? 0 : n_tokens / layer.ratio;
}

static inline uint64_t kvf_layer_index_rows(kvf_layer layer, uint64_t n_tokens)
{
    return layer.kind == KVF_LAYER_CSA ? n_tokens / layer.ratio : 0;
}

/* Token slots of the compressor's state ring (docs/FORMAT.md 9.3). */
static inline uint32_t kvf_layer_slots(kvf_layer layer)
{
    return layer.kind == KVF_LAYER_WINDOW ? 0 : layer.ratio * kvf_layer_parts(layer);
}

/* Floats of a compressor's state for rows of that width: [slots][kv, gate][parts * width]. */
static inline uint64_t kvf_layer_state_floats(kvf_layer layer, uint32_t width)
{
    return (uint64_t)kvf_layer_slots(layer) * 2 * kvf_layer_parts(layer) * width;
}

/*
 * Window rows: token t lies in page t / KVF_PAGE_ROWS of a list whose front falls off
 * (docs/FORMAT.md 9.5). After n_tokens the list begins with this token, the first of the page
 * that the oldest of the last window_tokens tokens is in ..
 */
static inline uint64_t kvf_window_first(uint32_t window_tokens, uint64_t n_tokens)
{
    return n_tokens < window_tokens ? 0
                                    : (n_tokens - window_tokens) / KVF_PAGE_ROWS * KVF_PAGE_ROWS;
}

/* .. and has so many pages. */
static inline uint64_t kvf_window_pages(uint32_t window_tokens, uint64_t n_tokens)
{
    return kvf_ceil_div(n_tokens, KVF_PAGE_ROWS) -
           kvf_window_first(window_tokens, n_tokens) / KVF_PAGE_ROWS;
}

/*
 * Pages that only an open chunk needs, of one layer at a time: behind the last one held before
 * it, and before the first one held after it. Most of them where both ends fill their pages.
 */
static inline uint64_t kvf_window_passing_pages(uint32_t window_tokens, uint32_t chunk_tokens)
{
    return chunk_tokens < window_tokens ? 0 : (chunk_tokens - window_tokens) / KVF_PAGE_ROWS;
}

/* The longest list, while a chunk is open that begins with the last row of a page. */
static inline uint64_t kvf_window_most_pages(uint32_t window_tokens, uint32_t chunk_tokens)
{
    return window_tokens / KVF_PAGE_ROWS +
           kvf_ceil_div((uint64_t)chunk_tokens + KVF_PAGE_ROWS - 1, KVF_PAGE_ROWS);
}

/* A table of the addresses of so many pages: of one at least, so that it is there. */
static inline uint64_t kvf_table_bytes(uint64_t max_pages)
{
    return (max_pages ? max_pages : 1) * sizeof(void *);
}

#endif
