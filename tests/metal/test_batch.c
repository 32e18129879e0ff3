/*
 * Batches of sessions on the GPU backend: attention of each has the bits that it has alone,
 * whatever else is in the batch; stages of all sessions are as many dispatches as of one; there is
 * one wait.
 */
#define SMALL_CHUNK 60
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
        small_feed(p->session, 20 + 5 * i, 0);
        small_feed(p->alone, 20 + 5 * i, 0);
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

/* Tokens of session i in a step: a piece of a prompt, single tokens, or two. */
static uint32_t tokens_of(uint32_t i, uint32_t step)
{
    return i == step % 3 ? 8 + step * 7 : 1 + (i + step) % 4 / 3;
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
    run_batches(KVF_PROFILE_FOLD, 2, 2);
    run_batches(KVF_PROFILE_FOLD, MOST_SESSIONS, 2);
    run_batches(KVF_PROFILE_TILED, 3, 1);
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
        small_feed(all[i].session, 13, i); /* pages have room for the next */
        parts[i] = (small_part){all[i].session, 1, i};
    }
    small_items(parts, n, items);
    const kvf_emulator_counters before = *kvf_emulator_get_counters();
    require(small_batch(batch, items, n, SMALL_CHUNK, &error), &error);
    kvf_emulator_counters taken = *kvf_emulator_get_counters();
    taken.dispatches -= before.dispatches;
    taken.waits -= before.waits;
    taken.live_buffers -= before.live_buffers;
    close_pairs(n, all);
    kvf_batch_close(batch);
    return taken;
}

/*
 * Of two sessions and of seven: the same dispatches (a session's masks are its own), one wait, and
 * no buffers.
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
        assert_true((int64_t)all[i]->live_buffers <= 0); /* the wait releases some */
    }
}

/* ---- Splits ------------------------------------------------------------------------- */

#define QUERIES 64
#define HEADS 64 /* four blocks: so many threadgroups that each walks all splits */
#define WINDOW 40
#define ROWS 61

static float *random_floats(size_t n, uint64_t seed)
{
    float *values = malloc(n * sizeof *values);
    assert_non_null(values);
    small_fill(values, n, seed);
    return values;
}

static kvf_rows rows_of(float *values, uint64_t n)
{
    return (kvf_rows){.format = KVF_FORMAT_F32,
                      .width = KVF_ROW_WIDTH,
                      .page_rows = (uint32_t)n,
                      .n_rows = n,
                      .base = values};
}

/* A query among many, whose splits one threadgroup walks, has the bits of one whose are merged. */
static void splits_that_are_walked_give_what_merged_ones_give(void **state)
{
    (void)state;
    static const uint32_t some[] = {0, 17, QUERIES - 1};
    const size_t n_values = (size_t)HEADS * KVF_ROW_WIDTH; /* of a query */
    float *q = random_floats(QUERIES * n_values, 1);
    float *window = random_floats((WINDOW + QUERIES) * KVF_ROW_WIDTH, 2);
    float *rows = random_floats(ROWS * KVF_ROW_WIDTH, 3);
    float *sinks = random_floats(HEADS, 4);
    float *out = malloc(QUERIES * n_values * sizeof *out);
    float *alone = malloc(n_values * sizeof *alone);
    float lse[QUERIES * HEADS], lse_alone[HEADS];
    uint32_t n_visible[QUERIES];
    kvf_error error;
    for (uint32_t i = 0; i < QUERIES; i++)
        n_visible[i] = i % 2 ? ROWS : ROWS - 30;
    kvf_attend_args args = {.n_queries = QUERIES,
                            .n_heads = HEADS,
                            .q = q,
                            .sinks = sinks,
                            .scale = 0.05f,
                            .first_token = WINDOW,
                            .window_tokens = WINDOW,
                            .window = rows_of(window, WINDOW + QUERIES),
                            .rows = rows_of(rows, ROWS),
                            .n_visible = n_visible,
                            .out = out,
                            .lse = lse};
    require(kvf_attend(small_device, &args, &error), &error);
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        kvf_attend_args one = args;
        one.n_queries = 1;
        one.first_token += some[i];
        one.q += some[i] * n_values;
        one.n_visible += some[i];
        one.out = alone;
        one.lse = lse_alone;
        require(kvf_attend(small_device, &one, &error), &error);
        assert_memory_equal(alone, out + some[i] * n_values, n_values * sizeof *alone);
        assert_memory_equal(lse_alone, lse + some[i] * HEADS, sizeof lse_alone);
    }
    free(q);
    free(window);
    free(rows);
    free(sinks);
    free(out);
    free(alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_have_the_bits_that_they_have_alone),
        cmocka_unit_test(a_batch_is_as_many_dispatches_as_a_session_and_one_wait),
        cmocka_unit_test(splits_that_are_walked_give_what_merged_ones_give),
    };
    return _cmocka_run_group_tests("batches on the emulated GPU", tests,
                                   sizeof tests / sizeof tests[0], open_emulated,
                                   small_batch_teardown);
}
