/* Where requests are taken up: what is read again, and that the answers do not show it. */
#include "support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LONG = 520, SHORT = 290, SPACING = 256, TURN = 40, ANSWER = 12 };

static void test_a_conversation_goes_on_where_it_was(void **state)
{
    (void)state;
    int32_t text[SHORT + 4 * (TURN + ANSWER)];
    served server;
    asked *one = calloc(1, sizeof *one);
    size_t n = SHORT;
    make_prompt(text, n, 1);
    serve(&server, &(kvf_scheduler_options){.spacing_tokens = SPACING});
    ask_as_alone(&server, one, text, n, sampled(1), ANSWER);
    assert_int_equal(read_again(one), SHORT);
    for (uint64_t turn = 2; turn < 5; turn++) {
        n = append_turn(text, n, one, TURN, turn);
        ask_as_alone(&server, one, text, n, turn % 2 ? greedy() : sampled(turn), ANSWER);
        /* The turn, and the last token of the answer, which was given and not appended. */
        assert_true(read_again(one) <= TURN + 1);
    }
    serve_end(&server);
    free(one);
}

/* Another question at the end, another in the middle, a shorter text, the very same one. */
static void test_an_edited_text_is_taken_up_at_a_checkpoint(void **state)
{
    (void)state;
    int32_t text[LONG];
    served server;
    asked *one = calloc(1, sizeof *one);
    make_prompt(text, LONG, 1);
    serve(&server, &(kvf_scheduler_options){.spacing_tokens = SPACING});
    ask_as_alone(&server, one, text, LONG, greedy(), ANSWER);
    ask_as_alone(&server, one, text, LONG, sampled(5), ANSWER);
    assert_true(read_again(one) < 128);
    make_prompt(text + LONG - 6, 6, 2);
    ask_as_alone(&server, one, text, LONG, greedy(), ANSWER);
    assert_true(read_again(one) < 128 + 6);
    make_prompt(text + 400, LONG - 400, 3);
    ask_as_alone(&server, one, text, LONG, greedy(), ANSWER);
    assert_int_equal(read_again(one), LONG - SPACING);
    /* Texts part there, so a checkpoint was taken: the next that does finds it. */
    make_prompt(text + 400, LONG - 400, 4);
    ask_as_alone(&server, one, text, LONG, greedy(), ANSWER);
    assert_int_equal(read_again(one), LONG - 400 / 128 * 128);
    ask_as_alone(&server, one, text, 300, greedy(), ANSWER);
    assert_int_equal(read_again(one), 300 - SPACING);
    text[0] ^= 1;
    ask_as_alone(&server, one, text, 200, greedy(), ANSWER);
    assert_int_equal(read_again(one), 200);
    serve_end(&server);
    free(one);
}

static void test_what_was_read_before_a_cancel_stays(void **state)
{
    (void)state;
    int32_t text[LONG];
    served server;
    asked *one = calloc(1, sizeof *one);
    make_prompt(text, LONG, 6);
    serve(&server, &(kvf_scheduler_options){.spacing_tokens = SPACING});
    ask(&server, one, text, LONG, (kvf_job_options){.max_tokens = ANSWER});
    pthread_mutex_lock(&one->mutex);
    while (one->n_read < 200)
        pthread_cond_wait(&one->told, &one->mutex);
    pthread_mutex_unlock(&one->mutex);
    kvf_job_cancel(one->job);
    wait_for(one);
    assert_int_equal(one->choices[0].end, KVF_JOB_CANCELLED);
    const uint64_t read = one->n_read;
    assert_true(read >= 200);
    ask_as_alone(&server, one, text, LONG, greedy(), ANSWER);
    assert_int_equal(one->choices[0].usage.n_cached, read);
    serve_end(&server);
    free(one);
}

/* A request that comes while another reads or answers the same text shares what is there. */
static void test_what_runs_is_gone_on_from(void **state)
{
    (void)state;
    int32_t text[SHORT];
    served server;
    asked *jobs = calloc(2, sizeof *jobs);
    make_prompt(text, SHORT, 7);
    serve(&server, &(kvf_scheduler_options){.spacing_tokens = SPACING});
    jobs[0].slow_seconds = 0.005;
    ask(&server, &jobs[0], text, SHORT, (kvf_job_options){.max_tokens = 60});
    wait_for_tokens(&jobs[0], 3);
    ask_as_alone(&server, &jobs[1], text, SHORT, sampled(3), ANSWER);
    assert_true(read_again(&jobs[1]) < 128);
    wait_for(&jobs[0]);
    assert_as_alone(&jobs[0], 0, text, SHORT, greedy(), 60);
    serve_end(&server);
    free(jobs);
}

/* Many requests that begin alike, at once: the beginning is read by one of them. */
static void test_what_another_reads_is_waited_for(void **state)
{
    (void)state;
    enum { JOBS = 5, SHARED = 400, EACH = 430 };
    int32_t(*texts)[EACH] = calloc(JOBS, sizeof *texts);
    asked *jobs = calloc(JOBS, sizeof *jobs);
    served server;
    serve(&server, &(kvf_scheduler_options){.parallel = 8});
    for (uint32_t i = 0; i < JOBS; i++) {
        make_prompt(texts[i], SHARED, 1);
        make_prompt(texts[i] + SHARED, EACH - SHARED, 100 + i);
        ask(&server, &jobs[i], texts[i], EACH, (kvf_job_options){.max_tokens = 10});
    }
    for (uint32_t i = 0; i < JOBS; i++) {
        wait_for(&jobs[i]);
        assert_as_alone(&jobs[i], 0, texts[i], EACH, greedy(), 10);
    }
    assert_true(report_of(&server).read_tokens <= EACH + (JOBS - 1) * (EACH - SHARED + 128));
    serve_end(&server);
    free(jobs);
    free(texts);
}

/* The one that reads is cancelled: what it has read is taken, the rest is read by another. */
static void test_a_reader_that_is_waited_for_may_end(void **state)
{
    (void)state;
    int32_t text[LONG];
    served server;
    asked *jobs = calloc(3, sizeof *jobs);
    make_prompt(text, LONG, 1);
    serve(&server, &(kvf_scheduler_options){.spacing_tokens = 128});
    for (int i = 0; i < 3; i++)
        ask(&server, &jobs[i], text, LONG, (kvf_job_options){.max_tokens = 10});
    kvf_job_cancel(jobs[0].job);
    kvf_job_cancel(jobs[2].job);
    for (int i = 0; i < 3; i++)
        wait_for(&jobs[i]);
    assert_as_alone(&jobs[1], 0, text, LONG, greedy(), 10);
    serve_end(&server);
    free(jobs);
}

/* Room for two or three of the sessions: those used last stay, and none is more than planned. */
static void test_the_least_useful_leaves_before_anybody_waits(void **state)
{
    (void)state;
    enum { TEXTS = 6, EACH = 300 };
    int32_t text[EACH];
    served server;
    asked *one = calloc(1, sizeof *one);
    const uint64_t memory = 10u << 20;
    serve(&server, &(kvf_scheduler_options){.context_tokens = 2048, .memory_bytes = memory});
    for (uint64_t i = 0; i < TEXTS; i++) {
        make_prompt(text, EACH, 50 + i);
        ask_as_alone(&server, one, text, EACH, greedy(), ANSWER);
        assert_true(report_of(&server).most_bytes <= memory);
    }
    const kvf_scheduler_report report = report_of(&server);
    assert_true(report.n_evicted > 0);
    assert_true(report.n_held > 0);
    ask_as_alone(&server, one, text, EACH, greedy(), ANSWER);
    assert_true(read_again(one) < 128);
    serve_end(&server);
    free(one);
}

/* Closing what is held would not do: it stays, and the request waits for another's end. */
static void test_nothing_is_closed_in_vain(void **state)
{
    (void)state;
    enum { EACH = 140 };
    int32_t text[3][EACH];
    served server;
    asked *jobs = calloc(3, sizeof *jobs);
    serve(&server, &(kvf_scheduler_options){.memory_bytes = 8u << 20});
    for (uint64_t i = 0; i < 3; i++)
        make_prompt(text[i], EACH, i);
    ask(&server, &jobs[0], text[0], EACH, (kvf_job_options){.max_tokens = 2});
    wait_for(&jobs[0]);
    jobs[1].slow_seconds = 0.02;
    ask(&server, &jobs[1], text[1], EACH, (kvf_job_options){.max_tokens = 30});
    wait_for_tokens(&jobs[1], 1);
    ask(&server, &jobs[2], text[2], EACH, (kvf_job_options){.max_tokens = 2000});
    wait_for_tokens(&jobs[1], 20);
    const kvf_scheduler_report report = report_of(&server);
    assert_int_equal(report.n_queued, 1);
    assert_int_equal(report.n_held, 1);
    assert_int_equal(report.n_evicted, 0);
    kvf_job_cancel(jobs[1].job);
    wait_for(&jobs[1]);
    wait_for_tokens(&jobs[2], 1);
    kvf_job_cancel(jobs[2].job);
    wait_for(&jobs[2]);
    serve_end(&server);
    free(jobs);
}

/* Many at once, of texts that begin alike, in memory for a few: all are served, none is over it. */
static void test_memory_is_never_more_than_planned(void **state)
{
    (void)state;
    enum { JOBS = 12, EACH = 200, SHARED = 140 };
    int32_t(*texts)[EACH] = calloc(JOBS, sizeof *texts);
    asked *jobs = calloc(JOBS, sizeof *jobs);
    served server;
    const uint64_t memory = 14u << 20;
    serve(&server, &(kvf_scheduler_options){.context_tokens = 1024,
                                            .memory_bytes = memory,
                                            .spacing_tokens = 128,
                                            .parallel = 8});
    for (uint32_t i = 0; i < JOBS; i++) {
        make_prompt(texts[i], SHARED, i % 2);
        make_prompt(texts[i] + SHARED, EACH - SHARED, 100 + i);
        ask(&server, &jobs[i], texts[i], EACH,
            (kvf_job_options){
                .max_tokens = 20, .n_choices = 1 + i % 2, .key = i % 4, .draw = sampled(i)});
        assert_int_equal(jobs[i].submitted, KVF_SUBMITTED);
    }
    for (uint32_t i = 0; i < JOBS; i++) {
        wait_for(&jobs[i]);
        for (uint32_t choice = 0; choice < 1 + i % 2; choice++)
            assert_as_alone(&jobs[i], choice, texts[i], EACH, sampled(i), 20);
    }
    const kvf_scheduler_report report = report_of(&server);
    assert_true(report.most_bytes <= memory);
    assert_true(report.most_bytes > memory / 4); /* it was needed */
    assert_true(report.n_evicted > 0 && report.cached_tokens > 0);
    serve_end(&server);
    free(jobs);
    free(texts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_conversation_goes_on_where_it_was),
        cmocka_unit_test(test_an_edited_text_is_taken_up_at_a_checkpoint),
        cmocka_unit_test(test_what_was_read_before_a_cancel_stays),
        cmocka_unit_test(test_what_runs_is_gone_on_from),
        cmocka_unit_test(test_what_another_reads_is_waited_for),
        cmocka_unit_test(test_a_reader_that_is_waited_for_may_end),
        cmocka_unit_test(test_the_least_useful_leaves_before_anybody_waits),
        cmocka_unit_test(test_nothing_is_closed_in_vain),
        cmocka_unit_test(test_memory_is_never_more_than_planned),
    };
    return cmocka_run_group_tests_name("prefixes", tests, NULL, NULL);
}
