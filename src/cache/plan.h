/* What the plan and the session share. Internal. */
#ifndef KVF_CACHE_PLAN_H
#define KVF_CACHE_PLAN_H

#include "backend/backend.h"

/* Whether a session of this geometry can be served; all later sizes then fit 64 bits. */
kvf_status kvf_geometry_check(const kvf_geometry *geometry, kvf_error *error);

/*
 * Fills in defaults and checks; no zero is left in chunk, sessions, tile and threads, and the
 * backend is named.
 */
kvf_status kvf_options_resolve(const kvf_geometry *geometry, const kvf_session_options *options,
                               kvf_session_options *resolved, kvf_error *error);

/* Bytes of each scratch buffer of a batch for resolved options; 0: not used by the profile. */
typedef struct kvf_scratch_size {
    bool selects;         /* the geometry has CSA layers */
    uint64_t select_rows; /* the most index rows a layer can hold */
    uint64_t token_bytes; /* i32 a token */
    uint64_t window_rows; /* of all items, that only the layer being done needs */
    uint64_t window_bytes;
    uint64_t found_bytes; /* a kvf_finding an item, layer and place */
    uint64_t query_bytes; /* packed index queries (no mask) */
    uint64_t list_bytes;  /* i32 [chunk][top_k] (no mask) */
    uint64_t list_len_bytes;
    uint64_t score_bytes;  /* f32 [tile][select_rows] (mask) */
    uint64_t mask_bytes;   /* [chunk][select_rows] (mask) */
    uint64_t select_bytes; /* workspaces, as the backend says */
    uint64_t attend_bytes;
} kvf_scratch_size;

void kvf_scratch_sizes(const kvf_geometry *geometry, const kvf_session_options *options,
                       const kvf_backend *backend, kvf_scratch_size *size);

/* kvf_plan_make without the bytes of a file: of what a session holds in memory alone. */
kvf_status kvf_plan_session(const kvf_geometry *geometry, const kvf_session_options *options,
                            uint64_t n_tokens, kvf_plan *plan, kvf_error *error);

#endif
