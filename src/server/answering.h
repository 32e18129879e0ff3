/*
 * One answer on its way: a job's tokens become text, and that what the API of its request says.
 * docs/SERVER.md. Internal.
 */
#ifndef KVF_SERVER_ANSWERING_H
#define KVF_SERVER_ANSWERING_H

#include "server/ask.h"
#include "server/http.h"

#include <pthread.h>

/* A token with its logprob, where these are asked for. */
typedef struct kvf_scored {
    int32_t id;
    float logprob;
    size_t first_top;    /* of n_top in the choice's tops */
    size_t end_bytes;    /* of the answer's, with it */
    size_t at_character; /* of the content, before it */
} kvf_scored;

typedef struct kvf_choice {
    kvf_answer_stream *stream;
    kvf_ids sampled;
    bool is_reasoning;
    uint64_t n_reasoning; /* tokens */
    uint64_t n_answered;
    kvf_buffer reasoning; /* all of it, .. */
    kvf_buffer content;
    size_t reasoning_given; /* .. and bytes that are in pieces already */
    size_t content_given;
    kvf_scored *scored; /* [n_scored] tokens of the content */
    size_t n_scored, scored_capacity;
    kvf_logprob *tops;
    size_t n_tops, tops_capacity;
    size_t scored_given; /* tokens that are in pieces already */
    size_t n_characters;
    bool failed; /* no memory */
    bool is_ended;
    kvf_job_end end;
    /* Of Anthropic's stream: the block that is open; 0: none. */
    int open_block;
    unsigned n_blocks;
    bool has_role; /* of OpenAI's: the first piece of a choice has it */
} kvf_choice;

typedef struct kvf_answering kvf_answering;

/* What an API makes of it. All append to `out`. */
typedef struct kvf_form {
    kvf_api api;
    const char *id_prefix;
    void (*ping)(const kvf_answering *a, kvf_buffer *out);
    /* Of a stream: before its first piece; new text of a choice; its end; the stream's end. */
    void (*begin)(const kvf_answering *a, kvf_buffer *out);
    void (*text)(const kvf_answering *a, kvf_choice *choice, bool is_reasoning, kvf_span text,
                 kvf_buffer *out);
    void (*end_choice)(const kvf_answering *a, kvf_choice *choice, kvf_buffer *out);
    void (*end)(const kvf_answering *a, kvf_buffer *out);
    void (*whole)(const kvf_answering *a, kvf_buffer *out);
} kvf_form;
extern const kvf_form kvf_form_chat, kvf_form_completion, kvf_form_messages;

/* Of the whole server, what an answer needs. */
typedef struct kvf_answering_host {
    const kvf_served *served;
    kvf_scheduler *scheduler;
    void *user;
    /* All choices have ended: kvf_answering_close is to be called, by another thread. */
    void (*done)(void *user, kvf_answering *answering);
} kvf_answering_host;

struct kvf_answering {
    const kvf_answering_host *host;
    kvf_exchange *exchange;
    kvf_ask ask;
    const kvf_form *form;
    char id[48];
    char request_id[40];
    char *model; /* as it is called in the answer */
    int64_t created;
    kvf_choice *choices; /* [ask.n_choices] */
    uint32_t n_ended;
    bool has_begun; /* the job left the queue */
    uint64_t n_cached;
    kvf_buffer out; /* pieces that are being made */
    kvf_refusal refusal;
    kvf_job_usage usage; /* of the last choice */
    pthread_mutex_t job_lock;
    kvf_job *job;        /* NULL: not known yet */
    bool is_gone;        /* its reader */
    kvf_answering *next; /* in the host's list */
};

/*
 * Begins to answer what is asked; takes *ask over in any case. `name` is the model where the
 * request calls it nothing; request_id of Anthropic's errors; key: of whose turn it is. False:
 * *refusal says why not, and nothing is kept.
 */
bool kvf_answering_open(const kvf_answering_host *host, kvf_exchange *exchange,
                        const kvf_form *form, kvf_ask *ask, const char *name,
                        const char *request_id, uint64_t key, kvf_refusal *refusal);
/* Frees all of it. */
void kvf_answering_close(kvf_answering *answering);

/* What forms share: "stop", "length"; a number of characters that JSON has for a float. */
uint64_t kvf_answering_answered(const kvf_answering *answering);
uint64_t kvf_answering_reasoned(const kvf_answering *answering);
void kvf_buffer_add_logprob(kvf_buffer *out, float logprob);
/* The text of a token in quotes, U+FFFD where it is the middle of a character. */
void kvf_buffer_add_token(kvf_buffer *out, const kvf_served *served, int32_t id);
size_t kvf_choice_index(const kvf_answering *answering, const kvf_choice *choice);

#endif
