/* What weights take on the device, before any file is opened, and what a token reads of them. */
#include "model/model.h"
#include "model/weight_names.h"
#include "model/weight_source.h"
#include "weight/weight.h"

#include <string.h>

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

typedef struct token_counter {
    const kvf_model_config *config;
    const kvf_tensor_set *files;
    kvf_token_bytes bytes; /* experts: of all of them */
} token_counter;

static uint64_t matrix_bytes(const kvf_matrix *matrix)
{
    const kvf_weight_type *type = kvf_weight_get(matrix->type);
    return kvf_weight_bytes(type, matrix->rows, matrix->cols) +
           kvf_weight_scales_of(type, matrix->rows, matrix->cols).bytes;
}

/* A kvf_weight_fn: vectors and tables were copied, and are in memory. */
static kvf_status add_token_bytes(void *user, const kvf_weight *weight)
{
    token_counter *count = user;
    kvf_weight_place place;
    const char *name = weight->names[KVF_NAMES_GGUF];
    const bool is_table = strcmp(name, "token_embd.weight") == 0;
    if (kvf_weight_locate(count->files, "", weight, &place, NULL) != KVF_OK) {
        count->bytes.n_unusable++;
        return KVF_OK;
    }
    if (weight->kind != KVF_TENSOR_MATRIX)
        return KVF_OK;
    const uint64_t bytes = matrix_bytes(&place.matrix);
    if (weight->n_stacked > 0)
        count->bytes.experts += bytes;
    else if (strncmp(name, "blk.", 4) == 0)
        count->bytes.layers += bytes;
    else if (is_table && !count->config->tied_embeddings)
        count->bytes.head += place.matrix.row_bytes;
    else
        count->bytes.head += bytes;
    return KVF_OK;
}

kvf_token_bytes kvf_model_token_bytes(const kvf_model_config *config, const kvf_tensor_set *files)
{
    token_counter count = {.config = config, .files = files};
    kvf_weight_walk(config, NULL, add_token_bytes, &count);
    /* Experts of a layer may be stored in different types: the mean of what a choice reads. */
    count.bytes.all_experts = count.bytes.experts;
    count.bytes.experts = count.bytes.all_experts * config->n_experts_used / config->n_experts;
    return count.bytes;
}
