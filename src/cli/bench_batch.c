#include "cli/bench_batch.h"

#include <math.h>
#include <stdio.h>

#include "bench/batch.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/table.h"
#include "engine/amounts.h"

static const uint32_t all_sizes[] = {1, 4, 16, 64};
enum { N_SIZES = sizeof all_sizes / sizeof *all_sizes, MOST_SESSIONS = 64, N_QUICK_SIZES = 2 };
static const uint64_t default_contexts[] = {8192, 32768};

enum {
    COLUMN_PROFILE,
    COLUMN_CONTEXT,
    COLUMN_SESSIONS,
    COLUMN_STEP,
    COLUMN_SPREAD,
    COLUMN_RATE,
    COLUMN_GAIN,
    COLUMN_EXPERTS,
    N_COLUMNS
};

static const cli_column columns[N_COLUMNS] = {
    [COLUMN_PROFILE] = {"profile", 8, true},     [COLUMN_CONTEXT] = {"context", 8, false},
    [COLUMN_SESSIONS] = {"sessions", 8, false},  [COLUMN_STEP] = {"step", 9, false},
    [COLUMN_SPREAD] = {"p10 .. p90", 18, false}, [COLUMN_RATE] = {"tok/s", 8, false},
    [COLUMN_GAIN] = {"x one", 6, false},         [COLUMN_EXPERTS] = {"experts", 14, false}};

typedef struct batch_lines {
    const cli_bench_batch *bench;
    kvf_model *model;
    cli_table table;
    double one; /* tokens a second of one session at this context; 0: not known */
} batch_lines;

/* Experts that are read: distinct ones of those chosen, of a layer. */
static int add_line(batch_lines *lines, const bench_batch_input *input,
                    const bench_batch_result *result)
{
    char(*cells)[CLI_CELL_BYTES] = cli_table_row(&lines->table);
    char context[KVF_NUMBER_BYTES];
    if (!cells)
        return cli_error("bench", "out of memory for a table");
    snprintf(cells[COLUMN_PROFILE], CLI_CELL_BYTES, "%s", kvf_profile_get(input->profile)->name);
    snprintf(cells[COLUMN_CONTEXT], CLI_CELL_BYTES, "%s",
             kvf_show_context(input->context_tokens, context));
    snprintf(cells[COLUMN_SESSIONS], CLI_CELL_BYTES, "%u", input->n_sessions);
    snprintf(cells[COLUMN_STEP], CLI_CELL_BYTES, "%.2f ms", 1e3 * result->seconds.median);
    snprintf(cells[COLUMN_SPREAD], CLI_CELL_BYTES, "%.2f .. %.2f", 1e3 * result->seconds.p10,
             1e3 * result->seconds.p90);
    snprintf(cells[COLUMN_RATE], CLI_CELL_BYTES, "%.1f", result->tokens_per_second);
    if (lines->one > 0)
        snprintf(cells[COLUMN_GAIN], CLI_CELL_BYTES, "%.2f",
                 result->tokens_per_second / lines->one);
    snprintf(cells[COLUMN_EXPERTS], CLI_CELL_BYTES, "%.1f of %u", result->n_distinct,
             lines->model->config.n_experts);
    return CLI_EXIT_OK;
}

static int print_record(const batch_lines *lines, const bench_batch_input *input,
                        const bench_batch_result *result)
{
    kvf_device *device = lines->bench->device;
    cli_record record = cli_record_new();
    cli_record_text(&record, "stage", "batch");
    cli_record_count(&record, "ctx", input->context_tokens);
    cli_record_count(&record, "sessions", input->n_sessions);
    cli_record_text(&record, "profile", kvf_profile_get(input->profile)->name);
    cli_record_text(&record, "isa", kvf_device_isa_name(device));
    cli_record_text(&record, "backend", kvf_device_backend_name(device));
    cli_record_count(&record, "threads", kvf_device_n_threads(device));
    cli_record_number(&record, "tokens_per_second", round(result->tokens_per_second * 100) / 100);
    cli_record_number(&record, "median_us", round(1e6 * result->seconds.median));
    cli_record_number(&record, "p10_us", round(1e6 * result->seconds.p10));
    cli_record_number(&record, "p90_us", round(1e6 * result->seconds.p90));
    cli_record_count(&record, "experts", lines->model->config.n_experts);
    cli_record_count(&record, "experts_chosen", result->n_chosen);
    cli_record_number(&record, "experts_distinct", round(result->n_distinct * 100) / 100);
    return cli_record_print("bench", &record, lines->bench->options->output,
                            (*lines->bench->n_printed)++ == 0);
}

static int measure_size(batch_lines *lines, kvf_profile_id profile, uint64_t context_tokens,
                        uint32_t n_sessions)
{
    const cli_options *options = lines->bench->options;
    const bench_batch_input input = {.model = lines->model,
                                     .profile = profile,
                                     .context_tokens = context_tokens,
                                     .n_sessions = n_sessions,
                                     .n_runs = options->n_runs  ? options->n_runs
                                               : options->quick ? 3
                                                                : 10};
    bench_batch_result result;
    kvf_error error;
    char context[KVF_NUMBER_BYTES];
    char needed[KVF_NUMBER_BYTES];
    if (cli_interrupted())
        return CLI_EXIT_INTERRUPTED;
    const uint64_t bytes = bench_batch_bytes(&input);
    kvf_show_context(context_tokens, context);
    if (bytes > lines->bench->memory_bytes) {
        cli_note("bench", "left out: batch, %u sessions at %s need %s", n_sessions, context,
                 kvf_show_bytes(bytes, needed));
        return CLI_EXIT_OK;
    }
    if (bench_batch_measure(&input, &result, &error) != KVF_OK)
        return cli_error("bench", "batch, %u sessions at %s: %s", n_sessions, context,
                         error.message);
    if (n_sessions == 1)
        lines->one = result.tokens_per_second;
    return options->output == CLI_OUTPUT_TABLE ? add_line(lines, &input, &result)
                                               : print_record(lines, &input, &result);
}

static int measure_all(batch_lines *lines)
{
    const cli_bench_batch *bench = lines->bench;
    const cli_options *options = bench->options;
    const bool own_contexts = options->contexts_given || options->quick;
    const uint64_t *contexts = own_contexts ? bench->contexts : default_contexts;
    const uint32_t n_contexts = own_contexts ? bench->n_contexts : 2;
    const int n_sizes = options->quick ? N_QUICK_SIZES : N_SIZES;
    /* All profiles is what is meant where none was named: here what people run. */
    const bool named = options->bench_profiles != UINT32_MAX;
    int status = CLI_EXIT_OK;
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        if (named ? !(options->bench_profiles >> profile & 1) : profile != KVF_PROFILE_FOLD)
            continue;
        for (uint32_t i = 0; i < n_contexts && status == CLI_EXIT_OK; i++) {
            lines->one = 0;
            for (int s = 0; s < n_sizes && status == CLI_EXIT_OK; s++)
                status = measure_size(lines, (kvf_profile_id)profile, contexts[i], all_sizes[s]);
        }
    }
    return status;
}

int cli_bench_batch_run(const cli_bench_batch *bench)
{
    batch_lines lines = {.bench = bench};
    kvf_error error;
    if (kvf_model_load(bench->device, bench->options->engine.model, MOST_SESSIONS, &lines.model,
                       &error) != KVF_OK)
        return cli_error("bench", "%s", error.message);
    cli_table_start(&lines.table, columns, N_COLUMNS);
    const int status = measure_all(&lines);
    if (lines.table.n_rows) {
        printf("\nbatch on %s/%s, %u thread%s: a token of each session in one pass over the "
               "weights\n"
               "experts: different ones that a layer reads for them\n",
               kvf_device_backend_name(bench->device), kvf_device_isa_name(bench->device),
               kvf_device_n_threads(bench->device),
               kvf_device_n_threads(bench->device) == 1 ? "" : "s");
        cli_table_print(&lines.table, true);
    }
    cli_table_free(&lines.table);
    kvf_model_free(lines.model);
    return status;
}
