/* Every tensor of a checkpoint: names in all styles, shape, and where it is kept. Internal. */
#ifndef KVF_MODEL_WEIGHT_NAMES_H
#define KVF_MODEL_WEIGHT_NAMES_H

#include "model/config.h"

struct kvf_weights; /* model/weights.h */

/* What a tensor becomes. */
typedef enum kvf_tensor_kind {
    KVF_TENSOR_VALUES, /* const float * */
    KVF_TENSOR_MATRIX, /* kvf_matrix */
    KVF_TENSOR_MAP     /* const int32_t *, each below the number of experts */
} kvf_tensor_kind;

/* Who named the tensors. */
typedef enum kvf_name_style {
    KVF_NAMES_DEEPSEEK,     /* "layers.0.attn.wq_a.weight" */
    KVF_NAMES_TRANSFORMERS, /* "model.layers.0.attn.wq_a.weight", the tiny checkpoint's */
    KVF_NAMES_GGUF,         /* "blk.0.attn_q_a.weight", ds4's and llama.cpp's */
    KVF_NAME_STYLES
} kvf_name_style;

/* One tensor that a config asks for. */
typedef struct kvf_weight {
    char names[KVF_NAME_STYLES][96];
    kvf_tensor_kind kind;
    uint32_t n_dims;   /* 1 or 2 */
    uint64_t shape[2]; /* shape[1] is 1 for one dimension */
    /*
     * GGUF has n_stacked weights in one tensor of one more dimension, [n_stacked][..], and
     * this one at `place`; 0: it has a tensor of its own there too.
     */
    uint32_t n_stacked;
    uint32_t place;
    void *target; /* inside the kvf_weights it was listed for; see kind */
} kvf_weight;

/* Called for each tensor; anything but KVF_OK ends the walk and is returned. */
typedef kvf_status kvf_weight_fn(void *user, const kvf_weight *weight);

/*
 * Walks over every tensor of the config in a fixed order. weights->layers and the
 * routed experts of each layer are there already (kvf_weights_load makes them), or
 * weights is NULL and all targets are.
 */
kvf_status kvf_weight_walk(const kvf_model_config *config, struct kvf_weights *weights,
                           kvf_weight_fn *visit, void *user);

/*
 * True for a tensor of something that predicts further tokens, and is not run: "mtp.",
 * "model.mtp.", "dspark.", a layer past the last ("layers.", "model.layers.", "blk.").
 */
bool kvf_weight_is_ignored(const kvf_model_config *config, const char *name);

/*
 * What a tensor says of the layer that would come after the last one: a prediction head has
 * tensors of its own kind there, and a model that was cut has not.
 */
typedef enum kvf_next_layer {
    KVF_NEXT_NOT,     /* the tensor is of no such layer */
    KVF_NEXT_LAYER,   /* it is, and may be of a layer of any kind */
    KVF_NEXT_PREDICTS /* only layers that predict further tokens have it */
} kvf_next_layer;
kvf_next_layer kvf_weight_next_layer(const kvf_model_config *config, const char *name);

#endif
