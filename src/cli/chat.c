#include "cli/chat.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "cli/lines.h"
#include "cli/message.h"
#include "engine/amounts.h"
#include "error.h"

/*
 * Of a line, no more than the context's tokens, each of the longest, or a command is kept. One that
 * is longer is counted, so that others can follow it; one of so many contexts is no line.
 */
enum { MAX_COMMAND_BYTES = 256, MAX_LINE_CONTEXTS = 256 };

/*
 * The state before a turn is a fork: it shares pages and holds alone what was written over
 * since, the compressors' state and the rings.
 */
typedef struct chat {
    kvf_generator *generator;
    cli_listener *listener;
    cli_conversation *conversation;
    cli_stream stream;
    cli_text system; /* of /system, for the next turn */
    bool terminal;
    kvf_kept before[CLI_CHAT_TURNS]; /* [n_kept] the states before the last turns, the last last */
    int n_kept;
    bool has_forgotten; /* a state before them */
    kvf_kept asked;     /* the last turn is read, and not answered yet */
    int unsaved;        /* the exit status of the last save, where that failed */
} chat;

static const char chat_help[] =
    "Every line is a turn, which the model answers.\n"
    "  /think        answers begin with reasoning from now on\n"
    "  /nothink      they do not\n"
    "  /system TEXT  what the system says before the next turn; without TEXT nothing\n";

static const char plain_help[] =
    "Every line is a turn; it is appended to the text so far, and the model goes on.\n";

static const char common_help[] =
    "  /read FILE    a file's text is the turn\n"
    "  /stats        what the session holds\n"
    "  /undo         take the last turn and its answer back, or a /reset; the last 8 can be\n"
    "  /retry        answer the last turn again (another answer only where it is sampled)\n"
    "  /reset        forget everything\n"
    "  /help         this\n"
    "  /quit         leave (also Ctrl-D, or Ctrl-C at the prompt)\n"
    "Ctrl-C during an answer ends the answer and keeps the session.\n";

static bool is_chat(const chat *c)
{
    return c->conversation->settings.is_chat;
}

static void print_stats(const chat *c)
{
    const kvf_generator *generator = c->generator;
    char held[KVF_NUMBER_BYTES];
    char context[KVF_NUMBER_BYTES];
    char cache[KVF_NUMBER_BYTES];
    char allocated[KVF_NUMBER_BYTES];
    char scratch[KVF_NUMBER_BYTES];
    const kvf_device *device = generator->engine->device;
    printf("%s on %s/%s: %s of %s tokens, cache %s (%s allocated), scratch %s%s\n",
           kvf_profile_get(generator->engine->options->profile)->name,
           kvf_device_backend_name(device), kvf_device_isa_name(device),
           kvf_show_count(kvf_generator_n_tokens(generator), held),
           kvf_show_count(generator->context_tokens, context),
           kvf_show_bytes(kvf_session_held_bytes(generator->session), cache),
           kvf_show_bytes(kvf_session_allocated_bytes(generator->session), allocated),
           kvf_show_bytes(kvf_batch_scratch_bytes(generator->batch), scratch),
           !is_chat(c)                          ? ""
           : c->conversation->settings.thinking ? "; answers begin with reasoning"
                                                : "; answers without reasoning");
}

/* A turn that does not fit is refused before anything is changed. */
static bool fits(const kvf_generator *generator, uint64_t n_tokens)
{
    const uint64_t held = kvf_generator_n_tokens(generator);
    const uint64_t most = generator->context_tokens;
    if (held <= most && n_tokens <= most - held)
        return true;
    char held_text[KVF_NUMBER_BYTES];
    char context[KVF_NUMBER_BYTES];
    char needed[KVF_NUMBER_BYTES];
    kvf_show_count(held, held_text);
    kvf_show_count(most, context);
    kvf_show_count(n_tokens, needed);
    if (n_tokens > most)
        cli_error(
            "run",
            "this turn needs %s tokens and an empty context has %s; shorten it, or start with "
            "a larger --ctx",
            needed, context);
    else
        cli_error("run",
                  "the context is full: %s of %s tokens are held and this turn needs %s; "
                  "/reset starts anew",
                  held_text, context, needed);
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
    cli_conversation_keep(c->conversation, c->generator);
    c->unsaved = cli_save(c->generator);
}

/* Keeps the state before something that /undo takes back; the oldest kept one leaves. */
static void keep_before(chat *c)
{
    kvf_kept_free(&c->asked);
    if (c->n_kept == CLI_CHAT_TURNS) {
        kvf_kept_free(&c->before[0]);
        c->has_forgotten = true;
        memmove(c->before, c->before + 1, --c->n_kept * sizeof c->before[0]);
    }
    kvf_generator_keep(c->generator, &c->before[c->n_kept]);
    /* A state that could not be kept must not be jumped over. */
    if (c->before[c->n_kept].session) {
        c->n_kept++;
        return;
    }
    c->has_forgotten = true;
    while (c->n_kept > 0)
        kvf_kept_free(&c->before[--c->n_kept]);
}

static void forget_all(chat *c)
{
    kvf_kept_free(&c->asked);
    while (c->n_kept > 0)
        kvf_kept_free(&c->before[--c->n_kept]);
}

/*
 * Goes back to the first n ids of a session that was resumed, of which no state is kept: they are
 * read again. *done is false where Ctrl-C came before all were; nothing has changed then.
 */
static int read_again(chat *c, size_t n, bool *done)
{
    kvf_generator *generator = c->generator;
    kvf_ids ids = {.n = 0};
    kvf_kept now = {.session = NULL};
    kvf_generation read;
    kvf_error error;
    kvf_status status = kvf_generator_rewind(generator, n, &error);
    *done = status == KVF_OK;
    if (status != KVF_NOT_COVERED)
        return cli_result("run", status, &error);
    if (kvf_generator_ids(generator, &ids, &error) != KVF_OK)
        return cli_fail("run", &error);
    kvf_generator_keep(generator, &now);
    int result = CLI_EXIT_OK;
    if (now.session) {
        kvf_generator_reset(generator);
        result = cli_read_prompt(generator, c->listener, ids.ids, n, &read);
        *done = result == CLI_EXIT_OK && read.n_prompt_tokens == n;
        if (!*done)
            kvf_generator_take_back(generator, &now);
        cli_interrupt_clear();
    }
    kvf_kept_free(&now);
    kvf_ids_free(&ids);
    return result;
}

/* Where the last turn, or its answer, begins in a conversation that was resumed; false: nowhere. */
static bool find_turn(const chat *c, bool its_answer, size_t *n)
{
    kvf_ids ids = {.n = 0};
    kvf_error error;
    if (!is_chat(c) || c->n_kept > 0 || c->has_forgotten ||
        kvf_generator_ids(c->generator, &ids, &error) != KVF_OK)
        return false;
    const kvf_conversation *format = &c->conversation->format;
    const kvf_standing place = kvf_conversation_place(format, ids.ids, ids.n);
    const size_t before = kvf_conversation_before_turn(format, ids.ids, ids.n);
    const bool found =
        its_answer ? place.kind == KVF_STANDS_IN_ANSWER && !place.lacks_mode : before < ids.n;
    *n = its_answer ? place.answer_at : before;
    kvf_ids_free(&ids);
    return found;
}

static int undo(chat *c)
{
    char held[KVF_NUMBER_BYTES];
    size_t n;
    bool done = true;
    int status = CLI_EXIT_OK;
    if (c->n_kept == 0 && !find_turn(c, false, &n)) {
        puts("nothing is left to take back");
        return CLI_EXIT_OK;
    }
    kvf_kept_free(&c->asked);
    if (c->n_kept > 0)
        kvf_generator_take_back(c->generator, &c->before[--c->n_kept]);
    else
        status = read_again(c, n, &done);
    if (status != CLI_EXIT_OK)
        return status;
    printf("%s at %s tokens\n", done ? "back" : "still",
           kvf_show_count(kvf_generator_n_tokens(c->generator), held));
    save(c);
    return status;
}

static void reset(chat *c)
{
    keep_before(c);
    kvf_generator_reset(c->generator);
    save(c);
}

/* ---- Turns -------------------------------------------------------------------------------- */

/* Answers what was read, and saves: whatever ends the conversation, it is there up to here. */
static int give_answer(chat *c, kvf_generation *answer)
{
    const int status = cli_stream_answer(c->generator, &c->stream, answer);
    free(answer->tokens);
    answer->tokens = NULL;
    finish_line();
    if (status == CLI_EXIT_OK) {
        cli_summarise_answer(c->generator, answer);
        save(c);
    }
    cli_interrupt_clear();
    return status;
}

static int retry(chat *c)
{
    kvf_generation again = {.n_tokens = 0};
    size_t n;
    bool done = true;
    int status = CLI_EXIT_OK;
    if (c->asked.session)
        kvf_generator_take_back(c->generator, &c->asked);
    else if (find_turn(c, true, &n))
        status = read_again(c, n, &done);
    else
        done = false;
    if (status != CLI_EXIT_OK)
        return status;
    if (!done) {
        puts("no turn to answer again");
        return CLI_EXIT_OK;
    }
    kvf_generator_keep(c->generator, &c->asked);
    return give_answer(c, &again);
}

static int ask(chat *c, const int32_t *tokens, uint64_t n_tokens)
{
    kvf_generation begun;
    keep_before(c);
    cli_conversation_keep(c->conversation, c->generator);
    c->conversation->system = (kvf_span){NULL, 0};
    kvf_saver_end_prompt(c->generator->saver); /* one that was interrupted is text now */
    const int status = cli_read_prompt(c->generator, c->listener, tokens, n_tokens, &begun);
    if (status != CLI_EXIT_OK)
        return status;
    if (begun.n_prompt_tokens == n_tokens) {
        kvf_generator_keep(c->generator, &c->asked);
        return give_answer(c, &begun);
    }
    finish_line();
    cli_summarise_answer(c->generator, &begun);
    save(c);
    cli_interrupt_clear();
    return CLI_EXIT_OK;
}

/*
 * Plain text: the first turn begins with BOS; later ones with a line break, since the answer
 * before them ended somewhere in a line.
 */
static int encode_plain(chat *c, const char *text, size_t text_bytes, kvf_ids *ids)
{
    const bool first = kvf_generator_n_tokens(c->generator) == 0;
    kvf_buffer turn = {.data = NULL};
    kvf_error error;
    kvf_buffer_add(&turn, "\n", !first);
    kvf_buffer_add(&turn, text, text_bytes);
    const int status = turn.failed
                           ? cli_error("run", "out of memory for a turn of %zu bytes", text_bytes)
                           : cli_result("run",
                                        kvf_engine_encode(c->generator->engine, turn.data,
                                                          turn.bytes, first, ids, &error),
                                        &error);
    kvf_buffer_free(&turn);
    return status;
}

static int encode_chat(chat *c, const char *text, size_t text_bytes, kvf_ids *ids)
{
    const cli_conversation *conversation = c->conversation;
    const kvf_span user = {text, text_bytes};
    kvf_ids held = {.n = 0};
    kvf_error error;
    kvf_status status = kvf_generator_ids(c->generator, &held, &error);
    if (status == KVF_OK)
        status = kvf_conversation_turn(&conversation->format, &conversation->settings, held.ids,
                                       held.n, conversation->system, user, ids, &error);
    kvf_ids_free(&held);
    return cli_result("run", status, &error);
}

/*
 * One turn, of at least a byte. Of a text that cannot fit the context, however long its tokens
 * are, nothing but the length is looked at.
 */
static int take_turn(chat *c, const char *text, size_t text_bytes)
{
    const kvf_engine *engine = c->generator->engine;
    const bool first = kvf_generator_n_tokens(c->generator) == 0;
    const size_t n_before = first ? engine->config.bos_token >= 0 : 0;
    const size_t longest = kvf_tokenizer_longest(engine->tokenizer);
    kvf_ids ids = {.n = 0};
    if (!fits(c->generator, n_before + (text_bytes + !first + longest - 1) / longest))
        return CLI_EXIT_OK;
    int status = is_chat(c) ? encode_chat(c, text, text_bytes, &ids)
                            : encode_plain(c, text, text_bytes, &ids);
    if (status == CLI_EXIT_OK && fits(c->generator, ids.n))
        status = ask(c, ids.ids, ids.n);
    kvf_ids_free(&ids);
    return status;
}

/* ---- Commands ------------------------------------------------------------------------------ */

static void think(chat *c, bool thinking)
{
    if (!is_chat(c)) {
        puts("this is plain text; no answers are in it");
        return;
    }
    c->conversation->settings.thinking = thinking;
    puts(thinking ? "answers begin with reasoning now" : "answers are without reasoning now");
    save(c);
}

static int set_system(chat *c, const char *text)
{
    if (!is_chat(c)) {
        puts("this is plain text; no system is in it");
        return CLI_EXIT_OK;
    }
    c->conversation->system = (kvf_span){NULL, 0};
    cli_text_free(&c->system);
    const size_t bytes = strlen(text);
    const int status = bytes > 0 ? cli_text_copy("run", text, bytes, &c->system) : CLI_EXIT_OK;
    if (status == CLI_EXIT_OK && bytes > 0)
        c->conversation->system = (kvf_span){c->system.data, bytes};
    puts(bytes > 0 ? "the next turn comes behind it" : "nothing comes before the next turn");
    return status;
}

/* On a terminal a mistake can be made good; what a pipe asks for has to be there. */
static int read_turn(chat *c, const char *path)
{
    const size_t most =
        c->generator->context_tokens * kvf_tokenizer_longest(c->generator->engine->tokenizer);
    cli_text text = {.data = NULL};
    int status;
    if (!*path || strcmp(path, "-") == 0)
        status = cli_error("run", "/read needs the name of a file");
    else
        status = cli_text_read("run", path, most, true, &text);
    if (status == CLI_EXIT_OK && text.longer)
        status = cli_error(
            "run", "'%s' has more than the context can hold; nothing of it was taken", path);
    else if (status == CLI_EXIT_OK && text.bytes == 0)
        status = cli_error("run", "'%s' is empty", path);
    if (status != CLI_EXIT_OK && c->terminal && !cli_leaving())
        status = CLI_EXIT_OK;
    else if (status == CLI_EXIT_OK)
        status = take_turn(c, text.data, text.bytes);
    cli_text_free(&text);
    return status;
}

static void print_help(const chat *c)
{
    fputs(is_chat(c) ? chat_help : plain_help, stdout);
    fputs(common_help, stdout);
}

/* What follows a command in a line; NULL: it is another one. */
static const char *argument_of(const char *line, const char *command)
{
    const size_t bytes = strlen(command);
    if (strncmp(line, command, bytes) != 0 || (line[bytes] && !strchr(" \t", line[bytes])))
        return NULL;
    return line + bytes + strspn(line + bytes, " \t");
}

/* Runs "/command". Returns false when it is time to leave. */
static bool run_slash_command(chat *c, const char *line, int *status)
{
    const char *argument;
    if (strcmp(line, "/quit") == 0)
        return false;
    if (strcmp(line, "/help") == 0)
        print_help(c);
    else if (strcmp(line, "/stats") == 0)
        print_stats(c);
    else if (strcmp(line, "/undo") == 0)
        *status = undo(c);
    else if (strcmp(line, "/retry") == 0)
        *status = retry(c);
    else if (strcmp(line, "/reset") == 0)
        reset(c);
    else if (strcmp(line, "/think") == 0 || strcmp(line, "/nothink") == 0)
        think(c, line[1] == 't');
    else if ((argument = argument_of(line, "/system")) != NULL)
        *status = set_system(c, argument);
    else if ((argument = argument_of(line, "/read")) != NULL)
        *status = read_turn(c, argument);
    else
        printf("unknown command %s; there are /help, /read, /stats, /undo, /retry, /reset%s and "
               "/quit\n",
               kvf_printable_bytes(line, strnlen(line, 60)).text,
               is_chat(c) ? ", /think, /nothink, /system" : "");
    return *status == CLI_EXIT_OK;
}

/* ---- Lines ---------------------------------------------------------------------------------- */

/*
 * A NUL byte is in no text that anyone types, but every second one of UTF-16 is, which other
 * systems pipe. On a terminal the line is dropped and can be typed again.
 */
static int refuse_nul(const cli_lines *lines, bool terminal)
{
    const int status = cli_error("run",
                                 "line %zu of standard input holds a NUL byte, so it is no "
                                 "text that is read; UTF-8 is needed",
                                 lines->n_lines);
    return terminal ? CLI_EXIT_OK : status;
}

/* A line as a turn or a command. Returns false when it is time to leave. */
static bool take_line(chat *c, cli_lines *lines, bool terminal, int *status)
{
    if (memchr(lines->line, '\0', lines->held_bytes)) {
        *status = refuse_nul(lines, terminal);
    } else if (lines->line[0] == '/') {
        while (strchr(" \t", lines->line[lines->held_bytes - 1]))
            lines->line[--lines->held_bytes] = '\0';
        return run_slash_command(c, lines->line, status);
    } else if (lines->bytes > 0) {
        *status = take_turn(c, lines->line, lines->bytes);
    }
    return *status == CLI_EXIT_OK;
}

static cli_lines_result next_line(cli_lines *lines, bool terminal)
{
    if (terminal) {
        fputs("> ", stdout);
        fflush(stdout);
    }
    return cli_lines_next(lines);
}

/* What the last line says of the exit status, where nothing failed before it. */
static int end_of_lines(cli_lines_result result, const cli_lines *lines)
{
    char bytes[KVF_NUMBER_BYTES];
    if (result == CLI_LINES_TOO_LONG)
        return cli_error("run",
                         "line %zu of standard input is longer than %s, more than the context "
                         "can hold; nothing of it was taken",
                         lines->n_lines + 1, kvf_show_bytes(lines->max_bytes, bytes));
    if (result == CLI_LINES_FAILED)
        return cli_error("run", "cannot read standard input: %s", strerror(errno));
    return CLI_EXIT_OK;
}

static int take_first(chat *c, const cli_first_turn *first)
{
    if (first->ids)
        return ask(c, first->ids, first->n_ids);
    return first->text ? take_turn(c, first->text->data, first->text->bytes) : CLI_EXIT_OK;
}

int cli_chat(kvf_generator *generator, cli_listener *listener, cli_conversation *conversation,
             const cli_first_turn *first)
{
    chat c = {.generator = generator, .listener = listener, .conversation = conversation};
    cli_lines lines;
    cli_lines_result result = CLI_LINE;
    int status = CLI_EXIT_OK;
    const bool terminal = isatty(STDIN_FILENO) == 1;
    c.terminal = terminal;
    cli_stream_start(conversation, false, &c.stream);
    /* 2^30 tokens of 2^16 bytes, 2^8 times: in range. */
    const size_t context_bytes =
        generator->context_tokens * kvf_tokenizer_longest(generator->engine->tokenizer);
    cli_lines_start(&lines, STDIN_FILENO, context_bytes + MAX_COMMAND_BYTES,
                    context_bytes * MAX_LINE_CONTEXTS);
    if (terminal)
        fputs("/help lists the commands.\n", stdout);
    status = take_first(&c, first);
    while (status == CLI_EXIT_OK && !cli_leaving() && !ferror(stdout) &&
           (result = next_line(&lines, terminal)) == CLI_LINE) {
        if (!take_line(&c, &lines, terminal, &status))
            break;
    }
    if (terminal && result != CLI_LINE)
        finish_line(); /* the prompt's line is still open */
    if (status == CLI_EXIT_OK)
        status = end_of_lines(result, &lines);
    forget_all(&c);
    conversation->system = (kvf_span){NULL, 0};
    cli_text_free(&c.system);
    cli_lines_free(&lines);
    if (status != CLI_EXIT_OK)
        cli_save_rest(generator);
    else
        status = c.unsaved;
    return status == CLI_EXIT_OK && cli_leaving() ? CLI_EXIT_INTERRUPTED : status;
}
