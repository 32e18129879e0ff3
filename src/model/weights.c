#include "model/weights.h"

#include "error.h"
#include "file/tensor_set.h"
#include "model/weight_map.h"
#include "model/weight_source.h"
#include "shared/bf16.h"
#include "shared/half.h"

#include <stdlib.h>
#include <string.h>

/* ---- Finding the tensors --------------------------------------------------------- */

/* One tensor, or an expert's part of one, and the memory that it is copied to. */
struct job {
    kvf_weight_place place;
    kvf_tensor_kind kind;
    uint64_t n_values;
    void *out;          /* f32 or i32 [n_values] */
    uint64_t bad;       /* the first value that is refused; n_values: none */
    const void *stored; /* not NULL: so many bytes are copied as they are */
    size_t bytes;
};

struct loader {
    const kvf_model_config *config;
    kvf_weights *weights;
    const char *path;
    kvf_error *error;
    struct job *jobs; /* two a weight of the config at most: a matrix has two planes */
    size_t n_jobs;
    kvf_host_part *parts; /* of matrices that stay in the files, as many at most */
    size_t n_parts;
    size_t n_tensors; /* of the files */
    bool *used;       /* [n_tensors], by place in the file set */
};

static void mark_used(struct loader *loader, const kvf_tensor *tensor)
{
    if (tensor)
        loader->used[tensor - kvf_tensor_set_at(loader->weights->files, 0)] = true;
}

/* Memory for a copy, which the weights own. */
static kvf_status add_block(struct loader *loader, const kvf_weight_place *place, size_t bytes,
                            void **copy)
{
    kvf_weights *weights = loader->weights;
    *copy = kvf_device_alloc(weights->device, KVF_MEMORY_WEIGHT, KVF_PLACE_DEVICE, bytes);
    if (!*copy)
        return kvf_fail(loader->error, KVF_OUT_OF_MEMORY,
                        "no memory on the device for %zu bytes of tensor \"%s\"", bytes,
                        kvf_printable(place->tensor->name).text);
    weights->blocks[weights->n_blocks] = *copy;
    weights->block_bytes[weights->n_blocks++] = bytes;
    weights->device_bytes += bytes;
    return KVF_OK;
}

/* Lists a copy of a tensor as 4 bytes a value. */
static kvf_status add_copy(struct loader *loader, const kvf_weight *weight,
                           const kvf_weight_place *place, void **copy)
{
    const uint64_t n_values = weight->shape[0] * weight->shape[1];
    const size_t bytes = n_values * sizeof(float);
    const kvf_status status = add_block(loader, place, bytes, copy);
    if (status == KVF_OK)
        loader->jobs[loader->n_jobs++] =
            (struct job){*place, weight->kind, n_values, *copy, n_values, NULL, bytes};
    return status;
}

/* Lists a copy of one plane of a matrix as it is; *plane becomes that copy's. */
static kvf_status add_plane(struct loader *loader, const kvf_weight_place *place,
                            const void **plane, uint64_t bytes)
{
    void *copy;
    const kvf_status status = add_block(loader, place, bytes, &copy);
    if (status != KVF_OK)
        return status;
    loader->jobs[loader->n_jobs++] =
        (struct job){.place = *place, .out = copy, .stored = *plane, .bytes = bytes};
    *plane = copy;
    return KVF_OK;
}

/* Bytes of both planes as they are stored, with the gaps that rows may have between them. */
static void measure_planes(const kvf_matrix *matrix, uint64_t *bytes, uint64_t *scale_bytes)
{
    const kvf_weight_type *type = kvf_weight_get(matrix->type);
    const kvf_weight_scales scales = kvf_weight_scales_of(type, matrix->rows, matrix->cols);
    *bytes = (matrix->rows - 1) * matrix->row_bytes + kvf_weight_row_bytes(type, matrix->cols);
    *scale_bytes =
        scales.rows ? (uint64_t)(scales.rows - 1) * matrix->scale_stride + scales.stride_bytes : 0;
}

static kvf_status add_stored(struct loader *loader, const kvf_weight_place *place,
                             kvf_matrix *target)
{
    uint64_t bytes;
    uint64_t scale_bytes;
    measure_planes(target, &bytes, &scale_bytes);
    const kvf_status status = add_plane(loader, place, &target->data, bytes);
    return status == KVF_OK && scale_bytes ? add_plane(loader, place, &target->scales, scale_bytes)
                                           : status;
}

/* Lists both planes for the device to map. */
static void add_mapped(struct loader *loader, const kvf_matrix *matrix)
{
    uint64_t bytes;
    uint64_t scale_bytes;
    measure_planes(matrix, &bytes, &scale_bytes);
    loader->parts[loader->n_parts++] = (kvf_host_part){matrix->data, bytes};
    if (scale_bytes)
        loader->parts[loader->n_parts++] = (kvf_host_part){matrix->scales, scale_bytes};
}

/*
 * A matrix stays where it lies in the file, or is copied as it is stored, if the backend takes
 * it so.
 */
static kvf_status add_matrix(struct loader *loader, const kvf_weight *weight,
                             const kvf_weight_place *place)
{
    kvf_matrix *target = weight->target;
    void *copy;
    *target = place->matrix;
    if (loader->weights->device->backend->map)
        add_mapped(loader, target);
    if (kvf_backend_maps_weights(loader->weights->device->backend))
        return KVF_OK;
    if (loader->weights->device->backend->takes_stored_weights)
        return add_stored(loader, place, target);
    const kvf_status status = add_copy(loader, weight, place, &copy);
    *target = kvf_matrix_of_f32(copy, place->matrix.rows, place->matrix.cols);
    return status;
}

/* A kvf_weight_fn: finds, checks and lists one weight. */
static kvf_status add_weight(void *user, const kvf_weight *weight)
{
    struct loader *loader = user;
    kvf_weight_place place;
    void *copy;
    kvf_status status =
        kvf_weight_locate(loader->weights->files, loader->path, weight, &place, loader->error);
    if (status != KVF_OK)
        return status;
    mark_used(loader, place.tensor);
    mark_used(loader, place.scales);
    if (weight->kind == KVF_TENSOR_MATRIX)
        return add_matrix(loader, weight, &place);
    status = add_copy(loader, weight, &place, &copy);
    if (weight->kind == KVF_TENSOR_MAP)
        *(const int32_t **)weight->target = copy;
    else
        *(const float **)weight->target = copy;
    return status;
}

/* ---- Tensors that nobody asked for ------------------------------------------------ */

static bool ends_with(const char *text, const char *suffix)
{
    const size_t text_bytes = strlen(text);
    const size_t bytes = strlen(suffix);
    return text_bytes >= bytes && strcmp(text + text_bytes - bytes, suffix) == 0;
}

/* A config with fewer layers than there are would give answers of half a model. */
static kvf_status refuse_more_layers(const struct loader *loader)
{
    const kvf_tensor *any = NULL;
    for (uint32_t i = 0; i < loader->n_tensors; i++) {
        const kvf_tensor *tensor = kvf_tensor_set_at(loader->weights->files, i);
        const kvf_next_layer next = kvf_weight_next_layer(loader->config, tensor->name);
        if (next == KVF_NEXT_PREDICTS)
            return KVF_OK;
        if (next == KVF_NEXT_LAYER && !any)
            any = tensor;
    }
    if (!any)
        return KVF_OK;
    return kvf_fail(loader->error, KVF_FILE_FORMAT,
                    "%s: tensor \"%s\" is of one layer more than the %u that the config says there "
                    "are, and that layer is none that predicts further tokens",
                    kvf_printable(any->file).text, kvf_printable(any->name).text,
                    loader->config->geometry.n_layers);
}

static kvf_status refuse_surplus(const struct loader *loader)
{
    for (uint32_t i = 0; i < loader->n_tensors; i++) {
        const kvf_tensor *tensor = kvf_tensor_set_at(loader->weights->files, i);
        if (loader->used[i] || kvf_weight_is_ignored(loader->config, tensor->name))
            continue;
        if (ends_with(tensor->name, ".weight_scale_inv"))
            return kvf_fail(loader->error, KVF_UNSUPPORTED,
                            "%s: tensor \"%s\": scales of this name are not read; DeepSeek's own "
                            "are called .scale",
                            kvf_printable(tensor->file).text, kvf_printable(tensor->name).text);
        return kvf_fail(loader->error, KVF_FILE_FORMAT,
                        "%s: tensor \"%s\" is not part of the model that the config describes",
                        kvf_printable(tensor->file).text, kvf_printable(tensor->name).text);
    }
    return refuse_more_layers(loader);
}

/* ---- Copies ------------------------------------------------------------------------ */

/* Values of a tensor may lie at any address: they are read by memcpy. */
static uint16_t load_u16(const unsigned char *data, uint64_t i)
{
    uint16_t value;
    memcpy(&value, data + 2 * i, sizeof value);
    return value;
}

static uint32_t value_bits(kvf_stored_type type, const unsigned char *data, uint64_t i)
{
    uint32_t bits;
    switch (type) {
    case KVF_STORED_BF16: return kvf_bf16_decode(load_u16(data, i));
    case KVF_STORED_F16: return kvf_f16_decode(load_u16(data, i));
    default: memcpy(&bits, data + 4 * i, sizeof bits); return bits;
    }
}

static bool is_finite(uint32_t f32_bits)
{
    return (f32_bits & KVF_F32_MAGNITUDE_MASK) < KVF_F32_INFINITY;
}

static void copy_values(struct job *job)
{
    float *out = job->out;
    for (uint64_t i = 0; i < job->n_values; i++) {
        const uint32_t bits = value_bits(job->place.tensor->type, job->place.data, i);
        memcpy(&out[i], &bits, sizeof bits);
        if (!is_finite(bits) && job->bad == job->n_values)
            job->bad = i;
    }
}

static void copy_matrix(struct job *job)
{
    const kvf_matrix *matrix = &job->place.matrix;
    for (uint32_t row = 0; row < matrix->rows; row++) {
        float *out = (float *)job->out + (uint64_t)row * matrix->cols;
        kvf_weight_get(matrix->type)->decode(matrix, row, out);
        for (uint32_t i = 0; i < matrix->cols; i++)
            if (!is_finite(kvf_bits_of(out[i])) && job->bad == job->n_values)
                job->bad = (uint64_t)row * matrix->cols + i;
    }
}

static void copy_map(struct job *job, uint32_t n_experts)
{
    const unsigned char *data = job->place.data;
    int32_t *out = job->out;
    for (uint64_t i = 0; i < job->n_values; i++) {
        int64_t wide = 0;
        int32_t narrow = 0;
        if (job->place.tensor->type == KVF_STORED_I64) {
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

static void copy_job(struct job *job, uint32_t n_experts)
{
    switch (job->kind) {
    case KVF_TENSOR_VALUES: copy_values(job); break;
    case KVF_TENSOR_MATRIX: copy_matrix(job); break;
    case KVF_TENSOR_MAP: copy_map(job, n_experts); break;
    }
}

static void copy_jobs(void *context, size_t first, size_t end, uint32_t thread)
{
    const struct loader *loader = context;
    (void)thread;
    for (size_t i = first; i < end; i++)
        copy_job(&loader->jobs[i], loader->config->n_experts);
}

/* Where the host does not address the device's memory: by way of its own, one after another. */
static kvf_status send_jobs(struct loader *loader)
{
    kvf_device *device = loader->weights->device;
    for (size_t i = 0; i < loader->n_jobs; i++) {
        struct job *job = &loader->jobs[i];
        void *on_device = job->out;
        if (job->stored) {
            device->backend->write(device, on_device, job->stored, job->bytes);
            continue;
        }
        job->out = malloc(job->bytes);
        if (!job->out)
            return kvf_fail(loader->error, KVF_OUT_OF_MEMORY, "no memory to copy tensor \"%s\"",
                            kvf_printable(job->place.tensor->name).text);
        copy_job(job, loader->config->n_experts);
        device->backend->write(device, on_device, job->out, job->bytes);
        free(job->out);
        job->out = on_device;
    }
    return device->backend->wait(device, loader->error);
}

static void advise_files(const kvf_tensor_set *files, kvf_file_advice advice)
{
    const kvf_tensor_file *file;
    for (uint32_t i = 0; (file = kvf_tensor_set_file(files, i)); i++)
        kvf_file_advise(file->map.data, file->map.bytes, advice);
}

/*
 * Vectors lie among matrices that nobody reads yet: where the system reads ahead at each of
 * them, it brings in gigabytes of a large checkpoint. So all are asked for at once, each alone.
 * A backend that copies its matrices reads nearly everything, upwards.
 */
static void advise_copies(const struct loader *loader)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < loader->n_jobs; i++)
        bytes += loader->jobs[i].place.bytes;
    if (bytes > kvf_tensor_set_mapped_bytes(loader->weights->files) / 2) {
        advise_files(loader->weights->files, KVF_ADVICE_SEQUENTIAL);
        return;
    }
    advise_files(loader->weights->files, KVF_ADVICE_RANDOM);
    for (size_t i = 0; i < loader->n_jobs; i++)
        kvf_file_advise(loader->jobs[i].place.data, loader->jobs[i].place.bytes,
                        KVF_ADVICE_WILL_NEED);
}

static kvf_status copy_all(struct loader *loader)
{
    const size_t n = loader->n_jobs;
    kvf_status status = KVF_OK;
    advise_copies(loader);
    if (loader->weights->device->backend->addresses_host_memory)
        kvf_device_run(loader->weights->device, n, 1, copy_jobs, loader);
    else
        status = send_jobs(loader);
    advise_files(loader->weights->files, KVF_ADVICE_NORMAL);
    if (status != KVF_OK)
        return status;
    for (size_t i = 0; i < n; i++) { /* in order, so that the message does not depend on threads */
        const struct job *job = &loader->jobs[i];
        if (job->bad < job->n_values)
            return kvf_fail(
                loader->error, KVF_FILE_FORMAT, "%s: tensor \"%s\": value %llu is %s",
                kvf_printable(job->place.tensor->file).text,
                kvf_printable(job->place.tensor->name).text, (unsigned long long)job->bad,
                job->kind == KVF_TENSOR_MAP ? "not the number of an expert" : "not finite");
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

/* A kvf_weight_fn. */
static kvf_status count_weight(void *user, const kvf_weight *weight)
{
    (void)weight;
    ++*(size_t *)user;
    return KVF_OK;
}

/* Host memory whose size the config and the files decide. */
static kvf_status make_room(struct loader *loader)
{
    kvf_weights *weights = loader->weights;
    const uint32_t n_layers = loader->config->geometry.n_layers;
    size_t n = 0; /* copies at most */
    kvf_weight_walk(loader->config, NULL, count_weight, &n);
    loader->n_tensors = count_tensors(weights->files);
    weights->layers = calloc(n_layers, sizeof *weights->layers);
    weights->blocks = calloc(2 * n + 1, sizeof *weights->blocks);
    weights->block_bytes = calloc(2 * n + 1, sizeof *weights->block_bytes);
    loader->jobs = calloc(2 * n + 1, sizeof *loader->jobs);
    loader->parts = calloc(2 * n + 1, sizeof *loader->parts);
    loader->used = calloc(loader->n_tensors + 1, sizeof *loader->used);
    bool enough = weights->layers && weights->blocks && weights->block_bytes && loader->jobs &&
                  loader->parts && loader->used;
    for (uint32_t i = 0; i < n_layers && enough; i++) {
        weights->layers[i].routed = calloc(loader->config->n_experts, sizeof(kvf_expert_weights));
        enough = weights->layers[i].routed != NULL;
    }
    return enough ? KVF_OK
                  : kvf_fail(loader->error, KVF_OUT_OF_MEMORY, "%s: no memory for %zu tensors",
                             kvf_printable(loader->path).text, n);
}

static kvf_status load(struct loader *loader)
{
    kvf_weights *weights = loader->weights;
    kvf_status status = make_room(loader);
    if (status == KVF_OK)
        status = kvf_weight_walk(loader->config, weights, add_weight, loader);
    if (status == KVF_OK)
        status = refuse_surplus(loader);
    if (status == KVF_OK && loader->n_parts > 0)
        status = kvf_weight_map(weights->device, weights->files, loader->parts, loader->n_parts,
                                loader->error);
    if (status == KVF_OK)
        status = copy_all(loader);
    if (loader->config->tied_embeddings)
        weights->head = weights->embed;
    return status;
}

kvf_status kvf_weights_load(kvf_device *device, const kvf_model_config *config, const char *path,
                            kvf_tensor_set *files, kvf_weights *weights, kvf_error *error)
{
    *weights = (kvf_weights){.device = device, .files = files};
    weights->n_layers = config->geometry.n_layers;
    struct loader loader = {.config = config, .weights = weights, .path = path, .error = error};
    const kvf_status status = load(&loader);
    free(loader.jobs);
    free(loader.parts);
    free(loader.used);
    if (status != KVF_OK) {
        kvf_weights_free(weights);
        return status;
    }
    return kvf_ok(error);
}

void kvf_weights_free(kvf_weights *weights)
{
    if (weights->files)
        kvf_weight_unmap(weights->device, weights->files);
    for (size_t i = 0; i < weights->n_blocks; i++)
        kvf_device_release(weights->device, KVF_MEMORY_WEIGHT, weights->blocks[i],
                           weights->block_bytes[i]);
    for (uint32_t i = 0; weights->layers && i < weights->n_layers; i++)
        free(weights->layers[i].routed);
    free(weights->layers);
    free(weights->blocks);
    free(weights->block_bytes);
    *weights = (kvf_weights){0};
}
