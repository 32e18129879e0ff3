/*
 * The model's batches: on the CPU a session's logits are to the bit those of the session alone,
 * whatever else is in its batches, with any number of threads.
 */
#include "cache/compare.h"
#include "model/golden.h"

#define MOST 32
#define BATCH_TOKENS 300

static const int32_t *ids;

/* Session i reads from its place of the text; forks from where they parted. */
typedef struct story {
    kvf_session *session;
    const int32_t *text;
    uint64_t shared; /* tokens of the text's beginning that it had before */
} story;

static kvf_batch *open_batch(engine *e, kvf_profile_id profile, uint32_t n_items)
{
    kvf_batch *batch;
    kvf_error error;
    const kvf_session_options options = {.profile = profile,
                                         .max_tokens = 1024,
                                         .chunk_tokens = BATCH_TOKENS,
                                         .batch_sessions = n_items};
    require(kvf_batch_open(e->device, &e->model->config.geometry, &options, &batch, &error),
            &error);
    return batch;
}

static void open_stories(engine *e, kvf_profile_id profile, uint32_t n, story *all)
{
    for (uint32_t i = 0; i < n; i++) {
        all[i].text = ids + 40 * i;
        all[i].shared = 0;
        if (i % 4 == 3) {
            kvf_error error;
            require(kvf_session_fork(all[i - 1].session, &all[i].session, &error), &error);
            all[i].shared = all[i - 1].shared;
            continue;
        }
        all[i].session = session_open(e, profile, false, 1024, BATCH_TOKENS);
        if (i % 4 == 2) {
            all[i].shared = 100 + i;
            feed(e, all[i].session, ids, all[i].shared, BATCH_TOKENS, NULL);
        }
    }
}

/* The session once more, alone, by an engine of its own. */
static void expect_as_alone(engine *alone, const story *s, kvf_profile_id profile)
{
    const uint64_t n = kvf_session_n_tokens(s->session);
    kvf_session *clean = session_open(alone, profile, false, 1024, BATCH_TOKENS);
    feed(alone, clean, ids, s->shared, BATCH_TOKENS, NULL);
    feed(alone, clean, s->text, n - s->shared, 61, NULL);
    assert_same_session(clean, s->session);
    kvf_session_close(clean);
}

/* Tokens of the i-th item of a step: the first ones bring pieces of prompts, others a token. */
static uint32_t tokens_of(uint32_t i, uint32_t step)
{
    if (i == 0)
        return 1 + step * 97 % 180;
    return i == 1 ? 1 + step * 31 % 40 : 1 + (i + step) % 4 / 3;
}

static void run(const char *backend, const char *isa, uint32_t n_threads, kvf_profile_id profile,
                uint32_t n, uint32_t n_steps, engine *alone)
{
    const kvf_device_options options = {.backend = backend, .isa = isa, .n_threads = n_threads};
    story all[MOST];
    engine e;
    kvf_error error;
    require(kvf_device_open(&options, &e.device, &error), &error);
    require(kvf_model_load(e.device, KVF_TEST_MODEL, BATCH_TOKENS, &e.model, &error), &error);
    kvf_batch *batch = open_batch(&e, profile, n);
    open_stories(&e, profile, n, all);
    for (uint32_t step = 0; step < n_steps; step++) {
        kvf_batch_item items[MOST];
        uint32_t n_items = 0;
        for (uint32_t i = 0; i < n; i++) {
            const story *s = &all[(i + step) % n];
            if (n > 2 && (i + step) % 6 == 5) /* sits this one out */
                continue;
            items[n_items++] =
                (kvf_batch_item){.session = s->session,
                                 .ids = s->text + kvf_session_n_tokens(s->session) - s->shared,
                                 .n = tokens_of(i, step)};
        }
        require(kvf_model_forward(e.model, batch, items, n_items, &error), &error);
        for (uint32_t i = 0; i < n_items; i++)
            require(items[i].status, &items[i].error);
    }
    for (uint32_t i = 0; i < n; i++) {
        expect_as_alone(alone, &all[i], profile);
        kvf_session_close(all[i].session);
    }
    kvf_batch_close(batch);
    engine_close(&e);
}

static engine open_alone(void)
{
    const kvf_device_options options = {.n_threads = 1};
    engine e;
    kvf_error error;
    require(kvf_device_open(&options, &e.device, &error), &error);
    require(kvf_model_load(e.device, KVF_TEST_MODEL, BATCH_TOKENS, &e.model, &error), &error);
    return e;
}

static void logits_are_those_of_the_session_alone(void **state)
{
    (void)state;
    engine alone = open_alone();
    run("cpu", NULL, 2, KVF_PROFILE_FOLD, 1, 3, &alone);
    run("cpu", NULL, 2, KVF_PROFILE_FOLD, 2, 4, &alone);
    run("cpu", NULL, 3, KVF_PROFILE_LEGACY, 7, 4, &alone);
    run("cpu", NULL, 2, KVF_PROFILE_PACKED, 7, 4, &alone);
    run("cpu", NULL, 2, KVF_PROFILE_FOLD, 32, 5, &alone);
    run("ref", NULL, 1, KVF_PROFILE_FOLD, 2, 2, &alone);
    engine_close(&alone);
}

/* Of all tokens for the items that ask, of the last one for all, wherever they stand. */
static void all_logits_come_for_those_that_ask(void **state)
{
    (void)state;
    static float logits[2][90 * VOCAB];
    static float expected[2][90 * VOCAB];
    engine e = open_alone();
    kvf_batch *batch = open_batch(&e, KVF_PROFILE_FOLD, 4);
    kvf_session *s[4];
    kvf_session *clean[4];
    kvf_batch_item items[4];
    kvf_error error;
    const uint32_t n[4] = {3, 90, 70, 1};
    for (uint32_t i = 0; i < 4; i++) {
        s[i] = session_open(&e, KVF_PROFILE_FOLD, false, 1024, BATCH_TOKENS);
        clean[i] = session_open(&e, KVF_PROFILE_FOLD, false, 1024, BATCH_TOKENS);
        items[i] = (kvf_batch_item){.session = s[i], .ids = ids + 50 * i, .n = n[i]};
    }
    items[1].all_logits = logits[0];
    items[2].all_logits = logits[1];
    require(kvf_model_forward(e.model, batch, items, 4, &error), &error);
    for (uint32_t i = 0; i < 4; i++) {
        feed(&e, clean[i], ids + 50 * i, n[i], 17, i == 1 || i == 2 ? expected[i - 1] : NULL);
        assert_same_session(clean[i], s[i]);
    }
    assert_memory_equal(logits[0], expected[0], 90 * VOCAB * sizeof(float));
    assert_memory_equal(logits[1], expected[1], 70 * VOCAB * sizeof(float));
    for (uint32_t i = 0; i < 4; i++) {
        kvf_session_close(s[i]);
        kvf_session_close(clean[i]);
    }
    kvf_batch_close(batch);
    engine_close(&e);
}

/* More tokens than the model was loaded for, and an item that begin refuses. */
static void what_cannot_be_taken_is_said_by_item(void **state)
{
    (void)state;
    engine e = open_alone();
    kvf_batch *batch = open_batch(&e, KVF_PROFILE_FOLD, 3);
    kvf_session *s[3];
    kvf_batch_item items[3];
    float before[3][VOCAB];
    kvf_error error;
    kvf_model_reserve(e.model, 100, &error);
    for (uint32_t i = 0; i < 3; i++) {
        s[i] = session_open(&e, KVF_PROFILE_FOLD, false, i == 1 ? 60 : 1024, BATCH_TOKENS);
        feed(&e, s[i], ids + 50 * i, 40, 40, NULL);
        memcpy(before[i], kvf_session_logits(s[i]), sizeof before[i]);
        items[i] = (kvf_batch_item){.session = s[i], .ids = ids, .n = 34};
    }
    assert_int_equal(kvf_model_forward(e.model, batch, items, 3, &error), KVF_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "102 tokens; this model was loaded for up to 100"));
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(items[i].status, KVF_INVALID_ARGUMENT);
    items[2].n = 1;
    require(kvf_model_forward(e.model, batch, items, 3, &error), &error);
    assert_int_equal(items[0].status, KVF_OK);
    assert_int_equal(items[1].status, KVF_CONTEXT_FULL);
    assert_int_equal(items[2].status, KVF_OK);
    assert_int_equal(kvf_session_n_tokens(s[1]), 40);
    assert_memory_equal(kvf_session_logits(s[1]), before[1], sizeof before[1]);
    assert_memory_not_equal(kvf_session_logits(s[2]), before[2], sizeof before[2]);
    for (uint32_t i = 0; i < 3; i++)
        kvf_session_close(s[i]);
    kvf_batch_close(batch);
    engine_close(&e);
}

static int setup(void **state)
{
    (void)state;
    golden_open();
    ids = golden(NULL, "p13001.ids");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    kvf_tensor_set_close(golden_files);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_the_session_alone),
        cmocka_unit_test(all_logits_come_for_those_that_ask),
        cmocka_unit_test(what_cannot_be_taken_is_said_by_item),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
