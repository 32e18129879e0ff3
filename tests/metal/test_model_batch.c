/*
 * Batches of the model on the emulated GPU: what products depend on is which of two forms they
 * have, up to seven tokens or more; within a form a session's logits have the bits that it has
 * alone, whatever else is in its batches.
 */
#include "cache/compare.h"
#include "model/golden.h"

#include "emulator.h"

#define MOST_SESSIONS 7
#define CHUNK 16

static int32_t ids[200];

/* A session, and another one that is fed the same alone. */
typedef struct pair {
    kvf_session *session;
    kvf_session *alone;
} pair;

/* Prompts of several lengths; every third session is a fork of the one before it. */
static void open_pairs(engine *e, kvf_profile_id profile, uint32_t n, pair *all)
{
    for (uint32_t i = 0; i < n; i++) {
        kvf_error error;
        if (i % 3 == 2) {
            require(kvf_session_fork(all[i - 1].session, &all[i].session, &error), &error);
            require(kvf_session_fork(all[i - 1].alone, &all[i].alone, &error), &error);
            continue;
        }
        all[i].session = session_open(e, profile, false, 512, CHUNK);
        all[i].alone = session_open(e, profile, false, 512, CHUNK);
        feed(e, all[i].session, ids, 3 + i, CHUNK, NULL);
        feed(e, all[i].alone, ids, 3 + i, CHUNK, NULL);
    }
}

/* A batch in which item i brings n_tokens[i], and each of its sessions once more, alone. */
static void step(engine *e, kvf_batch *batch, const pair *all, const uint32_t *n_tokens, uint32_t n)
{
    kvf_batch_item items[MOST_SESSIONS];
    kvf_error error;
    for (uint32_t i = 0; i < n; i++)
        items[i] =
            (kvf_batch_item){.session = all[i].session, .ids = ids + 7 * i, .n = n_tokens[i]};
    const uint64_t waits = kvf_emulator_get_counters()->waits;
    require(kvf_model_forward(e->model, batch, items, n, &error), &error);
    assert_int_equal(kvf_emulator_get_counters()->waits - waits, 1);
    for (uint32_t i = 0; i < n; i++) {
        require(items[i].status, &items[i].error);
        require(forward_alone(e->model, all[i].alone, ids + 7 * i, n_tokens[i], NULL, &error),
                &error);
        assert_same_session(all[i].alone, all[i].session);
    }
}

static void run(engine *e, kvf_profile_id profile, uint32_t n,
                const uint32_t (*steps)[MOST_SESSIONS], uint32_t n_steps)
{
    pair all[MOST_SESSIONS];
    kvf_batch *batch;
    kvf_error error;
    const kvf_session_options options = {
        .profile = profile, .max_tokens = 512, .chunk_tokens = CHUNK, .batch_sessions = n};
    require(kvf_batch_open(e->device, &e->model->config.geometry, &options, &batch, &error),
            &error);
    open_pairs(e, profile, n, all);
    for (uint32_t i = 0; i < n_steps; i++)
        step(e, batch, all, steps[i], n);
    for (uint32_t i = 0; i < n; i++) {
        kvf_session_close(all[i].session);
        kvf_session_close(all[i].alone);
    }
    kvf_batch_close(batch);
}

static void logits_are_those_of_the_session_alone(void **state)
{
    (void)state;
    /* Up to seven tokens in all; or each item brings eight and more, so that it has tiles alone. */
    static const uint32_t two[][MOST_SESSIONS] = {{5, 2}, {8, 8}};
    static const uint32_t seven[][MOST_SESSIONS] = {{1, 1, 1, 1, 1, 1, 1}};
    static const uint32_t three[][MOST_SESSIONS] = {{2, 1, 3}};
    engine e = engine_open("emulated", CHUNK);
    run(&e, KVF_PROFILE_FOLD, 2, two, 2);
    run(&e, KVF_PROFILE_FOLD, 7, seven, 1);
    run(&e, KVF_PROFILE_LEGACY, 3, three, 1);
    engine_close(&e);
}

int main(void)
{
    for (int i = 0; i < 200; i++)
        ids[i] = 97 + i * i % 26;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_the_session_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
