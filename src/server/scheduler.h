/*
 * Requests for ids, between the connections' threads and the one thread that owns the device.
 * docs/SCHEDULER.md. Internal.
 *
 * A connection submits a job (prompt ids, how to draw, what it may cost); the engine's thread
 * gives it token after token and its end through callbacks. What the ids mean (text, reasoning,
 * calls, stop texts) is the caller's: `take` says when an answer is over.
 */
#ifndef KVF_SERVER_SCHEDULER_H
#define KVF_SERVER_SCHEDULER_H

#include "engine/engine.h"
#include "engine/generate.h"
#include "model/sample.h"

typedef struct kvf_scheduler kvf_scheduler;
typedef struct kvf_job kvf_job;

/* ---- A job -------------------------------------------------------------------------------- */

/* How tokens are drawn; every field is resolved, none is "as the checkpoint says". */
typedef struct kvf_draw {
    float temperature;                                         /* 0: greedy */
    float top_p;                                               /* 1: off */
    float min_p;                                               /* 0: off */
    uint32_t top_k;                                            /* 0: off */
    float repeat_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0: off */
    uint64_t seed;
    const kvf_bias *bias; /* [n_bias] {id, value}; copied by submit */
    uint32_t n_bias;
    uint32_t n_top; /* top_logprobs that each token brings, at most KVF_MAX_TOP_LOGPROBS; 0: none */
    bool logprobs;  /* the token's own */
} kvf_draw;

/*
 * Logprobs are those of the model: before temperature, bias and penalties, and not of what top_p
 * and the others leave.
 */
typedef struct kvf_drawn {
    int32_t id;
    float logprob;          /* where asked for, else 0 */
    const kvf_logprob *top; /* [n_top] {id, logprob}, the likeliest first, for the call */
} kvf_drawn;

typedef enum kvf_job_end {
    KVF_JOB_EOS,        /* an end of sentence (it is given to nobody), or KVF_TAKEN_AS_END */
    KVF_JOB_MAX_TOKENS, /* the job's max_tokens are answered */
    KVF_JOB_CONTEXT_FULL,
    KVF_JOB_STOP,      /* KVF_TAKEN_AS_STOP */
    KVF_JOB_CANCELLED, /* kvf_job_cancel, or KVF_TAKEN_BY_NOBODY */
    KVF_JOB_TIMED_OUT, /* it waited for as long as queue_timeout_seconds and never began (429) */
    KVF_JOB_FAILED,    /* *error says why */
    KVF_JOB_SHUTDOWN
} kvf_job_end;

typedef struct kvf_job_usage {
    uint64_t n_prompt;
    uint64_t n_cached;   /* of these, not read again; the same for each choice */
    uint64_t n_answered; /* by this choice */
    double queued_seconds, prefill_seconds, decode_seconds;
} kvf_job_usage;

typedef struct kvf_job_options {
    const int32_t *prompt; /* [n_prompt] of the vocabulary, copied; at least one */
    size_t n_prompt;
    /*
     * The prompt's last place where another request may part from it: a checkpoint is kept at the
     * last multiple of 128 at or before it. n_prompt where there is none that is better.
     */
    size_t turn_at;
    uint64_t max_tokens; /* answered at most, 1 or more; 0: what the server's limits say */
    kvf_draw draw;
    uint32_t n_choices; /* forks of one prompt, choice i is drawn with seed + i; 0: 1 */
    uint64_t key;       /* fairness: requests of one key share its turn */
    /*
     * All on the scheduler's thread, quick, never blocking, and never calling the scheduler but for
     * kvf_job_cancel. They may come before submit has returned.
     */
    /*
     * When the job leaves the queue, with what is held of its prompt already as n_read, and then
     * after each piece; the last with n_read = n_prompt. May be NULL.
     */
    void (*progress)(void *user, uint64_t n_read, uint64_t n_prompt);
    /* A token, before it counts: one that ends the answer is not part of it. */
    kvf_taken (*take)(void *user, uint32_t choice, const kvf_drawn *drawn);
    /*
     * Once a choice, on any end, also where the job never left the queue; nothing is called for
     * that choice after it. error is NULL but for KVF_JOB_FAILED. *usage is for the call.
     */
    void (*end)(void *user, uint32_t choice, kvf_job_end end, const kvf_job_usage *usage,
                const kvf_error *error);
    void *user; /* outlives the last end */
} kvf_job_options;

enum { KVF_MAX_CHOICES = 64, KVF_MAX_TOP_LOGPROBS = 20 };

typedef enum kvf_submitted {
    KVF_SUBMITTED,
    KVF_SUBMIT_INVALID,   /* ids outside the vocabulary, numbers out of range (400) */
    KVF_SUBMIT_TOO_LARGE, /* never fits: prompt + max_tokens against context or memory (400) */
    KVF_SUBMIT_BUSY,      /* the queue is full (429) */
    KVF_SUBMIT_STOPPING,  /* 503; also once the device was lost */
    KVF_SUBMIT_NO_MEMORY  /* for the job's own copy of it (503) */
} kvf_submitted;

/*
 * Thread-safe. On KVF_SUBMITTED *job is valid until kvf_job_release and `end` comes n_choices
 * times; else no callback ever comes, *job is NULL and *error says why.
 */
kvf_submitted kvf_scheduler_submit(kvf_scheduler *scheduler, const kvf_job_options *options,
                                   kvf_job **job, kvf_error *error);
/* Thread-safe: ends as soon as the running step is over. What was read stays as a prefix. */
void kvf_job_cancel(kvf_job *job);
/*
 * Thread-safe; the caller's pointer is not used again. A job that has not ended goes on, and its
 * callbacks come: cancel it first where nobody wants it. Before kvf_scheduler_close or after.
 */
void kvf_job_release(kvf_job *job);

/* ---- The scheduler ------------------------------------------------------------------------ */

/* 0 where a field has a default; kvf_scheduler_open resolves it. */
typedef struct kvf_scheduler_options {
    kvf_profile_id profile;
    uint64_t context_tokens;      /* of each session; the engine was loaded for it */
    uint32_t parallel;            /* choices that run at once; 0: 16 */
    uint32_t queue;               /* jobs that wait at most; 0: 64 */
    double queue_timeout_seconds; /* 0: 60 */
    uint64_t max_tokens;          /* answered by a job that does not say; 0: 32,768 */
    uint64_t memory_bytes;        /* of all sessions, running and held; 0: what the system leaves */
    uint64_t spacing_tokens;      /* from one checkpoint to the next; 0: 8,192 */
    const char *folder;        /* sessions are kept here between two runs; NULL: in memory only */
    uint64_t folder_max_bytes; /* of all files in it; 0: no limit */
    bool no_lock;              /* go on where the folder cannot lock files */
    uint64_t replay_max_bytes; /* of the map of sampled ids; 0: 64 MB */
} kvf_scheduler_options;

/*
 * Starts the thread. The engine is loaded for context_tokens (kvf_engine_load) and belongs to the
 * scheduler until kvf_scheduler_close; reading engine->config, ->tokenizer and ->options meanwhile
 * is fine, engine->encoder is nobody's. options and the engine's options are copied or outlive it.
 * Notes come through the engine's events, from the scheduler's thread.
 *   KVF_OUT_OF_MEMORY, KVF_INVALID_ARGUMENT, and the errors of kvf_store_open for the folder.
 */
kvf_status kvf_scheduler_open(kvf_engine *engine, const kvf_scheduler_options *options,
                              kvf_scheduler **scheduler, kvf_error *error);
/*
 * Thread-safe, returns at once: from now on submit says KVF_SUBMIT_STOPPING, and what runs or waits
 * ends with KVF_JOB_SHUTDOWN when the running step is over.
 */
void kvf_scheduler_stop(kvf_scheduler *scheduler);
/*
 * Stops, waits for the thread, which saves what is held where there is a folder, and frees all but
 * jobs that are not released yet. NULL is fine.
 */
void kvf_scheduler_close(kvf_scheduler *scheduler);

/*
 * Whether the device, or the weights, were lost, and how. All that ran and waited has ended with
 * KVF_JOB_FAILED then, and nothing is accepted any more; what is on the disk is there for the next
 * start. Thread-safe.
 */
bool kvf_scheduler_is_lost(kvf_scheduler *scheduler, kvf_error *why);

/* What the model sampled, by what it reads as (replay.h). Thread-safe; lives as long as this. */
struct kvf_replays;
struct kvf_replays *kvf_scheduler_replays(kvf_scheduler *scheduler);

/* ---- What is going on --------------------------------------------------------------------- */

typedef struct kvf_scheduler_report {
    uint32_t parallel, queue;     /* resolved */
    uint32_t n_running;           /* choices */
    uint32_t n_queued;            /* jobs */
    uint32_t n_restoring;         /* of these, that wait for what a file has of their prompt */
    uint32_t n_held;              /* sessions that are held, and nobody runs */
    uint64_t held_tokens;         /* in them; a beginning that two share counts twice */
    uint64_t memory_bytes;        /* that sessions may take, resolved */
    uint64_t live_bytes;          /* that sessions have now; pages that several hold count once */
    uint64_t most_bytes;          /* that they ever had after a step */
    uint64_t stored_files;        /* in the folder */
    uint64_t stored_tokens;       /* in files that are on the disk, to be taken up after any end */
    uint64_t stored_bytes;        /* of these files */
    double step_seconds;          /* median of the last second, of steps without a prompt's piece */
    double longest_pause_seconds; /* between two tokens of one answer, since the start */
    /* Since the start: */
    uint64_t n_jobs, n_refused, n_timed_out, n_failed, n_cancelled;
    uint64_t n_steps;
    uint64_t prompt_tokens; /* of all jobs that began .. */
    uint64_t cached_tokens; /* .. of these, not read again */
    uint64_t read_tokens;   /* .. and read, with those between a checkpoint and a shared end */
    uint64_t answered_tokens;
    uint64_t n_evicted;  /* held sessions that left the memory .. */
    uint64_t n_dropped;  /* .. of these, that could not be kept on the disk */
    double busy_seconds; /* in steps */
} kvf_scheduler_report;
/* Thread-safe; the state after some recent step. */
void kvf_scheduler_read_report(kvf_scheduler *scheduler, kvf_scheduler_report *report);

typedef struct kvf_slot {
    uint64_t job; /* counted from 1 */
    uint32_t choice;
    bool is_reading; /* its prompt; else it answers */
    uint64_t n_prompt, n_cached, n_read, n_answered, max_tokens;
    double seconds; /* since it left the queue */
} kvf_slot;
/* Thread-safe: writes at most `capacity` of what runs, returns how many there are. */
uint32_t kvf_scheduler_slots(kvf_scheduler *scheduler, kvf_slot *slots, uint32_t capacity);

#endif
