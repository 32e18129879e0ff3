#include "cli/bench_matmul.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench/matmul.h"
#include "cli/bench_names.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/table.h"
#include "engine/amounts.h"
#include "engine/budget.h"
#include "engine/limits.h"

/* Weights of a round: so many times what the caches hold. */
static const uint64_t times_the_caches = 8;
static const uint64_t quick_file_bytes = 1u << 20;

/* ---- For machines -------------------------------------------------------------------- */

static void add_number(cli_record *record, const char *key, const char *suffix, double value,
                       double digits)
{
    char whole[64];
    snprintf(whole, sizeof whole, "%s%s", key, suffix);
    cli_record_number(record, whole, round(value * digits) / digits);
}

static void add_spread(cli_record *record, const char *key, const bench_spread *spread,
                       double digits)
{
    add_number(record, key, "", spread->median, digits);
    add_number(record, key, "_p10", spread->p10, digits);
    add_number(record, key, "_p90", spread->p90, digits);
}

static int print_record(const cli_options *options, kvf_device *device, kvf_weight_id type,
                        const bench_matmul_result *result, bool header)
{
    cli_record record = cli_record_new();
    cli_record_text(&record, "stage", "matmul");
    cli_record_text(&record, "type", bench_matmul_type_name(type));
    cli_record_text(&record, "isa", kvf_device_isa_name(device));
    cli_record_count(&record, "threads", kvf_device_n_threads(device));
    add_number(&record, "bits", "", result->bits, 1e4);
    cli_record_count(&record, "file_bytes", result->file_bytes);
    add_spread(&record, "vector_bytes", &result->vector_bytes, 1);
    add_spread(&record, "read_bytes", &result->read_bytes, 1);
    add_spread(&record, "read_share", &result->read_share, 1e4);
    add_spread(&record, "values_per_cycle", &result->values_per_cycle, 1e4);
    cli_record_count(&record, "clock_hz", (uint64_t)result->clock_hz);
    cli_record_count(&record, "decode_bytes", (uint64_t)result->decode_bytes);
    add_number(&record, "limit_share", "", result->limit_share, 1e4);
    for (int i = 0; i < 2; i++) {
        const bench_matmul_tokens *tokens = &result->tokens[i];
        char key[64];
        snprintf(key, sizeof key, "ops_%u", tokens->cols);
        add_spread(&record, key, &tokens->ops, 1);
        snprintf(key, sizeof key, "fma_share_%u", tokens->cols);
        add_spread(&record, key, &tokens->fma_share, 1e4);
        snprintf(key, sizeof key, "sgemm_ratio_%u", tokens->cols);
        /* null where there is none */
        cli_record_number(
            &record, key,
            tokens->sgemm_share.median > 0 ? round(tokens->sgemm_share.median * 1e4) / 1e4 : NAN);
    }
    return cli_record_print("bench", &record, options->output, header);
}

/* ---- For people ------------------------------------------------------------------------ */

enum {
    COLUMN_TYPE,
    COLUMN_BITS,
    COLUMN_VECTOR,
    COLUMN_READ,
    COLUMN_SHARE,
    COLUMN_SPREAD,
    COLUMN_CYCLE,
    COLUMN_DECODE,
    COLUMN_LIMIT,
    COLUMN_OPS,
    COLUMN_FMA,
    COLUMN_OPS_LONG,
    COLUMN_FMA_LONG,
    COLUMN_SGEMM,
    N_COLUMNS
};

static const cli_column columns[N_COLUMNS] = {
    [COLUMN_TYPE] = {"type", 8, true},        [COLUMN_BITS] = {"bits", 6, false},
    [COLUMN_VECTOR] = {"vector", 6, false},   [COLUMN_READ] = {"read", 6, false},
    [COLUMN_SHARE] = {"share", 6, false},     [COLUMN_SPREAD] = {"p10 .. p90", 12, false},
    [COLUMN_CYCLE] = {"val/cyc", 7, false},   [COLUMN_DECODE] = {"in L1", 6, false},
    [COLUMN_LIMIT] = {"of limit", 8, false},  [COLUMN_OPS] = {"K 1024", 7, false},
    [COLUMN_FMA] = {"of FMA", 6, false},      [COLUMN_OPS_LONG] = {"K 4096", 7, false},
    [COLUMN_FMA_LONG] = {"of FMA", 6, false}, [COLUMN_SGEMM] = {"x sgemm", 11, false}};

static void print_share(double share, char *cell)
{
    snprintf(cell, CLI_CELL_BYTES, "%.1f%%", 100 * share);
}

static void fill_cells(kvf_weight_id type, const bench_matmul_result *result,
                       char (*cells)[CLI_CELL_BYTES])
{
    const bench_matmul_tokens *tokens = result->tokens;
    snprintf(cells[COLUMN_TYPE], CLI_CELL_BYTES, "%s", bench_matmul_type_name(type));
    snprintf(cells[COLUMN_BITS], CLI_CELL_BYTES, "%.3f", result->bits);
    snprintf(cells[COLUMN_VECTOR], CLI_CELL_BYTES, "%.1f", result->vector_bytes.median * 1e-9);
    snprintf(cells[COLUMN_READ], CLI_CELL_BYTES, "%.1f", result->read_bytes.median * 1e-9);
    print_share(result->read_share.median, cells[COLUMN_SHARE]);
    snprintf(cells[COLUMN_SPREAD], CLI_CELL_BYTES, "%.1f .. %.1f", 100 * result->read_share.p10,
             100 * result->read_share.p90);
    snprintf(cells[COLUMN_CYCLE], CLI_CELL_BYTES, "%.2f", result->values_per_cycle.median);
    snprintf(cells[COLUMN_DECODE], CLI_CELL_BYTES, "%.1f", result->decode_bytes * 1e-9);
    print_share(result->limit_share, cells[COLUMN_LIMIT]);
    snprintf(cells[COLUMN_OPS], CLI_CELL_BYTES, "%.1f", tokens[0].ops.median * 1e-9);
    print_share(tokens[0].fma_share.median, cells[COLUMN_FMA]);
    snprintf(cells[COLUMN_OPS_LONG], CLI_CELL_BYTES, "%.1f", tokens[1].ops.median * 1e-9);
    print_share(tokens[1].fma_share.median, cells[COLUMN_FMA_LONG]);
    if (tokens[0].sgemm_share.median > 0)
        snprintf(cells[COLUMN_SGEMM], CLI_CELL_BYTES, "%.2f, %.2f", tokens[0].sgemm_share.median,
                 tokens[1].sgemm_share.median);
}

static void print_table(kvf_device *device, uint64_t file_bytes, cli_table *table)
{
    char bytes[KVF_NUMBER_BYTES];
    const uint32_t n_threads = kvf_device_n_threads(device);
    printf("\nmatmul on cpu/%s, %u thread%s\n"
           "vector: 4096 x 4096 matrices times a vector out of %s mapped, GB/s of weights; read: "
           "only loaded;\nval/cyc: values a cycle and core with 8 rows in L1, in L1: the same in "
           "GB/s of all threads;\nof limit: of the lower one of read and in L1; K: 2048 x K times "
           "512 tokens, Gop/s\n",
           kvf_device_isa_name(device), n_threads, n_threads == 1 ? "" : "s",
           kvf_show_bytes(file_bytes, bytes));
    cli_table_print(table, true);
}

/* ---- All types --------------------------------------------------------------------------- */

/* Where memory is short, less: what does not stay in it would measure the disk. */
static uint64_t choose_file_bytes(const cli_options *options, const bench_machine *machine)
{
    kvf_limits limits;
    kvf_limits_read(&limits);
    const uint64_t most = limits.tightest[KVF_LIMIT_MEMORY].left_bytes / 4;
    const uint64_t wanted = times_the_caches * machine->l3_bytes;
    char some[KVF_NUMBER_BYTES];
    if (options->quick)
        return quick_file_bytes;
    if (wanted <= most)
        return wanted;
    cli_note("bench",
             "matmul: a file of %s, less than %llu times the largest cache: a quarter of "
             "the memory",
             kvf_show_bytes(most, some), (unsigned long long)times_the_caches);
    return most;
}

static int measure_type(const cli_options *options, kvf_device *device, uint64_t file_bytes,
                        kvf_weight_id type, bench_matmul_result *result)
{
    const bench_matmul_input input = {
        .device = device,
        .type = type,
        .rows = options->quick ? BENCH_MATMUL_QUICK_ROWS : BENCH_MATMUL_ROWS,
        .folder = options->bench_folder ? options->bench_folder : "/tmp",
        .file_bytes = file_bytes,
        .n_rounds = options->n_runs  ? options->n_runs
                    : options->quick ? 3
                                     : 20};
    kvf_error error;
    bool agrees;
    if (cli_interrupted())
        return CLI_EXIT_INTERRUPTED;
    if (bench_matmul_measure(&input, &agrees, result, &error) != KVF_OK)
        return cli_error("bench", "matmul, %s: %s", bench_matmul_type_name(type), error.message);
    if (agrees)
        return CLI_EXIT_OK;
    cli_error("bench", "matmul, %s: %s", bench_matmul_type_name(type), error.message);
    return CLI_EXIT_DIFFERENT;
}

static int add_to_table(cli_table *table, kvf_weight_id type, const bench_matmul_result *result)
{
    char(*cells)[CLI_CELL_BYTES] = cli_table_row(table);
    if (!cells)
        return cli_error("bench", "out of memory for a table");
    fill_cells(type, result, cells);
    return CLI_EXIT_OK;
}

int cli_bench_matmul(const cli_options *options, kvf_device *device, const bench_machine *machine,
                     uint32_t *n_printed)
{
    const uint64_t file_bytes = choose_file_bytes(options, machine);
    int status = CLI_EXIT_OK;
    cli_table table;
    cli_table_start(&table, columns, N_COLUMNS);
    for (uint32_t i = 0; i < KVF_WEIGHT_COUNT && status == CLI_EXIT_OK; i++) {
        bench_matmul_result result;
        if (options->bench_types && !(options->bench_types >> i & 1))
            continue;
        status = measure_type(options, device, file_bytes, (kvf_weight_id)i, &result);
        if (status == CLI_EXIT_OK && options->output == CLI_OUTPUT_TABLE)
            status = add_to_table(&table, (kvf_weight_id)i, &result);
        else if (status == CLI_EXIT_OK)
            status = print_record(options, device, (kvf_weight_id)i, &result, !(*n_printed)++);
    }
    if (table.n_rows)
        print_table(device, file_bytes, &table);
    cli_table_free(&table);
    return status;
}
