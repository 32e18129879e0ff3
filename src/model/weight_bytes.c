/* What a config's weights take on the device, before any file is opened. */
#include "model/model.h"
#include "model/weight_names.h"

typedef struct counter {
    bool takes_stored_weights;
    uint64_t bytes;
} counter;

/* A kvf_weight_fn: vectors and tables are copied as 4 bytes a value, matrices where they must. */
static kvf_status add_bytes(void *user, const kvf_weight *weight)
{
    counter *count = user;
    if (weight->kind != KVF_TENSOR_MATRIX || !count->takes_stored_weights)
        count->bytes += 4 * weight->shape[0] * weight->shape[1];
    return KVF_OK;
}

uint64_t kvf_model_weight_bytes(const kvf_model_config *config, bool takes_stored_weights)
{
    counter count = {.takes_stored_weights = takes_stored_weights};
    kvf_weight_walk(config, NULL, add_bytes, &count);
    return count.bytes;
}
