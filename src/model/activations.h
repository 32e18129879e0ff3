/* The activations of the dense layers: one list that the plan prints and the model allocates. */
#ifndef KVF_MODEL_ACTIVATIONS_H
#define KVF_MODEL_ACTIVATIONS_H

#include "backend/backend.h"
#include "model/config.h"

/*
 * Tokens of a chunk that go through queries, select, attend and the output projection
 * together: their queries are 131 kB a token in V4-Flash, too much for a whole chunk at once.
 * A multiple of the products' register tiles, and enough to pay for decoding a weight.
 */
#define KVF_ATTENTION_TOKENS 96

/*
 * Tokens whose logits the head makes at once, at least: the next tokens of so many sessions read
 * its weights once. More, where other sublayers need the memory.
 */
#define KVF_HEAD_TOKENS 64

/*
 * One float (or i32) buffer of a chunk. Those of one sublayer share their memory with those
 * of the other and of the head.
 */
typedef enum kvf_activation_id {
    /* Kept through all layers. */
    KVF_ACT_STREAMS, /* [chunk][n_streams][hidden] */
    KVF_ACT_INPUT,   /* [chunk][hidden] sublayer input, normed; at the end the head's */
    KVF_ACT_OUTPUT,  /* [chunk][hidden] sublayer output */
    KVF_ACT_MIX,     /* [chunk][n_streams * (2 + n_streams)] */
    KVF_ACT_POST,    /* [chunk][n_streams] */
    KVF_ACT_COMB,    /* [chunk][n_streams][n_streams] */
    KVF_ACT_ROPE,    /* [4 tables: window, compress, CSA rows, HCA rows][2][chunk + 1][32] */
    KVF_ACT_KEPT,

    /* Attention, the chunk's. */
    KVF_ACT_WINDOW = KVF_ACT_KEPT, /* [chunk][512] */
    KVF_ACT_ROW_KV,                /* [chunk][2 * 512] */
    KVF_ACT_ROW_GATE,              /* [chunk][2 * 512] */
    KVF_ACT_INDEX_KV,              /* [chunk][2 * 128] */
    KVF_ACT_INDEX_GATE,            /* [chunk][2 * 128] */
    /* Attention, of some tokens. */
    KVF_ACT_QUERY_RANK,    /* [tile][q_rank] */
    KVF_ACT_QUERY,         /* [tile][n_heads][512] */
    KVF_ACT_ATTENDED,      /* [tile][n_heads][512] */
    KVF_ACT_GROUPS,        /* [tile][n_out_groups * out_rank] */
    KVF_ACT_INDEX_QUERY,   /* [tile][n_index_heads][128] */
    KVF_ACT_INDEX_WEIGHTS, /* [tile][n_index_heads] */
    KVF_ACT_ATTENTION_END,

    /* Experts. */
    KVF_ACT_ROUTER = KVF_ACT_ATTENTION_END, /* [chunk][n_experts] */
    KVF_ACT_EXPERT_IDS,                     /* i32 [chunk][n_experts_used] */
    KVF_ACT_EXPERT_WEIGHTS,                 /* [chunk][n_experts_used] */
    KVF_ACT_EXPERT_WORK,                    /* the backend's experts_workspace_bytes() */
    KVF_ACT_EXPERTS_END,

    KVF_ACT_SAMPLED = KVF_ACT_EXPERTS_END, /* kvf_sampled [KVF_HEAD_TOKENS, or fewer], or none */
    KVF_ACT_LOGITS,                        /* [KVF_HEAD_TOKENS, or fewer][vocab] */
    KVF_ACT_COUNT
} kvf_activation_id;

typedef struct kvf_activation {
    const char *name;
    uint64_t shape[3]; /* outermost first; trailing ones are 1; every element has 4 bytes */
} kvf_activation;

/* Where they lie: KVF_ACT_KEPT buffers of their own, and one that the others share. */
typedef struct kvf_activation_layout {
    kvf_activation all[KVF_ACT_COUNT];
    uint64_t bytes[KVF_ACT_KEPT + 1]; /* of the buffers; the last is the shared one */
    uint64_t offsets[KVF_ACT_COUNT];  /* bytes, in the buffer */
} kvf_activation_layout;

/* For chunks of chunk_tokens, on a device of that backend. */
void kvf_activation_layout_of(const kvf_model_config *config, uint32_t chunk_tokens,
                              const kvf_backend *backend, kvf_activation_layout *layout);

#endif
