/* Jobs: what they answer, how they end, what is refused. */
#include "support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PROMPT = 160 / SHORTER, MANY = SHORTER > 1 ? 4 : 16 };

static void test_one_job_answers_as_alone(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    served server;
    asked *one = calloc(1, sizeof *one);
    asked *two = calloc(1, sizeof *two);
    make_prompt(prompt, PROMPT, 1);
    serve(&server, &(kvf_scheduler_options){0});
    ask(&server, one, prompt, PROMPT, (kvf_job_options){.max_tokens = 40 / SHORTER});
    wait_for(one);
    assert_as_alone(one, 0, prompt, PROMPT, greedy(), 40 / SHORTER);
    ask(&server, two, prompt, 7, (kvf_job_options){.max_tokens = 25 / SHORTER, .draw = sampled(9)});
    wait_for(two);
    assert_as_alone(two, 0, prompt, 7, sampled(9), 25 / SHORTER);
    serve_end(&server);
    free(one);
    free(two);
}

/* Of different lengths, greedy and sampled, with cancels between. */
static void test_many_at_once_answer_as_each_alone(void **state)
{
    (void)state;
    enum { LONGEST = (40 + 25 * MANY) / SHORTER };
    int32_t(*prompts)[LONGEST] = calloc(MANY, sizeof *prompts);
    asked *jobs = calloc(MANY, sizeof *jobs);
    served server;
    serve(&server, &(kvf_scheduler_options){.parallel = MANY});
    for (uint32_t i = 0; i < MANY; i++) {
        make_prompt(prompts[i], LONGEST, 100 + i);
        ask(&server, &jobs[i], prompts[i], (40 + 25 * i) / SHORTER,
            (kvf_job_options){.max_tokens = 30 / SHORTER + i,
                              .key = i % 3,
                              .draw = i % 2 ? sampled(i) : greedy()});
        assert_int_equal(jobs[i].submitted, KVF_SUBMITTED);
    }
    for (uint32_t i = 0; i < MANY; i += 5)
        kvf_job_cancel(jobs[i].job);
    for (uint32_t i = 0; i < MANY; i++) {
        wait_for(&jobs[i]);
        if (i % 5 == 0) {
            assert_int_equal(jobs[i].choices[0].end, KVF_JOB_CANCELLED);
            continue;
        }
        assert_as_alone(&jobs[i], 0, prompts[i], (40 + 25 * i) / SHORTER,
                        i % 2 ? sampled(i) : greedy(), 30 / SHORTER + i);
    }
    serve_end(&server);
    free(jobs);
    free(prompts);
}

static void test_choices_are_drawn_from_one_prompt(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    served server;
    asked *job = calloc(1, sizeof *job);
    make_prompt(prompt, PROMPT, 3);
    serve(&server, &(kvf_scheduler_options){.parallel = 5});
    ask(&server, job, prompt, PROMPT,
        (kvf_job_options){.max_tokens = 33 / SHORTER, .draw = sampled(70), .n_choices = 5});
    wait_for(job);
    for (uint32_t i = 0; i < 5; i++)
        assert_as_alone(job, i, prompt, PROMPT, sampled(70), 33 / SHORTER);
    assert_int_equal(report_of(&server).read_tokens, PROMPT);
    serve_end(&server);
    free(job);
}

static void test_what_a_token_is_taken_for_ends_the_answer(void **state)
{
    (void)state;
    static const struct {
        kvf_taken taken;
        kvf_job_end end;
    } cases[] = {{KVF_TAKEN_AS_END, KVF_JOB_EOS},
                 {KVF_TAKEN_AS_STOP, KVF_JOB_STOP},
                 {KVF_TAKEN_BY_NOBODY, KVF_JOB_CANCELLED}};
    int32_t prompt[PROMPT];
    served server;
    make_prompt(prompt, PROMPT, 4);
    serve(&server, &(kvf_scheduler_options){0});
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        asked *job = calloc(1, sizeof *job);
        job->stop_at = 3;
        job->stop_as = cases[i].taken;
        ask(&server, job, prompt, 20, (kvf_job_options){.max_tokens = 10});
        wait_for(job);
        assert_int_equal(job->choices[0].end, cases[i].end);
        assert_int_equal(job->choices[0].n, 3);
        assert_int_equal(job->choices[0].usage.n_answered, 3);
        free(job);
    }
    serve_end(&server);
}

static void test_bias_penalties_and_logprobs_reach_the_draw(void **state)
{
    (void)state;
    enum { TOKENS = 6 };
    const kvf_bias wanted[] = {{65, 1000}, {66, 999}};
    int32_t prompt[PROMPT];
    served server;
    asked *jobs = calloc(3, sizeof *jobs);
    make_prompt(prompt, PROMPT, 4);
    serve(&server, &(kvf_scheduler_options){0});
    kvf_draw draw = greedy();
    ask(&server, &jobs[0], prompt, 20, (kvf_job_options){.max_tokens = TOKENS});
    draw.logprobs = true;
    draw.n_top = 3;
    ask(&server, &jobs[1], prompt, 20, (kvf_job_options){.max_tokens = TOKENS, .draw = draw});
    draw.bias = wanted;
    draw.n_bias = 2;
    draw.frequency_penalty = 2; /* above the logits that the two may differ by: they take turns */
    draw.presence_penalty = 100;
    ask(&server, &jobs[2], prompt, 20, (kvf_job_options){.max_tokens = 2, .draw = draw});
    for (int i = 0; i < 3; i++)
        wait_for(&jobs[i]);
    assert_memory_equal(jobs[0].choices[0].ids, jobs[1].choices[0].ids, TOKENS * sizeof(int32_t));
    for (uint32_t i = 0; i < jobs[1].choices[0].n; i++) {
        assert_int_equal(jobs[0].choices[0].tops[i].id, -1);
        /* Greedy: what is drawn is the likeliest. */
        assert_int_equal(jobs[1].choices[0].tops[i].id, jobs[1].choices[0].ids[i]);
        assert_true(jobs[1].choices[0].logprobs[i] < 0);
        assert_true(jobs[1].choices[0].tops[i].logprob >= jobs[1].choices[0].logprobs[i]);
    }
    assert_int_equal(jobs[2].choices[0].n, 2);
    assert_int_equal(jobs[2].choices[0].ids[0] + jobs[2].choices[0].ids[1], 65 + 66);
    /* Logprobs are those of the model, which knows of no bias. */
    assert_int_equal(jobs[2].choices[0].tops[0].id, jobs[1].choices[0].tops[0].id);
    serve_end(&server);
    free(jobs);
}

static void test_context_ends_an_answer(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    served server;
    asked *job = calloc(1, sizeof *job);
    make_prompt(prompt, PROMPT, 4);
    serve(&server, &(kvf_scheduler_options){.context_tokens = PROMPT + 20});
    ask(&server, job, prompt, PROMPT, (kvf_job_options){0});
    wait_for(job);
    assert_int_equal(job->choices[0].end, KVF_JOB_MAX_TOKENS);
    assert_int_equal(job->choices[0].n, 20);
    serve_end(&server);
    free(job);
}

static void test_what_can_never_be_served_is_refused_at_once(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    served server;
    make_prompt(prompt, PROMPT, 4);
    const kvf_bias outside = {100000, 1};
    const struct {
        size_t n_prompt;
        kvf_job_options options;
        kvf_submitted submitted;
    } cases[] = {
        {0, {0}, KVF_SUBMIT_INVALID},
        {PROMPT, {.max_tokens = 400 - PROMPT + 1}, KVF_SUBMIT_TOO_LARGE},
        {PROMPT, {.max_tokens = UINT64_MAX}, KVF_SUBMIT_TOO_LARGE},
        {10, {.n_choices = 5}, KVF_SUBMIT_INVALID},
        {10, {.n_choices = UINT32_MAX}, KVF_SUBMIT_INVALID},
        {10, {.draw = {.temperature = -1, .repeat_penalty = 1}}, KVF_SUBMIT_INVALID},
        {10, {.draw = {.top_p = 2, .repeat_penalty = 1}}, KVF_SUBMIT_INVALID},
        {10, {.draw = {.top_p = 1, .repeat_penalty = 1, .n_top = 21}}, KVF_SUBMIT_INVALID},
        {10,
         {.draw = {.top_p = 1, .repeat_penalty = 1, .bias = &outside, .n_bias = 1}},
         KVF_SUBMIT_INVALID},
    };
    serve(&server, &(kvf_scheduler_options){.context_tokens = 400, .parallel = 4});
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        asked *job = calloc(1, sizeof *job);
        ask(&server, job, prompt, cases[i].n_prompt, cases[i].options);
        assert_int_equal(job->submitted, cases[i].submitted);
        assert_null(job->job);
        assert_true(job->error.message[0] != '\0');
        free(job);
    }
    prompt[5] = 1 << 20;
    asked *job = calloc(1, sizeof *job);
    ask(&server, job, prompt, 10, (kvf_job_options){0});
    assert_int_equal(job->submitted, KVF_SUBMIT_INVALID);
    free(job);
    serve_end(&server);
}

static void test_a_full_queue_refuses_and_a_long_wait_ends(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    served server;
    asked *jobs = calloc(5, sizeof *jobs);
    make_prompt(prompt, PROMPT, 8);
    serve(&server,
          &(kvf_scheduler_options){.parallel = 1, .queue = 2, .queue_timeout_seconds = 0.3});
    jobs[0].slow_seconds = 0.02;
    ask(&server, &jobs[0], prompt, 20, (kvf_job_options){.max_tokens = 60});
    wait_for_tokens(&jobs[0], 1);
    for (int i = 1; i < 5; i++)
        ask(&server, &jobs[i], prompt, 20, (kvf_job_options){.max_tokens = 3});
    assert_int_equal(jobs[1].submitted, KVF_SUBMITTED);
    assert_int_equal(jobs[2].submitted, KVF_SUBMITTED);
    assert_int_equal(jobs[3].submitted, KVF_SUBMIT_BUSY);
    assert_int_equal(jobs[4].submitted, KVF_SUBMIT_BUSY);
    wait_for(&jobs[1]);
    wait_for(&jobs[2]);
    assert_int_equal(jobs[1].choices[0].end, KVF_JOB_TIMED_OUT);
    assert_int_equal(jobs[2].choices[0].end, KVF_JOB_TIMED_OUT);
    wait_for(&jobs[0]);
    assert_int_equal(jobs[0].choices[0].n, 60);
    serve_end(&server);
    free(jobs);
}

static void test_a_cancelled_job_ends_in_the_queue_too(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    served server;
    asked *jobs = calloc(2, sizeof *jobs);
    make_prompt(prompt, PROMPT, 8);
    serve(&server, &(kvf_scheduler_options){.parallel = 1});
    jobs[0].slow_seconds = 0.01;
    ask(&server, &jobs[0], prompt, 20, (kvf_job_options){.max_tokens = 50});
    wait_for_tokens(&jobs[0], 1);
    ask(&server, &jobs[1], prompt, 20, (kvf_job_options){.max_tokens = 3});
    kvf_job_cancel(jobs[1].job);
    wait_for(&jobs[1]);
    assert_int_equal(jobs[1].choices[0].end, KVF_JOB_CANCELLED);
    assert_true(jobs[0].n_ended == 0);
    kvf_job_cancel(jobs[0].job);
    wait_for(&jobs[0]);
    assert_true(jobs[0].choices[0].n < 50);
    serve_end(&server);
    free(jobs);
}

static void test_stopping_ends_what_runs_and_waits(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    served server;
    asked *jobs = calloc(3, sizeof *jobs);
    make_prompt(prompt, PROMPT, 8);
    serve(&server, &(kvf_scheduler_options){.parallel = 1});
    jobs[0].slow_seconds = 0.01;
    ask(&server, &jobs[0], prompt, 20, (kvf_job_options){.max_tokens = 100});
    wait_for_tokens(&jobs[0], 1);
    ask(&server, &jobs[1], prompt, 20, (kvf_job_options){.max_tokens = 3});
    kvf_scheduler_stop(server.scheduler);
    ask(&server, &jobs[2], prompt, 20, (kvf_job_options){.max_tokens = 3});
    assert_int_equal(jobs[2].submitted, KVF_SUBMIT_STOPPING);
    wait_for(&jobs[0]);
    wait_for(&jobs[1]);
    assert_int_equal(jobs[0].choices[0].end, KVF_JOB_SHUTDOWN);
    assert_int_equal(jobs[1].choices[0].end, KVF_JOB_SHUTDOWN);
    serve_end(&server);
    free(jobs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_job_answers_as_alone),
        cmocka_unit_test(test_many_at_once_answer_as_each_alone),
        cmocka_unit_test(test_choices_are_drawn_from_one_prompt),
        cmocka_unit_test(test_what_a_token_is_taken_for_ends_the_answer),
        cmocka_unit_test(test_bias_penalties_and_logprobs_reach_the_draw),
        cmocka_unit_test(test_context_ends_an_answer),
        cmocka_unit_test(test_what_can_never_be_served_is_refused_at_once),
        cmocka_unit_test(test_a_full_queue_refuses_and_a_long_wait_ends),
        cmocka_unit_test(test_a_cancelled_job_ends_in_the_queue_too),
        cmocka_unit_test(test_stopping_ends_what_runs_and_waits),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
