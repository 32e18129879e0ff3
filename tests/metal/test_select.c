/*
 * What the conformance suite is too small for: selections that are cut into parts, merged at
 * two levels, and thinned often; heads in several batches; queries in several dispatches.
 * Each against the reference, with threadgroups in both orders, in memory that is not the
 * device's. And lists made of lists and masks.
 */
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

#include "backend/gpu/gpu.h"
#include "emulator.h"

#define WIDTH KVF_INDEX_WIDTH

struct shape {
    const char *what;
    uint32_t n_queries;
    uint32_t n_heads;
    uint32_t top_k;
    uint32_t n_rows;
    uint32_t n_different; /* keys; the others repeat them */
    bool ascending;       /* later keys score higher: thinned as often as can be */
    kvf_format_id format; /* of queries and keys */
};

static const struct shape shapes[] = {
    {"20 parts, merged twice", 1, 8, 512, 20000, 20000, false, KVF_FORMAT_FP4},
    {"ties across parts", 1, 8, 700, 20000, 3, false, KVF_FORMAT_FP4},
    {"all equal, parts of f32", 2, 8, 300, 5000, 1, false, KVF_FORMAT_F32},
    {"k of 5 from parts of f32", 2, 8, 5, 18000, 18000, false, KVF_FORMAT_F32},
    {"ascending scores", 3, 8, 64, 9000, 9000, true, KVF_FORMAT_FP4},
    {"more than all rows", 1, 8, 6000, 5000, 5000, false, KVF_FORMAT_FP4},
    {"two batches of codes", 2, 72, 20, 700, 700, false, KVF_FORMAT_FP4},
    {"five batches of values", 1, 136, 20, 300, 300, false, KVF_FORMAT_F32},
    {"two dispatches", 700, 8, 512, 1300, 1300, false, KVF_FORMAT_FP4},
};
#define N_SHAPES (sizeof shapes / sizeof shapes[0])

static void *allocate(size_t bytes)
{
    void *memory = NULL;
    assert_int_equal(posix_memalign(&memory, 64, bytes ? bytes : 64), 0);
    return memory;
}

static float next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*state >> 32) * 0x1p-31f;
}

/* ---- One selection ------------------------------------------------------------------- */

static kvf_device *open_device(const char *backend)
{
    kvf_device *device;
    kvf_error error;
    if (kvf_device_open(&(kvf_device_options){.backend = backend}, &device, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return device;
}

/* n rows on the grid, stored by the reference. */
static kvf_rows make_rows(kvf_device *ref, const float *values, uint32_t n, kvf_format_id format)
{
    kvf_rows rows = {.format = format, .width = WIDTH, .page_rows = 64, .n_rows = n};
    rows.page_stride_bytes = kvf_format_page_bytes(format, WIDTH, rows.page_rows);
    const size_t n_pages = (n + rows.page_rows - 1) / rows.page_rows;
    rows.base = allocate(n_pages * rows.page_stride_bytes);
    memset(rows.base, 0xff, n_pages * rows.page_stride_bytes);
    kvf_pack_args args = {
        .rows = values, .stride = WIDTH, .n_rows = n, .grid = KVF_GRID_FP4, .out = rows};
    kvf_error error;
    if (kvf_pack(ref, &args, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return rows;
}

static kvf_rows make_keys(kvf_device *ref, const struct shape *shape, uint64_t *random)
{
    float *values = allocate((size_t)shape->n_rows * WIDTH * sizeof *values);
    for (size_t i = 0; i < (size_t)shape->n_rows * WIDTH; i++) {
        const size_t row = i / WIDTH;
        if (row >= shape->n_different)
            values[i] = values[i - (size_t)shape->n_different * WIDTH];
        else if (shape->ascending)
            values[i] = 1.0f + (float)row / (float)shape->n_rows;
        else
            values[i] = next_random(random);
    }
    const kvf_rows rows = make_rows(ref, values, shape->n_rows, shape->format);
    free(values);
    return rows;
}

static kvf_select_args make_args(kvf_device *ref, const struct shape *shape)
{
    uint64_t random = shape->n_rows + shape->top_k;
    const size_t n = shape->n_queries;
    const size_t n_heads = n * shape->n_heads;
    float *queries = allocate(n_heads * WIDTH * sizeof *queries);
    float *weights = allocate(n_heads * sizeof *weights);
    uint32_t *n_visible = allocate(n * sizeof *n_visible);
    for (size_t i = 0; i < n_heads * WIDTH; i++)
        queries[i] = shape->ascending ? 1.0f : next_random(&random);
    for (size_t i = 0; i < n_heads; i++)
        weights[i] = shape->ascending ? 1.0f : next_random(&random);
    for (size_t i = 0; i < n; i++) /* of many, most see few rows: for the time it takes */
        n_visible[i] = shape->n_rows / (i % 3 == 1 ? 7 : i > 8 && i + 8 < n ? 50 : 1);
    const kvf_select_args args = {.n_queries = shape->n_queries,
                                  .n_heads = shape->n_heads,
                                  .top_k = shape->top_k,
                                  .queries =
                                      make_rows(ref, queries, (uint32_t)n_heads, shape->format),
                                  .head_weights = weights,
                                  .keys = make_keys(ref, shape, &random),
                                  .n_visible = n_visible};
    free(queries);
    return args;
}

static void select_on(kvf_device *device, kvf_select_args *args)
{
    const size_t n = args->n_queries;
    args->list = allocate(n * args->top_k * sizeof *args->list);
    args->list_len = allocate(n * sizeof *args->list_len);
    memset(args->list, 0x55, n * args->top_k * sizeof *args->list);
    args->workspace_bytes = kvf_select_workspace_bytes(device, args);
    args->workspace = allocate(args->workspace_bytes);
    kvf_error error;
    if (kvf_select(device, args, &error) != KVF_OK ||
        device->backend->wait(device, &error) != KVF_OK)
        fail_msg("%s", error.message);
    free(args->workspace);
}

static void test_shape(void **state)
{
    const struct shape *shape = *state;
    kvf_device *ref = open_device("ref");
    kvf_device *emulated = open_device("emulated");
    kvf_select_args expected = make_args(ref, shape);
    select_on(ref, &expected);
    for (int reverse = 0; reverse < 2; reverse++) {
        kvf_emulator_set_reverse(reverse);
        kvf_select_args got = expected;
        select_on(emulated, &got);
        for (size_t i = 0; i < shape->n_queries; i++)
            assert_int_equal(got.list_len[i], expected.list_len[i]);
        for (size_t i = 0; i < (size_t)shape->n_queries * shape->top_k; i++)
            if (got.list[i] != expected.list[i])
                fail_msg("query %zu, place %zu: row %d, expected %d%s", i / shape->top_k,
                         i % shape->top_k, got.list[i], expected.list[i],
                         reverse ? ", threadgroups reversed" : "");
        free(got.list);
        free(got.list_len);
    }
    kvf_emulator_set_reverse(false);
    free(expected.list);
    free(expected.list_len);
    free(expected.queries.base);
    free(expected.keys.base);
    free((void *)(uintptr_t)expected.head_weights);
    free((void *)(uintptr_t)expected.n_visible);
    kvf_device_close(emulated);
    kvf_device_close(ref);
}

/* ---- Lists of lists and masks ----------------------------------------------------------- */

#define N_QUERIES 5
#define PLACES 1300 /* three chunks of the kernel's threads, the last one cut */

/* A list, the two masks that let its rows through, and all of them made to lists. */
struct lists {
    int32_t list[N_QUERIES][PLACES];
    uint32_t length[N_QUERIES];
    float mask_f32[N_QUERIES][PLACES];
    uint16_t mask_f16[N_QUERIES][PLACES];
    int32_t expected[N_QUERIES][PLACES];
    uint32_t expected_length[N_QUERIES];
};

/* Lists of 0, all, some; places from the length on hold what must not be looked at. */
static void fill_lists(struct lists *lists)
{
    uint64_t random = 1;
    for (uint32_t q = 0; q < N_QUERIES; q++) {
        lists->length[q] = q == 0 ? 0 : q == 1 ? PLACES : PLACES * q / 7;
        lists->expected_length[q] = 0;
        for (uint32_t i = 0; i < PLACES; i++) {
            const bool taken = q == 1 || next_random(&random) > (float)q / N_QUERIES;
            lists->list[q][i] = taken ? (int32_t)i : -1;
            lists->mask_f32[q][i] = taken ? 0.0f : -INFINITY;
            lists->mask_f16[q][i] = taken ? 0x0000 : 0xfc00;
            if (taken && i < lists->length[q])
                lists->expected[q][lists->expected_length[q]++] = (int32_t)i;
        }
    }
}

/* Lists of queries 1 .. N_QUERIES - 1, at most `stride` long, are those expected. */
static void check_lists(kvf_device *device, const struct lists *lists,
                        const kvf_attend_kernel_args *args, uint32_t stride)
{
    kvf_error error;
    const uint32_t n = N_QUERIES - 1;
    int32_t rows[(N_QUERIES - 1) * PLACES];
    uint32_t counts[N_QUERIES - 1];
    void *rows_there = device->backend->alloc(device, sizeof rows, KVF_PLACE_DEVICE);
    void *counts_there = device->backend->alloc(device, sizeof counts, KVF_PLACE_DEVICE);
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    kvf_attend_kernel_args k = *args;
    k.spans.n = 1;
    k.one.rows.n_rows = PLACES;
    k.in_stride = PLACES;
    k.first_query = 1;
    k.lists = kvf_gpu_at(gpu, rows_there);
    k.counts = kvf_gpu_at(gpu, counts_there);
    k.list_stride = stride;
    kvf_gpu_run_compact(gpu, &k, n);
    device->backend->read(device, rows, rows_there, sizeof rows);
    device->backend->read(device, counts, counts_there, sizeof counts);
    if (device->backend->wait(device, &error) != KVF_OK)
        fail_msg("%s", error.message);
    for (uint32_t q = 0; q < n; q++) {
        const uint32_t all = lists->expected_length[q + 1];
        assert_int_equal(counts[q], all < stride ? all : stride);
        assert_memory_equal(rows + (size_t)q * stride, lists->expected[q + 1],
                            counts[q] * sizeof *rows);
    }
    device->backend->release(device, rows_there, sizeof rows);
    device->backend->release(device, counts_there, sizeof counts);
}

static void test_lists(void **state)
{
    (void)state;
    kvf_device *device = open_device("emulated");
    struct lists *lists = allocate(sizeof *lists);
    fill_lists(lists);
    struct lists *there = device->backend->alloc(device, sizeof *lists, KVF_PLACE_DEVICE);
    device->backend->write(device, there, lists, sizeof *lists);
    const void *const chosen[] = {there->list[0], there->mask_f32[0], there->mask_f16[0]};
    const uint32_t kinds[] = {KVF_ATTEND_LIST, KVF_ATTEND_MASK_F32, KVF_ATTEND_MASK_F16};
    for (uint32_t stride = PLACES; stride > 10; stride /= 13)
        for (int i = 0; i < 3; i++) {
            const kvf_attend_kernel_args args = {
                .one = {.chosen = kvf_gpu_at(kvf_gpu_of(device), chosen[i]),
                        .lengths = kvf_gpu_at(kvf_gpu_of(device), there->length)},
                .kind = kinds[i]};
            check_lists(device, lists, &args, stride);
        }
    device->backend->release(device, there, sizeof *lists);
    free(lists);
    kvf_device_close(device);
}

int main(void)
{
    struct CMUnitTest tests[N_SHAPES + 1] = {cmocka_unit_test(test_lists)};
    for (size_t i = 0; i < N_SHAPES; i++)
        tests[i + 1] = (struct CMUnitTest){shapes[i].what, test_shape, NULL, NULL,
                                           (void *)(uintptr_t)&shapes[i]};
    return _cmocka_run_group_tests("select on the emulated GPU", tests, N_SHAPES + 1, NULL, NULL);
}
