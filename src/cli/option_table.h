/* Which options there are, and which command has which. Included by the two that parse them alone.
 */
#ifndef KVF_CLI_OPTION_TABLE_H
#define KVF_CLI_OPTION_TABLE_H

#include <getopt.h>
#include <stddef.h>

#include "cli/options.h"

/* What getopt_long returns; above every character, so that letters cannot collide. */
typedef enum cli_option_id {
    OPTION_MODEL = 256,
    OPTION_BACKEND,
    OPTION_ISA,
    OPTION_ISAS,
    OPTION_THREADS,
    OPTION_PROFILE,
    OPTION_PROFILES,
    OPTION_CHUNK,
    OPTION_CHUNKS,
    OPTION_GRID,
    OPTION_CTX,
    OPTION_JSON,
    OPTION_CSV,
    OPTION_PROMPT,
    OPTION_FILE,
    OPTION_RAW,
    OPTION_INTERACTIVE,
    OPTION_SYSTEM,
    OPTION_MESSAGES,
    OPTION_THINK,
    OPTION_NO_THINK,
    OPTION_SHOW_THINKING,
    OPTION_EFFORT,
    OPTION_RELEASE,
    OPTION_STOP,
    OPTION_MAX_TOKENS,
    OPTION_TEMPERATURE,
    OPTION_TOP_P,
    OPTION_MIN_P,
    OPTION_SEED,
    OPTION_SESSION,
    OPTION_STORE,
    OPTION_STORE_MAX,
    OPTION_SAVE_EVERY,
    OPTION_VERIFY_SNAPSHOT,
    OPTION_NO_LOCK,
    OPTION_IDS,
    OPTION_LOGITS,
    OPTION_WINDOW,
    OPTION_MEMORY,
    OPTION_WEIGHTS,
    OPTION_SVG,
    OPTION_BUFFERS,
    OPTION_STAGE,
    OPTION_RUNS,
    OPTION_TYPE,
    OPTION_DIR,
    OPTION_DECODE,
    OPTION_DECODE_IDS, /* another command's --decode */
    OPTION_SPECIAL,
    OPTION_QUICK,
    OPTION_CHECK,
    OPTION_SHA256,
    OPTION_HOST,
    OPTION_PORT,
    OPTION_UNIX_SOCKET,
    OPTION_API_KEY,
    OPTION_API_KEY_FILE,
    OPTION_ALLOW_HOST,
    OPTION_CORS,
    OPTION_ALIAS,
    OPTION_PARALLEL,
    OPTION_QUEUE,
    OPTION_QUEUE_TIMEOUT,
    OPTION_REPLAY_MAX,
    OPTION_CONNECTIONS,
    OPTION_IDLE_TIMEOUT,
    OPTION_BODY_TIMEOUT,
    OPTION_TRACE,
    OPTION_HELP
} cli_option_id;

typedef struct cli_option_spec {
    cli_option_id id;
    const char *name;
    char letter; /* 0: none */
    int has_value;
    unsigned commands;
} cli_option_spec;

enum { CLI_N_OPTIONS = OPTION_HELP - OPTION_MODEL + 1 };
extern const cli_option_spec cli_option_specs[CLI_N_OPTIONS];

/* The place of an option in the table; of a letter's, that of help where there is none. */
size_t cli_option_index(cli_option_id id);
cli_option_id cli_option_of_letter(int letter);
/* The command that has this option, for one that is used with another command; NULL: none. */
const char *cli_option_command(const char *option_name);

/* Tables for getopt_long with the options of one command. */
typedef struct cli_option_tables {
    struct option longs[CLI_N_OPTIONS + 1];
    char shorts[2 * CLI_N_OPTIONS + 3];
} cli_option_tables;
void cli_option_tables_make(cli_command command, cli_option_tables *tables);

#endif
