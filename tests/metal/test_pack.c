/*
 * pack at the limits of its grids, where random rows do not come: values next to what is
 * refused, in every place of a row, against the reference.
 */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"

#define N_ROWS 40
#define PAGE_ROWS 64

/* What decides between stored and refused; and their neighbours on both sides. */
static const float fp4_limits[] = {0x1.8p-49f, 0x1.8p+52f, FLT_MAX};
static const float fp8_limits[] = {0x1.fp+127f, FLT_MAX, 65504.0f, 0x1.8p-49f};

struct kind {
    const char *what;
    uint32_t width;
    kvf_format_id format;
    kvf_grid grid;
    const float *limits;
    uint32_t n_limits;
};

static const struct kind kinds[] = {
    {"fp4", 128, KVF_FORMAT_FP4, KVF_GRID_FP4, fp4_limits, 3},
    {"fp4 as f32", 128, KVF_FORMAT_F32, KVF_GRID_FP4, fp4_limits, 3},
    {"fp8_f16", 512, KVF_FORMAT_FP8_F16, KVF_GRID_FP8, fp8_limits, 4},
    {"fp8_bf16", 512, KVF_FORMAT_FP8_BF16, KVF_GRID_FP8, fp8_limits, 4},
    {"fp8 as f16", 512, KVF_FORMAT_F16, KVF_GRID_FP8, fp8_limits, 4},
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

static kvf_device *open_device(const char *backend)
{
    kvf_device *device;
    kvf_error error;
    if (kvf_device_open(&(kvf_device_options){.backend = backend}, &device, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return device;
}

/* The result of one device: 0xff where nothing was stored. */
static kvf_status pack_on(kvf_device *device, kvf_pack_args *args, size_t page_bytes)
{
    kvf_error error;
    args->bad_row = args->bad_dim = 0;
    memset(args->out.base, 0xff, page_bytes);
    return kvf_pack(device, args, &error);
}

static void compare(kvf_device *ref, kvf_device *emulated, const struct kind *kind,
                    const float *rows, const char *what)
{
    const size_t page_bytes = kvf_format_page_bytes(kind->format, kind->width, PAGE_ROWS);
    void *pages[2] = {malloc(page_bytes), malloc(page_bytes)};
    assert_true(pages[0] && pages[1]);
    kvf_pack_args expected = {.rows = rows,
                              .stride = kind->width,
                              .n_rows = N_ROWS,
                              .grid = kind->grid,
                              .out = {.format = kind->format,
                                      .width = kind->width,
                                      .page_rows = PAGE_ROWS,
                                      .n_rows = PAGE_ROWS,
                                      .base = pages[0],
                                      .page_stride_bytes = page_bytes}};
    kvf_pack_args got = expected;
    got.out.base = pages[1];
    const kvf_status status = pack_on(ref, &expected, page_bytes);
    if (pack_on(emulated, &got, page_bytes) != status || got.bad_row != expected.bad_row ||
        got.bad_dim != expected.bad_dim || got.inexact_rows != expected.inexact_rows)
        fail_msg("%s, %s: row %u, dimension %u; the reference has %s, row %u, dimension %u",
                 kind->what, what, (unsigned)got.bad_row, got.bad_dim, kvf_status_string(status),
                 (unsigned)expected.bad_row, expected.bad_dim);
    /* Which rows are stored beside a bad one is the backend's affair. */
    if (status == KVF_OK && memcmp(pages[0], pages[1], page_bytes) != 0)
        fail_msg("%s, %s: other bytes than the reference's", kind->what, what);
    free(pages[0]);
    free(pages[1]);
}

/* One value of the limit in each row, in another place of each; all of one size, then one. */
static void test_kind(void **state)
{
    const struct kind *kind = *state;
    kvf_device *ref = open_device("ref");
    kvf_device *emulated = open_device("emulated");
    float *rows = malloc(sizeof(float) * N_ROWS * kind->width);
    assert_non_null(rows);
    for (uint32_t l = 0; l < kind->n_limits; l++) {
        const float limit = kind->limits[l];
        const float around[] = {nextafterf(limit, 0.0f), limit, nextafterf(limit, INFINITY)};
        for (uint32_t a = 0; a < 3; a++) {
            if (!isfinite(around[a]))
                continue;
            memset(rows, 0, sizeof(float) * N_ROWS * kind->width);
            for (uint32_t i = 0; i < N_ROWS; i++)
                rows[i * kind->width + i * 101 % kind->width] = i % 2 ? -around[a] : around[a];
            compare(ref, emulated, kind, rows, "a value in each row");
            /* Beside values that are stored: the last rows alone have one at the limit. */
            for (uint32_t i = 0; i < N_ROWS * kind->width; i++)
                rows[i] = i >= (N_ROWS - 2) * kind->width && i % 97 == 3 ? around[a] : 1.0f;
            compare(ref, emulated, kind, rows, "values in the last rows");
        }
    }
    free(rows);
    kvf_device_close(emulated);
    kvf_device_close(ref);
}

int main(void)
{
    struct CMUnitTest tests[N_KINDS];
    for (size_t i = 0; i < N_KINDS; i++)
        tests[i] =
            (struct CMUnitTest){kinds[i].what, test_kind, NULL, NULL, (void *)(uintptr_t)&kinds[i]};
    return _cmocka_run_group_tests("pack on emulated", tests, N_KINDS, NULL, NULL);
}
