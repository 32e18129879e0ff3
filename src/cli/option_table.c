#include "cli/option_table.h"

#include <string.h>

static const char *const command_names[CLI_COMMAND_COUNT] = {
    "run", "verify", "score", "plan", "bench", "session", "inspect", "tokenize", "serve"};

enum {
    RUN = 1 << CLI_RUN,
    VERIFY = 1 << CLI_VERIFY,
    SCORE = 1 << CLI_SCORE,
    PLAN = 1 << CLI_PLAN,
    BENCH = 1 << CLI_BENCH,
    SESSION = 1 << CLI_SESSION,
    INSPECT = 1 << CLI_INSPECT,
    TOKENIZE = 1 << CLI_TOKENIZE,
    SERVE = 1 << CLI_SERVE,
    ENGINE = RUN | VERIFY | SCORE, /* the commands that run a model */
    ALL = ENGINE | PLAN | BENCH
};

const cli_option_spec cli_option_specs[CLI_N_OPTIONS] = {
    {OPTION_MODEL, "model", 'm', required_argument, ALL | INSPECT | TOKENIZE | SERVE},
    {OPTION_BACKEND, "backend", 0, required_argument, ALL | SERVE},
    {OPTION_ISA, "isa", 0, required_argument, ENGINE | BENCH | SERVE},
    {OPTION_ISAS, "isas", 0, required_argument, VERIFY},
    {OPTION_THREADS, "threads", 0, required_argument, ALL | INSPECT | SERVE},
    {OPTION_PROFILE, "profile", 0, required_argument, ALL | SERVE},
    {OPTION_PROFILES, "profiles", 0, required_argument, VERIFY | PLAN | BENCH},
    {OPTION_CHUNK, "chunk", 0, required_argument, ENGINE | PLAN | SERVE},
    {OPTION_CHUNKS, "chunks", 0, required_argument, VERIFY},
    {OPTION_GRID, "grid", 0, required_argument, RUN | SCORE},
    {OPTION_CTX, "ctx", 0, required_argument, RUN | VERIFY | PLAN | BENCH | SERVE},
    {OPTION_JSON, "json", 0, no_argument, ALL | SESSION | INSPECT | TOKENIZE},
    {OPTION_CSV, "csv", 0, no_argument, VERIFY | SCORE | PLAN | BENCH | SESSION},
    {OPTION_PROMPT, "prompt", 'p', required_argument, RUN | TOKENIZE},
    {OPTION_FILE, "file", 'f', required_argument, ENGINE | TOKENIZE},
    {OPTION_RAW, "raw", 0, no_argument, RUN},
    {OPTION_INTERACTIVE, "interactive", 'i', no_argument, RUN},
    {OPTION_SYSTEM, "system", 0, required_argument, RUN},
    {OPTION_MESSAGES, "messages", 0, required_argument, RUN},
    {OPTION_THINK, "think", 0, no_argument, RUN | SERVE},
    {OPTION_NO_THINK, "no-think", 0, no_argument, RUN | SERVE},
    {OPTION_SHOW_THINKING, "show-thinking", 0, no_argument, RUN},
    {OPTION_EFFORT, "effort", 0, required_argument, RUN},
    {OPTION_RELEASE, "release", 0, required_argument, RUN | SERVE},
    {OPTION_STOP, "stop", 0, required_argument, RUN},
    {OPTION_MAX_TOKENS, "max-tokens", 'n', required_argument, RUN | SERVE},
    {OPTION_TEMPERATURE, "temperature", 0, required_argument, RUN | SERVE},
    {OPTION_TOP_P, "top-p", 0, required_argument, RUN | SERVE},
    {OPTION_MIN_P, "min-p", 0, required_argument, RUN | SERVE},
    {OPTION_SEED, "seed", 0, required_argument, RUN},
    {OPTION_SESSION, "session", 0, required_argument, RUN},
    {OPTION_STORE, "store", 0, required_argument, RUN | SESSION | SERVE},
    {OPTION_STORE_MAX, "store-max", 0, required_argument, RUN | SERVE},
    {OPTION_SAVE_EVERY, "save-every", 0, required_argument, RUN},
    {OPTION_VERIFY_SNAPSHOT, "verify-snapshot", 0, no_argument, RUN},
    {OPTION_NO_LOCK, "no-lock", 0, no_argument, RUN | SESSION | SERVE},
    {OPTION_IDS, "ids", 0, required_argument, RUN | SCORE},
    {OPTION_LOGITS, "logits", 0, required_argument, SCORE},
    {OPTION_WINDOW, "window", 0, required_argument, SCORE},
    {OPTION_MEMORY, "memory", 0, required_argument, PLAN | INSPECT | SERVE},
    {OPTION_WEIGHTS, "weights", 0, required_argument, PLAN},
    {OPTION_SVG, "svg", 0, required_argument, PLAN | BENCH},
    {OPTION_BUFFERS, "buffers", 0, no_argument, PLAN},
    {OPTION_STAGE, "stage", 0, required_argument, BENCH},
    {OPTION_RUNS, "runs", 0, required_argument, BENCH},
    {OPTION_TYPE, "type", 0, required_argument, BENCH},
    {OPTION_DIR, "dir", 0, required_argument, BENCH},
    {OPTION_DECODE, "decode", 0, required_argument, VERIFY},
    {OPTION_DECODE_IDS, "decode", 0, no_argument, TOKENIZE},
    {OPTION_SPECIAL, "special", 0, no_argument, TOKENIZE},
    {OPTION_QUICK, "quick", 0, no_argument, BENCH},
    {OPTION_CHECK, "check", 0, no_argument, INSPECT},
    {OPTION_SHA256, "sha256", 0, no_argument, INSPECT},
    {OPTION_HOST, "host", 0, required_argument, SERVE},
    {OPTION_PORT, "port", 0, required_argument, SERVE},
    {OPTION_UNIX_SOCKET, "unix-socket", 0, required_argument, SERVE},
    {OPTION_API_KEY, "api-key", 0, required_argument, SERVE},
    {OPTION_API_KEY_FILE, "api-key-file", 0, required_argument, SERVE},
    {OPTION_ALLOW_HOST, "allow-host", 0, required_argument, SERVE},
    {OPTION_CORS, "cors", 0, required_argument, SERVE},
    {OPTION_ALIAS, "alias", 0, required_argument, SERVE},
    {OPTION_PARALLEL, "parallel", 0, required_argument, SERVE},
    {OPTION_QUEUE, "queue", 0, required_argument, SERVE},
    {OPTION_QUEUE_TIMEOUT, "queue-timeout", 0, required_argument, SERVE},
    {OPTION_REPLAY_MAX, "replay-max", 0, required_argument, SERVE},
    {OPTION_CONNECTIONS, "connections", 0, required_argument, SERVE},
    {OPTION_IDLE_TIMEOUT, "idle-timeout", 0, required_argument, SERVE},
    {OPTION_BODY_TIMEOUT, "body-timeout", 0, required_argument, SERVE},
    {OPTION_TRACE, "trace", 0, required_argument, SERVE},
    {OPTION_HELP, "help", 'h', no_argument, ALL | SESSION | INSPECT | TOKENIZE | SERVE},
};
const char *cli_command_name(cli_command command)
{
    return command_names[command];
}

cli_command cli_command_find(const char *name)
{
    for (int i = 0; i < CLI_COMMAND_COUNT; i++) {
        if (strcmp(name, command_names[i]) == 0)
            return (cli_command)i;
    }
    return CLI_COMMAND_COUNT;
}

size_t cli_option_index(cli_option_id id)
{
    size_t i = 0;
    while (cli_option_specs[i].id != id)
        i++;
    return i;
}

cli_option_id cli_option_of_letter(int letter)
{
    for (size_t i = 0; i < CLI_N_OPTIONS; i++) {
        if (cli_option_specs[i].letter == letter)
            return cli_option_specs[i].id;
    }
    return OPTION_HELP;
}

void cli_option_tables_make(cli_command command, cli_option_tables *tables)
{
    size_t n_longs = 0;
    char *shorts = tables->shorts;
    memset(tables, 0, sizeof *tables);
    *shorts++ = ':'; /* a missing value is told apart from an unknown option */
    for (size_t i = 0; i < CLI_N_OPTIONS; i++) {
        if (!(cli_option_specs[i].commands & 1u << command))
            continue;
        tables->longs[n_longs++] =
            (struct option){cli_option_specs[i].name, cli_option_specs[i].has_value, NULL,
                            (int)cli_option_specs[i].id};
        if (cli_option_specs[i].letter) {
            *shorts++ = cli_option_specs[i].letter;
            if (cli_option_specs[i].has_value)
                *shorts++ = ':';
        }
    }
}

const char *cli_option_command(const char *option_name)
{
    for (size_t i = 0; i < CLI_N_OPTIONS; i++) {
        for (int c = 0; c < CLI_COMMAND_COUNT; c++) {
            if (strcmp(cli_option_specs[i].name, option_name) == 0 &&
                (cli_option_specs[i].commands & 1u << c))
                return command_names[c];
        }
    }
    return NULL;
}
