/*
 * The device memory that sessions may still come to take. Internal.
 *
 * What is allocated now is the device's own count, in which a page that several sessions hold is
 * there once. So the plan is: that count, and what everything that runs may still add to it until
 * it ends, are never more than there is.
 */
#ifndef KVF_SERVER_NEEDS_H
#define KVF_SERVER_NEEDS_H

#include "kvfold.h"

/* Of sessions with the same options; pure arithmetic, any thread. */
typedef struct kvf_needs {
    kvf_geometry geometry;
    kvf_session_options options;
    uint64_t checkpoint_bytes; /* of one */
    uint64_t undo_bytes;       /* of an open chunk */
    uint64_t pool_bytes;       /* that slabs have free however few pages there are */
} kvf_needs;

kvf_status kvf_needs_open(const kvf_geometry *geometry, const kvf_session_options *options,
                          kvf_needs *needs, kvf_error *error);

/* Where a session is, and where it may go. */
typedef struct kvf_growth {
    uint64_t from_tokens;
    uint64_t to_tokens;
    uint32_t n_wanted; /* checkpoints that will be asked for besides those of the spacing */
    bool is_reading;   /* chunks of many tokens: what they replace is kept while they are open */
    bool has_begun;    /* it has appended a chunk: what is written is its own by now */
} kvf_growth;
/* The most that it may still allocate. KVF_OUT_OF_MEMORY: of the host's, for the arithmetic. */
kvf_status kvf_needs_growth(const kvf_needs *needs, const kvf_growth *growth, uint64_t *bytes,
                            kvf_error *error);

#endif
