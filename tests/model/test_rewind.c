/*
 * The model's sessions, gone back and forked: to the byte those of sessions that were
 * never longer, in every profile, whatever chunks, threads and ISA either saw.
 */
#include "cache/compare.h"
#include "model/golden.h"

#define N_TOKENS 450

static engine cpu;
static engine other; /* whose sessions were never longer: other threads, another ISA if there is */
static const int32_t *ids;

typedef struct pattern {
    const char *name;
    uint32_t sizes[6]; /* again and again; 0 ends */
} pattern;

static const pattern patterns[] = {
    {"of 128", {128}},
    {"of 256, then one by one for a while", {256, 1, 1, 126}},
    {"at once, then others", {384, 3, 61, 64}},
    {"odd", {57, 71, 5, 123}},
};
#define N_PATTERNS ((int)(sizeof patterns / sizeof *patterns))

/* ids[0 .. n) in the pattern's chunks, the last one cut. */
static kvf_session *fed(engine *e, const pattern *p, kvf_profile_id profile, uint64_t n)
{
    kvf_session *session = session_open(e, profile, false, 2 * N_TOKENS, 512);
    int place = 0;
    for (uint64_t at = 0; at < n;) {
        if (place == 6 || p->sizes[place] == 0)
            place = 0;
        const uint32_t part = n - at < p->sizes[place] ? (uint32_t)(n - at) : p->sizes[place];
        kvf_error error;
        require(forward_alone(e->model, session, ids + at, part, NULL, &error), &error);
        at += part;
        place++;
    }
    return session;
}

/* Both go on with the same 141 tokens, others than before, in other chunks. */
static void go_on_alike(kvf_session *clean, kvf_session *back)
{
    static const uint32_t further[] = {1, 9, 130, 1};
    const int32_t *text = ids + 300;
    kvf_error error;
    require(forward_alone(other.model, clean, text, 141, NULL, &error), &error);
    for (int i = 0; i < 4; i++) {
        require(forward_alone(cpu.model, back, text, further[i], NULL, &error), &error);
        text += further[i];
    }
    assert_same_session(clean, back);
}

static void a_session_that_went_back_is_one_that_was_never_longer(void **state)
{
    (void)state;
    static const uint64_t places[] = {130, 389};
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++)
        for (int i = 0; i < N_PATTERNS; i++) {
            const pattern *p = &patterns[i];
            const pattern *q = &patterns[(i + 1) % N_PATTERNS];
            kvf_session *session = fed(&cpu, p, (kvf_profile_id)profile, N_TOKENS);
            for (size_t j = 0; j < sizeof places / sizeof *places; j++) {
                kvf_session *back;
                kvf_error error;
                require(kvf_session_fork(session, &back, &error), &error);
                require(rewind_alone(cpu.model, back, places[j], &error), &error);
                kvf_session *clean = fed(&other, q, (kvf_profile_id)profile, places[j]);
                assert_same_session(clean, back);
                if (j == 1)
                    go_on_alike(clean, back);
                kvf_session_close(clean);
                kvf_session_close(back);
            }
            /* and back again and again in one session */
            kvf_error error;
            require(rewind_alone(cpu.model, session, 430, &error), &error);
            require(rewind_alone(cpu.model, session, 390, &error), &error);
            require(rewind_alone(cpu.model, session, 300, &error), &error);
            kvf_session *clean = fed(&other, q, (kvf_profile_id)profile, 300);
            assert_same_session(clean, session);
            kvf_session_close(clean);
            kvf_session_close(session);
        }
    assert_int_equal(other.device->live_bytes[KVF_MEMORY_CACHE], 0);
    assert_int_equal(cpu.device->live_bytes[KVF_MEMORY_CACHE], 0);
    assert_int_equal(cpu.device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
}

/* The chunks that came are longer than the model, or the session, takes at a time now. */
static void a_rewind_takes_chunks_that_model_and_session_take(void **state)
{
    (void)state;
    static const uint32_t takes[][2] = {{100, 512}, {512, 50}}; /* model, session */
    const pattern whole = {"at once", {512}};
    kvf_session *clean = fed(&other, &whole, KVF_PROFILE_FOLD, 389);
    for (int i = 0; i < 2; i++) {
        engine e = {.device = cpu.device};
        kvf_error error;
        require(kvf_model_load(e.device, KVF_TEST_MODEL, takes[i][0], &e.model, &error), &error);
        kvf_session *session = session_open(&e, KVF_PROFILE_FOLD, false, 2 * N_TOKENS, takes[i][1]);
        engine *feeder = takes[i][1] > takes[i][0] ? &cpu : &e;
        feed(feeder, session, ids, N_TOKENS, takes[i][1] > 400 ? 400 : takes[i][1], NULL);
        require(rewind_alone(e.model, session, 389, &error), &error);
        assert_same_session(clean, session);
        kvf_session_close(session);
        kvf_model_free(e.model);
    }
    kvf_session_close(clean);
}

static void forks_of_a_prompt_go_their_own_ways(void **state)
{
    (void)state;
    const pattern *p = &patterns[1];
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        kvf_session *prompt = fed(&cpu, p, (kvf_profile_id)profile, 300);
        kvf_session *forks[3];
        kvf_error error;
        for (int i = 0; i < 3; i++)
            require(kvf_session_fork(prompt, &forks[i], &error), &error);
        for (int step = 0; step < 6; step++)
            for (int i = 0; i < 3; i++)
                require(forward_alone(cpu.model, forks[i], ids + 40 * i + step, 1, NULL, &error),
                        &error);
        for (int i = 0; i < 3; i++) {
            kvf_session *clean = fed(&cpu, p, (kvf_profile_id)profile, 300);
            for (int step = 0; step < 6; step++)
                require(forward_alone(cpu.model, clean, ids + 40 * i + step, 1, NULL, &error),
                        &error);
            assert_same_session(clean, forks[i]);
            kvf_session_close(clean);
            kvf_session_close(forks[i]);
        }
        kvf_session *clean = fed(&cpu, p, (kvf_profile_id)profile, 300);
        assert_same_session(clean, prompt);
        kvf_session_close(clean);
        kvf_session_close(prompt);
    }
}

static void what_is_not_covered_is_said_and_nothing_changes(void **state)
{
    (void)state;
    kvf_session *session;
    kvf_error error;
    const kvf_session_options options = {.profile = KVF_PROFILE_FOLD,
                                         .max_tokens = 2 * N_TOKENS,
                                         .chunk_tokens = 128,
                                         .checkpoint_count = 2};
    require(kvf_model_open_session(cpu.model, &options, &session, &error), &error);
    feed(&cpu, session, ids, 640, 128, NULL);
    assert_int_equal(rewind_alone(cpu.model, session, 511, &error), KVF_NOT_COVERED);
    assert_non_null(strstr(error.message, "512"));
    assert_int_equal(kvf_session_n_tokens(session), 640);
    require(rewind_alone(cpu.model, session, 512, &error), &error);
    kvf_session_close(session);
}

static int setup(void **state)
{
    (void)state;
    golden_open();
    ids = golden(NULL, "p700.ids");
    /* One thread: most chunks are small, and the bits do not depend on it being more. */
    kvf_error error;
    kvf_device_options options = {.backend = "cpu", .n_threads = 1};
    require(kvf_device_open(&options, &cpu.device, &error), &error);
    require(kvf_model_load(cpu.device, KVF_TEST_MODEL, 512, &cpu.model, &error), &error);
    options = (kvf_device_options){.backend = "cpu", .isa = "avx2", .n_threads = 3};
    if (kvf_device_open(&options, &other.device, &error) != KVF_OK) {
        options.isa = NULL;
        require(kvf_device_open(&options, &other.device, &error), &error);
    }
    require(kvf_model_load(other.device, KVF_TEST_MODEL, 512, &other.model, &error), &error);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    engine_close(&other);
    engine_close(&cpu);
    kvf_tensor_set_close(golden_files);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_that_went_back_is_one_that_was_never_longer),
        cmocka_unit_test(a_rewind_takes_chunks_that_model_and_session_take),
        cmocka_unit_test(forks_of_a_prompt_go_their_own_ways),
        cmocka_unit_test(what_is_not_covered_is_said_and_nothing_changes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
