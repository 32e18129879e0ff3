/*
 * The aligned form of index scores (src/backend/cpu/score.inc.h) at its limits: rows
 * and heads whose block scales differ by 2^0 .. 2^6, scales around 2^+-20, weights
 * around 2^+-40, zero blocks. Every ISA against ref, bit for bit.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"

#define N_ROWS 100 /* three pairs of tiles and a rest */
#define N_HEADS 16
#define N_QUERIES 3
#define PAGE_ROWS 64

static uint64_t random_state = 1;
/* All values of a block are its largest, with one sign: integer sums at their limits. */
static bool all_largest;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(random_state >> 33) % n;
}

/*
 * Index rows with given scales: each block's largest value is 6 * 2^e, so that its
 * exponent is e; e = base + 0 .. spread. One block in eight is zero.
 */
static void fill_rows(float *rows, uint32_t n_rows, int base, uint32_t spread)
{
    static const float grid[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    for (uint32_t block = 0; block < n_rows * 4; block++) {
        const int e = base + (int)random_below(spread + 1);
        const bool zero = random_below(8) == 0;
        for (uint32_t i = 0; i < 32; i++) {
            const float value = i == 0 || all_largest ? 6.0f : grid[random_below(8)];
            const float sign = random_below(2) && !all_largest ? -1.0f : 1.0f;
            rows[block * 32 + i] = zero ? 0.0f : sign * ldexpf(value, e);
        }
    }
}

typedef struct packed {
    kvf_rows view;
    uint8_t *memory;
} packed;

static packed pack_rows(kvf_device *device, const float *rows, uint32_t n_rows)
{
    const size_t page_bytes = kvf_format_page_bytes(KVF_FORMAT_FP4, KVF_INDEX_WIDTH, PAGE_ROWS);
    packed p;
    p.memory = calloc((n_rows + PAGE_ROWS - 1) / PAGE_ROWS, page_bytes);
    p.view = (kvf_rows){.format = KVF_FORMAT_FP4,
                        .width = KVF_INDEX_WIDTH,
                        .page_rows = PAGE_ROWS,
                        .n_rows = n_rows,
                        .base = p.memory,
                        .page_stride_bytes = page_bytes};
    kvf_pack_args args = {.rows = rows,
                          .stride = KVF_INDEX_WIDTH,
                          .n_rows = n_rows,
                          .grid = KVF_GRID_FP4,
                          .out = p.view};
    kvf_error error;
    if (kvf_pack(device, &args, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return p;
}

static void score(kvf_device *device, kvf_select_args *select, float scores[N_QUERIES][N_ROWS])
{
    const kvf_score_args args = {.select = select,
                                 .n_queries = N_QUERIES,
                                 .n_rows = N_ROWS,
                                 .scores = scores[0],
                                 .stride = N_ROWS};
    select->workspace_bytes = kvf_select_workspace_bytes(device, select);
    select->workspace = aligned_alloc(64, (select->workspace_bytes + 63) / 64 * 64);
    device->backend->score(device, &args);
    free(select->workspace);
}

static kvf_device *open_device(const char *backend, const char *isa)
{
    kvf_device *device = NULL;
    const kvf_device_options options = {.backend = backend, .isa = isa, .n_threads = 1};
    return kvf_device_open(&options, &device, NULL) == KVF_OK ? device : NULL;
}

/* The same scores on ref and on every ISA that this machine has. */
static void compare(int key_base, uint32_t key_spread, int query_base, uint32_t query_spread,
                    int weight_exponent)
{
    static const char *const isas[] = {"scalar", "avx2", "avx512", "avx512vnni", "neon"};
    static float rows[N_ROWS * KVF_INDEX_WIDTH];
    static float heads[N_QUERIES * N_HEADS * KVF_INDEX_WIDTH];
    float weights[N_QUERIES * N_HEADS];
    uint32_t n_visible[N_QUERIES];
    fill_rows(rows, N_ROWS, key_base, key_spread);
    fill_rows(heads, N_QUERIES * N_HEADS, query_base, query_spread);
    for (int i = 0; i < N_QUERIES * N_HEADS; i++)
        weights[i] = random_below(10) == 0
                         ? 0.0f
                         : ldexpf((float)random_below(2000) / 1000.0f - 1.0f, weight_exponent);
    for (int i = 0; i < N_QUERIES; i++)
        n_visible[i] = N_ROWS - (uint32_t)i;
    kvf_device *ref = open_device("ref", NULL);
    const packed keys = pack_rows(ref, rows, N_ROWS);
    const packed queries = pack_rows(ref, heads, N_QUERIES * N_HEADS);
    kvf_select_args select = {.n_queries = N_QUERIES,
                              .n_heads = N_HEADS,
                              .top_k = 8,
                              .queries = queries.view,
                              .head_weights = weights,
                              .keys = keys.view,
                              .n_visible = n_visible};
    float expected[N_QUERIES][N_ROWS];
    float found[N_QUERIES][N_ROWS];
    score(ref, &select, expected);
    int n_isas = 0;
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        kvf_device *cpu = open_device("cpu", isas[i]);
        if (!cpu)
            continue;
        memset(found, 0, sizeof found);
        score(cpu, &select, found);
        if (memcmp(expected, found, sizeof found) != 0)
            fail_msg("%s: keys 2^%d + %u, queries 2^%d + %u, weights 2^%d differ from ref", isas[i],
                     key_base, key_spread, query_base, query_spread, weight_exponent);
        kvf_device_close(cpu);
        n_isas++;
    }
    assert_true(n_isas >= 1);
    free(keys.memory);
    free(queries.memory);
    kvf_device_close(ref);
}

static void scales_that_differ_by_up_to_2_to_6_give_ref_s_bits(void **state)
{
    (void)state;
    for (uint32_t keys = 0; keys <= 6; keys++)
        for (uint32_t queries = 0; queries <= 6; queries++)
            for (int repeat = 0; repeat < 3; repeat++)
                compare(-2, keys, -1, queries, 0);
}

static void the_largest_codes_do_not_overflow_any_integer(void **state)
{
    (void)state;
    all_largest = true;
    for (uint32_t keys = 0; keys <= 4; keys++)
        for (uint32_t queries = 0; queries <= 4; queries++)
            compare(0, keys, 0, queries, 0);
    all_largest = false;
}

static void scales_around_the_limits_of_2_to_20_give_ref_s_bits(void **state)
{
    (void)state;
    for (int keys = -23; keys <= 21; keys += keys == -17 ? 33 : 1)
        for (int queries = -23; queries <= 21; queries += queries == -17 ? 33 : 1)
            compare(keys, 2, queries, 2, 0);
}

static void weights_around_the_limits_of_2_to_40_give_ref_s_bits(void **state)
{
    (void)state;
    for (int exponent = 34; exponent <= 50; exponent++) {
        compare(-20, 2, -20, 2, -exponent);
        compare(18, 2, 18, 2, exponent);
    }
    /* The ends of what pack allows. */
    compare(-50, 3, -50, 3, -20);
    compare(46, 3, 46, 3, 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scales_that_differ_by_up_to_2_to_6_give_ref_s_bits),
        cmocka_unit_test(the_largest_codes_do_not_overflow_any_integer),
        cmocka_unit_test(scales_around_the_limits_of_2_to_20_give_ref_s_bits),
        cmocka_unit_test(weights_around_the_limits_of_2_to_40_give_ref_s_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
