/*
 * Everything the user decides: the command line and the environment, read here
 * and nowhere else, and passed down as one struct.
 */
#ifndef KVF_CLI_OPTIONS_H
#define KVF_CLI_OPTIONS_H

#include "engine/options.h"
#include "text/chat.h"

typedef enum cli_command {
    CLI_RUN,
    CLI_VERIFY,
    CLI_SCORE,
    CLI_PLAN,
    CLI_BENCH,
    CLI_SESSION,
    CLI_INSPECT,
    CLI_TOKENIZE,
    CLI_SERVE,
    CLI_COMMAND_COUNT
} cli_command;

typedef enum cli_output { CLI_OUTPUT_TABLE, CLI_OUTPUT_CSV, CLI_OUTPUT_JSON } cli_output;

enum { CLI_MAX_CONTEXTS = 64, CLI_MAX_CHUNKS = 16, CLI_MAX_THREAD_COUNTS = 16, CLI_MAX_STOPS = 16 };

/* Values of an option that may come several times. */
enum { CLI_MAX_VALUES = 64 };
typedef struct cli_values {
    const char *list[CLI_MAX_VALUES];
    size_t n;
} cli_values;

typedef struct cli_options {
    const char *command; /* its name, for messages */

    kvf_engine_options engine; /* bench: no model is that of V4-Flash; isa is a list there */
    bool isa_from_environment; /* KVFOLD_ISA, for messages */

    /* Which of them: verify, plan. */
    bool profiles[KVF_PROFILE_COUNT];
    uint64_t contexts[CLI_MAX_CONTEXTS]; /* --ctx, in tokens; run: at most one */
    uint32_t n_contexts;
    bool contexts_given; /* else they are defaults */

    cli_output output;

    /* Text that comes in: at most one of prompt and file. */
    const char *prompt;
    const char *file;
    const char *ids_file; /* run, score: token ids instead */

    /* tokenize */
    bool decode_ids;   /* ids to text */
    bool added_tokens; /* are found in the text */

    /* run */
    bool raw; /* the text as it is, not in the chat format */
    bool interactive;
    const char *system;        /* NULL: not given */
    const char *messages_file; /* a whole conversation instead of a text */
    bool thinking;
    bool thinking_given;
    kvf_effort effort;
    bool effort_given;
    kvf_release release; /* KVF_RELEASE_BY_TEXTS: not given */
    bool show_thinking;
    bool plain_terminal;              /* NO_COLOR, or a terminal that is none: TERM=dumb */
    const char *stops[CLI_MAX_STOPS]; /* [n_stops] texts that end an answer */
    size_t n_stops;

    /* session: "list" and the like, and what follows it. */
    char **arguments; /* [n_arguments] */
    int n_arguments;

    /* score */
    const char *logits_file;
    uint64_t window_tokens;

    /* plan, inspect */
    uint64_t memory_bytes; /* 0: not asked */
    bool memory_auto;      /* what this process may have */
    uint64_t weights_bytes;
    bool weights_given;
    const char *svg_file; /* and bench */
    bool list_buffers;

    /* inspect; --memory too */
    bool check_values;
    bool print_sha256;

    /* verify */
    uint32_t decode_tokens; /* after the prompt, one at a time */
    bool combines;          /* --chunks, --isas or several --threads: all with all */
    uint64_t chunks[CLI_MAX_CHUNKS];
    uint32_t n_chunks; /* 0: chunk_tokens */
    uint64_t thread_counts[CLI_MAX_THREAD_COUNTS];
    uint32_t n_thread_counts; /* 0: n_threads */
    uint32_t isas;            /* a set (isa_names.h); 0: isa */

    /* serve */
    const char *host;
    uint16_t port;
    const char *unix_socket;
    cli_values api_keys;
    const char *api_key_file;
    cli_values allow_hosts;
    cli_values origins;
    cli_values aliases;
    uint32_t parallel; /* 0, of these: not given */
    uint32_t queue;
    uint32_t connections;
    uint64_t queue_timeout_seconds;
    uint64_t idle_seconds;
    uint64_t body_seconds;
    uint64_t replay_max_bytes;
    const char *trace_file;

    /* bench */
    uint32_t bench_stages; /* sets: bit i for entry i of bench/case.h */
    uint32_t bench_profiles;
    uint32_t bench_types;     /* matmul: of shared/weights.def; 0: all */
    const char *bench_folder; /* matmul: for a file of weights; NULL: /tmp */
    uint32_t n_runs;          /* 0: 20, or fewer of very long ones */
    bool quick;
} cli_options;

/* "run" .. ; and back, CLI_COMMAND_COUNT for an unknown name. */
const char *cli_command_name(cli_command command);
cli_command cli_command_find(const char *name);

/* An option that was given and that only a conversation has; NULL: none. */
const char *cli_chat_option(const cli_options *options);

/*
 * Reads the options of a command (argv[0] is the command's name) and the
 * environment. Returns true when the command is to be run. Otherwise the help was
 * printed or an error reported, and *status is the exit status.
 */
bool cli_options_parse(cli_command command, int argc, char **argv, cli_options *options,
                       int *status);

#endif
