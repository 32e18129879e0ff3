/*
 * One text that goes on: prompt tokens through a session, then token after token. docs/ENGINE.md.
 * Internal.
 */
#ifndef KVF_ENGINE_GENERATE_H
#define KVF_ENGINE_GENERATE_H

#include "engine/engine.h"
#include "engine/saver.h"
#include "model/sample.h"

typedef enum kvf_ending {
    KVF_ENDED_EOS,
    KVF_ENDED_MAX_TOKENS,
    KVF_ENDED_CONTEXT_FULL,
    KVF_ENDED_STOP, /* by a text that ends it */
    KVF_ENDED_INTERRUPTED
} kvf_ending;

typedef struct kvf_generator {
    kvf_engine *engine;
    kvf_saver *saver; /* not owned */
    kvf_batch *batch; /* of one */
    kvf_session *session;
    uint64_t context_tokens;
    kvf_sampler sampler;
    kvf_sampling sampling; /* of the session's logits, where the last pass left them as they are */
    kvf_drawing drawing;   /* without logits of its own: nothing changes them */
    /*
     * Shown, and so part of the text, but not in the session yet; -1: none. It is appended
     * before anything else is, or saved beside the session where that cannot be done.
     */
    int32_t pending;
    bool pending_failed; /* that was tried, and an error returned */
} kvf_generator;

/* A state to come back to; it shares the pages of what goes on from it. */
typedef struct kvf_kept {
    kvf_session *session; /* NULL: there is none */
    int32_t pending;
    kvf_unfinished unfinished;
} kvf_kept;

/* How a prompt was read, and answered. */
typedef struct kvf_generation {
    uint64_t n_prompt_tokens; /* that went into the session */
    uint64_t n_tokens;        /* answered */
    int32_t *tokens;          /* [n_tokens] where no sink took them, malloc'd; else NULL */
    double prefill_seconds;
    double decode_seconds; /* of all answered tokens but the first, which prefill gave */
    kvf_ending ending;
} kvf_generation;

/* Nothing is thread-safe: a generator is its engine's thread's. */

/* Restores what the saver finds for the prompt; an empty session where that is nothing. */
kvf_status kvf_generator_open(kvf_engine *engine, kvf_saver *saver, uint64_t context_tokens,
                              const int32_t *tokens, uint64_t n_tokens, kvf_generator *generator,
                              kvf_error *error);
void kvf_generator_close(kvf_generator *generator);
/* Forgets everything that was said. */
void kvf_generator_reset(kvf_generator *generator);
/* Keeps the state as it is now. Without memory for that, kept->session is NULL, which is noted. */
void kvf_generator_keep(kvf_generator *generator, kvf_kept *kept);
/* Takes the kept state, which is empty then. The sampler's random numbers go on. */
void kvf_generator_take_back(kvf_generator *generator, kvf_kept *kept);
void kvf_kept_free(kvf_kept *kept);
/* What is held or shown already, and so comes before the next prompt. */
uint64_t kvf_generator_n_tokens(const kvf_generator *generator);
/* Saves the session, with the token that was answered last in it. */
kvf_status kvf_generator_save(kvf_generator *generator, kvf_error *error);
/* The same after an error: what came since the last save, if anything did. */
kvf_status kvf_generator_save_rest(kvf_generator *generator, kvf_error *error);

/*
 * Appends the tokens, which must fit the context, and begins *generation. It has ended already
 * where the engine was stopped before all of them were read: n_prompt_tokens says how many were.
 */
kvf_status kvf_generator_read(kvf_generator *generator, const int32_t *tokens, uint64_t n_tokens,
                              kvf_generation *generation, kvf_error *error);

/* What becomes of an answered token. */
typedef enum kvf_taken {
    KVF_TAKEN,           /* it was shown, and is part of the text */
    KVF_TAKEN_BY_NOBODY, /* it could not be shown: the answer ends as one that was interrupted */
    KVF_TAKEN_AS_END,    /* the answer ends before it, as the model means it */
    KVF_TAKEN_AS_STOP    /* the same, as the caller means it */
} kvf_taken;

/* Takes a token before it counts. The session holds all that came before it. */
typedef struct kvf_token_sink {
    kvf_taken (*take)(void *user, int32_t token);
    void *user;
    bool saves_between; /* the saver may save, between two tokens, what was taken */
} kvf_token_sink;

/*
 * Answers what was read with up to max_tokens tokens, and no more than the context holds. Without
 * a sink they are kept in generation->tokens (free them), and nothing is saved before the end.
 * The model's end of text is given to nobody and not held: what comes next stands in its place.
 */
kvf_status kvf_generator_answer(kvf_generator *generator, const kvf_token_sink *sink,
                                kvf_generation *generation, kvf_error *error);

/* Appends tokens that were shown already, in place of others; they fit the context. */
kvf_status kvf_generator_append(kvf_generator *generator, const int32_t *tokens, uint64_t n_tokens,
                                kvf_error *error);
/*
 * Goes back to the first n_tokens of those held or shown. KVF_NOT_COVERED, and nothing changed,
 * where the session cannot: kvf_generator_reset always can, and they are read again.
 */
kvf_status kvf_generator_rewind(kvf_generator *generator, uint64_t n_tokens, kvf_error *error);
/* Appends the ids of all that is held or shown. KVF_OUT_OF_MEMORY. */
kvf_status kvf_generator_ids(const kvf_generator *generator, kvf_ids *ids, kvf_error *error);

#endif
