/* rewind: back to a checkpoint, and forward again from there. */
#include "error.h"
#include "model/model.h"

kvf_status kvf_model_rewind(kvf_model *model, kvf_batch *batch, kvf_session *session,
                            uint64_t n_tokens, kvf_error *error)
{
    kvf_replay replay;
    kvf_status status = kvf_session_truncate(session, n_tokens, &replay, error);
    if (status != KVF_OK)
        return status;
    const uint32_t most = kvf_batch_options(batch)->chunk_tokens;
    const uint32_t chunk = most < model->chunk_tokens ? most : model->chunk_tokens;
    for (uint64_t at = 0; at < replay.n_tokens && status == KVF_OK; at += chunk) {
        const uint64_t left = replay.n_tokens - at;
        kvf_batch_item item = {.session = session,
                               .ids = replay.tokens + at,
                               .n = left < chunk ? (uint32_t)left : chunk};
        status = kvf_model_forward(model, batch, &item, 1, error);
    }
    kvf_replay_free(&replay);
    return status;
}
