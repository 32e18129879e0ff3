/* One step of the engine: tokens of several sessions go through the model. Internal. */
#ifndef KVF_SERVER_STEP_H
#define KVF_SERVER_STEP_H

#include "model/model.h"

/* Tokens of one session, and what became of them. */
typedef struct kvf_step_item {
    kvf_session *session;
    const int32_t *ids; /* [n] */
    uint32_t n;
    kvf_status status;
    kvf_error error;
} kvf_step_item;

/*
 * Appends the ids of all items, no session twice; each succeeds or fails for itself, and one that
 * fails is as it was. Not thread-safe.
 */
void kvf_step_run(kvf_model *model, kvf_step_item *items, uint32_t n);

#endif
