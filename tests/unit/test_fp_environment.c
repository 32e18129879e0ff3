/*
 * The floating-point environment of the program around the library does not reach results:
 * under other roundings, with subnormals flushed, with exceptions that trap, every door
 * gives the bits that it gives in the default one, and leaves the caller's as it was.
 */
#include <math.h>

#include "model/alone.h"
#include "model/sample.h"
#include "shared/fp_environment.h"
#include "test_support.h"

#if defined(__x86_64__)
/* Rounding bits 13 and 14, FTZ 15, DAZ 6; a cleared bit of 7 to 12 traps. */
static const kvf_fp_environment hostile[] = {
    0x1f80 | 0x8040, 0x1f80 | 0x2000, 0x1f80 | 0x4000,
    0x1f80 | 0x6000, 0x8040 | 0x4000, 0x0000, /* every exception traps */
};
#elif defined(__aarch64__)
/* Rounding bits 22 and 23, FZ 24, DN 25. */
static const kvf_fp_environment hostile[] = {1u << 24, 1u << 22, 2u << 22, 3u << 22,
                                             1u << 25 | 1u << 24 | 1u << 22};
#else
static const kvf_fp_environment hostile[] = {0};
#endif
enum { N_HOSTILE = sizeof hostile / sizeof *hostile };

#define N_ROWS 70
#define N_HEADS 8
#define N_QUERIES 3
#define TOP_K 16

/* What all stages make of one set of inputs. */
typedef struct results {
    uint8_t packed[2 * 64 * 584];
    uint8_t keys[2 * 64 * 68];
    float unpacked[N_ROWS * KVF_ROW_WIDTH];
    int32_t list[N_QUERIES * TOP_K];
    uint32_t list_len[N_QUERIES];
    float attended[N_QUERIES * N_HEADS * KVF_ROW_WIDTH];
    float lse[N_QUERIES * N_HEADS];
} results;

static float rows[N_ROWS * KVF_ROW_WIDTH];
static float index_rows[N_ROWS * KVF_INDEX_WIDTH];
static float index_queries[N_QUERIES * N_HEADS * KVF_INDEX_WIDTH];
static float head_weights[N_QUERIES * N_HEADS];
static float queries[N_QUERIES * N_HEADS * KVF_ROW_WIDTH];

/* Magnitudes of all sizes, and subnormal ones. */
static void fill_inputs(void)
{
    uint64_t random = 7;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        rows[i] = ldexpf(test_random_unit(&random), (int)(i / KVF_ROW_WIDTH % 3 * 7) - 8);
    for (size_t i = 0; i < 3 * KVF_ROW_WIDTH; i++)
        rows[i] = ldexpf(test_random_unit(&random), -130 - (int)(i / KVF_ROW_WIDTH) * 6);
    for (size_t i = 0; i < sizeof index_rows / sizeof *index_rows; i++)
        index_rows[i] = test_random_unit(&random);
    for (size_t i = 0; i < sizeof index_queries / sizeof *index_queries; i++)
        index_queries[i] = test_random_unit(&random);
    for (size_t i = 0; i < sizeof head_weights / sizeof *head_weights; i++)
        head_weights[i] = ldexpf(test_random_unit(&random), i % 4 == 0 ? -135 : 0);
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++)
        queries[i] = 4 * test_random_unit(&random);
}

static kvf_rows view(kvf_format_id format, uint32_t width, uint64_t n_rows, void *memory)
{
    return (kvf_rows){.format = format,
                      .width = width,
                      .page_rows = 64,
                      .n_rows = n_rows,
                      .base = memory,
                      .page_stride_bytes = kvf_format_page_bytes(format, width, 64)};
}

static void *workspace(size_t bytes)
{
    void *memory = NULL;
    assert_int_equal(posix_memalign(&memory, 64, bytes + 64), 0);
    return memory;
}

static void check(kvf_status status, const kvf_error *error)
{
    if (status != KVF_OK)
        fail_msg("%s", error->message);
}

/* Calls a door in an environment and checks that it is the same afterwards. */
#define IN_ENVIRONMENT(environment, call)                                                          \
    do {                                                                                           \
        const kvf_fp_environment before = kvf_fp_read();                                           \
        kvf_fp_write(environment);                                                                 \
        const kvf_status status = call;                                                            \
        const kvf_fp_environment left = kvf_fp_read();                                             \
        kvf_fp_write(before);                                                                      \
        check(status, &error);                                                                     \
        assert_int_equal(left &KVF_FP_CONTROL_BITS, (environment)&KVF_FP_CONTROL_BITS);            \
    } while (0)

static void run_packs(kvf_device *device, kvf_fp_environment environment, results *out)
{
    kvf_error error;
    kvf_pack_args pack = {.rows = rows,
                          .stride = KVF_ROW_WIDTH,
                          .n_rows = N_ROWS,
                          .grid = KVF_GRID_FP8,
                          .out = view(KVF_FORMAT_FP8_F16, KVF_ROW_WIDTH, N_ROWS, out->packed)};
    IN_ENVIRONMENT(environment, kvf_pack(device, &pack, &error));
    kvf_pack_args keys = {.rows = index_rows,
                          .stride = KVF_INDEX_WIDTH,
                          .n_rows = N_ROWS,
                          .grid = KVF_GRID_FP4,
                          .hadamard = true,
                          .out = view(KVF_FORMAT_FP4, KVF_INDEX_WIDTH, N_ROWS, out->keys)};
    IN_ENVIRONMENT(environment, kvf_pack(device, &keys, &error));
    const kvf_unpack_args unpack = {
        .in = pack.out, .n_rows = N_ROWS, .out = out->unpacked, .stride = KVF_ROW_WIDTH};
    IN_ENVIRONMENT(environment, kvf_unpack(device, &unpack, &error));
}

static void run_select(kvf_device *device, kvf_fp_environment environment, results *out)
{
    static uint8_t memory[64 * 68];
    kvf_error error;
    kvf_pack_args pack = {.rows = index_queries,
                          .stride = KVF_INDEX_WIDTH,
                          .n_rows = N_QUERIES * N_HEADS,
                          .grid = KVF_GRID_FP4,
                          .out =
                              view(KVF_FORMAT_FP4, KVF_INDEX_WIDTH, N_QUERIES * N_HEADS, memory)};
    check(kvf_pack(device, &pack, &error), &error);
    static const uint32_t n_visible[N_QUERIES] = {N_ROWS, 40, N_ROWS - 1};
    kvf_select_args select = {.n_queries = N_QUERIES,
                              .n_heads = N_HEADS,
                              .top_k = TOP_K,
                              .queries = pack.out,
                              .head_weights = head_weights,
                              .keys = view(KVF_FORMAT_FP4, KVF_INDEX_WIDTH, N_ROWS, out->keys),
                              .n_visible = n_visible,
                              .list = out->list,
                              .list_len = out->list_len};
    select.workspace_bytes = kvf_select_workspace_bytes(device, &select);
    select.workspace = workspace(select.workspace_bytes);
    IN_ENVIRONMENT(environment, kvf_select(device, &select, &error));
    free(select.workspace);
}

static void run_attend(kvf_device *device, kvf_fp_environment environment, results *out)
{
    kvf_error error;
    kvf_attend_args attend = {.n_queries = N_QUERIES,
                              .n_heads = N_HEADS,
                              .q = queries,
                              .scale = (float)(1 / sqrt(512.0)),
                              .rows = view(KVF_FORMAT_FP8_F16, KVF_ROW_WIDTH, N_ROWS, out->packed),
                              .list = out->list,
                              .list_stride = TOP_K,
                              .list_len = out->list_len,
                              .out = out->attended,
                              .lse = out->lse};
    attend.workspace_bytes = kvf_attend_workspace_bytes(device, &attend);
    attend.workspace = workspace(attend.workspace_bytes);
    IN_ENVIRONMENT(environment, kvf_attend(device, &attend, &error));
    free(attend.workspace);
}

/* The device is opened in the environment too: its threads have it from there. */
static results *run_stages(const char *backend, uint32_t n_threads, kvf_fp_environment environment)
{
    const kvf_device_options options = {.backend = backend, .n_threads = n_threads};
    results *out = calloc(1, sizeof *out);
    kvf_device *device;
    kvf_error error;
    assert_non_null(out);
    IN_ENVIRONMENT(environment, kvf_device_open(&options, &device, &error));
    run_packs(device, environment, out);
    run_select(device, environment, out);
    run_attend(device, environment, out);
    kvf_device_close(device);
    return out;
}

static void the_stages_keep_their_bits(void **state)
{
    (void)state;
    static const struct {
        const char *backend;
        uint32_t n_threads;
    } devices[] = {{"cpu", 1}, {"cpu", 3}, {"ref", 1}};
    fill_inputs();
    for (int d = 0; d < 3; d++) {
        results *expected = run_stages(devices[d].backend, devices[d].n_threads, kvf_fp_read());
        for (int i = 0; i < N_HOSTILE; i++) {
            results *got = run_stages(devices[d].backend, devices[d].n_threads, hostile[i]);
            if (memcmp(got, expected, sizeof *got) != 0)
                fail_msg("other bits on %s with %u threads in environment %#llx",
                         devices[d].backend, devices[d].n_threads, (unsigned long long)hostile[i]);
            free(got);
        }
        free(expected);
    }
}

/* ---- The model ------------------------------------------------------------------------ */

enum { VOCAB = 320, N_TOKENS = 24 };

static void run_model(kvf_fp_environment environment, float logits[VOCAB], uint32_t sampled[20])
{
    const kvf_device_options options = {.n_threads = 2};
    const kvf_session_options session_options = {.profile = KVF_PROFILE_FOLD, .max_tokens = 64};
    int32_t tokens[N_TOKENS];
    kvf_candidate candidates[VOCAB];
    kvf_sampler sampler = {.temperature = 0.9f, .top_p = 0.95f, .min_p = 0.01f, .state = 3};
    kvf_device *device;
    kvf_model *model;
    kvf_session *session;
    kvf_error error;
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = (i * 37 + 65) % 256;
    IN_ENVIRONMENT(environment, kvf_device_open(&options, &device, &error));
    IN_ENVIRONMENT(environment, kvf_model_load(device, KVF_TEST_MODEL, N_TOKENS, &model, &error));
    IN_ENVIRONMENT(environment, kvf_model_open_session(model, &session_options, &session, &error));
    IN_ENVIRONMENT(environment, forward_alone(model, session, tokens, N_TOKENS - 1, NULL, &error));
    IN_ENVIRONMENT(environment,
                   forward_alone(model, session, tokens + N_TOKENS - 1, 1, NULL, &error));
    memcpy(logits, kvf_session_logits(session), VOCAB * sizeof *logits);
    for (int i = 0; i < 20; i++)
        IN_ENVIRONMENT(environment,
                       (sampled[i] = kvf_sample(&sampler, logits, VOCAB, candidates), KVF_OK));
    kvf_session_close(session);
    kvf_model_free(model);
    kvf_device_close(device);
}

static void the_model_keeps_its_bits(void **state)
{
    (void)state;
    float expected[VOCAB];
    float got[VOCAB];
    uint32_t expected_tokens[20];
    uint32_t tokens[20];
    run_model(kvf_fp_read(), expected, expected_tokens);
    for (int i = 0; i < N_HOSTILE; i++) {
        run_model(hostile[i], got, tokens);
        test_assert_same_bits(got, expected, VOCAB, "logits");
        assert_memory_equal(tokens, expected_tokens, sizeof tokens);
    }
}

/* ---- Sessions --------------------------------------------------------------------------- */

#define HIDDEN_WIDTH (2 * KVF_ROW_WIDTH) /* values of a token in a CSA compressor */

/* What a session of one CSA layer makes of the inputs. */
typedef struct session_results {
    float attended[N_ROWS * N_HEADS * KVF_ROW_WIDTH];
    float read_back[N_ROWS / 4 * KVF_ROW_WIDTH]; /* compressed rows, of the saved session */
} session_results;

static const kvf_geometry *one_layer(void)
{
    static kvf_geometry geometry;
    geometry = (kvf_geometry){.n_layers = 1,
                              .vocab = 4,
                              .n_heads = N_HEADS,
                              .n_index_heads = N_HEADS,
                              .top_k = TOP_K,
                              .window_tokens = 64,
                              .max_tokens = 256};
    geometry.layers[0] = (kvf_layer){KVF_LAYER_CSA, 4};
    return &geometry;
}

/* Repeatable values of every size, some subnormal. */
static float *make_values(size_t n, uint64_t seed)
{
    float *values = malloc(n * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < n; i++)
        values[i] = ldexpf(test_random_unit(&seed), i % 16 == 3 ? -135 : (int)(i % 5) - 3);
    return values;
}

/* One chunk of N_ROWS tokens. */
static void run_chunk(kvf_session *session, kvf_fp_environment environment, float *attended)
{
    static const int32_t tokens[N_ROWS] = {1};
    float *kv = make_values((size_t)N_ROWS * HIDDEN_WIDTH, 11);
    float *gate = make_values((size_t)N_ROWS * HIDDEN_WIDTH, 12);
    float *rest = make_values(8 * HIDDEN_WIDTH, 13); /* biases, norms, rope */
    float *q = make_values((size_t)N_ROWS * N_HEADS * KVF_ROW_WIDTH, 14);
    float *index_q = make_values((size_t)N_ROWS * N_HEADS * KVF_INDEX_WIDTH, 15);
    float *weights = make_values((size_t)N_ROWS * N_HEADS, 16);
    const kvf_compressor_input input = {kv, gate, rest, rest + 4 * HIDDEN_WIDTH, 1e-6f};
    const kvf_append_args append = {.window = rows,
                                    .rows = input,
                                    .index = input,
                                    .row_rope = {rest + 5 * HIDDEN_WIDTH, rest + 6 * HIDDEN_WIDTH}};
    kvf_error error;
    IN_ENVIRONMENT(environment, kvf_session_begin(session, tokens, N_ROWS, &error));
    IN_ENVIRONMENT(environment, kvf_session_append(session, 0, &append, &error));
    IN_ENVIRONMENT(environment, kvf_session_select(session, 0, (kvf_chunk_span){0, N_ROWS}, index_q,
                                                   weights, &error));
    IN_ENVIRONMENT(environment, kvf_session_attend(session, 0, (kvf_chunk_span){0, N_ROWS}, q, NULL,
                                                   attended, &error));
    IN_ENVIRONMENT(environment, kvf_session_commit(session, &error));
    free(weights);
    free(index_q);
    free(q);
    free(rest);
    free(gate);
    free(kv);
}

/* Saved in `profile` and read in `other`: rows are then packed anew. */
static session_results *run_session(kvf_profile_id profile, kvf_profile_id other,
                                    kvf_fp_environment environment)
{
    const kvf_device_options device_options = {.n_threads = 2};
    const kvf_session_options options = {.profile = profile, .max_tokens = 256};
    const kvf_session_options other_options = {.profile = other, .max_tokens = 256};
    const kvf_load_options load = {.session = &other_options, .geometry = one_layer()};
    session_results *out = calloc(1, sizeof *out);
    char path[] = "/tmp/kvfold-fp-XXXXXX";
    kvf_device *device;
    kvf_session *session;
    kvf_error error;
    assert_non_null(out);
    assert_true(mkstemp(path) >= 0);
    IN_ENVIRONMENT(environment, kvf_device_open(&device_options, &device, &error));
    check(kvf_session_open(device, one_layer(), &options, &session, &error), &error);
    run_chunk(session, environment, out->attended);
    IN_ENVIRONMENT(environment, kvf_session_save(session, path, NULL, NULL, &error));
    kvf_session_close(session);
    IN_ENVIRONMENT(environment, kvf_session_load(device, path, &load, &session, &error));
    const kvf_unpack_args unpack = {.in = kvf_session_rows(session, 0),
                                    .n_rows = N_ROWS / 4,
                                    .out = out->read_back,
                                    .stride = KVF_ROW_WIDTH};
    check(kvf_unpack(device, &unpack, &error), &error);
    kvf_session_close(session);
    kvf_device_close(device);
    remove(path);
    return out;
}

static void sessions_keep_their_bits(void **state)
{
    (void)state;
    static const kvf_profile_id profiles[][2] = {{KVF_PROFILE_LEGACY, KVF_PROFILE_FOLD},
                                                 {KVF_PROFILE_FOLD, KVF_PROFILE_LEGACY}};
    fill_inputs();
    for (int p = 0; p < 2; p++) {
        session_results *expected = run_session(profiles[p][0], profiles[p][1], kvf_fp_read());
        for (int i = 0; i < N_HOSTILE; i++) {
            session_results *got = run_session(profiles[p][0], profiles[p][1], hostile[i]);
            test_assert_same_bits(got->attended, expected->attended,
                                  sizeof got->attended / sizeof(float), "attended");
            test_assert_same_bits(got->read_back, expected->read_back,
                                  sizeof got->read_back / sizeof(float), "read back");
            free(got);
        }
        free(expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_stages_keep_their_bits),
        cmocka_unit_test(the_model_keeps_its_bits),
        cmocka_unit_test(sessions_keep_their_bits),
    };
    return cmocka_run_group_tests_name("fp_environment", tests, NULL, NULL);
}
