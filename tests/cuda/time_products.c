/*
 * Products of a few tokens with weights as they are stored, at V4-Flash's widths, against what the
 * GPU's memory gives in a large copy.
 *
 *     time_products [--cached | --apart] [ISA..]      by default the GPU's best one, then generic
 *
 * With --cached all products have the same weights, so that those of most types come from the
 * cache: what their decoding takes. Experts are left out. With --apart no kernel begins before the
 * one before it has ended.
 *
 * A time is that of one graph of many products, none of which has weights that another has and that
 * could still be in the cache, over their number: so the time of a launch is in it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/gpu/cuda/cuda.h"

enum {
    RANDOM_BYTES = 64 << 20,
    POOL_BYTES = 1536 << 20, /* of all weights; several times any cache */
    LAUNCHES = 24,
    REPLAYS = 20,
    MOST_TOKENS = 4,
    MOST_VALUES = 1 << 20, /* of inputs and of outputs */
    HIDDEN = 4096,
    FFN = 2048,
    EXPERTS = 48,
    TOP_K = 6
};

static const kvf_weight_id types[] = {
    KVF_WEIGHT_F32, KVF_WEIGHT_BF16,  KVF_WEIGHT_F16,  KVF_WEIGHT_FP8_E8M0, KVF_WEIGHT_Q8_0,
    KVF_WEIGHT_FP4, KVF_WEIGHT_MXFP4, KVF_WEIGHT_Q4_K, KVF_WEIGHT_Q2_K,     KVF_WEIGHT_IQ2_XXS};

/* A device, and what all products on it read and write. */
struct bench {
    kvf_device *device;
    uint8_t *pool;
    size_t used;
    float *in, *out, *workspace;
    int32_t *experts;
    float *weights;
    double copy_rate;
    bool cached;
};

static void need(kvf_status status, const kvf_error *error)
{
    if (status == KVF_OK)
        return;
    fprintf(stderr, "%s\n", error->message);
    exit(1);
}

static uint32_t next_random(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}

static void *there(kvf_device *device, size_t bytes)
{
    void *memory = kvf_device_alloc(device, KVF_MEMORY_WEIGHT, KVF_PLACE_DEVICE, bytes);
    if (!memory) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return memory;
}

/* Bytes that give numbers whatever the type is: scales of f16 below 1, codes of any kind. */
static void fill(kvf_device *device, void *to, size_t bytes, uint32_t mask)
{
    const size_t some = bytes < RANDOM_BYTES ? bytes : RANDOM_BYTES;
    kvf_error error;
    uint32_t *words = malloc(some);
    for (size_t i = 0; words && i < some / 4; i++)
        words[i] = (next_random() | next_random() << 31) & mask;
    if (words)
        device->backend->write(device, to, words, some);
    for (size_t done = some; done < bytes; done += some)
        device->backend->copy(device, (uint8_t *)to + done, to,
                              bytes - done < some ? bytes - done : some);
    need(device->backend->wait(device, &error), &error);
    free(words);
}

static void open_bench(struct bench *b, const char *isa, bool cached)
{
    kvf_error error;
    *b = (struct bench){.cached = cached};
    need(kvf_device_open(&(kvf_device_options){.backend = "cuda", .isa = isa}, &b->device, &error),
         &error);
    b->copy_rate = kvf_cuda_copy_rate((size_t)1 << 30);
    b->pool = there(b->device, POOL_BYTES);
    b->in = there(b->device, MOST_VALUES * sizeof(float));
    b->out = there(b->device, MOST_VALUES * sizeof(float));
    b->workspace = there(b->device, MOST_VALUES * sizeof(float));
    b->weights = there(b->device, LAUNCHES * TOP_K * sizeof(float));
    b->experts = there(b->device, LAUNCHES * TOP_K * sizeof(int32_t));
    fill(b->device, b->pool, POOL_BYTES, 0x3b3b3b3b);
    fill(b->device, b->in, MOST_VALUES * sizeof(float), 0x3f7fffff);
    fill(b->device, b->weights, LAUNCHES * TOP_K * sizeof(float), 0x3f7fffff);
    int32_t chosen[LAUNCHES * TOP_K];
    for (int i = 0; i < LAUNCHES * TOP_K; i++)
        chosen[i] = i % EXPERTS;
    b->device->backend->write(b->device, b->experts, chosen, sizeof chosen);
    need(b->device->backend->wait(b->device, &error), &error);
}

static void *take(struct bench *b, size_t bytes)
{
    bytes = (bytes + 255) / 256 * 256;
    if (bytes > POOL_BYTES - b->used)
        b->used = 0; /* from the start again: what lies there has long left the cache */
    void *taken = b->pool + b->used;
    b->used += bytes;
    return taken;
}

static kvf_matrix take_matrix(struct bench *b, kvf_weight_id id, uint32_t rows, uint32_t cols)
{
    const kvf_weight_type *type = kvf_weight_get(id);
    const kvf_weight_scales scales = kvf_weight_scales_of(type, rows, cols);
    const uint64_t row_bytes = kvf_weight_row_bytes(type, cols);
    return (kvf_matrix){.type = id,
                        .rows = rows,
                        .cols = cols,
                        .row_bytes = row_bytes,
                        .data = take(b, rows * row_bytes),
                        .scales = scales.bytes ? take(b, scales.bytes) : NULL,
                        .scale_stride = scales.stride_bytes};
}

static double bytes_of(kvf_weight_id id, uint32_t rows, uint32_t cols)
{
    const kvf_weight_type *type = kvf_weight_get(id);
    return (double)rows * (double)kvf_weight_row_bytes(type, cols) +
           (double)kvf_weight_scales_of(type, rows, cols).bytes;
}

static void print_time(const struct bench *b, const char *what, double bytes, double ms)
{
    if (ms <= 0) {
        fprintf(stderr, "%s could not be timed\n", what);
        exit(1);
    }
    const double rate = bytes / 1e6 / ms;
    printf("| %s | %s | %.2f | %.2f | %.0f | %.0f%% |\n", kvf_device_isa_name(b->device), what,
           bytes / 1e6, ms * 1e3, rate, 100.0 * rate / b->copy_rate);
    fflush(stdout);
}

static void time_product(struct bench *b, kvf_weight_id id, uint32_t rows, uint32_t cols,
                         uint32_t n)
{
    char what[96];
    kvf_error error;
    kvf_matmul_args args[LAUNCHES];
    for (int i = 0; i < LAUNCHES; i++)
        args[i] = (kvf_matmul_args){.n = n,
                                    .weight = take_matrix(b, id, rows, cols),
                                    .in = b->in,
                                    .in_stride = cols,
                                    .out = b->out,
                                    .out_stride = rows};
    for (int i = 1; i < LAUNCHES && b->cached; i++)
        args[i].weight = args[0].weight;
    b->device->backend->matmul(b->device, &args[0]);
    need(b->device->backend->wait(b->device, &error), &error);
    kvf_cuda_begin_graph();
    for (int i = 0; i < LAUNCHES; i++)
        b->device->backend->matmul(b->device, &args[i]);
    const double ms = kvf_cuda_time_graph(REPLAYS) / LAUNCHES;
    snprintf(what, sizeof what, "%s %u x %u, %u token%s", kvf_weight_get(id)->name, rows, cols, n,
             n > 1 ? "s" : "");
    print_time(b, what, bytes_of(id, rows, cols), ms);
}

/* Two launches for six experts of a token, of types that people's files have. */
static void time_experts(struct bench *b, kvf_weight_id up, kvf_weight_id down)
{
    static kvf_expert_weights routed[EXPERTS];
    char what[96];
    kvf_error error;
    for (int e = 0; e < EXPERTS; e++)
        routed[e] = (kvf_expert_weights){.w1 = take_matrix(b, up, FFN, HIDDEN),
                                         .w3 = take_matrix(b, up, FFN, HIDDEN),
                                         .w2 = take_matrix(b, down, HIDDEN, FFN)};
    kvf_experts_args args = {.n = 1,
                             .hidden = HIDDEN,
                             .ffn = FFN,
                             .n_experts = EXPERTS,
                             .top_k = TOP_K,
                             .limit = 10.0f,
                             .in = b->in,
                             .experts = b->experts,
                             .weights = b->weights,
                             .routed = routed,
                             .out = b->out,
                             .workspace = b->workspace};
    b->device->backend->experts(b->device, &args);
    need(b->device->backend->wait(b->device, &error), &error);
    kvf_cuda_begin_graph();
    for (int i = 0; i < LAUNCHES; i++) {
        args.experts = b->experts + i * TOP_K;
        b->device->backend->experts(b->device, &args);
    }
    const double ms = kvf_cuda_time_graph(REPLAYS) / LAUNCHES;
    snprintf(what, sizeof what, "%u experts %u x %u, %s and %s", TOP_K, FFN, HIDDEN,
             kvf_weight_get(up)->name, kvf_weight_get(down)->name);
    print_time(b, what, TOP_K * (2.0 * bytes_of(up, FFN, HIDDEN) + bytes_of(down, HIDDEN, FFN)),
               ms);
    kvf_cuda_time(true);
    for (int i = 0; i < LAUNCHES; i++) {
        args.experts = b->experts + i * TOP_K;
        b->device->backend->experts(b->device, &args);
    }
    need(b->device->backend->wait(b->device, &error), &error);
    for (unsigned i = 0; kvf_cuda_get_times(i); i++)
        printf("|   | of it %s, with events | | %.2f | | |\n", kvf_cuda_get_times(i)->kernel,
               kvf_cuda_get_times(i)->least_ms * 1e3);
    kvf_cuda_time(false);
}

static void time_all_experts(struct bench *b)
{
    time_experts(b, KVF_WEIGHT_IQ2_XXS, KVF_WEIGHT_Q2_K);
    time_experts(b, KVF_WEIGHT_Q2_K, KVF_WEIGHT_Q2_K);
    time_experts(b, KVF_WEIGHT_Q4_K, KVF_WEIGHT_Q4_K);
    time_experts(b, KVF_WEIGHT_FP4, KVF_WEIGHT_FP4);
    time_experts(b, KVF_WEIGHT_MXFP4, KVF_WEIGHT_MXFP4);
    time_experts(b, KVF_WEIGHT_Q8_0, KVF_WEIGHT_Q8_0);
}

static void run(const char *isa, bool cached)
{
    struct bench b;
    open_bench(&b, isa, cached);
    printf("\nisa %s; a copy of 1 GiB within the memory: %.0f GB/s\n\n"
           "| isa | product | MB of weights | us | GB/s | of the copy |\n"
           "|---|---|---:|---:|---:|---:|\n",
           kvf_device_isa_name(b.device), b.copy_rate);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        time_product(&b, types[i], HIDDEN, HIDDEN, 1);
    time_product(&b, KVF_WEIGHT_Q8_0, 32768, 1024, 1); /* wq_b */
    time_product(&b, KVF_WEIGHT_FP8_E8M0, 32768, 1024, 1);
    time_product(&b, KVF_WEIGHT_Q8_0, HIDDEN, 8192, 1); /* wo_b */
    time_product(&b, KVF_WEIGHT_Q8_0, HIDDEN, HIDDEN, MOST_TOKENS);
    time_product(&b, KVF_WEIGHT_FP8_E8M0, HIDDEN, HIDDEN, MOST_TOKENS);
    if (!cached)
        time_all_experts(&b);
    kvf_device_close(b.device);
}

int main(int argc, char **argv)
{
    const bool cached = argc > 1 && strcmp(argv[1], "--cached") == 0;
    const bool apart = argc > 1 && strcmp(argv[1], "--apart") == 0;
    const int first = cached || apart ? 2 : 1;
    kvf_cuda_overlap(!apart);
    for (int i = first; i < argc; i++)
        run(argv[i], cached);
    if (argc == first) {
        run(NULL, cached);
        run("generic", cached);
    }
    return 0;
}
