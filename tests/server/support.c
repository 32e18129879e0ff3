#include "support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static void assert_ok(kvf_status status, const kvf_error *error)
{
    if (status != KVF_OK)
        fail_msg("%s", error->message);
}

static void open_engine(kvf_engine *engine, kvf_engine_options *options, uint64_t context)
{
    const kvf_engine_events events = {0};
    kvf_error error;
    *options = (kvf_engine_options){.model = KVF_TEST_MODEL,
                                    .backend = "cpu",
                                    .n_threads = 1,
                                    .profile = KVF_PROFILE_FOLD,
                                    .chunk_tokens = 256};
    assert_ok(kvf_engine_open(options, &events, engine, &error), &error);
    assert_ok(kvf_engine_open_device(engine, &error), &error);
    assert_ok(kvf_engine_load(engine, context, &error), &error);
}

void serve(served *server, const kvf_scheduler_options *options)
{
    kvf_scheduler_options resolved = *options;
    kvf_error error;
    if (resolved.context_tokens == 0)
        resolved.context_tokens = 4096;
    if (resolved.memory_bytes == 0)
        resolved.memory_bytes = 1u << 30;
    resolved.profile = KVF_PROFILE_FOLD;
    open_engine(&server->engine, &server->options, resolved.context_tokens);
    assert_ok(kvf_scheduler_open(&server->engine, &resolved, &server->scheduler, &error), &error);
}

void serve_end(served *server)
{
    kvf_scheduler_close(server->scheduler);
    /* Nothing is left on the device but what the model has. */
    assert_int_equal(server->engine.device->live_bytes[KVF_MEMORY_CACHE], 0);
    assert_int_equal(server->engine.device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
    assert_int_equal(server->engine.device->live_bytes[KVF_MEMORY_SCRATCH], 0);
    kvf_engine_close(&server->engine);
}

void make_prompt(int32_t *ids, size_t n, uint64_t seed)
{
    uint64_t state = seed * 0x9E3779B97F4A7C15 + 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005 + 1442695040888963407;
        ids[i] = (int32_t)(state >> 56);
    }
}

/* ---- Jobs --------------------------------------------------------------------------------- */

static void progress(void *user, uint64_t n_read, uint64_t n_prompt)
{
    asked *one = user;
    pthread_mutex_lock(&one->mutex);
    assert_true(n_read >= one->n_read && n_read <= n_prompt);
    one->has_begun = true;
    one->n_read = n_read;
    pthread_cond_broadcast(&one->told);
    pthread_mutex_unlock(&one->mutex);
}

static void pause_for(double seconds)
{
    const struct timespec time = {(time_t)seconds, (long)(1e9 * (seconds - (time_t)seconds))};
    nanosleep(&time, NULL);
}

static kvf_taken take(void *user, uint32_t choice, const kvf_drawn *drawn)
{
    asked *one = user;
    if (one->slow_seconds > 0)
        pause_for(one->slow_seconds);
    pthread_mutex_lock(&one->mutex);
    const uint32_t n = one->choices[choice].n;
    assert_true(n < MOST_ANSWERED && one->choices[choice].n_ends == 0);
    const bool stops = one->stop_as != KVF_TAKEN && n == one->stop_at;
    if (!stops) {
        one->choices[choice].ids[n] = drawn->id;
        one->choices[choice].logprobs[n] = drawn->logprob;
        one->choices[choice].tops[n] = drawn->top ? drawn->top[0] : (kvf_logprob){-1, 0};
        one->choices[choice].n++;
    }
    pthread_cond_broadcast(&one->told);
    pthread_mutex_unlock(&one->mutex);
    return stops ? one->stop_as : KVF_TAKEN;
}

static void end(void *user, uint32_t choice, kvf_job_end end, const kvf_job_usage *usage,
                const kvf_error *error)
{
    asked *one = user;
    pthread_mutex_lock(&one->mutex);
    one->choices[choice].n_ends++;
    one->choices[choice].end = end;
    one->choices[choice].usage = *usage;
    assert_int_equal(error != NULL, end == KVF_JOB_FAILED);
    if (error)
        one->choices[choice].error = *error;
    one->n_ended++;
    pthread_cond_broadcast(&one->told);
    pthread_mutex_unlock(&one->mutex);
}

kvf_draw greedy(void)
{
    return (kvf_draw){.top_p = 1, .repeat_penalty = 1};
}

kvf_draw sampled(uint64_t seed)
{
    return (kvf_draw){.temperature = 1, .top_p = 0.95f, .repeat_penalty = 1, .seed = seed};
}

void ask(served *server, asked *one, const int32_t *prompt, size_t n, kvf_job_options options)
{
    options.prompt = prompt;
    options.n_prompt = n;
    if (options.turn_at == 0)
        options.turn_at = n;
    if (!(options.draw.repeat_penalty > 0))
        options.draw = greedy();
    options.progress = progress;
    options.take = take;
    options.end = end;
    options.user = one;
    pthread_mutex_init(&one->mutex, NULL);
    pthread_cond_init(&one->told, NULL);
    one->n_choices = options.n_choices ? options.n_choices : 1;
    one->submitted = kvf_scheduler_submit(server->scheduler, &options, &one->job, &one->error);
}

static void wait_locked(asked *one)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60 * SHORTER;
    if (pthread_cond_timedwait(&one->told, &one->mutex, &until) != 0)
        fail_msg("nothing was told for minutes");
}

void wait_for(asked *one)
{
    assert_int_equal(one->submitted, KVF_SUBMITTED);
    pthread_mutex_lock(&one->mutex);
    while (one->n_ended < one->n_choices)
        wait_locked(one);
    pthread_mutex_unlock(&one->mutex);
    for (uint32_t i = 0; i < one->n_choices; i++)
        assert_int_equal(one->choices[i].n_ends, 1);
    kvf_job_release(one->job);
}

void wait_for_tokens(asked *one, uint32_t n)
{
    assert_int_equal(one->submitted, KVF_SUBMITTED);
    pthread_mutex_lock(&one->mutex);
    while (!one->has_begun || one->choices[0].n < n)
        wait_locked(one);
    pthread_mutex_unlock(&one->mutex);
}

/* ---- Without a scheduler ------------------------------------------------------------------ */

static bool is_eos(const kvf_model_config *config, uint32_t id)
{
    for (uint32_t i = 0; i < config->n_eos_tokens; i++)
        if (config->eos_tokens[i] == (int32_t)id)
            return true;
    return false;
}

static void append_alone(kvf_engine *engine, kvf_batch *batch, kvf_session *session,
                         const int32_t *ids, uint32_t n)
{
    kvf_batch_item item = {.session = session, .ids = ids, .n = n};
    kvf_error error;
    assert_ok(kvf_model_forward(engine->model, batch, &item, 1, &error), &error);
}

static uint32_t run_alone(const int32_t *prompt, size_t n, const kvf_draw *draw, uint32_t most,
                          int32_t *ids)
{
    enum { CHUNK = 256 };
    static kvf_engine engine; /* opened once for all tests */
    static kvf_engine_options options;
    kvf_session *session;
    kvf_batch *batch;
    kvf_error error;
    if (!engine.model)
        open_engine(&engine, &options, 65536);
    assert_ok(kvf_engine_open_session(&engine, KVF_PROFILE_FOLD, n + most + 1, &session, &error),
              &error);
    const uint32_t vocab = engine.config.geometry.vocab;
    kvf_candidate *candidates = calloc(vocab, sizeof *candidates);
    kvf_sampler sampler = {draw->temperature, draw->top_p, draw->min_p, draw->seed, draw->top_k};
    uint32_t answered = 0;
    assert_ok(kvf_engine_open_batch(&engine, KVF_PROFILE_FOLD, n + most + 1, &batch, &error),
              &error);
    for (size_t at = 0; at < n; at += CHUNK)
        append_alone(&engine, batch, session, prompt + at,
                     (uint32_t)(n - at < CHUNK ? n - at : CHUNK));
    for (;;) {
        const uint32_t id = kvf_sample(&sampler, kvf_session_logits(session), vocab, candidates);
        if (is_eos(&engine.config, id))
            break;
        ids[answered++] = (int32_t)id;
        if (answered == most)
            break;
        append_alone(&engine, batch, session, &ids[answered - 1], 1);
    }
    free(candidates);
    kvf_batch_close(batch);
    kvf_session_close(session);
    return answered;
}

/* What was answered last: tests ask the same again, and what it is alone does not change. */
typedef struct remembered {
    int32_t *prompt;
    size_t n;
    kvf_draw draw;
    uint32_t most;
    uint32_t n_ids;
    int32_t ids[MOST_ANSWERED];
} remembered;

static bool same_draw(const kvf_draw *a, const kvf_draw *b)
{
    return !(a->temperature < b->temperature || a->temperature > b->temperature) &&
           !(a->top_p < b->top_p || a->top_p > b->top_p) &&
           !(a->min_p < b->min_p || a->min_p > b->min_p) && a->top_k == b->top_k &&
           a->seed == b->seed;
}

uint32_t answer_alone(const int32_t *prompt, size_t n, const kvf_draw *draw, uint32_t most,
                      int32_t *ids)
{
    enum { ENTRIES = 16 };
    static remembered entries[ENTRIES];
    static uint32_t next;
    for (uint32_t i = 0; i < ENTRIES; i++) {
        const remembered *one = &entries[i];
        if (one->prompt && one->n == n && one->most == most && same_draw(&one->draw, draw) &&
            memcmp(one->prompt, prompt, n * sizeof *prompt) == 0) {
            memcpy(ids, one->ids, one->n_ids * sizeof *ids);
            return one->n_ids;
        }
    }
    remembered *one = &entries[next++ % ENTRIES];
    free(one->prompt);
    *one = (remembered){.n = n, .draw = *draw, .most = most};
    one->prompt = malloc(n * sizeof *prompt);
    assert_non_null(one->prompt);
    memcpy(one->prompt, prompt, n * sizeof *prompt);
    one->n_ids = run_alone(prompt, n, draw, most, ids);
    memcpy(one->ids, ids, one->n_ids * sizeof *ids);
    return one->n_ids;
}

void assert_as_alone(const asked *one, uint32_t choice, const int32_t *prompt, size_t n,
                     kvf_draw draw, uint32_t most)
{
    int32_t ids[MOST_ANSWERED];
    draw.seed += choice;
    const uint32_t answered = answer_alone(prompt, n, &draw, most, ids);
    assert_int_equal(one->choices[choice].n, answered);
    assert_memory_equal(one->choices[choice].ids, ids, answered * sizeof *ids);
    assert_int_equal(one->choices[choice].end, answered == most ? KVF_JOB_MAX_TOKENS : KVF_JOB_EOS);
    assert_int_equal(one->choices[choice].usage.n_answered, answered);
}

void ask_as_alone(served *server, asked *one, const int32_t *prompt, size_t n, kvf_draw draw,
                  uint32_t most)
{
    memset(one, 0, sizeof *one);
    ask(server, one, prompt, n, (kvf_job_options){.max_tokens = most, .draw = draw});
    wait_for(one);
    assert_as_alone(one, 0, prompt, n, draw, most);
}

uint64_t read_again(const asked *one)
{
    return one->choices[0].usage.n_prompt - one->choices[0].usage.n_cached;
}

size_t append_turn(int32_t *text, size_t n, const asked *one, size_t n_turn, uint64_t seed)
{
    memcpy(text + n, one->choices[0].ids, one->choices[0].n * sizeof *text);
    n += one->choices[0].n;
    make_prompt(text + n, n_turn, seed);
    return n + n_turn;
}

kvf_scheduler_report report_of(served *server)
{
    kvf_scheduler_report report;
    kvf_scheduler_read_report(server->scheduler, &report);
    return report;
}
