/* The reference backend against double precision: device, dense layers, pack. */
#include "conformance.h"

#include <math.h>

#include "backend/ref/ref.h"

#define HALF_ROPE (KVF_ROPE_WIDTH / 2)

/* ---- Device ------------------------------------------------------------------ */

static void ref_opens_as_scalar_with_one_thread(void **state)
{
    (void)state;
    const kvf_device_options options = {"ref", "scalar", 7};
    kvf_device *device;
    assert_int_equal(kvf_device_open(&options, &device, NULL), KVF_OK);
    assert_int_equal(strcmp(kvf_device_backend_name(device), "ref"), 0);
    assert_int_equal(strcmp(kvf_device_isa_name(device), "scalar"), 0);
    assert_int_equal(kvf_device_n_threads(device), 1);
    void *memory = device->backend->alloc(device, 0, KVF_PLACE_DEVICE);
    assert_non_null(memory);
    assert_int_equal((uintptr_t)memory % 64, 0);
    device->backend->release(device, memory, 0);
    kvf_device_close(device);
}

static void ref_refuses_other_isas_and_says_which_there_is(void **state)
{
    (void)state;
    const kvf_device_options options = {"ref", "avx2", 1};
    kvf_device *device;
    kvf_error error;
    assert_int_equal(kvf_device_open(&options, &device, &error), KVF_UNSUPPORTED);
    assert_non_null(strstr(error.message, "avx2"));
    assert_non_null(strstr(error.message, "scalar"));
}

/* ---- Dense layers ------------------------------------------------------------- */

static void norm_is_x_over_root_mean_square_times_weight(void **state)
{
    (void)state;
    cf_run run;
    cf_begin_reference(&run, 1);
    const size_t width = 100;
    const float *in = cf_random_floats(&run, CF_NORMAL, width);
    const float *weight = cf_random_floats(&run, CF_NORMAL, width);
    float *out = cf_floats(&run, width);
    const kvf_norm_args args = {
        .n = 1, .width = (uint32_t)width, .in = in, .out = out, .weight = weight, .eps = 1e-3f};
    kvf_ref_norm(run.device, &args);
    double mean_square = 0.0;
    for (size_t i = 0; i < width; i++)
        mean_square += (double)in[i] * (double)in[i] / (double)width;
    for (size_t i = 0; i < width; i++)
        cf_assert_close("norm", i, out[i],
                        (double)in[i] / sqrt(mean_square + 1e-3) * (double)weight[i], 1e-6);
    cf_end(&run);
}

/* Rotation as multiplication of complex numbers; the leading values stay. */
static void rope_turns_pairs_and_inverse_turns_them_back(void **state)
{
    (void)state;
    cf_run run;
    cf_begin_reference(&run, 2);
    const size_t n_values = 2 * 3 * 128;
    float *values = cf_random_floats(&run, CF_NORMAL, n_values);
    float *before = cf_floats(&run, n_values);
    memcpy(before, values, n_values * sizeof *values);
    kvf_rope_args args = {.n = 2, .heads = 3, .width = 128, .values = values};
    args.table = cf_rope_table(&run, 2);
    kvf_ref_rope(run.device, &args);
    for (size_t i = 0; i < n_values; i += 2) {
        const size_t dim = i % 128;
        if (dim < 64) {
            assert_memory_equal(values + i, before + i, 2 * sizeof *values);
            continue;
        }
        const size_t angle = i / (3 * 128) * HALF_ROPE + (dim - 64) / 2;
        const double c = (double)args.table.cosines[angle];
        const double s = (double)args.table.sines[angle];
        const double x = (double)before[i];
        const double y = (double)before[i + 1];
        cf_assert_close("rope", i, values[i], x * c - y * s, 1e-6);
        cf_assert_close("rope", i + 1, values[i + 1], x * s + y * c, 1e-6);
    }
    args.inverse = true;
    kvf_ref_rope(run.device, &args);
    for (size_t i = 0; i < n_values; i++)
        cf_assert_close("inverse rope", i, values[i], (double)before[i], 1e-6);
    cf_end(&run);
}

#define STREAMS 4
#define HIDDEN 20
#define N_MIX (STREAMS * (2 + STREAMS))

static double logistic(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static void double_sinkhorn(double m[STREAMS][STREAMS], uint32_t rounds, double eps)
{
    for (size_t j = 0; j < STREAMS; j++) {
        double sum = 0.0;
        for (size_t k = 0; k < STREAMS; k++)
            sum += exp(m[j][k]);
        for (size_t k = 0; k < STREAMS; k++)
            m[j][k] = exp(m[j][k]) / sum + eps;
    }
    /* Columns first, then rows and columns in turn: 2 * rounds - 1 passes. */
    for (uint32_t pass = 0; pass < 2 * rounds - 1; pass++) {
        for (size_t a = 0; a < STREAMS; a++) {
            double sum = eps;
            for (size_t b = 0; b < STREAMS; b++)
                sum += pass % 2 ? m[a][b] : m[b][a];
            for (size_t b = 0; b < STREAMS; b++)
                *(pass % 2 ? &m[a][b] : &m[b][a]) /= sum;
        }
    }
}

/* docs/FORMAT.md 9.8, with two groups of one row and 35 values: three behind two groups of 16. */
static void matmul_sums_16_lanes_and_then_a_tree(void **state)
{
    (void)state;
    enum { COLS = 35, LANES = 16 };
    cf_run run;
    cf_begin_reference(&run, 8);
    kvf_matmul_args args = {.n = 2,
                            .groups = 2,
                            .weight = cf_f32_matrix(&run, 2, COLS),
                            .in_stride = 2 * COLS,
                            .out_stride = 2};
    args.in = cf_random_floats(&run, CF_WIDE, 4 * COLS);
    args.out = cf_floats(&run, 4);
    kvf_ref_matmul(run.device, &args);
    for (size_t i = 0; i < 4; i++) { /* token i / 2, group and row i % 2 */
        const float *w = (const float *)args.weight.data + i % 2 * COLS;
        const float *x = args.in + i * COLS;
        float lanes[LANES];
        for (size_t l = 0; l < LANES; l++) {
            lanes[l] = fmaf(w[LANES + l], x[LANES + l], fmaf(w[l], x[l], 0.0f));
            if (l < COLS - 2 * LANES)
                lanes[l] = fmaf(w[2 * LANES + l], x[2 * LANES + l], lanes[l]);
        }
        float quarters[4];
        for (size_t l = 0; l < 4; l++)
            quarters[l] = (lanes[l] + lanes[l + 8]) + (lanes[l + 4] + lanes[l + 12]);
        assert_true(args.out[i] == (quarters[0] + quarters[2]) + (quarters[1] + quarters[3]));
    }
    cf_end(&run);
}

static void mix_is_sigmoids_and_sinkhorn_of_the_projected_streams(void **state)
{
    (void)state;
    cf_run run;
    cf_begin_reference(&run, 3);
    const size_t n_flat = STREAMS * HIDDEN;
    kvf_mix_args args = {.n = 1,
                         .hidden = HIDDEN,
                         .n_streams = STREAMS,
                         .sinkhorn_rounds = 3,
                         .norm_eps = 1e-3f,
                         .eps = 1e-2f};
    args.streams = cf_random_floats(&run, CF_NORMAL, n_flat);
    const float *fn = cf_random_floats(&run, CF_NORMAL, N_MIX * n_flat);
    args.weights.fn = kvf_matrix_of_f32(fn, N_MIX, n_flat);
    args.weights.base = cf_random_floats(&run, CF_NORMAL, N_MIX);
    const float scale[3] = {0.1f, 0.2f, 0.3f};
    args.weights.scale = scale;
    args.mix = cf_floats(&run, N_MIX);
    args.out = cf_floats(&run, HIDDEN);
    args.post = cf_floats(&run, STREAMS);
    args.comb = cf_floats(&run, STREAMS * STREAMS);
    kvf_ref_mix(run.device, &args);

    double mean_square = 0.0;
    for (size_t i = 0; i < n_flat; i++)
        mean_square += (double)args.streams[i] * (double)args.streams[i] / (double)n_flat;
    double z[N_MIX];
    for (size_t m = 0; m < N_MIX; m++) {
        z[m] = 0.0;
        for (size_t i = 0; i < n_flat; i++)
            z[m] += (double)fn[m * n_flat + i] * (double)args.streams[i];
        const size_t part = m < STREAMS ? 0 : m < 2 * STREAMS ? 1 : 2;
        z[m] = z[m] / sqrt(mean_square + 1e-3) * (double)scale[part] + (double)args.weights.base[m];
    }
    for (size_t i = 0; i < HIDDEN; i++) {
        double sum = 0.0;
        for (size_t j = 0; j < STREAMS; j++)
            sum += (logistic(z[j]) + 1e-2) * (double)args.streams[j * HIDDEN + i];
        cf_assert_close("out", i, args.out[i], sum, 1e-5);
    }
    for (size_t k = 0; k < STREAMS; k++)
        cf_assert_close("post", k, args.post[k], 2.0 * logistic(z[STREAMS + k]), 1e-5);
    double comb[STREAMS][STREAMS];
    memcpy(comb, z + 2 * STREAMS, sizeof comb);
    double_sinkhorn(comb, 3, (double)args.eps);
    for (size_t i = 0; i < STREAMS * STREAMS; i++)
        cf_assert_close("comb", i, args.comb[i], comb[i / STREAMS][i % STREAMS], 1e-5);
    cf_end(&run);
}

static void head_mix_is_a_weighted_sum_of_the_streams(void **state)
{
    (void)state;
    cf_run run;
    cf_begin_reference(&run, 4);
    kvf_mix_args args = {.n = 1, .hidden = HIDDEN, .n_streams = STREAMS, .eps = 1e-2f};
    args.streams = cf_random_floats(&run, CF_NORMAL, STREAMS * HIDDEN);
    float *fn = cf_floats(&run, STREAMS * STREAMS * HIDDEN);
    memset(fn, 0, STREAMS * STREAMS * HIDDEN * sizeof *fn);
    /* logits are the base alone */
    args.weights.fn = kvf_matrix_of_f32(fn, STREAMS, STREAMS * HIDDEN);
    args.weights.base = cf_random_floats(&run, CF_NORMAL, STREAMS);
    args.weights.scale = cf_random_floats(&run, CF_NORMAL, 1);
    args.mix = cf_floats(&run, N_MIX);
    args.out = cf_floats(&run, HIDDEN);
    kvf_ref_mix(run.device, &args);
    for (size_t i = 0; i < HIDDEN; i++) {
        double sum = 0.0;
        for (size_t j = 0; j < STREAMS; j++)
            sum += (logistic((double)args.weights.base[j]) + 1e-2) *
                   (double)args.streams[j * HIDDEN + i];
        cf_assert_close("out", i, args.out[i], sum, 1e-6);
    }
    cf_end(&run);
}

/* The case that tells comb from its transpose: one entry off the diagonal. */
static void unmix_sends_old_stream_j_to_new_stream_k_by_comb_jk(void **state)
{
    (void)state;
    const float sublayer[1] = {10.0f};
    const float post[2] = {1.0f, 2.0f};
    const float comb[4] = {1.0f, 0.5f, 0.0f, 1.0f}; /* comb[0][1] = 0.5 */
    float streams[2] = {4.0f, 8.0f};
    const kvf_unmix_args args = {.n = 1,
                                 .hidden = 1,
                                 .n_streams = 2,
                                 .sublayer = sublayer,
                                 .post = post,
                                 .comb = comb,
                                 .streams = streams};
    kvf_ref_unmix(NULL, &args);
    assert_true(streams[0] == 14.0f); /* 1*10 + 1*4 + 0*8 */
    assert_true(streams[1] == 30.0f); /* 2*10 + 0.5*4 + 1*8 */
}

static void route_chooses_with_bias_and_weighs_without(void **state)
{
    (void)state;
    const float logits[4] = {1.0f, 1.0f, 3.0f, -200.0f};
    const float bias[4] = {0.0f, 0.0f, -5.0f, 30.0f};
    int32_t experts[3];
    float weights[3];
    const kvf_route_args args = {.n = 1,
                                 .n_experts = 4,
                                 .top_k = 3,
                                 .logits = logits,
                                 .bias = bias,
                                 .scaling = 1.5f,
                                 .normalise = true,
                                 .experts = experts,
                                 .weights = weights};
    kvf_ref_route(NULL, &args);
    /* The bias lifts 3 and sinks 2; 0 and 1 tie, the lower one first. */
    const int32_t expected[3] = {3, 0, 1};
    assert_memory_equal(experts, expected, sizeof expected);
    cf_assert_close("weight", 0, weights[0], 0.0, 1e-6); /* sqrt(softplus(-200)) is 0 */
    cf_assert_close("weight", 1, weights[1], 0.75, 1e-6);
    cf_assert_close("weight", 2, weights[2], 0.75, 1e-6);
}

static void route_by_token_takes_the_table_and_its_scores(void **state)
{
    (void)state;
    const float logits[3] = {500.0f, -1.0f, 2.0f};
    const int32_t map[4] = {0, 0, 2, 1};
    const int32_t tokens[1] = {1};
    int32_t experts[2];
    float weights[2];
    kvf_route_args args = {.n = 1,
                           .n_experts = 3,
                           .top_k = 2,
                           .logits = logits,
                           .token_map = map,
                           .tokens = tokens,
                           .scaling = 1.0f,
                           .experts = experts,
                           .weights = weights};
    kvf_ref_route(NULL, &args);
    assert_int_equal(experts[0], 2);
    assert_int_equal(experts[1], 1);
    cf_assert_close("weight", 0, weights[0], sqrt(log1p(exp(2.0))), 1e-6);
    cf_assert_close("weight", 1, weights[1], sqrt(log1p(exp(-1.0))), 1e-6);
    /* softplus of a large logit is the logit, not infinity. */
    const int32_t first_token = 0;
    args.tokens = &first_token;
    kvf_ref_route(NULL, &args);
    cf_assert_close("weight", 0, weights[0], sqrt(500.0), 1e-4);
}

/* One hidden value, one ffn value: every clamp can be followed by hand. */
static void experts_clamp_gate_above_and_up_on_both_sides(void **state)
{
    (void)state;
    const float two = 2.0f;
    const float minus_three = -3.0f;
    const float one = 1.0f;
    const kvf_matrix doubles = kvf_matrix_of_f32(&two, 1, 1);
    const kvf_matrix negates = kvf_matrix_of_f32(&minus_three, 1, 1);
    const kvf_matrix copies = kvf_matrix_of_f32(&one, 1, 1);
    const kvf_expert_weights routed = {doubles, negates, copies};
    const kvf_expert_weights shared = {negates, doubles, copies};
    const float in = 10.0f;
    const float weight = 0.5f;
    const int32_t expert = 0;
    float out;
    float workspace[4];
    kvf_experts_args args = {.n = 1,
                             .hidden = 1,
                             .ffn = 1,
                             .shared_ffn = 1,
                             .n_experts = 1,
                             .top_k = 1,
                             .limit = 4.0f,
                             .in = &in,
                             .experts = &expert,
                             .weights = &weight,
                             .routed = &routed,
                             .shared = shared,
                             .out = &out,
                             .workspace = workspace};
    kvf_ref_experts(NULL, &args);
    /* Routed: gate 20 -> 4, up -30 -> -4. Shared: gate -30 stays, up 20 -> 4. */
    const double clamped = 0.5 * 4.0 * logistic(4.0) * -4.0 + -30.0 * logistic(-30.0) * 4.0;
    cf_assert_close("out", 0, out, clamped, 1e-5);
    args.limit = 0.0f;
    args.shared_ffn = 0;
    kvf_ref_experts(NULL, &args);
    cf_assert_close("out", 0, out, 0.5 * 20.0 * logistic(20.0) * -30.0, 1e-4);
}

/* ---- pack ---------------------------------------------------------------------- */

/* What pack finds with these arguments, inexact rows as well. */
static kvf_finding pack(const cf_run *run, const kvf_pack_args *args)
{
    kvf_finding finding = {.first_bad = KVF_NOTHING_FOUND};
    kvf_ref_pack(run->device, args, &(kvf_findings){.place = &finding}, 1);
    return finding;
}

static void pack_counts_rows_that_f16_cannot_hold(void **state)
{
    (void)state;
    cf_run run;
    cf_begin_reference(&run, 5);
    float *rows = cf_random_floats(&run, CF_NORMAL, 3 * KVF_ROW_WIDTH);
    rows[KVF_ROW_WIDTH + 5] = 448.0f * 256.0f; /* scale exponent 8: above f16's largest */
    rows[2 * KVF_ROW_WIDTH + 5] = 448.0f * 128.0f;
    kvf_pack_args args = {.rows = rows, .stride = KVF_ROW_WIDTH, .n_rows = 3, .grid = KVF_GRID_FP8};
    args.out = cf_rows(&run, KVF_FORMAT_F16, KVF_ROW_WIDTH, 3);
    kvf_finding found = pack(&run, &args);
    assert_true(found.first_bad == KVF_NOTHING_FOUND);
    assert_int_equal(found.inexact_rows, 1);
    args.out = cf_rows(&run, KVF_FORMAT_FP8_F16, KVF_ROW_WIDTH, 3);
    found = pack(&run, &args);
    assert_true(found.first_bad == KVF_NOTHING_FOUND);
    assert_int_equal(found.inexact_rows, 0);
    cf_end(&run);
}

static void pack_wraps_around_the_ring(void **state)
{
    (void)state;
    cf_run run;
    cf_begin_reference(&run, 6);
    const float *rows = cf_random_floats(&run, CF_NORMAL, 3 * KVF_ROW_WIDTH);
    kvf_pack_args args = {.rows = rows, .stride = KVF_ROW_WIDTH, .n_rows = 3, .first_row = 9};
    args.out = cf_rows(&run, KVF_FORMAT_F32, KVF_ROW_WIDTH, 5);
    assert_true(pack(&run, &args).first_bad == KVF_NOTHING_FOUND);
    const size_t places[3] = {4, 0, 1};
    for (size_t i = 0; i < 3; i++) {
        float stored[KVF_ROW_WIDTH];
        kvf_ref_load_row(&args.out, places[i], stored);
        assert_memory_equal(stored, rows + i * KVF_ROW_WIDTH, sizeof stored);
    }
    cf_end(&run);
}

/* Exponents -50 and 50 are the last that are allowed: the largest value is 6 * 2^e. */
static void pack_refuses_index_blocks_outside_the_exact_range(void **state)
{
    (void)state;
    const struct {
        float value;
        kvf_status status;
    } cases[] = {{0.0f, KVF_OK},
                 {0x1.8p+52f, KVF_OK},
                 {0x1.800002p+52f, KVF_RANGE},
                 {0x1.800002p-49f, KVF_OK},
                 {0x1.8p-49f, KVF_RANGE},
                 {0x1p-149f, KVF_RANGE},
                 {NAN, KVF_NONFINITE}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        cf_run run;
        cf_begin_reference(&run, 7);
        float *rows = cf_random_floats(&run, CF_NORMAL, 2 * KVF_INDEX_WIDTH);
        for (size_t i = 64; i < 96; i++)
            rows[KVF_INDEX_WIDTH + i] = 0.0f;
        rows[KVF_INDEX_WIDTH + 70] = cases[c].value;
        kvf_pack_args args = {
            .rows = rows, .stride = KVF_INDEX_WIDTH, .n_rows = 2, .grid = KVF_GRID_FP4};
        args.out = cf_rows(&run, KVF_FORMAT_FP4, KVF_INDEX_WIDTH, 2);
        const kvf_found found = kvf_found_of(pack(&run, &args).first_bad);
        assert_int_equal(found.reason, cases[c].status);
        if (cases[c].status != KVF_OK) {
            assert_false(found.made);
            assert_int_equal(found.index, 1);
            assert_int_equal(found.dim, cases[c].status == KVF_RANGE ? 64 : 70);
        }
        cf_end(&run);
    }
}

/* clang-format off */
int cf_run_reference_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_opens_as_scalar_with_one_thread),
        cmocka_unit_test(ref_refuses_other_isas_and_says_which_there_is),
        cmocka_unit_test(norm_is_x_over_root_mean_square_times_weight),
        cmocka_unit_test(rope_turns_pairs_and_inverse_turns_them_back),
        cmocka_unit_test(matmul_sums_16_lanes_and_then_a_tree),
        cmocka_unit_test(mix_is_sigmoids_and_sinkhorn_of_the_projected_streams),
        cmocka_unit_test(head_mix_is_a_weighted_sum_of_the_streams),
        cmocka_unit_test(unmix_sends_old_stream_j_to_new_stream_k_by_comb_jk),
        cmocka_unit_test(route_chooses_with_bias_and_weighs_without),
        cmocka_unit_test(route_by_token_takes_the_table_and_its_scores),
        cmocka_unit_test(experts_clamp_gate_above_and_up_on_both_sides),
        cmocka_unit_test(pack_counts_rows_that_f16_cannot_hold),
        cmocka_unit_test(pack_wraps_around_the_ring),
        cmocka_unit_test(pack_refuses_index_blocks_outside_the_exact_range),
    };
    return _cmocka_run_group_tests("reference", tests, sizeof tests / sizeof tests[0], NULL, NULL);
}
/* clang-format on */
