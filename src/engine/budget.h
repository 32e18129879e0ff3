/* What a session costs in memory, before anything is allocated. */
#ifndef KVF_ENGINE_BUDGET_H
#define KVF_ENGINE_BUDGET_H

#include "engine/limits.h"
#include "engine/options.h"
#include "model/config.h"

typedef struct kvf_budget {
    const kvf_engine_options *options;
    const kvf_model_config *config;
    uint32_t n_threads;        /* whose workspace is counted */
    bool takes_stored_weights; /* the device's backend does (backend.h) */
    uint64_t mapped_bytes;     /* of the model's files */
    uint64_t copied_bytes;     /* of these, what the device copies as it is stored */
} kvf_budget;

/*
 * How the backend that the options name takes weights, where no device is open. KVF_UNSUPPORTED
 * where there is none of that name.
 */
kvf_status kvf_budget_of_backend(kvf_budget *budget, kvf_error *error);

/* Activations of the dense layers for a session of that context. */
uint64_t kvf_budget_activation_bytes(const kvf_budget *budget, uint64_t context_tokens);

/* Copies of weights that the device is asked for. */
uint64_t kvf_budget_weight_bytes(const kvf_budget *budget);

/* The plan of a full session of that context. Owned by the caller: kvf_plan_free. */
kvf_status kvf_budget_plan(const kvf_budget *budget, kvf_profile_id profile,
                           uint64_t context_tokens, kvf_plan *plan, kvf_error *error);

/*
 * The most that a full session takes: pages, their tables, what their slabs leave free, scratch,
 * activations, checkpoints and what an open chunk takes so that it can be dropped. Weights are not
 * in it.
 */
kvf_status kvf_budget_total_bytes(const kvf_budget *budget, kvf_profile_id profile,
                                  uint64_t context_tokens, uint64_t *bytes, kvf_error *error);

/* The largest context whose total fits in `bytes`, up to the model's own; 0 for none. */
uint64_t kvf_budget_largest_context(const kvf_budget *budget, kvf_profile_id profile,
                                    uint64_t bytes);

/* ---- A process that runs a model ------------------------------------------------------- */

/* What a command is about to load: the weights, a session, and what it keeps besides. */
typedef struct kvf_request {
    kvf_profile_id profile;
    uint64_t context_tokens;    /* that the session is opened for */
    uint64_t least_tokens;      /* of a smaller context the command has no use */
    uint32_t n_forks;           /* states that it keeps to go back to */
    uint64_t decode_tokens;     /* of the context that are not the prompt's, for advice */
    bool fixed_profile;         /* another one is no way out */
    const char *context_option; /* that sets the context, for advice; NULL: "ctx" */
    /* Bytes of its own for a session of that context and chunk; NULL: next to none. */
    uint64_t (*own_bytes)(const void *command, uint64_t context_tokens, uint32_t chunk_tokens);
    const void *command; /* for own_bytes */
} kvf_request;

/* Bytes that count against limits of each kind. */
typedef struct kvf_need {
    uint64_t bytes[KVF_LIMIT_KINDS];
    uint64_t session_bytes; /* of the memory: without weights */
} kvf_need;

/* What the request needs with another context and chunk. */
kvf_status kvf_budget_need(const kvf_budget *budget, const kvf_request *request,
                           uint64_t context_tokens, uint32_t chunk_tokens, kvf_need *need,
                           kvf_error *error);
/* The kind of the limit that it does not fit; KVF_LIMIT_KINDS where it fits all. */
kvf_limit_kind kvf_need_beyond(const kvf_need *need, const kvf_limits *limits);
/* The largest context, at most the request's, that fits all limits with that chunk; 0: none. */
uint64_t kvf_budget_fitting_context(const kvf_budget *budget, const kvf_request *request,
                                    uint32_t chunk_tokens, const kvf_limits *limits);

#endif
