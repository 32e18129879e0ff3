/* A job and its choices, as the scheduler's thread sees them. Internal to server/. */
#ifndef KVF_SERVER_JOB_H
#define KVF_SERVER_JOB_H

#include <stdatomic.h>

#include "server/prefixes.h"
#include "server/scheduler.h"

typedef struct kvf_choice {
    kvf_held *held;  /* its session; NULL before it has one, and after its end */
    bool is_open;    /* its end has not been told */
    bool has_begun;  /* its session has appended a chunk */
    int32_t pending; /* answered, and not in the session yet; -1: none */
    uint64_t n_answered;
    double told_seconds; /* when its last token was given; 0: none was */
    kvf_sampler sampler;
    kvf_sampling sampling; /* of its session's logits; what changes them */
    /* [vocab] each, where its draw has penalties, else NULL. */
    kvf_token_use *uses; /* tokens that were used, in their order */
    uint32_t *use_of;    /* a token's place in `uses`, from 1; 0: it was not */
} kvf_choice;

enum { KVF_JOB_PLACES = 3 };

struct kvf_job {
    atomic_uint n_references; /* the caller's and the scheduler's */
    atomic_bool is_cancelled;
    kvf_job_options options; /* prompt and bias are its own */
    /* All that follows is the scheduler's thread's alone, once it is submitted. */
    kvf_job *next; /* in a list */
    uint64_t number;
    uint64_t max_tokens;
    uint64_t n_cached;               /* of the prompt, held as it began */
    uint64_t n_read;                 /* of the prompt, in its session */
    uint64_t places[KVF_JOB_PLACES]; /* tokens at which a checkpoint is wanted, or 0 */
    /* Another one reads the same up to there: its checkpoint is waited for. 0: none is. */
    uint64_t awaited_job; /* its number */
    uint64_t awaited_tokens;
    /* What a file has of its prompt is restored: until that many restores have ended. */
    uint64_t awaited_restores;
    bool was_restored; /* once is enough */
    double submitted_seconds;
    double began_seconds;
    double answering_seconds; /* since when; 0: it reads */
    uint64_t last_turn;       /* of reading */
    uint32_t n_open;
    kvf_choice choices[]; /* [options.n_choices] */
};

/* A copy of the options with two references. NULL: no memory. n_choices is not 0. */
kvf_job *kvf_job_new(const kvf_job_options *options, uint32_t vocab);
/* Why a job of these options cannot be served whatever is free, as KVF_INVALID_ARGUMENT. */
kvf_status kvf_job_check(const kvf_job_options *options, uint32_t vocab, uint32_t parallel,
                         kvf_error *error);

/*
 * The next token of a choice from its session's logits. top has room for the draw's n_top. Fails
 * where the device was lost.
 */
kvf_status kvf_choice_draw(kvf_job *job, kvf_choice *choice, const kvf_drawing *drawing,
                           kvf_drawn *drawn, kvf_logprob *top, kvf_error *error);
/* The token was taken: it is part of the answer, and pending. */
void kvf_choice_take(kvf_job *job, kvf_choice *choice, int32_t id);
/* Tells the end of a choice, and lets go of all that it had but its session. */
void kvf_choice_end(kvf_job *job, kvf_choice *choice, kvf_job_end end, double now_seconds,
                    const kvf_error *error);

#endif
