#include "engine/budget.h"

#include <string.h>

#include "model/model.h"

/* More than forward.c has (about 30); kvf_model_activations says how many there are. */
enum { MAX_ACTIVATIONS = 128 };

kvf_status kvf_budget_of_backend(kvf_budget *budget, kvf_error *error)
{
    const kvf_backend *backend;
    const kvf_status status = kvf_backend_find(budget->options->backend, &backend, error);
    if (status == KVF_OK)
        budget->takes_stored_weights = backend->takes_stored_weights;
    return status;
}

uint64_t kvf_budget_activation_bytes(const kvf_budget *budget, uint64_t context_tokens)
{
    kvf_plan_buffer buffers[MAX_ACTIVATIONS];
    uint32_t n = kvf_model_activations(budget->config,
                                       kvf_engine_chunk_tokens(budget->options, context_tokens),
                                       buffers, MAX_ACTIVATIONS);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n && i < MAX_ACTIVATIONS; i++)
        bytes += buffers[i].bytes;
    return bytes;
}

uint64_t kvf_budget_weight_bytes(const kvf_budget *budget)
{
    return kvf_model_weight_bytes(budget->config, budget->takes_stored_weights) +
           budget->copied_bytes;
}

kvf_status kvf_budget_plan(const kvf_budget *budget, kvf_profile_id profile,
                           uint64_t context_tokens, kvf_plan *plan, kvf_error *error)
{
    kvf_session_options session =
        kvf_engine_session_options(budget->options, profile, context_tokens);
    session.n_threads = budget->n_threads;
    return kvf_plan_make(&budget->config->geometry, &session, context_tokens, plan, error);
}

kvf_status kvf_budget_total_bytes(const kvf_budget *budget, kvf_profile_id profile,
                                  uint64_t context_tokens, uint64_t *bytes, kvf_error *error)
{
    kvf_plan plan;
    const kvf_status status = kvf_budget_plan(budget, profile, context_tokens, &plan, error);
    if (status != KVF_OK)
        return status;
    *bytes = plan.allocated_bytes + plan.table_bytes + plan.scratch_bytes + plan.checkpoint_bytes +
             plan.chunk_undo_bytes + plan.pool_bytes +
             kvf_budget_activation_bytes(budget, context_tokens);
    kvf_plan_free(&plan);
    return KVF_OK;
}

uint64_t kvf_budget_largest_context(const kvf_budget *budget, kvf_profile_id profile,
                                    uint64_t bytes)
{
    uint64_t fits = 0;
    uint64_t too_large = budget->config->geometry.max_tokens + 1;
    while (too_large - fits > 1) {
        const uint64_t middle = fits + (too_large - fits) / 2;
        uint64_t total;
        if (kvf_budget_total_bytes(budget, profile, middle, &total, NULL) == KVF_OK &&
            total <= bytes)
            fits = middle;
        else
            too_large = middle;
    }
    return fits;
}

/* ---- A process that runs a model ------------------------------------------------------- */

/*
 * What no plan has: page tables (8 bytes a page of 4096), what is larger than 128 KiB (states,
 * slabs), which an allocator with a header a block rounds up by a page of 4096, and the rest of a
 * process: libraries' data, headers of files as trees, buffers of streams.
 */
enum { PAGE_TABLE_SHARE = 512, ROUNDING_SHARE = 32 };
static const uint64_t process_bytes = 24u << 20;

/*
 * Pages of forks come and go, and of a slab that others hold pages of they leave room that only
 * pages of the same size can take; a freed block of another size is seldom taken again for an
 * aligned one (glibc's posix_memalign looks for a larger one): as much again lies between.
 */
enum { FORK_SHARE = 2 };

/*
 * What a device's thread is given beside the plan (src/backend/cpu): its stack, and its share
 * of the products' workspace, 0.7 MB.
 */
static const uint64_t thread_bytes = (4u << 20) + (1u << 20);

/* Rows that came before a fork stay shared, but for the last page of each kind. */
static bool only_grows(const kvf_plan_buffer *buffer)
{
    const char *name = strrchr(buffer->name, '.');
    return name && (strcmp(name, ".rows") == 0 || strcmp(name, ".index_rows") == 0);
}

/* The host's side of pages: an address, a pointer and a record with its block's header for each. */
static uint64_t host_table_bytes(const kvf_plan *plan, bool records)
{
    uint64_t n_pages = 0;
    for (uint32_t i = 0; i < plan->n_buffers; i++)
        if (plan->buffers[i].klass == KVF_MEMORY_CACHE && plan->buffers[i].n_dims == 3)
            n_pages += plan->buffers[i].shape[0];
    return n_pages * (records ? 16 + 64 : 16);
}

/* What a fork holds alone when the session that goes on has written over all it can. */
static uint64_t fork_bytes(const kvf_plan *plan)
{
    uint64_t bytes = host_table_bytes(plan, false) + plan->table_bytes;
    for (uint32_t i = 0; i < plan->n_buffers; i++) {
        const kvf_plan_buffer *buffer = &plan->buffers[i];
        if (buffer->klass == KVF_MEMORY_CACHE)
            bytes += only_grows(buffer) ? buffer->bytes / (buffer->shape[0] + !buffer->shape[0])
                                        : buffer->bytes;
    }
    return bytes;
}

kvf_status kvf_budget_need(const kvf_budget *budget, const kvf_request *request,
                           uint64_t context_tokens, uint32_t chunk_tokens, kvf_need *need,
                           kvf_error *error)
{
    kvf_engine_options options = *budget->options;
    options.chunk_tokens = chunk_tokens;
    kvf_budget changed = *budget;
    changed.options = &options;
    kvf_plan plan;
    uint64_t session_bytes;
    kvf_status status =
        kvf_budget_total_bytes(&changed, request->profile, context_tokens, &session_bytes, error);
    if (status == KVF_OK)
        status = kvf_budget_plan(&changed, request->profile, context_tokens, &plan, error);
    if (status != KVF_OK)
        return status;
    session_bytes += host_table_bytes(&plan, true) + plan.allocated_bytes / ROUNDING_SHARE +
                     request->n_forks * FORK_SHARE * fork_bytes(&plan);
    /* One that is resumed lies in its file, which is mapped to be read. */
    const bool saved = options.session || options.store;
    const uint64_t view_bytes = saved ? plan.snapshot_bytes : 0;
    kvf_plan_free(&plan);
    if (request->own_bytes)
        session_bytes += request->own_bytes(request->command, context_tokens,
                                            kvf_engine_chunk_tokens(&options, context_tokens));
    need->session_bytes = session_bytes;
    uint64_t bytes = session_bytes + kvf_budget_weight_bytes(budget);
    bytes += bytes / PAGE_TABLE_SHARE + process_bytes;
    need->bytes[KVF_LIMIT_MEMORY] = bytes;
    bytes += (budget->n_threads - 1) * thread_bytes;
    need->bytes[KVF_LIMIT_DATA] = bytes;
    need->bytes[KVF_LIMIT_ADDRESSES] = bytes + view_bytes + budget->mapped_bytes;
    return KVF_OK;
}

kvf_limit_kind kvf_need_beyond(const kvf_need *need, const kvf_limits *limits)
{
    int kind = 0;
    while (kind < KVF_LIMIT_KINDS && need->bytes[kind] <= limits->tightest[kind].left_bytes)
        kind++;
    return (kvf_limit_kind)kind;
}

uint64_t kvf_budget_fitting_context(const kvf_budget *budget, const kvf_request *request,
                                    uint32_t chunk_tokens, const kvf_limits *limits)
{
    uint64_t fits = 0;
    uint64_t too_large = request->context_tokens + 1;
    while (too_large - fits > 1) {
        const uint64_t middle = fits + (too_large - fits) / 2;
        kvf_need need;
        if (kvf_budget_need(budget, request, middle, chunk_tokens, &need, NULL) == KVF_OK &&
            kvf_need_beyond(&need, limits) == KVF_LIMIT_KINDS)
            fits = middle;
        else
            too_large = middle;
    }
    return fits;
}
