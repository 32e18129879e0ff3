/*
 * kvfold bench: what the machine can do, then what each stage takes of it, on synthetic
 * data at a model's geometry. The cases are bench/'s; here is what is measured, in which
 * order, and whether it fits.
 */
#include <stdlib.h>
#include <string.h>

#include "bench/peer.h"
#include "cli/bench_batch.h"
#include "cli/bench_matmul.h"
#include "cli/bench_names.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/events.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/outfile.h"
#include "engine/amounts.h"
#include "engine/budget.h"
#include "model/config.h"

enum { MAX_ISAS = 8, ISA_BYTES = 32, DESCRIPTION_BYTES = 128 };

/* Quick: one short context, few runs, no working set that is worth the name. */
static const uint64_t quick_context_tokens = 4096;
static const uint64_t quick_cold_bytes = 16u << 20;
/* Four times quick_cold_bytes: a share of what is left is read to find the memory's speed. */
static const uint64_t least_memory_bytes = 64u << 20;
/* OpenBLAS's threads map this for their blocks some time after it was loaded, if they can. */
static const uint64_t peer_memory_bytes = 128u << 20;
static const uint64_t check_context_tokens = 8192;

typedef struct benchmark {
    const cli_options *options;
    const char *model;
    kvf_geometry geometry;
    bench_machine machine;
    kvf_limit limit;       /* with the least left, of all kinds */
    uint64_t memory_bytes; /* that cases may take */
    uint64_t cold_bytes;
    uint64_t contexts[CLI_MAX_CONTEXTS];
    uint32_t n_contexts;
    char isas[MAX_ISAS][ISA_BYTES]; /* "": the best */
    uint32_t n_isas;
    /* The device that is measured now. */
    kvf_device *device;
    uint32_t i_device;
    bench_peaks peaks;
    bench_peaks best_peaks; /* of the best ISA: OpenBLAS takes its own */
    cli_bench_rows rows;
    uint32_t n_matmuls; /* measured so far */
    uint32_t n_batches;
} benchmark;

/* ---- What is asked for ------------------------------------------------------------ */

static int load_geometry(benchmark *b)
{
    const cli_options *options = b->options;
    b->model = options->engine.model ? options->engine.model : "DeepSeek-V4-Flash";
    if (!options->engine.model) {
        kvf_geometry_v4_flash(&b->geometry);
        return CLI_EXIT_OK;
    }
    kvf_model_config *config = calloc(1, sizeof *config);
    if (!config)
        return cli_error("bench", "out of memory");
    const int status = cli_config_load("bench", options->engine.model, config);
    b->geometry = config->geometry;
    free(config);
    return status;
}

/* Contexts that were asked for must exist; of the default ones those that do. */
static int choose_contexts(benchmark *b)
{
    const cli_options *options = b->options;
    const uint64_t most = b->geometry.max_tokens;
    for (uint32_t i = 0; i < options->n_contexts; i++) {
        char context[KVF_NUMBER_BYTES];
        char limit[KVF_NUMBER_BYTES];
        if (options->contexts[i] <= most)
            b->contexts[b->n_contexts++] = options->contexts[i];
        else if (options->contexts_given)
            return cli_error("bench", "--ctx %s is more than the model's maximum of %s tokens",
                             kvf_show_count(options->contexts[i], context),
                             kvf_show_count(most, limit));
    }
    if (!options->contexts_given && (options->quick || b->n_contexts == 0)) {
        b->contexts[0] = quick_context_tokens < most ? quick_context_tokens : most;
        b->n_contexts = 1;
    }
    return CLI_EXIT_OK;
}

/* --isa as a list; one empty name where there is none. */
static int choose_isas(benchmark *b)
{
    const char *rest = b->options->engine.isa;
    do {
        const int length = rest ? (int)strcspn(rest, ",") : 0;
        if (b->n_isas == MAX_ISAS || length >= ISA_BYTES || (rest && length == 0))
            return cli_error("bench", "--isa: '%.60s' is not a list of up to %d ISAs",
                             b->options->engine.isa, MAX_ISAS);
        snprintf(b->isas[b->n_isas++], ISA_BYTES, "%.*s", length, rest ? rest : "");
        rest = rest && rest[length] == ',' ? rest + length + 1 : NULL;
    } while (rest);
    return CLI_EXIT_OK;
}

static bool wants_profile(const benchmark *b, bench_profile profile)
{
    return b->options->bench_profiles >> profile & 1;
}

/* Without OpenBLAS only those who asked for nothing else can be helped by an error. */
static int check_peer(const benchmark *b)
{
    if (b->options->bench_profiles == 1u << BENCH_OPENBLAS && !bench_peer_available())
        return cli_error("bench", "--profile openblas: this build has no OpenBLAS");
    return CLI_EXIT_OK;
}

static int choose_sizes(benchmark *b)
{
    kvf_limits limits;
    kvf_limits_read(&limits);
    b->limit = limits.tightest[0];
    for (int i = 1; i < KVF_LIMIT_KINDS; i++)
        if (limits.tightest[i].left_bytes < b->limit.left_bytes)
            b->limit = limits.tightest[i];
    uint64_t left = b->limit.left_bytes;
    /* In this order: OpenBLAS waits for ever for memory that it cannot get as it is loaded. */
    if (left >= least_memory_bytes && bench_peer_available() && left >= peer_memory_bytes)
        left -= peer_memory_bytes;
    char least[KVF_NUMBER_BYTES];
    char available[KVF_NUMBER_BYTES];
    if (left < least_memory_bytes)
        return cli_error("bench", "needs %s at the least; %s leaves %s",
                         kvf_show_bytes(least_memory_bytes, least), b->limit.name,
                         kvf_show_bytes(left, available));
    bench_machine_describe(&b->machine);
    b->memory_bytes = left / 10 * 9; /* the rest is the system's, and the process's own */
    b->cold_bytes = b->options->quick ? quick_cold_bytes : b->machine.l3_bytes / 2 * 3;
    if (b->cold_bytes > left / 4)
        b->cold_bytes = left / 4;
    b->cold_bytes = b->cold_bytes / 512 * 512;
    return CLI_EXIT_OK;
}

/* ---- The machine ------------------------------------------------------------------ */

static FILE *report_stream(const benchmark *b)
{
    return b->options->output == CLI_OUTPUT_TABLE ? stdout : stderr;
}

static int open_device(benchmark *b, const char *isa)
{
    const cli_options *options = b->options;
    kvf_error error;
    const kvf_device_options device_options = {.backend = options->engine.backend,
                                               .isa = isa[0] ? isa : NULL,
                                               .n_threads = options->engine.n_threads};
    if (kvf_device_open(&device_options, &b->device, &error) != KVF_OK)
        return cli_error("bench", "%s%s", error.message,
                         options->isa_from_environment ? " (KVFOLD_ISA asked for it)" : "");
    return CLI_EXIT_OK;
}

/* Peaks of the device that is open, with one thread and with all. */
static int measure_peaks(const benchmark *b, bench_peaks *one, bench_peaks *all)
{
    const char *isa = kvf_device_isa_name(b->device);
    const bool quick = b->options->quick;
    kvf_error error;
    void *memory = NULL;
    if (posix_memalign(&memory, 64, b->cold_bytes) != 0)
        return cli_error("bench", "no memory for %llu bytes to read",
                         (unsigned long long)b->cold_bytes);
    memset(memory, 1, b->cold_bytes);
    kvf_status status = bench_peaks_measure(isa, 1, memory, b->cold_bytes, quick, one, &error);
    if (status == KVF_OK)
        status = bench_peaks_measure(isa, kvf_device_n_threads(b->device), memory, b->cold_bytes,
                                     quick, all, &error);
    free(memory);
    return status == KVF_OK ? CLI_EXIT_OK : cli_error("bench", "%s", error.message);
}

static int measure_device_peaks(benchmark *b)
{
    bench_peaks one;
    const int status = measure_peaks(b, &one, &b->peaks);
    if (status == CLI_EXIT_OK)
        cli_bench_print_peaks(report_stream(b), kvf_device_isa_name(b->device), &one, &b->peaks);
    return status;
}

/* What the peer is held against, whatever ISA the stages are forced to. */
static int measure_best_peaks(benchmark *b)
{
    bench_peaks one;
    if (!wants_profile(b, BENCH_OPENBLAS) || !bench_peer_available())
        return CLI_EXIT_OK;
    int status = open_device(b, "");
    if (status == CLI_EXIT_OK)
        status = measure_peaks(b, &one, &b->best_peaks);
    kvf_device_close(b->device);
    b->device = NULL;
    return status;
}

/* ---- Cases ------------------------------------------------------------------------ */

static bench_sampling sampling_of(const benchmark *b, bench_stage stage)
{
    /* A session's context grows with its runs; they stay a small part of it. */
    static const uint32_t max_session_runs = 50;
    const cli_options *options = b->options;
    bench_sampling sampling = {.min_runs = options->n_runs ? options->n_runs : 20,
                               .max_runs = BENCH_MAX_RUNS,
                               .target_seconds = 0.5,
                               .limit_seconds = options->n_runs ? 0 : 20};
    if (options->quick && !options->n_runs)
        sampling.min_runs = 3;
    if (options->quick)
        sampling.target_seconds = 0;
    if (stage == BENCH_LAYER || stage == BENCH_STEP)
        sampling.max_runs =
            sampling.min_runs > max_session_runs ? sampling.min_runs : max_session_runs;
    return sampling;
}

/* "select, fold at 96k, 8 queries" */
static const char *describe(const bench_input *input, char *text, size_t text_bytes)
{
    char context[KVF_NUMBER_BYTES];
    snprintf(text, text_bytes, "%s, %s at %s, %u %s", bench_stage_name(input->stage),
             bench_profile_name(input->profile), kvf_show_context(input->context_tokens, context),
             input->n_queries, input->n_queries == 1 ? "query" : "queries");
    return text;
}

/* Says on stderr what is left out for want of memory. */
static bool fits(const benchmark *b, const bench_input *input)
{
    const uint64_t needed_bytes = bench_input_bytes(input);
    char what[DESCRIPTION_BYTES];
    char needed[KVF_NUMBER_BYTES];
    char available[KVF_NUMBER_BYTES];
    if (needed_bytes <= b->memory_bytes)
        return true;
    fprintf(stderr, "kvfold: bench: left out: %s needs %s; %s has %s for it\n",
            describe(input, what, sizeof what), kvf_show_bytes(needed_bytes, needed), b->limit.name,
            kvf_show_bytes(b->memory_bytes, available));
    return false;
}

static int report_difference(const bench_input *input, const kvf_error *error)
{
    char what[DESCRIPTION_BYTES];
    cli_error("bench", "%s: not the output of the other profiles: %s",
              describe(input, what, sizeof what), error->message);
    return CLI_EXIT_DIFFERENT;
}

static int add_row(benchmark *b, const bench_input *input, const bench_result *result)
{
    const bool peer = input->profile == BENCH_OPENBLAS;
    cli_bench_row *row = cli_bench_rows_add(&b->rows);
    if (!row)
        return cli_error("bench", "out of memory for results");
    *row = (cli_bench_row){.stage = input->stage,
                           .profile = input->profile,
                           .context_tokens = input->context_tokens,
                           .n_queries = input->n_queries,
                           .isa = peer ? bench_peer_core() : kvf_device_isa_name(b->device),
                           .backend = peer ? "openblas" : kvf_device_backend_name(b->device),
                           .n_threads = kvf_device_n_threads(b->device),
                           .i_device = b->i_device,
                           .result = *result};
    return b->options->output == CLI_OUTPUT_TABLE
               ? CLI_EXIT_OK
               : cli_bench_print_record(&b->rows, b->options->output);
}

static int measure_case(benchmark *b, const bench_input *input, bench_expected *expected)
{
    const bench_sampling sampling = sampling_of(b, input->stage);
    kvf_error error;
    bench_result result;
    bool agrees;
    char what[DESCRIPTION_BYTES];
    if (cli_interrupted())
        return CLI_EXIT_INTERRUPTED;
    if (!bench_input_exists(input) || !fits(b, input))
        return CLI_EXIT_OK;
    const bench_peaks *peaks = input->profile == BENCH_OPENBLAS ? &b->best_peaks : &b->peaks;
    const kvf_status status =
        bench_measure(input, peaks, &sampling, expected, &agrees, &result, &error);
    if (status != KVF_OK)
        return cli_error("bench", "%s: %s", describe(input, what, sizeof what), error.message);
    return agrees ? add_row(b, input, &result) : report_difference(input, &error);
}

static bench_input make_input(const benchmark *b, bench_stage stage, uint64_t context_tokens,
                              uint32_t n_queries)
{
    return (bench_input){.device = b->device,
                         .geometry = &b->geometry,
                         .stage = stage,
                         .context_tokens = context_tokens,
                         .n_queries = n_queries,
                         .cold_bytes = b->cold_bytes,
                         .max_runs = sampling_of(b, stage).max_runs};
}

/* All profiles at one size, each held to the first one's output. */
static int measure_profiles(benchmark *b, bench_stage stage, uint64_t context_tokens,
                            uint32_t n_queries)
{
    bench_input input = make_input(b, stage, context_tokens, n_queries);
    bench_expected expected = {0};
    int status = CLI_EXIT_OK;
    for (int i = 0; i < BENCH_PROFILE_COUNT && status == CLI_EXIT_OK; i++) {
        input.profile = (bench_profile)i;
        if (wants_profile(b, input.profile))
            status = measure_case(b, &input, &expected);
    }
    bench_expected_free(&expected);
    return status;
}

static int measure_stage(benchmark *b, bench_stage stage)
{
    static const uint32_t n_queries[] = {1, 8, 512};
    const int n_sizes = stage == BENCH_SELECT ? 3 : 1;
    int status = CLI_EXIT_OK;
    for (int q = 0; q < n_sizes; q++)
        for (uint32_t i = 0; i < b->n_contexts && status == CLI_EXIT_OK; i++)
            status = measure_profiles(b, stage, b->contexts[i], n_queries[q]);
    if (b->options->output == CLI_OUTPUT_TABLE) {
        const int printed = cli_bench_print_table(&b->rows, b->i_device, stage);
        status = status == CLI_EXIT_OK ? printed : status;
    }
    return status;
}

/*
 * Whatever is asked for: fold selects the rows that list selects, and what is attended is
 * the same to the bit. Otherwise times mean nothing.
 */
static int check_device(benchmark *b)
{
    static const bench_profile compared[] = {BENCH_LIST, BENCH_FOLD};
    const uint64_t most = b->geometry.max_tokens;
    bench_input input =
        make_input(b, BENCH_LAYER, most < check_context_tokens ? most : check_context_tokens, 1);
    bench_expected expected = {0};
    int status = CLI_EXIT_OK;
    for (int i = 0; i < 2 && status == CLI_EXIT_OK; i++) {
        kvf_error error;
        char needed[KVF_NUMBER_BYTES];
        bool agrees = true;
        input.profile = compared[i];
        if (bench_input_bytes(&input) > b->memory_bytes)
            status = cli_error("bench", "the profiles' check needs %s; %s leaves less",
                               kvf_show_bytes(bench_input_bytes(&input), needed), b->limit.name);
        else if (bench_input_exists(&input) &&
                 bench_measure(&input, &b->peaks, NULL, &expected, &agrees, NULL, &error) != KVF_OK)
            status = cli_error("bench", "%s", error.message);
        else if (!agrees)
            status = report_difference(&input, &error);
    }
    bench_expected_free(&expected);
    return status;
}

/* ---- The command ------------------------------------------------------------------ */

static int measure_device(benchmark *b, const char *isa)
{
    int status = open_device(b, isa);
    if (status != CLI_EXIT_OK)
        return status;
    if (b->device->backend->addresses_host_memory)
        status = measure_device_peaks(b);
    if (status == CLI_EXIT_OK && b->options->bench_stages & CLI_BENCH_CASES)
        status = check_device(b);
    for (int stage = 0; stage < BENCH_STAGE_COUNT && status == CLI_EXIT_OK; stage++) {
        if (b->options->bench_stages >> stage & 1)
            status = measure_stage(b, (bench_stage)stage);
    }
    if (status == CLI_EXIT_OK && b->options->bench_stages & CLI_BENCH_BATCH) {
        const cli_bench_batch batch = {.options = b->options,
                                       .device = b->device,
                                       .contexts = b->contexts,
                                       .n_contexts = b->n_contexts,
                                       .memory_bytes = b->memory_bytes,
                                       .n_printed = &b->n_batches};
        status = cli_bench_batch_run(&batch);
    }
    if (status == CLI_EXIT_OK && b->options->bench_stages & CLI_BENCH_MATMUL)
        status = cli_bench_matmul(b->options, b->device, &b->machine, &b->n_matmuls);
    kvf_device_close(b->device);
    b->device = NULL;
    return status;
}

/* Every ISA is there before the first is measured for half an hour. */
static int check_isas(benchmark *b)
{
    for (uint32_t i = 0; i < b->n_isas; i++) {
        const int status = open_device(b, b->isas[i]);
        if (status != CLI_EXIT_OK)
            return status;
        kvf_device_close(b->device);
        b->device = NULL;
    }
    return CLI_EXIT_OK;
}

/* A device with memory of its own: what works on the host's arrays cannot be timed on it. */
static bool is_apart(const cli_options *options)
{
    const kvf_backend *backend;
    return kvf_backend_find(options->engine.backend, &backend, NULL) == KVF_OK &&
           !backend->addresses_host_memory;
}

/* There batch is what is measured, and nothing else. */
static int choose_stages(benchmark *b, cli_options *own)
{
    if (!is_apart(own))
        return CLI_EXIT_OK;
    if (own->bench_stages == CLI_BENCH_CASES)
        own->bench_stages = CLI_BENCH_BATCH;
    b->options = own;
    return own->bench_stages == CLI_BENCH_BATCH
               ? CLI_EXIT_OK
               : cli_error("bench",
                           "--backend %s: --stage batch times passes of a model there; the other "
                           "stages time the CPU's kernels against its peaks, on cpu or ref",
                           own->engine.backend);
}

/* batch runs a model; its records have columns of their own. */
static int check_batch(const cli_options *options)
{
    if (!(options->bench_stages & CLI_BENCH_BATCH))
        return CLI_EXIT_OK;
    if (!options->engine.model)
        return cli_error("bench", "--stage batch runs a model: name it with --model");
    if (options->output == CLI_OUTPUT_CSV && options->bench_stages != CLI_BENCH_BATCH)
        return cli_error("bench", "--csv: batch has other columns than the other stages; "
                                  "measure it alone, or take --json");
    if (options->svg_file && options->bench_stages == CLI_BENCH_BATCH)
        return cli_error("bench", "--svg draws stages against contexts, not batch");
    return CLI_EXIT_OK;
}

/* matmul has types of weights in the place of contexts and profiles. */
static int check_matmul(const cli_options *options)
{
    const bool matmul = (options->bench_stages & CLI_BENCH_MATMUL) != 0;
    const bool others = (options->bench_stages & ~CLI_BENCH_MATMUL) != 0;
    if (!matmul && (options->bench_types || options->bench_folder))
        return cli_error("bench", "--type and --dir only matter with --stage matmul");
    if (matmul && options->engine.backend && strcmp(options->engine.backend, "cpu") != 0)
        return cli_error("bench", "--stage matmul times the kernels of --backend cpu, not of %.40s",
                         options->engine.backend);
    if (matmul && others && options->output == CLI_OUTPUT_CSV)
        return cli_error("bench", "--csv: matmul has other columns than the other stages; "
                                  "measure it alone, or take --json");
    if (matmul && !others && options->svg_file)
        return cli_error("bench", "--svg draws against contexts; matmul has none");
    return CLI_EXIT_OK;
}

static int prepare_all(benchmark *b)
{
    int status = check_matmul(b->options);
    if (status == CLI_EXIT_OK)
        status = check_batch(b->options);
    if (status == CLI_EXIT_OK)
        status = load_geometry(b);
    if (status == CLI_EXIT_OK)
        status = choose_contexts(b);
    if (status == CLI_EXIT_OK)
        status = choose_isas(b);
    if (status == CLI_EXIT_OK)
        status = check_peer(b);
    if (status == CLI_EXIT_OK)
        status = choose_sizes(b);
    if (status == CLI_EXIT_OK && b->options->svg_file)
        status = cli_outfile_try("bench", b->options->svg_file);
    return status == CLI_EXIT_OK ? check_isas(b) : status;
}

int cli_bench(const cli_options *options)
{
    benchmark *b = calloc(1, sizeof *b);
    if (!b)
        return cli_error("bench", "out of memory");
    cli_options own = *options;
    b->options = options;
    int status = choose_stages(b, &own);
    if (status == CLI_EXIT_OK)
        status = prepare_all(b);
    if (status == CLI_EXIT_OK) {
        cli_bench_print_machine(report_stream(b), b->model, &b->geometry, &b->machine);
        if (options->quick)
            fprintf(report_stream(b), "Quick: few runs, and the cold stages are not cold\n");
        if (!is_apart(b->options))
            status = measure_best_peaks(b);
    }
    for (; b->i_device < b->n_isas && status == CLI_EXIT_OK; b->i_device++)
        status = measure_device(b, b->isas[b->i_device]);
    if (status == CLI_EXIT_OK && options->svg_file)
        status = cli_bench_write_svg(&b->rows, b->n_isas - 1, b->model, options->svg_file);
    cli_bench_rows_free(&b->rows);
    free(b);
    return status;
}
