/*
 * Going back: to a checkpoint, with replay to any token, and out of a chunk that was
 * dropped or failed. What is there afterwards is to the byte what a session holds that
 * was never longer and was fed other chunks.
 */
#include "cache/compare.h"
#include "cache/small.h"

#include <math.h>

/* ---- Chunks of a text ------------------------------------------------------------- */

#define MAX_CHUNKS 700

typedef struct pattern {
    const char *name;
    uint32_t repeated[8]; /* sizes, again and again; 0 ends */
} pattern;

static const pattern patterns[] = {
    {"of 128", {128}},
    {"of 256, then 1", {256, 1, 1, 126}},
    {"odd ones that meet 128 now and then", {57, 71, 1, 127, 5}},
    {"longer than the window", {300, 84}},
    {"one by one", {1}},
};
#define N_PATTERNS ((int)(sizeof patterns / sizeof *patterns))

/* The chunks of n_tokens tokens in that pattern, the last one cut. */
static int list_chunks(const pattern *p, uint64_t n_tokens, uint32_t *chunks)
{
    int n = 0;
    int place = 0;
    for (uint64_t at = 0; at < n_tokens; n++) {
        if (p->repeated[place] == 0)
            place = 0;
        const uint64_t left = n_tokens - at;
        chunks[n] = left < p->repeated[place] ? (uint32_t)left : p->repeated[place];
        at += chunks[n];
        place++;
        assert_true(n < MAX_CHUNKS);
    }
    return n;
}

static void feed_pattern(kvf_session *session, const pattern *p, uint64_t n_tokens)
{
    uint32_t chunks[MAX_CHUNKS + 1];
    const int n = list_chunks(p, n_tokens, chunks);
    for (int i = 0; i < n; i++)
        small_feed(session, chunks[i], 0);
}

/* The latest place at or before n_tokens where a checkpoint was taken and is kept. */
static uint64_t expected_checkpoint(const pattern *p, uint64_t fed, uint64_t n_tokens,
                                    uint32_t count)
{
    uint32_t chunks[MAX_CHUNKS + 1];
    uint64_t places[MAX_CHUNKS + 1] = {0};
    const int n = list_chunks(p, fed, chunks);
    int n_places = 1; /* the start */
    uint64_t at = 0;
    for (int i = 0; i < n; i++) {
        at += chunks[i];
        if (at % 128 == 0)
            places[n_places++] = at;
    }
    const int first = n_places - 1 > (int)count ? n_places - (int)count : 0;
    for (int i = n_places - 1; i >= first; i--)
        if (places[i] <= n_tokens)
            return places[i];
    return UINT64_MAX;
}

/* Appends what truncate said is missing, in the pattern's chunks; the tokens are text 0's. */
static void append_again(kvf_session *session, const pattern *p, uint64_t n_tokens,
                         const kvf_replay *replay)
{
    uint32_t chunks[MAX_CHUNKS + 1];
    kvf_error error;
    assert_int_equal(kvf_session_n_tokens(session), replay->first_token);
    assert_int_equal(replay->first_token + replay->n_tokens, n_tokens);
    assert_int_equal(replay->chunk_tokens, SMALL_CHUNK);
    for (uint64_t i = 0; i < replay->n_tokens; i++)
        assert_int_equal(replay->tokens[i], small_token(replay->first_token + i, 0));
    const int n = list_chunks(p, replay->n_tokens, chunks);
    const int32_t *tokens = replay->tokens;
    for (int i = 0; i < n; i++) {
        assert_int_equal(small_chunk(session, tokens, chunks[i], &error), KVF_OK);
        tokens += chunks[i];
    }
}

static void check_bytes(const kvf_session *session)
{
    kvf_plan plan;
    kvf_error error;
    kvf_session_options options = session->options;
    assert_int_equal(
        kvf_plan_make(&small_geometry, &options, kvf_session_n_tokens(session), &plan, &error),
        KVF_OK);
    assert_int_equal(kvf_session_held_bytes(session), plan.session_bytes);
    assert_int_equal(kvf_session_allocated_bytes(session), plan.allocated_bytes);
    assert_true(kvf_session_checkpoint_bytes(session) <= plan.checkpoint_bytes);
    kvf_plan_free(&plan);
}

/* ---- truncate ---------------------------------------------------------------------- */

/* A session that came in the pattern's chunks; what it is compared with, in those of `other`. */
static void go_back_and_on(kvf_session *session, const pattern *p, const pattern *other,
                           uint64_t fed, uint64_t n_tokens, uint32_t count)
{
    const kvf_profile_id profile = session->options.profile;
    const uint64_t expected = expected_checkpoint(p, fed, n_tokens, count);
    kvf_session *back;
    kvf_replay replay;
    kvf_error error;
    assert_int_equal(kvf_session_fork(session, &back, &error), KVF_OK);
    const kvf_status status = kvf_session_truncate(back, n_tokens, &replay, &error);
    if (expected == UINT64_MAX) {
        assert_int_equal(status, KVF_NOT_COVERED);
        assert_true(kvf_session_first_covered(session) > n_tokens);
        assert_same_session(session, back);
        kvf_session_close(back);
        return;
    }
    assert_int_equal(status, KVF_OK);
    assert_true(kvf_session_first_covered(session) <= n_tokens);
    assert_int_equal(replay.first_token, expected);
    check_bytes(back);
    kvf_session *clean = small_open(profile, count);
    feed_pattern(clean, other, expected);
    assert_same_session(clean, back);
    kvf_session_close(clean);
    append_again(back, p, n_tokens, &replay);
    kvf_replay_free(&replay);
    clean = small_open(profile, count);
    feed_pattern(clean, other, n_tokens);
    assert_same_session(clean, back);
    check_bytes(back);
    static const uint32_t further[] = {1, 130, 3, 1}; /* another text from here on */
    for (int i = 0; i < 4; i++) {
        small_feed(clean, further[3 - i], 5);
        small_feed(back, further[i], 5);
    }
    assert_same_session(clean, back);
    kvf_session_close(clean);
    if (kvf_session_first_covered(back) <= n_tokens) { /* and once more, in other chunks */
        assert_int_equal(kvf_session_truncate(back, n_tokens, &replay, &error), KVF_OK);
        append_again(back, other, n_tokens, &replay);
        kvf_replay_free(&replay);
        clean = small_open(profile, count);
        feed_pattern(clean, p, n_tokens);
        assert_same_session(clean, back);
        kvf_session_close(clean);
    }
    kvf_session_close(back);
}

static void every_covered_token_can_be_gone_back_to(kvf_profile_id profile)
{
    static const uint64_t places[] = {1, 128, 129, 300, 384, 511, 600};
    /* Each profile has every second pattern; fold, the default, all. */
    const int step = profile == KVF_PROFILE_FOLD ? 1 : 2;
    for (int i = (int)profile % step; i < N_PATTERNS; i += step) {
        kvf_session *session = small_open(profile, 3);
        feed_pattern(session, &patterns[i], 643);
        check_bytes(session);
        for (size_t j = 0; j < sizeof places / sizeof *places; j++)
            go_back_and_on(session, &patterns[i], &patterns[(i + 1 + (int)j) % N_PATTERNS], 643,
                           places[j], 3);
        /* none of that was seen by the session that they were forked from */
        kvf_session *clean = small_open(profile, 3);
        feed_pattern(clean, &patterns[i], 643);
        assert_same_session(clean, session);
        kvf_session_close(clean);
        kvf_session_close(session);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], 0);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
    }
}

static void back_to_any_covered_token_in_legacy(void **state)
{
    (void)state;
    every_covered_token_can_be_gone_back_to(KVF_PROFILE_LEGACY);
}

static void back_to_any_covered_token_in_tiled(void **state)
{
    (void)state;
    every_covered_token_can_be_gone_back_to(KVF_PROFILE_TILED);
}

static void back_to_any_covered_token_in_packed(void **state)
{
    (void)state;
    every_covered_token_can_be_gone_back_to(KVF_PROFILE_PACKED);
}

static void back_to_any_covered_token_in_fold(void **state)
{
    (void)state;
    every_covered_token_can_be_gone_back_to(KVF_PROFILE_FOLD);
}

static void another_text_after_going_back_is_what_is_gone_back_to(void **state)
{
    (void)state;
    static const uint32_t other[] = {100, 28, 60, 68, 20};
    kvf_session *session = small_open(KVF_PROFILE_FOLD, 4);
    kvf_session *clean = small_open(KVF_PROFILE_FOLD, 4);
    kvf_replay replay;
    kvf_error error;
    for (int i = 0; i < 3; i++)
        small_feed(session, 128, 0);
    assert_int_equal(kvf_session_truncate(session, 128, NULL, &error), KVF_OK);
    small_feed(clean, 128, 0);
    for (int i = 0; i < 5; i++) {
        small_feed(session, other[i], 1);
        small_feed(clean, other[i], 1);
    }
    assert_same_session(clean, session);
    assert_int_equal(kvf_session_truncate(session, 320, &replay, &error), KVF_OK);
    assert_int_equal(replay.first_token, 256);
    assert_int_equal(replay.n_tokens, 64);
    for (int32_t i = 0; i < 64; i++)
        assert_int_equal(replay.tokens[i], small_token(256 + (uint64_t)i, 1));
    kvf_replay_free(&replay);
    kvf_session_close(clean);
    kvf_session_close(session);
}

static void what_cannot_be_gone_back_to_is_said(void **state)
{
    (void)state;
    kvf_session *session = small_open(KVF_PROFILE_FOLD, 2);
    kvf_replay replay;
    kvf_error error;
    const int32_t token = 3;
    for (int i = 0; i < 4; i++)
        small_feed(session, 128, 0);
    assert_int_equal(kvf_session_first_covered(session), 384);
    assert_int_equal(kvf_session_truncate(session, 383, &replay, &error), KVF_NOT_COVERED);
    assert_non_null(strstr(error.message, "383"));
    assert_non_null(strstr(error.message, "384"));
    assert_int_equal(kvf_session_truncate(session, 513, &replay, &error), KVF_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "512"));
    assert_int_equal(kvf_session_truncate(session, 500, NULL, &error), KVF_NOT_COVERED);
    assert_int_equal(kvf_session_n_tokens(session), 512);
    assert_int_equal(kvf_session_begin(session, &token, 1, &error), KVF_OK);
    assert_int_equal(kvf_session_truncate(session, 384, NULL, &error), KVF_INVALID_ARGUMENT);
    kvf_session_drop(session);
    assert_int_equal(kvf_session_truncate(session, 512, NULL, &error), KVF_OK);
    assert_int_equal(kvf_session_truncate(session, 384, NULL, &error), KVF_OK);
    assert_int_equal(kvf_session_n_tokens(session), 384);
    /* Always: an empty session, which covers what it is given from then on. */
    assert_int_equal(kvf_session_truncate(session, 0, NULL, &error), KVF_OK);
    kvf_session *clean = small_open(KVF_PROFILE_FOLD, 2);
    assert_same_session(clean, session);
    check_bytes(session);
    small_feed(session, 100, 1);
    assert_int_equal(kvf_session_truncate(session, 50, &replay, &error), KVF_OK);
    assert_int_equal(replay.n_tokens, 50);
    kvf_replay_free(&replay);
    kvf_session_close(clean);
    kvf_session_close(session);
    session = small_open(KVF_PROFILE_FOLD, KVF_NO_CHECKPOINTS);
    small_feed(session, 256, 0);
    assert_int_equal(small_device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
    assert_int_equal(kvf_session_truncate(session, 128, &replay, &error), KVF_NOT_COVERED);
    assert_non_null(strstr(error.message, "no checkpoints"));
    kvf_session_close(session);
}

/* ---- What checkpoints hold --------------------------------------------------------- */

static void checkpoints_hold_what_the_plan_says(void **state)
{
    (void)state;
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        kvf_session *session = small_open((kvf_profile_id)profile, 3);
        kvf_plan plan;
        kvf_error error;
        for (int i = 0; i < 7; i++) {
            small_feed(session, i == 0 ? 128 : 127, 0);
            assert_int_equal(small_device->live_bytes[KVF_MEMORY_CHECKPOINT],
                             kvf_session_checkpoint_bytes(session));
            small_feed(session, 128, 0);
            kvf_session_options options = session->options;
            assert_int_equal(kvf_plan_make(&small_geometry, &options, kvf_session_n_tokens(session),
                                           &plan, &error),
                             KVF_OK);
            small_feed(session, 127, 0);
            small_feed(session, 2, 0); /* and nothing of the last one's window is the session's */
            assert_int_equal(small_device->live_bytes[KVF_MEMORY_CHECKPOINT],
                             kvf_session_checkpoint_bytes(session));
            assert_int_equal(kvf_session_checkpoint_bytes(session), plan.checkpoint_bytes);
            kvf_plan_free(&plan);
        }
        /* a chunk of every kind was open: never more than the plan said besides */
        kvf_session_options options = session->options;
        assert_int_equal(
            kvf_plan_make(&small_geometry, &options, kvf_session_n_tokens(session), &plan, &error),
            KVF_OK);
        assert_true(small_device->peak_bytes[KVF_MEMORY_CHECKPOINT] <=
                    plan.checkpoint_bytes + plan.chunk_undo_bytes);
        kvf_plan_free(&plan);
        kvf_session_close(session);
        small_device->peak_bytes[KVF_MEMORY_CHECKPOINT] = 0;
    }
}

/*
 * At every place and with chunks of every kind, window layers alone: an open chunk holds no more
 * than the plan says besides the session's full pages, and somewhere just that.
 */
static void an_open_chunk_holds_windows_as_planned(void **state)
{
    (void)state;
    static const int32_t tokens[400];
    const uint32_t chunks[] = {1, 2, 63, 64, 65, 66, 127, 130, 193, 194, 400};
    for (size_t i = 0; i < 2 * sizeof chunks / sizeof *chunks; i++) {
        const kvf_geometry geometry = {.n_layers = 2,
                                       .vocab = 1,
                                       .n_heads = 1,
                                       .window_tokens = i % 2 ? 64 : 128,
                                       .max_tokens = 4096};
        const kvf_session_options options = {.profile = KVF_PROFILE_FOLD,
                                             .max_tokens = 640,
                                             .chunk_tokens = chunks[i / 2],
                                             .checkpoint_count = KVF_NO_CHECKPOINTS};
        kvf_session *session;
        kvf_plan plan;
        kvf_error error;
        uint64_t most = 0;
        assert_int_equal(kvf_session_open(small_device, &geometry, &options, &session, &error),
                         KVF_OK);
        assert_int_equal(kvf_plan_make(&geometry, &options, 640, &plan, &error), KVF_OK);
        for (uint32_t held = 0; held + chunks[i / 2] <= 640; held++) {
            assert_int_equal(kvf_session_begin(session, tokens, chunks[i / 2], &error), KVF_OK);
            const uint64_t bytes = small_device->live_bytes[KVF_MEMORY_CACHE];
            most = bytes > most ? bytes : most;
            assert_int_equal(small_device->live_bytes[KVF_MEMORY_SCRATCH], plan.scratch_bytes);
            assert_int_equal(kvf_session_begin(session, tokens, 1, &error), KVF_OK);
            assert_int_equal(kvf_session_commit(session, &error), KVF_OK);
        }
        assert_int_equal(most, plan.allocated_bytes + plan.chunk_undo_bytes);
        kvf_plan_free(&plan);
        kvf_session_close(session);
    }
}

/* V4-Flash's: 43 windows of two pages, Ca of 4 tokens in 21 layers, the logits. */
static void a_checkpoint_of_v4_flash_has_these_bytes(void **state)
{
    (void)state;
    kvf_geometry flash;
    kvf_plan plan;
    kvf_error error;
    kvf_geometry_v4_flash(&flash);
    kvf_session_options options = {.profile = KVF_PROFILE_FOLD, .max_tokens = 1 << 20};
    const uint64_t each = 43 * 2 * 37440 + 21 * (4 * 2 * 512 + 4 * 2 * 128) * 4 + 129280 * 4;
    assert_int_equal(each, 3219840 + 430080 + 517120);
    assert_int_equal(kvf_plan_make(&flash, &options, 1 << 20, &plan, &error), KVF_OK);
    assert_int_equal(plan.checkpoint_bytes, 8 * each);
    assert_int_equal(plan.chunk_undo_bytes, 2 * 3219840 + 12206080 + 430080 + 517120);
    kvf_plan_free(&plan);
    assert_int_equal(kvf_plan_make(&flash, &options, 300, &plan, &error), KVF_OK);
    assert_int_equal(plan.checkpoint_bytes, 2 * each);
    kvf_plan_free(&plan);
    options.checkpoint_count = 2;
    options.checkpoint_spacing_tokens = 1000; /* the next place is at 1024 */
    assert_int_equal(kvf_plan_make(&flash, &options, 2047, &plan, &error), KVF_OK);
    assert_int_equal(plan.checkpoint_bytes, each);
    kvf_plan_free(&plan);
    options.checkpoint_spacing_tokens = UINT64_MAX;
    assert_int_equal(kvf_plan_make(&flash, &options, 1 << 20, &plan, &error), KVF_OK);
    assert_int_equal(plan.checkpoint_bytes, 0);
    kvf_plan_free(&plan);
    options.checkpoint_spacing_tokens = 100;
    assert_int_equal(kvf_plan_make(&flash, &options, 2047, &plan, &error), KVF_INVALID_ARGUMENT);
    options.checkpoint_spacing_tokens = 0;
    options.checkpoint_count = KVF_NO_CHECKPOINTS;
    assert_int_equal(kvf_plan_make(&flash, &options, 1 << 20, &plan, &error), KVF_OK);
    assert_int_equal(plan.checkpoint_bytes, 0);
    kvf_plan_free(&plan);
}

static void checkpoints_are_as_far_apart_as_was_asked(void **state)
{
    (void)state;
    kvf_session *session;
    kvf_error error;
    const kvf_session_options options = {.profile = KVF_PROFILE_FOLD,
                                         .max_tokens = 8192,
                                         .chunk_tokens = SMALL_CHUNK,
                                         .checkpoint_count = 2,
                                         .checkpoint_spacing_tokens = 300};
    assert_int_equal(kvf_session_open(small_device, &small_geometry, &options, &session, &error),
                     KVF_OK);
    static const uint64_t first[] = {0, 0, 0, 0, 0, 0, 0, 0, 768, 768, 768, 1152};
    for (int i = 0; i < 12; i++) { /* at 384, 768, 1152, 1536 */
        small_feed(session, 128, 0);
        assert_int_equal(kvf_session_first_covered(session), first[i]);
    }
    kvf_session_close(session);
}

/* ---- Chunks that are not committed -------------------------------------------------- */

static void a_dropped_chunk_leaves_everything_as_it_was(void **state)
{
    (void)state;
    static const uint32_t held[] = {0, 1, 3, 4, 5, 63, 64, 127, 128, 130, 192, 255, 300};
    static const uint32_t sizes[] = {1, 2, 3, 4, 5, 64, 65, 128, 129, 300};
    int32_t tokens[SMALL_CHUNK];
    kvf_error error;
    for (uint32_t i = 0; i < SMALL_CHUNK; i++)
        tokens[i] = small_token(i, 9);
    for (size_t h = 0; h < sizeof held / sizeof *held; h++) {
        const kvf_profile_id profile = (kvf_profile_id)(h % KVF_PROFILE_COUNT);
        kvf_session *session = small_open(profile, 0);
        kvf_session *clean = small_open(profile, 0);
        if (held[h]) {
            small_feed(session, held[h], 0);
            small_feed(clean, held[h], 0);
        }
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const uint32_t last =
                (uint32_t)(i % small_geometry.n_layers); /* layers that it came to */
            assert_int_equal(kvf_session_begin(session, tokens, sizes[i], &error), KVF_OK);
            for (uint32_t layer = 0; layer <= last; layer++)
                assert_int_equal(small_layer(session, tokens, sizes[i], layer, &error), KVF_OK);
            if (i % 2)
                kvf_session_drop(session);
            else
                assert_int_equal(kvf_session_begin(session, tokens, 1, &error), KVF_OK);
            kvf_session_drop(session);
            assert_same_session(clean, session);
        }
        small_feed(session, 260, 1);
        small_feed(clean, 260, 1);
        assert_same_session(clean, session);
        kvf_session_close(clean);
        kvf_session_close(session);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], 0);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checkpoints_hold_what_the_plan_says),
        cmocka_unit_test(an_open_chunk_holds_windows_as_planned),
        cmocka_unit_test(a_checkpoint_of_v4_flash_has_these_bytes),
        cmocka_unit_test(checkpoints_are_as_far_apart_as_was_asked),
        cmocka_unit_test(another_text_after_going_back_is_what_is_gone_back_to),
        cmocka_unit_test(what_cannot_be_gone_back_to_is_said),
        cmocka_unit_test(a_dropped_chunk_leaves_everything_as_it_was),
        cmocka_unit_test(back_to_any_covered_token_in_legacy),
        cmocka_unit_test(back_to_any_covered_token_in_tiled),
        cmocka_unit_test(back_to_any_covered_token_in_packed),
        cmocka_unit_test(back_to_any_covered_token_in_fold),
    };
    return cmocka_run_group_tests(tests, small_setup, small_teardown);
}
