/* Every tensor of a checkpoint: names in both styles, shape, and where it is kept. Internal. */
#ifndef KVF_MODEL_WEIGHT_NAMES_H
#define KVF_MODEL_WEIGHT_NAMES_H

#include "model/weights.h"

/* What a tensor becomes. */
typedef enum kvf_weight_kind {
    KVF_WEIGHT_VALUES, /* const float * */
    KVF_WEIGHT_MATRIX, /* kvf_matrix */
    KVF_WEIGHT_MAP     /* const int32_t *, each below the number of experts */
} kvf_weight_kind;

/* One tensor that a config asks for. */
typedef struct kvf_weight {
    char names[2][96]; /* the second is the other style's; both equal where there is one */
    kvf_weight_kind kind;
    uint32_t n_dims;   /* 1 or 2 */
    uint64_t shape[2]; /* shape[1] is 1 for one dimension */
    void *target;      /* inside the kvf_weights it was listed for; see kind */
} kvf_weight;

/* Called for each tensor; anything but KVF_OK ends the walk and is returned. */
typedef kvf_status kvf_weight_fn(void *user, const kvf_weight *weight);

/*
 * Walks over every tensor of the config in a fixed order. weights->layers and the
 * routed experts of each layer are there already (kvf_weights_load makes them), or
 * weights is NULL and all targets are.
 */
kvf_status kvf_weight_walk(const kvf_model_config *config, kvf_weights *weights,
                           kvf_weight_fn *visit, void *user);

/* True for a tensor of a prediction head: "mtp.", "model.mtp.", a layer past the last. */
bool kvf_weight_is_ignored(const kvf_model_config *config, const char *name);

#endif
