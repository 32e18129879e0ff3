/* Prompts and answers as a person sees them: a bar, text as it comes, a line about both. */
#ifndef KVF_CLI_ANSWERS_H
#define KVF_CLI_ANSWERS_H

#include "cli/events.h"
#include "engine/generate.h"

/* Where tokens are shown as they come. */
typedef struct cli_stream {
    bool shows_ids; /* of tokens, a line each, instead of the text that they stand for */
    kvf_decoder decoder;
    int status; /* of what could not be written, which was printed */
} cli_stream;

/* All that return int: 0, or they print why not and return the exit status. */

/* kvf_generator_read with the listener's bar. */
int cli_read_prompt(kvf_generator *generator, cli_listener *listener, const int32_t *tokens,
                    uint64_t n_tokens, kvf_generation *generation);
/*
 * kvf_generator_answer to stdout, a token at a time. One that cannot be written is not part of
 * the text.
 */
int cli_stream_answer(kvf_generator *generator, cli_stream *stream, kvf_generation *generation);
/* Saves what there is to save; a failure is printed. */
int cli_save(kvf_generator *generator);
/* The same after an error, which was printed. */
void cli_save_rest(kvf_generator *generator);

/* "eos", "max_tokens" .. for machines. */
const char *cli_ending_name(kvf_ending ending);
/* The lines for people, to stderr: of an answer; of what was saved. */
void cli_summarise_answer(const kvf_generator *generator, const kvf_generation *generation);
void cli_summarise_saved(const kvf_saver *saver);

#endif
