/* run -i: a conversation in one session, turn after turn. */
#ifndef KVF_CLI_CHAT_H
#define KVF_CLI_CHAT_H

#include "cli/answers.h"
#include "cli/text.h"

/* Turns that can be taken back, and the states that are kept for it: one more is of /retry. */
enum { CLI_CHAT_TURNS = 8, CLI_CHAT_FORKS = CLI_CHAT_TURNS + 1 };

/* The first turn: a text (-p, -f), the ids of --messages, or neither (both NULL). */
typedef struct cli_first_turn {
    const cli_text *text;
    const int32_t *ids; /* [n_ids] */
    uint64_t n_ids;
} cli_first_turn;

/* Returns the exit status. */
int cli_chat(kvf_generator *generator, cli_listener *listener, cli_conversation *conversation,
             const cli_first_turn *first);

#endif
