/*
 * The command line. The input is a first byte that chooses the command, then arguments,
 * each ended by a NUL; those that begin with an environment variable's name and "=" are
 * set in the environment instead. Each argument is also read as a number by itself.
 *
 * What a command would print comes here instead (cli_error, cli_note, cli_help_print): a command
 * line is accepted, or it is refused with one error, or it asked for help.
 */
#include "fuzz.h"

#include "cli/help.h"
#include "cli/message.h"
#include "cli/nearest.h"
#include "cli/options.h"
#include "cli/units.h"
#include "engine/amounts.h"

#include <getopt.h>
#include <stdarg.h>

enum { MAX_ARGUMENTS = 16, ARGUMENT_BYTES = 256 };

static const char *const variables[] = {"DS4_DISABLE_KV_OPTS", "DS4_METAL_FP8_KV_STORE",
                                        "DS4_INDEXER_SCORE_TILE", "KVFOLD_ISA", "OMP_NUM_THREADS"};
enum { N_VARIABLES = sizeof variables / sizeof variables[0] };

/* ---- In place of the terminal ------------------------------------------------------ */

static unsigned n_errors;
static unsigned n_helps;

static void check_message(const char *command, const char *format, va_list arguments)
{
    char message[1024]; /* as in message.c */
    const int length = vsnprintf(message, sizeof message, format, arguments);
    FUZZ_REQUIRE(length > 0 && (size_t)length < sizeof message);
    FUZZ_REQUIRE(cli_command_find(command) != CLI_COMMAND_COUNT);
}

int cli_error(const char *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    check_message(command, format, arguments);
    va_end(arguments);
    n_errors++;
    return CLI_EXIT_BAD_INPUT;
}

void cli_note(const char *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    check_message(command, format, arguments);
    va_end(arguments);
}

void cli_help_print(cli_command command)
{
    FUZZ_REQUIRE(command < CLI_COMMAND_COUNT);
    n_helps++;
}

/* ---- Numbers ------------------------------------------------------------------------ */

/* The number by other means; false where it is none. Too large ones become the largest. */
static bool read_size(const char *text, fuzz_wide *value)
{
    const size_t n_digits = strspn(text, "0123456789");
    const char *suffix = text + n_digits;
    const char *known = *suffix ? strchr("kmgtKMGT", *suffix) : "";
    const fuzz_wide largest = (fuzz_wide)1 << 80;
    *value = 0;
    if (n_digits == 0 || !known || (*suffix && suffix[1]))
        return false;
    for (size_t i = 0; i < n_digits && *value < largest; i++)
        *value = *value * 10 + (unsigned)(text[i] - '0');
    for (int i = 0; *suffix && i <= (known - "kmgtKMGT") % 4; i++)
        *value *= 1024;
    return true;
}

static void check_size(const char *text, uint64_t min, uint64_t max)
{
    char reason[256] = "";
    uint64_t value = 0;
    fuzz_wide expected;
    const bool is_number = read_size(text, &expected);
    if (cli_parse_size(text, min, max, &value, reason, sizeof reason))
        FUZZ_REQUIRE(is_number && expected == value && value >= min && value <= max);
    else
        FUZZ_REQUIRE(*reason && (!is_number || expected < min || expected > max));
}

static void check_fraction(const char *text)
{
    char reason[256] = "";
    float value = -1;
    if (cli_parse_fraction(text, 0, 1, &value, reason, sizeof reason))
        FUZZ_REQUIRE(value >= 0 && value <= 1);
    else
        FUZZ_REQUIRE(*reason);
}

/* A number as it is shown must be one that can be typed, where it is shown exactly. */
static void check_shown(uint64_t number)
{
    char text[KVF_NUMBER_BYTES];
    char reason[256];
    uint64_t value;
    kvf_show_context(number, text);
    FUZZ_REQUIRE(
        strchr(text, ',') ||
        (cli_parse_size(text, 0, UINT64_MAX, &value, reason, sizeof reason) && value == number));
    FUZZ_REQUIRE(strlen(kvf_show_bytes(number, text)) < KVF_NUMBER_BYTES);
    FUZZ_REQUIRE(strlen(kvf_show_count(number, text)) < KVF_NUMBER_BYTES);
    double real;
    memcpy(&real, &number, sizeof real);
    FUZZ_REQUIRE(strlen(kvf_show_microseconds(real, text)) < KVF_NUMBER_BYTES);
    FUZZ_REQUIRE(strlen(kvf_show_rate(real, text)) < KVF_NUMBER_BYTES);
}

static void check_number(const char *text)
{
    static const char *const words[] = {"threads", "temperature", "top-p", "json"};
    uint64_t number = 0;
    check_size(text, 0, UINT64_MAX);
    check_size(text, 2, UINT64_C(1) << 40);
    check_fraction(text);
    memcpy(&number, text, strnlen(text, sizeof number));
    check_shown(number);
    const char *near = cli_nearest(text, words, sizeof words / sizeof words[0]);
    FUZZ_REQUIRE(!near || strlen(near) <= strlen(text) + 2);
}

/* ---- A command line ------------------------------------------------------------------ */

/* What an accepted command line promises, whatever it was. */
static void check_options(const cli_options *o)
{
    FUZZ_REQUIRE(o->engine.profile < KVF_PROFILE_COUNT && o->engine.n_threads <= KVF_MAX_THREADS);
    FUZZ_REQUIRE(o->engine.chunk_tokens >= 1 && o->engine.chunk_tokens <= 65536);
    FUZZ_REQUIRE(o->engine.score_tile_tokens <= 65536 && o->n_contexts <= CLI_MAX_CONTEXTS);
    FUZZ_REQUIRE(o->engine.temperature >= 0 && o->engine.temperature <= 100);
    FUZZ_REQUIRE(o->engine.top_p >= 0 && o->engine.top_p <= 1 && o->engine.min_p >= 0 &&
                 o->engine.min_p <= 1);
    FUZZ_REQUIRE(o->window_tokens >= 2 && o->engine.max_tokens >= 1 && o->n_runs <= 200);
    FUZZ_REQUIRE(!o->prompt || !o->file);
    for (uint32_t i = 0; i < o->n_contexts; i++) {
        FUZZ_REQUIRE(o->contexts[i] >= 1 && o->contexts[i] <= UINT64_C(1) << 40);
        const kvf_session_options session =
            kvf_engine_session_options(&o->engine, o->engine.profile, o->contexts[i]);
        FUZZ_REQUIRE(session.chunk_tokens >= 1 && session.chunk_tokens <= session.max_tokens);
    }
}

/* getopt_long keeps its place inside of an argument; with optind 0 glibc forgets it. */
static void forget_last_arguments(void)
{
    char *none[] = {"", NULL};
    const struct option no_options = {0};
    optind = 0;
    getopt_long(1, none, "", &no_options, NULL);
}

static void check_command(cli_command command, int argc, char **argv)
{
    cli_options options;
    int status = -1;
    n_errors = n_helps = 0;
    forget_last_arguments();
    const bool accepted = cli_options_parse(command, argc, argv, &options, &status);
    if (accepted) {
        FUZZ_REQUIRE(n_errors == 0 && n_helps == 0);
        check_options(&options);
    } else if (n_helps > 0) {
        FUZZ_REQUIRE(n_errors == 0 && n_helps == 1 && status == CLI_EXIT_OK);
    } else {
        FUZZ_REQUIRE(n_errors == 1 && status == CLI_EXIT_BAD_INPUT);
    }
}

static bool sets_variable(const char *argument)
{
    for (size_t i = 0; i < N_VARIABLES; i++) {
        const size_t length = strlen(variables[i]);
        if (strncmp(argument, variables[i], length) == 0 && argument[length] == '=')
            return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static char texts[MAX_ARGUMENTS][ARGUMENT_BYTES]; /* static: putenv keeps them */
    char *argv[MAX_ARGUMENTS + 2] = {"kvfold"};
    int argc = 1;
    if (bytes == 0)
        return 0;
    fuzz_part rest = {data + 1, bytes - 1};
    fuzz_part part;
    for (int i = 0; i < MAX_ARGUMENTS && fuzz_next_part(&rest, 0, &part); i++) {
        const size_t length = part.bytes < ARGUMENT_BYTES ? part.bytes : ARGUMENT_BYTES - 1;
        if (length == 0 && !rest.data)
            break; /* the NUL was the last argument's end */
        memcpy(texts[i], part.data, length);
        texts[i][length] = '\0';
        check_number(texts[i]);
        if (sets_variable(texts[i]))
            putenv(texts[i]);
        else
            argv[argc++] = texts[i];
    }
    check_command((cli_command)(data[0] % CLI_COMMAND_COUNT), argc, argv);
    for (size_t i = 0; i < N_VARIABLES; i++)
        unsetenv(variables[i]);
    return 0;
}
