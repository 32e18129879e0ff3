/* The conversation of `run`: its settings by options and by what is resumed, prompts as ids. */
#ifndef KVF_CLI_CONVERSING_H
#define KVF_CLI_CONVERSING_H

#include "cli/options.h"
#include "cli/text.h"
#include "engine/chat_request.h"
#include "engine/conversation.h"
#include "engine/generate.h"

typedef struct cli_conversation {
    const cli_options *options;
    const kvf_saver *saver;
    kvf_conversation format; /* without a tokenizer all zero */
    kvf_conversation_settings settings;
    kvf_chat_request request; /* of --messages */
    bool has_request;
    kvf_span system; /* of the next turn; data NULL: none */
    kvf_ids held;    /* of the session's file */
} cli_conversation;

/* All that return int: 0, or they print why not and return the exit status. */

/*
 * Decides the settings, which a session that is resumed brings, and reads --messages. The
 * engine has its tokenizer, if there is one, and the saver is open.
 */
int cli_conversation_open(const cli_options *options, kvf_engine *engine, const kvf_saver *saver,
                          cli_conversation *conversation);
/* One that is all zero is accepted. */
void cli_conversation_close(cli_conversation *conversation);

/* What is appended to a session: all but the first n_held of the ids. */
typedef struct cli_prompt {
    kvf_ids ids;
    size_t n_held;   /* of them, that the session holds already */
    uint64_t n_kept; /* ids of the session that they come behind; it goes back there */
} cli_prompt;
void cli_prompt_free(cli_prompt *prompt);

/*
 * The prompt of a conversation: of --messages, of a text behind what the session's file holds, or
 * without one (no bytes) of what is missing there until the answer goes on.
 */
int cli_conversation_prompt(cli_conversation *conversation, kvf_saver *saver, const cli_text *text,
                            cli_prompt *prompt);

/* Puts the settings where the session is saved with them. */
void cli_conversation_keep(const cli_conversation *conversation, kvf_generator *generator);

#endif
