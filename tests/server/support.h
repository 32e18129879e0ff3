/* A scheduler on the tiny model, jobs that collect what they are told, and the same without it. */
#ifndef TESTS_SERVER_SUPPORT_H
#define TESTS_SERVER_SUPPORT_H

#include <pthread.h>

#include "server/scheduler.h"

/* Of prompts and answers, where a sanitizer makes the model a hundred times slower. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { SHORTER = 10 };
#else
enum { SHORTER = 1 };
#endif

typedef struct served {
    kvf_engine_options options;
    kvf_engine engine;
    kvf_scheduler *scheduler;
} served;
/* Zero fields of options are the defaults, but for the context: 4,096 tokens. */
void serve(served *server, const kvf_scheduler_options *options);
void serve_end(served *server);

/* Ids that depend on the seed alone, of the vocabulary's plain tokens. */
void make_prompt(int32_t *ids, size_t n, uint64_t seed);

enum { MOST_ANSWERED = 512, MOST_CHOICES = 8 };

/* One job, and all that was told of it. */
typedef struct asked {
    kvf_job *job;
    kvf_submitted submitted;
    kvf_error error;
    pthread_mutex_t mutex;
    pthread_cond_t told;
    uint32_t n_choices;
    uint32_t n_ended;
    bool has_begun;
    uint64_t n_read;
    struct {
        int32_t ids[MOST_ANSWERED];
        float logprobs[MOST_ANSWERED];
        kvf_logprob tops[MOST_ANSWERED]; /* the likeliest, where asked for; else id -1 */
        uint32_t n;
        uint32_t n_ends; /* must be 1 in the end */
        kvf_job_end end;
        kvf_job_usage usage;
        kvf_error error;
    } choices[MOST_CHOICES];
    /* What becomes of the token at this place; 0: nothing special ever. */
    uint32_t stop_at;
    kvf_taken stop_as;
    double slow_seconds; /* that each token takes */
} asked;

kvf_draw greedy(void);
kvf_draw sampled(uint64_t seed);
/* Submits; zero fields of options are filled in. It has its own settings already, or is 0.
 */
void ask(served *server, asked *one, const int32_t *prompt, size_t n, kvf_job_options options);
/* Waits for the ends of all choices, 60 s at most, and releases the job. */
void wait_for(asked *one);
/* Waits until that many tokens were given to choice 0; for the job to leave the queue: 0. */
void wait_for_tokens(asked *one, uint32_t n);

/* The ids of a run of its own: one session, one thread of text. Returns their number. */
uint32_t answer_alone(const int32_t *prompt, size_t n, const kvf_draw *draw, uint32_t most,
                      int32_t *ids);
/* Asserts that choice i answered what answer_alone does with seed + i. */
void assert_as_alone(const asked *one, uint32_t choice, const int32_t *prompt, size_t n,
                     kvf_draw draw, uint32_t most);

/* Asks into *one, which it clears, waits, and asserts that it answered as alone. */
void ask_as_alone(served *server, asked *one, const int32_t *prompt, size_t n, kvf_draw draw,
                  uint32_t most);
/* Tokens of its prompt that were read. */
uint64_t read_again(const asked *one);
/* Appends to text[n] the answer and a next turn of n_turn tokens; the new length. */
size_t append_turn(int32_t *text, size_t n, const asked *one, size_t n_turn, uint64_t seed);
/* The scheduler's, as it is now. */
kvf_scheduler_report report_of(served *server);

#endif
