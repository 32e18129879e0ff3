#include "cli/budget.h"

#include <unistd.h>

#include "model/model.h"

/* More than forward.c has (about 30); kvf_model_activations says how many there are. */
enum { MAX_ACTIVATIONS = 128 };

uint64_t cli_budget_activation_bytes(const cli_budget *budget, uint64_t context_tokens)
{
    kvf_plan_buffer buffers[MAX_ACTIVATIONS];
    uint32_t n = kvf_model_activations(budget->config,
                                       cli_options_chunk_tokens(budget->options, context_tokens),
                                       buffers, MAX_ACTIVATIONS);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n && i < MAX_ACTIVATIONS; i++)
        bytes += buffers[i].bytes;
    return bytes;
}

kvf_status cli_budget_plan(const cli_budget *budget, kvf_profile_id profile,
                           uint64_t context_tokens, kvf_plan *plan, kvf_error *error)
{
    kvf_session_options session = cli_options_session(budget->options, profile, context_tokens);
    session.n_threads = budget->n_threads;
    return kvf_plan_make(&budget->config->geometry, &session, context_tokens, plan, error);
}

kvf_status cli_budget_total_bytes(const cli_budget *budget, kvf_profile_id profile,
                                  uint64_t context_tokens, uint64_t *bytes, kvf_error *error)
{
    kvf_plan plan;
    const kvf_status status = cli_budget_plan(budget, profile, context_tokens, &plan, error);
    if (status != KVF_OK)
        return status;
    *bytes = plan.allocated_bytes + plan.scratch_bytes + plan.checkpoint_bytes +
             plan.chunk_undo_bytes + cli_budget_activation_bytes(budget, context_tokens);
    kvf_plan_free(&plan);
    return KVF_OK;
}

uint64_t cli_budget_largest_context(const cli_budget *budget, kvf_profile_id profile,
                                    uint64_t bytes)
{
    uint64_t fits = 0;
    uint64_t too_large = budget->config->geometry.max_tokens + 1;
    while (too_large - fits > 1) {
        const uint64_t middle = fits + (too_large - fits) / 2;
        uint64_t total;
        if (cli_budget_total_bytes(budget, profile, middle, &total, NULL) == KVF_OK &&
            total <= bytes)
            fits = middle;
        else
            too_large = middle;
    }
    return fits;
}

uint64_t cli_physical_memory_bytes(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES);
    const long page_bytes = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || page_bytes <= 0)
        return UINT64_MAX;
    return (uint64_t)pages * (uint64_t)page_bytes;
}
