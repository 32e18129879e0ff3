/*
 * What a session needs to go back: checkpoints at multiples of the lcm of the ratios.
 * Internal to cache/.
 *
 * There every window of a compressor is complete. The HCA state is empty then (no token
 * of it will be read again) and of a CSA layer's only the first halves (Ca) of the last
 * window are still to be pooled. Rows are never overwritten while the session grows, so
 * a checkpoint holds none of them; it holds the pages of the windows, which the session lets
 * fall off, those halves, and the logits.
 */
#ifndef KVF_CACHE_CHECKPOINT_H
#define KVF_CACHE_CHECKPOINT_H

#include "cache/page.h"

/* Shared by forks; never changed once it is taken. */
typedef struct kvf_checkpoint {
    uint32_t n_references;
    uint64_t n_tokens;
    uint64_t inexact_rows;
    kvf_page *halves;   /* of CSA layers in order (rows, index rows); NULL: there are none */
    float *logits;      /* the host's; NULL: not known, it comes from a file */
    uint32_t n_pages;   /* a layer */
    kvf_page *window[]; /* [n_layers][n_pages] */
} kvf_checkpoint;

/* Why a checkpoint is kept: either is enough. Bits, as a file has them. */
#define KVF_CHECKPOINT_PERIODIC 1u  /* commit took it; the last checkpoint_count are kept */
#define KVF_CHECKPOINT_REQUESTED 2u /* the caller asked for it; the last 8 are */

typedef struct kvf_checkpoints {
    uint64_t alignment_tokens; /* lcm of the ratios */
    uint64_t spacing_tokens;   /* resolved */
    uint32_t capacity;         /* most periodic ones that are kept */
    uint32_t n;
    bool periodic;           /* commit takes any */
    bool from_start;         /* nothing was given up yet: token 0 counts as one more */
    kvf_checkpoint **list;   /* ascending; room for capacity and the requested ones */
    uint32_t *why;           /* of each */
    kvf_checkpoint *pending; /* memory for the one that the open chunk's end will take */
} kvf_checkpoints;

/* ---- Sizes, for the plan; options are resolved ---------------------------------- */

/* Checkpoints lie at multiples of this; more than any context: there is none. */
uint64_t kvf_checkpoint_alignment(const kvf_geometry *geometry);
/* Of one checkpoint's halves; without its window, halves and logits. */
uint64_t kvf_checkpoint_halves_bytes(const kvf_geometry *geometry);
uint64_t kvf_checkpoint_own_bytes(const kvf_geometry *geometry);
/* The most that checkpoints of a session of n_tokens hold. */
uint64_t kvf_checkpoints_bytes(const kvf_geometry *geometry, const kvf_session_options *options,
                               uint64_t n_tokens);
/* The most that an open chunk holds besides: what drop gives back, the next checkpoint. */
uint64_t kvf_chunk_undo_bytes(const kvf_geometry *geometry, const kvf_session_options *options);

/* ---- Checkpoints of a session ---------------------------------------------------- */

kvf_status kvf_checkpoints_open(kvf_session *session, kvf_error *error);
void kvf_checkpoints_close(kvf_session *session);
/* begin: memory for a checkpoint at n_tokens where one is due; cancel: it is not taken. */
kvf_status kvf_checkpoints_prepare(kvf_session *session, uint64_t n_tokens, kvf_error *error);
void kvf_checkpoints_cancel(kvf_session *session);
/* commit: takes the prepared one, if any. */
void kvf_checkpoints_take(kvf_session *session);
/*
 * After a session's content came from elsewhere (header, rows and states are set), with n
 * checkpoints, ascending, whose references it takes, whatever comes of it; without them nothing
 * before its present state can be gone back to. Where that lies at a checkpoint's place and one is
 * due, it becomes one. On failure the session can only be closed.
 */
kvf_status kvf_checkpoints_restart(kvf_session *session, kvf_checkpoint *const *list,
                                   const uint32_t *why, uint32_t n, bool from_start,
                                   kvf_error *error);
/* Releases those after n_tokens. */
void kvf_checkpoints_cut(kvf_session *session, uint64_t n_tokens);
/* The latest at or before n_tokens, or NULL; `known`: not one there whose logits are not. */
kvf_checkpoint *kvf_checkpoints_find(const kvf_session *session, uint64_t n_tokens, bool known);
/* A fork has the same checkpoints; its list is as long. KVF_OUT_OF_MEMORY. */
kvf_status kvf_checkpoints_share(kvf_session *to, const kvf_session *from, kvf_error *error);

/* One without content, which belongs to the caller; NULL: no memory. */
kvf_checkpoint *kvf_checkpoint_new(const kvf_session *session, uint64_t n_tokens);
void kvf_checkpoint_release(kvf_session *session, kvf_checkpoint *checkpoint);
/* Windows, states' halves (all else of the states must be zero already), logits, counts. */
void kvf_checkpoint_restore(kvf_session *session, const kvf_checkpoint *checkpoint);

#endif
