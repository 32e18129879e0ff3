/* Answers: prompt tokens through a session, then token after token. */
#ifndef KVF_CLI_GENERATE_H
#define KVF_CLI_GENERATE_H

#include "cli/engine.h"
#include "cli/saver.h"
#include "model/sample.h"

typedef enum cli_ending {
    CLI_ENDED_EOS,
    CLI_ENDED_MAX_TOKENS,
    CLI_ENDED_CONTEXT_FULL,
    CLI_ENDED_INTERRUPTED
} cli_ending;

typedef struct cli_generator {
    cli_engine *engine;
    cli_saver *saver; /* not owned */
    kvf_session *session;
    uint64_t context_tokens;
    kvf_sampler sampler;
    kvf_candidate *candidates; /* [vocab] */
    /*
     * Shown, and so part of the text, but not in the session yet; -1: none. It is appended
     * before anything else is, or saved beside the session where that cannot be done.
     */
    int32_t pending;
    bool pending_failed; /* that was tried, and an error reported */
    bool shows_ids;      /* of tokens, a line each, instead of the text that they stand for */
    kvf_decoder decoder; /* of the answer that is streamed */
} cli_generator;

/* A state to come back to; it shares the pages of what goes on from it. */
typedef struct cli_kept {
    kvf_session *session; /* NULL: there is none */
    int32_t pending;
    cli_unfinished unfinished;
} cli_kept;

typedef struct cli_answer {
    uint64_t n_prompt_tokens; /* that went into the session */
    uint64_t n_tokens;        /* answered */
    int32_t *tokens;          /* [n_tokens] where they were asked for, malloc'd; else NULL */
    double prefill_seconds;
    double decode_seconds; /* of all answered tokens but the first, which prefill gave */
    cli_ending ending;
} cli_answer;

/* All that return int: 0, or they print why not and return the exit status. */

/* Restores what the saver finds for the prompt; an empty session where that is nothing. */
int cli_generator_open(cli_engine *engine, cli_saver *saver, uint64_t context_tokens,
                       const int32_t *tokens, uint64_t n_tokens, cli_generator *generator);
void cli_generator_close(cli_generator *generator);
/* Forgets everything that was said. */
void cli_generator_reset(cli_generator *generator);
/* Keeps the state as it is now. Without memory for that, kept->session is NULL and a warning says
 * so. */
void cli_generator_keep(cli_generator *generator, cli_kept *kept);
/* Takes the kept state, which is empty then. The sampler's random numbers go on. */
void cli_generator_take_back(cli_generator *generator, cli_kept *kept);
void cli_kept_free(cli_kept *kept);
/* What is held or shown already, and so comes before the next prompt. */
uint64_t cli_generator_n_tokens(const cli_generator *generator);
/* Saves the session, with the token that was answered last in it. */
int cli_generator_save(cli_generator *generator);
/* The same after an error, which was reported: what came since the last save, if anything did. */
void cli_generator_save_rest(cli_generator *generator);

/*
 * Appends the tokens, which must fit the context, and begins *answer. It has ended already
 * where Ctrl-C came before all of them were read: answer->n_prompt_tokens says how many were.
 */
int cli_read_prompt(cli_generator *generator, const int32_t *tokens, uint64_t n_tokens,
                    cli_answer *answer);
/*
 * Answers what was read with up to --max-tokens tokens, and no more than the context holds.
 * stream: the answer's bytes (or ids) go to stdout as they come, and one that cannot be written is
 * not part of the text; otherwise they are kept in answer->tokens (free them), and nothing
 * is saved before the end. The model's end of text is shown to nobody and not held: what
 * comes next stands in its place.
 */
int cli_answer_prompt(cli_generator *generator, bool stream, cli_answer *answer);

/* "eos", "max_tokens" .. for machines, and the summary line for people (stderr). */
const char *cli_ending_name(cli_ending ending);
void cli_answer_summarise(const cli_generator *generator, const cli_answer *answer);

#endif
