/*
 * What a decoded token costs on an NVIDIA GPU, by kernel; then products and experts of
 * V4-Flash's true widths, of weights as they are stored.
 *
 *     time_token MODEL [CONTEXT_TOKENS]
 *
 * A token's time is the median of 32, by the host's clock, without events; the table that
 * follows is of one more token, with two events around each kernel, which take time themselves.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/backend.h"
#include "backend/gpu/cuda/cuda.h"
#include "model/alone.h"

enum { CHUNK = 256, TOKENS = 32, REPEATS = 20 };

static void need(kvf_status status, const kvf_error *error)
{
    if (status == KVF_OK)
        return;
    fprintf(stderr, "%s\n", error->message);
    exit(1);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(void)
{
    const kvf_cuda_times *t;
    double total = 0.0;
    unsigned long n = 0;
    printf("| kernel | of | runs | total ms | least ms |\n|---|---|---:|---:|---:|\n");
    for (unsigned i = 0; (t = kvf_cuda_get_times(i)); i++) {
        printf("| %s | %s | %lu | %.3f | %.4f |\n", t->kernel, t->library, t->n, t->total_ms,
               t->least_ms);
        total += t->total_ms;
        n += t->n;
    }
    printf("| all | | %lu | %.3f | |\n\n", n, total);
}

/* ---- A token of a model ----------------------------------------------------------------- */

static void time_model(kvf_device *device, const char *path, uint32_t context_tokens)
{
    kvf_error error;
    kvf_model *model;
    kvf_session *session;
    double ms[TOKENS];
    int32_t ids[CHUNK];
    for (int i = 0; i < CHUNK; i++)
        ids[i] = 97 + i % 26;
    need(kvf_model_load(device, path, CHUNK, &model, &error), &error);
    const kvf_session_options options = {.profile = KVF_PROFILE_FOLD,
                                         .max_tokens = context_tokens + 2 * TOKENS,
                                         .chunk_tokens = CHUNK};
    need(kvf_model_open_session(model, &options, &session, &error), &error);
    double start = now_ms();
    for (uint32_t at = 0; at < context_tokens; at += CHUNK) {
        const uint32_t n = context_tokens - at < CHUNK ? context_tokens - at : CHUNK;
        need(forward_alone(model, session, ids, n, NULL, &error), &error);
    }
    printf("%s, %u tokens: prefill %.1f ms (%.0f tokens/s)\n", path, context_tokens,
           now_ms() - start, context_tokens / (now_ms() - start) * 1e3);
    for (int i = 0; i < TOKENS; i++) {
        start = now_ms();
        need(forward_alone(model, session, ids, 1, NULL, &error), &error);
        ms[i] = now_ms() - start;
    }
    qsort(ms, TOKENS, sizeof ms[0], by_value);
    printf("a token: median %.3f ms, least %.3f ms (%.0f tokens/s)\n\n", ms[TOKENS / 2], ms[0],
           1e3 / ms[TOKENS / 2]);
    kvf_cuda_time(true);
    need(forward_alone(model, session, ids, 1, NULL, &error), &error);
    print_times();
    kvf_cuda_time(false);
    kvf_session_close(session);
    kvf_model_free(model);
}

/* ---- True widths -------------------------------------------------------------------------- */

static uint64_t state = 1;

static uint32_t next_random(void)
{
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

/* Bytes that give numbers whatever the type is: scales of f16 around 2^-8, codes of any kind. */
static void *random_bytes(kvf_device *device, size_t bytes, uint32_t mask)
{
    uint32_t *words = malloc(bytes + 4);
    void *memory = there(device, bytes);
    for (size_t i = 0; words && i <= bytes / 4; i++)
        words[i] = (next_random() | next_random() << 31) & mask;
    if (words)
        device->backend->write(device, memory, words, bytes);
    free(words);
    return memory;
}

static kvf_matrix random_matrix(kvf_device *device, kvf_weight_id id, uint32_t rows, uint32_t cols)
{
    const kvf_weight_type *type = kvf_weight_get(id);
    const kvf_weight_scales scales = kvf_weight_scales_of(type, rows, cols);
    const uint64_t row_bytes = kvf_weight_row_bytes(type, cols);
    return (kvf_matrix){.type = id,
                        .rows = rows,
                        .cols = cols,
                        .row_bytes = row_bytes,
                        .data = random_bytes(device, rows * row_bytes, 0x3b3b3b3b),
                        .scales =
                            scales.bytes ? random_bytes(device, scales.bytes, 0x7f7f7f7f) : NULL,
                        .scale_stride = scales.stride_bytes};
}

static float *random_floats(kvf_device *device, size_t n)
{
    return random_bytes(device, n * sizeof(float), 0x3f7fffff);
}

/* The kernels of REPEATS calls; the least time and what it comes to in bytes of weights. */
static void print_widths(const char *what, double bytes)
{
    const kvf_cuda_times *t;
    double least = 0.0;
    for (unsigned i = 0; (t = kvf_cuda_get_times(i)); i++)
        least += t->least_ms;
    printf("| %s | %.2f | %.4f | %.0f |\n", what, bytes / 1e6, least, bytes / 1e6 / least);
}

static void time_product(kvf_device *device, kvf_weight_id id, uint32_t rows, uint32_t cols,
                         uint32_t n)
{
    kvf_error error;
    char what[96];
    kvf_matrix weights[4]; /* in turn, so that they do not stay in the cache */
    for (int i = 0; i < 4; i++)
        weights[i] = random_matrix(device, id, rows, cols);
    kvf_matmul_args args = {.n = n,
                            .in = random_floats(device, (size_t)n * cols),
                            .in_stride = cols,
                            .out = there(device, (size_t)n * rows * sizeof(float)),
                            .out_stride = rows};
    kvf_cuda_time(true);
    for (int i = 0; i < REPEATS; i++) {
        args.weight = weights[i % 4];
        device->backend->matmul(device, &args);
    }
    need(device->backend->wait(device, &error), &error);
    snprintf(what, sizeof what, "%s %u x %u, %u token%s", kvf_weight_get(id)->name, rows, cols, n,
             n > 1 ? "s" : "");
    print_widths(what, (double)rows * (double)weights[0].row_bytes);
    kvf_cuda_time(false);
}

static void time_experts(kvf_device *device, kvf_weight_id up, kvf_weight_id down, uint32_t n)
{
    enum { HIDDEN = 4096, FFN = 2048, EXPERTS = 48, TOP_K = 6, MOST = 256 };
    static kvf_expert_weights routed[EXPERTS];
    int32_t chosen[MOST * TOP_K];
    kvf_error error;
    char what[96];
    for (int e = 0; e < EXPERTS; e++)
        routed[e] = (kvf_expert_weights){.w1 = random_matrix(device, up, FFN, HIDDEN),
                                         .w3 = random_matrix(device, up, FFN, HIDDEN),
                                         .w2 = random_matrix(device, down, HIDDEN, FFN)};
    kvf_experts_args args = {.n = n,
                             .hidden = HIDDEN,
                             .ffn = FFN,
                             .n_experts = EXPERTS,
                             .top_k = TOP_K,
                             .limit = 10.0f,
                             .in = random_floats(device, (size_t)n * HIDDEN),
                             .weights = random_floats(device, (size_t)n * TOP_K),
                             .routed = routed,
                             .out = there(device, (size_t)n * HIDDEN * sizeof(float))};
    int32_t *experts = there(device, sizeof chosen);
    args.experts = experts;
    args.workspace = there(device, device->backend->experts_workspace_bytes(device, &args));
    kvf_cuda_time(true);
    for (int i = 0; i < REPEATS; i++) {
        for (uint32_t c = 0; c < n * TOP_K; c++)
            chosen[c] = (int32_t)(n == 1 ? (i * TOP_K + c) % EXPERTS : next_random() % EXPERTS);
        device->backend->write(device, experts, chosen, n * TOP_K * sizeof chosen[0]);
        device->backend->experts(device, &args);
    }
    need(device->backend->wait(device, &error), &error);
    snprintf(what, sizeof what, "%u of %u experts, %s and %s, %u token%s", TOP_K, EXPERTS,
             kvf_weight_get(up)->name, kvf_weight_get(down)->name, n, n > 1 ? "s" : "");
    const double used = n == 1 ? TOP_K : EXPERTS;
    print_widths(what, used * (2.0 * FFN * (double)routed[0].w1.row_bytes +
                               HIDDEN * (double)routed[0].w2.row_bytes));
    kvf_cuda_time(false);
}

static void time_widths(kvf_device *device)
{
    static const kvf_weight_id types[] = {KVF_WEIGHT_F32,  KVF_WEIGHT_BF16, KVF_WEIGHT_FP8_E8M0,
                                          KVF_WEIGHT_Q8_0, KVF_WEIGHT_Q4_K, KVF_WEIGHT_IQ2_XXS};
    printf("| kernels | MB of weights | least ms | GB/s |\n|---|---:|---:|---:|\n");
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        time_product(device, types[i], 32768, 1024, 1);   /* V4-Flash's wq_b */
    time_product(device, KVF_WEIGHT_Q8_0, 4096, 8192, 1); /* its wo_b */
    time_product(device, KVF_WEIGHT_Q8_0, 32768, 1024, 256);
    time_experts(device, KVF_WEIGHT_IQ2_XXS, KVF_WEIGHT_Q2_K, 1);
    time_experts(device, KVF_WEIGHT_FP4, KVF_WEIGHT_FP4, 1);
    time_experts(device, KVF_WEIGHT_MXFP4, KVF_WEIGHT_MXFP4, 1);
    time_experts(device, KVF_WEIGHT_FP4, KVF_WEIGHT_FP4, 256);
    printf("\n");
}

int main(int argc, char **argv)
{
    kvf_device *device;
    kvf_error error;
    const long context = argc == 3 ? strtol(argv[2], NULL, 10) : 1024;
    if (argc < 2 || argc > 3 || context < 1 || context > 1 << 20) {
        fprintf(stderr, "usage: time_token MODEL [CONTEXT_TOKENS]\n");
        return 2;
    }
    const kvf_device_options options = {.backend = "cuda"};
    need(kvf_device_open(&options, &device, &error), &error);
    time_model(device, argv[1], (uint32_t)context);
    time_widths(device);
    return 0; /* the process ends: its memory goes with it */
}
