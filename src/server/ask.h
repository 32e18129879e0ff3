/*
 * What a request asks for: its JSON as a prompt's ids and how to answer them, the same for all
 * APIs. docs/SERVER.md. Internal.
 */
#ifndef KVF_SERVER_ASK_H
#define KVF_SERVER_ASK_H

#include "engine/conversation.h"
#include "server/fields.h"
#include "server/scheduler.h"

struct kvf_replays;

/* What is served; the same for all requests. One thread's, for its encoder. */
typedef struct kvf_served {
    const kvf_conversation *conversation; /* also of a checkpoint without a chat format */
    struct kvf_replays *replays;          /* NULL: ids are those of the text */
    kvf_draw draw;                        /* where a request does not say; its seed is nobody's */
    bool thinking;                        /* where it does not say that */
    kvf_release release;
    int32_t bos;        /* before a plain text; -1: none */
    uint32_t n_ids;     /* of the vocabulary */
    uint64_t context;   /* tokens */
    uint32_t n_choices; /* that run at once at the most */
} kvf_served;

typedef enum kvf_ask_kind {
    KVF_ASK_CHAT,       /* OpenAI's /v1/chat/completions */
    KVF_ASK_COMPLETION, /* and /v1/completions */
    KVF_ASK_MESSAGES,   /* Anthropic's /v1/messages */
    KVF_ASK_COUNT,      /* and /v1/messages/count_tokens: the prompt alone counts */
    KVF_ASK_TOKENIZE    /* of messages as /v1/chat/completions has them */
} kvf_ask_kind;

enum { KVF_MAX_STOPS = 16, KVF_MAX_STOP_BYTES = 1024 };

typedef struct kvf_ask {
    kvf_ask_kind kind;
    kvf_tree tree;
    kvf_arena arena;
    kvf_span model; /* as the request has it; of no bytes where it does not say */
    bool streams;
    bool includes_usage; /* a stream's last piece */
    bool shows_thinking; /* the reasoning is given out */
    kvf_conversation_settings settings;
    bool wants_thinking;   /* the request says so, or nobody says otherwise */
    char effort_field[48]; /* that says how long it thinks; "" where none does */
    kvf_ids prompt;
    size_t turn_at;      /* kvf_job_options */
    size_t answer_at;    /* ids up to and with the marker of the answer's role; 0: no chat */
    uint64_t max_tokens; /* 0: not said */
    uint32_t n_choices;
    kvf_draw draw;                    /* its bias is the arena's */
    const char *stops[KVF_MAX_STOPS]; /* [n_stops] the arena's */
    size_t n_stops;
} kvf_ask;

/*
 * Reads the body of a request. False: *refusal says why not. *ask is to be freed in both cases. Not
 * thread-safe.
 */
bool kvf_ask_read(const kvf_served *served, kvf_ask_kind kind, kvf_span body, kvf_ask *ask,
                  kvf_refusal *refusal);
void kvf_ask_free(kvf_ask *ask);

/* ---- Parts, by those that read one API ---------------------------------------------------- */

/* ask_chat.c, ask_messages.c: the fields of each, and the prompt. */
bool kvf_ask_read_chat(const kvf_served *served, const kvf_fields *fields, kvf_ask *ask);
bool kvf_ask_read_completion(const kvf_served *served, const kvf_fields *fields, kvf_ask *ask);
bool kvf_ask_read_messages(const kvf_served *served, const kvf_fields *fields, kvf_ask *ask);

/* A field that would change the answer, and what it may say because that changes nothing. */
typedef struct kvf_refused_field {
    const char *key;
    const char *harmless; /* JSON as kvf_json_write writes it, alternatives with '|' between; "" */
} kvf_refused_field;
/* Refuses those that say anything else; what Python takes for false is harmless, too. */
bool kvf_ask_refuse_fields(const kvf_fields *fields, const kvf_refused_field *refused, size_t n);

/* Adds a text that ends the answer; `param` is what it is called. */
bool kvf_ask_add_stop(kvf_ask *ask, kvf_span stop, const char *param, kvf_refusal *refusal);
/* "low" and so on: whether, and how long, it thinks. */
bool kvf_ask_take_effort(kvf_ask *ask, const kvf_fields *fields, const char *key);

/*
 * Decides the settings of a conversation from what was read. An effort that is less than the
 * checkpoint has a text for is none: it reasons as it does by itself.
 */
bool kvf_ask_settle(const kvf_served *served, kvf_ask *ask, kvf_refusal *refusal);

/* ask_prompt.c: messages as ids, with those that were sampled where they still stand. */
bool kvf_ask_render(const kvf_served *served, kvf_ask *ask, const kvf_message *messages, size_t n,
                    kvf_refusal *refusal);

#endif
