/*
 * The codes that pack stores, by every instruction set of this machine: for floats all over
 * the range and on both sides of every rounding boundary, against the scalar codecs of
 * src/shared, which test_formats_exhaustive.c holds against the definition. The first value
 * of each block is the grid's largest, so that the block's exponent is 0.
 */
#include "test_support.h"

#include "kvfold.h"
#include "shared/e2m1.h"
#include "shared/e4m3.h"
#include "shared/layout.h"

enum {
    PACKED_ROWS = 64,
    STRIDE_BITS = 4093, /* a prime: from one tested float to the next */
    EXPONENT_0 = 127    /* scale byte */
};

typedef struct grid_case {
    kvf_grid grid;
    kvf_format_id format;
    uint32_t width;
    uint32_t coded_width; /* values that have a code */
    uint32_t block_values;
    uint32_t largest_bits;
    uint32_t largest_code;
} grid_case;

static const grid_case fp8 = {.grid = KVF_GRID_FP8,
                              .format = KVF_FORMAT_FP8_F16,
                              .width = KVF_ROW_WIDTH,
                              .coded_width = KVF_NOPE_WIDTH,
                              .block_values = KVF_FP8_BLOCK_VALUES,
                              .largest_bits = 0x43e00000, /* 448 */
                              .largest_code = 0x7e};
static const grid_case fp4 = {.grid = KVF_GRID_FP4,
                              .format = KVF_FORMAT_FP4,
                              .width = KVF_INDEX_WIDTH,
                              .coded_width = KVF_INDEX_WIDTH,
                              .block_values = KVF_FP4_BLOCK_VALUES,
                              .largest_bits = 0x40c00000, /* 6 */
                              .largest_code = 7};

typedef struct pack_test {
    const grid_case *grid;
    kvf_device *device;
    kvf_rows out;
    float *rows; /* [PACKED_ROWS][width] */
    uint32_t n;  /* values waiting in rows, the first of blocks among them */
    uint64_t n_checked;
} pack_test;

static uint32_t encode(const grid_case *grid, float value)
{
    return grid == &fp8 ? kvf_e4m3_encode(test_bits(value)) : kvf_e2m1_encode(test_bits(value));
}

static uint32_t decode(const grid_case *grid, uint32_t code)
{
    return grid == &fp8 ? kvf_e4m3_decode((uint8_t)code) : kvf_e2m1_decode((uint8_t)code);
}

static uint32_t stored_code(const pack_test *test, uint32_t row, uint32_t dim)
{
    const uint8_t *page = test->out.base;
    if (test->grid == &fp8)
        return page[row * KVF_FP8_DATA_BYTES + dim];
    return page[row * KVF_FP4_CODE_BYTES + dim / 2] >> (dim % 2 * 4) & 15;
}

/* Packs what waits in rows, zeros in the rest, and looks at every code and scale. */
static void check_rows(pack_test *test)
{
    const grid_case *grid = test->grid;
    kvf_pack_args args = {.rows = test->rows,
                          .stride = grid->width,
                          .n_rows = PACKED_ROWS,
                          .grid = grid->grid,
                          .out = test->out};
    kvf_error error = {0};
    if (kvf_pack(test->device, &args, &error) != KVF_OK)
        fail_msg("%s", error.message);
    for (uint32_t row = 0; row < PACKED_ROWS; row++)
        for (uint32_t dim = 0; dim < grid->coded_width; dim++) {
            const float value = test->rows[row * grid->width + dim];
            const uint32_t got = stored_code(test, row, dim);
            if (got != encode(grid, value))
                fail_msg("%s: the code of %a is 0x%02x, not 0x%02x",
                         kvf_device_isa_name(test->device), (double)value, (unsigned)got,
                         (unsigned)encode(grid, value));
        }
    const uint32_t scale_bytes = grid == &fp8 ? KVF_FP8_SCALE_BYTES : KVF_FP4_SCALE_BYTES;
    const uint32_t n_blocks = grid->coded_width / grid->block_values;
    const uint8_t *scales =
        (const uint8_t *)test->out.base +
        PACKED_ROWS * (kvf_format_row_bytes(grid->format, grid->width) - scale_bytes);
    for (uint32_t i = 0; i < PACKED_ROWS * scale_bytes; i++)
        assert_int_equal(scales[i], i % scale_bytes < n_blocks ? EXPONENT_0 : 0);
    test->n_checked += test->n;
    test->n = 0;
}

static void begin_rows(pack_test *test)
{
    const grid_case *grid = test->grid;
    memset(test->rows, 0, sizeof *test->rows * PACKED_ROWS * grid->width);
    for (uint32_t row = 0; row < PACKED_ROWS; row++)
        for (uint32_t dim = 0; dim < grid->coded_width; dim += grid->block_values)
            test->rows[row * grid->width + dim] = test_float(grid->largest_bits);
}

static void add_value(pack_test *test, uint32_t bits)
{
    const grid_case *grid = test->grid;
    if (test->n % grid->block_values == 0)
        test->n++; /* the block's largest */
    if (test->n >= PACKED_ROWS * grid->coded_width) {
        check_rows(test);
        begin_rows(test);
        test->n = 1;
    }
    const uint32_t row = test->n / grid->coded_width;
    test->rows[row * grid->width + test->n % grid->coded_width] = test_float(bits);
    test->n++;
}

static void add_both_signs(pack_test *test, uint32_t bits)
{
    add_value(test, bits);
    add_value(test, bits | 0x80000000u);
}

static void check_grid(const grid_case *grid, kvf_device *device)
{
    const size_t page_bytes = kvf_format_page_bytes(grid->format, grid->width, PACKED_ROWS);
    pack_test test = {.grid = grid,
                      .device = device,
                      .out = {.format = grid->format,
                              .width = grid->width,
                              .page_rows = PACKED_ROWS,
                              .n_rows = PACKED_ROWS,
                              .base = aligned_alloc(64, (page_bytes + 63) / 64 * 64),
                              .page_stride_bytes = page_bytes},
                      .rows = calloc(PACKED_ROWS, sizeof(float) * grid->width)};
    assert_non_null(test.out.base);
    assert_non_null(test.rows);
    begin_rows(&test);
    for (uint64_t bits = 0; bits <= grid->largest_bits; bits += STRIDE_BITS)
        add_both_signs(&test, (uint32_t)bits);
    /* The middle between two codes, exact in f32, and the floats beside it. */
    for (uint32_t code = 0; code < grid->largest_code; code++) {
        const uint32_t low = decode(grid, code);
        const uint32_t high = decode(grid, code + 1);
        const uint32_t middle = test_bits(0.5f * (test_float(low) + test_float(high)));
        add_both_signs(&test, low);
        add_both_signs(&test, middle - 1);
        add_both_signs(&test, middle);
        add_both_signs(&test, middle + 1);
    }
    check_rows(&test);
    printf("%s %s: %llu values\n", kvf_device_isa_name(device), kvf_format_name(grid->format),
           (unsigned long long)test.n_checked);
    free(test.out.base);
    free(test.rows);
}

static void every_isa_stores_the_nearest_codes(void **state)
{
    static const char *const isas[] = {"scalar", "avx2", "avx512", "avx512vnni", "neon"};
    (void)state;
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        const kvf_device_options options = {.backend = "cpu", .isa = isas[i]};
        kvf_device *device;
        if (kvf_device_open(&options, &device, NULL) != KVF_OK)
            continue; /* not on this machine */
        check_grid(&fp8, device);
        check_grid(&fp4, device);
        kvf_device_close(device);
    }
}

/* At the largest scale, 2^120, the factor that turns a code into its value would not fit f32. */
static void every_isa_unpacks_the_largest_scale(void **state)
{
    static const char *const isas[] = {"scalar", "avx2", "avx512", "avx512vnni", "neon"};
    static _Alignas(64) uint8_t page[1152];
    static float values[KVF_ROW_WIDTH] = {0x1.ep+127f, -0x1p+120f, 0x1p+111f};
    (void)state;
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        const kvf_device_options options = {.backend = "cpu", .isa = isas[i]};
        kvf_device *device;
        if (kvf_device_open(&options, &device, NULL) != KVF_OK)
            continue;
        float got[KVF_ROW_WIDTH];
        kvf_pack_args pack = {.rows = values,
                              .stride = KVF_ROW_WIDTH,
                              .n_rows = 1,
                              .grid = KVF_GRID_FP8,
                              .out = {.format = KVF_FORMAT_FP8_F16,
                                      .width = KVF_ROW_WIDTH,
                                      .page_rows = 1,
                                      .n_rows = 1,
                                      .base = page,
                                      .page_stride_bytes = sizeof page}};
        assert_int_equal(kvf_pack(device, &pack, NULL), KVF_OK);
        assert_int_equal(page[KVF_FP8_DATA_BYTES], 120 + EXPONENT_0);
        const kvf_unpack_args unpack = {
            .in = pack.out, .n_rows = 1, .out = got, .stride = KVF_ROW_WIDTH};
        assert_int_equal(kvf_unpack(device, &unpack, NULL), KVF_OK);
        test_assert_same_bits(got, values, KVF_ROW_WIDTH, isas[i]);
        kvf_device_close(device);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_isa_stores_the_nearest_codes),
        cmocka_unit_test(every_isa_unpacks_the_largest_scale),
    };
    return cmocka_run_group_tests_name("codes of pack", tests, NULL, NULL);
}
