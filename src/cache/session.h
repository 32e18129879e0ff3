/* The inside of a session. Internal to cache/. */
#ifndef KVF_CACHE_SESSION_H
#define KVF_CACHE_SESSION_H

#include "backend/backend.h"
#include "cache/layout.h"
#include "cache/plan.h"

/* Rows of one kind in lazily allocated pages of KVF_PAGE_ROWS. */
typedef struct kvf_paged_rows {
    kvf_format_id format;
    uint32_t width;
    uint64_t max_pages;
    uint64_t n_pages; /* allocated */
    void **pages;     /* [max_pages] */
} kvf_paged_rows;

typedef struct kvf_layer_cache {
    kvf_paged_rows window; /* ring: token t is row t % window_tokens */
    kvf_paged_rows rows;
    kvf_paged_rows index_rows;
    float *row_state; /* docs/FORMAT.md 9.3 */
    float *index_state;
} kvf_layer_cache;

/* Reused by every layer; allocated with the first chunk. */
typedef struct kvf_scratch {
    uint8_t *window;
    uint32_t *visible;
    uint8_t *queries;
    int32_t *list;
    uint32_t *list_len;
    float *scores;
    void *mask;
    void *select_workspace;
    void *attend_workspace;
} kvf_scratch;

struct kvf_session {
    kvf_device *device;
    const kvf_profile *profile;
    kvf_geometry geometry;
    kvf_session_options options; /* resolved */
    kvf_scratch_size size;
    kvf_scratch scratch;
    bool has_scratch;
    kvf_layer_cache *layers;    /* [n_layers] */
    kvf_session_header *header; /* followed by row_counts, as a snapshot stores them */
    kvf_row_counts *row_counts;
    float *logits;
    int32_t *tokens;
    uint64_t tokens_capacity;
    uint64_t allocated_bytes;
    uint64_t scratch_bytes;
    uint64_t inexact_rows;
    uint32_t chunk_tokens; /* tokens of the chunk that is open; 0: none */
    bool appended;         /* the open chunk has more than one token and changed a layer */
    bool failed;
};

/* pages.c: counted allocation of what belongs to the session, zeroed. */
void *kvf_session_alloc(kvf_session *session, uint64_t bytes);
void kvf_session_release(kvf_session *session, void *memory, uint64_t bytes);
/* Prepares an empty table of pages; KVF_OUT_OF_MEMORY. */
kvf_status kvf_paged_rows_open(kvf_paged_rows *rows, kvf_format_id format, uint32_t width,
                               uint64_t max_rows, kvf_error *error);
/* Allocates pages until n_rows fit. On failure pages already given stay and are reused. */
kvf_status kvf_paged_rows_reserve(kvf_session *session, kvf_paged_rows *rows, uint64_t n_rows,
                                  kvf_error *error);
void kvf_paged_rows_close(kvf_session *session, kvf_paged_rows *rows);
kvf_rows kvf_paged_rows_view(const kvf_paged_rows *rows, uint64_t n_rows);

/* fit.c: KVF_OUT_OF_MEMORY, naming the context that fits, where the device is too small. */
kvf_status kvf_session_check_memory(const kvf_device *device, const kvf_geometry *geometry,
                                    const kvf_session_options *options, kvf_error *error);

/* scratch.c */
kvf_status kvf_scratch_open(kvf_session *session, kvf_error *error);
void kvf_scratch_close(kvf_session *session);

#endif
