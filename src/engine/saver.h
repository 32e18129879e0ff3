/*
 * What `run` takes from files and puts into them: a session with a name, which is resumed
 * and saved back, or a store of prefixes, in which a prompt finds what it begins with.
 */
#ifndef KVF_ENGINE_SAVER_H
#define KVF_ENGINE_SAVER_H

#include "engine/engine.h"
#include "engine/session_files.h"
#include "model/sample.h"

/* A prompt that is not all there, as Ctrl-C left it. */
typedef struct kvf_unfinished {
    bool there;
    uint64_t from; /* tokens before it */
} kvf_unfinished;

typedef struct kvf_saver {
    const kvf_engine_options *options;
    kvf_engine_events events;
    char *folder;

    /* A named session. */
    char *path; /* NULL: there is none */
    kvf_session_lock lock;
    bool exists; /* it was saved before; info is what its file says */
    kvf_snapshot_info info;
    int32_t pending; /* of the file: shown, and still to be appended; -1: none */
    kvf_unfinished unfinished;
    double saved_seconds;   /* when it was saved last, by kvf_seconds() */
    kvf_save_report report; /* of the last save */
    uint64_t saved_tokens;  /* in the file, with a pending one */
    bool saved;             /* there was one */
    bool failed;            /* the last one did, and said so */

    /* A store. */
    kvf_store *store;         /* NULL: there is none */
    uint64_t branch_tokens;   /* where the text leaves a stored one; 0: nowhere */
    uint64_t stored_tokens;   /* of the state that was found or stored last */
    bool too_small;           /* --store-max, for any state */
    bool said_waiting;        /* that another process writes to the store */
    kvf_store_put_report put; /* of the last that was stored, .. */
    uint64_t put_tokens;
    kvf_store_put_report refused; /* .. and of the last that found no room */
    uint64_t refused_tokens;
} kvf_saver;

/* Nothing is thread-safe. */

/*
 * Finds and locks the named session, if the options name one, and takes its profile and
 * grid into *options where none were given. Opens the store otherwise. The options and what they
 * point to live as long as the saver.
 */
kvf_status kvf_saver_open(kvf_engine_options *options, const kvf_engine_events *events,
                          kvf_saver *saver, kvf_error *error);
void kvf_saver_close(kvf_saver *saver);

/* A token of the session in a file that was shown and is not in it; -1: none. */
int32_t kvf_saver_pending(const kvf_snapshot_info *info);
/* Tokens of its text, with that one. */
uint64_t kvf_saver_n_tokens(const kvf_snapshot_info *info);
/* Tokens of the text so far, with those of a prompt that was interrupted. */
uint64_t kvf_saver_held_tokens(const kvf_saver *saver);
/* Whether the next prompt is the first of the text, and so begins with BOS. */
bool kvf_saver_at_start(const kvf_saver *saver);
/*
 * The leading tokens of the prompt that the named session holds already, because it was
 * interrupted while it read the same prompt; 0 where it was not.
 */
kvf_status kvf_saver_skip(kvf_saver *saver, const int32_t *tokens, uint64_t n_tokens,
                          uint64_t *n_held, kvf_error *error);

/*
 * The session to go on with: the named one, or the longest prefix of the prompt. *session
 * is NULL where there is none. A named one's sampler goes to *sampler, but for what the
 * options set, and a token that was shown and is not in it to *pending.
 */
kvf_status kvf_saver_restore(kvf_saver *saver, kvf_engine *engine, uint64_t context_tokens,
                             const int32_t *tokens, uint64_t n_tokens, kvf_session **session,
                             kvf_sampler *sampler, int32_t *pending, kvf_error *error);

/* The most tokens to append next, of a text that will be n_tokens long: stops at a branch. */
uint64_t kvf_saver_limit(const kvf_saver *saver, uint64_t held_tokens, uint64_t n_tokens);
/* A prompt begins, after so many tokens; it is all there. */
void kvf_saver_begin_prompt(kvf_saver *saver, const kvf_session *session);
void kvf_saver_end_prompt(kvf_saver *saver);
/*
 * Between chunks and tokens: saves a named session where save_every_seconds have passed, and
 * stores a state where other prompts may branch. What fails is noted; a later save may do.
 */
void kvf_saver_tick(kvf_saver *saver, kvf_engine *engine, kvf_session *session,
                    const kvf_sampler *sampler);
/*
 * Saves a named session and the token that was shown and is not in it (-1: none), or stores
 * what is longer than what is stored (a failure of that is noted, and none).
 */
kvf_status kvf_saver_save(kvf_saver *saver, kvf_engine *engine, kvf_session *session,
                          const kvf_sampler *sampler, int32_t pending, kvf_error *error);

#endif
