/* The queue, and the thread that owns the device. */
#include "server/scheduler.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "engine/session_files.h"
#include "error.h"
#include "server/replay.h"
#include "server/work.h"

/* Jobs in the order in which they came. */
typedef struct job_list {
    kvf_job *first;
    kvf_job **end; /* where the next one is linked */
} job_list;

/* What the model sampled, into its file, by the thread that writes. */
typedef struct replays_save {
    kvf_disk_task task;
    kvf_scheduler *scheduler;
    atomic_bool is_under_way;
    bool has_result;
    kvf_status status;
    kvf_error error;
} replays_save;

struct kvf_scheduler {
    kvf_engine *engine;
    kvf_scheduler_options options; /* resolved */
    kvf_replays *replays;
    pthread_t thread;

    /* Under the mutex. */
    pthread_mutex_t mutex;
    pthread_cond_t wake; /* something came, or it is to stop */
    job_list incoming;
    uint32_t n_waiting; /* jobs, in incoming or waiting */
    uint32_t n_running; /* choices */
    bool stopping;
    bool is_woken;  /* the disk's threads did something */
    kvf_error lost; /* KVF_OK: nothing was */
    uint64_t n_refused;
    kvf_scheduler_report report;
    kvf_slot *slots; /* [parallel] */
    uint32_t n_slots;

    /* The thread's. */
    job_list waiting;
    kvf_work work;
    kvf_turns beginning; /* keys, by jobs that began */
    bool is_blocked;     /* the first to begin found no memory .. */
    uint64_t blocked_at; /* .. when so many had ended */
    uint64_t n_timed_out;
    char *replays_path;     /* NULL: nothing is kept on the disk */
    double replays_seconds; /* when a save of them began last */
    bool replays_failed;    /* the last one did, and that was said */
    replays_save saving_replays;
    uint32_t n_published; /* running, and when, as last reported */
    double published_seconds;
};

/* ---- Lists -------------------------------------------------------------------------------- */

static void list_clear(job_list *list)
{
    list->first = NULL;
    list->end = &list->first;
}

static void list_add(job_list *list, kvf_job *job)
{
    job->next = NULL;
    *list->end = job;
    list->end = &job->next;
}

static void list_remove(job_list *list, kvf_job **at)
{
    kvf_job *job = *at;
    *at = job->next;
    if (!job->next)
        list->end = at;
    job->next = NULL;
}

static void list_put_back(job_list *list, kvf_job **at, kvf_job *job)
{
    job->next = *at;
    *at = job;
    if (!job->next)
        list->end = &job->next;
}

/* ---- Submitting --------------------------------------------------------------------------- */

/* What the job may answer, and whether it could ever be served. */
static kvf_submitted check_size(kvf_scheduler *scheduler, kvf_job *job, kvf_error *error)
{
    const uint64_t context = scheduler->options.context_tokens;
    const uint64_t n_prompt = job->options.n_prompt;
    const uint64_t memory = scheduler->work.options.memory_bytes;
    uint64_t bytes;
    const uint64_t left = n_prompt < context ? context - n_prompt : 0;
    job->max_tokens = job->options.max_tokens;
    if (job->max_tokens == 0)
        job->max_tokens =
            left < scheduler->options.max_tokens ? left : scheduler->options.max_tokens;
    if (left == 0 || job->max_tokens > left) {
        kvf_fail(error, KVF_CONTEXT_FULL,
                 "%llu tokens of prompt and %llu of answer do not fit the context of %llu",
                 (unsigned long long)n_prompt, (unsigned long long)job->max_tokens,
                 (unsigned long long)context);
        return KVF_SUBMIT_TOO_LARGE;
    }
    if (kvf_work_most_bytes(&scheduler->work, job, &bytes, error) != KVF_OK)
        return KVF_SUBMIT_NO_MEMORY;
    if (bytes <= memory)
        return KVF_SUBMITTED;
    kvf_fail(error, KVF_OUT_OF_MEMORY,
             "%llu tokens of prompt and %llu of answer take up to %llu MB; sessions have %llu MB",
             (unsigned long long)n_prompt, (unsigned long long)job->max_tokens,
             (unsigned long long)(bytes / 1000000), (unsigned long long)(memory / 1000000));
    return KVF_SUBMIT_TOO_LARGE;
}

static kvf_submitted enqueue(kvf_scheduler *scheduler, kvf_job *job, kvf_error *error)
{
    kvf_submitted submitted = KVF_SUBMITTED;
    pthread_mutex_lock(&scheduler->mutex);
    const uint32_t parallel = scheduler->options.parallel;
    const uint32_t free_slots =
        parallel > scheduler->n_running ? parallel - scheduler->n_running : 0;
    if (scheduler->stopping) {
        kvf_fail(error, KVF_FILE_BUSY, "the server is stopping");
        submitted = KVF_SUBMIT_STOPPING;
    } else if (scheduler->lost.status != KVF_OK) {
        *error = scheduler->lost;
        submitted = KVF_SUBMIT_STOPPING;
    } else if (scheduler->n_waiting >= scheduler->options.queue + free_slots) {
        kvf_fail(error, KVF_FILE_BUSY, "%u requests run and %u wait: the queue is full",
                 scheduler->n_running, scheduler->n_waiting);
        submitted = KVF_SUBMIT_BUSY;
    } else {
        job->submitted_seconds = kvf_seconds();
        scheduler->n_waiting++;
        list_add(&scheduler->incoming, job);
        pthread_cond_signal(&scheduler->wake);
    }
    scheduler->n_refused += submitted != KVF_SUBMITTED;
    pthread_mutex_unlock(&scheduler->mutex);
    return submitted;
}

kvf_submitted kvf_scheduler_submit(kvf_scheduler *scheduler, const kvf_job_options *options,
                                   kvf_job **out, kvf_error *error)
{
    const uint32_t vocab = scheduler->engine->config.geometry.vocab;
    kvf_job_options resolved = *options;
    if (resolved.n_choices == 0)
        resolved.n_choices = 1;
    *out = NULL;
    if (kvf_job_check(&resolved, vocab, scheduler->options.parallel, error) != KVF_OK)
        return KVF_SUBMIT_INVALID;
    kvf_job *job = kvf_job_new(&resolved, vocab);
    if (!job) {
        kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a prompt of %zu tokens",
                 resolved.n_prompt);
        return KVF_SUBMIT_NO_MEMORY;
    }
    kvf_submitted submitted = check_size(scheduler, job, error);
    *out = job; /* callbacks may come as soon as it is in the queue */
    if (submitted == KVF_SUBMITTED)
        submitted = enqueue(scheduler, job, error);
    if (submitted == KVF_SUBMITTED)
        return submitted;
    *out = NULL;
    kvf_job_release(job);
    kvf_job_release(job);
    return submitted;
}

/* ---- The thread --------------------------------------------------------------------------- */

/* A job has left the queue, whatever for. */
static void count_out(kvf_scheduler *scheduler)
{
    pthread_mutex_lock(&scheduler->mutex);
    scheduler->n_waiting--;
    scheduler->n_running = scheduler->work.n_running;
    pthread_mutex_unlock(&scheduler->mutex);
}

static void end_waiting(kvf_scheduler *scheduler, bool stopping)
{
    const double now = kvf_seconds();
    const bool lost = scheduler->work.lost.status != KVF_OK;
    for (kvf_job **at = &scheduler->waiting.first; *at;) {
        kvf_job *job = *at;
        const bool timed_out =
            now - job->submitted_seconds >= scheduler->options.queue_timeout_seconds;
        const bool cancelled = atomic_load(&job->is_cancelled);
        if (!stopping && !lost && !timed_out && !cancelled) {
            at = &job->next;
            continue;
        }
        const kvf_job_end why = cancelled  ? KVF_JOB_CANCELLED
                                : lost     ? KVF_JOB_FAILED
                                : stopping ? KVF_JOB_SHUTDOWN
                                           : KVF_JOB_TIMED_OUT;
        list_remove(&scheduler->waiting, at);
        count_out(scheduler);
        scheduler->n_timed_out += why == KVF_JOB_TIMED_OUT;
        scheduler->is_blocked = false;
        kvf_job_end_all(job, why, &scheduler->work.lost);
    }
}

/* Whether what a file has of its prompt is still brought to memory. */
static bool is_restored(const kvf_scheduler *scheduler, const kvf_job *job)
{
    return job->awaited_restores > scheduler->work.n_restored;
}

/* Nothing that runs or waits can go on, nor anything that comes. */
static void end_lost(kvf_scheduler *scheduler)
{
    kvf_work *work = &scheduler->work;
    pthread_mutex_lock(&scheduler->mutex);
    scheduler->lost = work->lost;
    pthread_mutex_unlock(&scheduler->mutex);
    kvf_engine_note(&scheduler->engine->events, true,
                    "%s; no request is answered until the next start", work->lost.message);
    while (work->running)
        kvf_work_end(work, work->running, KVF_JOB_FAILED, &work->lost);
}

/* Of the key that waited longest the job that came first; NULL: none waits but for a file. */
static kvf_job **next_to_begin(kvf_scheduler *scheduler)
{
    kvf_job **next = NULL;
    uint64_t next_turn = 0;
    for (kvf_job **at = &scheduler->waiting.first; *at; at = &(*at)->next) {
        if (is_restored(scheduler, *at))
            continue;
        const uint64_t turn = kvf_turns_last(&scheduler->beginning, (*at)->options.key);
        if (!next || turn < next_turn) {
            next = at;
            next_turn = turn;
        }
    }
    return next;
}

/* The next one is not passed by smaller ones, which might keep it waiting for ever. */
static void begin_jobs(kvf_scheduler *scheduler)
{
    kvf_work *work = &scheduler->work;
    for (kvf_job **at; (at = next_to_begin(scheduler)) != NULL;) {
        kvf_job *job = *at;
        const uint64_t key = job->options.key;
        if (work->n_running + job->options.n_choices > scheduler->options.parallel ||
            (scheduler->is_blocked && scheduler->blocked_at == work->n_ended))
            return;
        list_remove(&scheduler->waiting, at);
        const kvf_begun begun = kvf_work_begin(work, job); /* it may be gone */
        scheduler->is_blocked = begun == KVF_NO_MEMORY;
        scheduler->blocked_at = work->n_ended;
        if (begun == KVF_IS_RESTORED)
            job->awaited_restores = work->n_restored + 1;
        if (begun != KVF_BEGUN)
            list_put_back(&scheduler->waiting, at, job);
        if (begun == KVF_NO_MEMORY)
            return;
        if (begun == KVF_IS_RESTORED)
            continue; /* others pass it */
        kvf_turns_take(&scheduler->beginning, key);
        count_out(scheduler);
    }
}

/* Reports are of some recent moment: a step of a small model is shorter than making one takes. */
static const double report_seconds = 0.02;

static void publish(kvf_scheduler *scheduler, bool now)
{
    kvf_scheduler_report report;
    const double seconds = kvf_seconds();
    if (!now && scheduler->n_published == scheduler->work.n_running &&
        seconds - scheduler->published_seconds < report_seconds)
        return;
    scheduler->n_published = scheduler->work.n_running;
    scheduler->published_seconds = seconds;
    kvf_work_report(&scheduler->work, &report);
    pthread_mutex_lock(&scheduler->mutex);
    report.n_timed_out = scheduler->n_timed_out;
    for (const kvf_job *job = scheduler->waiting.first; job; job = job->next)
        report.n_restoring += is_restored(scheduler, job);
    scheduler->report = report;
    scheduler->n_running = report.n_running;
    scheduler->n_slots =
        kvf_work_slots(&scheduler->work, scheduler->slots, scheduler->options.parallel);
    pthread_mutex_unlock(&scheduler->mutex);
}

/* From one save to the next while something runs. */
static const double save_replays_seconds = 5;

static void write_replays(kvf_disk_task *task)
{
    replays_save *save = (replays_save *)task;
    const kvf_scheduler *scheduler = save->scheduler;
    save->status = kvf_replays_save(scheduler->replays, scheduler->replays_path, &save->error);
    atomic_store(&save->is_under_way, false);
}

/* A failure is said once. */
static void end_replays(kvf_scheduler *scheduler)
{
    replays_save *save = &scheduler->saving_replays;
    if (!save->has_result || atomic_load(&save->is_under_way))
        return;
    const bool failed = save->status != KVF_OK;
    save->has_result = false;
    if (failed && !scheduler->replays_failed)
        kvf_engine_note(&scheduler->engine->events, true, "%s", save->error.message);
    scheduler->replays_failed = failed;
}

/* What the model sampled is needed where its sessions are. */
static void save_replays(kvf_scheduler *scheduler)
{
    replays_save *save = &scheduler->saving_replays;
    const double now = kvf_seconds();
    end_replays(scheduler);
    if (!scheduler->replays_path || save->has_result ||
        (scheduler->work.running && now - scheduler->replays_seconds < save_replays_seconds))
        return;
    scheduler->replays_seconds = now;
    save->scheduler = scheduler;
    save->task.run = write_replays;
    save->has_result = true;
    atomic_store(&save->is_under_way, true);
    kvf_disk_add(scheduler->work.shelf->writing, &save->task);
}

/* By any thread: the disk's have something for this one. */
static void wake(void *user)
{
    kvf_scheduler *scheduler = user;
    pthread_mutex_lock(&scheduler->mutex);
    scheduler->is_woken = true;
    pthread_cond_signal(&scheduler->wake);
    pthread_mutex_unlock(&scheduler->mutex);
}

/* Jobs that wait are looked at so often, whatever happens: they may be cancelled, or time out. */
enum { WAITING_NANOSECONDS = 20000000 };

/* With the mutex. */
static void sleep_once(kvf_scheduler *scheduler)
{
    struct timespec until;
    if (!scheduler->waiting.first) {
        pthread_cond_wait(&scheduler->wake, &scheduler->mutex);
        return;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += WAITING_NANOSECONDS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    if (pthread_cond_timedwait(&scheduler->wake, &scheduler->mutex, &until) != 0)
        scheduler->is_woken = true;
}

/* What waits can begin only when something ends. */
static bool may_sleep(const kvf_scheduler *scheduler)
{
    return !scheduler->stopping && !scheduler->incoming.first && !scheduler->is_woken &&
           !scheduler->work.running;
}

/*
 * Waits until there is something to do, where nothing can be done for the disk, and takes what
 * came. True: to stop.
 */
static bool take_incoming(kvf_scheduler *scheduler)
{
    const bool may_wait = kvf_work_disk(&scheduler->work) != KVF_DISK_GOES_ON;
    save_replays(scheduler);
    pthread_mutex_lock(&scheduler->mutex);
    while (may_wait && may_sleep(scheduler))
        sleep_once(scheduler);
    scheduler->is_woken = false;
    while (scheduler->incoming.first) {
        kvf_job *job = scheduler->incoming.first;
        list_remove(&scheduler->incoming, &scheduler->incoming.first);
        list_add(&scheduler->waiting, job);
    }
    const bool stopping = scheduler->stopping;
    pthread_mutex_unlock(&scheduler->mutex);
    return stopping;
}

/* Until all that is held is on the disk, or cannot be. */
static void save_all(kvf_scheduler *scheduler)
{
    for (kvf_disk_state state; (state = kvf_work_disk(&scheduler->work)) != KVF_DISK_IDLE;) {
        pthread_mutex_lock(&scheduler->mutex);
        while (state == KVF_DISK_WAITS && !scheduler->is_woken)
            pthread_cond_wait(&scheduler->wake, &scheduler->mutex);
        scheduler->is_woken = false;
        pthread_mutex_unlock(&scheduler->mutex);
    }
}

static void *run(void *user)
{
    kvf_scheduler *scheduler = user;
    kvf_work *work = &scheduler->work;
    for (;;) {
        const bool stopping = take_incoming(scheduler);
        end_waiting(scheduler, stopping);
        if (stopping)
            break;
        kvf_work_end_cancelled(work);
        begin_jobs(scheduler);
        if (!scheduler->is_blocked)
            work->waits_seconds = 0;
        if (work->running)
            kvf_work_step(work);
        kvf_work_hand(work);
        if (work->lost.status != KVF_OK && scheduler->lost.status == KVF_OK)
            end_lost(scheduler);
        publish(scheduler, !work->running);
    }
    while (work->running)
        kvf_work_end(work, work->running, KVF_JOB_SHUTDOWN, NULL);
    work->waits_seconds = 0; /* nobody waits for memory: the disk has all the time that it takes */
    save_all(scheduler);
    if (work->shelf) {
        kvf_disk_drain(work->shelf->writing); /* one that began before the last was added */
        save_replays(scheduler);
        kvf_disk_drain(work->shelf->writing);
        end_replays(scheduler);
    }
    publish(scheduler, true);
    return NULL;
}

/* ---- Open and close ----------------------------------------------------------------------- */

static void resolve(kvf_scheduler_options *options)
{
    if (options->parallel == 0)
        options->parallel = 16;
    if (options->queue == 0)
        options->queue = 64;
    if (!(options->queue_timeout_seconds > 0))
        options->queue_timeout_seconds = 60;
    if (options->max_tokens == 0)
        options->max_tokens = 32768;
    if (options->spacing_tokens == 0)
        options->spacing_tokens = 8192;
    if (options->replay_max_bytes == 0)
        options->replay_max_bytes = 64u << 20;
}

static kvf_status check_options(const kvf_engine *engine, const kvf_scheduler_options *options,
                                kvf_error *error)
{
    enum { MOST_PARALLEL = 1024 };
    if (options->parallel > MOST_PARALLEL)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "%u requests at once; 1 to %d are served",
                        options->parallel, MOST_PARALLEL);
    if (options->context_tokens == 0 ||
        options->context_tokens > engine->config.geometry.max_tokens)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "a context of %llu tokens; the model's maximum is %llu",
                        (unsigned long long)options->context_tokens,
                        (unsigned long long)engine->config.geometry.max_tokens);
    return KVF_OK;
}

/* A file that cannot be used is noted: what is in it is a help, no more. */
static kvf_status open_replays(kvf_scheduler *scheduler, kvf_error *error)
{
    kvf_error wrong;
    kvf_status status =
        kvf_session_path(scheduler->options.folder, "replays", "", &scheduler->replays_path, error);
    if (status == KVF_OK &&
        kvf_replays_load(scheduler->replays, scheduler->replays_path, &wrong) != KVF_OK) {
        kvf_engine_note(&scheduler->engine->events, true, "%s", wrong.message);
        free(scheduler->replays_path);
        scheduler->replays_path = NULL;
    }
    return status;
}

static kvf_status start(kvf_scheduler *scheduler, kvf_error *error)
{
    kvf_status status = check_options(scheduler->engine, &scheduler->options, error);
    if (status == KVF_OK)
        status = kvf_replays_open(scheduler->options.replay_max_bytes, &scheduler->replays, error);
    if (status == KVF_OK)
        status = kvf_work_open(scheduler->engine, &scheduler->options, wake, scheduler,
                               &scheduler->work, error);
    if (status != KVF_OK)
        return status;
    if (scheduler->options.folder)
        status = open_replays(scheduler, error);
    if (status != KVF_OK)
        return status;
    scheduler->slots = calloc(scheduler->options.parallel, sizeof *scheduler->slots);
    if (!scheduler->slots)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %u slots",
                        scheduler->options.parallel);
    publish(scheduler, true);
    if (pthread_create(&scheduler->thread, NULL, run, scheduler) != 0)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "the system refuses a thread for the engine");
    return KVF_OK;
}

static void free_scheduler(kvf_scheduler *scheduler)
{
    kvf_work_close(&scheduler->work);
    kvf_replays_close(scheduler->replays);
    free(scheduler->replays_path);
    free(scheduler->slots);
    pthread_cond_destroy(&scheduler->wake);
    pthread_mutex_destroy(&scheduler->mutex);
    free(scheduler);
}

kvf_status kvf_scheduler_open(kvf_engine *engine, const kvf_scheduler_options *options,
                              kvf_scheduler **out, kvf_error *error)
{
    kvf_scheduler *scheduler = calloc(1, sizeof *scheduler);
    *out = NULL;
    if (!scheduler)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the scheduler");
    scheduler->engine = engine;
    scheduler->options = *options;
    resolve(&scheduler->options);
    list_clear(&scheduler->incoming);
    list_clear(&scheduler->waiting);
    pthread_mutex_init(&scheduler->mutex, NULL); /* default attributes: neither can fail */
    pthread_cond_init(&scheduler->wake, NULL);
    const kvf_status status = start(scheduler, error);
    if (status != KVF_OK) {
        free_scheduler(scheduler);
        return status;
    }
    *out = scheduler;
    return kvf_ok(error);
}

void kvf_scheduler_stop(kvf_scheduler *scheduler)
{
    pthread_mutex_lock(&scheduler->mutex);
    scheduler->stopping = true;
    pthread_cond_signal(&scheduler->wake);
    pthread_mutex_unlock(&scheduler->mutex);
}

void kvf_scheduler_close(kvf_scheduler *scheduler)
{
    if (!scheduler)
        return;
    kvf_scheduler_stop(scheduler);
    pthread_join(scheduler->thread, NULL);
    free_scheduler(scheduler);
}

bool kvf_scheduler_is_lost(kvf_scheduler *scheduler, kvf_error *why)
{
    pthread_mutex_lock(&scheduler->mutex);
    *why = scheduler->lost;
    pthread_mutex_unlock(&scheduler->mutex);
    return why->status != KVF_OK;
}

kvf_replays *kvf_scheduler_replays(kvf_scheduler *scheduler)
{
    return scheduler->replays;
}

/* ---- What is going on --------------------------------------------------------------------- */

void kvf_scheduler_read_report(kvf_scheduler *scheduler, kvf_scheduler_report *report)
{
    pthread_mutex_lock(&scheduler->mutex);
    *report = scheduler->report;
    report->n_queued = scheduler->n_waiting;
    report->n_refused = scheduler->n_refused;
    pthread_mutex_unlock(&scheduler->mutex);
}

uint32_t kvf_scheduler_slots(kvf_scheduler *scheduler, kvf_slot *slots, uint32_t capacity)
{
    pthread_mutex_lock(&scheduler->mutex);
    const uint32_t n = scheduler->n_slots;
    for (uint32_t i = 0; i < n && i < capacity; i++)
        slots[i] = scheduler->slots[i];
    pthread_mutex_unlock(&scheduler->mutex);
    return n;
}
