/*
 * What a chunk's data gets wrong: found by operations, told once at the chunk's end, the first
 * in the order of layers and places, whatever the order in which they were found.
 */
#include "cache/small.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/batch.h"
#include "cache/compare.h"

#define N_TOKENS 12

static int32_t tokens[N_TOKENS];

static kvf_session *open_fed(uint32_t n)
{
    kvf_session *session = small_open(KVF_PROFILE_FOLD, 2);
    small_feed(session, n, 0);
    for (uint32_t i = 0; i < N_TOKENS; i++)
        tokens[i] = small_token(n + i, 0);
    return session;
}

/* The chunk is refused with these words, and the session goes on as one that never had it. */
static void expect_refused(void (*spoil)(uint32_t layer), uint32_t n, kvf_status expected,
                           const char *words)
{
    kvf_session *session = open_fed(130);
    kvf_session *clean = open_fed(130);
    kvf_error error;
    small_spoil = spoil;
    assert_int_equal(small_chunk(session, tokens, n, &error), expected);
    small_spoil = NULL;
    if (!strstr(error.message, words))
        fail_msg("\"%s\" does not say \"%s\"", error.message, words);
    assert_int_equal(kvf_session_commit(session, &error), KVF_INVALID_ARGUMENT);
    assert_int_equal(kvf_session_n_tokens(session), 130);
    small_feed(session, 9, 0);
    small_feed(clean, 9, 0);
    assert_same_session(session, clean);
    kvf_session_close(session);
    kvf_session_close(clean);
}

static void spoil_many(uint32_t layer)
{
    if (layer == 1) {
        small_in->q[7] = NAN;
        small_in->head_weights[3] = INFINITY;
        small_in->index_kv[6 * 256 + 140] = NAN; /* token 136: the second half of row 34 */
    }
    if (layer == 3)
        small_in->window[9] = NAN;
}

static void the_first_layer_and_place_wins(void **state)
{
    (void)state;
    expect_refused(spoil_many, 8, KVF_NONFINITE, "layer 1, index row 34, dimension 12: ");
}

static void spoil_inputs(uint32_t layer)
{
    if (layer != 2)
        return;
    small_in->gate[11 * 512 + 5] = NAN;
    small_in->kv[10 * 512 + 400] = -INFINITY;
    small_in->kv[10 * 512 + 300] = NAN;
}

static void of_a_place_the_first_token_and_column_win(void **state)
{
    (void)state;
    expect_refused(spoil_inputs, 12, KVF_NONFINITE, "layer 2, compressed row 1, dimension 300: ");
}

/* Row 33 is in range, the values of token 137, whose row comes in another chunk, are not finite. */
static void spoil_later_token(uint32_t layer)
{
    if (layer == 1)
        small_in->gate[7 * 1024 + 2] = NAN; /* token 137: the first half, for row 35 */
}

static void a_token_is_found_before_its_row_is_due(void **state)
{
    (void)state;
    expect_refused(spoil_later_token, 8, KVF_NONFINITE,
                   "layer 1, compressed row 35, dimension 2: ");
}

static void spoil_weight(uint32_t layer)
{
    if (layer == 3)
        small_in->head_weights[4 * SMALL_INDEX_HEADS + 6] = NAN;
}

static void an_index_weight_is_named_by_token_and_head(void **state)
{
    (void)state;
    expect_refused(spoil_weight, 5, KVF_NONFINITE, "layer 3, index weight of token 134, head 6: ");
}

static void spoil_range(uint32_t layer)
{
    if (layer == 0)
        small_in->window[2 * 512 + 17] = 0x1.ffp+127f; /* finite, and more than FP8 can hold */
}

static void a_value_out_of_range_is_no_infinity(void **state)
{
    (void)state;
    expect_refused(spoil_range, 3, KVF_RANGE, "layer 0, window row 2, dimension 17: ");
    expect_refused(spoil_range, 3, KVF_RANGE, "layer 0, window row 2, dimension 17: ");
}

/* One layer in pieces; what is wrong with the second names the chunk's token. */
static void pieces_of_a_chunk_count_from_its_start(void **state)
{
    (void)state;
    kvf_session *session = open_fed(130);
    kvf_error error;
    for (int which = 0; which < 2; which++) {
        assert_int_equal(kvf_session_begin(session, tokens, 8, &error), KVF_OK);
        small_fill_chunk(130, tokens, 8, 1);
        const kvf_append_args args = small_append_args(130, 8, small_geometry.layers[1]);
        small_in->q[(6 * SMALL_HEADS + 1) * 512 + 3] = NAN;
        if (which == 1)
            small_in->index_q[(5 * SMALL_INDEX_HEADS + 2) * 128 + 99] = INFINITY;
        small_send(8);
        assert_int_equal(kvf_session_append(session, 1, &args, &error), KVF_OK);
        for (uint32_t first = 0; first < 8; first += 4) {
            const kvf_chunk_span span = {first, 4};
            const size_t heads = (size_t)first * SMALL_INDEX_HEADS;
            const size_t q = (size_t)first * SMALL_HEADS * 512;
            assert_int_equal(kvf_session_select(session, 1, span,
                                                small_there->index_q + heads * 128,
                                                small_there->head_weights + heads, &error),
                             KVF_OK);
            assert_int_equal(kvf_session_attend(session, 1, span, small_there->q + q, NULL,
                                                small_there->out + q, &error),
                             KVF_OK);
        }
        assert_int_equal(kvf_session_commit(session, &error), KVF_NONFINITE);
        assert_non_null(strstr(error.message,
                               which ? "layer 1, index query of token 135, head 2, dimension 99: "
                                     : "layer 1, query of token 136, head 1, dimension 3: "));
    }
    kvf_session_close(session);
}

static void spoil_last(uint32_t layer)
{
    if (layer == 3)
        small_in->q[0] = NAN;
}

/* What comes after settle is looked at by commit again. */
static void settle_is_of_what_was_asked_for_so_far(void **state)
{
    (void)state;
    kvf_session *session = open_fed(130);
    kvf_error error;
    assert_int_equal(kvf_session_settle(session, &error), KVF_INVALID_ARGUMENT);
    assert_int_equal(kvf_session_begin(session, tokens, 4, &error), KVF_OK);
    small_spoil = spoil_last;
    for (uint32_t layer = 0; layer < 3; layer++)
        assert_int_equal(small_layer(session, tokens, 4, layer, &error), KVF_OK);
    assert_int_equal(kvf_session_settle(session, &error), KVF_OK);
    assert_int_equal(kvf_session_settle(session, &error), KVF_OK);
    assert_int_equal(small_layer(session, tokens, 4, 3, &error), KVF_OK);
    small_spoil = NULL;
    assert_int_equal(kvf_session_commit(session, &error), KVF_NONFINITE);
    assert_non_null(strstr(error.message, "layer 3, query of token 130"));
    /* A chunk that is dropped takes what it found with it. */
    small_feed(session, 4, 0);
    kvf_session_close(session);
}

static void words_are_ordered_as_errors_are(void **state)
{
    (void)state;
    const uint64_t words[] = {kvf_found_word(false, 0, 0, KVF_NONFINITE),
                              kvf_found_word(false, 0, 1, KVF_NONFINITE),
                              kvf_found_word(false, 1, 0, KVF_RANGE),
                              kvf_found_word(false, (1ull << 43) - 1, 65535, KVF_RANGE),
                              kvf_found_word(true, 0, 0, KVF_NONFINITE),
                              kvf_found_word(true, 5, 511, KVF_RANGE),
                              KVF_NOTHING_FOUND};
    for (size_t i = 1; i < sizeof words / sizeof *words; i++)
        assert_true(words[i - 1] < words[i]);
    const kvf_found found = kvf_found_of(words[5]);
    assert_true(found.made);
    assert_int_equal(found.index, 5);
    assert_int_equal(found.dim, 511);
    assert_int_equal(found.reason, KVF_RANGE);
    assert_int_equal(kvf_found_of(words[3]).index, (1ull << 43) - 1);
    assert_int_equal(kvf_found_of(KVF_NOTHING_FOUND).reason, KVF_OK);
}

/* Attends layer 0, or selects layer 1, with a workspace that was planned too small. */
static kvf_status run_planned_badly(bool select, kvf_error *error)
{
    const int32_t token = 0;
    kvf_session *session = small_open(KVF_PROFILE_FOLD, 2);
    small_feed(session, 70, 0);
    kvf_scratch_size *size = &session->alone->size;
    const kvf_scratch_size planned = *size;
    *(select ? &size->select_bytes : &size->attend_bytes) = 64;
    assert_int_equal(kvf_session_begin(session, &token, 1, error), KVF_OK);
    kvf_status status = KVF_OK;
    for (uint32_t layer = 0; layer < 2 && status == KVF_OK; layer++)
        status = small_layer(session, &token, 1, layer, error);
    *size = planned;
    assert_int_equal(kvf_session_n_tokens(session), 70);
    assert_int_equal(kvf_session_commit(session, NULL), KVF_INVALID_ARGUMENT); /* nothing is open */
    kvf_session_close(session);
    return status;
}

/* With assertions the program stops; without, it is not said to be the caller's fault. */
static void a_plan_that_is_too_small_is_our_own_fault(void **state)
{
    (void)state;
    for (int select = 0; select < 2; select++) {
#if defined(KVF_ASSERTIONS)
        int status;
        const pid_t child = fork();
        if (child == 0) {
            fclose(stderr);
            signal(SIGABRT, SIG_DFL);
            run_planned_badly(select, NULL);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
#else
        kvf_error error;
        assert_int_equal(run_planned_badly(select, &error), KVF_INTERNAL);
        assert_non_null(strstr(error.message, select ? "select" : "attend"));
        assert_non_null(strstr(error.message, "a fault of kvfold"));
#endif
    }
}

static void what_is_not_there_is_not_looked_at(void **state)
{
    (void)state;
    int32_t list[16];
    kvf_session *session = small_open(KVF_PROFILE_FOLD, 2);
    const struct {
        uint32_t query;
        int32_t *list;
        kvf_status status;
    } cases[] = {{69, list, KVF_OK},
                 {70, list, KVF_INVALID_ARGUMENT},
                 {69, NULL, KVF_INVALID_ARGUMENT},
                 {SMALL_CHUNK, list, KVF_INVALID_ARGUMENT},
                 {UINT32_MAX, list, KVF_INVALID_ARGUMENT}};
    uint32_t n = 7;
    kvf_error error;
    /* no chunk yet */
    assert_int_equal(kvf_session_selection(session, 0, list, &n, &error), KVF_INVALID_ARGUMENT);
    assert_int_equal(n, 0);
    small_feed(session, 70, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(kvf_session_selection(session, cases[i].query, cases[i].list, &n, &error),
                         cases[i].status);
        assert_int_equal(n, cases[i].status == KVF_OK ? 16 : 0);
    }
    assert_int_equal(kvf_session_rows(session, 1).n_rows, 17);
    assert_int_equal(kvf_session_rows(session, small_geometry.n_layers).n_rows, 0);
    assert_int_equal(kvf_session_index_rows(session, KVF_MAX_LAYERS + 7).n_rows, 0);
    kvf_session_close(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_layer_and_place_wins),
        cmocka_unit_test(of_a_place_the_first_token_and_column_win),
        cmocka_unit_test(a_token_is_found_before_its_row_is_due),
        cmocka_unit_test(an_index_weight_is_named_by_token_and_head),
        cmocka_unit_test(a_value_out_of_range_is_no_infinity),
        cmocka_unit_test(pieces_of_a_chunk_count_from_its_start),
        cmocka_unit_test(settle_is_of_what_was_asked_for_so_far),
        cmocka_unit_test(words_are_ordered_as_errors_are),
        cmocka_unit_test(a_plan_that_is_too_small_is_our_own_fault),
        cmocka_unit_test(what_is_not_there_is_not_looked_at),
    };
    return cmocka_run_group_tests(tests, small_setup, small_teardown);
}
