/* How large a piece of a prompt a step takes along. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "server/pace.h"

/* Steps of a machine on which an answer's step takes `step` and a token of a prompt `token`. */
static double run(kvf_pace *pace, uint32_t n_answers, double step, double token, int n_steps,
                  double *now, double *longest)
{
    uint64_t read = 0;
    const double began = *now;
    *longest = 0;
    for (int i = 0; i < n_steps; i++) {
        const uint32_t piece = kvf_pace_piece(pace, n_answers, 4096, *now);
        const double seconds = (n_answers > 0 ? step : 0) + piece * token;
        *now += seconds;
        read += piece;
        if (i >= n_steps / 2 && seconds > *longest)
            *longest = seconds;
        kvf_pace_add(pace, n_answers, piece, seconds, *now);
    }
    return (double)read / (*now - began);
}

static void test_a_step_with_a_piece_takes_about_two(void **state)
{
    (void)state;
    static const struct {
        double step;
        double token;
    } machines[] = {{0.03, 0.001}, {0.002, 0.0005}, {0.2, 0.0001}};
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++) {
        kvf_pace pace = {0};
        double now = 1;
        double longest;
        const double rate = run(&pace, 4, machines[i].step, machines[i].token, 500, &now, &longest);
        assert_true(longest < 2.2 * machines[i].step);
        /* About half of the time is for the prompt. */
        assert_true(rate * machines[i].token > 0.35);
    }
}

static void test_it_follows_when_steps_become_longer_or_shorter(void **state)
{
    (void)state;
    kvf_pace pace = {0};
    double now = 1;
    double longest;
    run(&pace, 1, 0.01, 0.001, 400, &now, &longest);
    run(&pace, 16, 0.05, 0.001, 400, &now, &longest);
    assert_true(longest > 0.08 && longest < 0.11);
    run(&pace, 1, 0.01, 0.003, 600, &now, &longest);
    assert_true(longest < 0.022);
}

/* Of sixteen answers one is left: the steps of before say nothing of it. */
static void test_fewer_answers_do_not_wait_as_long_as_many(void **state)
{
    (void)state;
    kvf_pace pace = {0};
    double now = 1;
    double longest;
    run(&pace, 16, 0.08, 0.001, 100, &now, &longest);
    for (int i = 0; i < 20; i++) {
        const uint32_t piece = kvf_pace_piece(&pace, 1, 4096, now);
        const double seconds = 0.005 + piece * 0.001;
        now += seconds;
        assert_true(seconds < 3 * 0.005);
        kvf_pace_add(&pace, 1, piece, seconds, now);
    }
}

static void test_without_answers_pieces_take_a_fifth_of_a_second(void **state)
{
    (void)state;
    kvf_pace pace = {0};
    double now = 1;
    double longest;
    run(&pace, 0, 0, 0.001, 50, &now, &longest);
    assert_true(longest > 0.18 && longest < 0.22);
    assert_true(kvf_pace_piece(&pace, 0, 64, now) == 64);
}

static void test_a_piece_is_never_nothing_for_long(void **state)
{
    (void)state;
    kvf_pace pace = {0};
    double now = 1;
    double longest;
    /* A token of the prompt takes longer than all answers: one at a time, all the same. */
    const double rate = run(&pace, 2, 0.001, 0.01, 200, &now, &longest);
    assert_true(rate > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_step_with_a_piece_takes_about_two),
        cmocka_unit_test(test_it_follows_when_steps_become_longer_or_shorter),
        cmocka_unit_test(test_fewer_answers_do_not_wait_as_long_as_many),
        cmocka_unit_test(test_without_answers_pieces_take_a_fifth_of_a_second),
        cmocka_unit_test(test_a_piece_is_never_nothing_for_long),
    };
    return cmocka_run_group_tests_name("pace", tests, NULL, NULL);
}
