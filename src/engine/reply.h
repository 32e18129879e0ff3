/* An answer as reasoning, content and calls, out of a session's tokens. Internal. */
#ifndef KVF_ENGINE_REPLY_H
#define KVF_ENGINE_REPLY_H

#include "engine/conversation.h"
#include "engine/generate.h"

typedef struct kvf_reply_options {
    const kvf_conversation *conversation;
    kvf_conversation_settings settings;
    const char *const *stops; /* [n_stops] texts before which it ends */
    size_t n_stops;
    kvf_answer_sink sink;
    /*
     * After the events of each token: false where they could not be shown, so that the token is no
     * part of the text. NULL: they always are.
     */
    bool (*flush)(void *user);
    void *user;         /* of both */
    bool saves_between; /* as kvf_token_sink has it */
} kvf_reply_options;

/*
 * Answers what was read (kvf_generator_answer); generation->tokens are those of the answer (free
 * them). Where a stop ends it, the session goes back to the tokens that were shown as a whole;
 * what was shown of the next one is appended in tokens of its own, so that what was shown is
 * what is held. (Where that does not fit the context, or there was no memory to go back with,
 * it is noted.)
 */
kvf_status kvf_reply(kvf_generator *generator, const kvf_reply_options *options,
                     kvf_generation *generation, kvf_error *error);

#endif
