#include "model/fingerprint.h"

#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "error.h"

/* docs/FORMAT.md 10.6. */
enum { VERSION_FULL = 1, VERSION_SAMPLED = 2 };
/* Name, stored type, number of dimensions, data; the dimensions come besides. */
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

/* ---- Checksums of the data ------------------------------------------------------- */

/* docs/FORMAT.md 10.6. */
#define MAX_WHOLE_BYTES (UINT64_C(1) << 20)
#define MAX_ALL_WHOLE_BYTES (UINT64_C(256) << 20)
#define SAMPLE_BYTES UINT64_C(4096)
#define SAMPLE_EVERY_BYTES (UINT64_C(4) << 20)
/* Tensors whose samples are asked for before the first is read: a disk works on many at once. */
#define TENSORS_AHEAD 32

/*
 * Tensors up to so many bytes are read whole. DeepSeek's own form has 34,000 planes of scales of
 * 256 KiB, 9 GB in all: so less where the sum would be too long to read before a save.
 */
static uint64_t whole_bytes_of(const kvf_tensor_set *files)
{
    uint64_t limit = MAX_WHOLE_BYTES;
    for (; limit > SAMPLE_BYTES; limit /= 2) {
        uint64_t sum = 0;
        const kvf_tensor *tensor;
        for (uint32_t i = 0; (tensor = kvf_tensor_set_at(files, i)); i++)
            sum += tensor->bytes <= limit ? tensor->bytes : 0;
        if (sum <= MAX_ALL_WHOLE_BYTES)
            break;
    }
    return limit;
}

static uint64_t count_samples(uint64_t bytes)
{
    return 2 + bytes / SAMPLE_EVERY_BYTES;
}

/* floor(i * (bytes - 4096) / (n - 1)), in parts that do not overflow. */
static const char *sample_of(const kvf_tensor *tensor, uint64_t i)
{
    const uint64_t steps = count_samples(tensor->bytes) - 1;
    const uint64_t room = tensor->bytes - SAMPLE_BYTES;
    return (const char *)tensor->data + room / steps * i + room % steps * i / steps;
}

static void ask_for_samples(const kvf_tensor *tensor, uint64_t whole_bytes)
{
    if (tensor->bytes <= whole_bytes) {
        kvf_file_advise(tensor->data, tensor->bytes, KVF_ADVICE_WILL_NEED);
        return;
    }
    for (uint64_t i = 0; i < count_samples(tensor->bytes); i++)
        kvf_file_advise(sample_of(tensor, i), SAMPLE_BYTES, KVF_ADVICE_WILL_NEED);
}

static uint64_t sampled_checksum(const kvf_tensor *tensor, uint64_t whole_bytes)
{
    if (tensor->bytes <= whole_bytes)
        return kvf_checksum(tensor->data, tensor->bytes);
    kvf_checksum_state state;
    kvf_checksum_begin(&state);
    for (uint64_t i = 0; i < count_samples(tensor->bytes); i++)
        kvf_checksum_add(&state, sample_of(tensor, i), SAMPLE_BYTES);
    return kvf_checksum_of(&state);
}

typedef struct hash_work {
    const kvf_tensor_set *files;
    uint64_t whole_bytes; /* of sum_samples */
    uint64_t *sums;
} hash_work;

static void sum_samples(void *context, size_t first, size_t end, uint32_t thread)
{
    const hash_work *work = context;
    (void)thread;
    for (size_t i = first; i < end; i++)
        ask_for_samples(kvf_tensor_set_at(work->files, (uint32_t)i), work->whole_bytes);
    for (size_t i = first; i < end; i++)
        work->sums[i] =
            sampled_checksum(kvf_tensor_set_at(work->files, (uint32_t)i), work->whole_bytes);
}

static void sum_all(void *context, size_t first, size_t end, uint32_t thread)
{
    const hash_work *work = context;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        const kvf_tensor *tensor = kvf_tensor_set_at(work->files, (uint32_t)i);
        work->sums[i] = kvf_checksum(tensor->data, tensor->bytes);
    }
}

/* ---- The fingerprint ------------------------------------------------------------- */

static size_t count_numbers(const kvf_tensor_set *files, uint32_t *n_tensors)
{
    size_t n = 2;
    const kvf_tensor *tensor;
    for (*n_tensors = 0; (tensor = kvf_tensor_set_at(files, *n_tensors)); ++*n_tensors)
        n += NUMBERS_OF_TENSOR + tensor->n_dims;
    return n;
}

static uint64_t put_together(uint64_t version, const kvf_model_config *config,
                             const kvf_tensor_set *files, const uint64_t *sums, number_list *list)
{
    const kvf_tensor *tensor;
    add(list, version);
    add(list, kvf_config_checksum(config));
    for (uint32_t i = 0; (tensor = kvf_tensor_set_at(files, i)); i++) {
        add(list, text_checksum(tensor->name));
        add(list, text_checksum(kvf_stored_info_of(tensor->type)->name));
        add(list, tensor->n_dims);
        for (uint32_t j = 0; j < tensor->n_dims; j++)
            add(list, tensor->shape[j]);
        add(list, sums[i]);
    }
    const uint64_t fingerprint = kvf_checksum(list->numbers, list->n * sizeof(uint64_t));
    return fingerprint ? fingerprint : 1; /* 0 is for a model that is not known */
}

/* sums are made by the task where they are not given. */
static kvf_status make(uint64_t version, const kvf_model_config *config,
                       const kvf_tensor_set *files, kvf_device *device, kvf_task *task,
                       const uint64_t *sums, uint64_t *fingerprint, kvf_error *error)
{
    uint32_t n_tensors;
    const size_t n_numbers = count_numbers(files, &n_tensors);
    number_list list = {malloc((n_numbers + n_tensors) * sizeof(uint64_t)), 0};
    if (!list.numbers)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to fingerprint %u tensors", n_tensors);
    if (!sums) {
        hash_work work = {files, whole_bytes_of(files), list.numbers + n_numbers};
        kvf_device_run(device, n_tensors, task == sum_samples ? TENSORS_AHEAD : 1, task, &work);
        sums = work.sums;
    }
    *fingerprint = put_together(version, config, files, sums, &list);
    free(list.numbers);
    return kvf_ok(error);
}

kvf_status kvf_fingerprint(const kvf_model_config *config, const kvf_tensor_set *files,
                           kvf_device *device, uint64_t *fingerprint, kvf_error *error)
{
    return make(VERSION_SAMPLED, config, files, device, sum_samples, NULL, fingerprint, error);
}

kvf_status kvf_full_fingerprint(const kvf_model_config *config, const kvf_tensor_set *files,
                                kvf_device *device, uint64_t *fingerprint, kvf_error *error)
{
    return make(VERSION_FULL, config, files, device, sum_all, NULL, fingerprint, error);
}

kvf_status kvf_fingerprint_of_sums(const kvf_model_config *config, const kvf_tensor_set *files,
                                   const uint64_t *sums, uint64_t *fingerprint, kvf_error *error)
{
    return make(VERSION_FULL, config, files, NULL, NULL, sums, fingerprint, error);
}

/* ---- Which version a saved session carries ----------------------------------------- */

/* docs/FORMAT.md 10.7: behind the sampler and what the command keeps. */
#define VERSION_OFFSET 36

uint32_t kvf_fingerprint_version(const uint8_t caller_state[KVF_CALLER_STATE_BYTES])
{
    uint32_t version;
    memcpy(&version, caller_state + VERSION_OFFSET, sizeof version);
    return version ? version : VERSION_FULL;
}

void kvf_fingerprint_mark(uint8_t caller_state[KVF_CALLER_STATE_BYTES])
{
    const uint32_t version = VERSION_SAMPLED;
    memcpy(caller_state + VERSION_OFFSET, &version, sizeof version);
}
