/*
 * Sessions without a model: what they hold, allocate and plan agree to the byte in
 * every profile, and what goes wrong leaves them as promised.
 */
#include "cache/small.h"

#include <math.h>

#define CHUNK 200

static kvf_device *device;
static kvf_geometry geometry; /* small enough to run thousands of tokens */

static uint64_t random_state = 88172645463325252ull;

static float random_value(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (float)((double)(random_state >> 11) / 9007199254740992.0 * 4.0 - 2.0);
}

/* Inputs of one chunk for any layer. */
typedef struct inputs {
    float window[CHUNK * 512], kv[CHUNK * 1024], gate[CHUNK * 1024];
    float index_kv[CHUNK * 256], index_gate[CHUNK * 256];
    float bias[128 * 1024], norm[512];
    float cosines[CHUNK * 32], sines[CHUNK * 32];
    float q[CHUNK * 2 * 512], out[CHUNK * 2 * 512];
    float index_q[CHUNK * 8 * 128], head_weights[CHUNK * 8];
} inputs;

static inputs *in;

static void fill(float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        values[i] = random_value();
}

static void fill_inputs(void)
{
    fill((float *)in, sizeof *in / sizeof(float));
}

static kvf_append_args append_args(void)
{
    return (kvf_append_args){.window = in->window,
                             .rows = {in->kv, in->gate, in->bias, in->norm, 1e-6f},
                             .index = {in->index_kv, in->index_gate, in->bias, in->norm, 1e-6f},
                             .row_rope = {in->cosines, in->sines}};
}

/* One chunk through all layers; the first status that is not KVF_OK ends it. */
static kvf_status run_chunk(kvf_session *session, uint32_t n, kvf_error *error)
{
    const kvf_append_args args = append_args();
    int32_t tokens[CHUNK] = {0};
    kvf_status status = kvf_session_begin(session, tokens, n, error);
    for (uint32_t layer = 0; layer < geometry.n_layers && status == KVF_OK; layer++) {
        fill(in->index_q, (size_t)n * 8 * 128);
        status = kvf_session_append(session, layer, &args, error);
        if (status == KVF_OK && geometry.layers[layer].kind == KVF_LAYER_CSA)
            status = kvf_session_select(session, layer, (kvf_chunk_span){0, n}, in->index_q,
                                        in->head_weights, error);
        if (status == KVF_OK)
            status = kvf_session_attend(session, layer, (kvf_chunk_span){0, n}, in->q, NULL,
                                        in->out, error);
    }
    return status == KVF_OK ? kvf_session_commit(session, error) : status;
}

static kvf_session *open_session(kvf_profile_id profile, uint64_t max_tokens)
{
    kvf_session *session;
    kvf_error error;
    const kvf_session_options options = {
        .profile = profile, .max_tokens = max_tokens, .chunk_tokens = CHUNK};
    if (kvf_session_open(device, &geometry, &options, &session, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return session;
}

static void check_bytes(kvf_session *session, kvf_profile_id profile, uint64_t max_tokens,
                        bool has_scratch)
{
    kvf_plan plan;
    kvf_error error;
    const kvf_session_options options = {.profile = profile,
                                         .max_tokens = max_tokens,
                                         .chunk_tokens = CHUNK,
                                         .n_threads = kvf_device_n_threads(device)};
    const uint64_t n_tokens = kvf_session_n_tokens(session);
    assert_int_equal(kvf_plan_make(&geometry, &options, n_tokens, &plan, &error), KVF_OK);
    assert_int_equal(kvf_session_held_bytes(session), plan.session_bytes);
    assert_int_equal(kvf_session_allocated_bytes(session), plan.allocated_bytes);
    assert_int_equal(device->live_bytes[KVF_MEMORY_CACHE], plan.allocated_bytes);
    assert_int_equal(device->live_bytes[KVF_MEMORY_TABLE], plan.table_bytes);
    /* What chunks kept and let go is in the pool: a slab of each size more than was ever held. */
    assert_true(device->live_bytes[KVF_MEMORY_CACHE] + device->live_bytes[KVF_MEMORY_CHECKPOINT] +
                    device->live_bytes[KVF_MEMORY_POOL] <=
                plan.allocated_bytes + plan.checkpoint_bytes + plan.chunk_undo_bytes +
                    plan.pool_bytes);
    assert_int_equal(kvf_session_scratch_bytes(session), has_scratch ? plan.scratch_bytes : 0);
    assert_int_equal(device->live_bytes[KVF_MEMORY_SCRATCH], has_scratch ? plan.scratch_bytes : 0);
    kvf_plan_free(&plan);
}

/* The reference needs one score a selected row, and a maximum and a sum a head. */
static void each_backend_says_its_own_workspace(void **state)
{
    (void)state;
    const kvf_device_options options = {.backend = "ref"};
    kvf_device *ref;
    assert_int_equal(kvf_device_open(&options, &ref, NULL), KVF_OK);
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        const int32_t token = 0;
        kvf_session_options wanted = {
            .profile = (kvf_profile_id)profile, .max_tokens = 4096, .backend = "ref"};
        kvf_session *session;
        kvf_plan plan;
        assert_int_equal(kvf_plan_make(&geometry, &wanted, 1, &plan, NULL), KVF_OK);
        int found = 0;
        for (uint32_t i = 0; i < plan.n_buffers; i++) {
            if (strcmp(plan.buffers[i].name, "attend.workspace") == 0) {
                assert_int_equal(plan.buffers[i].bytes, 8 * geometry.n_heads);
                found++;
            } else if (strcmp(plan.buffers[i].name, "select.workspace") == 0) {
                assert_int_equal(plan.buffers[i].bytes, 4 * geometry.top_k);
                found++;
            }
        }
        assert_int_equal(found, 2);
        assert_int_equal(kvf_session_open(ref, &geometry, &wanted, &session, NULL), KVF_OK);
        assert_int_equal(kvf_session_begin(session, &token, 1, NULL), KVF_OK);
        assert_int_equal(kvf_session_scratch_bytes(session), plan.scratch_bytes);
        kvf_session_close(session);
        kvf_plan_free(&plan);
        wanted.backend = "none";
        kvf_error error;
        assert_int_equal(kvf_plan_make(&geometry, &wanted, 1, &plan, &error), KVF_UNSUPPORTED);
        assert_non_null(strstr(error.message, "'none'"));
    }
    kvf_device_close(ref);
}

static void held_and_allocated_bytes_equal_the_plan_after_every_chunk(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 2, 3, 57, 1, 64, 127, 1, 128, 129, 200, 1, 7};
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        kvf_session *session = open_session((kvf_profile_id)profile, 4096);
        kvf_error error;
        check_bytes(session, (kvf_profile_id)profile, 4096, false);
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            fill_inputs();
            assert_int_equal(run_chunk(session, chunks[i], &error), KVF_OK);
            check_bytes(session, (kvf_profile_id)profile, 4096, true);
        }
        kvf_session_close(session);
        assert_int_equal(device->live_bytes[KVF_MEMORY_CACHE], 0);
        assert_int_equal(device->live_bytes[KVF_MEMORY_SCRATCH], 0);
    }
}

static void opening_a_million_tokens_allocates_state_only(void **state)
{
    (void)state;
    kvf_session *session = open_session(KVF_PROFILE_FOLD, 1 << 20);
    check_bytes(session, KVF_PROFILE_FOLD, 1 << 20, false);
    assert_true(kvf_session_allocated_bytes(session) < 1 << 20);
    kvf_session_close(session);
}

/* models/tiny's geometry at 64k: rows of real chunks, appended without attending. */
static void fold_at_64k_on_the_tiny_model_s_geometry_holds_the_planned_bytes(void **state)
{
    (void)state;
    const kvf_geometry small = geometry;
    geometry = (kvf_geometry){.n_layers = 6,
                              .vocab = 320,
                              .n_heads = 8,
                              .n_index_heads = 16,
                              .top_k = 64,
                              .window_tokens = 128,
                              .max_tokens = 1 << 20};
    geometry.layers[2] = geometry.layers[4] = (kvf_layer){KVF_LAYER_CSA, 4};
    geometry.layers[3] = geometry.layers[5] = (kvf_layer){KVF_LAYER_HCA, 128};
    kvf_session *session = open_session(KVF_PROFILE_FOLD, 65536);
    const kvf_append_args args = append_args();
    const int32_t tokens[CHUNK] = {0};
    kvf_error error;
    fill_inputs();
    for (uint64_t held = 0; held < 65536; held = kvf_session_n_tokens(session)) {
        const uint32_t n = 65536 - held < CHUNK ? (uint32_t)(65536 - held) : CHUNK;
        assert_int_equal(kvf_session_begin(session, tokens, n, &error), KVF_OK);
        for (uint32_t layer = 0; layer < geometry.n_layers; layer++)
            assert_int_equal(kvf_session_append(session, layer, &args, &error), KVF_OK);
        assert_int_equal(kvf_session_commit(session, &error), KVF_OK);
    }
    check_bytes(session, KVF_PROFILE_FOLD, 65536, true);
    /* docs/FORMAT.md 8 with this geometry's numbers, by hand. */
    const uint64_t state_bytes = 2 * 81920 + 2 * 524288;
    assert_int_equal(kvf_session_held_bytes(session), 52 + 4 * 320 + 8 * 6 + 4 * 65536 +
                                                          state_bytes + 6 * 128 * 584 +
                                                          2 * 16384 * (584 + 68) + 2 * 512 * 584);
    kvf_session_close(session);
    geometry = small;
}

static void all_profiles_attend_to_the_same_bits(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {200, 1, 130, 1, 1, 199, 5, 64, 1};
    float *expected = malloc(sizeof chunks / sizeof *chunks * sizeof in->out);
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        kvf_session *session = open_session((kvf_profile_id)profile, 1024);
        kvf_error error;
        random_state = 12345;
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            fill_inputs();
            assert_int_equal(run_chunk(session, chunks[i], &error), KVF_OK);
            float *place = expected + i * (sizeof in->out / sizeof(float));
            const size_t bytes = (size_t)chunks[i] * 2 * 512 * sizeof(float);
            if (profile == 0)
                memcpy(place, in->out, bytes);
            else
                assert_memory_equal(place, in->out, bytes);
        }
        kvf_session_close(session);
    }
    free(expected);
}

/* 64 heads at short contexts: blocks of heads differ between the dense form and the others. */
static void the_planned_workspace_is_enough_for_64_heads(void **state)
{
    (void)state;
    const kvf_geometry small = geometry;
    static const uint64_t contexts[] = {3, 40, 700, 2500, 9000};
    geometry.n_heads = 64;
    float *q = calloc(3 * 64 * 512, sizeof *q);
    float *out = calloc(3 * 64 * 512, sizeof *out);
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++)
        for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++) {
            kvf_session *session = open_session((kvf_profile_id)profile, contexts[i]);
            const kvf_append_args args = append_args();
            const int32_t tokens[3] = {0};
            kvf_error error;
            fill_inputs();
            assert_int_equal(kvf_session_begin(session, tokens, 3, &error), KVF_OK);
            for (uint32_t layer = 0; layer < geometry.n_layers; layer++) {
                assert_int_equal(kvf_session_append(session, layer, &args, &error), KVF_OK);
                if (geometry.layers[layer].kind == KVF_LAYER_CSA)
                    assert_int_equal(kvf_session_select(session, layer, (kvf_chunk_span){0, 3},
                                                        in->index_q, in->head_weights, &error),
                                     KVF_OK);
                assert_int_equal(kvf_session_attend(session, layer, (kvf_chunk_span){0, 3}, q, NULL,
                                                    out, &error),
                                 KVF_OK);
            }
            kvf_session_close(session);
        }
    free(q);
    free(out);
    geometry = small;
}

static void more_tokens_than_the_context_are_refused_and_nothing_changes(void **state)
{
    (void)state;
    kvf_session *session = open_session(KVF_PROFILE_FOLD, 150);
    kvf_error error;
    fill_inputs();
    assert_int_equal(run_chunk(session, 149, &error), KVF_OK);
    assert_int_equal(run_chunk(session, 2, &error), KVF_CONTEXT_FULL);
    assert_non_null(strstr(error.message, "150"));
    assert_int_equal(kvf_session_n_tokens(session), 149);
    assert_int_equal(run_chunk(session, 1, &error), KVF_OK);
    assert_int_equal(run_chunk(session, 1, &error), KVF_CONTEXT_FULL);
    kvf_session_close(session);
}

/* The same five tokens one by one in both: attend gives the same bits. */
static void go_on_alike(kvf_session *session, kvf_session *clean)
{
    kvf_error error;
    float *expected = malloc(sizeof in->out);
    for (int i = 0; i < 5; i++) {
        fill_inputs();
        const uint64_t before = random_state;
        assert_int_equal(run_chunk(clean, 1, &error), KVF_OK);
        memcpy(expected, in->out, 2 * 512 * sizeof(float));
        random_state = before;
        assert_int_equal(run_chunk(session, 1, &error), KVF_OK);
        assert_memory_equal(expected, in->out, 2 * 512 * sizeof(float));
    }
    free(expected);
}

static void a_nan_in_decode_names_the_place_and_the_session_goes_on(void **state)
{
    (void)state;
    kvf_session *session = open_session(KVF_PROFILE_FOLD, 1024);
    kvf_session *clean = open_session(KVF_PROFILE_FOLD, 1024);
    kvf_error error;
    fill_inputs();
    assert_int_equal(run_chunk(session, 135, &error), KVF_OK);
    assert_int_equal(run_chunk(clean, 135, &error), KVF_OK);
    fill_inputs();
    in->kv[7] = NAN; /* token 135 closes a CSA row; dimension 7 is of Ca, not pooled until later */
    in->window[300] = INFINITY;
    assert_int_equal(run_chunk(session, 1, &error), KVF_NONFINITE);
    assert_non_null(strstr(error.message, "layer 0"));
    assert_non_null(strstr(error.message, "dimension 300"));
    assert_int_equal(kvf_session_n_tokens(session), 135);
    go_on_alike(session, clean);
    kvf_session_close(clean);
    kvf_session_close(session);
}

static void a_nan_in_a_longer_chunk_leaves_the_session_as_it_was(void **state)
{
    (void)state;
    kvf_session *session = open_session(KVF_PROFILE_FOLD, 1024);
    kvf_session *clean = open_session(KVF_PROFILE_FOLD, 1024);
    kvf_error error;
    fill_inputs();
    assert_int_equal(run_chunk(session, 133, &error), KVF_OK);
    assert_int_equal(run_chunk(clean, 133, &error), KVF_OK);
    fill_inputs();
    in->index_kv[2 * 256 + 200] = NAN; /* Cb of token 135: dimension 72 of index row 33 */
    assert_int_equal(run_chunk(session, 8, &error), KVF_NONFINITE);
    assert_non_null(strstr(error.message, "layer 1, index row 33"));
    assert_int_equal(kvf_session_n_tokens(session), 133);
    go_on_alike(session, clean);
    kvf_session_close(session);
    kvf_session_close(clean);
}

static void a_nan_head_weight_in_a_longer_chunk_leaves_the_session_as_it_was(void **state)
{
    (void)state;
    kvf_session *session = open_session(KVF_PROFILE_FOLD, 1024);
    kvf_session *clean = open_session(KVF_PROFILE_FOLD, 1024);
    kvf_error error;
    fill_inputs();
    assert_int_equal(run_chunk(session, 150, &error), KVF_OK);
    assert_int_equal(run_chunk(clean, 150, &error), KVF_OK);
    fill_inputs();
    in->head_weights[3 * 8 + 1] = NAN; /* layers 0 and 1 have appended by then */
    assert_int_equal(run_chunk(session, 140, &error), KVF_NONFINITE);
    assert_non_null(strstr(error.message, "layer 1"));
    go_on_alike(session, clean);
    kvf_session_close(session);
    kvf_session_close(clean);
}

/* Its scores would be NaN, which the softmax does not show. */
static void a_query_that_is_not_finite_leaves_the_session_as_it_was(void **state)
{
    (void)state;
    const float values[] = {NAN, -INFINITY};
    kvf_session *session = open_session(KVF_PROFILE_FOLD, 1024);
    kvf_session *clean = open_session(KVF_PROFILE_FOLD, 1024);
    kvf_error error;
    fill_inputs();
    assert_int_equal(run_chunk(session, 133, &error), KVF_OK);
    assert_int_equal(run_chunk(clean, 133, &error), KVF_OK);
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t token = 3 * i; /* alone, and the fourth of five */
        fill_inputs();
        in->q[(2 * token + 1) * 512 + 77] = values[i];
        in->q[(2 * token + 1) * 512 + 400] = NAN;
        assert_int_equal(run_chunk(session, 1 + 4 * i, &error), KVF_NONFINITE);
        assert_non_null(
            strstr(error.message, i ? "layer 0, query of token 136, head 1, dimension 77"
                                    : "layer 0, query of token 133, head 1, dimension 77"));
        assert_int_equal(kvf_session_n_tokens(session), 133);
    }
    go_on_alike(session, clean);
    kvf_session_close(session);
    kvf_session_close(clean);
}

static void a_dropped_chunk_starts_anew(void **state)
{
    (void)state;
    kvf_session *session = open_session(KVF_PROFILE_FOLD, 1024);
    kvf_session *clean = open_session(KVF_PROFILE_FOLD, 1024);
    const kvf_append_args args = append_args();
    const int32_t tokens[200] = {0};
    kvf_error error;
    fill_inputs();
    assert_int_equal(run_chunk(session, 131, &error), KVF_OK);
    assert_int_equal(run_chunk(clean, 131, &error), KVF_OK);
    static const uint32_t sizes[] = {1, 2, 200};
    for (int i = 0; i < 3; i++) {
        fill_inputs(); /* token 131 closes a CSA row */
        assert_int_equal(kvf_session_begin(session, tokens, sizes[i], &error), KVF_OK);
        for (uint32_t layer = 0; layer < geometry.n_layers; layer++)
            assert_int_equal(kvf_session_append(session, layer, &args, &error), KVF_OK);
    }
    assert_int_equal(kvf_session_begin(session, tokens, 2, &error), KVF_OK);
    go_on_alike(session, clean);
    kvf_session_close(clean);
    kvf_session_close(session);
}

static void an_index_scale_outside_the_exact_range_is_refused(void **state)
{
    (void)state;
    kvf_session *session = open_session(KVF_PROFILE_FOLD, 1024);
    kvf_error error;
    fill_inputs();
    in->norm[0] = 1e30f;
    assert_int_equal(run_chunk(session, 8, &error), KVF_RANGE);
    assert_non_null(strstr(error.message, "index row"));
    kvf_session_close(session);
}

static void absurd_options_are_refused(void **state)
{
    (void)state;
    kvf_session *session;
    kvf_error error;
    kvf_session_options options = {.profile = KVF_PROFILE_FOLD, .max_tokens = (1 << 20) + 1};
    assert_int_equal(kvf_session_open(device, &geometry, &options, &session, &error),
                     KVF_INVALID_ARGUMENT);
    options.max_tokens = 100;
    options.profile = (kvf_profile_id)9;
    assert_int_equal(kvf_session_open(device, &geometry, &options, &session, &error),
                     KVF_INVALID_ARGUMENT);
    options.profile = KVF_PROFILE_FOLD;
    options.grid_off = true;
    assert_int_equal(kvf_session_open(device, &geometry, &options, &session, &error),
                     KVF_INVALID_ARGUMENT);
    options.grid_off = false;
    options.chunk_tokens = 1 << 30;
    assert_int_equal(kvf_session_open(device, &geometry, &options, &session, &error),
                     KVF_INVALID_ARGUMENT);
    assert_null(session);
    session = open_session(KVF_PROFILE_FOLD, 100);
    const int32_t outside[] = {97};
    assert_int_equal(kvf_session_begin(session, outside, 1, &error), KVF_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "97"));
    assert_int_equal(kvf_session_commit(session, &error), KVF_INVALID_ARGUMENT);
    kvf_session_close(session);
}

static int setup(void **state)
{
    (void)state;
    geometry = small_geometry;
    in = malloc(sizeof *in);
    const kvf_device_options options = {.n_threads = 2};
    return !in || kvf_device_open(&options, &device, NULL) != KVF_OK;
}

static int teardown(void **state)
{
    (void)state;
    free(in);
    kvf_device_close(device);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_backend_says_its_own_workspace),
        cmocka_unit_test(held_and_allocated_bytes_equal_the_plan_after_every_chunk),
        cmocka_unit_test(opening_a_million_tokens_allocates_state_only),
        cmocka_unit_test(fold_at_64k_on_the_tiny_model_s_geometry_holds_the_planned_bytes),
        cmocka_unit_test(all_profiles_attend_to_the_same_bits),
        cmocka_unit_test(the_planned_workspace_is_enough_for_64_heads),
        cmocka_unit_test(more_tokens_than_the_context_are_refused_and_nothing_changes),
        cmocka_unit_test(a_nan_in_decode_names_the_place_and_the_session_goes_on),
        cmocka_unit_test(a_nan_in_a_longer_chunk_leaves_the_session_as_it_was),
        cmocka_unit_test(a_nan_head_weight_in_a_longer_chunk_leaves_the_session_as_it_was),
        cmocka_unit_test(a_query_that_is_not_finite_leaves_the_session_as_it_was),
        cmocka_unit_test(a_dropped_chunk_starts_anew),
        cmocka_unit_test(an_index_scale_outside_the_exact_range_is_refused),
        cmocka_unit_test(absurd_options_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
