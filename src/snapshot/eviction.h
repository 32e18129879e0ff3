/*
 * Which states of a store leave when another one needs room. A decision over a table, without
 * files: tests/cache/test_eviction.c runs sequences of prompts against it. Internal.
 */
#ifndef KVF_SNAPSHOT_EVICTION_H
#define KVF_SNAPSHOT_EVICTION_H

#include "kvfold.h"

#define KVF_NO_STATE SIZE_MAX

/* A state in the table. Times are of one clock, which only goes forward. */
typedef struct kvf_kept_state {
    uint64_t n_tokens;
    uint64_t bytes;
    uint64_t stored; /* when */
    uint64_t used;   /* when last, or `stored` */
    size_t parent;   /* the longest other state that this one begins with, or KVF_NO_STATE */
    bool shared;     /* two prompts had just this in common, or it was asked for again */
    bool made_now;   /* by the run that now wants room */
    bool stays;      /* cannot be removed: somebody writes it, or the system refused */

    /* Set by kvf_choose_leaving. */
    bool leaves;
    bool kept;       /* it must not leave */
    uint64_t counts; /* as used last then */
} kvf_kept_state;

/*
 * Chooses what leaves so that `fresh` fits (its parent is of the table, and what parents lead
 * to is what it begins with). The state used least recently leaves first; and
 *   - one that was used after a longer one was stored that begins with it counts as used with
 *     that one: it has shown that it serves other prompts, the longer one serves few;
 *   - what this run made stays, and so does the parent of `fresh` if it is shared: a longer
 *     state never takes the place of a shorter one that other prompts need. A parent that
 *     nothing else has begun with may leave last: it is a conversation that goes on.
 * Returns false where that leaves too little room: nothing leaves then, and `fresh` is not
 * to be stored; those in its way are `kept`, none where `fresh` is too large alone.
 */
bool kvf_choose_leaving(kvf_kept_state *states, size_t n, const kvf_kept_state *fresh,
                        uint64_t max_bytes);

#endif
