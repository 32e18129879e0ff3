/*
 * attend on the Metal backend: the four profiles' forms of the same rows give the same bits,
 * as do a second run and, with a mask and a list, threadgroups that run last to first; and all are
 * within the limits of docs/FORMAT.md 6. The profiles differ in what a call may attend at most (the
 * rows that a mask covers, the places of a list), which must not show.
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

#include "backend/backend.h"
#include "emulator.h"

#define ABSOLUTE_LIMIT 1e-3
#define RELATIVE_LIMIT (2.01 / 128)
#define COSINE_LIMIT 5e-6

struct shape {
    const char *what;
    uint32_t n_queries;
    uint32_t n_heads;
    uint64_t first_token;
    uint32_t window_tokens;
    uint32_t n_rows;
    uint32_t top_k;
    uint32_t one_in; /* of the visible rows are chosen, at most top_k; 0: none, HCA: 1 */
    bool sinks;
};

static const struct shape shapes[] = {
    {"decoding", 1, 64, 5000, 128, 1200, 512, 2, true},
    {"a few drafted tokens", 3, 64, 4000, 128, 300, 64, 2, true},
    {"the first tokens of all", 5, 8, 0, 128, 1, 64, 1, false},
    {"a chunk, some heads of a tile", 23, 3, 100, 64, 129, 32, 3, true},
    {"a chunk that chooses few of many rows", 16, 3, 9999, 128, 2600, 150, 8, true},
    {"a chunk without splits", 300, 2, 20, 4, 70, 12, 2, false},
    {"17 heads, nothing chosen", 2, 17, 900, 16, 200, 16, 0, true},
    {"rows without a window", 2, 17, 900, 0, 200, 64, 3, false},
    {"one row", 1, 1, 0, 1, 1, 1, 0, false},
};
#define N_SHAPES (sizeof shapes / sizeof shapes[0])

/* ---- One case's data --------------------------------------------------------------- */

struct data {
    const struct shape *shape;
    uint64_t window_first; /* of the page that its oldest row lies in, or of one before */
    uint32_t window_rows;
    float *window;
    float *rows;
    float *q;
    float *sinks;
    uint32_t *n_visible;
    int32_t *list; /* [n_queries][top_k], -1 after the list */
    uint32_t *list_len;
    float *mask_f32;
    uint16_t *mask_f16;
};

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    assert_non_null(memory);
    return memory;
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 40);
}

static float *make_floats(uint64_t *state, size_t n, float size)
{
    float *values = allocate(n * sizeof *values);
    for (size_t i = 0; i < n; i++)
        values[i] = ((float)next_random(state) * 0x1p-23f - 1.0f) * size;
    return values;
}

/* What query i chose: a list, and the masks of it. */
static void choose(struct data *d, uint64_t *state, uint32_t i)
{
    const struct shape *s = d->shape;
    uint32_t n = 0;
    d->n_visible[i] = s->n_rows - (s->n_rows > 8 ? next_random(state) % 8 : 0);
    for (uint32_t row = 0; row < d->n_visible[i]; row++) {
        const bool chosen = n < s->top_k && s->one_in && next_random(state) % s->one_in == 0;
        if (chosen)
            d->list[(size_t)i * s->top_k + n++] = (int32_t)row;
        d->mask_f32[(size_t)i * s->n_rows + row] = chosen ? 0.0f : -INFINITY;
        d->mask_f16[(size_t)i * s->n_rows + row] = chosen ? 0 : 0xFC00;
    }
    d->list_len[i] = n;
    for (; n < s->top_k; n++)
        d->list[(size_t)i * s->top_k + n] = -1;
}

static struct data make_data(const struct shape *s)
{
    uint64_t state = s->n_rows * 77u + s->n_heads;
    struct data d = {.shape = s, .window_first = s->first_token / KVF_PAGE_ROWS * KVF_PAGE_ROWS};
    d.window_first = d.window_first < s->window_tokens ? 0 : d.window_first - s->window_tokens;
    d.window_rows = (uint32_t)(s->first_token - d.window_first) + s->n_queries;
    d.window = make_floats(&state, (size_t)d.window_rows * KVF_ROW_WIDTH, 2.0f);
    d.rows = make_floats(&state, (size_t)s->n_rows * KVF_ROW_WIDTH, 2.0f);
    d.q = make_floats(&state, (size_t)s->n_queries * s->n_heads * KVF_ROW_WIDTH, 3.0f);
    d.sinks = make_floats(&state, s->n_heads, 4.0f);
    d.n_visible = allocate(s->n_queries * sizeof *d.n_visible);
    d.list = allocate((size_t)s->n_queries * s->top_k * sizeof *d.list);
    d.list_len = allocate(s->n_queries * sizeof *d.list_len);
    d.mask_f32 = allocate((size_t)s->n_queries * s->n_rows * sizeof *d.mask_f32);
    d.mask_f16 = allocate((size_t)s->n_queries * s->n_rows * sizeof *d.mask_f16);
    for (uint32_t i = 0; i < s->n_queries; i++)
        choose(&d, &state, i);
    return d;
}

static void release_data(struct data *d)
{
    free(d->window);
    free(d->rows);
    free(d->q);
    free(d->sinks);
    free(d->n_visible);
    free(d->list);
    free(d->list_len);
    free(d->mask_f32);
    free(d->mask_f16);
}

/* ---- Running it ---------------------------------------------------------------------- */

static kvf_device *open_device(const char *backend)
{
    kvf_device *device;
    kvf_error error;
    const kvf_device_options options = {.backend = backend, .n_threads = 1};
    if (kvf_device_open(&options, &device, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return device;
}

/* Rows of the device in a format, 64 a page. */
struct stored {
    kvf_rows view;
    size_t bytes;
};

static struct stored store(kvf_device *ref, kvf_format_id format, const float *values,
                           uint32_t n_rows)
{
    kvf_error error;
    struct stored stored = {.view = {.format = format,
                                     .width = KVF_ROW_WIDTH,
                                     .page_rows = KVF_PAGE_ROWS,
                                     .n_rows = n_rows}};
    kvf_rows *view = &stored.view;
    view->page_stride_bytes = kvf_format_page_bytes(format, KVF_ROW_WIDTH, KVF_PAGE_ROWS);
    stored.bytes = (n_rows / KVF_PAGE_ROWS + 1) * view->page_stride_bytes;
    view->base = allocate(stored.bytes);
    kvf_pack_args pack = {.rows = values,
                          .stride = KVF_ROW_WIDTH,
                          .n_rows = n_rows,
                          .grid = KVF_GRID_FP8,
                          .out = *view};
    if (n_rows && kvf_pack(ref, &pack, &error) != KVF_OK)
        fail_msg("%s", error.message);
    assert_int_equal(pack.inexact_rows, 0);
    return stored;
}

struct result {
    size_t n_heads; /* of all queries */
    float *out;
    float *lse;
};

static struct result make_result(const struct shape *s)
{
    struct result r = {.n_heads = (size_t)s->n_queries * s->n_heads};
    r.out = allocate(r.n_heads * KVF_ROW_WIDTH * sizeof(float));
    r.lse = allocate(r.n_heads * sizeof(float));
    return r;
}

static void release_result(struct result *r)
{
    free(r->out);
    free(r->lse);
}

static void attend(kvf_device *device, kvf_attend_args *args, const struct result *r)
{
    kvf_error error;
    memset(r->out, 0xff, r->n_heads * KVF_ROW_WIDTH * sizeof(float));
    memset(r->lse, 0xff, r->n_heads * sizeof(float));
    args->out = r->out;
    args->lse = r->lse;
    args->workspace_bytes = kvf_attend_workspace_bytes(device, args);
    args->workspace = aligned_alloc(64, (args->workspace_bytes + 64) / 64 * 64);
    assert_non_null(args->workspace);
    if (kvf_attend(device, args, &error) != KVF_OK)
        fail_msg("%s", error.message);
    free(args->workspace);
    if (device->backend->wait(device, &error) != KVF_OK)
        fail_msg("%s", error.message);
}

/* The data as a profile holds it. */
static void run_profile(kvf_device *device, kvf_device *ref, const struct data *d,
                        kvf_profile_id id, const struct result *r)
{
    const struct shape *s = d->shape;
    const kvf_profile *profile = kvf_profile_get(id);
    struct stored window =
        store(ref, profile->window_format, d->window, s->window_tokens ? d->window_rows : 0);
    struct stored rows = store(ref, profile->row_format, d->rows, s->n_rows);
    const bool masked = profile->mask != KVF_MASK_NONE;
    kvf_attend_args args = {.n_queries = s->n_queries,
                            .n_heads = s->n_heads,
                            .q = d->q,
                            .sinks = s->sinks ? d->sinks : NULL,
                            .scale = (float)(1.0 / sqrt((double)KVF_ROW_WIDTH)),
                            .first_token = s->first_token,
                            .window_tokens = s->window_tokens,
                            .window_first = d->window_first,
                            .window = window.view,
                            .rows = rows.view,
                            .n_visible = d->n_visible,
                            .list = masked ? NULL : d->list,
                            .list_stride = s->top_k,
                            .list_len = d->list_len,
                            .mask_f32 = profile->mask == KVF_MASK_F32 ? d->mask_f32 : NULL,
                            .mask_f16 = profile->mask == KVF_MASK_F16 ? d->mask_f16 : NULL,
                            .mask_stride = s->n_rows};
    attend(device, &args, r);
    free(window.view.base);
    free(rows.view.base);
}

/* ---- Comparing ------------------------------------------------------------------------- */

static void assert_same(const struct result *expected, const struct result *got, const char *shape,
                        const char *what)
{
    const size_t n = expected->n_heads * KVF_ROW_WIDTH;
    if (memcmp(expected->out, got->out, n * sizeof(float)) != 0)
        for (size_t i = 0; i < n; i++)
            if (memcmp(&expected->out[i], &got->out[i], sizeof(float)) != 0)
                fail_msg("%s: out[%zu] of %s is %a, not %a", shape, i, what, (double)got->out[i],
                         (double)expected->out[i]);
    if (memcmp(expected->lse, got->lse, expected->n_heads * sizeof(float)) != 0)
        fail_msg("%s: lse of %s differs", shape, what);
}

static void assert_within_limits(const struct result *ref, const struct result *got,
                                 const char *shape)
{
    for (size_t h = 0; h < ref->n_heads; h++) {
        double dot = 0.0;
        double ref_square = 0.0;
        double got_square = 0.0;
        for (size_t i = h * KVF_ROW_WIDTH; i < (h + 1) * KVF_ROW_WIDTH; i++) {
            const double a = (double)ref->out[i];
            const double b = (double)got->out[i];
            if (!(fabs(a - b) <= ABSOLUTE_LIMIT && fabs(a - b) <= RELATIVE_LIMIT * fabs(a) + 1e-5))
                fail_msg("%s: out[%zu] is %.9g, the reference has %.9g", shape, i, b, a);
            dot += a * b;
            ref_square += a * a;
            got_square += b * b;
        }
        const double distance = 1.0 - 2.0 * dot / (ref_square + got_square);
        if (ref_square + got_square > 0.0 && !(distance < COSINE_LIMIT))
            fail_msg("%s: head %zu has a cosine distance of %.3g", shape, h, distance);
        if (!(ref->lse[h] == got->lse[h] || fabs((double)(ref->lse[h] - got->lse[h])) <= 1e-4))
            fail_msg("%s: lse[%zu] is %.9g, the reference has %.9g", shape, h, (double)got->lse[h],
                     (double)ref->lse[h]);
    }
}

static void check_shape(kvf_device *emulated, kvf_device *ref, const struct shape *shape)
{
    struct data data = make_data(shape);
    struct result expected = make_result(shape);
    struct result first = make_result(shape);
    struct result got = make_result(shape);
    run_profile(ref, ref, &data, KVF_PROFILE_FOLD, &expected);
    run_profile(emulated, ref, &data, KVF_PROFILE_FOLD, &first);
    assert_within_limits(&expected, &first, shape->what);
    for (int reverse = 0; reverse < 2; reverse++) {
        kvf_emulator_set_reverse(reverse);
        for (int id = 0; id < KVF_PROFILE_COUNT; id++) {
            char what[64];
            if (reverse && id != KVF_PROFILE_LEGACY && id != KVF_PROFILE_FOLD)
                continue;
            snprintf(what, sizeof what, "%s%s", kvf_profile_get((kvf_profile_id)id)->name,
                     reverse ? ", threadgroups reversed" : "");
            run_profile(emulated, ref, &data, (kvf_profile_id)id, &got);
            assert_same(&first, &got, shape->what, what);
        }
    }
    kvf_emulator_set_reverse(false);
    release_data(&data);
    release_result(&expected);
    release_result(&first);
    release_result(&got);
}

static void test_profiles(void **state)
{
    (void)state;
    kvf_device *emulated = open_device("emulated");
    kvf_device *ref = open_device("ref");
    for (size_t s = 0; s < N_SHAPES; s++)
        check_shape(emulated, ref, &shapes[s]);
    kvf_device_close(emulated);
    kvf_device_close(ref);
}

/* ---- Masks too long for one batch ------------------------------------------------------- */

#define LONG_ROWS (1u << 20)
#define LONG_QUERIES 9
#define LONG_TOP_K 40

/*
 * A million rows: lists of as many of 9 queries do not fit in the memory of a batch, which
 * has to show no more than where a mask is used. All pages are the same one.
 */
static void test_batches(void **state)
{
    (void)state;
    kvf_device *emulated = open_device("emulated");
    kvf_device *ref = open_device("ref");
    const struct shape shape = {.what = "a million rows",
                                .n_queries = LONG_QUERIES,
                                .n_heads = 2,
                                .first_token = 4 * LONG_ROWS,
                                .n_rows = KVF_PAGE_ROWS,
                                .top_k = LONG_TOP_K};
    struct data d = make_data(&shape);
    struct stored page = store(ref, KVF_FORMAT_FP8_F16, d.rows, KVF_PAGE_ROWS);
    void **pages = allocate(LONG_ROWS / KVF_PAGE_ROWS * sizeof *pages);
    uint16_t *mask = allocate((size_t)LONG_QUERIES * LONG_ROWS * sizeof *mask);
    for (size_t i = 0; i < LONG_ROWS / KVF_PAGE_ROWS; i++)
        pages[i] = page.view.base;
    for (size_t i = 0; i < (size_t)LONG_QUERIES * LONG_ROWS; i++)
        mask[i] = 0xFC00;
    for (uint32_t i = 0; i < LONG_QUERIES; i++) {
        d.n_visible[i] = LONG_ROWS;
        d.list_len[i] = LONG_TOP_K;
        for (uint32_t j = 0; j < LONG_TOP_K; j++) {
            const uint32_t row = j * (LONG_ROWS / LONG_TOP_K) + 1000 * i + 7;
            d.list[i * LONG_TOP_K + j] = (int32_t)row;
            mask[(size_t)i * LONG_ROWS + row] = 0;
        }
    }
    kvf_attend_args args = {.n_queries = LONG_QUERIES,
                            .n_heads = shape.n_heads,
                            .q = d.q,
                            .scale = 0.05f,
                            .rows = page.view,
                            .n_visible = d.n_visible,
                            .list = d.list,
                            .list_stride = LONG_TOP_K,
                            .list_len = d.list_len,
                            .mask_stride = LONG_ROWS};
    args.rows.pages = pages;
    args.rows.n_rows = LONG_ROWS;
    struct result expected = make_result(&shape);
    struct result listed = make_result(&shape);
    struct result masked = make_result(&shape);
    attend(ref, &args, &expected);
    attend(emulated, &args, &listed);
    args.list = NULL;
    args.mask_f16 = mask;
    attend(emulated, &args, &masked);
    assert_within_limits(&expected, &listed, shape.what);
    assert_same(&listed, &masked, shape.what, "the mask");

    release_result(&expected);
    release_result(&listed);
    release_result(&masked);
    free(page.view.base);
    free(pages);
    free(mask);
    release_data(&d);
    kvf_device_close(emulated);
    kvf_device_close(ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_profiles),
        cmocka_unit_test(test_batches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
