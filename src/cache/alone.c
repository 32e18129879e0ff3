/* One session's chunk: a batch of one, opened with the first and closed with the session. */
#include "cache/batch.h"
#include "error.h"

static kvf_status no_chunk(kvf_error *error)
{
    return kvf_fail(error, KVF_INVALID_ARGUMENT, "no chunk is open: call begin first");
}

kvf_status kvf_session_begin(kvf_session *session, const int32_t *tokens, uint32_t n_tokens,
                             kvf_error *error)
{
    if (!session->alone) {
        kvf_session_options options = session->options;
        options.batch_sessions = 1;
        const kvf_status status =
            kvf_batch_open(session->device, &session->geometry, &options, &session->alone, error);
        if (status != KVF_OK)
            return status;
    }
    session->item = (kvf_batch_item){.session = session, .ids = tokens, .n = n_tokens};
    return kvf_batch_begin(session->alone, &session->item, 1, error);
}

kvf_status kvf_session_append(kvf_session *session, uint32_t layer, const kvf_append_args *args,
                              kvf_error *error)
{
    return session->alone ? kvf_batch_append(session->alone, layer, args, error) : no_chunk(error);
}

kvf_status kvf_session_select(kvf_session *session, uint32_t layer, kvf_chunk_span span,
                              float *index_q, const float *head_weights, kvf_error *error)
{
    return session->alone
               ? kvf_batch_select(session->alone, layer, span, index_q, head_weights, error)
               : no_chunk(error);
}

kvf_status kvf_session_attend(kvf_session *session, uint32_t layer, kvf_chunk_span span,
                              const float *q, const float *sinks, float *out, kvf_error *error)
{
    return session->alone ? kvf_batch_attend(session->alone, layer, span, q, sinks, out, error)
                          : no_chunk(error);
}

kvf_status kvf_session_settle(kvf_session *session, kvf_error *error)
{
    return session->alone ? kvf_batch_settle(session->alone, error) : no_chunk(error);
}

kvf_status kvf_session_commit(kvf_session *session, kvf_error *error)
{
    return session->alone ? kvf_batch_commit(session->alone, error) : no_chunk(error);
}

void kvf_session_drop(kvf_session *session)
{
    if (session->alone)
        kvf_batch_drop(session->alone);
}

kvf_status kvf_session_selection(const kvf_session *session, uint32_t query, int32_t *list,
                                 uint32_t *n, kvf_error *error)
{
    if (session->alone)
        return kvf_batch_selection(session->alone, query, list, n, error);
    *n = 0;
    return kvf_fail(error, KVF_INVALID_ARGUMENT, "no chunk is open: call begin first");
}

uint64_t kvf_session_scratch_bytes(const kvf_session *session)
{
    return session->alone ? kvf_batch_scratch_bytes(session->alone) : 0;
}
