/*
 * The interface of src/server/scheduler.h without a model: what is answered stands in the prompt.
 * Linked in the place of the real one, so that a test of the protocol decides what comes and when.
 *
 * A prompt of bytes with the chat marks (docs/CHAT.md): the last user's text has commands, each in
 * brackets; the rest of the text means nothing.
 *   [say TEXT]      the answer's text; of another choice than the first its number stands behind
 *   [think TEXT]    reasoning before it, where the prompt asks for it
 *   [ids 1 2 3]     ids as they are
 *   [wait MS]       before the first token; [each MS] before each
 *   [queue MS]      before it leaves the queue
 *   [end WHAT]      eos (default), failed, timed_out, context, shutdown; lost: failed, and from
 *                   then on the device is lost; or what submit says: busy, large, invalid,
 *                   stopping, memory
 *   [cached N]      of the prompt
 * Each job has a thread; a job that is cancelled ends as the real one does.
 */
#include "server/replay.h"
#include "server/scheduler.h"

#include "error.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { USER = 258, ASSISTANT = 259, THINK = 260, END_THINK = 261, TEXT_BYTES = 4096 };

struct kvf_scheduler {
    struct kvf_replays *replays;
    atomic_bool stops;
    uint32_t parallel;
    atomic_bool is_lost;
    atomic_uint running;
    atomic_ullong n_jobs, n_cancelled;
};

struct kvf_job {
    kvf_scheduler *scheduler;
    kvf_job_options options;
    int32_t *prompt;
    char text[TEXT_BYTES]; /* of the last user */
    bool thinks;
    atomic_bool is_cancelled;
    atomic_int references;
    uint64_t n_cached;
};

kvf_status kvf_scheduler_open(kvf_engine *engine, const kvf_scheduler_options *options,
                              kvf_scheduler **scheduler, kvf_error *error)
{
    (void)engine;
    kvf_scheduler *opened = calloc(1, sizeof *opened);
    *scheduler = opened;
    if (!opened)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory");
    opened->parallel = options->parallel;
    return kvf_replays_open(options->replay_max_bytes ? options->replay_max_bytes : 1 << 20,
                            &opened->replays, error);
}

void kvf_scheduler_stop(kvf_scheduler *scheduler)
{
    atomic_store(&scheduler->stops, true);
}

static void sleep_ms(long ms)
{
    const struct timespec moment = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&moment, NULL);
}

void kvf_scheduler_close(kvf_scheduler *scheduler)
{
    if (!scheduler)
        return;
    kvf_scheduler_stop(scheduler);
    while (atomic_load(&scheduler->running) > 0)
        sleep_ms(1);
    kvf_replays_close(scheduler->replays);
    free(scheduler);
}

bool kvf_scheduler_is_lost(kvf_scheduler *scheduler, kvf_error *why)
{
    *why = (kvf_error){.status = KVF_OK};
    if (scheduler->is_lost)
        kvf_fail(why, KVF_DEVICE_LOST, "the device was lost");
    return scheduler->is_lost;
}

struct kvf_replays *kvf_scheduler_replays(kvf_scheduler *scheduler)
{
    return scheduler->replays;
}

void kvf_scheduler_read_report(kvf_scheduler *scheduler, kvf_scheduler_report *report)
{
    *report = (kvf_scheduler_report){.parallel = scheduler->parallel,
                                     .queue = 64,
                                     .n_running = atomic_load(&scheduler->running),
                                     .n_jobs = atomic_load(&scheduler->n_jobs),
                                     .n_cancelled = atomic_load(&scheduler->n_cancelled)};
}

uint32_t kvf_scheduler_slots(kvf_scheduler *scheduler, kvf_slot *slots, uint32_t capacity)
{
    const uint32_t n = atomic_load(&scheduler->running);
    for (uint32_t i = 0; i < n && i < capacity; i++)
        slots[i] = (kvf_slot){.job = i + 1};
    return n;
}

/* ---- Commands ----------------------------------------------------------------------------- */

/* What stands behind "[NAME " up to the bracket, in a buffer; false: there is no such command. */
static bool command(const kvf_job *job, const char *name, char value[TEXT_BYTES])
{
    char begin[32];
    snprintf(begin, sizeof begin, "[%s ", name);
    const char *at = strstr(job->text, begin);
    const char *end = at ? strchr(at, ']') : NULL;
    if (!end)
        return false;
    at += strlen(begin);
    memcpy(value, at, (size_t)(end - at));
    value[end - at] = '\0';
    return true;
}

static long number(const kvf_job *job, const char *name)
{
    char value[TEXT_BYTES];
    return command(job, name, value) ? atol(value) : 0;
}

static void read_text(kvf_job *job)
{
    size_t at = job->options.n_prompt;
    size_t n = 0;
    while (at > 0 && job->prompt[at - 1] != USER)
        at--;
    for (; at < job->options.n_prompt && job->prompt[at] != ASSISTANT && n < TEXT_BYTES - 1; at++)
        if (job->prompt[at] > 0 && job->prompt[at] < 256)
            job->text[n++] = (char)job->prompt[at];
    job->text[n] = '\0';
    job->thinks = job->prompt[job->options.n_prompt - 1] == THINK;
}

/* ---- A job -------------------------------------------------------------------------------- */

/* In pieces, so that a cancelled one ends soon. False: it was cancelled, or all stops. */
static bool wait(const kvf_job *job, long ms)
{
    for (; ms > 0 && !job->is_cancelled && !job->scheduler->stops; ms -= 5)
        sleep_ms(ms < 5 ? ms : 5);
    return !job->is_cancelled && !job->scheduler->stops;
}

/* Gives one id; false: the choice has ended, as *end says. */
static bool give(kvf_job *job, uint32_t choice, int32_t id, uint64_t *n, kvf_job_end *end)
{
    kvf_logprob top[KVF_MAX_TOP_LOGPROBS];
    for (uint32_t i = 0; i < job->options.draw.n_top; i++)
        top[i] = (kvf_logprob){(int32_t)('a' + i), -1.5f - (float)i};
    const kvf_drawn drawn = {.id = id, .logprob = -0.5f, .top = top};
    const bool goes_on = wait(job, number(job, "each"));
    *end = job->scheduler->stops ? KVF_JOB_SHUTDOWN : KVF_JOB_CANCELLED;
    if (!goes_on)
        return false;
    switch (job->options.take(job->options.user, choice, &drawn)) {
    case KVF_TAKEN: break;
    case KVF_TAKEN_BY_NOBODY: return false;
    case KVF_TAKEN_AS_END: *end = KVF_JOB_EOS; return false;
    case KVF_TAKEN_AS_STOP: *end = KVF_JOB_STOP; return false;
    }
    *end = KVF_JOB_MAX_TOKENS;
    return ++*n < job->options.max_tokens || job->options.max_tokens == 0;
}

static bool give_text(kvf_job *job, uint32_t choice, const char *text, uint64_t *n,
                      kvf_job_end *end)
{
    for (; *text; text++)
        if (!give(job, choice, (unsigned char)*text, n, end))
            return false;
    return true;
}

static kvf_job_end answer(kvf_job *job, uint32_t choice, uint64_t *n)
{
    char value[TEXT_BYTES];
    char digits[16] = "";
    kvf_job_end end = KVF_JOB_EOS;
    if (job->thinks &&
        (!give_text(job, choice, command(job, "think", value) ? value : "", n, &end) ||
         !give(job, choice, END_THINK, n, &end)))
        return end;
    if (!give_text(job, choice, command(job, "say", value) ? value : "", n, &end))
        return end;
    if (choice > 0)
        snprintf(digits, sizeof digits, "%u", choice);
    if (!give_text(job, choice, digits, n, &end))
        return end;
    if (command(job, "ids", value))
        for (char *at = value; *at; at += strspn(at, " "))
            if (!give(job, choice, (int32_t)strtol(at, &at, 10), n, &end))
                return end;
    if (!command(job, "end", value))
        return KVF_JOB_EOS;
    if (strcmp(value, "lost") == 0)
        job->scheduler->is_lost = true;
    return strcmp(value, "failed") == 0      ? KVF_JOB_FAILED
           : strcmp(value, "lost") == 0      ? KVF_JOB_FAILED
           : strcmp(value, "context") == 0   ? KVF_JOB_CONTEXT_FULL
           : strcmp(value, "shutdown") == 0  ? KVF_JOB_SHUTDOWN
           : strcmp(value, "timed_out") == 0 ? KVF_JOB_TIMED_OUT
                                             : KVF_JOB_EOS;
}

static void *run(void *user)
{
    kvf_job *job = user;
    kvf_scheduler *scheduler = job->scheduler;
    kvf_job_usage usage = {.n_prompt = job->options.n_prompt, .n_cached = job->n_cached};
    char value[TEXT_BYTES];
    const bool times_out = command(job, "end", value) && strcmp(value, "timed_out") == 0;
    const bool begins = wait(job, number(job, "queue")) && !times_out;
    if (begins && job->options.progress)
        job->options.progress(job->options.user, job->n_cached, job->options.n_prompt);
    const bool answers = begins && wait(job, number(job, "wait"));
    for (uint32_t choice = 0; choice < job->options.n_choices; choice++) {
        kvf_error error;
        kvf_fail(&error, KVF_NONFINITE, "a value that is not finite");
        usage.n_answered = 0;
        kvf_job_end end = times_out && !job->is_cancelled ? KVF_JOB_TIMED_OUT
                          : scheduler->stops              ? KVF_JOB_SHUTDOWN
                                                          : KVF_JOB_CANCELLED;
        if (answers)
            end = answer(job, choice, &usage.n_answered);
        if (end == KVF_JOB_CANCELLED)
            atomic_fetch_add(&scheduler->n_cancelled, 1);
        job->options.end(job->options.user, choice, end, &usage,
                         end == KVF_JOB_FAILED ? &error : NULL);
    }
    kvf_job_release(job);
    atomic_fetch_sub(&scheduler->running, 1);
    return NULL;
}

static kvf_submitted refused(const kvf_job *job)
{
    static const struct {
        const char *name;
        kvf_submitted submitted;
    } ends[] = {{"busy", KVF_SUBMIT_BUSY},
                {"large", KVF_SUBMIT_TOO_LARGE},
                {"invalid", KVF_SUBMIT_INVALID},
                {"stopping", KVF_SUBMIT_STOPPING},
                {"memory", KVF_SUBMIT_NO_MEMORY}};
    char value[TEXT_BYTES];
    if (job->scheduler->stops || job->scheduler->is_lost)
        return KVF_SUBMIT_STOPPING;
    for (size_t i = 0; i < sizeof ends / sizeof *ends && command(job, "end", value); i++)
        if (strcmp(value, ends[i].name) == 0)
            return ends[i].submitted;
    return KVF_SUBMITTED;
}

kvf_submitted kvf_scheduler_submit(kvf_scheduler *scheduler, const kvf_job_options *options,
                                   kvf_job **opened, kvf_error *error)
{
    kvf_job *job = calloc(1, sizeof *job);
    pthread_t thread;
    *opened = NULL;
    if (!job)
        return KVF_SUBMIT_NO_MEMORY;
    job->scheduler = scheduler;
    job->options = *options;
    atomic_init(&job->references, 2);
    job->prompt = malloc(options->n_prompt * sizeof *job->prompt);
    if (job->prompt)
        memcpy(job->prompt, options->prompt, options->n_prompt * sizeof *job->prompt);
    const kvf_submitted submitted =
        job->prompt ? (read_text(job), refused(job)) : KVF_SUBMIT_NO_MEMORY;
    if (submitted != KVF_SUBMITTED) {
        kvf_fail(error, KVF_INVALID_ARGUMENT, "refused, as the prompt says");
        free(job->prompt);
        free(job);
        return submitted;
    }
    job->n_cached = (uint64_t)number(job, "cached");
    atomic_fetch_add(&scheduler->n_jobs, 1);
    atomic_fetch_add(&scheduler->running, 1);
    *opened = job;
    if (pthread_create(&thread, NULL, run, job) == 0)
        pthread_detach(thread);
    return KVF_SUBMITTED;
}

void kvf_job_cancel(kvf_job *job)
{
    atomic_store(&job->is_cancelled, true);
}

void kvf_job_release(kvf_job *job)
{
    if (atomic_fetch_sub(&job->references, 1) > 1)
        return;
    free(job->prompt);
    free(job);
}
