/* Prompts and answers as a person sees them: a bar, text as it comes, a line about both. */
#ifndef KVF_CLI_ANSWERS_H
#define KVF_CLI_ANSWERS_H

#include "cli/conversing.h"
#include "cli/events.h"
#include "engine/reply.h"

/* Where an answer is shown as it comes. */
typedef struct cli_stream {
    const cli_conversation *conversation;
    bool shows_ids;      /* of tokens, a line each, instead of the text that they stand for */
    bool shows_thinking; /* the reasoning, too */
    bool dims_thinking;  /* on a terminal; else it stands between <think> and </think> */
    bool is_reasoning;   /* that is what was shown last */
    bool has_hidden;     /* some was left out */
    bool has_shown;      /* any of this answer */
    kvf_buffer text;     /* to be written next */
    int status;          /* of what could not be written, which was printed */
} cli_stream;

/* One to stdout, as the conversation's options say. Nothing to free between two answers. */
void cli_stream_start(const cli_conversation *conversation, bool shows_ids, cli_stream *stream);

/* All that return int: 0, or they print why not and return the exit status. */

/* kvf_generator_read with the listener's bar. */
int cli_read_prompt(kvf_generator *generator, cli_listener *listener, const int32_t *tokens,
                    uint64_t n_tokens, kvf_generation *generation);
/*
 * Answers what was read, to stdout, a token at a time. One that cannot be written is not part of
 * the text. generation->tokens are to be freed.
 */
int cli_stream_answer(kvf_generator *generator, cli_stream *stream, kvf_generation *generation);
/* Saves what there is to save; a failure is printed. */
int cli_save(kvf_generator *generator);
/* The same after an error, which was printed. */
void cli_save_rest(kvf_generator *generator);

/* kvf_reply's options but for where it goes. */
kvf_reply_options cli_reply_options(const cli_conversation *conversation);

/* "eos", "max_tokens" .. for machines. */
const char *cli_ending_name(kvf_ending ending);
/* The lines for people, to stderr: of an answer; of what was saved. */
void cli_summarise_answer(const kvf_generator *generator, const kvf_generation *generation);
void cli_summarise_saved(const kvf_saver *saver);

#endif
