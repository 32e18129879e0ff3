/* Sampling: greedy, the sets that top-p and min-p leave, the distribution, odd logits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first. */
#include <cmocka.h>

#include "model/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VOCAB 40
#define DRAWS 200000

static void test_greedy_takes_the_lowest_id_of_equal_logits(void **state)
{
    (void)state;
    const float logits[] = {-1, 3, 2, 3, NAN, -INFINITY, 3};
    const float zeros[] = {-0.0f, 0.0f};
    kvf_candidate workspace[7];
    kvf_sampler sampler = {.temperature = 0, .top_p = 0.5f, .min_p = 0.5f, .state = 9};
    assert_int_equal(kvf_argmax(logits, 7), 1);
    assert_int_equal(kvf_argmax(zeros, 2), 0);
    assert_int_equal(kvf_sample(&sampler, logits, 7, workspace), 1);
    assert_int_equal(sampler.state, 9); /* nothing was drawn */
}

/* SplitMix64's published first outputs for the seed 1234567. */
static void test_draws_follow_the_published_generator(void **state)
{
    (void)state;
    const uint64_t published[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                  4593380528125082431u, 16408922859458223821u};
    enum { N = 1 << 12 };
    static float logits[N]; /* equal: the token is the draw's upper 12 bits */
    static kvf_candidate workspace[N];
    kvf_sampler sampler = {.temperature = 1, .top_p = 1, .state = 1234567};
    for (size_t i = 0; i < sizeof published / sizeof *published; i++)
        assert_int_equal(kvf_sample(&sampler, logits, N, workspace), published[i] >> 52);
}

static void make_logits(float *logits, uint32_t n)
{
    uint32_t x = 12345;
    for (uint32_t i = 0; i < n; i++) {
        x = x * 1664525 + 1013904223;
        logits[i] = (float)(x >> 8) * 0x1p-24f * 6 - 3;
    }
    logits[5] = logits[17]; /* a tie */
}

typedef struct reference {
    double p[VOCAB]; /* 0 for what is cut off */
} reference;

static const float *order_logits;

static int by_logit(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    if (order_logits[x] != order_logits[y])
        return order_logits[x] > order_logits[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

/* The same by sorting, in f64, written without the code under test in mind. */
static reference calculate(const float *logits, double temperature, double min_p, double top_p)
{
    reference r = {0};
    uint32_t order[VOCAB];
    double total = 0;
    for (uint32_t i = 0; i < VOCAB; i++)
        order[i] = i;
    order_logits = logits;
    qsort(order, VOCAB, sizeof *order, by_logit);
    const double top = exp((double)logits[order[0]] / temperature);
    for (uint32_t i = 0; i < VOCAB; i++) {
        double p = exp((double)logits[i] / temperature);
        r.p[i] = p >= min_p * top ? p : 0;
        total += r.p[i];
    }
    double sum = 0;
    double kept = 0;
    for (uint32_t i = 0; i < VOCAB; i++) {
        if (sum >= top_p)
            r.p[order[i]] = 0;
        sum += r.p[order[i]] / total;
        kept += r.p[order[i]];
    }
    for (uint32_t i = 0; i < VOCAB; i++)
        r.p[i] /= kept;
    return r;
}

/* Every count within 5 standard deviations, nothing that is cut off, all that is left. */
static void check_distribution(float temperature, float min_p, float top_p, uint32_t wanted_set)
{
    float logits[VOCAB];
    kvf_candidate workspace[VOCAB];
    uint32_t counts[VOCAB] = {0};
    uint32_t set = 0;
    make_logits(logits, VOCAB);
    const reference r = calculate(logits, (double)temperature, (double)min_p, (double)top_p);
    kvf_sampler sampler = {temperature, top_p, min_p, 42, 0};
    for (uint32_t i = 0; i < DRAWS; i++)
        counts[kvf_sample(&sampler, logits, VOCAB, workspace)]++;
    for (uint32_t i = 0; i < VOCAB; i++) {
        double mean = r.p[i] * DRAWS;
        double deviation = sqrt(mean * (1 - r.p[i]));
        if (fabs(counts[i] - mean) > 5 * deviation + 1e-9)
            fail_msg("token %u: %u draws, %f expected", i, counts[i], mean);
        set += r.p[i] > 0;
    }
    assert_int_equal(set, wanted_set); /* the settings do cut what the test is about */
}

static void test_draws_have_the_softmax_distribution(void **state)
{
    (void)state;
    check_distribution(1, 0, 1, VOCAB);
    check_distribution(0.5f, 0, 1, VOCAB);
    check_distribution(3, 0, 1, VOCAB);
}

static void count_set(float min_p, float top_p, uint32_t *size)
{
    float logits[VOCAB];
    make_logits(logits, VOCAB);
    const reference r = calculate(logits, 1, (double)min_p, (double)top_p);
    *size = 0;
    for (uint32_t i = 0; i < VOCAB; i++)
        *size += r.p[i] > 0;
}

static void test_top_p_and_min_p_leave_the_calculated_sets(void **state)
{
    (void)state;
    const float settings[][2] = {{0.1f, 1},     {0.5f, 1},  {0, 0.9f}, {0, 0.5f},
                                 {0.2f, 0.75f}, {0, 0.05f}, {1, 1}};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        uint32_t size = 0;
        count_set(settings[i][0], settings[i][1], &size);
        assert_in_range(size, 1, VOCAB - 1);
        check_distribution(1, settings[i][0], settings[i][1], size);
    }
}

/* p = 1/8, 1/2, 1/4, 1/8 up to rounding; top_p just below and above each partial sum. */
static void test_top_p_is_the_smallest_set_of_at_least_that_much(void **state)
{
    (void)state;
    const float ln2 = 0.693147182f;
    const float logits[] = {-3 * ln2, -1 * ln2, -2 * ln2, -3 * ln2};
    const struct {
        float top_p;
        uint32_t tokens; /* bit i: token i is drawn */
    } cases[] = {{0, 2},       {0.4999f, 2}, {0.5001f, 6}, {0.7499f, 6},
                 {0.7501f, 7}, {0.9f, 15},   {1, 15}};
    kvf_candidate workspace[4];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvf_sampler sampler = {1, cases[i].top_p, 0, i, 0};
        uint32_t tokens = 0;
        for (int draw = 0; draw < 1000; draw++)
            tokens |= 1u << kvf_sample(&sampler, logits, 4, workspace);
        assert_int_equal(tokens, cases[i].tokens);
    }
}

static void test_same_seed_gives_the_same_tokens(void **state)
{
    (void)state;
    float logits[VOCAB];
    kvf_candidate workspace[VOCAB];
    make_logits(logits, VOCAB);
    kvf_sampler a = {1, 0.9f, 0.01f, 7, 0};
    kvf_sampler b = a;
    kvf_sampler c = {1, 0.9f, 0.01f, 8, 0};
    bool differs = false;
    for (int i = 0; i < 100; i++) {
        uint32_t token = kvf_sample(&a, logits, VOCAB, workspace);
        assert_int_equal(kvf_sample(&b, logits, VOCAB, workspace), token);
        differs |= kvf_sample(&c, logits, VOCAB, workspace) != token;
    }
    assert_int_equal(a.state, b.state);
    assert_true(differs);
}

static void test_odd_logits_and_settings_never_give_an_odd_token(void **state)
{
    (void)state;
    const float none[] = {-INFINITY, NAN, -INFINITY};
    const float one[] = {-INFINITY, NAN, -3e38f, -INFINITY};
    const float infinite[] = {1, INFINITY, 2, INFINITY};
    const float wide[] = {3e38f, -3e38f};
    const float two[] = {-INFINITY, 5, NAN, 5};
    kvf_candidate workspace[4];
    kvf_sampler plain = {1, 1, 0, 1, 0};
    uint32_t seen = 0;
    assert_int_equal(kvf_sample(&plain, none, 3, workspace), 0);
    assert_int_equal(kvf_sample(&plain, infinite, 4, workspace), 1);
    const kvf_sampler odd[] = {
        {1, 1, 0, 3, 0},           {1e-30f, 1, 0, 3, 0}, {INFINITY, 1, 0, 3, 0},
        {INFINITY, 0.5f, 2, 3, 0}, {1, -1, 0, 3, 0},     {1, 1, 5, 3, 0},
        {1, NAN, NAN, 3, 0},       {NAN, 0.5f, 0, 3, 0}, {-1, 0.5f, 0, 3, 0}};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        kvf_sampler sampler = odd[i];
        for (int draw = 0; draw < 50; draw++) {
            assert_int_equal(kvf_sample(&sampler, one, 4, workspace), 2);
            uint32_t token = kvf_sample(&sampler, two, 4, workspace);
            assert_true(token == 1 || token == 3);
            seen |= 1u << token;
        }
    }
    assert_int_equal(seen, 1 << 1 | 1 << 3);
    for (int draw = 0; draw < 50; draw++)
        assert_int_equal(kvf_sample(&plain, wide, 2, workspace), 0);
}

/* ---- top_k, changes of logits, logprobs -------------------------------------------------- */

static void test_top_k_leaves_the_likeliest(void **state)
{
    (void)state;
    const float logits[] = {0, 3, 1, 2, 3};
    static const struct {
        uint32_t top_k;
        float top_p;
        uint32_t tokens; /* bit i: token i is drawn */
    } cases[] = {{1, 1, 2},
                 {2, 1, 18},
                 {3, 1, 26},
                 {4, 1, 30},
                 {5, 1, 31},
                 {100, 1, 31},
                 {0, 1, 31},
                 {3, 0.3f, 2},
                 /* of the three that are left the two likeliest have 0.845, of all 0.78 */
                 {3, 0.8f, 18},
                 {0, 0.8f, 26},
                 {3, 0.85f, 26}};
    kvf_candidate workspace[5];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvf_sampler sampler = {1, cases[i].top_p, 0, i, cases[i].top_k};
        uint32_t tokens = 0;
        for (int draw = 0; draw < 2000; draw++)
            tokens |= 1u << kvf_sample(&sampler, logits, 5, workspace);
        assert_int_equal(tokens, cases[i].tokens);
    }
}

/* One that leaves all is one that is off: the same tokens, the same state. */
static void test_top_k_of_all_changes_nothing(void **state)
{
    (void)state;
    float logits[VOCAB];
    kvf_candidate workspace[VOCAB];
    make_logits(logits, VOCAB);
    kvf_sampler off = {1, 0.9f, 0.01f, 7, 0};
    kvf_sampler all = {1, 0.9f, 0.01f, 7, VOCAB};
    for (int i = 0; i < 200; i++)
        assert_int_equal(kvf_sample(&off, logits, VOCAB, workspace),
                         kvf_sample(&all, logits, VOCAB, workspace));
    assert_int_equal(off.state, all.state);
}

static void test_penalties_and_bias(void **state)
{
    (void)state;
    const float logits[] = {2, -2, 4, 0, 1};
    const kvf_token_use uses[] = {{2, 3}, {0, 0}, {5, 1}, {1, 1}};
    const uint32_t allowed[] = {0xf7, 0};
    const kvf_bias bias[] = {{3, 5}, {4, -INFINITY}, {3, 1}, {-1, 9}, {5, 9}};
    kvf_logit_changes changes = {.bias = bias,
                                 .n_bias = 5,
                                 .repeat_penalty = 2,
                                 .presence_penalty = 0.5f,
                                 .frequency_penalty = 0.25f,
                                 .uses = uses,
                                 .n_uses = 4};
    const float expected[] = {1, -4 - 0.75f, 2 - 1.25f, 6, -INFINITY};
    float changed[5];
    kvf_change_logits(&changes, logits, 5, changed);
    for (int i = 0; i < 5; i++)
        assert_true(changed[i] <= expected[i] && changed[i] >= expected[i]);
    changes.allowed = allowed; /* after all else */
    kvf_change_logits(&changes, logits, 5, changed);
    for (int i = 0; i < 5; i++)
        assert_true(i == 3 ? changed[i] <= -INFINITY
                           : changed[i] <= expected[i] && changed[i] >= expected[i]);
    assert_false(kvf_logit_changes_none(&changes));
    assert_true(kvf_logit_changes_none(&(kvf_logit_changes){.repeat_penalty = 1}));
    assert_false(kvf_logit_changes_none(&(kvf_logit_changes){.repeat_penalty = 1.1f}));
    assert_false(
        kvf_logit_changes_none(&(kvf_logit_changes){.repeat_penalty = 1, .presence_penalty = -1}));
    assert_false(
        kvf_logit_changes_none(&(kvf_logit_changes){.repeat_penalty = 1, .allowed = allowed}));
}

/* p = 1/8, 1/2, 1/4, 1/8. */
static void test_logprobs_are_log_softmax(void **state)
{
    (void)state;
    const float ln2 = 0.693147182f;
    const float logits[] = {7 - 3 * ln2, 7 - 1 * ln2, NAN, 7 - 2 * ln2, 7 - 3 * ln2, -INFINITY};
    const float expected[] = {-3, -1, -INFINITY, -2, -3, -INFINITY};
    static const int32_t order[] = {1, 3, 0, 4};
    kvf_logprob top[6];
    for (uint32_t id = 0; id < 6; id++) {
        const float logprob = kvf_logprobs(logits, 6, id, top, 4) / ln2;
        if (expected[id] > -INFINITY)
            assert_true(fabsf(logprob - expected[id]) < 1e-5f);
        else
            assert_true(logprob <= -INFINITY);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(top[i].id, order[i]);
            assert_true(fabsf(top[i].logprob / ln2 - expected[order[i]]) < 1e-5f);
        }
    }
    /* Where nothing is a number there is still an answer. */
    const float infinite[] = {1, INFINITY, 2};
    assert_true(kvf_logprobs(infinite, 3, 1, top, 2) >= 0);
    assert_true(kvf_logprobs(infinite, 3, 0, top, 2) <= -INFINITY);
    assert_int_equal(top[0].id, 1);
    const float none[] = {-INFINITY, NAN};
    assert_true(kvf_logprobs(none, 2, 0, top, 1) >= 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_takes_the_lowest_id_of_equal_logits),
        cmocka_unit_test(test_draws_follow_the_published_generator),
        cmocka_unit_test(test_draws_have_the_softmax_distribution),
        cmocka_unit_test(test_top_p_and_min_p_leave_the_calculated_sets),
        cmocka_unit_test(test_top_p_is_the_smallest_set_of_at_least_that_much),
        cmocka_unit_test(test_same_seed_gives_the_same_tokens),
        cmocka_unit_test(test_odd_logits_and_settings_never_give_an_odd_token),
        cmocka_unit_test(test_top_k_leaves_the_likeliest),
        cmocka_unit_test(test_top_k_of_all_changes_nothing),
        cmocka_unit_test(test_penalties_and_bias),
        cmocka_unit_test(test_logprobs_are_log_softmax),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
