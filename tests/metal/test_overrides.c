/*
 * Kernels of a driver's own in the place of generic ones: which run by which ISA, in which shape,
 * what falls back, and what is said of an ISA that there is not.
 */
#include "model/golden.h"

#include "backend/gpu/gpu.h"
#include "emulator.h"

enum { ROWS = 7, COLS = 32, NORM_ROWS = 3 };

/* "new" has norm; what it lacks is "old"'s, whose norm it hides. */
static const kvf_gpu_override overrides[] = {
    {"old", "kvf_norm", NULL, "overrides.metal", "compiled before", {0}},
    {"old", "kvf_matmul_one", "q8_0", "overrides.metal", "compiled before", {1, 3, 32, 128}},
    {"new", "kvf_norm", NULL, "others.metal", "compiled before", {0}},
    {"lost", "kvf_norm", NULL, "nowhere.metal", "compiled before", {0}},
    {"lost", "kvf_matmul_one", "f32", "overrides.metal", "compiled before", {1, 3, 32, 128}},
    {0}};

static const kvf_backend *emulated(void)
{
    const kvf_backend *backend;
    kvf_error error;
    require(kvf_backend_find("emulated", &backend, &error), &error);
    return backend;
}

static kvf_status open_with(const char *const *isas, uint32_t n, const char *isa,
                            kvf_device **device, kvf_error *error)
{
    static kvf_gpu_driver driver;
    driver = kvf_gpu_driver_emulated;
    driver.overrides = overrides;
    *device = NULL;
    kvf_emulator_set_isas(isas, n);
    const kvf_status status =
        kvf_gpu_open_device(emulated(), &driver, &(kvf_device_options){.isa = isa}, device, error);
    kvf_emulator_set_isas(NULL, 0);
    return status;
}

static kvf_device *must_open(const char *isa)
{
    static const char *const isas[] = {"new", "old"};
    kvf_device *device;
    kvf_error error;
    require(open_with(isas, 2, isa, &device, &error), &error);
    return device;
}

static float *floats(kvf_device *device, size_t n)
{
    return kvf_gpu_alloc(device, n * sizeof(float), KVF_PLACE_STAGING);
}

/* The first value of each row that norm makes of ones. */
static void run_norm(kvf_device *device, float *first)
{
    float *in = floats(device, NORM_ROWS * COLS);
    float *out = floats(device, NORM_ROWS * COLS);
    kvf_error error;
    for (int i = 0; i < NORM_ROWS * COLS; i++)
        in[i] = 1.0f;
    kvf_gpu_norm(device, &(kvf_norm_args){.n = NORM_ROWS,
                                          .width = COLS,
                                          .in = in,
                                          .in_stride = COLS,
                                          .out = out,
                                          .out_stride = COLS});
    require(kvf_gpu_wait(device, &error), &error);
    for (int r = 0; r < NORM_ROWS; r++)
        first[r] = out[r * COLS];
}

/* Of a matrix of zeros, by one token. */
static kvf_status run_product(kvf_device *device, kvf_weight_id type, float *out_rows,
                              kvf_error *error)
{
    const uint64_t row_bytes = kvf_weight_row_bytes(kvf_weight_get(type), COLS);
    float *in = floats(device, COLS);
    float *out = floats(device, ROWS);
    uint8_t *weight = kvf_gpu_alloc(device, ROWS * row_bytes, KVF_PLACE_STAGING);
    memset(weight, 0, ROWS * row_bytes);
    for (int i = 0; i < COLS; i++)
        in[i] = 1.0f;
    kvf_gpu_matmul(device, &(kvf_matmul_args){.n = 1,
                                              .weight = {.type = type,
                                                         .rows = ROWS,
                                                         .cols = COLS,
                                                         .row_bytes = row_bytes,
                                                         .data = weight},
                                              .in = in,
                                              .in_stride = COLS,
                                              .out = out,
                                              .out_stride = ROWS});
    const kvf_status status = kvf_gpu_wait(device, error);
    for (int r = 0; r < ROWS && status == KVF_OK; r++)
        out_rows[r] = out[r];
    return status;
}

static void check_norm(kvf_device *device, float first, float step)
{
    float values[NORM_ROWS];
    run_norm(device, values);
    for (int r = 0; r < NORM_ROWS; r++)
        assert_true(values[r] == first + step * (float)r);
}

static void check_product(kvf_device *device, kvf_weight_id type, float first, float step)
{
    float values[ROWS];
    kvf_error error;
    require(run_product(device, type, values, &error), &error);
    for (int r = 0; r < ROWS; r++)
        assert_true(values[r] == first + step * (float)r);
}

static void test_the_best_isa_runs(void **state)
{
    (void)state;
    kvf_device *device = must_open(NULL);
    assert_string_equal(kvf_device_isa_name(device), "new");
    check_norm(device, 300.0f, 0.0f);
    check_product(device, KVF_WEIGHT_Q8_0, 200.0f, 1.0f); /* of "old", in its shape */
    check_product(device, KVF_WEIGHT_F32, 0.0f, 0.0f);    /* generic */
    check_product(device, KVF_WEIGHT_Q4_0, 0.0f, 0.0f);   /* generic, of variant any */
    kvf_device_close(device);
}

static void test_an_isa_can_be_forced(void **state)
{
    (void)state;
    kvf_device *device = must_open("old");
    assert_string_equal(kvf_device_isa_name(device), "old");
    check_norm(device, 100.0f, 1.0f);
    check_product(device, KVF_WEIGHT_Q8_0, 200.0f, 1.0f);
    kvf_device_close(device);
    device = must_open("generic");
    assert_string_equal(kvf_device_isa_name(device), "generic");
    check_norm(device, 1.0f, 0.0f);
    check_product(device, KVF_WEIGHT_Q8_0, 0.0f, 0.0f);
    kvf_device_close(device);
}

static void test_an_isa_that_the_gpu_has_not(void **state)
{
    (void)state;
    static const char *const isas[] = {"new", "old"};
    kvf_device *device;
    kvf_error error;
    assert_int_equal(open_with(isas, 1, "old", &device, &error), KVF_UNSUPPORTED);
    assert_null(device);
    assert_string_equal(error.message, "backend emulated has no ISA 'old' on Emulated GPU; "
                                       "there are: new, generic");
    assert_int_equal(open_with(NULL, 0, "avx2", &device, &error), KVF_UNSUPPORTED);
    assert_string_equal(error.message, "backend emulated has no ISA 'avx2' on Emulated GPU; "
                                       "there are: generic");
}

/* A kernel that a driver lists and has not is said when the device is opened. */
static void test_a_kernel_that_is_not_there(void **state)
{
    (void)state;
    static const char *const isas[] = {"lost"};
    kvf_device *device;
    kvf_error error;
    assert_int_equal(open_with(isas, 1, NULL, &device, &error), KVF_UNSUPPORTED);
    assert_null(device);
    assert_non_null(strstr(error.message, "nowhere.metal"));
    require(open_with(isas, 1, "generic", &device, &error), &error);
    check_norm(device, 1.0f, 0.0f);
    kvf_device_close(device);
}

static int nothing_is_left(void **state)
{
    (void)state;
    const kvf_emulator_counters *now = kvf_emulator_get_counters();
    assert_int_equal(now->live_objects, 0);
    assert_int_equal(now->live_buffers, 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_the_best_isa_runs, nothing_is_left),
        cmocka_unit_test_teardown(test_an_isa_can_be_forced, nothing_is_left),
        cmocka_unit_test_teardown(test_an_isa_that_the_gpu_has_not, nothing_is_left),
        cmocka_unit_test_teardown(test_a_kernel_that_is_not_there, nothing_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
