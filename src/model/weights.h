/*
 * The weights of a checkpoint, found under any naming style and checked against the
 * config's shapes. Matrices stay as they are stored, where they lie in the mapped file;
 * vectors and tables are copied. A backend that cannot have that is given f32 copies.
 */
#ifndef KVF_MODEL_WEIGHTS_H
#define KVF_MODEL_WEIGHTS_H

#include "backend/backend.h"
#include "model/config.h"
#include "file/tensor_set.h"

typedef struct kvf_compressor_weights {
    kvf_matrix wkv;    /* [parts * width][hidden] */
    kvf_matrix wgate;  /* the same */
    const float *ape;  /* [ratio][parts * width] */
    const float *norm; /* [width] */
} kvf_compressor_weights;

typedef struct kvf_layer_weights {
    const float *attn_norm; /* [hidden] */
    const float *ffn_norm;  /* [hidden] */
    kvf_mix_weights hc_attn;
    kvf_mix_weights hc_ffn;
    kvf_matrix wq_a;              /* [q_rank][hidden] */
    const float *q_norm;          /* [q_rank] */
    kvf_matrix wq_b;              /* [n_heads * 512][q_rank] */
    kvf_matrix wkv;               /* [512][hidden] */
    const float *kv_norm;         /* [512] */
    kvf_matrix wo_a;              /* [n_out_groups * out_rank][n_heads / n_out_groups * 512] */
    kvf_matrix wo_b;              /* [hidden][n_out_groups * out_rank] */
    const float *sinks;           /* [n_heads] */
    kvf_compressor_weights rows;  /* CSA, HCA */
    kvf_compressor_weights index; /* CSA */
    kvf_matrix index_wq_b;        /* [n_index_heads * 128][q_rank], CSA */
    kvf_matrix index_weights;     /* [n_index_heads][hidden], CSA */
    kvf_matrix gate;              /* [n_experts][hidden] */
    const float *gate_bias;       /* [n_experts] or NULL */
    const int32_t *token_map;     /* [vocab][n_experts_used] or NULL */
    kvf_expert_weights *routed;   /* [n_experts] */
    kvf_expert_weights shared;    /* all zero without shared experts */
} kvf_layer_weights;

typedef struct kvf_weights {
    kvf_matrix embed;  /* [vocab][hidden] */
    kvf_matrix head;   /* [vocab][hidden]; tied checkpoints: the same data as embed */
    const float *norm; /* [hidden] */
    kvf_mix_weights hc_head;
    kvf_layer_weights *layers;   /* [n_layers] */
    uint64_t device_bytes;       /* f32 and i32 copies given by the device */
    const kvf_tensor_set *files; /* where matrices lie; not owned */
    /* owned: */
    kvf_device *device;
    void **blocks; /* every device allocation, with its size beside it */
    size_t *block_bytes;
    size_t n_blocks;
    uint32_t n_layers; /* of layers */
} kvf_weights;

/*
 * Finds the weights that the config asks for among the files' tensors, under any style's
 * names (weight_names.h). Tensors of what is not run ("mtp.", "dspark.", layers past the
 * last one) are ignored. A missing tensor, a surplus one, a wrong shape, a stored type that is
 * not read, a plane of scales that is missing or has another shape fails and is named
 * together with its file and what was expected. Headers and vectors are read, matrices are
 * not: what is in them is not checked, unless they are copied. The device and the files
 * outlive the weights; path is for messages.
 */
kvf_status kvf_weights_load(kvf_device *device, const kvf_model_config *config, const char *path,
                            kvf_tensor_set *files, kvf_weights *weights, kvf_error *error);
void kvf_weights_free(kvf_weights *weights);

#endif
