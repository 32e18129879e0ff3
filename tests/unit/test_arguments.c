/* The public stages refuse arguments that would be read out of bounds or mean two things. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"

#define N_ROWS 64
#define N_HEADS 8

static kvf_device *device;
static _Alignas(64) uint8_t memory[N_ROWS * 512 * 4];
static _Alignas(64) uint8_t workspace[1 << 20];

static kvf_rows view(kvf_format_id format, uint32_t width)
{
    return (kvf_rows){.format = format,
                      .width = width,
                      .page_rows = N_ROWS,
                      .n_rows = N_ROWS,
                      .base = memory,
                      .page_stride_bytes = kvf_format_page_bytes(format, width, N_ROWS)};
}

static kvf_status select_with(kvf_format_id queries, kvf_format_id keys, uint32_t visible,
                              size_t workspace_bytes, kvf_error *error)
{
    static float weights[N_HEADS];
    int32_t list[4];
    uint32_t list_len;
    const kvf_select_args args = {.n_queries = 1,
                                  .n_heads = N_HEADS,
                                  .top_k = 4,
                                  .queries = view(queries, KVF_INDEX_WIDTH),
                                  .head_weights = weights,
                                  .keys = view(keys, KVF_INDEX_WIDTH),
                                  .n_visible = &visible,
                                  .list = list,
                                  .list_len = &list_len,
                                  .workspace = workspace,
                                  .workspace_bytes = workspace_bytes};
    return kvf_select(device, &args, error);
}

static void select_refuses_arrays_that_are_not_there(void **state)
{
    (void)state;
    static float weights[N_HEADS];
    int32_t list[4];
    uint32_t list_len;
    const uint32_t visible = 1;
    kvf_error error;
    for (int missing = 0; missing < 5; missing++) {
        const kvf_select_args args = {.n_queries = missing < 4 ? 1 : 0,
                                      .n_heads = N_HEADS,
                                      .top_k = 4,
                                      .queries = view(KVF_FORMAT_FP4, KVF_INDEX_WIDTH),
                                      .head_weights = missing == 0 ? NULL : weights,
                                      .keys = view(KVF_FORMAT_FP4, KVF_INDEX_WIDTH),
                                      .n_visible = missing == 1 ? NULL : &visible,
                                      .list = missing >= 2 ? NULL : list,
                                      .list_len = missing >= 3 ? NULL : &list_len,
                                      .workspace = workspace,
                                      .workspace_bytes = sizeof workspace};
        assert_int_equal(kvf_select(device, &args, &error),
                         missing < 4 ? KVF_INVALID_ARGUMENT : KVF_OK);
    }
}

/* One in the making is found before it is used, whichever function it lacks. */
static void a_backend_without_a_function_does_not_open(void **state)
{
    (void)state;
    kvf_error error;
    kvf_backend backend = *kvf_backend_get(0);
    assert_int_equal(kvf_backend_check(&backend, &error), KVF_OK);
    backend.run = NULL; /* the caller's thread will do */
    assert_int_equal(kvf_backend_check(&backend, &error), KVF_OK);
    backend.attend = NULL;
    assert_int_equal(kvf_backend_check(&backend, &error), KVF_UNSUPPORTED);
    assert_non_null(strstr(error.message, "lacks attend"));
    backend.copy = NULL;
    assert_int_equal(kvf_backend_check(&backend, &error), KVF_UNSUPPORTED);
    assert_non_null(strstr(error.message, "lacks copy"));
    /* The table's other functions: everything behind the names and flags is one. */
    const size_t first = offsetof(kvf_backend, open);
    for (size_t at = first; at < sizeof backend; at += sizeof(void (*)(void))) {
        if (at == offsetof(kvf_backend, run) || at == offsetof(kvf_backend, is_device_memory))
            continue;
        backend = *kvf_backend_get(0);
        memset((uint8_t *)&backend + at, 0, sizeof(void (*)(void)));
        assert_int_equal(kvf_backend_check(&backend, &error), KVF_UNSUPPORTED);
    }
    /* Who has memory that the host cannot address says which that is. */
    backend = *kvf_backend_get(0);
    backend.addresses_host_memory = false;
    backend.is_device_memory = NULL;
    assert_int_equal(kvf_backend_check(&backend, &error), KVF_UNSUPPORTED);
    assert_non_null(strstr(error.message, "lacks is_device_memory"));
}

static void select_takes_fp4_and_f32_and_no_other_format(void **state)
{
    (void)state;
    kvf_error error;
    const size_t enough = sizeof workspace;
    assert_int_equal(select_with(KVF_FORMAT_FP4, KVF_FORMAT_FP4, N_ROWS, enough, &error), KVF_OK);
    assert_int_equal(select_with(KVF_FORMAT_F32, KVF_FORMAT_FP4, N_ROWS, enough, &error), KVF_OK);
    assert_int_equal(select_with(KVF_FORMAT_FP4, KVF_FORMAT_F32, N_ROWS, enough, &error), KVF_OK);
    assert_int_equal(select_with(KVF_FORMAT_F16, KVF_FORMAT_FP4, N_ROWS, enough, &error),
                     KVF_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "f16"));
    assert_int_equal(select_with(KVF_FORMAT_FP4, KVF_FORMAT_F16, N_ROWS, enough, &error),
                     KVF_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "f16"));
}

static void select_refuses_hidden_rows_and_a_small_workspace(void **state)
{
    (void)state;
    kvf_error error;
    assert_int_equal(
        select_with(KVF_FORMAT_FP4, KVF_FORMAT_FP4, N_ROWS + 1, sizeof workspace, &error),
        KVF_INVALID_ARGUMENT);
    assert_int_equal(select_with(KVF_FORMAT_FP4, KVF_FORMAT_FP4, N_ROWS, 64, &error),
                     KVF_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "workspace"));
}

static void attend_refuses_two_modes_and_rows_outside_the_view(void **state)
{
    (void)state;
    static float q[512], out[512], mask[N_ROWS];
    int32_t list[1] = {N_ROWS};
    const uint32_t list_len = 1;
    const uint32_t visible = N_ROWS;
    kvf_error error;
    kvf_attend_args args = {.n_queries = 1,
                            .n_heads = 1,
                            .q = q,
                            .scale = 1.0f,
                            .rows = view(KVF_FORMAT_F32, KVF_ROW_WIDTH),
                            .n_visible = &visible,
                            .list = list,
                            .list_stride = 1,
                            .list_len = &list_len,
                            .out = out,
                            .workspace = workspace,
                            .workspace_bytes = sizeof workspace};
    assert_int_equal(kvf_attend(device, &args, &error), KVF_INVALID_ARGUMENT);
    list[0] = N_ROWS - 1;
    assert_int_equal(kvf_attend(device, &args, &error), KVF_OK);
    args.mask_f32 = mask;
    args.mask_stride = N_ROWS;
    assert_int_equal(kvf_attend(device, &args, &error), KVF_INVALID_ARGUMENT);
}

/* Too few rows before what the queries see, too few behind it, and none of it at all. */
static void attend_refuses_windows_that_lack_a_token(void **state)
{
    (void)state;
    static float q[3 * 512], out[3 * 512];
    const struct {
        uint64_t first_token;
        uint32_t n_queries;
        uint32_t window_tokens;
        uint64_t window_first;
        kvf_status status;
    } cases[] = {{100, 3, N_ROWS - 2, 103 - N_ROWS, KVF_OK},
                 {100, 3, N_ROWS - 2, 104 - N_ROWS, KVF_INVALID_ARGUMENT},
                 {100, 3, N_ROWS - 2, 102 - N_ROWS, KVF_INVALID_ARGUMENT},
                 {0, 1, 64, 0, KVF_OK},
                 {0, 1, 64, 1, KVF_INVALID_ARGUMENT},
                 {N_ROWS - 1, 1, 64, 0, KVF_OK},
                 {N_ROWS, 1, 64, 0, KVF_INVALID_ARGUMENT},
                 {100, 1, 1, 100, KVF_OK},
                 {100, 1, 1, 101, KVF_INVALID_ARGUMENT},
                 {UINT64_MAX, 2, 1, UINT64_MAX, KVF_INVALID_ARGUMENT}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvf_error error;
        kvf_attend_args args = {.n_queries = cases[i].n_queries,
                                .n_heads = 1,
                                .q = q,
                                .scale = 1.0f,
                                .first_token = cases[i].first_token,
                                .window_tokens = cases[i].window_tokens,
                                .window_first = cases[i].window_first,
                                .window = view(KVF_FORMAT_F32, KVF_ROW_WIDTH),
                                .out = out};
        args.workspace_bytes = kvf_attend_workspace_bytes(device, &args);
        args.workspace = aligned_alloc(64, args.workspace_bytes);
        assert_int_equal(kvf_attend(device, &args, &error), cases[i].status);
        free(args.workspace);
        if (cases[i].status != KVF_OK)
            assert_non_null(strstr(error.message, "a window of "));
    }
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

/* One value that is too large for each kind of row; the message fits both. */
static void pack_says_which_value_its_rows_cannot_hold(void **state)
{
    (void)state;
    const struct {
        uint32_t width;
        kvf_grid grid;
        kvf_format_id format;
        float value;
        const char *place;
    } cases[] = {
        {KVF_ROW_WIDTH, KVF_GRID_FP8, KVF_FORMAT_FP8_F16, 0x1.fp+127f, "row 2, dimension 70"},
        {KVF_INDEX_WIDTH, KVF_GRID_FP4, KVF_FORMAT_FP4, 1e30f, "row 2, dimension 64"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static float rows[3 * KVF_ROW_WIDTH];
        kvf_error error;
        memset(rows, 0, sizeof rows);
        rows[2 * cases[i].width + 70] = cases[i].value;
        kvf_pack_args args = {.rows = rows,
                              .stride = cases[i].width,
                              .n_rows = 3,
                              .grid = cases[i].grid,
                              .out = view(cases[i].format, cases[i].width)};
        assert_int_equal(kvf_pack(device, &args, &error), KVF_RANGE);
        assert_non_null(strstr(error.message, cases[i].place));
        assert_non_null(
            strstr(error.message, "a value is outside the range that its row can hold"));
        assert_null(strstr(error.message, "index"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pack_says_which_value_its_rows_cannot_hold),
        cmocka_unit_test(select_refuses_arrays_that_are_not_there),
        cmocka_unit_test(a_backend_without_a_function_does_not_open),
        cmocka_unit_test(select_takes_fp4_and_f32_and_no_other_format),
        cmocka_unit_test(select_refuses_hidden_rows_and_a_small_workspace),
        cmocka_unit_test(attend_refuses_two_modes_and_rows_outside_the_view),
        cmocka_unit_test(attend_refuses_windows_that_lack_a_token),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
