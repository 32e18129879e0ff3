#include "model/weights.h"

#include "error.h"
#include "file/file.h"
#include "model/weight_names.h"
#include "shared/bf16.h"
#include "shared/half.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Finding the tensors --------------------------------------------------------- */

/* One tensor and the memory it is converted into. */
struct job {
    const kvf_tensor *tensor;
    kvf_weight_kind kind;
    uint64_t n_values;
    void *out;    /* f32 or i32 [n_values] */
    uint64_t bad; /* the first value that is refused; n_values: none */
};

struct loader {
    const kvf_model_config *config;
    kvf_weights *weights;
    const char *dir;
    kvf_error *error;
    struct job *jobs; /* [capacity], one a tensor of the files at most */
    size_t n_jobs;
    size_t n_tensors;
    bool *used; /* [n_tensors], by place in the file set */
};

/* "[24, 1024]" */
typedef struct shape_text {
    char text[192];
} shape_text;

static shape_text show_shape(uint32_t n_dims, const uint64_t *shape)
{
    shape_text shown;
    size_t used = (size_t)snprintf(shown.text, sizeof shown.text, "[");
    for (uint32_t i = 0; i < n_dims; i++) /* 8 dimensions of 20 digits fit */
        used += (size_t)snprintf(shown.text + used, sizeof shown.text - used, "%s%llu",
                                 i ? ", " : "", (unsigned long long)shape[i]);
    snprintf(shown.text + used, sizeof shown.text - used, "]");
    return shown;
}

static kvf_status check_dtype(const struct loader *loader, const kvf_tensor *tensor,
                              kvf_weight_kind kind)
{
    const bool is_map = kind == KVF_WEIGHT_MAP;
    const bool is_numbers = tensor->type == KVF_STORED_I64 || tensor->type == KVF_STORED_I32;
    const bool is_values = tensor->type == KVF_STORED_F32 || tensor->type == KVF_STORED_F16 ||
                           tensor->type == KVF_STORED_BF16;
    if (is_map ? is_numbers : is_values)
        return KVF_OK;
    /* Quantised formats are valid and not read yet; whole numbers as weights are neither. */
    return kvf_fail(loader->error, is_numbers || is_values ? KVF_FILE_FORMAT : KVF_UNSUPPORTED,
                    "%s: tensor \"%s\" has dtype %s; %s", kvf_printable(tensor->file).text,
                    kvf_printable(tensor->name).text, kvf_stored_info_of(tensor->type)->name,
                    is_map ? "I64 or I32 is needed" : "F32, F16 or BF16 is needed");
}

static kvf_status check_shape(const struct loader *loader, const kvf_tensor *tensor,
                              const kvf_weight *weight)
{
    bool same = tensor->n_dims == weight->n_dims;
    for (uint32_t i = 0; i < weight->n_dims && same; i++)
        same = tensor->shape[i] == weight->shape[i];
    if (same)
        return KVF_OK;
    return kvf_fail(loader->error, KVF_FILE_FORMAT,
                    "%s: tensor \"%s\" has shape %s; the config asks for %s",
                    kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                    show_shape(tensor->n_dims, tensor->shape).text,
                    show_shape(weight->n_dims, weight->shape).text);
}

/* Memory for one tensor, owned by the weights. There is room in blocks. */
static void *allocate(kvf_weights *weights, size_t bytes)
{
    void *block = kvf_device_alloc(weights->device, KVF_MEMORY_WEIGHT, bytes);
    if (!block)
        return NULL;
    weights->blocks[weights->n_blocks] = block;
    weights->block_bytes[weights->n_blocks++] = bytes;
    weights->device_bytes += bytes;
    return block;
}

static void store_target(const kvf_weight *weight, void *block)
{
    switch (weight->kind) {
    case KVF_WEIGHT_VALUES: *(const float **)weight->target = block; break;
    case KVF_WEIGHT_MAP: *(const int32_t **)weight->target = block; break;
    case KVF_WEIGHT_MATRIX:
        *(kvf_matrix *)weight->target =
            (kvf_matrix){block, (uint32_t)weight->shape[0], (uint32_t)weight->shape[1]};
        break;
    }
}

/* A kvf_weight_fn: finds, checks and lists one tensor. */
static kvf_status add_job(void *user, const kvf_weight *weight)
{
    struct loader *loader = user;
    kvf_weights *weights = loader->weights;
    const kvf_tensor *tensor = kvf_tensor_set_find(weights->files, weight->names[0]);
    if (!tensor)
        tensor = kvf_tensor_set_find(weights->files, weight->names[1]);
    if (!tensor)
        return kvf_fail(loader->error, KVF_FILE_FORMAT,
                        "%s: no tensor \"%s\" (nor \"%s\"); its shape would be %s",
                        kvf_printable(loader->dir).text, weight->names[1], weight->names[0],
                        show_shape(weight->n_dims, weight->shape).text);
    kvf_status status = check_dtype(loader, tensor, weight->kind);
    if (status == KVF_OK)
        status = check_shape(loader, tensor, weight);
    if (status != KVF_OK)
        return status;
    const uint64_t n_values = weight->shape[0] * weight->shape[1];
    void *block = allocate(weights, n_values * sizeof(float));
    if (!block)
        return kvf_fail(loader->error, KVF_OUT_OF_MEMORY,
                        "no memory on the device for %llu bytes of tensor \"%s\"",
                        (unsigned long long)(n_values * sizeof(float)),
                        kvf_printable(tensor->name).text);
    store_target(weight, block);
    loader->used[tensor - kvf_tensor_set_at(weights->files, 0)] = true;
    loader->jobs[loader->n_jobs++] = (struct job){tensor, weight->kind, n_values, block, n_values};
    return KVF_OK;
}

/* ---- Tensors that nobody asked for ------------------------------------------------ */

static bool ends_with(const char *text, const char *suffix)
{
    size_t text_bytes = strlen(text);
    size_t bytes = strlen(suffix);
    return text_bytes >= bytes && strcmp(text + text_bytes - bytes, suffix) == 0;
}

/* Before all else, so that a quantised checkpoint is called that and not incomplete. */
static kvf_status refuse_quantised(const struct loader *loader)
{
    for (uint32_t i = 0; i < loader->n_tensors; i++) {
        const kvf_tensor *tensor = kvf_tensor_set_at(loader->weights->files, i);
        if (kvf_weight_is_ignored(loader->config, tensor->name))
            continue;
        if (ends_with(tensor->name, ".scale") || ends_with(tensor->name, ".weight_scale_inv"))
            return kvf_fail(loader->error, KVF_UNSUPPORTED,
                            "%s: tensor \"%s\" is the scale of a quantised weight; FP8 and FP4 "
                            "weights are not read yet",
                            kvf_printable(tensor->file).text, kvf_printable(tensor->name).text);
    }
    return KVF_OK;
}

static kvf_status refuse_surplus(const struct loader *loader)
{
    for (uint32_t i = 0; i < loader->n_tensors; i++) {
        const kvf_tensor *tensor = kvf_tensor_set_at(loader->weights->files, i);
        if (!loader->used[i] && !kvf_weight_is_ignored(loader->config, tensor->name))
            return kvf_fail(loader->error, KVF_FILE_FORMAT,
                            "%s: tensor \"%s\" is not part of the model that the config describes",
                            kvf_printable(tensor->file).text, kvf_printable(tensor->name).text);
    }
    return KVF_OK;
}

/* ---- Conversion -------------------------------------------------------------------- */

/* Values of a tensor may lie at any address: they are read by memcpy. */
static uint16_t load_u16(const unsigned char *data, uint64_t i)
{
    uint16_t value;
    memcpy(&value, data + 2 * i, sizeof value);
    return value;
}

static uint32_t value_bits(kvf_stored_type dtype, const unsigned char *data, uint64_t i)
{
    uint32_t bits;
    switch (dtype) {
    case KVF_STORED_BF16: return kvf_bf16_decode(load_u16(data, i));
    case KVF_STORED_F16: return kvf_f16_decode(load_u16(data, i));
    default: memcpy(&bits, data + 4 * i, sizeof bits); return bits;
    }
}

static bool is_finite(uint32_t f32_bits)
{
    return (f32_bits & KVF_F32_MAGNITUDE_MASK) < KVF_F32_INFINITY;
}

static void convert_values(struct job *job)
{
    const unsigned char *data = job->tensor->data;
    const kvf_stored_type dtype = job->tensor->type;
    float *out = job->out;
    bool all_finite = true;
    for (uint64_t i = 0; i < job->n_values; i++) {
        uint32_t bits = value_bits(dtype, data, i);
        all_finite &= is_finite(bits);
        memcpy(&out[i], &bits, sizeof bits);
    }
    if (all_finite)
        return;
    job->bad = 0;
    while (is_finite(value_bits(dtype, data, job->bad)))
        job->bad++;
}

static void convert_map(struct job *job, uint32_t n_experts)
{
    const unsigned char *data = job->tensor->data;
    int32_t *out = job->out;
    for (uint64_t i = 0; i < job->n_values; i++) {
        int64_t wide = 0;
        int32_t narrow = 0;
        if (job->tensor->type == KVF_STORED_I64) {
            memcpy(&wide, data + 8 * i, sizeof wide);
        } else {
            memcpy(&narrow, data + 4 * i, sizeof narrow);
            wide = narrow;
        }
        if (wide < 0 || wide >= n_experts) {
            job->bad = i;
            return;
        }
        out[i] = (int32_t)wide;
    }
}

static void convert_jobs(void *context, size_t first, size_t end, uint32_t thread)
{
    const struct loader *loader = context;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        if (loader->jobs[i].kind == KVF_WEIGHT_MAP)
            convert_map(&loader->jobs[i], loader->config->n_experts);
        else
            convert_values(&loader->jobs[i]);
    }
}

static kvf_status convert(struct loader *loader)
{
    const size_t n = loader->n_jobs;
    kvf_device_run(loader->weights->device, n, 1, convert_jobs, loader);
    for (size_t i = 0; i < n; i++) { /* in order, so that the message does not depend on threads */
        const struct job *job = &loader->jobs[i];
        if (job->bad < job->n_values)
            return kvf_fail(loader->error, KVF_FILE_FORMAT, "%s: tensor \"%s\": value %llu is %s",
                            kvf_printable(job->tensor->file).text,
                            kvf_printable(job->tensor->name).text, (unsigned long long)job->bad,
                            job->kind == KVF_WEIGHT_MAP ? "not the number of an expert"
                                                        : "not finite");
    }
    return KVF_OK;
}

/* ---- Loading ------------------------------------------------------------------------ */

static size_t count_tensors(const kvf_tensor_set *files)
{
    uint32_t n = 0;
    while (kvf_tensor_set_at(files, n))
        n++;
    return n;
}

/* Host memory whose size the config and the files decide. */
static kvf_status make_room(struct loader *loader)
{
    kvf_weights *weights = loader->weights;
    const uint32_t n_layers = loader->config->geometry.n_layers;
    const size_t n = loader->n_tensors = count_tensors(weights->files);
    weights->layers = calloc(n_layers, sizeof *weights->layers);
    weights->blocks = calloc(n + 1, sizeof *weights->blocks);
    weights->block_bytes = calloc(n + 1, sizeof *weights->block_bytes);
    loader->jobs = calloc(n + 1, sizeof *loader->jobs);
    loader->used = calloc(n + 1, sizeof *loader->used);
    bool enough =
        weights->layers && weights->blocks && weights->block_bytes && loader->jobs && loader->used;
    for (uint32_t i = 0; i < n_layers && enough; i++) {
        weights->layers[i].routed = calloc(loader->config->n_experts, sizeof(kvf_expert_weights));
        enough = weights->layers[i].routed != NULL;
    }
    return enough ? KVF_OK
                  : kvf_fail(loader->error, KVF_OUT_OF_MEMORY, "%s: no memory for %zu tensors",
                             kvf_printable(loader->dir).text, n);
}

static kvf_status load(struct loader *loader)
{
    kvf_weights *weights = loader->weights;
    kvf_status status = make_room(loader);
    if (status == KVF_OK)
        status = refuse_quantised(loader);
    if (status == KVF_OK)
        status = kvf_weight_walk(loader->config, weights, add_job, loader);
    if (status == KVF_OK)
        status = refuse_surplus(loader);
    if (status == KVF_OK)
        status = convert(loader);
    if (loader->config->tied_embeddings)
        weights->head = weights->embed;
    return status;
}

kvf_status kvf_weights_load(kvf_device *device, const kvf_model_config *config, const char *dir,
                            kvf_weights *weights, kvf_error *error)
{
    *weights = (kvf_weights){.device = device};
    kvf_status status = kvf_tensor_set_open(dir, &weights->files, error);
    if (status != KVF_OK)
        return status;
    weights->mapped_bytes = kvf_tensor_set_mapped_bytes(weights->files);
    struct loader loader = {.config = config, .weights = weights, .dir = dir, .error = error};
    weights->n_layers = config->geometry.n_layers;
    status = load(&loader);
    free(loader.jobs);
    free(loader.used);
    if (status != KVF_OK) {
        kvf_weights_free(weights);
        return status;
    }
    return kvf_ok(error);
}

void kvf_weights_free(kvf_weights *weights)
{
    for (size_t i = 0; i < weights->n_blocks; i++)
        kvf_device_release(weights->device, KVF_MEMORY_WEIGHT, weights->blocks[i],
                           weights->block_bytes[i]);
    for (uint32_t i = 0; weights->layers && i < weights->n_layers; i++)
        free(weights->layers[i].routed);
    free(weights->layers);
    free(weights->blocks);
    free(weights->block_bytes);
    kvf_tensor_set_close(weights->files);
    *weights = (kvf_weights){0};
}
