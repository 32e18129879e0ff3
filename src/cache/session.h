/* The inside of a session. Internal to cache/. */
#ifndef KVF_CACHE_SESSION_H
#define KVF_CACHE_SESSION_H

#include "backend/backend.h"
#include "cache/checkpoint.h"
#include "cache/layout.h"
#include "cache/page.h"
#include "cache/plan.h"

typedef struct kvf_layer_cache {
    kvf_paged_rows window; /* token t is row t; the front falls off */
    kvf_paged_rows rows;
    kvf_paged_rows index_rows;
    kvf_page *row_state; /* docs/FORMAT.md 9.3; NULL in window layers */
    kvf_page *index_state;
} kvf_layer_cache;

/* The file that the session was last saved to or loaded from, as far as a save needs it. */
typedef struct kvf_saved {
    bool known;
    uint64_t header_checksum; /* of the state it held then */
    uint64_t n_tokens;        /* of that state */
    uint64_t kept_tokens;     /* the fewest that the session held since: truncate lowers it */
    uint64_t kept_window;     /* window rows before this token are the file's */
    uint64_t kept_checkpoint; /* checkpoints at or before this token are */
} kvf_saved;

struct kvf_session {
    kvf_device *device;
    const kvf_profile *profile;
    kvf_geometry geometry;
    kvf_session_options options; /* resolved */
    kvf_layer_cache *layers;     /* [n_layers] */
    kvf_session_header *header;  /* followed by row_counts, as a snapshot stores them */
    kvf_row_counts *row_counts;
    float *logits;            /* own memory: the pointer is the caller's for good */
    bool logits_known;        /* of the last token; not after going back to a file's checkpoint */
    bool logits_queued;       /* the device writes them: kvf_session_wait_logits comes first */
    kvf_page *tokens;         /* NULL before the first token */
    uint64_t allocated_bytes; /* of the device's memory, shared pages included */
    uint64_t mapped_bytes;    /* of pages in an owner's memory */
    uint64_t inexact_rows;
    kvf_checkpoints checkpoints;
    uint32_t chunk_tokens; /* its tokens in the batch that is open; 0: none */
    kvf_page **before;     /* [n_layers][KVF_LAYER_STATES] the states that they replaced, or NULL */
    kvf_batch *batch;      /* that is open; NULL: none */
    kvf_batch *alone;      /* alone.c: its own, of one item; NULL before its first chunk */
    kvf_batch_item item;   /* of `alone` */
    kvf_saved saved;       /* a fork may keep it: saving compares it with the file */
    kvf_saved opened;      /* what it becomes once the save that is open is done; known: one is */
    uint8_t caller_state[KVF_CALLER_STATE_BYTES];
};

/* Of a layer: row_state, index_state. */
#define KVF_LAYER_STATES 2

/* pages.c: staging memory that belongs to the session, counted, zeroed. NULL: there is none. */
void *kvf_session_alloc(kvf_session *session, uint64_t bytes);
void kvf_session_release(kvf_session *session, void *memory, uint64_t bytes);
/* Bytes of the header with its row counts. */
uint64_t kvf_session_header_bytes(const kvf_session *session);

/*
 * A session with empty tables and without states: what open and fork begin with. The
 * states' pages, of kvf_layer_state_floats, are to be put there before it is used.
 */
kvf_status kvf_session_open_tables(kvf_device *device, const kvf_geometry *geometry,
                                   const kvf_session_options *resolved, kvf_session **out,
                                   kvf_error *error);

/*
 * chunks.c: one item of a batch. begin takes all memory that its tokens need and makes
 * everything it will write the session's own; on failure nothing has changed. In `passing` there
 * is room for kvf_window_passing_pages. commit counts them as held, drop goes back to what was
 * before them.
 */
kvf_status kvf_chunk_begin(kvf_session *session, const int32_t *tokens, uint32_t n_tokens,
                           uint8_t *passing, kvf_error *error);
void kvf_chunk_commit(kvf_session *session);
void kvf_chunk_drop(kvf_session *session);
/* KVF_INVALID_ARGUMENT where the session is in an open batch; `what` cannot be done then. */
kvf_status kvf_session_check_free(const kvf_session *session, const char *what, kvf_error *error);
/* The same; and KVF_DEVICE_LOST where what it holds is nothing to go on with. Waits. */
kvf_status kvf_session_check_ready(const kvf_session *session, const char *what, kvf_error *error);
/* n_tokens and the row counts that follow from it. */
void kvf_session_set_n_tokens(kvf_session *session, uint64_t n_tokens);
/* Puts back the pages that session->before keeps, or forgets them. */
void kvf_session_give_back(kvf_session *session);
void kvf_session_forget_before(kvf_session *session);

/* fit.c: KVF_OUT_OF_MEMORY, naming the context that fits, where the device is too small. */
kvf_status kvf_session_check_memory(const kvf_device *device, const kvf_geometry *geometry,
                                    const kvf_session_options *options, kvf_error *error);
kvf_status kvf_batch_check_memory(const kvf_device *device, const kvf_geometry *geometry,
                                  const kvf_session_options *options, kvf_error *error);

#endif
