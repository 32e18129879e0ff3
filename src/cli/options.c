#include "cli/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/bench_names.h"
#include "cli/environment.h"
#include "cli/help.h"
#include "cli/isa_names.h"
#include "cli/message.h"
#include "cli/nearest.h"
#include "cli/option_table.h"
#include "cli/streams.h"
#include "cli/units.h"
#include "engine/session_files.h"

static const uint64_t max_context_tokens = UINT64_C(1) << 40; /* the model's own limit is lower */
static const uint32_t max_chunk_tokens = 1u << 16;            /* what a session serves */
static const uint64_t max_memory_bytes = UINT64_C(1) << 60;
static const uint32_t default_chunk_tokens = 4096;
static const uint32_t max_decode_tokens = 1u << 16;
static const uint64_t max_store_bytes = UINT64_C(1) << 60;
static const uint64_t default_store_bytes = UINT64_C(20) << 30;
static const uint64_t max_save_every_seconds = 86400;
static const uint64_t max_parallel = 1024;
static const uint64_t max_queue = 65536;
static const uint64_t max_wait_seconds = 86400;

/* What only parsing needs to know. */
typedef struct parser {
    cli_command command;
    const char *name; /* the command's */
    cli_options *options;
    bool seen[CLI_N_OPTIONS];
    bool failed;
} parser;

static bool seen(const parser *p, cli_option_id id)
{
    return p->seen[cli_option_index(id)];
}

/* ---- Values ------------------------------------------------------------------- */

static uint64_t parse_size(parser *p, const char *option, const char *text, uint64_t min,
                           uint64_t max)
{
    char reason[256];
    uint64_t value = min;
    if (!p->failed && !cli_parse_size(text, min, max, &value, reason, sizeof reason)) {
        cli_error(p->name, "%s: %s", option, reason);
        p->failed = true;
    }
    return value;
}

static float parse_fraction(parser *p, const char *option, const char *text, double min, double max)
{
    char reason[256];
    float value = 0;
    if (!p->failed && !cli_parse_fraction(text, min, max, &value, reason, sizeof reason)) {
        cli_error(p->name, "%s: %s", option, reason);
        p->failed = true;
    }
    return value;
}

/* A copy of a list "a,b,c" that next_entry takes apart, to be freed. NULL: p->failed. */
static char *copy_list(parser *p, const char *text)
{
    char *copy = malloc(strlen(text) + 1);
    if (copy)
        strcpy(copy, text);
    else if (!p->failed)
        cli_error(p->name, "out of memory for a list");
    p->failed = p->failed || !copy;
    return copy;
}

/* The next entry from *rest on, all of it; NULL at the end, where *rest is NULL as well. */
static char *next_entry(char **rest)
{
    char *entry = *rest;
    if (!entry)
        return NULL;
    char *comma = strchr(entry, ',');
    *rest = comma ? comma + 1 : NULL;
    if (comma)
        *comma = '\0';
    return entry;
}

/* A list of sizes from 1 on into values[most], their number into *n. */
static void parse_sizes(parser *p, const char *option, const char *text, uint64_t max,
                        uint32_t most, uint64_t *values, uint32_t *n)
{
    char *list = copy_list(p, text);
    char *rest = list;
    const char *entry;
    *n = 0;
    while (!p->failed && (entry = next_entry(&rest))) {
        if (*n == most) {
            cli_error(p->name, "%s: at most %u value%s", option, most, most == 1 ? "" : "s");
            p->failed = true;
            break;
        }
        values[(*n)++] = parse_size(p, option, entry, 1, max);
    }
    free(list);
}

static void parse_contexts(parser *p, const char *text)
{
    cli_options *o = p->options;
    o->contexts_given = true;
    const bool is_one = p->command == CLI_RUN || p->command == CLI_SERVE;
    parse_sizes(p, "--ctx", text, max_context_tokens, is_one ? 1 : CLI_MAX_CONTEXTS, o->contexts,
                &o->n_contexts);
}

/* verify: a list. Of one it is the number itself, as everywhere. */
static void parse_threads(parser *p, const char *text)
{
    cli_options *o = p->options;
    parse_sizes(p, "--threads", text, KVF_MAX_THREADS,
                p->command == CLI_VERIFY ? CLI_MAX_THREAD_COUNTS : 1, o->thread_counts,
                &o->n_thread_counts);
    o->engine.n_threads = (uint32_t)o->thread_counts[0];
}

static kvf_profile_id parse_profile(parser *p, const char *source, const char *name)
{
    kvf_error error;
    kvf_profile_id id = KVF_PROFILE_FOLD;
    if (!p->failed && kvf_profile_find(name, &id, &error) != KVF_OK) {
        cli_error(p->name, "%s: %s", source, error.message);
        p->failed = true;
    }
    return id;
}

/* A list of names, as a set. */
static void parse_names(parser *p, const char *source, const char *text, cli_name_finder *find,
                        uint32_t *set)
{
    char *list = copy_list(p, text);
    char *rest = list;
    const char *entry;
    char reason[256];
    *set = 0;
    while (!p->failed && (entry = next_entry(&rest))) {
        if (!find(entry, set, reason, sizeof reason)) {
            cli_error(p->name, "%s: %s", source, reason);
            p->failed = true;
        }
    }
    free(list);
}

/* run, score: one name; verify, plan, bench: a list. */
static void parse_profiles(parser *p, const char *source, const char *text)
{
    cli_options *o = p->options;
    if (p->command == CLI_BENCH) {
        parse_names(p, source, text, cli_bench_find_profile, &o->bench_profiles);
        return;
    }
    if (p->command == CLI_RUN || p->command == CLI_SCORE || p->command == CLI_SERVE) {
        o->engine.profile = parse_profile(p, source, text);
        return;
    }
    memset(o->profiles, 0, sizeof o->profiles);
    char *list = copy_list(p, text);
    char *rest = list;
    const char *entry;
    while (!p->failed && (entry = next_entry(&rest)))
        o->profiles[parse_profile(p, source, entry)] = true;
    free(list);
}

static void parse_grid(parser *p, const char *text)
{
    p->options->engine.grid_off = strcmp(text, "off") == 0;
    if (!p->options->engine.grid_off && strcmp(text, "on") != 0) {
        cli_error(p->name, "--grid: '%.60s' is neither 'on' nor 'off'", text);
        p->failed = true;
    }
}

/* The place of a name in a list that is "a, b or c" to people. */
static size_t parse_choice(parser *p, const char *option, const char *text,
                           const char *const *names, size_t n, const char *expected)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    cli_error(p->name, "%s: '%.60s' is not one of %s", option, text, expected);
    p->failed = true;
    return 0;
}

static void parse_effort(parser *p, const char *text)
{
    static const char *const names[] = {"none", "low", "high", "max"};
    p->options->effort_given = true;
    p->options->effort =
        (kvf_effort)parse_choice(p, "--effort", text, names, 4, "none, low, high and max");
}

static void parse_release(parser *p, const char *text)
{
    static const char *const names[] = {"preview", "0731"};
    const size_t which = parse_choice(p, "--release", text, names, 2, "preview and 0731");
    p->options->release = which == 0 ? KVF_RELEASE_PREVIEW : KVF_RELEASE_0731;
}

static void add_stop(parser *p, const char *text)
{
    cli_options *o = p->options;
    if (o->n_stops == CLI_MAX_STOPS) {
        cli_error(p->name, "--stop: at most %d texts", CLI_MAX_STOPS);
        p->failed = true;
        return;
    }
    o->stops[o->n_stops++] = text;
}

static void add_value(parser *p, const char *option, const char *text, cli_values *values)
{
    if (values->n < CLI_MAX_VALUES) {
        values->list[values->n++] = text;
        return;
    }
    cli_error(p->name, "%s: at most %d values", option, CLI_MAX_VALUES);
    p->failed = true;
}

/* ---- One option ----------------------------------------------------------------- */

static void apply_sampling(parser *p, cli_option_id id, const char *value)
{
    cli_options *o = p->options;
    switch (id) {
    case OPTION_MAX_TOKENS:
        o->engine.max_tokens = parse_size(p, "--max-tokens", value, 1, max_context_tokens);
        break;
    case OPTION_TEMPERATURE:
        o->engine.temperature = parse_fraction(p, "--temperature", value, 0, 100);
        break;
    case OPTION_TOP_P: o->engine.top_p = parse_fraction(p, "--top-p", value, 0, 1); break;
    case OPTION_MIN_P: o->engine.min_p = parse_fraction(p, "--min-p", value, 0, 1); break;
    default: o->engine.seed = parse_size(p, "--seed", value, 0, UINT64_MAX); break;
    }
}

static void apply_numbers(parser *p, cli_option_id id, const char *value)
{
    cli_options *o = p->options;
    switch (id) {
    case OPTION_THREADS: parse_threads(p, value); break;
    case OPTION_CHUNKS:
        parse_sizes(p, "--chunks", value, max_chunk_tokens, CLI_MAX_CHUNKS, o->chunks,
                    &o->n_chunks);
        break;
    case OPTION_CHUNK:
        o->engine.chunk_tokens = (uint32_t)parse_size(p, "--chunk", value, 1, max_chunk_tokens);
        break;
    case OPTION_WINDOW:
        o->window_tokens = parse_size(p, "--window", value, 2, max_context_tokens);
        break;
    case OPTION_MEMORY:
        o->memory_auto = strcmp(value, "auto") == 0;
        o->memory_bytes =
            o->memory_auto ? 0 : parse_size(p, "--memory", value, 1, max_memory_bytes);
        break;
    case OPTION_WEIGHTS:
        o->weights_bytes = parse_size(p, "--weights", value, 0, max_memory_bytes);
        o->weights_given = true;
        break;
    case OPTION_RUNS:
        o->n_runs = (uint32_t)parse_size(p, "--runs", value, 1, CLI_BENCH_MAX_RUNS);
        break;
    case OPTION_DECODE:
        o->decode_tokens = (uint32_t)parse_size(p, "--decode", value, 1, max_decode_tokens);
        break;
    case OPTION_STORE_MAX:
        o->engine.store_max_bytes = parse_size(p, "--store-max", value, 1, max_store_bytes);
        break;
    case OPTION_SAVE_EVERY:
        o->engine.save_every_seconds =
            parse_size(p, "--save-every", value, 1, max_save_every_seconds);
        break;
    default: apply_sampling(p, id, value); break;
    }
}

/* Names are parts of paths: nothing may lead out of the folder, or be hidden in it. */
static void parse_session(parser *p, const char *name)
{
    char reason[256];
    if (!kvf_session_name_check(name, reason, sizeof reason)) {
        cli_error(p->name, "--session: %s", reason);
        p->failed = true;
    }
    p->options->engine.session = name;
}

static void apply_chat(parser *p, cli_option_id id, const char *value)
{
    cli_options *o = p->options;
    switch (id) {
    case OPTION_SYSTEM: o->system = value; break;
    case OPTION_MESSAGES: o->messages_file = value; break;
    case OPTION_THINK:
    case OPTION_NO_THINK:
        o->thinking = id == OPTION_THINK;
        o->thinking_given = true;
        break;
    case OPTION_SHOW_THINKING: o->show_thinking = true; break;
    case OPTION_EFFORT: parse_effort(p, value); break;
    case OPTION_RELEASE: parse_release(p, value); break;
    case OPTION_STOP: add_stop(p, value); break;
    default: apply_numbers(p, id, value); break;
    }
}

static void apply_serve(parser *p, cli_option_id id, const char *value)
{
    cli_options *o = p->options;
    switch (id) {
    case OPTION_HOST: o->host = value; break;
    case OPTION_PORT: o->port = (uint16_t)parse_size(p, "--port", value, 0, UINT16_MAX); break;
    case OPTION_UNIX_SOCKET: o->unix_socket = value; break;
    case OPTION_API_KEY: add_value(p, "--api-key", value, &o->api_keys); break;
    case OPTION_API_KEY_FILE: o->api_key_file = value; break;
    case OPTION_ALLOW_HOST: add_value(p, "--allow-host", value, &o->allow_hosts); break;
    case OPTION_CORS: add_value(p, "--cors", value, &o->origins); break;
    case OPTION_ALIAS: add_value(p, "--alias", value, &o->aliases); break;
    case OPTION_PARALLEL:
        o->parallel = (uint32_t)parse_size(p, "--parallel", value, 1, max_parallel);
        break;
    case OPTION_QUEUE: o->queue = (uint32_t)parse_size(p, "--queue", value, 1, max_queue); break;
    case OPTION_CONNECTIONS:
        o->connections = (uint32_t)parse_size(p, "--connections", value, 1, max_queue);
        break;
    case OPTION_QUEUE_TIMEOUT:
        o->queue_timeout_seconds = parse_size(p, "--queue-timeout", value, 1, max_wait_seconds);
        break;
    case OPTION_IDLE_TIMEOUT:
        o->idle_seconds = parse_size(p, "--idle-timeout", value, 1, max_wait_seconds);
        break;
    case OPTION_BODY_TIMEOUT:
        o->body_seconds = parse_size(p, "--body-timeout", value, 1, max_wait_seconds);
        break;
    case OPTION_REPLAY_MAX:
        o->replay_max_bytes = parse_size(p, "--replay-max", value, 1, max_memory_bytes);
        break;
    case OPTION_TRACE: o->trace_file = value; break;
    default: apply_chat(p, id, value); break;
    }
}

static void apply(parser *p, cli_option_id id, const char *value)
{
    cli_options *o = p->options;
    switch (id) {
    case OPTION_MODEL: o->engine.model = value; break;
    case OPTION_BACKEND: o->engine.backend = value; break;
    case OPTION_ISA: o->engine.isa = value; break;
    case OPTION_ISAS: parse_names(p, "--isas", value, cli_isa_find, &o->isas); break;
    case OPTION_PROFILE: parse_profiles(p, "--profile", value); break;
    case OPTION_PROFILES: parse_profiles(p, "--profiles", value); break;
    case OPTION_GRID: parse_grid(p, value); break;
    case OPTION_CTX: parse_contexts(p, value); break;
    case OPTION_JSON: o->output = CLI_OUTPUT_JSON; break;
    case OPTION_CSV: o->output = CLI_OUTPUT_CSV; break;
    case OPTION_PROMPT: o->prompt = value; break;
    case OPTION_FILE: o->file = value; break;
    case OPTION_INTERACTIVE: o->interactive = true; break;
    case OPTION_RAW: o->raw = true; break;
    case OPTION_DECODE_IDS: o->decode_ids = true; break;
    case OPTION_SPECIAL: o->added_tokens = true; break;
    case OPTION_IDS: o->ids_file = value; break;
    case OPTION_LOGITS: o->logits_file = value; break;
    case OPTION_SVG: o->svg_file = value; break;
    case OPTION_BUFFERS: o->list_buffers = true; break;
    case OPTION_STAGE:
        parse_names(p, "--stage", value, cli_bench_find_stage, &o->bench_stages);
        break;
    case OPTION_TYPE: parse_names(p, "--type", value, cli_bench_find_type, &o->bench_types); break;
    case OPTION_DIR: o->bench_folder = value; break;
    case OPTION_QUICK: o->quick = true; break;
    case OPTION_CHECK: o->check_values = true; break;
    case OPTION_SHA256: o->print_sha256 = true; break;
    case OPTION_SESSION: parse_session(p, value); break;
    case OPTION_STORE: o->engine.store = value; break;
    case OPTION_VERIFY_SNAPSHOT: o->engine.verify_snapshot = true; break;
    case OPTION_NO_LOCK: o->engine.no_lock = true; break;
    default: apply_serve(p, id, value); break;
    }
}

/* ---- getopt_long and its complaints ------------------------------------------------ */

/* An unknown or ambiguous long option "--name[=value]". */
static void complain_long(const parser *p, const cli_option_tables *tables, const char *argument)
{
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(argument + 2, "="), argument + 2);
    const char *known[CLI_N_OPTIONS];
    size_t n_known = 0;
    size_t n_prefixed = 0;
    for (const struct option *o = tables->longs; o->name; o++) {
        known[n_known++] = o->name;
        n_prefixed += strncmp(o->name, name, strlen(name)) == 0;
    }
    const char *elsewhere = cli_option_command(name);
    const char *near = cli_nearest(name, known, n_known);
    if (n_prefixed > 1)
        cli_error(p->name, "option --%s is ambiguous; see kvfold %s --help", name, p->name);
    else if (elsewhere)
        cli_error(p->name, "option --%s does not apply here; it belongs to kvfold %s", name,
                  elsewhere);
    else if (near)
        cli_error(p->name, "unknown option --%s; did you mean --%s?", name, near);
    else
        cli_error(p->name, "unknown option --%s; see kvfold %s --help", name, p->name);
}

/* getopt_long returned '?' or ':'; optopt and the argument before optind say why. */
static void complain(const parser *p, const cli_option_tables *tables, int result, char **argv)
{
    const char *argument = argv[optind - 1];
    const cli_option_spec *spec = NULL;
    for (size_t i = 0; i < CLI_N_OPTIONS; i++) {
        if (optopt &&
            (optopt == (int)cli_option_specs[i].id || optopt == cli_option_specs[i].letter))
            spec = &cli_option_specs[i];
    }
    if (result == ':' && spec)
        cli_error(p->name, "option --%s needs a value; see kvfold %s --help", spec->name, p->name);
    else if (optopt >= OPTION_MODEL && spec)
        cli_error(p->name, "option --%s takes no value", spec->name);
    else if (optopt)
        cli_error(p->name, "unknown option -%c; see kvfold %s --help", optopt, p->name);
    else
        complain_long(p, tables, argument);
}

/* Whether a value is one of the command's own options: its real value was forgotten. */
static bool is_own_option(const cli_option_tables *tables, const char *value)
{
    if (strncmp(value, "--", 2) != 0)
        return false;
    for (const struct option *o = tables->longs; o->name; o++) {
        if (strcmp(value + 2, o->name) == 0)
            return true;
    }
    return false;
}

/*
 * What no option's value may be. "-m --json" has forgotten the folder, "--model=--json" has
 * not; and an empty name, which a script's unset variable makes, is no file's or folder's.
 * A prompt is any text.
 */
static bool check_value(parser *p, const cli_option_tables *tables, cli_option_id id, char **argv)
{
    const char *name = cli_option_specs[cli_option_index(id)].name;
    if (!optarg || id == OPTION_PROMPT || (id == OPTION_SYSTEM && *optarg))
        return true;
    if (!*optarg)
        cli_error(p->name, "--%s: the value is empty", name);
    else if (optarg == argv[optind - 1] && is_own_option(tables, optarg))
        cli_error(p->name, "option --%s needs a value; %s is an option (--%s=%s would mean it)",
                  name, optarg, name, optarg);
    else
        return true;
    p->failed = true;
    return false;
}

/* False when help was asked for or something was wrong (p->failed). */
static bool parse_arguments(parser *p, int argc, char **argv)
{
    cli_option_tables tables;
    cli_option_tables_make(p->command, &tables);
    opterr = 0;
    optind = 1;
    int result;
    while ((result = getopt_long(argc, argv, tables.shorts, tables.longs, NULL)) != -1) {
        if (result == '?' || result == ':') {
            complain(p, &tables, result, argv);
            p->failed = true;
            return false;
        }
        const cli_option_id id =
            result >= OPTION_MODEL ? (cli_option_id)result : cli_option_of_letter(result);
        if (id == OPTION_HELP) {
            cli_help_print(p->command);
            return false;
        }
        p->seen[cli_option_index(id)] = true;
        if (check_value(p, &tables, id, argv))
            apply(p, id, optarg);
        if (p->failed)
            return false;
    }
    if (p->command == CLI_SESSION) {
        p->options->arguments = argv + optind;
        p->options->n_arguments = argc - optind;
    } else if (p->command == CLI_INSPECT && !p->options->engine.model && optind + 1 == argc) {
        p->options->engine.model = argv[optind];
    } else if (optind < argc) {
        cli_error(p->name, "unexpected argument '%.60s'; see kvfold %s --help", argv[optind],
                  p->name);
        p->failed = true;
    }
    return !p->failed;
}

/* ---- The environment ----------------------------------------------------------------- */

/* docs/FORMAT.md 7: the command line wins; DISABLE_KV_OPTS wins over FP8_KV_STORE. */
static void read_environment(parser *p)
{
    cli_options *o = p->options;
    bool legacy = false;
    bool packed = false;
    p->failed = p->failed || !cli_environment_switch(p->name, "DS4_DISABLE_KV_OPTS", &legacy) ||
                !cli_environment_switch(p->name, "DS4_METAL_FP8_KV_STORE", &packed);
    if (!seen(p, OPTION_PROFILE) && legacy)
        o->engine.profile = KVF_PROFILE_LEGACY;
    else if (!seen(p, OPTION_PROFILE) && packed)
        o->engine.profile = KVF_PROFILE_PACKED;
    const char *tile = cli_environment_text("DS4_INDEXER_SCORE_TILE");
    if (tile)
        o->engine.score_tile_tokens =
            (uint32_t)parse_size(p, "DS4_INDEXER_SCORE_TILE", tile, 1, max_chunk_tokens);
    if (!o->engine.isa && !o->isas) {
        o->engine.isa = cli_environment_text("KVFOLD_ISA");
        o->isa_from_environment = o->engine.isa != NULL;
    }
    const unsigned with_threads = cli_option_specs[cli_option_index(OPTION_THREADS)].commands;
    if (!seen(p, OPTION_THREADS) && with_threads & 1u << p->command && p->command != CLI_PLAN)
        o->engine.n_threads = cli_environment_threads(p->name);
    o->engine.profile_given = seen(p, OPTION_PROFILE) || legacy || packed;
    const char *terminal = cli_environment_text("TERM");
    o->plain_terminal =
        cli_environment_text("NO_COLOR") || !terminal || strcmp(terminal, "dumb") == 0;
    o->engine.data_home = cli_environment_text("XDG_DATA_HOME");
    o->engine.home = cli_environment_text("HOME");
}

const char *cli_chat_option(const cli_options *o)
{
    return o->system                            ? "--system"
           : o->messages_file                   ? "--messages"
           : o->thinking_given                  ? o->thinking ? "--think" : "--no-think"
           : o->effort_given                    ? "--effort"
           : o->release != KVF_RELEASE_BY_TEXTS ? "--release"
           : o->show_thinking                   ? "--show-thinking"
                                                : NULL;
}

/* ---- What must hold between options ---------------------------------------------------- */

static bool check_sessions(const parser *p)
{
    const cli_options *o = p->options;
    if (seen(p, OPTION_STORE_MAX) && !o->engine.store)
        cli_error(p->name, "--store-max only matters with --store; give both");
    else if (seen(p, OPTION_STORE_MAX) && o->engine.session)
        cli_error(p->name, "--store-max is for prefixes; a named session is never removed");
    else if (seen(p, OPTION_SAVE_EVERY) && !o->engine.session)
        cli_error(p->name, "--save-every only matters with --session; give both");
    else if (o->engine.verify_snapshot && !o->engine.session && !o->engine.store)
        cli_error(p->name, "--verify-snapshot only matters with --session or --store");
    else if (o->engine.no_lock && !o->engine.session && !o->engine.store)
        cli_error(p->name, "--no-lock only matters with --session or --store");
    else if (o->engine.store && o->interactive && !o->engine.session)
        cli_error(p->name, "--store finds single prompts; with -i give --session NAME as well");
    else
        return true;
    return false;
}

static bool check_chat(const parser *p)
{
    const cli_options *o = p->options;
    const char *prompt = o->prompt ? "-p" : o->file ? "-f" : o->ids_file ? "--ids" : NULL;
    if (o->messages_file && prompt)
        cli_error(p->name, "--messages and %s are both given; the prompt is one of them", prompt);
    else if (o->messages_file && o->system)
        cli_error(p->name, "--messages and --system are both given; a system's text is one of the "
                           "messages");
    else if (seen(p, OPTION_THINK) && seen(p, OPTION_NO_THINK))
        cli_error(p->name, "--think and --no-think are both given; choose one");
    else if (seen(p, OPTION_NO_THINK) && o->effort != KVF_EFFORT_NONE)
        cli_error(p->name, "--effort is of the thinking, which --no-think leaves out");
    else if (o->raw && cli_chat_option(o))
        cli_error(p->name, "%s is for conversations; --raw takes the text as it is",
                  cli_chat_option(o));
    else if (o->ids_file && cli_chat_option(o))
        cli_error(p->name, "%s is for conversations; --ids takes tokens as they are",
                  cli_chat_option(o));
    else if (o->ids_file && o->n_stops > 0)
        cli_error(p->name, "--stop is for text; with --ids the answer is token ids");
    else
        return check_sessions(p);
    return false;
}

static bool check_run(const parser *p)
{
    const cli_options *o = p->options;
    if (o->prompt && o->file)
        cli_error(p->name, "-p and -f are both given; the prompt is one of them");
    else if (o->ids_file && (o->prompt || o->file))
        cli_error(p->name, "--ids and %s are both given; the prompt is one of them",
                  o->prompt ? "-p" : "-f");
    else if (o->ids_file && o->interactive)
        cli_error(p->name, "--ids is for single answers; a conversation (-i) is text");
    else if (!o->prompt && !o->file && !o->ids_file && !o->messages_file && !o->interactive &&
             !o->engine.session)
        cli_error(p->name, "no prompt; give -p TEXT, -f FILE, --messages FILE, --ids FILE or -i");
    else if (o->interactive && o->output == CLI_OUTPUT_JSON)
        cli_error(p->name, "--json is for single answers; leave it out with -i");
    else if (o->interactive && o->file && strcmp(o->file, "-") == 0)
        cli_error(p->name, "-f - and -i both want standard input; give one of them");
    else if (o->interactive && o->messages_file && strcmp(o->messages_file, "-") == 0)
        cli_error(p->name, "--messages - and -i both want standard input; give one of them");
    else
        return check_chat(p);
    return false;
}

static bool check_score(const parser *p)
{
    const cli_options *o = p->options;
    if (o->file && o->ids_file)
        cli_error(p->name, "-f and --ids are both given; the text is one of them");
    else if (!o->file && !o->ids_file)
        cli_error(p->name, "no text; give -f FILE or --ids FILE");
    else
        return true;
    return false;
}

static bool check_tokenize(const parser *p)
{
    const cli_options *o = p->options;
    if (o->prompt && o->file)
        cli_error(p->name, "-p and -f are both given; the text is one of them");
    else if (o->decode_ids && o->added_tokens)
        cli_error(p->name, "--special is for text; ids (--decode) say themselves what they are");
    else
        return true;
    return false;
}

static bool check_serve(const parser *p)
{
    const cli_options *o = p->options;
    if (o->unix_socket && (seen(p, OPTION_HOST) || seen(p, OPTION_PORT)))
        cli_error(p->name, "--unix-socket and --%s are both given; choose one",
                  seen(p, OPTION_HOST) ? "host" : "port");
    else if (seen(p, OPTION_THINK) && seen(p, OPTION_NO_THINK))
        cli_error(p->name, "--think and --no-think are both given; choose one");
    else
        return true;
    return false;
}

static bool wants_stdin(const cli_options *o)
{
    return o->interactive || (o->file && strcmp(o->file, "-") == 0) ||
           (o->messages_file && strcmp(o->messages_file, "-") == 0) ||
           (o->ids_file && strcmp(o->ids_file, "-") == 0);
}

static bool check(const parser *p)
{
    const cli_options *o = p->options;
    if (!o->engine.model && p->command != CLI_BENCH && p->command != CLI_SESSION)
        cli_error(p->name, "no model; give %s",
                  p->command == CLI_INSPECT ? "a checkpoint: FILE or DIR"
                  : p->command == CLI_PLAN  ? "-m FILE, -m DIR or v4-flash"
                                            : "-m FILE or -m DIR");
    else if (seen(p, OPTION_JSON) && seen(p, OPTION_CSV))
        cli_error(p->name, "--json and --csv are both given; choose one");
    else if (seen(p, OPTION_PROFILE) && seen(p, OPTION_PROFILES))
        cli_error(p->name, "--profile and --profiles are both given; choose one");
    else if (seen(p, OPTION_CHUNK) && seen(p, OPTION_CHUNKS))
        cli_error(p->name, "--chunk and --chunks are both given; choose one");
    else if (seen(p, OPTION_ISA) && seen(p, OPTION_ISAS))
        cli_error(p->name, "--isa and --isas are both given; choose one");
    else if (o->engine.grid_off && o->engine.profile != KVF_PROFILE_LEGACY)
        cli_error(p->name, "--grid off needs --profile legacy: %s stores grid values only",
                  kvf_profile_get(o->engine.profile)->name);
    else if (seen(p, OPTION_WEIGHTS) && !seen(p, OPTION_MEMORY))
        cli_error(p->name, "--weights only matters with --memory; give both");
    else if (wants_stdin(o) && cli_stream_was_closed(STDIN_FILENO))
        cli_error(p->name, "standard input is closed; give it a terminal, a file or a pipe, or "
                           "the text in another way");
    else if (o->memory_auto &&
             (seen(p, OPTION_WEIGHTS) || strcmp(o->engine.model, "v4-flash") == 0))
        cli_error(p->name, "--memory auto is what a checkpoint's run would be allowed here; give "
                           "its folder as -m, and no --weights");
    else if (p->command == CLI_RUN)
        return check_run(p);
    else if (p->command == CLI_SCORE)
        return check_score(p);
    else if (p->command == CLI_TOKENIZE)
        return check_tokenize(p);
    else if (p->command == CLI_SERVE)
        return check_serve(p);
    else
        return true;
    return false;
}

static void set_defaults(cli_options *o, cli_command command)
{
    static const uint64_t verify_contexts[] = {1024, 8192};
    static const uint64_t plan_contexts[] = {8192,   16384,  32768,  65536,  98304,
                                             131072, 262144, 524288, 1048576};
    static const uint64_t bench_contexts[] = {8192, 32768, 98304, 262144, 1048576};
    memset(o, 0, sizeof *o);
    o->command = cli_command_name(command);
    o->engine.profile = KVF_PROFILE_FOLD;
    for (int i = 0; i < KVF_PROFILE_COUNT; i++)
        o->profiles[i] = true;
    o->engine.chunk_tokens = default_chunk_tokens;
    o->engine.max_tokens = 256;
    o->engine.top_p = 1;
    o->engine.seed = 1;
    o->window_tokens = 4096;
    o->decode_tokens = 64;
    o->engine.store_max_bytes = default_store_bytes;
    o->engine.save_every_seconds = 30;
    o->engine.counts_checkpoints = command == CLI_PLAN;
    if (command == CLI_VERIFY) {
        memcpy(o->contexts, verify_contexts, sizeof verify_contexts);
        o->n_contexts = sizeof verify_contexts / sizeof verify_contexts[0];
    } else if (command == CLI_PLAN) {
        memcpy(o->contexts, plan_contexts, sizeof plan_contexts);
        o->n_contexts = sizeof plan_contexts / sizeof plan_contexts[0];
    } else if (command == CLI_SERVE) {
        o->host = "127.0.0.1";
        o->port = 8080;
        o->engine.max_tokens = 0; /* the scheduler's */
    } else if (command == CLI_BENCH) {
        memcpy(o->contexts, bench_contexts, sizeof bench_contexts);
        o->n_contexts = sizeof bench_contexts / sizeof bench_contexts[0];
        o->bench_stages = CLI_BENCH_CASES;
        o->bench_profiles = UINT32_MAX;
    }
}

/* verify: what is compared with what. */
static void choose_combinations(parser *p)
{
    cli_options *o = p->options;
    o->combines = o->n_chunks > 0 || o->isas || o->n_thread_counts > 1;
    if (!o->combines)
        o->profiles[KVF_PROFILE_LEGACY] = true; /* what the others are compared with */
    else if (!seen(p, OPTION_PROFILE) && !seen(p, OPTION_PROFILES))
        for (int i = 0; i < KVF_PROFILE_COUNT; i++)
            o->profiles[i] = i == KVF_PROFILE_FOLD;
}

bool cli_options_parse(cli_command command, int argc, char **argv, cli_options *options,
                       int *status)
{
    parser p = {.command = command, .name = cli_command_name(command), .options = options};
    set_defaults(options, command);
    if (!parse_arguments(&p, argc, argv)) {
        *status = p.failed ? CLI_EXIT_BAD_INPUT : CLI_EXIT_OK;
        return false;
    }
    read_environment(&p);
    if (command == CLI_TOKENIZE && !options->prompt && !options->file)
        options->file = "-";
    options->engine.grid_given = seen(&p, OPTION_GRID);
    options->engine.temperature_given = seen(&p, OPTION_TEMPERATURE);
    options->engine.top_p_given = seen(&p, OPTION_TOP_P);
    options->engine.min_p_given = seen(&p, OPTION_MIN_P);
    options->engine.seed_given = seen(&p, OPTION_SEED);
    /* Without a grid there is only one profile to mean. */
    if (options->engine.grid_off && !seen(&p, OPTION_PROFILE))
        options->engine.profile = KVF_PROFILE_LEGACY;
    if (command == CLI_VERIFY)
        choose_combinations(&p);
    *status = CLI_EXIT_BAD_INPUT;
    return !p.failed && check(&p);
}
