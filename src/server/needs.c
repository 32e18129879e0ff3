#include "server/needs.h"

#include <string.h>

kvf_status kvf_needs_open(const kvf_geometry *geometry, const kvf_session_options *options,
                          kvf_needs *needs, kvf_error *error)
{
    kvf_session_options one = *options;
    kvf_plan plan;
    *needs = (kvf_needs){.geometry = *geometry, .options = *options};
    /* A plan with just one checkpoint says what one takes. */
    if (one.checkpoint_count != KVF_NO_CHECKPOINTS) {
        one.checkpoint_count = 1;
        one.checkpoint_spacing_tokens = 0;
    }
    const kvf_status status = kvf_plan_make(geometry, &one, one.max_tokens, &plan, error);
    if (status != KVF_OK)
        return status;
    needs->checkpoint_bytes = plan.checkpoint_bytes;
    needs->undo_bytes = plan.chunk_undo_bytes;
    needs->pool_bytes = plan.pool_bytes;
    kvf_plan_free(&plan);
    return KVF_OK;
}

/* Bytes of a session of that many tokens: rows, which only ever grow, and all the rest. */
typedef struct session_bytes {
    uint64_t rows;
    uint64_t last_pages; /* of rows: a fork copies them when it goes on */
    uint64_t rest;
} session_bytes;

static kvf_status count(const kvf_needs *needs, uint64_t n_tokens, session_bytes *bytes,
                        kvf_error *error)
{
    kvf_plan plan;
    const kvf_status status =
        kvf_plan_make(&needs->geometry, &needs->options, n_tokens, &plan, error);
    if (status != KVF_OK)
        return status;
    memset(bytes, 0, sizeof *bytes);
    for (uint32_t i = 0; i < plan.n_buffers; i++) {
        const kvf_plan_buffer *buffer = &plan.buffers[i];
        const char *name = strrchr(buffer->name, '.');
        const bool rows = name && (strcmp(name, ".rows") == 0 || strcmp(name, ".index_rows") == 0);
        if (buffer->klass != KVF_MEMORY_CACHE && buffer->klass != KVF_MEMORY_TABLE)
            continue;
        *(rows ? &bytes->rows : &bytes->rest) += buffer->bytes;
        if (rows && buffer->shape[0] > 0)
            bytes->last_pages += buffer->bytes / buffer->shape[0];
    }
    kvf_plan_free(&plan);
    return KVF_OK;
}

kvf_status kvf_needs_growth(const kvf_needs *needs, const kvf_growth *growth, uint64_t *bytes,
                            kvf_error *error)
{
    const uint64_t spacing = needs->options.checkpoint_spacing_tokens;
    session_bytes from;
    session_bytes to;
    kvf_status status = count(needs, growth->from_tokens, &from, error);
    if (status == KVF_OK)
        status = count(needs, growth->to_tokens, &to, error);
    if (status != KVF_OK)
        return status;
    uint64_t n_checkpoints = growth->n_wanted;
    if (spacing > 0)
        n_checkpoints += growth->to_tokens / spacing - growth->from_tokens / spacing;
    /* The ids are one block, of which there are two while it is made longer. */
    *bytes = to.rows - from.rows + 4 * growth->to_tokens + n_checkpoints * needs->checkpoint_bytes;
    if (growth->is_reading)
        *bytes += needs->undo_bytes;
    if (growth->has_begun)
        *bytes += to.rest > from.rest ? to.rest - from.rest : 0;
    else
        *bytes += to.rest + from.last_pages;
    return KVF_OK;
}
