/* rewind: back to a checkpoint, and forward again in the chunks that were recorded. */
#include "error.h"
#include "model/model.h"

kvf_status kvf_model_rewind(kvf_model *model, kvf_session *session, uint64_t n_tokens,
                            kvf_error *error)
{
    kvf_replay replay;
    kvf_status status = kvf_session_truncate(session, n_tokens, &replay, error);
    if (status != KVF_OK)
        return status;
    const int32_t *tokens = replay.tokens;
    for (uint64_t i = 0; i < replay.n_chunks && status == KVF_OK; i++) {
        status = kvf_model_forward(model, session, tokens, replay.chunk_tokens[i], NULL, error);
        tokens += replay.chunk_tokens[i];
    }
    kvf_replay_free(&replay);
    return status;
}
