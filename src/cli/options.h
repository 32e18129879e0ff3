/*
 * Everything the user decides: the command line and the environment, read here
 * and nowhere else, and passed down as one struct.
 */
#ifndef KVF_CLI_OPTIONS_H
#define KVF_CLI_OPTIONS_H

#include "kvfold.h"

typedef enum cli_command {
    CLI_RUN,
    CLI_VERIFY,
    CLI_SCORE,
    CLI_PLAN,
    CLI_BENCH,
    CLI_SESSION,
    CLI_INSPECT,
    CLI_TOKENIZE,
    CLI_COMMAND_COUNT
} cli_command;

typedef enum cli_output { CLI_OUTPUT_TABLE, CLI_OUTPUT_CSV, CLI_OUTPUT_JSON } cli_output;

enum { CLI_MAX_CONTEXTS = 64, CLI_MAX_CHUNKS = 16, CLI_MAX_THREAD_COUNTS = 16 };

typedef struct cli_options {
    const char *command; /* its name, for messages */

    /* Model and device. */
    const char *model; /* a checkpoint; plan: or "v4-flash"; bench: NULL for that */
    const char *backend;
    const char *isa;           /* NULL: the best here; bench: a list "avx2,avx512" */
    bool isa_from_environment; /* KVFOLD_ISA, for messages */
    uint32_t n_threads;        /* 0: all; plan: 1 */

    /* Cache. */
    kvf_profile_id profile;           /* run, score */
    bool profile_given;               /* else a saved session's own is taken */
    bool profiles[KVF_PROFILE_COUNT]; /* verify, plan: which of them */
    uint32_t chunk_tokens;
    uint32_t score_tile_tokens; /* 0: the profile's own */
    bool grid_off;
    bool grid_given;
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
    uint64_t max_tokens;
    float temperature;
    float top_p;
    float min_p;
    uint64_t seed;
    bool temperature_given; /* else a saved session's own are taken */
    bool top_p_given;
    bool min_p_given;
    bool seed_given;

    /* Sessions in files: run and session. */
    const char *session; /* --session NAME; NULL: the session ends with the process */
    const char *store;   /* --store DIR; NULL: the default folder, and no prefixes */
    uint64_t store_max_bytes;
    uint64_t save_every_seconds;
    bool verify_snapshot;
    bool no_lock;          /* go on where files cannot be locked */
    const char *data_home; /* $XDG_DATA_HOME, $HOME; NULL: not set */
    const char *home;

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
    bool counts_checkpoints; /* a session of the library's defaults; the command's has none */

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

/*
 * Reads the options of a command (argv[0] is the command's name) and the
 * environment. Returns true when the command is to be run. Otherwise the help was
 * printed or an error reported, and *status is the exit status.
 */
bool cli_options_parse(cli_command command, int argc, char **argv, cli_options *options,
                       int *status);

/* The chunk that a session of that context is opened with: never longer than the context. */
uint32_t cli_options_chunk_tokens(const cli_options *options, uint64_t context_tokens);

/* A session's options for a profile and a context. */
kvf_session_options cli_options_session(const cli_options *options, kvf_profile_id profile,
                                        uint64_t context_tokens);

#endif
