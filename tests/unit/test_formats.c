/*
 * The row formats: grids against a brute-force search and against golden tensors, bytes
 * at the offsets that docs/FORMAT.md names (written here as numbers, not taken from
 * layout.h), and what pack promises about its neighbours and its result.
 *
 * argv[1], or KVF_TEST_GOLDENS at compile time, is the path of the golden tensors.
 */
#include "test_support.h"

#include <float.h>
#include <math.h>

#include "format/format.h"

enum { GOLDEN_ROWS = 48, RANDOM_ROWS = 400 };

static const char *goldens_path;

/* ---- Rows to test with ------------------------------------------------------ */

/*
 * A row whose runs of 32 values have quite different magnitudes, each below a power of
 * two between the two exponents, with zeros of both signs in it.
 */
static void random_row(float *row, uint32_t width, int lowest_exponent, int highest_exponent,
                       uint64_t *seed)
{
    const uint32_t span = (uint32_t)(highest_exponent - lowest_exponent + 1);
    int exponent = 0;
    for (uint32_t i = 0; i < width; i++) {
        if (i % 32 == 0)
            exponent = lowest_exponent + (int)(test_random(seed) % span);
        const int below = (int)(test_random(seed) % 12);
        row[i] = ldexpf(test_random_unit(seed), exponent - below);
        if (test_random(seed) % 64 == 0)
            row[i] = copysignf(0.0f, test_random_unit(seed));
    }
}

/* ---- The grids by brute force ----------------------------------------------- */

/* Magnitude of a minifloat code: ldexp on its fields. */
static double code_magnitude(uint32_t code, int mantissa_bits, int bias)
{
    const int exponent = (int)(code >> mantissa_bits);
    const int mantissa = (int)(code & ((1u << mantissa_bits) - 1));
    if (exponent == 0)
        return ldexp(mantissa, 1 - bias - mantissa_bits);
    return ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

typedef struct minifloat {
    int mantissa_bits;
    int bias;
    uint32_t largest_code;
} minifloat;

static const minifloat e4m3 = {3, 7, 0x7e};
static const minifloat e2m1 = {1, 1, 0x7};
static const minifloat f16 = {10, 15, 0x7bff};

/*
 * The value nearest to x of all codes times 2^exponent; a tie goes to the even code.
 * Twice x and the sum of two neighbours are exact in double, their comparison too.
 */
static float nearest_value(float x, minifloat format, int exponent)
{
    const double twice = 2 * fabs((double)x);
    uint32_t code = 0;
    double value = 0;
    while (code < format.largest_code) {
        const double next =
            ldexp(code_magnitude(code + 1, format.mantissa_bits, format.bias), exponent);
        if (twice < value + next || (twice == value + next && code % 2 == 0))
            break;
        value = next;
        code++;
    }
    return copysignf((float)value, x);
}

/* Rounds n values that share a scale: floor and top are FORMAT.md's. */
static void round_block(float *values, uint32_t n, minifloat format, double floor, double top)
{
    double amax = floor;
    for (uint32_t i = 0; i < n; i++)
        amax = fmax(amax, fabs((double)values[i]));
    int exponent = -200;
    while (amax > ldexp(top, exponent))
        exponent++;
    for (uint32_t i = 0; i < n; i++)
        values[i] = nearest_value(values[i], format, exponent);
}

static void brute_force_fp8(float *row)
{
    for (uint32_t first = 0; first < 448; first += 64)
        round_block(row + first, 64, e4m3, (double)1e-4f, 448);
    for (uint32_t i = 448; i < 512; i++)
        row[i] = nearest_value(row[i], f16, 0);
}

static void brute_force_fp4(float *row)
{
    for (uint32_t first = 0; first < 128; first += 32)
        round_block(row + first, 32, e2m1, 6 * 0x1p-126, 6);
}

static void grid_fp8_is_the_nearest_value_of_a_brute_force_search(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int r = 0; r < 40; r++) {
        float row[512], expected[512];
        /* Small rope values have low codes, which the search reaches soon. */
        random_row(row, 448, r % 2 ? -30 : -149, r % 2 ? 20 : 126, &seed);
        random_row(row + 448, 64, -26, -2, &seed);
        memcpy(expected, row, sizeof row);
        brute_force_fp8(expected);
        kvf_grid_fp8(row);
        test_assert_same_bits(row, expected, 512, "grid_fp8");
    }
}

static void grid_fp4_is_the_nearest_value_of_a_brute_force_search(void **state)
{
    (void)state;
    uint64_t seed = 2;
    for (int r = 0; r < RANDOM_ROWS; r++) {
        float row[128], expected[128];
        random_row(row, 128, r % 2 ? -30 : -149, r % 2 ? 20 : 126, &seed);
        memcpy(expected, row, sizeof row);
        brute_force_fp4(expected);
        kvf_grid_fp4(row);
        test_assert_same_bits(row, expected, 128, "grid_fp4");
    }
}

static void grid_fp8_reaches_infinity_only_from_248_times_2_to_120(void **state)
{
    (void)state;
    float row[512] = {0};
    row[0] = nextafterf(0x1.fp127f, 0); /* 248 * 2^120, less one step */
    row[64] = 0x1.fp127f;
    row[128] = -FLT_MAX;
    row[448] = FLT_MAX;
    kvf_grid_fp8(row);
    assert_true(row[0] == 0x1.ep127f);
    assert_true(row[64] == INFINITY);
    assert_true(row[128] == -INFINITY);
    assert_true(row[448] == 65504.0f);
}

/* ---- Goldens ----------------------------------------------------------------- */

static void grid_fp8_matches_the_goldens_to_the_last_bit(void **state)
{
    (void)state;
    static float in[GOLDEN_ROWS * 512], out[GOLDEN_ROWS * 512];
    test_goldens goldens;
    test_goldens_open(&goldens, goldens_path);
    test_goldens_read(&goldens, "unit.kv_in", "F32", GOLDEN_ROWS * 512, in);
    test_goldens_read(&goldens, "unit.kv_out", "F32", GOLDEN_ROWS * 512, out);
    test_goldens_close(&goldens);
    for (int r = 0; r < GOLDEN_ROWS; r++)
        kvf_grid_fp8(in + r * 512);
    test_assert_same_bits(in, out, GOLDEN_ROWS * 512, "unit.kv_out");
}

static void grid_fp4_matches_the_goldens_to_the_last_bit(void **state)
{
    (void)state;
    static float in[GOLDEN_ROWS * 128], out[GOLDEN_ROWS * 128];
    test_goldens goldens;
    test_goldens_open(&goldens, goldens_path);
    test_goldens_read(&goldens, "unit.ix_hadamard", "F32", GOLDEN_ROWS * 128, in);
    test_goldens_read(&goldens, "unit.ix_e2m1_of_hadamard", "F32", GOLDEN_ROWS * 128, out);
    test_goldens_close(&goldens);
    for (int r = 0; r < GOLDEN_ROWS; r++)
        kvf_grid_fp4(in + r * 128);
    test_assert_same_bits(in, out, GOLDEN_ROWS * 128, "unit.ix_e2m1_of_hadamard");
}

/* A matrix product sums in another order: last bits differ, by 7 roundings at most. */
static void hadamard_is_close_to_the_goldens(void **state)
{
    (void)state;
    static float in[GOLDEN_ROWS * 128], out[GOLDEN_ROWS * 128];
    test_goldens goldens;
    test_goldens_open(&goldens, goldens_path);
    test_goldens_read(&goldens, "unit.ix_in", "F32", GOLDEN_ROWS * 128, in);
    test_goldens_read(&goldens, "unit.ix_hadamard", "F32", GOLDEN_ROWS * 128, out);
    test_goldens_close(&goldens);
    for (int r = 0; r < GOLDEN_ROWS; r++) {
        double norm = 0;
        for (int i = 0; i < 128; i++)
            norm += (double)in[r * 128 + i] * (double)in[r * 128 + i];
        kvf_hadamard_128(in + r * 128);
        for (int i = 0; i < 128; i++) {
            const double difference = (double)in[r * 128 + i] - (double)out[r * 128 + i];
            assert_true(fabs(difference) <= 1e-6 * sqrt(norm));
        }
    }
}

/* ---- Hadamard ---------------------------------------------------------------- */

/* Sums of 128 small integers are exact, so only the one multiply rounds. */
static void hadamard_of_small_integers_is_exact(void **state)
{
    (void)state;
    uint64_t seed = 3;
    for (int r = 0; r < 20; r++) {
        float row[128], expected[128];
        for (int i = 0; i < 128; i++)
            row[i] = (float)((int)(test_random(&seed) % 2001) - 1000);
        for (int i = 0; i < 128; i++) {
            int sum = 0;
            for (int j = 0; j < 128; j++) /* Sylvester: the sign is the parity of i & j */
                sum += __builtin_parity((unsigned)(i & j)) ? -(int)row[j] : (int)row[j];
            expected[i] = (float)sum * 0.08838834764831845f;
        }
        kvf_hadamard_128(row);
        /* Compared as numbers: a sum of zero may carry either sign. */
        for (int i = 0; i < 128; i++)
            assert_true(row[i] == expected[i]);
    }
}

/* ---- Sizes ------------------------------------------------------------------- */

static void sizes_are_those_of_the_format_page(void **state)
{
    (void)state;
    const struct {
        kvf_format_id id;
        const char *name;
        uint32_t width;
        size_t row_bytes;
        size_t page_of_1_bytes;
        size_t page_of_64_bytes;
    } expected[] = {
        {KVF_FORMAT_F32, "f32", 512, 2048, 2048, 131072},
        {KVF_FORMAT_F32, "f32", 128, 512, 512, 32768},
        {KVF_FORMAT_F16, "f16", 512, 1024, 1024, 65536},
        {KVF_FORMAT_F16, "f16", 128, 256, 256, 16384},
        {KVF_FORMAT_FP8_F16, "fp8_f16", 512, 584, 1152, 37440},
        {KVF_FORMAT_FP8_BF16, "fp8_bf16", 512, 584, 1152, 37440},
        {KVF_FORMAT_FP4, "fp4", 128, 68, 68, 4352},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_string_equal(kvf_format_name(expected[i].id), expected[i].name);
        assert_string_equal(kvf_format_get(expected[i].id)->name, expected[i].name);
        const kvf_format_id id = expected[i].id;
        const uint32_t width = expected[i].width;
        assert_int_equal(kvf_format_row_bytes(id, width), expected[i].row_bytes);
        assert_int_equal(kvf_format_page_bytes(id, width, 1), expected[i].page_of_1_bytes);
        assert_int_equal(kvf_format_page_bytes(id, width, 64), expected[i].page_of_64_bytes);
    }
    /* A multiple of 72 rows fills its page: 72 * 8 = 576. */
    assert_int_equal(kvf_format_page_bytes(KVF_FORMAT_FP8_F16, 512, 72), 72 * 584);
    assert_int_equal(kvf_format_page_bytes(KVF_FORMAT_F32, 512, UINT32_MAX),
                     (size_t)UINT32_MAX * 2048);
}

static void sizes_of_what_does_not_exist_are_zero(void **state)
{
    (void)state;
    assert_int_equal(kvf_format_row_bytes(KVF_FORMAT_FP8_F16, 128), 0);
    assert_int_equal(kvf_format_row_bytes(KVF_FORMAT_FP4, 512), 0);
    assert_int_equal(kvf_format_page_bytes(KVF_FORMAT_FP4, 512, 64), 0);
    const kvf_format_id unknown[] = {KVF_FORMAT_COUNT, (kvf_format_id)-1, (kvf_format_id)1000};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        assert_null(kvf_format_get(unknown[i]));
        assert_null(kvf_format_name(unknown[i]));
        assert_int_equal(kvf_format_row_bytes(unknown[i], 512), 0);
        assert_int_equal(kvf_format_page_bytes(unknown[i], 512, 64), 0);
    }
    for (int id = 0; id < KVF_FORMAT_COUNT; id++) {
        const uint32_t widths[] = {0, 1, 64, 127, 256, 448, 513, UINT32_MAX};
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
            assert_int_equal(kvf_format_row_bytes((kvf_format_id)id, widths[i]), 0);
        assert_int_equal(kvf_format_page_bytes((kvf_format_id)id, 128, 0), 0);
        assert_int_equal(kvf_format_page_bytes((kvf_format_id)id, 512, 0), 0);
    }
}

/* ---- Bytes ------------------------------------------------------------------- */

/* Block b of row 1 of 3 holds 2^b and -2^b/256 in turn; rope value i is 1 + i/64. */
static void fp8_bytes_are_where_the_format_page_says(void **state)
{
    (void)state;
    float row[512];
    for (int i = 0; i < 448; i++)
        row[i] = i % 2 ? -ldexpf(1, i / 64 - 8) : ldexpf(1, i / 64);
    for (int i = 0; i < 64; i++)
        row[448 + i] = 1.0f + (float)i / 64;
    const kvf_format_id ids[] = {KVF_FORMAT_FP8_F16, KVF_FORMAT_FP8_BF16};
    for (int f = 0; f < 2; f++) {
        uint8_t page[4 * 576] = {0};
        kvf_format_get(ids[f])->pack(page, 3, 1, 512, row);
        /* 2^b = 256 * 2^(b - 8): the code of 256 is 0x78, of -1 0xb8; 1 <= 1.75. */
        for (int i = 0; i < 448; i++)
            assert_int_equal(page[576 + i], i % 2 ? 0xb8 : 0x78);
        for (int i = 0; i < 64; i++) {
            uint16_t code;
            memcpy(&code, page + 576 + 448 + 2 * i, 2);
            /* f16 has 10 mantissa bits, bf16 7: i/64 is i << 4 and i << 1. */
            assert_int_equal(code, f == 0 ? 0x3c00 + (i << 4) : 0x3f80 + (i << 1));
        }
        for (int b = 0; b < 7; b++)
            assert_int_equal(page[3 * 576 + 8 + b], 127 + b - 8);
        assert_int_equal(page[3 * 576 + 8 + 7], 0);
    }
}

/* Each block b of row 2 of 3: 0, .5, 1, 1.5, 2, 3, 4, 6 and their negatives, times 2^b. */
static void fp4_bytes_are_where_the_format_page_says(void **state)
{
    (void)state;
    const float grid[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    float row[128];
    for (int i = 0; i < 128; i++) {
        const float value = ldexpf(grid[i % 8], i / 32);
        row[i] = i % 16 < 8 ? value : -value;
    }
    uint8_t page[3 * 68] = {0};
    kvf_format_get(KVF_FORMAT_FP4)->pack(page, 3, 2, 128, row);
    for (int i = 0; i < 64; i++) {
        const int even = (2 * i) % 16, odd = (2 * i + 1) % 16;
        assert_int_equal(page[2 * 64 + i], even | odd << 4);
    }
    for (int b = 0; b < 4; b++)
        assert_int_equal(page[3 * 64 + 2 * 4 + b], 127 + b);
}

/* Marks the bytes of one row of a page, by the layout of docs/FORMAT.md. */
static void mark_row(uint8_t *marks, kvf_format_id id, uint32_t width, uint32_t page_rows,
                     uint32_t row)
{
    size_t data_bytes = 0, scale_bytes = 0;
    switch (id) {
    case KVF_FORMAT_F32: data_bytes = 4 * (size_t)width; break;
    case KVF_FORMAT_F16: data_bytes = 2 * (size_t)width; break;
    case KVF_FORMAT_FP4: data_bytes = 64, scale_bytes = 4; break;
    default: data_bytes = 576, scale_bytes = 8; break;
    }
    memset(marks + row * data_bytes, 1, data_bytes);
    memset(marks + page_rows * data_bytes + row * scale_bytes, 1, scale_bytes);
}

static void check_pack_touches_only_its_row(kvf_format_id id, uint32_t width)
{
    enum { PAGE_ROWS = 5 };
    const kvf_format *format = kvf_format_get(id);
    const size_t page_bytes = format->page_bytes(width, PAGE_ROWS);
    uint64_t seed = 4;
    for (uint32_t row = 0; row < PAGE_ROWS; row++) {
        float values[512];
        random_row(values, width, -8, 3, &seed);
        uint8_t *marks = test_calloc(page_bytes, 1);
        mark_row(marks, id, width, PAGE_ROWS, row);
        /* Two fills tell a byte that was not written from one that happens to equal it;
         * the page starts at an odd address. The row alone decides the row's bytes. */
        uint8_t *pages[2];
        for (int fill = 0; fill < 2; fill++) {
            pages[fill] = test_malloc(page_bytes + 1);
            memset(pages[fill], fill ? 0xa5 : 0x5a, page_bytes + 1);
            format->pack(pages[fill] + 1, PAGE_ROWS, row, width, values);
            for (size_t i = 0; i < page_bytes; i++)
                if (!marks[i])
                    assert_int_equal(pages[fill][i + 1], fill ? 0xa5 : 0x5a);
        }
        for (size_t i = 0; i < page_bytes; i++)
            if (marks[i])
                assert_int_equal(pages[0][i + 1], pages[1][i + 1]);
        /* cmocka's allocator reports writes beyond either end here. */
        test_free(pages[0]);
        test_free(pages[1]);
        test_free(marks);
    }
}

static void pack_writes_every_byte_of_its_row_and_no_other(void **state)
{
    (void)state;
    check_pack_touches_only_its_row(KVF_FORMAT_F32, 512);
    check_pack_touches_only_its_row(KVF_FORMAT_F32, 128);
    check_pack_touches_only_its_row(KVF_FORMAT_F16, 512);
    check_pack_touches_only_its_row(KVF_FORMAT_F16, 128);
    check_pack_touches_only_its_row(KVF_FORMAT_FP8_F16, 512);
    check_pack_touches_only_its_row(KVF_FORMAT_FP8_BF16, 512);
    check_pack_touches_only_its_row(KVF_FORMAT_FP4, 128);
}

/* ---- Values ------------------------------------------------------------------ */

/* Packs a row into row 3 of a page of 7 at an odd address and reads it back. */
static bool round_trip(kvf_format_id id, uint32_t width, const float *in, float *out)
{
    static uint8_t page[1 + 7 * 2048];
    const kvf_format *format = kvf_format_get(id);
    assert_true(format->page_bytes(width, 7) < sizeof page);
    const bool exact = format->pack(page + 1, 7, 3, width, in);
    format->unpack(page + 1, 7, 3, width, out);
    return exact;
}

static void f32_gives_back_what_it_was_given(void **state)
{
    (void)state;
    uint64_t seed = 5;
    float row[512], back[512];
    random_row(row, 512, -149, 126, &seed);
    assert_true(round_trip(KVF_FORMAT_F32, 512, row, back));
    test_assert_same_bits(back, row, 512, "f32");
    assert_true(round_trip(KVF_FORMAT_F32, 128, row, back));
    test_assert_same_bits(back, row, 128, "f32");
}

static void f16_says_when_a_value_changed(void **state)
{
    (void)state;
    float row[128] = {0}, back[128];
    row[5] = -65504.0f;
    row[6] = 0x1p-24f;
    row[7] = -0.0f;
    assert_true(round_trip(KVF_FORMAT_F16, 128, row, back));
    test_assert_same_bits(back, row, 128, "f16");

    const struct {
        float in, out;
    } inexact[] = {{65520.0f, 65504.0f},
                   {-FLT_MAX, -65504.0f},
                   {0x1p-26f, 0.0f},
                   {1 + 0x1p-11f, 1.0f},
                   {1 + 0x3p-11f, 1 + 0x1p-9f}};
    for (size_t i = 0; i < sizeof inexact / sizeof *inexact; i++) {
        row[127] = inexact[i].in;
        assert_false(round_trip(KVF_FORMAT_F16, 128, row, back));
        row[127] = inexact[i].out;
        test_assert_same_bits(back, row, 128, "f16");
    }
}

/* docs/FORMAT.md 3: exact in f16 for block exponents -15 .. 7, and not beyond. */
static void f16_holds_grid_rows_of_block_exponents_minus_15_to_7(void **state)
{
    (void)state;
    for (int exponent = -22; exponent <= 20; exponent++) {
        float row[512] = {0}, back[512];
        /* Every magnitude of e4m3 at this exponent; the largest fixes each block's. */
        for (int i = 0; i < 448; i++) {
            const uint32_t code = i % 64 == 63 ? 0x7e : (uint32_t)i % 127;
            row[i] = (float)ldexp(code_magnitude(code, 3, 7), exponent);
        }
        float grid[512];
        memcpy(grid, row, sizeof row);
        kvf_grid_fp8(grid);
        test_assert_same_bits(grid, row, 512, "a row on the grid");
        const bool exact = exponent >= -15 && exponent <= 7;
        assert_int_equal(round_trip(KVF_FORMAT_F16, 512, row, back), exact);
        if (exact)
            test_assert_same_bits(back, row, 512, "f16");
    }
}

static void fp8_f16_unpacks_to_the_grid(void **state)
{
    (void)state;
    uint64_t seed = 6;
    for (int r = 0; r < RANDOM_ROWS; r++) {
        float row[512], back[512];
        random_row(row, 512, r % 2 ? -30 : -149, r % 2 ? 20 : 126, &seed);
        assert_true(round_trip(KVF_FORMAT_FP8_F16, 512, row, back));
        kvf_grid_fp8(row);
        test_assert_same_bits(back, row, 512, "fp8_f16");
    }
}

/* What bf16 rounding is, by arithmetic: 8 significant bits of a double. */
static float round_to_bf16(float x)
{
    int exponent;
    const double fraction = frexp((double)x, &exponent);
    return (float)ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8);
}

static void fp8_bf16_rounds_rope_from_the_input(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (int r = 0; r < RANDOM_ROWS; r++) {
        float row[512], back[512], expected[512];
        random_row(row, 512, -20, 15, &seed);
        const bool exact = round_trip(KVF_FORMAT_FP8_BF16, 512, row, back);
        memcpy(expected, row, sizeof row);
        kvf_grid_fp8(expected);
        assert_int_equal(exact, false);
        for (int i = 448; i < 512; i++)
            expected[i] = round_to_bf16(row[i]);
        test_assert_same_bits(back, expected, 512, "fp8_bf16");
    }
}

static void fp8_bf16_is_exact_when_rope_is_the_same_in_bf16_and_f16(void **state)
{
    (void)state;
    float row[512] = {0}, back[512];
    for (int i = 448; i < 512; i++)
        row[i] = (float)(i - 480) / 32; /* at most 6 significant bits */
    assert_true(round_trip(KVF_FORMAT_FP8_BF16, 512, row, back));
    test_assert_same_bits(back, row, 512, "fp8_bf16");
    row[511] = 1 + 0x1p-8f; /* f16 keeps it, bf16 does not */
    assert_false(round_trip(KVF_FORMAT_FP8_BF16, 512, row, back));
    row[511] = 0x1p-40f; /* bf16 keeps it, the grid does not */
    assert_false(round_trip(KVF_FORMAT_FP8_BF16, 512, row, back));
}

static void fp4_unpacks_to_the_grid(void **state)
{
    (void)state;
    uint64_t seed = 8;
    for (int r = 0; r < RANDOM_ROWS; r++) {
        float row[128], back[128];
        random_row(row, 128, r % 2 ? -30 : -149, r % 2 ? 20 : 126, &seed);
        assert_true(round_trip(KVF_FORMAT_FP4, 128, row, back));
        kvf_grid_fp4(row);
        test_assert_same_bits(back, row, 128, "fp4");
    }
}

static void check_packing_again_changes_no_value(kvf_format_id id, uint32_t width)
{
    uint64_t seed = 9;
    for (int r = 0; r < RANDOM_ROWS; r++) {
        float row[512], once[512], twice[512];
        /* 2^119: clear of the corner where the grid reaches infinity. */
        random_row(row, width, -149, 119, &seed);
        round_trip(id, width, row, once);
        round_trip(id, width, once, twice);
        test_assert_same_bits(twice, once, width, kvf_format_name(id));
    }
}

static void packing_an_unpacked_row_changes_no_value(void **state)
{
    (void)state;
    check_packing_again_changes_no_value(KVF_FORMAT_F32, 512);
    check_packing_again_changes_no_value(KVF_FORMAT_F16, 512);
    check_packing_again_changes_no_value(KVF_FORMAT_FP8_F16, 512);
    check_packing_again_changes_no_value(KVF_FORMAT_FP8_BF16, 512);
    check_packing_again_changes_no_value(KVF_FORMAT_FP4, 128);
}

/* Bytes of a file may be anything. Scale 2^-127 and 2^127, NaN codes, NaN scales. */
static void fp8_unpacks_any_bytes_by_arithmetic(void **state)
{
    (void)state;
    uint64_t seed = 10;
    for (int r = 0; r < RANDOM_ROWS; r++) {
        uint8_t page[2 * 576];
        for (size_t i = 0; i < sizeof page; i++)
            page[i] = (uint8_t)test_random(&seed);
        page[576] = r % 3 ? page[576] : 0;
        page[577] = r % 3 ? page[577] : 255;
        float row[512];
        kvf_format_get(KVF_FORMAT_FP8_F16)->unpack(page, 1, 0, 512, row);
        for (int i = 0; i < 448; i++) {
            const uint32_t code = page[i] & 0x7f;
            const int scale = page[576 + i / 64];
            if (code == 0x7f || scale == 255) {
                assert_true(isnan(row[i]));
                continue;
            }
            const float magnitude = (float)ldexp(code_magnitude(code, 3, 7), scale - 127);
            const float expected = page[i] & 0x80 ? -magnitude : magnitude;
            test_assert_same_bits(row + i, &expected, 1, "fp8 of any bytes");
        }
    }
}

int main(int argc, char **argv)
{
#ifdef KVF_TEST_GOLDENS
    goldens_path = KVF_TEST_GOLDENS;
#endif
    if (argc > 1)
        goldens_path = argv[1];
    if (!goldens_path) {
        fprintf(stderr, "usage: %s GOLDENS.safetensors\n", argv[0]);
        return 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grid_fp8_is_the_nearest_value_of_a_brute_force_search),
        cmocka_unit_test(grid_fp4_is_the_nearest_value_of_a_brute_force_search),
        cmocka_unit_test(grid_fp8_reaches_infinity_only_from_248_times_2_to_120),
        cmocka_unit_test(grid_fp8_matches_the_goldens_to_the_last_bit),
        cmocka_unit_test(grid_fp4_matches_the_goldens_to_the_last_bit),
        cmocka_unit_test(hadamard_is_close_to_the_goldens),
        cmocka_unit_test(hadamard_of_small_integers_is_exact),
        cmocka_unit_test(sizes_are_those_of_the_format_page),
        cmocka_unit_test(sizes_of_what_does_not_exist_are_zero),
        cmocka_unit_test(fp8_bytes_are_where_the_format_page_says),
        cmocka_unit_test(fp4_bytes_are_where_the_format_page_says),
        cmocka_unit_test(pack_writes_every_byte_of_its_row_and_no_other),
        cmocka_unit_test(f32_gives_back_what_it_was_given),
        cmocka_unit_test(f16_says_when_a_value_changed),
        cmocka_unit_test(f16_holds_grid_rows_of_block_exponents_minus_15_to_7),
        cmocka_unit_test(fp8_f16_unpacks_to_the_grid),
        cmocka_unit_test(fp8_bf16_rounds_rope_from_the_input),
        cmocka_unit_test(fp8_bf16_is_exact_when_rope_is_the_same_in_bf16_and_f16),
        cmocka_unit_test(fp4_unpacks_to_the_grid),
        cmocka_unit_test(packing_an_unpacked_row_changes_no_value),
        cmocka_unit_test(fp8_unpacks_any_bytes_by_arithmetic),
    };
    return cmocka_run_group_tests_name("formats", tests, NULL, NULL);
}
