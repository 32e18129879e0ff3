/*
 * What a decoded token costs on an NVIDIA GPU, by kernel.
 *
 *     time_token MODEL [CONTEXT_TOKENS] [ISA]
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

enum { CHUNK = 256, TOKENS = 32 };

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

int main(int argc, char **argv)
{
    kvf_device *device;
    kvf_error error;
    const long context = argc >= 3 ? strtol(argv[2], NULL, 10) : 1024;
    if (argc < 2 || argc > 4 || context < 1 || context > 1 << 20) {
        fprintf(stderr, "usage: time_token MODEL [CONTEXT_TOKENS] [ISA]\n");
        return 2;
    }
    const kvf_device_options options = {.backend = "cuda", .isa = argc == 4 ? argv[3] : NULL};
    need(kvf_device_open(&options, &device, &error), &error);
    printf("isa %s\n", kvf_device_isa_name(device));
    time_model(device, argv[1], (uint32_t)context);
    return 0; /* the process ends: its memory goes with it */
}
