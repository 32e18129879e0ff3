/*
 * The model on the emulated GPU, kernels checked: a chunk of one session or of several is one
 * wait, whether it has a token or many, and while it is queued the host reads nothing that it
 * writes and writes nothing that it uses.
 */
#include "model/golden.h"

#include "emulator.h"

#define MOST_SESSIONS 3

static int32_t ids[64];

/* A pass, and what the emulator saw of the host meanwhile. */
static void pass(engine *e, kvf_batch *batch, kvf_session **sessions, const uint32_t *n_tokens,
                 uint32_t n)
{
    kvf_batch_item items[MOST_SESSIONS];
    kvf_error error;
    for (uint32_t i = 0; i < n; i++)
        items[i] = (kvf_batch_item){.session = sessions[i], .ids = ids + i, .n = n_tokens[i]};
    const kvf_emulator_counters before = *kvf_emulator_get_counters();
    kvf_emulator_watch_host(true);
    require(kvf_model_forward(e->model, batch, items, n, &error), &error);
    kvf_emulator_watch_host(false);
    const kvf_emulator_counters *now = kvf_emulator_get_counters();
    assert_int_equal(now->waits - before.waits, 1);
    if (now->host_touches != before.host_touches)
        fail_msg("%llu touches; the last: %s",
                 (unsigned long long)(now->host_touches - before.host_touches),
                 kvf_emulator_last_touch());
}

static void a_pass_is_one_wait_and_the_host_stays_away(void **state)
{
    (void)state;
    static const uint32_t steps[][MOST_SESSIONS] = {{6, 1, 2}, {1, 1, 1}};
    engine e = engine_open("emulated", 16);
    kvf_session *sessions[MOST_SESSIONS];
    kvf_batch *batch;
    kvf_error error;
    const kvf_session_options options = {
        .max_tokens = 128, .chunk_tokens = 16, .batch_sessions = MOST_SESSIONS};
    for (int i = 0; i < 64; i++)
        ids[i] = 97 + i % 26;
    require(kvf_batch_open(e.device, &e.model->config.geometry, &options, &batch, &error), &error);
    for (int i = 0; i < MOST_SESSIONS; i++)
        sessions[i] = session_open(&e, options.profile, false, 128, 16);
    for (size_t step = 0; step < sizeof steps / sizeof steps[0]; step++)
        pass(&e, batch, sessions, steps[step], MOST_SESSIONS);
    pass(&e, batch, sessions, steps[1], 1);
    for (int i = 0; i < MOST_SESSIONS; i++)
        kvf_session_close(sessions[i]);
    kvf_batch_close(batch);
    engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pass_is_one_wait_and_the_host_stays_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
