/* Reading tests/model/goldens.safetensors and running the model against it. */
#ifndef KVF_TESTS_MODEL_GOLDEN_H
#define KVF_TESTS_MODEL_GOLDEN_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/alone.h"

#define VOCAB 320

static kvf_tensor_set *golden_files;

static inline void golden_open(void)
{
    kvf_error error;
    if (kvf_tensor_set_open(KVF_TEST_GOLDENS, &golden_files, &error) != KVF_OK) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
}

/* A golden tensor of 4-byte values; name by printf. The test fails if it is not there. */
static inline const void *golden(uint64_t *n, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static inline const void *golden(uint64_t *n, const char *format, ...)
{
    char name[128];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    const kvf_tensor *tensor = kvf_tensor_set_find(golden_files, name);
    if (!tensor)
        fail_msg("no golden '%s'", name);
    if (n)
        *n = tensor->bytes / 4;
    return tensor->data;
}

typedef struct engine {
    kvf_device *device;
    kvf_model *model;
} engine;

static inline void require(kvf_status status, const kvf_error *error)
{
    if (status != KVF_OK)
        fail_msg("%s", error->message);
}

static inline engine engine_open(const char *backend, uint32_t chunk_tokens)
{
    engine e;
    kvf_error error;
    const kvf_device_options options = {.backend = backend};
    require(kvf_device_open(&options, &e.device, &error), &error);
    require(kvf_model_load(e.device, KVF_TEST_MODEL, chunk_tokens, &e.model, &error), &error);
    return e;
}

static inline void engine_close(engine *e)
{
    kvf_model_free(e->model);
    kvf_device_close(e->device);
}

static inline kvf_session *session_open(engine *e, kvf_profile_id profile, bool grid_off,
                                        uint64_t max_tokens, uint32_t chunk_tokens)
{
    kvf_session *session;
    kvf_error error;
    const kvf_session_options options = {.profile = profile,
                                         .max_tokens = max_tokens,
                                         .chunk_tokens = chunk_tokens,
                                         .grid_off = grid_off};
    require(kvf_model_open_session(e->model, &options, &session, &error), &error);
    return session;
}

/* Appends n tokens in chunks; all logits into [n][VOCAB] where it is not NULL. */
static inline void feed(engine *e, kvf_session *session, const int32_t *ids, uint64_t n,
                        uint32_t chunk_tokens, float *logits)
{
    for (uint64_t at = 0; at < n; at += chunk_tokens) {
        const uint32_t part = n - at < chunk_tokens ? (uint32_t)(n - at) : chunk_tokens;
        kvf_error error;
        require(forward_alone(e->model, session, ids + at, part,
                              logits ? logits + at * VOCAB : NULL, &error),
                &error);
    }
}

static inline uint32_t argmax(const float *logits)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < VOCAB; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* -ln p(id), in double. */
static inline double nll(const float *logits, int32_t id)
{
    const float max = logits[argmax(logits)];
    double sum = 0;
    for (int i = 0; i < VOCAB; i++)
        sum += exp((double)logits[i] - (double)max);
    return log(sum) + (double)max - (double)logits[id];
}

#endif
