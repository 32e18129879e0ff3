/* What a host needs of logits to draw tokens from them: sample.metal. */
#include <string.h>

#include "backend/gpu/gpu.h"

static_assert(KVF_TOP_THREADS >= KVF_SAMPLED_MOST, "a thread a token that is given");

/* Where things lie in what goes to the GPU: the rows, then what they point to. */
#define ALIGNMENT_BYTES 16

static size_t padded(size_t bytes)
{
    return (bytes + ALIGNMENT_BYTES - 1) / ALIGNMENT_BYTES * ALIGNMENT_BYTES;
}

static size_t mask_bytes(const kvf_logit_changes *changes, uint32_t vocab)
{
    return changes->allowed ? (size_t)kvf_gpu_pieces(vocab, 32) * sizeof *changes->allowed : 0;
}

static size_t lists_bytes(const kvf_sample_args *args)
{
    size_t bytes = padded(args->n * sizeof(kvf_sample_kernel_row));
    for (uint32_t i = 0; i < args->n; i++) {
        const kvf_logit_changes *changes = args->rows[i].changes;
        if (changes)
            bytes += padded(changes->n_uses * sizeof *changes->uses) +
                     padded(changes->n_bias * sizeof *changes->bias) +
                     padded(mask_bytes(changes, args->vocab));
    }
    return bytes;
}

/* What is on its way: the host's address of its next byte, and the GPU's. */
struct way {
    uint8_t *host;
    uint64_t there;
};

/* The GPU's address of a copy; 0: of nothing. */
static uint64_t send(struct way *way, const void *data, size_t bytes)
{
    const uint64_t there = way->there;
    if (bytes == 0)
        return 0;
    memcpy(way->host, data, bytes);
    way->host += padded(bytes);
    way->there += padded(bytes);
    return there;
}

static kvf_sample_kernel_row send_row(struct way *way, const kvf_sample_row *row, uint32_t vocab)
{
    const kvf_logit_changes *changes = row->changes;
    if (!changes)
        return (kvf_sample_kernel_row){.temperature = row->temperature};
    return (kvf_sample_kernel_row){
        .uses = send(way, changes->uses, changes->n_uses * sizeof *changes->uses),
        .bias = send(way, changes->bias, changes->n_bias * sizeof *changes->bias),
        .allowed = send(way, changes->allowed, mask_bytes(changes, vocab)),
        .n_uses = changes->n_uses,
        .n_bias = changes->n_bias,
        .repeat_penalty = changes->repeat_penalty,
        .presence_penalty = changes->presence_penalty,
        .frequency_penalty = changes->frequency_penalty,
        .temperature = row->temperature,
        .has_changes = 1};
}

/* The rows with their lists on the GPU; 0: the device is lost, or has no memory. */
static uint64_t send_rows(kvf_gpu_device *gpu, const kvf_sample_args *args)
{
    const size_t rows_bytes = padded(args->n * sizeof(kvf_sample_kernel_row));
    uint64_t there;
    uint8_t *host = kvf_gpu_stage(gpu, lists_bytes(args), &there);
    if (!host)
        return 0;
    struct way way = {host + rows_bytes, there + rows_bytes};
    for (uint32_t i = 0; i < args->n; i++) {
        const kvf_sample_kernel_row row = send_row(&way, &args->rows[i], args->vocab);
        memcpy(host + i * sizeof row, &row, sizeof row);
    }
    return there;
}

void kvf_gpu_sample(kvf_device *device, const kvf_sample_args *args)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const uint32_t n_parts = kvf_gpu_pieces(args->vocab, KVF_SAMPLE_PART_VALUES);
    const size_t n_slots = (size_t)args->n * n_parts;
    const size_t list_bytes = n_slots * KVF_SAMPLED_MOST * sizeof(uint32_t);
    if (args->n == 0)
        return;
    kvf_sample_kernel_args k = {.logits = kvf_gpu_at(gpu, args->logits),
                                .changed = kvf_gpu_at(gpu, args->changed),
                                .rows = send_rows(gpu, args),
                                .out = kvf_gpu_at(gpu, args->out),
                                .vocab = args->vocab,
                                .n_parts = n_parts};
    k.orders = kvf_gpu_scratch(gpu, 2 * list_bytes +
                                        n_slots * (sizeof(kvf_sample_part) + sizeof(uint32_t)));
    k.ids = k.orders + list_bytes;
    k.parts = k.ids + list_bytes;
    k.counts = k.parts + n_slots * sizeof(kvf_sample_part);
    kvf_gpu_call call = {.kernel = KVF_KERNEL_sample_parts,
                         .groups = {args->n, n_parts, 1},
                         .threads = KVF_TOP_THREADS,
                         KVF_GPU_ARGUMENTS(k),
                         .threadgroup_bytes = {KVF_TOP_BYTES, KVF_SAMPLE_WORK_BYTES}};
    kvf_gpu_run(gpu, &call);
    call.kernel = KVF_KERNEL_sample_merge;
    call.groups[1] = 1;
    call.threadgroup_bytes[1] = KVF_SAMPLE_LIST_BYTES;
    kvf_gpu_run(gpu, &call);
}
