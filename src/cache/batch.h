/* The inside of a batch. Internal to cache/. */
#ifndef KVF_CACHE_BATCH_H
#define KVF_CACHE_BATCH_H

#include "cache/session.h"

/* Reused by every layer and every batch. */
typedef struct kvf_scratch {
    int32_t *tokens;    /* staging */
    uint8_t *window;    /* pages that no later batch needs, of one layer at a time */
    kvf_finding *found; /* [items][n_layers][KVF_FOUND_PLACES] */
    uint8_t *queries;
    int32_t *list;
    uint32_t *list_len;
    float *scores;
    void *mask;
    void *select_workspace;
    void *attend_workspace;
} kvf_scratch;

/* What a stage asks of the backend at once, [batch_sessions] each: one operation at a time. */
typedef struct kvf_stage_args {
    kvf_findings *found; /* of check, pack and compress */
    kvf_check_args *check;
    kvf_pack_args *pack;
    kvf_compress_args *compress;
    kvf_select_args *select;
    kvf_attend_args *attend;
} kvf_stage_args;

struct kvf_batch {
    kvf_device *device;
    const kvf_profile *profile;
    kvf_geometry geometry;
    kvf_session_options options; /* resolved */
    kvf_scratch_size size;
    kvf_scratch scratch;
    uint64_t scratch_bytes;
    kvf_finding *found; /* the host's copy of scratch.found */
    kvf_stage_args stage;
    /* What is open. */
    kvf_batch_item *items;  /* the caller's */
    kvf_session **sessions; /* [batch_sessions] of the items; NULL: it failed */
    kvf_item_span *spans;   /* [batch_sessions] */
    uint32_t n_items;
    uint32_t n_tokens;    /* 0: nothing is open */
    uint64_t n_shortages; /* the device's, when it began */
    /* Until the next begins, for kvf_batch_selection: of the layer that was selected last. */
    uint32_t select_tokens; /* 0: none was */
    uint32_t select_ratio;
    bool settled; /* what was found so far is known: nothing in items that are left */
};

/* scratch.c */
kvf_status kvf_scratch_open(kvf_batch *batch, kvf_error *error);
void kvf_scratch_close(kvf_batch *batch);

/* batch.c: undoes an item, whose error says why. */
void kvf_batch_fail(kvf_batch *batch, uint32_t item, kvf_status status);
/* KVF_OK while an item is left; else the first one's status, and nothing is open. */
kvf_status kvf_batch_left(kvf_batch *batch, kvf_error *error);

/*
 * Before more is queued: fails all items where a wait said since begin that an operation had no
 * memory. Lists and counts that it did not write are not to be followed.
 */
kvf_status kvf_batch_check_done(kvf_batch *batch, kvf_error *error);

/* found.c: bytes of an item's findings. */
size_t kvf_batch_item_found_bytes(const kvf_batch *batch);
/* Queues that nothing is found in any item, for a batch that begins. */
void kvf_batch_clear_found(kvf_batch *batch);
/* The first that was found in an item, in the order of layers, then places, as its error. */
kvf_status kvf_batch_first_found(const kvf_batch *batch, uint32_t item, kvf_error *error);
/* Rows of an item that their format could not hold exactly: those that stay. */
uint64_t kvf_batch_inexact_rows(const kvf_batch *batch, uint32_t item);

/* A layer's findings of an item, [KVF_FOUND_PLACES], in either copy. */
static inline kvf_finding *kvf_batch_found(const kvf_batch *batch, kvf_finding *all, uint32_t item,
                                           uint32_t layer)
{
    return all + ((size_t)item * batch->geometry.n_layers + layer) * KVF_FOUND_PLACES;
}

#endif
