/* Opening a model: its files, its weights on the device, and the memory of a forward pass. */
#include "model/model.h"

#include <stdlib.h>

#include "error.h"
#include "model/forward.h"
#include "shared/fp_environment.h"

static void close_forward(kvf_model *model)
{
    struct kvf_forward *forward = model->forward;
    for (int i = 0; forward && i <= KVF_ACT_KEPT; i++)
        kvf_device_release(model->device, KVF_MEMORY_ACTIVATION, forward->buffers[i],
                           forward->bytes[i]);
    if (forward) {
        free(forward->host_input);
        free(forward->host_experts);
        free(forward->host_logits);
    }
    free(forward);
    model->forward = NULL;
    model->chunk_tokens = 0;
}

/* Host memory for what the head makes, and for the experts of a token. */
static kvf_status open_host_side(struct kvf_forward *forward, const kvf_model_config *config,
                                 uint32_t chunk_tokens, kvf_error *error)
{
    const uint64_t row_bytes = config->geometry.vocab * sizeof(float);
    const uint64_t before_bytes =
        (uint64_t)(forward->act[KVF_ACT_LOGITS] - forward->buffers[KVF_ACT_KEPT]) * sizeof(float);
    /* KVF_HEAD_TOKENS or more */
    const uint64_t room = (forward->bytes[KVF_ACT_KEPT] - before_bytes) / row_bytes;
    forward->head_rows = room < chunk_tokens ? room : chunk_tokens;
    forward->host_input = malloc(forward->head_rows * config->hidden * sizeof(float));
    forward->host_experts = malloc(config->n_experts * sizeof *forward->host_experts);
    if (!forward->host_input || !forward->host_experts)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for what the head reads");
    return kvf_forward_reserve_logits(forward, 1, config->geometry.vocab, error);
}

static kvf_status open_forward(kvf_model *model, uint32_t chunk_tokens, kvf_error *error)
{
    struct kvf_forward *forward = calloc(1, sizeof *forward);
    if (!forward)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a model");
    model->forward = forward;
    model->chunk_tokens = chunk_tokens;
    kvf_rope_frequencies(&model->config.rope_window, forward->window_frequencies);
    kvf_rope_frequencies(&model->config.rope_compress, forward->compress_frequencies);
    kvf_activation_layout layout;
    kvf_activation_layout_of(&model->config, chunk_tokens, model->device->backend, &layout);
    for (int i = 0; i <= KVF_ACT_KEPT; i++) {
        forward->bytes[i] = layout.bytes[i];
        forward->buffers[i] = kvf_device_alloc(model->device, KVF_MEMORY_ACTIVATION,
                                               KVF_PLACE_DEVICE, forward->bytes[i]);
        if (!forward->buffers[i])
            return kvf_fail(error, KVF_OUT_OF_MEMORY,
                            "no memory for activations (%s, %llu bytes) of chunks of %u tokens; "
                            "a smaller chunk needs less",
                            i < KVF_ACT_KEPT ? layout.all[i].name : "of a sublayer",
                            (unsigned long long)forward->bytes[i], chunk_tokens);
    }
    for (int i = 0; i < KVF_ACT_COUNT; i++)
        forward->act[i] = forward->buffers[i < KVF_ACT_KEPT ? i : KVF_ACT_KEPT] +
                          layout.offsets[i] / sizeof(float);
    return open_host_side(forward, &model->config, chunk_tokens, error);
}

kvf_status kvf_model_unchanged(const kvf_model *model, kvf_error *error)
{
    const char *path = kvf_tensor_set_config_path(model->files);
    kvf_status status = KVF_OK;
    if (path)
        status = kvf_file_check_unchanged(path, &model->config_file, error);
    return status == KVF_OK ? kvf_tensor_set_check_unchanged(model->files, error) : status;
}

kvf_status kvf_model_open(kvf_device *device, const char *path, kvf_tensor_set *files,
                          kvf_model **out, kvf_error *error)
{
    KVF_FP_DOOR();
    *out = NULL;
    kvf_model *model = calloc(1, sizeof *model);
    if (!model)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a model");
    model->device = device;
    model->files = files;
    kvf_status status = kvf_config_of(files, &model->config_file, &model->config, error);
    if (status == KVF_OK)
        status = kvf_weights_load(device, &model->config, path, files, &model->weights, error);
    /* What was read may have been zeros, and then so is what was wrong with it. */
    if (kvf_tensor_set_lost(files))
        status = kvf_tensor_set_check_lost(files, error);
    /* Halves of two files are no model. */
    if (status == KVF_OK)
        status = kvf_model_unchanged(model, error);
    if (status != KVF_OK) {
        kvf_model_free(model);
        return status;
    }
    *out = model;
    return kvf_ok(error);
}

kvf_status kvf_model_reserve(kvf_model *model, uint32_t chunk_tokens, kvf_error *error)
{
    KVF_FP_DOOR();
    if (chunk_tokens == 0 || chunk_tokens > 65536)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "a chunk of %u tokens; 1 to 65536 are served",
                        chunk_tokens);
    close_forward(model);
    const kvf_status status = open_forward(model, chunk_tokens, error);
    if (status != KVF_OK)
        close_forward(model);
    return status == KVF_OK ? kvf_ok(error) : status;
}

kvf_status kvf_model_load(kvf_device *device, const char *path, uint32_t chunk_tokens,
                          kvf_model **out, kvf_error *error)
{
    kvf_tensor_set *files;
    *out = NULL;
    kvf_status status = kvf_tensor_set_open(path, &files, error);
    if (status != KVF_OK)
        return status;
    status = kvf_model_open(device, path, files, out, error);
    if (status != KVF_OK) {
        kvf_tensor_set_close(files);
        return status;
    }
    (*out)->owns_files = true;
    status = kvf_model_reserve(*out, chunk_tokens, error);
    if (status != KVF_OK) {
        kvf_model_free(*out);
        *out = NULL;
    }
    return status;
}

void kvf_model_free(kvf_model *model)
{
    if (!model)
        return;
    close_forward(model);
    kvf_weights_free(&model->weights);
    kvf_file_unmap(&model->config_file);
    if (model->owns_files)
        kvf_tensor_set_close(model->files);
    free(model);
}

kvf_status kvf_model_open_session(kvf_model *model, const kvf_session_options *options,
                                  kvf_session **session, kvf_error *error)
{
    return kvf_session_open(model->device, &model->config.geometry, options, session, error);
}
