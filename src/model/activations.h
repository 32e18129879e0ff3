/* The activations of the dense layers: one list that the plan prints and the model allocates. */
#ifndef KVF_MODEL_ACTIVATIONS_H
#define KVF_MODEL_ACTIVATIONS_H

#include "model/config.h"

/* One float (or i32) buffer of a chunk. */
typedef enum kvf_activation_id {
    KVF_ACT_STREAMS,        /* [chunk][n_streams][hidden] */
    KVF_ACT_INPUT,          /* [chunk][hidden] sublayer input, normed */
    KVF_ACT_OUTPUT,         /* [chunk][hidden] sublayer output */
    KVF_ACT_MIX,            /* [chunk][n_streams * (2 + n_streams)] */
    KVF_ACT_POST,           /* [chunk][n_streams] */
    KVF_ACT_COMB,           /* [chunk][n_streams][n_streams] */
    KVF_ACT_QUERY_RANK,     /* [chunk][q_rank] */
    KVF_ACT_QUERY,          /* [chunk][n_heads][512] */
    KVF_ACT_ATTENDED,       /* [chunk][n_heads][512] */
    KVF_ACT_WINDOW,         /* [chunk][512] */
    KVF_ACT_GROUPS,         /* [chunk][n_out_groups * out_rank] */
    KVF_ACT_ROW_KV,         /* [chunk][2 * 512] */
    KVF_ACT_ROW_GATE,       /* [chunk][2 * 512] */
    KVF_ACT_INDEX_KV,       /* [chunk][2 * 128] */
    KVF_ACT_INDEX_GATE,     /* [chunk][2 * 128] */
    KVF_ACT_INDEX_QUERY,    /* [chunk][n_index_heads][128] */
    KVF_ACT_INDEX_WEIGHTS,  /* [chunk][n_index_heads] */
    KVF_ACT_ROUTER,         /* [chunk][n_experts] */
    KVF_ACT_EXPERT_IDS,     /* i32 [chunk][n_experts_used] */
    KVF_ACT_EXPERT_WEIGHTS, /* [chunk][n_experts_used] */
    KVF_ACT_EXPERT_WORK,    /* kvf_experts_workspace_floats() */
    KVF_ACT_LOGIT_INPUT,    /* [chunk][hidden] */
    KVF_ACT_ROPE,           /* [4 tables: window, compress, CSA rows, HCA rows][2][chunk + 1][32] */
    KVF_ACT_COUNT
} kvf_activation_id;

typedef struct kvf_activation {
    const char *name;
    uint64_t shape[3]; /* outermost first; trailing ones are 1 */
} kvf_activation;

/* Fills shapes for chunks of chunk_tokens; every element has 4 bytes. */
void kvf_activation_shapes(const kvf_model_config *config, uint32_t chunk_tokens,
                           kvf_activation activations[KVF_ACT_COUNT]);

static inline uint64_t kvf_activation_bytes(const kvf_activation *activation)
{
    return 4 * activation->shape[0] * activation->shape[1] * activation->shape[2];
}

#endif
