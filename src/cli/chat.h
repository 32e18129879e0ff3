/* run -i: a conversation in one session, turn after turn. */
#ifndef KVF_CLI_CHAT_H
#define KVF_CLI_CHAT_H

#include "cli/generate.h"
#include "cli/text.h"

/* first: the text of the first turn (-p, -f), or NULL. Returns the exit status. */
int cli_chat(cli_generator *generator, const cli_text *first);

#endif
