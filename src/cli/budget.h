/* What a session costs in memory, before anything is allocated. */
#ifndef KVF_CLI_BUDGET_H
#define KVF_CLI_BUDGET_H

#include "cli/options.h"
#include "model/config.h"

typedef struct cli_budget {
    const cli_options *options;
    const kvf_model_config *config;
    uint32_t n_threads; /* whose workspace is counted */
} cli_budget;

/* Activations of the dense layers for a session of that context. */
uint64_t cli_budget_activation_bytes(const cli_budget *budget, uint64_t context_tokens);

/* The plan of a full session of that context. Owned by the caller: kvf_plan_free. */
kvf_status cli_budget_plan(const cli_budget *budget, kvf_profile_id profile,
                           uint64_t context_tokens, kvf_plan *plan, kvf_error *error);

/*
 * The most that a full session takes: pages, scratch, activations, checkpoints and what an
 * open chunk takes so that it can be dropped. Weights are not in it.
 */
kvf_status cli_budget_total_bytes(const cli_budget *budget, kvf_profile_id profile,
                                  uint64_t context_tokens, uint64_t *bytes, kvf_error *error);

/* The largest context whose total fits in `bytes`, up to the model's own; 0 for none. */
uint64_t cli_budget_largest_context(const cli_budget *budget, kvf_profile_id profile,
                                    uint64_t bytes);

/* The machine's memory; UINT64_MAX where the system does not say. */
uint64_t cli_physical_memory_bytes(void);

#endif
