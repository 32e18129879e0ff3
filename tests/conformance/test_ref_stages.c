/* The reference backend against double precision: compress, select, attend. */
#include "conformance.h"

#include <math.h>

#include "backend/ref/ref.h"

#define HALF_ROPE (KVF_ROPE_WIDTH / 2)

/* ---- compress -------------------------------------------------------------------- */

struct pooled {
    const float *kv, *gate, *bias, *weight;
    kvf_rope_table rope;
    size_t width, ratio;
    bool overlap;
};

/* Row c from the tokens since 0, in double: softmax pooling, RMS norm, rope. */
static void double_row(const struct pooled *in, size_t c, double *row)
{
    const size_t columns = (in->overlap ? 2 : 1) * in->width;
    for (size_t d = 0; d < in->width; d++) {
        double sum = 0.0;
        double sum_kv = 0.0;
        const size_t first = in->overlap && c > 0 ? (c - 1) * in->ratio : c * in->ratio;
        for (size_t t = first; t < (c + 1) * in->ratio; t++) {
            const bool second_half = in->overlap && t >= c * in->ratio;
            const size_t column = d + (second_half ? in->width : 0);
            const double p = exp((double)in->gate[t * columns + column] +
                                 (double)in->bias[t % in->ratio * columns + column]);
            sum += p;
            sum_kv += p * (double)in->kv[t * columns + column];
        }
        row[d] = sum_kv / sum;
    }
    double mean_square = 0.0;
    for (size_t d = 0; d < in->width; d++)
        mean_square += row[d] * row[d] / (double)in->width;
    for (size_t d = 0; d < in->width; d++)
        row[d] = row[d] / sqrt(mean_square + 1e-6) * (double)in->weight[d];
    for (size_t i = 0; i < HALF_ROPE; i++) {
        double *pair = row + in->width - KVF_ROPE_WIDTH + 2 * i;
        const double x = pair[0];
        const double cosine = (double)in->rope.cosines[c * HALF_ROPE + i];
        const double sine = (double)in->rope.sines[c * HALF_ROPE + i];
        pair[0] = x * cosine - pair[1] * sine;
        pair[1] = pair[1] * cosine + x * sine;
    }
}

static void check_compress(uint32_t width, uint32_t ratio, bool overlap, uint32_t chunk)
{
    cf_run run;
    cf_begin_reference(&run, 8 + ratio);
    const uint32_t n_tokens = 3 * ratio + 1;
    const size_t columns = (overlap ? 2 : 1) * (size_t)width;
    struct pooled in = {.width = width, .ratio = ratio, .overlap = overlap};
    in.kv = cf_random_floats(&run, CF_NORMAL, n_tokens * columns);
    in.gate = cf_random_floats(&run, CF_NORMAL, n_tokens * columns);
    in.bias = cf_random_floats(&run, CF_NORMAL, ratio * columns);
    in.weight = cf_random_floats(&run, CF_NORMAL, width);
    in.rope = cf_rope_table(&run, 3);
    kvf_compress_args args = {.width = width, .ratio = ratio, .overlap = overlap};
    args.state = cf_floats(&run, (overlap ? 2 : 1) * ratio * 2 * columns);
    args.out = cf_rows(&run, KVF_FORMAT_F32, width, 3);
    for (uint32_t first = 0; first < n_tokens; first += chunk) {
        args.first_token = first;
        args.n = n_tokens - first < chunk ? n_tokens - first : chunk;
        args.input = (kvf_compressor_input){in.kv + first * columns, in.gate + first * columns,
                                            in.bias, in.weight, 1e-6f};
        args.rope.cosines = in.rope.cosines + first / ratio * HALF_ROPE;
        args.rope.sines = in.rope.sines + first / ratio * HALF_ROPE;
        kvf_finding finding = {.first_bad = KVF_NOTHING_FOUND};
        kvf_ref_compress(run.device, &args, &(kvf_findings){.place = &finding}, 1);
        assert_true(finding.first_bad == KVF_NOTHING_FOUND);
    }
    for (size_t c = 0; c < 3; c++) {
        double expected[KVF_ROW_WIDTH];
        float got[KVF_ROW_WIDTH];
        double_row(&in, c, expected);
        kvf_ref_load_row(&args.out, c, got);
        for (size_t d = 0; d < width; d++)
            cf_assert_close("compressed", c * width + d, got[d], expected[d], 2e-5);
    }
    cf_end(&run);
}

static void compress_pools_both_halves_of_csa_windows(void **state)
{
    (void)state;
    check_compress(KVF_ROW_WIDTH, 4, true, 13);
    check_compress(KVF_INDEX_WIDTH, 4, true, 1);
    check_compress(KVF_INDEX_WIDTH, 4, true, 3);
}

static void compress_pools_hca_windows_over_chunks(void **state)
{
    (void)state;
    check_compress(KVF_ROW_WIDTH, 128, false, 1000);
    check_compress(KVF_ROW_WIDTH, 128, false, 50);
}

/* A bad token is found when it comes, not when its row is due. */
static void compress_finds_a_bad_token_before_its_row_is_complete(void **state)
{
    (void)state;
    cf_run run;
    cf_begin_reference(&run, 9);
    const size_t columns = 2 * KVF_INDEX_WIDTH;
    float *kv = cf_random_floats(&run, CF_NORMAL, columns);
    float *gate = cf_random_floats(&run, CF_NORMAL, columns);
    gate[KVF_INDEX_WIDTH + 3] = NAN;
    kvf_compress_args args = {
        .width = KVF_INDEX_WIDTH, .ratio = 4, .overlap = true, .first_token = 8, .n = 1};
    args.input = (kvf_compressor_input){kv, gate, cf_random_floats(&run, CF_NORMAL, 4 * columns),
                                        cf_random_floats(&run, CF_NORMAL, KVF_INDEX_WIDTH), 1e-6f};
    const size_t state_bytes = 8 * 2 * columns * sizeof(float);
    args.state = cf_alloc(&run, state_bytes);
    args.out = cf_rows(&run, KVF_FORMAT_FP4, KVF_INDEX_WIDTH, 3);
    kvf_finding finding = {.first_bad = KVF_NOTHING_FOUND};
    kvf_ref_compress(run.device, &args, &(kvf_findings){&finding, 7}, 1);
    assert_true(finding.first_bad == kvf_found_word(false, 7, KVF_INDEX_WIDTH + 3, KVF_NONFINITE));
    /* The first half, for the next window's row, comes before it: a lower column. */
    gate[5] = gate[KVF_INDEX_WIDTH + 3];
    kvf_ref_compress(run.device, &args, &(kvf_findings){&finding, 7}, 1);
    const kvf_found found = kvf_found_of(finding.first_bad);
    assert_false(found.made);
    assert_int_equal(found.index, 7);
    assert_int_equal(found.dim, 5);
    assert_int_equal(found.reason, KVF_NONFINITE);
    cf_end(&run);
}

/* ---- score and select --------------------------------------------------------------- */

#define N_KEYS 300
#define N_INDEX_HEADS 16

struct ranked {
    float score;
    int32_t row;
};

/* Highest score first, equal: lower row first. */
static int compare_ranked(const void *left, const void *right)
{
    const struct ranked *a = left;
    const struct ranked *b = right;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->row - b->row;
}

static int compare_rows(const void *left, const void *right)
{
    return *(const int32_t *)left - *(const int32_t *)right;
}

/* Block b of a packed row as 32 doubled codes, and its exponent. One row a page. */
static int32_t doubled_codes(const uint8_t *row, size_t b, int32_t codes[32])
{
    static const int32_t magnitudes[8] = {0, 1, 2, 3, 4, 6, 8, 12};
    for (size_t i = 0; i < 32; i++) {
        const uint32_t nibble = row[b * 16 + i / 2] >> (i % 2 * 4) & 0xF;
        codes[i] = nibble & 8 ? -magnitudes[nibble & 7] : magnitudes[nibble & 7];
    }
    return (int32_t)row[64 + b] - 127;
}

/* FORMAT.md 5 in integers, from the packed bytes of one head and one key. */
static float integer_head_score(const uint8_t *query, const uint8_t *key)
{
    float terms[4];
    for (size_t b = 0; b < 4; b++) {
        int32_t q[32], k[32];
        const int32_t exponent = doubled_codes(query, b, q) + doubled_codes(key, b, k) - 2;
        int32_t dot = 0;
        for (size_t i = 0; i < 32; i++)
            dot += q[i] * k[i];
        terms[b] = ldexpf((float)dot, exponent);
    }
    return ((terms[0] + terms[1]) + terms[2]) + terms[3];
}

static float integer_score(const uint8_t *queries, const float *weights, const uint8_t *key)
{
    const float c = (float)(1.0 / sqrt(N_INDEX_HEADS * 128.0));
    float a[8] = {0};
    for (size_t l = 0; l < 8; l++)
        for (size_t h = l; h < N_INDEX_HEADS; h += 8)
            a[l] =
                fmaf(weights[h] * c, fmaxf(integer_head_score(queries + h * 68, key), 0.0f), a[l]);
    return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]));
}

/* Pages of one row: row r is the 68 bytes at r * 68. */
static kvf_rows packed_rows(cf_run *run, const float *values, uint32_t n)
{
    const kvf_rows view = {.format = KVF_FORMAT_FP4,
                           .width = KVF_INDEX_WIDTH,
                           .page_rows = 1,
                           .n_rows = n,
                           .base = cf_alloc(run, n * 68),
                           .page_stride_bytes = 68};
    cf_store(&view, KVF_GRID_FP4, values);
    return view;
}

static void select_is_a_sort_by_integer_score(void **state)
{
    (void)state;
    cf_run run;
    cf_begin_reference(&run, 10);
    const float *queries = cf_random_floats(&run, CF_WIDE, N_INDEX_HEADS * KVF_INDEX_WIDTH);
    float *keys = cf_random_floats(&run, CF_WIDE, N_KEYS * KVF_INDEX_WIDTH);
    /* The second half repeats the first: every score occurs twice. */
    memcpy(keys + N_KEYS / 2 * KVF_INDEX_WIDTH, keys, N_KEYS / 2 * KVF_INDEX_WIDTH * sizeof *keys);
    const uint32_t n_visible = N_KEYS - 7;
    kvf_select_args args = {.n_queries = 1, .n_heads = N_INDEX_HEADS, .n_visible = &n_visible};
    args.queries = packed_rows(&run, queries, N_INDEX_HEADS);
    args.keys = packed_rows(&run, keys, N_KEYS);
    args.head_weights = cf_random_floats(&run, CF_NORMAL, N_INDEX_HEADS);

    struct ranked ranked[N_KEYS];
    for (int32_t row = 0; row < (int32_t)n_visible; row++) {
        const float score = integer_score(args.queries.base, args.head_weights,
                                          (const uint8_t *)args.keys.base + row * 68);
        ranked[row] = (struct ranked){score, row};
        const float got = kvf_ref_score_row(&args, 0, (uint64_t)row);
        assert_memory_equal(&got, &score, sizeof got);
    }
    qsort(ranked, n_visible, sizeof *ranked, compare_ranked);

    for (uint32_t top_k = 1; top_k <= 512; top_k = top_k * 2 + 1) {
        const uint32_t n = top_k < n_visible ? top_k : n_visible;
        int32_t expected[512];
        for (uint32_t i = 0; i < n; i++)
            expected[i] = ranked[i].row;
        qsort(expected, n, sizeof *expected, compare_rows);
        int32_t list[512];
        uint32_t list_len;
        float workspace[512];
        args.top_k = top_k;
        args.list = list;
        args.list_len = &list_len;
        args.workspace = workspace;
        kvf_ref_select(run.device, &args, 1);
        assert_int_equal(list_len, n);
        assert_memory_equal(list, expected, n * sizeof *list);
        for (uint32_t i = n; i < top_k; i++)
            assert_int_equal(list[i], -1);
    }
    cf_end(&run);
}

/* ---- attend ------------------------------------------------------------------------- */

#define N_WINDOW 20
#define N_ROWS 50
#define N_LIST 7

static double double_dot(const float *a, const float *b)
{
    double sum = 0.0;
    for (size_t i = 0; i < KVF_ROW_WIDTH; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static kvf_rows plain_rows(float *values, uint64_t n)
{
    return (kvf_rows){.format = KVF_FORMAT_F32,
                      .width = KVF_ROW_WIDTH,
                      .page_rows = 1,
                      .n_rows = n,
                      .base = values,
                      .page_stride_bytes = KVF_ROW_WIDTH * sizeof(float)};
}

/* Softmax of double scores over the given rows and the sink; no maximum is needed. */
static void check_softmax(const float *q, const float *const *rows, size_t n_rows, double sink,
                          const float *out, float lse)
{
    double weights[N_WINDOW + N_ROWS];
    double denominator = exp(sink);
    for (size_t r = 0; r < n_rows; r++) {
        weights[r] = exp(double_dot(q, rows[r]) / sqrt(512.0));
        denominator += weights[r];
    }
    for (size_t i = 0; i < KVF_ROW_WIDTH; i++) {
        double sum = 0.0;
        for (size_t r = 0; r < n_rows; r++)
            sum += weights[r] / denominator * (double)rows[r][i];
        cf_assert_close("out", i, out[i], sum, 1e-5);
    }
    cf_assert_close("lse", 0, lse, log(denominator), 1e-5);
}

/* Token 30 of a window that begins with token 13 sees tokens 15 .. 30, then the listed rows. */
static void attend_is_a_softmax_over_window_list_and_sink(void **state)
{
    (void)state;
    cf_run run;
    cf_begin_reference(&run, 11);
    float *window = cf_random_floats(&run, CF_NORMAL, N_WINDOW * KVF_ROW_WIDTH);
    float *rows = cf_random_floats(&run, CF_NORMAL, N_ROWS * KVF_ROW_WIDTH);
    const int32_t list[N_LIST] = {-1, 0, 3, -1, 31, 49, -1};
    const uint32_t list_len = N_LIST;
    kvf_attend_args args = {.n_queries = 1,
                            .n_heads = 2,
                            .scale = (float)(1.0 / sqrt(512.0)),
                            .first_token = 30,
                            .window_tokens = 16,
                            .window_first = 13,
                            .list = list,
                            .list_stride = N_LIST,
                            .list_len = &list_len};
    args.q = cf_random_floats(&run, CF_NORMAL, 2 * KVF_ROW_WIDTH);
    args.sinks = cf_random_floats(&run, CF_NORMAL, 2);
    args.window = plain_rows(window, N_WINDOW);
    args.rows = plain_rows(rows, N_ROWS);
    args.out = cf_floats(&run, 2 * KVF_ROW_WIDTH);
    args.lse = cf_floats(&run, 2);
    args.workspace = cf_alloc(&run, kvf_ref_attend_workspace_bytes(1, &args));
    kvf_ref_attend(run.device, &args, 1);

    const float *seen[N_WINDOW + N_ROWS];
    size_t n_seen = 0;
    for (size_t token = 15; token <= 30; token++)
        seen[n_seen++] = window + (token - 13) * KVF_ROW_WIDTH;
    for (size_t i = 0; i < N_LIST; i++)
        if (list[i] >= 0)
            seen[n_seen++] = rows + (size_t)list[i] * KVF_ROW_WIDTH;
    for (size_t h = 0; h < 2; h++)
        check_softmax(args.q + h * KVF_ROW_WIDTH, seen, n_seen, (double)args.sinks[h],
                      args.out + h * KVF_ROW_WIDTH, args.lse[h]);
    cf_end(&run);
}

/* The first tokens see a window that is not full, and all visible rows without a list. */
static void attend_without_list_takes_the_visible_rows(void **state)
{
    (void)state;
    cf_run run;
    cf_begin_reference(&run, 12);
    float *window = cf_random_floats(&run, CF_NORMAL, N_WINDOW * KVF_ROW_WIDTH);
    float *rows = cf_random_floats(&run, CF_NORMAL, N_ROWS * KVF_ROW_WIDTH);
    const uint32_t n_visible[2] = {0, 9};
    kvf_attend_args args = {.n_queries = 2,
                            .n_heads = 1,
                            .scale = (float)(1.0 / sqrt(512.0)),
                            .window_tokens = 16,
                            .n_visible = n_visible};
    args.q = cf_random_floats(&run, CF_NORMAL, 2 * KVF_ROW_WIDTH);
    args.window = plain_rows(window, N_WINDOW);
    args.rows = plain_rows(rows, N_ROWS);
    args.out = cf_floats(&run, 2 * KVF_ROW_WIDTH);
    args.lse = cf_floats(&run, 2);
    args.workspace = cf_alloc(&run, kvf_ref_attend_workspace_bytes(1, &args));
    kvf_ref_attend(run.device, &args, 1);

    const float *seen[2 + 9] = {window, window + KVF_ROW_WIDTH};
    for (size_t r = 0; r < 9; r++)
        seen[2 + r] = rows + r * KVF_ROW_WIDTH;
    check_softmax(args.q, seen, 1, -INFINITY, args.out, args.lse[0]);
    check_softmax(args.q + KVF_ROW_WIDTH, seen, 11, -INFINITY, args.out + KVF_ROW_WIDTH,
                  args.lse[1]);
    cf_end(&run);
}

static void attend_to_nothing_is_zero(void **state)
{
    (void)state;
    cf_run run;
    cf_begin_reference(&run, 13);
    kvf_attend_args args = {.n_queries = 1, .n_heads = 1, .scale = 1.0f};
    args.q = cf_random_floats(&run, CF_NORMAL, KVF_ROW_WIDTH);
    args.out = cf_floats(&run, KVF_ROW_WIDTH);
    args.lse = cf_floats(&run, 1);
    args.workspace = cf_alloc(&run, kvf_ref_attend_workspace_bytes(1, &args));
    kvf_ref_attend(run.device, &args, 1);
    for (size_t i = 0; i < KVF_ROW_WIDTH; i++)
        assert_true(args.out[i] == 0.0f && !signbit(args.out[i]));
    assert_true(args.lse[0] == -INFINITY);
    cf_end(&run);
}

/* clang-format off */
int cf_run_reference_stage_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compress_pools_both_halves_of_csa_windows),
        cmocka_unit_test(compress_pools_hca_windows_over_chunks),
        cmocka_unit_test(compress_finds_a_bad_token_before_its_row_is_complete),
        cmocka_unit_test(select_is_a_sort_by_integer_score),
        cmocka_unit_test(attend_is_a_softmax_over_window_list_and_sink),
        cmocka_unit_test(attend_without_list_takes_the_visible_rows),
        cmocka_unit_test(attend_to_nothing_is_zero),
    };
    return _cmocka_run_group_tests("reference stages", tests, sizeof tests / sizeof tests[0], NULL, NULL);
}
/* clang-format on */
