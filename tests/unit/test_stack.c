/* Stages of the largest shapes that are served, on a thread whose stack is small. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "backend/backend.h"

/* Musl's threads have as much: what a program's thread may have at least. */
#define STACK_BYTES (128u << 10)

static kvf_device *device; /* of one thread: who calls */

static void run(void *(*work)(void *), void *context)
{
    pthread_attr_t attributes;
    pthread_t thread;
    assert_int_equal(pthread_attr_init(&attributes), 0);
    assert_int_equal(pthread_attr_setstacksize(&attributes, STACK_BYTES), 0);
    assert_int_equal(pthread_create(&thread, &attributes, work, context), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attributes);
}

static void *run_mask(void *context)
{
    device->backend->mask(device, context);
    return NULL;
}

/* All but the last rows are selected: more than are kept before they are thinned. */
static void mask_of_the_most_rows(void **state)
{
    (void)state;
    enum { N_ROWS = KVF_MAX_TOP_K + 2000 };
    float *scores = malloc(N_ROWS * sizeof *scores);
    float *mask = malloc(N_ROWS * sizeof *mask);
    for (uint32_t i = 0; i < N_ROWS; i++)
        scores[i] = -(float)i;
    const uint32_t visible = N_ROWS;
    kvf_mask_args args = {.n_queries = 1,
                          .top_k = KVF_MAX_TOP_K,
                          .n_rows = N_ROWS,
                          .scores = scores,
                          .score_stride = N_ROWS,
                          .n_visible = &visible,
                          .mask_f32 = mask,
                          .mask_stride = N_ROWS};
    run(run_mask, &args);
    for (uint32_t i = 0; i < N_ROWS; i++)
        assert_true(mask[i] == (i < KVF_MAX_TOP_K ? 0 : -INFINITY));
    free(scores);
    free(mask);
}

typedef struct compress_call {
    kvf_compress_args args;
    kvf_findings found;
} compress_call;

static void *run_compress(void *context)
{
    const compress_call *call = context;
    device->backend->compress(device, &call->args, &call->found, 1);
    return NULL;
}

/* A row of one window, all of whose tokens are the same; then with one that is refused. */
static void compress_of_the_most_tokens(void **state)
{
    (void)state;
    enum { COLUMNS = 2 * KVF_INDEX_WIDTH };
    float *kv = malloc(sizeof(float) * KVF_MAX_RATIO * COLUMNS);
    float *zeros = calloc((size_t)KVF_MAX_RATIO * COLUMNS, sizeof *zeros);
    float *memory = calloc((size_t)2 * KVF_MAX_RATIO * 2 * COLUMNS, sizeof *memory);
    float ones[KVF_INDEX_WIDTH], row[KVF_INDEX_WIDTH] = {0}, cosines[KVF_ROPE_WIDTH / 2];
    for (int i = 0; i < KVF_INDEX_WIDTH; i++)
        ones[i] = 1;
    for (int i = 0; i < KVF_ROPE_WIDTH / 2; i++)
        cosines[i] = 1;
    for (size_t i = 0; i < (size_t)KVF_MAX_RATIO * COLUMNS; i++)
        kv[i] = 3;
    kvf_finding finding = {.first_bad = KVF_NOTHING_FOUND};
    compress_call call = {.args = {.width = KVF_INDEX_WIDTH,
                                   .ratio = KVF_MAX_RATIO,
                                   .overlap = true,
                                   .n = KVF_MAX_RATIO,
                                   .input = {kv, zeros, zeros, ones, 0},
                                   .rope = {cosines, zeros},
                                   .state = memory,
                                   .out = {.format = KVF_FORMAT_F32,
                                           .width = KVF_INDEX_WIDTH,
                                           .page_rows = 1,
                                           .n_rows = 1,
                                           .base = row,
                                           .page_stride_bytes = sizeof row}},
                          .found = {.place = &finding}};
    run(run_compress, &call);
    assert_true(finding.first_bad == KVF_NOTHING_FOUND);
    for (int i = 0; i < KVF_INDEX_WIDTH; i++)
        assert_float_equal(row[i], 1, 1e-6);
    ones[5] = INFINITY;
    run(run_compress, &call);
    assert_int_equal(kvf_found_of(finding.first_bad).dim, 5);
    free(kv);
    free(zeros);
    free(memory);
}

static int setup(void **state)
{
    (void)state;
    const kvf_device_options options = {.n_threads = 1};
    return kvf_device_open(&options, &device, NULL) != KVF_OK;
}

static int teardown(void **state)
{
    (void)state;
    kvf_device_close(device);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mask_of_the_most_rows),
        cmocka_unit_test(compress_of_the_most_tokens),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
