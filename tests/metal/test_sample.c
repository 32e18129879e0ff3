/*
 * The argmax of the logits, which no operation of the backend has yet, through the driver.
 */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/gpu/dense.h"
#include "emulator.h"

static const kvf_gpu_driver *const driver = &kvf_gpu_driver_emulated;

/* ---- The GPU ------------------------------------------------------------------- */

struct machine {
    kvf_gpu *gpu;
    kvf_gpu_library *library;
};

static void check(kvf_status status, const kvf_error *error)
{
    if (status != KVF_OK)
        fail_msg("%s", error->message);
}

static struct machine open_machine(const char *file)
{
    struct machine m;
    kvf_error error;
    check(driver->open(&m.gpu, &error), &error);
    /* The emulator finds the library by the file's name; the source only has to be there. */
    check(driver->compile(m.gpu, file, file, &m.library, &error), &error);
    return m;
}

static void close_machine(struct machine *m)
{
    driver->release_library(m->gpu, m->library);
    driver->close(m->gpu);
}

static kvf_gpu_buffer make_buffer(struct machine *m, size_t bytes)
{
    kvf_gpu_buffer buffer;
    assert_true(driver->make_buffer(m->gpu, bytes ? bytes : 4, true, &buffer));
    memset(buffer.contents, 0xff, buffer.bytes); /* NaN */
    return buffer;
}

/* Runs the named kernel; the dispatch's pipeline is filled in here. */
static void run_kernel(struct machine *m, const char *kernel, kvf_gpu_dispatch *dispatch)
{
    kvf_error error;
    kvf_gpu_pipeline *pipeline;
    check(driver->make_pipeline(m->gpu, m->library, kernel, &pipeline, &error), &error);
    dispatch->pipeline = pipeline;
    driver->run(m->gpu, dispatch);
    check(driver->wait(m->gpu, &error), &error);
    driver->release_pipeline(m->gpu, pipeline);
}

/* ---- Values --------------------------------------------------------------------- */

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* [-1, 1) */
static float next_unit(uint32_t *state)
{
    return (float)next_random(state) * 0x1p-23f - 1.0f;
}

static uint32_t pieces(uint32_t n, uint32_t piece)
{
    return (n + piece - 1) / piece;
}

/* ---- argmax -------------------------------------------------------------------------- */

static uint32_t run_argmax(struct machine *m, const float *logits, uint32_t n)
{
    const uint32_t n_parts = pieces(n, KVF_ARGMAX_GROUP_VALUES);
    kvf_gpu_buffer in = make_buffer(m, n * sizeof(float));
    kvf_gpu_buffer found = make_buffer(m, n_parts * sizeof(uint32_t));
    kvf_gpu_buffer answer = make_buffer(m, sizeof(uint32_t));
    memcpy(in.contents, logits, n * sizeof(float));
    kvf_argmax_kernel_args args = {
        .logits = in.gpu_address, .found = found.gpu_address, .answer = answer.gpu_address, .n = n};
    kvf_gpu_dispatch dispatch = {.groups = {n_parts, 1, 1},
                                 .threads = {KVF_ARGMAX_THREADS, 1, 1},
                                 .arguments = &args,
                                 .argument_bytes = sizeof args,
                                 .n_threadgroup_arrays = 1,
                                 .threadgroup_bytes = {KVF_ARGMAX_BYTES}};
    run_kernel(m, "kvf_argmax_parts", &dispatch);
    args.n = n_parts;
    dispatch.groups[0] = 1;
    run_kernel(m, "kvf_argmax_merge", &dispatch);
    const uint32_t best = *(uint32_t *)answer.contents;
    driver->release_buffer(m->gpu, &in);
    driver->release_buffer(m->gpu, &found);
    driver->release_buffer(m->gpu, &answer);
    return best;
}

static void test_argmax(void **unused)
{
    (void)unused;
    struct machine m = open_machine("sample.metal");
    enum { MOST = 3 * KVF_ARGMAX_GROUP_VALUES + 5 };
    const uint32_t ns[] = {1,   31, 33, 257, KVF_ARGMAX_GROUP_VALUES, KVF_ARGMAX_GROUP_VALUES + 1,
                           MOST};
    float *logits = malloc(MOST * sizeof *logits);
    assert_non_null(logits);
    uint32_t state = 4;
    for (size_t s = 0; s < sizeof ns / sizeof ns[0]; s++) {
        const uint32_t n = ns[s];
        for (uint32_t i = 0; i < n; i++)
            logits[i] = next_unit(&state);
        /* Each of two equal highest values in turn, in any part: the lower wins. */
        const uint32_t places[] = {0, n / 3, n / 2, n - 1};
        for (size_t p = 4; p-- > 0;) {
            logits[places[p]] = 2.0f;
            assert_int_equal(run_argmax(&m, logits, n), places[p]);
        }
        logits[0] = NAN; /* never wins */
        assert_int_equal(run_argmax(&m, logits, n), n == 1 ? 0 : places[1] ? places[1] : places[2]);
        for (uint32_t i = 0; i < n; i++)
            logits[i] = i % 2 ? NAN : -INFINITY;
        assert_int_equal(run_argmax(&m, logits, n), 0);
        logits[n - 1] = -FLT_MAX;
        assert_int_equal(run_argmax(&m, logits, n), n - 1);
    }
    free(logits);
    close_machine(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_argmax),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
