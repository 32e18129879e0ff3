/* A session that goes through the model alone, in the batch of one that its own functions use. */
#ifndef KVF_TESTS_MODEL_ALONE_H
#define KVF_TESTS_MODEL_ALONE_H

#include "cache/session.h"
#include "model/model.h"

static inline kvf_batch *batch_of(kvf_session *session, kvf_error *error)
{
    if (!session->alone)
        kvf_batch_open(session->device, &session->geometry, &session->options, &session->alone,
                       error);
    return session->alone;
}

/* n more tokens; all_logits [n][vocab], or NULL. */
static inline kvf_status forward_alone(kvf_model *model, kvf_session *session, const int32_t *ids,
                                       uint32_t n, float *all_logits, kvf_error *error)
{
    kvf_batch *batch = batch_of(session, error);
    kvf_batch_item item = {.session = session, .ids = ids, .n = n, .all_logits = all_logits};
    return batch ? kvf_model_forward(model, batch, &item, 1, error) : error->status;
}

static inline kvf_status rewind_alone(kvf_model *model, kvf_session *session, uint64_t n_tokens,
                                      kvf_error *error)
{
    kvf_batch *batch = batch_of(session, error);
    return batch ? kvf_model_rewind(model, batch, session, n_tokens, error) : error->status;
}

#endif
