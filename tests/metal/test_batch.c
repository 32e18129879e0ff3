/*
 * Batches of sessions on the GPU backend: attention of each has the bits that it has alone,
 * whatever else is in the batch; stages of all sessions are as many dispatches as of one; there is
 * one wait, and until then the host touches nothing that is queued. Kernels are checked.
 */
#define SMALL_CHUNK 150
#include "cache/small_batch.h"

#include "cache/compare.h"
#include "emulator.h"

#define MOST_SESSIONS 7

/* A session, and what another one was fed that went alone. */
typedef struct pair {
    kvf_session *session;
    kvf_session *alone;
    uint32_t text;
} pair;

static int open_emulated(void **state)
{
    setenv("KVF_TEST_BACKEND", "emulated", 1);
    return small_batch_setup(state);
}

static void require(kvf_status status, const kvf_error *error)
{
    if (status != KVF_OK)
        fail_msg("%s", error->message);
}

/* Every third session is a fork of the one before it; the others hold tokens of text 0. */
static void open_pairs(kvf_profile_id profile, uint32_t n, pair *all)
{
    kvf_error error;
    for (uint32_t i = 0; i < n; i++) {
        pair *p = &all[i];
        p->text = i + 1;
        if (i % 3 == 2) {
            require(kvf_session_fork(all[i - 1].session, &p->session, &error), &error);
            require(kvf_session_fork(all[i - 1].alone, &p->alone, &error), &error);
            continue;
        }
        p->session = small_open(profile, 2);
        p->alone = small_open(profile, 2);
        if (i == 0)
            continue; /* an empty one */
        small_feed(p->session, 61 + 13 * i, 0);
        small_feed(p->alone, 61 + 13 * i, 0);
    }
}

static void close_pairs(uint32_t n, pair *all)
{
    for (uint32_t i = 0; i < n; i++) {
        kvf_session_close(all[i].session);
        kvf_session_close(all[i].alone);
    }
}

/* The batch's outputs of the last layer, item after item, are those of the items alone. */
static void expect_as_alone(const pair *all, const small_part *parts, uint32_t n)
{
    static float out[SMALL_CHUNK * SMALL_HEADS * 512];
    memcpy(out, small_in->out, sizeof out);
    const float *own = out;
    for (uint32_t i = 0; i < n; i++) {
        const size_t n_values = (size_t)parts[i].n * SMALL_HEADS * 512;
        small_feed(all[i].alone, parts[i].n, parts[i].text);
        assert_memory_equal(small_in->out, own, n_values * sizeof *own);
        assert_same_session(all[i].alone, all[i].session);
        own += n_values;
    }
}

/* Tokens of session i in a step: pieces of prompts, single tokens, and windows that pass. */
static uint32_t tokens_of(uint32_t i, uint32_t step)
{
    return i == step % 3 ? 1 + (step * 37 + 19) % 70 : 1 + (i + step) % 4 / 3;
}

static void run_batches(kvf_profile_id profile, uint32_t n, uint32_t n_steps)
{
    pair all[MOST_SESSIONS];
    kvf_error error;
    kvf_batch *batch = small_open_batch(profile, n);
    open_pairs(profile, n, all);
    for (uint32_t step = 0; step < n_steps; step++) {
        small_part parts[MOST_SESSIONS];
        kvf_batch_item items[MOST_SESSIONS];
        for (uint32_t i = 0; i < n; i++)
            parts[i] = (small_part){all[i].session, tokens_of(i, step), all[i].text};
        small_items(parts, n, items);
        require(small_batch(batch, items, n, step % 2 ? SMALL_CHUNK : 11, &error), &error);
        expect_as_alone(all, parts, n);
    }
    close_pairs(n, all);
    kvf_batch_close(batch);
}

static void sessions_have_the_bits_that_they_have_alone(void **state)
{
    (void)state;
    run_batches(KVF_PROFILE_FOLD, 2, 3);
    run_batches(KVF_PROFILE_FOLD, MOST_SESSIONS, 3);
    run_batches(KVF_PROFILE_TILED, 3, 2);
    run_batches(KVF_PROFILE_LEGACY, 2, 2);
}

/* One token of each of n sessions that hold as much; what the layers take. */
static kvf_emulator_counters decode_together(kvf_profile_id profile, uint32_t n)
{
    pair all[MOST_SESSIONS];
    small_part parts[MOST_SESSIONS];
    kvf_batch_item items[MOST_SESSIONS];
    kvf_error error;
    kvf_batch *batch = small_open_batch(profile, n);
    for (uint32_t i = 0; i < n; i++) {
        all[i] = (pair){small_open(profile, 2), small_open(profile, 2), i};
        small_feed(all[i].session, 140, i);
        small_feed(all[i].session, 1, i); /* pages have room for the next */
        parts[i] = (small_part){all[i].session, 1, i};
    }
    small_items(parts, n, items);
    const kvf_emulator_counters before = *kvf_emulator_get_counters();
    kvf_emulator_watch_host(true);
    require(small_batch(batch, items, n, SMALL_CHUNK, &error), &error);
    kvf_emulator_watch_host(false);
    kvf_emulator_counters taken = *kvf_emulator_get_counters();
    taken.dispatches -= before.dispatches;
    taken.waits -= before.waits;
    taken.live_buffers -= before.live_buffers;
    taken.host_touches -= before.host_touches;
    close_pairs(n, all);
    kvf_batch_close(batch);
    return taken;
}

/*
 * Of two sessions and of seven: the same dispatches (a session's masks are its own), one wait, no
 * buffers, and the host stays away.
 */
static void a_batch_is_as_many_dispatches_as_a_session_and_one_wait(void **state)
{
    (void)state;
    const kvf_emulator_counters one = decode_together(KVF_PROFILE_FOLD, 1);
    const kvf_emulator_counters two = decode_together(KVF_PROFILE_FOLD, 2);
    const kvf_emulator_counters seven = decode_together(KVF_PROFILE_FOLD, 7);
    assert_int_equal(seven.dispatches, two.dispatches);
    /* More than one: a table goes before each operation. They are 4 layers with 3 to 8. */
    assert_in_range(two.dispatches, one.dispatches + 1, one.dispatches + 4 * 8);
    const kvf_emulator_counters *const all[] = {&one, &two, &seven};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(all[i]->waits, 1);
        assert_int_equal(all[i]->live_buffers, 0);
        assert_int_equal(all[i]->host_touches, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_have_the_bits_that_they_have_alone),
        cmocka_unit_test(a_batch_is_as_many_dispatches_as_a_session_and_one_wait),
    };
    return _cmocka_run_group_tests("batches on the emulated GPU", tests,
                                   sizeof tests / sizeof tests[0], open_emulated,
                                   small_batch_teardown);
}
