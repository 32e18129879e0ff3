/* run -i: a conversation in one session, turn after turn. */
#ifndef KVF_CLI_CHAT_H
#define KVF_CLI_CHAT_H

#include "cli/answers.h"
#include "cli/text.h"

/* Turns that can be taken back, and the states that are kept for it: one more is of /retry. */
enum { CLI_CHAT_TURNS = 8, CLI_CHAT_FORKS = CLI_CHAT_TURNS + 1 };

/* first: the text of the first turn (-p, -f), or NULL. Returns the exit status. */
int cli_chat(kvf_generator *generator, cli_listener *listener, const cli_text *first);

#endif
