/*
 * Sessions that go through the stages together: each holds what it holds alone, and what goes
 * wrong with one is that one's. The model's batches are in tests/model/test_batch.c.
 */
#define SMALL_CHUNK 420 /* two parts that fill and leave pages of their windows behind */
#include "cache/small_batch.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "cache/batch.h"
#include "cache/compare.h"

/* What a session was fed, to feed another one alone. */
typedef struct history {
    kvf_session *session;
    uint32_t text;
    uint64_t base; /* tokens of text 0 before its own */
} history;

static void feed_in_parts(kvf_session *session, uint64_t n, uint32_t text)
{
    for (; n > 0; n -= n < 131 ? n : 131)
        small_feed(session, n < 131 ? (uint32_t)n : 131, text);
}

static void expect_as_alone(const history *h, kvf_profile_id profile)
{
    const uint64_t n = kvf_session_n_tokens(h->session);
    kvf_session *alone = small_open(profile, 2);
    feed_in_parts(alone, h->base, 0);
    feed_in_parts(alone, n - h->base, h->text);
    assert_same_session(alone, h->session);
    kvf_session_close(alone);
}

/* n sessions: some empty, some of any length, some forks of one another. */
static void open_histories(kvf_profile_id profile, uint32_t n, history *all)
{
    for (uint32_t i = 0; i < n; i++) {
        all[i] = (history){.text = i + 1};
        if (i % 3 == 2) {
            all[i].base = all[i - 1].base;
            assert_int_equal(kvf_session_fork(all[i - 1].session, &all[i].session, NULL), KVF_OK);
            continue;
        }
        all[i].session = small_open(profile, 2);
        all[i].base = i % 3 == 0 ? i * 5 : 60 + i * 11;
        feed_in_parts(all[i].session, all[i].base, 0);
    }
}

/* Single tokens, pieces of prompts, and sessions that sit a batch out. */
static void run_batches(kvf_profile_id profile, uint32_t n, uint32_t n_batches)
{
    history all[SMALL_MOST_ITEMS];
    kvf_batch *batch = small_open_batch(profile, n);
    open_histories(profile, n, all);
    for (uint32_t step = 0; step < n_batches; step++) {
        small_part parts[SMALL_MOST_ITEMS];
        kvf_batch_item items[SMALL_MOST_ITEMS];
        kvf_error error;
        uint32_t n_items = 0;
        for (uint32_t i = 0; i < n; i++) {
            const history *h = &all[(i + step) % n]; /* another order each time */
            const uint32_t tokens = i == 0 ? 1 + step * 67 % 140 : 1 + (i * 7 + step) % 3 * (i % 2);
            if (n == 1 || (i + step) % 5 != 4)
                parts[n_items++] = (small_part){h->session, tokens, h->text};
        }
        small_items(parts, n_items, items);
        if (small_batch(batch, items, n_items, step % 2 ? SMALL_CHUNK : 37, &error) != KVF_OK)
            fail_msg("%s", error.message);
        for (uint32_t i = 0; i < n_items; i++)
            assert_int_equal(items[i].status, KVF_OK);
    }
    for (uint32_t i = 0; i < n; i++) {
        expect_as_alone(&all[i], profile);
        kvf_session_close(all[i].session);
    }
    kvf_batch_close(batch);
    for (int i = 0; i < KVF_MEMORY_CLASS_COUNT; i++)
        assert_int_equal(small_device->live_bytes[i], 0);
}

static void one_two_or_seven_sessions_hold_what_they_hold_alone(void **state)
{
    (void)state;
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        run_batches((kvf_profile_id)profile, 1, 4);
        run_batches((kvf_profile_id)profile, 2, 4);
        run_batches((kvf_profile_id)profile, 7, 5);
    }
}

static void thirty_two_sessions_hold_what_they_hold_alone(void **state)
{
    (void)state;
    run_batches(KVF_PROFILE_FOLD, 32, 5);
}

/*
 * Parts longer than the window: each has its own pages for rows that no later batch needs, so
 * that attend gives every token what it gives alone.
 */
static void long_parts_do_not_share_what_passes(void **state)
{
    (void)state;
    static const uint32_t sizes[3] = {193, 1, 226};
    static float out[SMALL_CHUNK * SMALL_HEADS * 512];
    for (int profile = KVF_PROFILE_LEGACY; profile <= KVF_PROFILE_FOLD; profile += 3) {
        kvf_batch *batch = small_open_batch((kvf_profile_id)profile, 3);
        history all[3];
        small_part parts[3];
        kvf_batch_item items[3];
        kvf_error error;
        for (uint32_t i = 0; i < 3; i++) {
            all[i] = (history){small_open((kvf_profile_id)profile, 2), i + 1, 64 - i};
            feed_in_parts(all[i].session, all[i].base, 0);
            parts[i] = (small_part){all[i].session, sizes[i], i + 1};
        }
        small_items(parts, 3, items);
        assert_int_equal(small_batch(batch, items, 3, SMALL_CHUNK, &error), KVF_OK);
        memcpy(out, small_in->out, sizeof out);
        const float *first = out;
        for (uint32_t i = 0; i < 3; i++) {
            const size_t n_values = (size_t)sizes[i] * SMALL_HEADS * 512;
            kvf_session *alone = small_open((kvf_profile_id)profile, 2);
            feed_in_parts(alone, all[i].base, 0);
            small_feed(alone, sizes[i], i + 1);
            assert_memory_equal(small_in->out, first, n_values * sizeof *first);
            assert_same_session(alone, all[i].session);
            first += n_values;
            kvf_session_close(alone);
            kvf_session_close(all[i].session);
        }
        kvf_batch_close(batch);
    }
}

/* ---- Refusals ------------------------------------------------------------------------ */

static void expect_refused(kvf_batch *batch, kvf_batch_item *items, uint32_t n, const char *words)
{
    kvf_error error;
    assert_int_equal(kvf_batch_begin(batch, items, n, &error), KVF_INVALID_ARGUMENT);
    if (!strstr(error.message, words))
        fail_msg("\"%s\" does not say \"%s\"", error.message, words);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(items[i].status, KVF_INVALID_ARGUMENT);
        assert_string_equal(items[i].error.message, error.message);
    }
    assert_int_equal(kvf_batch_n_tokens(batch), 0);
    assert_int_equal(kvf_batch_commit(batch, &error), KVF_INVALID_ARGUMENT);
}

static kvf_session *open_other(const kvf_geometry *geometry, kvf_profile_id profile, bool grid_off)
{
    kvf_session *session;
    const kvf_session_options options = {
        .profile = profile, .max_tokens = 512, .chunk_tokens = 300, .grid_off = grid_off};
    assert_int_equal(kvf_session_open(small_device, geometry, &options, &session, NULL), KVF_OK);
    return session;
}

static void a_batch_that_cannot_be_is_refused_before_anything_changes(void **state)
{
    (void)state;
    kvf_batch *batch = small_open_batch(KVF_PROFILE_LEGACY, 3);
    kvf_batch *other_batch = small_open_batch(KVF_PROFILE_LEGACY, 1);
    kvf_session *s[4];
    kvf_batch_item items[4];
    kvf_error error;
    for (int i = 0; i < 4; i++) {
        s[i] = small_open(KVF_PROFILE_LEGACY, 2);
        small_feed(s[i], 70, 0);
    }
    const uint64_t live = small_device->live_bytes[KVF_MEMORY_CACHE];
    small_part parts[4] = {{s[0], 1, 0}, {s[1], 2, 0}, {s[2], 1, 0}, {s[3], 1, 0}};

    small_items(parts, 4, items);
    expect_refused(batch, items, 0, "0 sessions; it was opened for 1 to 3");
    expect_refused(batch, items, 4, "4 sessions; it was opened for 1 to 3");
    items[1].session = s[0];
    expect_refused(batch, items, 2, "item 1 is in the batch twice");
    items[1].session = NULL;
    expect_refused(batch, items, 2, "item 1 of the batch has no session");
    items[1].session = s[1];
    items[1].n = 0;
    expect_refused(batch, items, 3, "item 1 of the batch has no tokens");
    items[1].n = SMALL_CHUNK - 1;
    expect_refused(batch, items, 3, "421 tokens; it was opened for 1 to 420");
    items[1].n = UINT32_MAX;
    expect_refused(batch, items, 2, "tokens; it was opened for 1 to 420");

    kvf_geometry geometry = small_geometry;
    geometry.top_k++;
    kvf_session *others[] = {open_other(&geometry, KVF_PROFILE_LEGACY, false),
                             open_other(&small_geometry, KVF_PROFILE_TILED, false),
                             open_other(&small_geometry, KVF_PROFILE_LEGACY, true)};
    const char *words[] = {"item 2 has the geometry of another model",
                           "item 2 has profile tiled; the batch was opened for legacy",
                           "item 2 has its grid off; the batch was opened with it on"};
    for (int i = 0; i < 3; i++) {
        small_items(parts, 3, items);
        items[2].session = others[i];
        expect_refused(batch, items, 3, words[i]);
        kvf_session_close(others[i]);
    }
    small_items(parts, 3, items);
    kvf_session_set_model_fingerprint(s[0], 7);
    kvf_session_set_model_fingerprint(s[2], 8);
    expect_refused(batch, items, 3, "item 2 is of model 0000000000000008");
    kvf_session_set_model_fingerprint(s[2], 7); /* one that is not known may be of any */

    kvf_batch_item elsewhere = {.session = s[1], .ids = small_ids[0], .n = 1};
    assert_int_equal(kvf_batch_begin(other_batch, &elsewhere, 1, &error), KVF_OK);
    expect_refused(batch, items, 3, "item 1 is in another open batch");
    kvf_batch_close(other_batch);

    assert_true(small_device->live_bytes[KVF_MEMORY_CACHE] == live);
    assert_int_equal(small_batch(batch, items, 3, SMALL_CHUNK, &error), KVF_OK);
    kvf_batch_close(batch);
    for (int i = 0; i < 4; i++)
        kvf_session_close(s[i]);
}

static void a_session_of_another_device_is_refused(void **state)
{
    (void)state;
    kvf_device *other;
    kvf_session *stranger;
    kvf_batch_item items[2];
    const kvf_device_options ref = {.backend = "ref"};
    const kvf_session_options options = {.profile = KVF_PROFILE_FOLD, .max_tokens = 64};
    assert_int_equal(kvf_device_open(&ref, &other, NULL), KVF_OK);
    assert_int_equal(kvf_session_open(other, &small_geometry, &options, &stranger, NULL), KVF_OK);
    kvf_session *session = small_open(KVF_PROFILE_FOLD, 2);
    kvf_batch *batch = small_open_batch(KVF_PROFILE_FOLD, 2);
    small_items((small_part[]){{session, 1, 0}, {stranger, 1, 0}}, 2, items);
    expect_refused(batch, items, 2, "item 1 is on another device");
    kvf_batch_close(batch);
    kvf_session_close(session);
    kvf_session_close(stranger);
    kvf_device_close(other);
}

static void a_session_in_an_open_batch_is_not_to_be_had(void **state)
{
    (void)state;
    kvf_batch *batch = small_open_batch(KVF_PROFILE_FOLD, 2);
    kvf_session *session = small_open(KVF_PROFILE_FOLD, 2);
    kvf_session *clean = small_open(KVF_PROFILE_FOLD, 2);
    kvf_session *fork = NULL;
    kvf_batch_item item;
    kvf_error error;
    char path[64];
    snprintf(path, sizeof path, "/tmp/kvf_batch_%d.kvfold", (int)getpid());
    small_feed(session, 70, 0);
    small_feed(clean, 70, 0);
    small_items(&(small_part){session, 3, 0}, 1, &item);
    assert_int_equal(kvf_batch_begin(batch, &item, 1, &error), KVF_OK);

    const struct {
        const char *what;
        kvf_status status;
    } refused[] = {{"fork", kvf_session_fork(session, &fork, &error)},
                   {"truncate", kvf_session_truncate(session, 0, NULL, &error)},
                   {"save", kvf_session_save(session, path, NULL, NULL, &error)},
                   {"close", kvf_session_close(session)},
                   {"begin", kvf_session_begin(session, small_ids[0], 1, &error)}};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (refused[i].status != KVF_INVALID_ARGUMENT)
            fail_msg("%s: status %d", refused[i].what, (int)refused[i].status);
    assert_null(fork);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(kvf_session_commit(session, &error), KVF_INVALID_ARGUMENT);
    kvf_session_drop(session); /* its own chunk, which it has none of */
    assert_int_equal(kvf_batch_n_tokens(batch), 3);

    kvf_batch_drop(batch);
    assert_int_equal(kvf_session_fork(session, &fork, &error), KVF_OK);
    assert_same_session(session, clean);
    assert_int_equal(kvf_session_close(fork), KVF_OK);
    assert_int_equal(kvf_session_close(session), KVF_OK);
    kvf_session_close(clean);
    kvf_batch_close(batch);
}

/* ---- One that fails --------------------------------------------------------------------- */

/* What is wrong with item 1, before the batch. */
typedef void wrong(kvf_session *session, kvf_batch_item *item);

static void no_such_id(kvf_session *session, kvf_batch_item *item)
{
    (void)session;
    small_ids[1][item->n - 1] = SMALL_VOCAB;
}

static void more_than_its_context(kvf_session *session, kvf_batch_item *item)
{
    session->options.max_tokens = kvf_session_n_tokens(session) + item->n - 1;
}

static void more_than_it_takes(kvf_session *session, kvf_batch_item *item)
{
    session->options.chunk_tokens = item->n - 1;
}

/* In item 1, layer 1 and 3. */
static void spoil_values(uint32_t item, uint32_t layer)
{
    if (item == 1 && layer == 3)
        small_piece->window[512 + 9] = NAN;
    if (item == 1 && layer == 1)
        small_piece->q[1024 + 512 + 7] = INFINITY; /* token 1, head 1 */
}

/* Sessions 0 and 2 are as those that never met session 1, which is as if it never had begun. */
static void fail_in_the_middle(wrong *what, void (*spoil)(uint32_t, uint32_t), kvf_status expected,
                               const char *words)
{
    kvf_batch *batch = small_open_batch(KVF_PROFILE_FOLD, 3);
    kvf_session *s[3];
    kvf_session *clean[3];
    small_part parts[3];
    kvf_batch_item items[3];
    kvf_error error;
    for (uint32_t i = 0; i < 3; i++) {
        s[i] = small_open(KVF_PROFILE_FOLD, 2);
        clean[i] = small_open(KVF_PROFILE_FOLD, 2);
        small_feed(s[i], 126 + i, i);
        small_feed(clean[i], 126 + i, i);
        parts[i] = (small_part){s[i], 2 + i, i};
    }
    small_items(parts, 3, items);
    if (what)
        what(s[1], &items[1]);
    small_spoil_item = spoil;
    assert_int_equal(small_batch(batch, items, 3, SMALL_CHUNK, &error), KVF_OK);
    small_spoil_item = NULL;
    assert_int_equal(items[0].status, KVF_OK);
    assert_int_equal(items[1].status, expected);
    assert_int_equal(items[1].error.status, expected);
    assert_int_equal(items[2].status, KVF_OK);
    if (!strstr(items[1].error.message, words))
        fail_msg("\"%s\" does not say \"%s\"", items[1].error.message, words);
    for (uint32_t i = 0; i < 3; i++) {
        s[i]->options = clean[i]->options;
        if (i != 1)
            small_feed(clean[i], 2 + i, i);
        small_feed(clean[i], 5, i);
        parts[i].n = 5;
    }
    small_items(parts, 3, items);
    assert_int_equal(small_batch(batch, items, 3, SMALL_CHUNK, &error), KVF_OK);
    for (uint32_t i = 0; i < 3; i++) {
        assert_same_session(s[i], clean[i]);
        kvf_session_close(s[i]);
        kvf_session_close(clean[i]);
    }
    kvf_batch_close(batch);
}

static void an_item_fails_alone(void **state)
{
    (void)state;
    fail_in_the_middle(no_such_id, NULL, KVF_INVALID_ARGUMENT, "token 2 of the chunk has id 97");
    fail_in_the_middle(more_than_its_context, NULL, KVF_CONTEXT_FULL, "do not fit the context");
    fail_in_the_middle(more_than_it_takes, NULL, KVF_INVALID_ARGUMENT, "takes 1 to 2");
    fail_in_the_middle(NULL, spoil_values, KVF_NONFINITE,
                       "layer 1, query of token 128, head 1, dimension 7");
}

/* The one message is the item's, and nothing is open any more. */
static void a_batch_of_failures_says_the_first(void **state)
{
    (void)state;
    kvf_batch *batch = small_open_batch(KVF_PROFILE_FOLD, 2);
    kvf_session *s[2] = {small_open(KVF_PROFILE_FOLD, 2), small_open(KVF_PROFILE_FOLD, 2)};
    kvf_batch_item items[2];
    kvf_error error;
    small_items((small_part[]){{s[0], 1, 0}, {s[1], 2, 0}}, 2, items);
    small_ids[0][0] = -1;
    small_ids[1][1] = SMALL_VOCAB + 1;
    assert_int_equal(kvf_batch_begin(batch, items, 2, &error), KVF_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "id -1"));
    assert_non_null(strstr(items[1].error.message, "id 98"));
    assert_int_equal(kvf_batch_n_tokens(batch), 0);
    assert_int_equal(kvf_session_close(s[0]), KVF_OK);
    assert_int_equal(kvf_session_close(s[1]), KVF_OK);
    kvf_batch_close(batch);
}

/* One that the caller gives up between settle and commit. */
static void a_status_that_the_caller_sets_undoes_the_item(void **state)
{
    (void)state;
    kvf_batch *batch = small_open_batch(KVF_PROFILE_FOLD, 2);
    kvf_session *s[2] = {small_open(KVF_PROFILE_FOLD, 2), small_open(KVF_PROFILE_FOLD, 2)};
    kvf_batch_item items[2];
    kvf_error error;
    small_items((small_part[]){{s[0], 70, 0}, {s[1], 2, 0}}, 2, items);
    assert_int_equal(kvf_batch_begin(batch, items, 2, &error), KVF_OK);
    for (uint32_t layer = 0; layer < small_geometry.n_layers; layer++)
        assert_int_equal(small_batch_layer(batch, 2, layer, SMALL_CHUNK, &error), KVF_OK);
    assert_int_equal(kvf_batch_settle(batch, &error), KVF_OK);
    items[0].status = KVF_NONFINITE;
    assert_int_equal(kvf_batch_commit(batch, &error), KVF_OK);
    assert_int_equal(kvf_session_n_tokens(s[0]), 0);
    assert_int_equal(kvf_session_n_tokens(s[1]), 2);
    kvf_session_close(s[0]);
    kvf_session_close(s[1]);
    kvf_batch_close(batch);
}

/* ---- Forks of each other ------------------------------------------------------------------ */

static uint32_t spoiled; /* bit i: of item i */

static void spoil_some(uint32_t item, uint32_t layer)
{
    if (layer == 2 && spoiled >> item & 1)
        small_piece->window[0] = NAN;
}

/* Three forks and what they are of, in one batch; any of them may be undone. */
static void forks_in_one_batch_do_not_touch_each_other(void **state)
{
    (void)state;
    static const uint32_t sizes[][4] = {{1, 1, 1, 1}, {1, 130, 2, 70}, {60, 1, 60, 1}};
    for (spoiled = 0; spoiled < 16; spoiled++)
        for (size_t k = 0; k < 3; k++) {
            kvf_batch *batch = small_open_batch(KVF_PROFILE_FOLD, 4);
            kvf_session *s[4];
            small_part parts[4];
            kvf_batch_item items[4];
            kvf_error error;
            s[0] = small_open(KVF_PROFILE_FOLD, 2);
            small_feed(s[0], 205, 0); /* in the middle of pages, of both windows */
            for (int i = 1; i < 4; i++)
                assert_int_equal(kvf_session_fork(s[0], &s[i], &error), KVF_OK);
            for (uint32_t i = 0; i < 4; i++)
                parts[i] = (small_part){s[i], sizes[k][i], i};
            small_items(parts, 4, items);
            small_spoil_item = spoil_some;
            const kvf_status status = small_batch(batch, items, 4, SMALL_CHUNK, &error);
            small_spoil_item = NULL;
            assert_int_equal(status, spoiled == 15 ? KVF_NONFINITE : KVF_OK);
            for (uint32_t i = 0; i < 4; i++) {
                kvf_session *clean = small_open(KVF_PROFILE_FOLD, 2);
                const bool undone = spoiled >> i & 1;
                assert_int_equal(items[i].status, undone ? KVF_NONFINITE : KVF_OK);
                small_feed(clean, 205, 0);
                if (!undone)
                    small_feed(clean, sizes[k][i], i);
                small_feed(clean, 3, i);
                small_feed(s[i], 3, i);
                assert_same_session(s[i], clean);
                kvf_session_close(clean);
            }
            for (int i = 0; i < 4; i++)
                kvf_session_close(s[i]);
            kvf_batch_close(batch);
            assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], 0);
        }
}

/* ---- Memory ------------------------------------------------------------------------------- */

/* Scratch is the batch's, once; a session costs its rows, states and header. */
static void memory_is_as_planned(void **state)
{
    (void)state;
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        const kvf_session_options options = {.profile = (kvf_profile_id)profile,
                                             .max_tokens = 8192,
                                             .chunk_tokens = SMALL_CHUNK,
                                             .batch_sessions = 5,
                                             .n_threads = 1};
        kvf_plan plan;
        small_part parts[5];
        kvf_batch_item items[5];
        kvf_error error;
        kvf_batch *batch = small_open_batch((kvf_profile_id)profile, 5);
        for (uint32_t i = 0; i < 5; i++)
            parts[i] = (small_part){small_open((kvf_profile_id)profile, 2), 60, i};
        small_items(parts, 5, items);
        assert_int_equal(small_batch(batch, items, 5, SMALL_CHUNK, &error), KVF_OK);
        assert_int_equal(kvf_plan_make(&small_geometry, &options, 60, &plan, &error), KVF_OK);
        assert_int_equal(kvf_batch_scratch_bytes(batch), plan.scratch_bytes);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_SCRATCH], plan.scratch_bytes);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], 5 * plan.allocated_bytes);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_TABLE], 5 * plan.table_bytes);
        kvf_plan_free(&plan);
        for (int i = 0; i < 5; i++)
            kvf_session_close(parts[i].session);
        kvf_batch_close(batch);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_two_or_seven_sessions_hold_what_they_hold_alone),
        cmocka_unit_test(thirty_two_sessions_hold_what_they_hold_alone),
        cmocka_unit_test(long_parts_do_not_share_what_passes),
        cmocka_unit_test(a_batch_that_cannot_be_is_refused_before_anything_changes),
        cmocka_unit_test(a_session_of_another_device_is_refused),
        cmocka_unit_test(a_session_in_an_open_batch_is_not_to_be_had),
        cmocka_unit_test(an_item_fails_alone),
        cmocka_unit_test(a_batch_of_failures_says_the_first),
        cmocka_unit_test(a_status_that_the_caller_sets_undoes_the_item),
        cmocka_unit_test(forks_in_one_batch_do_not_touch_each_other),
        cmocka_unit_test(memory_is_as_planned),
    };
    return cmocka_run_group_tests(tests, small_batch_setup, small_batch_teardown);
}
