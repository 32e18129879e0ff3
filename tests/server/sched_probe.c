/*
 * Measures the scheduler without HTTP, on any checkpoint.
 *
 *   sched_probe MODEL THREADS STREAMS PROMPT TOKENS READER
 *
 * STREAMS answers of TOKENS tokens to prompts of PROMPT run at once; when half of it is done, a
 * prompt of READER tokens comes beside them (0: none), is continued, edited in its last turn and
 * asked once more. Prints one line of JSON.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "server/scheduler.h"

typedef struct stream {
    pthread_mutex_t mutex;
    pthread_cond_t told;
    bool has_ended;
    uint32_t n;
    int32_t ids[65536];
    double first_seconds;
    double last_seconds;
    double longest_seconds;
    kvf_job_usage usage;
} stream;

static kvf_taken take(void *user, uint32_t choice, const kvf_drawn *drawn)
{
    stream *s = user;
    const double now = kvf_seconds();
    (void)choice;
    pthread_mutex_lock(&s->mutex);
    if (s->n > 0 && now - s->last_seconds > s->longest_seconds)
        s->longest_seconds = now - s->last_seconds;
    if (s->n == 0)
        s->first_seconds = now;
    s->last_seconds = now;
    s->ids[s->n++ % 65536] = drawn->id;
    pthread_cond_signal(&s->told);
    pthread_mutex_unlock(&s->mutex);
    return KVF_TAKEN;
}

static void end(void *user, uint32_t choice, kvf_job_end why, const kvf_job_usage *usage,
                const kvf_error *error)
{
    stream *s = user;
    (void)choice;
    if (why == KVF_JOB_FAILED)
        fprintf(stderr, "failed: %s\n", error->message);
    pthread_mutex_lock(&s->mutex);
    s->usage = *usage;
    s->has_ended = true;
    pthread_cond_signal(&s->told);
    pthread_mutex_unlock(&s->mutex);
}

static void wait_for(stream *s, uint32_t n)
{
    pthread_mutex_lock(&s->mutex);
    while (!s->has_ended && s->n < n)
        pthread_cond_wait(&s->told, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
}

static void make_ids(int32_t *ids, size_t n, uint64_t seed)
{
    uint64_t state = seed * 0x9E3779B97F4A7C15 + 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005 + 1442695040888963407;
        ids[i] = (int32_t)(state >> 56);
    }
}

static void ask(kvf_scheduler *scheduler, stream *s, const int32_t *ids, size_t n, uint64_t most)
{
    static const kvf_bias no_end = {257, -1e30f}; /* the tiny model's end: it goes on to `most` */
    kvf_job_options options = {
        .prompt = ids,
        .n_prompt = n,
        .turn_at = n,
        .max_tokens = most,
        .draw = {.top_p = 1, .repeat_penalty = 1, .bias = &no_end, .n_bias = 1},
        .take = take,
        .end = end,
        .user = s};
    kvf_job *job;
    kvf_error error;
    memset(s, 0, sizeof *s);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->told, NULL);
    if (kvf_scheduler_submit(scheduler, &options, &job, &error) != KVF_SUBMITTED) {
        fprintf(stderr, "refused: %s\n", error.message);
        exit(1);
    }
    kvf_job_release(job);
}

static void read_prompts(kvf_scheduler *scheduler, size_t n)
{
    int32_t *ids = malloc((n + 1000) * sizeof *ids);
    stream *s = malloc(sizeof *s);
    make_ids(ids, n, 999);
    const double began = kvf_seconds();
    ask(scheduler, s, ids, n, 20);
    wait_for(s, UINT32_MAX);
    printf(",\"reader\":{\"tokens\":%zu,\"seconds\":%.3f", n, kvf_seconds() - began);
    memcpy(ids + n, s->ids, 20 * sizeof *ids);
    make_ids(ids + n + 20, 100, 5);
    ask(scheduler, s, ids, n + 120, 20);
    wait_for(s, UINT32_MAX);
    printf(",\"continued_read\":%llu", (unsigned long long)(s->usage.n_prompt - s->usage.n_cached));
    make_ids(ids + n - 300, 300, 6);
    ask(scheduler, s, ids, n, 20);
    wait_for(s, UINT32_MAX);
    printf(",\"edited_read\":%llu}", (unsigned long long)(s->usage.n_prompt - s->usage.n_cached));
    free(s);
    free(ids);
}

static void measure(kvf_scheduler *scheduler, size_t n_streams, size_t prompt, uint64_t most,
                    size_t reader)
{
    stream *streams = calloc(n_streams, sizeof *streams);
    int32_t *ids = malloc(prompt * sizeof *ids);
    double first = 0;
    double last = 0;
    double longest = 0;
    for (size_t i = 0; i < n_streams; i++) {
        make_ids(ids, prompt, i);
        ask(scheduler, &streams[i], ids, prompt, most);
    }
    printf("{\"streams\":%zu", n_streams);
    wait_for(&streams[0], (uint32_t)(most / 2));
    kvf_scheduler_report before;
    kvf_scheduler_read_report(scheduler, &before);
    if (reader > 0)
        read_prompts(scheduler, reader);
    for (size_t i = 0; i < n_streams; i++) {
        stream *s = &streams[i];
        wait_for(s, UINT32_MAX);
        first = s->first_seconds > first ? s->first_seconds : first;
        last = s->last_seconds > last ? s->last_seconds : last;
        longest = s->longest_seconds > longest ? s->longest_seconds : longest;
    }
    kvf_scheduler_report report;
    kvf_scheduler_read_report(scheduler, &report);
    printf(",\"tokens_a_second\":%.1f,\"median_step_ms\":%.3f,\"longest_pause_ms\":%.3f,"
           "\"steps\":%llu,\"most_bytes\":%llu}\n",
           (double)(n_streams * (most - 1)) / (last - first), 1e3 * before.step_seconds,
           1e3 * longest, (unsigned long long)report.n_steps,
           (unsigned long long)report.most_bytes);
    free(ids);
    free(streams);
}

int main(int n_arguments, char **arguments)
{
    if (n_arguments != 7)
        return 2;
    const size_t n_streams = strtoul(arguments[3], NULL, 10);
    const size_t prompt = strtoul(arguments[4], NULL, 10);
    const uint64_t most = strtoul(arguments[5], NULL, 10);
    const size_t reader = strtoul(arguments[6], NULL, 10);
    const kvf_engine_options options = {.model = arguments[1],
                                        .backend = "cpu",
                                        .n_threads = (uint32_t)strtoul(arguments[2], NULL, 10),
                                        .profile = KVF_PROFILE_FOLD,
                                        .chunk_tokens = 512};
    const kvf_scheduler_options scheduling = {
        .profile = KVF_PROFILE_FOLD, .context_tokens = 65536, .parallel = 32};
    const kvf_engine_events events = {0};
    kvf_engine engine;
    kvf_scheduler *scheduler = NULL;
    kvf_error error;
    kvf_status status = kvf_engine_open(&options, &events, &engine, &error);
    if (status == KVF_OK)
        status = kvf_engine_open_device(&engine, &error);
    if (status == KVF_OK)
        status = kvf_engine_load(&engine, 65536, &error);
    if (status == KVF_OK)
        status = kvf_scheduler_open(&engine, &scheduling, &scheduler, &error);
    if (status == KVF_OK)
        measure(scheduler, n_streams, prompt, most, reader);
    else
        fprintf(stderr, "%s\n", error.message);
    kvf_scheduler_close(scheduler);
    kvf_engine_close(&engine);
    return status == KVF_OK ? 0 : 1;
}
