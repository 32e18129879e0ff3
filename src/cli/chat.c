#include "cli/chat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/units.h"
#include "model/tokenizer.h"

/*
 * The state before a turn is a fork: it shares pages and holds alone what was written over
 * since, the compressors' state and the rings.
 */
typedef struct chat {
    cli_generator *generator;
    cli_kept before[CLI_CHAT_TURNS]; /* [n_kept] the states before the last turns, the last last */
    int n_kept;
    cli_kept asked; /* the last turn is read, and not answered yet */
    int unsaved;    /* the exit status of the last save, where that failed */
} chat;

static const char chat_help[] =
    "Every line is a turn; it is appended to the text so far, and the model goes on.\n"
    "  /help   this\n"
    "  /stats  what the session holds\n"
    "  /undo   take the last turn and its answer back, or a /reset; the last 8 can be\n"
    "  /retry  answer the last turn again (another answer only with --temperature)\n"
    "  /reset  forget everything\n"
    "  /quit   leave (also Ctrl-D, or Ctrl-C at the prompt)\n"
    "Ctrl-C during an answer ends the answer and keeps the session.\n";

/* What is held or shown already, and so comes before the next turn. */
static uint64_t tokens_so_far(const cli_generator *generator)
{
    return kvf_session_n_tokens(generator->session) + (generator->pending >= 0);
}

static void print_stats(const cli_generator *generator)
{
    char held[CLI_NUMBER_BYTES];
    char context[CLI_NUMBER_BYTES];
    char cache[CLI_NUMBER_BYTES];
    char allocated[CLI_NUMBER_BYTES];
    char scratch[CLI_NUMBER_BYTES];
    const kvf_device *device = generator->engine->device;
    printf("%s on %s/%s: %s of %s tokens, cache %s (%s allocated), scratch %s\n",
           kvf_profile_get(generator->engine->options->profile)->name,
           kvf_device_backend_name(device), kvf_device_isa_name(device),
           cli_format_count(tokens_so_far(generator), held),
           cli_format_count(generator->context_tokens, context),
           cli_format_bytes(kvf_session_held_bytes(generator->session), cache),
           cli_format_bytes(kvf_session_allocated_bytes(generator->session), allocated),
           cli_format_bytes(kvf_session_scratch_bytes(generator->session), scratch));
}

/* A turn that does not fit is refused before anything is changed. */
static bool fits(const cli_generator *generator, uint64_t n_tokens)
{
    const uint64_t held = tokens_so_far(generator);
    /* An answer's last token may stand past the end: shown, with no place left for it. */
    if (held <= generator->context_tokens && n_tokens <= generator->context_tokens - held)
        return true;
    char held_text[CLI_NUMBER_BYTES];
    char context[CLI_NUMBER_BYTES];
    char needed[CLI_NUMBER_BYTES];
    cli_error("run",
              "the context is full: %s of %s tokens are held and this turn needs %s; "
              "/reset starts anew",
              cli_format_count(held, held_text),
              cli_format_count(generator->context_tokens, context),
              cli_format_count(n_tokens, needed));
    return false;
}

/* Ends the answer's line, whatever the model ended it with. */
static void finish_line(void)
{
    putchar('\n');
    fflush(stdout);
}

/* ---- Taking turns back ------------------------------------------------------------------ */

/* A disk that is full ends no conversation: the next save may do, and the last one counts. */
static void save(chat *c)
{
    c->unsaved = cli_generator_save(c->generator);
}

/* Keeps the state before something that /undo takes back; the oldest kept one leaves. */
static void keep_before(chat *c)
{
    cli_kept_free(&c->asked);
    if (c->n_kept == CLI_CHAT_TURNS) {
        cli_kept_free(&c->before[0]);
        memmove(c->before, c->before + 1, --c->n_kept * sizeof c->before[0]);
    }
    cli_generator_keep(c->generator, &c->before[c->n_kept]);
    /* A state that could not be kept must not be jumped over. */
    if (c->before[c->n_kept].session)
        c->n_kept++;
    else
        while (c->n_kept > 0)
            cli_kept_free(&c->before[--c->n_kept]);
}

static void forget_all(chat *c)
{
    cli_kept_free(&c->asked);
    while (c->n_kept > 0)
        cli_kept_free(&c->before[--c->n_kept]);
}

static void undo(chat *c)
{
    char held[CLI_NUMBER_BYTES];
    if (c->n_kept == 0) {
        puts("nothing is left to take back");
        return;
    }
    cli_kept_free(&c->asked);
    cli_generator_take_back(c->generator, &c->before[--c->n_kept]);
    printf("back at %s tokens\n", cli_format_count(tokens_so_far(c->generator), held));
    save(c);
}

static void reset(chat *c)
{
    keep_before(c);
    cli_generator_reset(c->generator);
    save(c);
}

/* ---- Turns -------------------------------------------------------------------------------- */

/* Answers what was read, and saves: whatever ends the conversation, it is there up to here. */
static int give_answer(chat *c, cli_answer *answer)
{
    const int status = cli_answer_prompt(c->generator, true, answer);
    finish_line();
    if (status == CLI_EXIT_OK) {
        cli_answer_summarise(c->generator, answer);
        save(c);
    }
    cli_interrupt_clear();
    return status;
}

static int retry(chat *c)
{
    if (!c->asked.session) {
        puts("no turn to answer again");
        return CLI_EXIT_OK;
    }
    cli_answer again = {.n_tokens = 0};
    cli_generator_take_back(c->generator, &c->asked);
    cli_generator_keep(c->generator, &c->asked);
    return give_answer(c, &again);
}

static int ask(chat *c, const int32_t *tokens, size_t n_tokens)
{
    cli_answer begun;
    keep_before(c);
    cli_saver_end_prompt(c->generator->saver); /* one that was interrupted is text now */
    const int status = cli_read_prompt(c->generator, tokens, n_tokens, &begun);
    if (status != CLI_EXIT_OK)
        return status;
    if (begun.n_prompt_tokens == n_tokens) {
        cli_generator_keep(c->generator, &c->asked);
        return give_answer(c, &begun);
    }
    finish_line();
    cli_answer_summarise(c->generator, &begun);
    save(c);
    cli_interrupt_clear();
    return CLI_EXIT_OK;
}

/*
 * One turn. The first begins with BOS; later ones with a line break, since the
 * answer before them ended somewhere in a line.
 */
static int take_turn(chat *c, const char *text, size_t text_bytes)
{
    const kvf_model_config *config = &c->generator->engine->config;
    const bool first = tokens_so_far(c->generator) == 0;
    if (text_bytes > c->generator->context_tokens) { /* and not all of it is in memory */
        fits(c->generator, text_bytes + 1);
        return CLI_EXIT_OK;
    }
    int32_t *tokens = malloc((text_bytes + 1) * sizeof *tokens);
    if (!tokens)
        return cli_error("run", "out of memory for a turn of %zu bytes", text_bytes);
    size_t n_tokens = 0;
    if (!first)
        n_tokens = kvf_tokenize(config, "\n", 1, false, tokens);
    n_tokens += kvf_tokenize(config, text, text_bytes, first, tokens + n_tokens);
    int status = CLI_EXIT_OK;
    if (n_tokens > 0 && fits(c->generator, n_tokens))
        status = ask(c, tokens, n_tokens);
    free(tokens);
    return status;
}

/* Runs "/command". Returns false when it is time to leave. */
static bool run_slash_command(chat *c, const char *line, int *status)
{
    if (strcmp(line, "/quit") == 0)
        return false;
    if (strcmp(line, "/help") == 0)
        fputs(chat_help, stdout);
    else if (strcmp(line, "/stats") == 0)
        print_stats(c->generator);
    else if (strcmp(line, "/undo") == 0)
        undo(c);
    else if (strcmp(line, "/retry") == 0)
        *status = retry(c);
    else if (strcmp(line, "/reset") == 0)
        reset(c);
    else
        printf("unknown command %s; there are /help, /stats, /undo, /retry, /reset and /quit\n",
               line);
    return *status == CLI_EXIT_OK;
}

/* A line without its line break into *line; its length, or -1 at the end or on Ctrl-C. */
static ssize_t read_line(const cli_generator *generator, char **line, size_t *line_bytes)
{
    if (isatty(STDIN_FILENO)) {
        fputs("> ", stdout);
        fflush(stdout);
        /* A terminal hands over one line a read, so no line waits in stdin's buffer. */
        if (!cli_interrupt_wait_readable(STDIN_FILENO))
            return -1;
    }
    errno = 0;
    /* A token a byte: of more than a context the length is all that is needed. */
    return cli_read_line(stdin, generator->context_tokens, line, line_bytes);
}

int cli_chat(cli_generator *generator, const cli_text *first)
{
    chat c = {.generator = generator};
    char *line = NULL;
    size_t line_bytes = 0;
    ssize_t length = 0;
    int status = CLI_EXIT_OK;
    const bool terminal = isatty(STDIN_FILENO) == 1;
    if (terminal)
        fputs("/help lists the commands.\n", stdout);
    if (first)
        status = take_turn(&c, first->data, first->bytes);
    while (status == CLI_EXIT_OK && !cli_leaving() && !ferror(stdout) &&
           (length = read_line(generator, &line, &line_bytes)) >= 0) {
        if (length >= CLI_MAX_LINE_BYTES && (uint64_t)length > generator->context_tokens) {
            status =
                cli_error("run",
                          "a line of more than %d bytes; a turn is one line, and the context "
                          "holds %llu tokens",
                          CLI_MAX_LINE_BYTES - 1, (unsigned long long)generator->context_tokens);
        } else if (line[0] == '/') {
            if (!run_slash_command(&c, line, &status))
                break;
        } else if (length > 0) {
            status = take_turn(&c, line, (size_t)length);
        }
    }
    if (terminal && length < 0)
        finish_line(); /* the prompt's line is still open */
    if (status == CLI_EXIT_OK && length < 0 && errno == ENOMEM)
        status = cli_error("run", "out of memory for a line");
    forget_all(&c);
    free(line);
    if (status == CLI_EXIT_OK)
        status = c.unsaved;
    return status == CLI_EXIT_OK && cli_leaving() ? CLI_EXIT_INTERRUPTED : status;
}
