#include "model/fingerprint.h"

#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "error.h"

#define FINGERPRINT_VERSION 1
/* Name, dtype, number of dimensions, data; the dimensions come besides. */
#define NUMBERS_OF_TENSOR 4

/* A list of u64 under construction. */
typedef struct number_list {
    uint64_t *numbers;
    size_t n;
} number_list;

static void add(number_list *list, uint64_t number)
{
    list->numbers[list->n++] = number;
}

static void add_f64(number_list *list, double number)
{
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    add(list, bits);
}

static void add_rope(number_list *list, const kvf_rope_config *rope)
{
    add_f64(list, rope->theta);
    add(list, rope->yarn);
    add_f64(list, rope->factor);
    add_f64(list, rope->beta_fast);
    add_f64(list, rope->beta_slow);
    add_f64(list, rope->original_max_tokens);
}

/* What decides a result: not the longest context, not the ids that end a text. */
uint64_t kvf_config_checksum(const kvf_model_config *config)
{
    uint64_t numbers[40 + 3 * KVF_MAX_LAYERS];
    const kvf_geometry *geometry = &config->geometry;
    const uint64_t integers[] = {
        config->hidden,          config->q_rank,         config->n_out_groups,
        config->out_rank,        config->n_streams,      config->sinkhorn_rounds,
        config->n_experts,       config->n_experts_used, config->n_shared_experts,
        config->expert_ffn,      config->norm_top_k,     config->tied_embeddings,
        geometry->n_layers,      geometry->vocab,        geometry->n_heads,
        geometry->n_index_heads, geometry->top_k,        geometry->window_tokens};
    number_list list = {numbers, 0};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
        add(&list, integers[i]);
    for (uint32_t i = 0; i < geometry->n_layers; i++) {
        add(&list, geometry->layers[i].kind);
        add(&list, geometry->layers[i].ratio);
        add(&list, config->hash_routed[i]);
    }
    add_f64(&list, config->hc_eps);
    add_f64(&list, config->norm_eps);
    add_f64(&list, config->swiglu_limit);
    add_f64(&list, config->routed_scaling);
    add_rope(&list, &config->rope_window);
    add_rope(&list, &config->rope_compress);
    return kvf_checksum(numbers, list.n * sizeof *numbers);
}

static uint64_t text_checksum(const char *text)
{
    return kvf_checksum(text, strlen(text));
}

static size_t count_numbers(const kvf_tensor_set *files, uint32_t *n_tensors)
{
    size_t n = 2;
    const kvf_tensor *tensor;
    for (*n_tensors = 0; (tensor = kvf_tensor_set_at(files, *n_tensors)); ++*n_tensors)
        n += NUMBERS_OF_TENSOR + tensor->n_dims;
    return n;
}

typedef struct hash_work {
    const kvf_tensor_set *files;
    uint64_t *hashes;
} hash_work;

/* The data of tensors, which is nearly all of the work. */
static void hash_tensors(void *context, size_t first, size_t end, uint32_t thread)
{
    const hash_work *work = context;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        const kvf_tensor *tensor = kvf_tensor_set_at(work->files, (uint32_t)i);
        work->hashes[i] = kvf_checksum(tensor->data, tensor->bytes);
    }
}

kvf_status kvf_fingerprint(const kvf_model_config *config, const kvf_tensor_set *files,
                           kvf_device *device, uint64_t *fingerprint, kvf_error *error)
{
    uint32_t n_tensors;
    const size_t n_numbers = count_numbers(files, &n_tensors);
    number_list list = {malloc((n_numbers + n_tensors) * sizeof(uint64_t)), 0};
    if (!list.numbers)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to fingerprint %u tensors", n_tensors);
    uint64_t *hashes = list.numbers + n_numbers;
    hash_work work = {files, hashes};
    kvf_device_run(device, n_tensors, 1, hash_tensors, &work);
    add(&list, FINGERPRINT_VERSION);
    add(&list, kvf_config_checksum(config));
    for (uint32_t i = 0; i < n_tensors; i++) {
        const kvf_tensor *tensor = kvf_tensor_set_at(files, i);
        add(&list, text_checksum(tensor->name));
        add(&list, text_checksum(kvf_stored_info_of(tensor->type)->name));
        add(&list, tensor->n_dims);
        for (uint32_t j = 0; j < tensor->n_dims; j++)
            add(&list, tensor->shape[j]);
        add(&list, hashes[i]);
    }
    *fingerprint = kvf_checksum(list.numbers, list.n * sizeof(uint64_t));
    if (*fingerprint == 0)
        *fingerprint = 1; /* 0 is for a model that is not known */
    free(list.numbers);
    return kvf_ok(error);
}
