#include "cli/bench_report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/peer.h"
#include "cli/message.h"
#include "cli/svg.h"
#include "cli/table.h"
#include "engine/amounts.h"
#include "error.h"

/* ---- Rows ------------------------------------------------------------------------- */

cli_bench_row *cli_bench_rows_add(cli_bench_rows *rows)
{
    if (rows->n_rows == rows->capacity) {
        const uint32_t capacity = rows->capacity ? 2 * rows->capacity : 64;
        cli_bench_row *larger = realloc(rows->rows, capacity * sizeof *larger);
        if (!larger)
            return NULL;
        rows->rows = larger;
        rows->capacity = capacity;
    }
    return &rows->rows[rows->n_rows++];
}

void cli_bench_rows_free(cli_bench_rows *rows)
{
    free(rows->rows);
    memset(rows, 0, sizeof *rows);
}

/* The same measurement under another profile; NULL where there is none. */
static const cli_bench_row *find_row(const cli_bench_rows *rows, const cli_bench_row *like,
                                     bench_profile profile)
{
    for (uint32_t i = 0; i < rows->n_rows; i++) {
        const cli_bench_row *row = &rows->rows[i];
        if (row->i_device == like->i_device && row->stage == like->stage &&
            row->context_tokens == like->context_tokens && row->n_queries == like->n_queries &&
            row->profile == profile)
            return row;
    }
    return NULL;
}

/* ---- The machine ------------------------------------------------------------------ */

void cli_bench_print_machine(FILE *out, const char *model, const kvf_geometry *geometry,
                             const bench_machine *machine)
{
    char cache[KVF_NUMBER_BYTES];
    fprintf(out, "kvfold %s bench: %s, %u layers, %u heads, %u index heads, top-k %u, window %u\n",
            kvf_version_string(), kvf_printable(model).text, geometry->n_layers, geometry->n_heads,
            geometry->n_index_heads, geometry->top_k, geometry->window_tokens);
    fprintf(out, "CPU: %s, %u cores, largest cache %s%s\n", machine->cpu, machine->n_cores,
            kvf_show_bytes(machine->l3_bytes, cache), machine->l3_known ? "" : " (a guess)");
    if (bench_peer_available()) {
        char version[64];
        fprintf(out, "Peer: %s with its %s kernels (OPENBLAS_CORETYPE selects others)\n",
                bench_peer_version(version, sizeof version), bench_peer_core());
    } else {
        fprintf(out, "Peer: none, this build has no OpenBLAS\n");
    }
}

/* Of a thread's own peak, on a machine whose cores are free. */
static const double least_gain = 0.75;

void cli_bench_print_peaks(FILE *out, const char *isa, const bench_peaks *one,
                           const bench_peaks *all)
{
    const bench_peaks *const both[] = {one, all};
    fprintf(out, "\nPeaks of %s\n%7s  %14s  %14s  %14s\n", isa, "threads", "f32 FMA", "int8 dot",
            "memory read");
    for (int i = 0; i < (all->n_threads > 1 ? 2 : 1); i++)
        fprintf(out, "%7u  %7.1f Gop/s  %7.1f Gop/s  %9.1f GB/s\n", both[i]->n_threads,
                both[i]->fma_ops * 1e-9, both[i]->int8_ops * 1e-9, both[i]->read_bytes * 1e-9);
    fprintf(out, "int8 dot by %s; a multiply and an add are two operations\n",
            all->int8_instruction);
    const double gain = all->fma_ops / one->fma_ops;
    if (gain < least_gain * all->n_threads)
        fprintf(out,
                "Note: %u threads do only %.1f times as much as one. Other programs run, or cores "
                "share\ntheir units; the shares below are of what was reached.\n",
                all->n_threads, gain);
}

/* ---- For machines ----------------------------------------------------------------- */

static double round_to(double value, double digits)
{
    return round(value * digits) / digits;
}

int cli_bench_print_record(const cli_bench_rows *rows, cli_output output)
{
    const cli_bench_row *row = &rows->rows[rows->n_rows - 1];
    const bench_result *result = &row->result;
    cli_record record = cli_record_new();
    cli_record_text(&record, "stage", bench_stage_name(row->stage));
    cli_record_count(&record, "rows", result->rows);
    cli_record_count(&record, "queries", row->n_queries);
    cli_record_text(&record, "profile", bench_profile_name(row->profile));
    cli_record_text(&record, "isa", row->isa);
    cli_record_text(&record, "backend", row->backend);
    cli_record_count(&record, "threads", row->n_threads);
    cli_record_number(&record, "median_us", round_to(result->median_us, 1e3));
    cli_record_number(&record, "p10_us", round_to(result->p10_us, 1e3));
    cli_record_number(&record, "p90_us", round_to(result->p90_us, 1e3));
    cli_record_count(&record, "bytes", (uint64_t)result->bytes);
    cli_record_count(&record, "ops", (uint64_t)result->ops);
    cli_record_text(&record, "limit", bench_limit_name(result->limit));
    cli_record_number(&record, "limit_share", round_to(result->limit_share, 1e4));
    return cli_record_print("bench", &record, output, rows->n_rows == 1);
}

/* ---- For people ------------------------------------------------------------------- */

enum {
    COLUMN_CONTEXT,
    COLUMN_ROWS,
    COLUMN_QUERIES,
    COLUMN_PROFILE,
    COLUMN_MEDIAN,
    COLUMN_P10,
    COLUMN_P90,
    COLUMN_RUNS,
    COLUMN_BYTES,
    COLUMN_LIMIT,
    COLUMN_SHARE,
    COLUMN_LEGACY,
    COLUMN_LIST,
    COLUMN_OPENBLAS,
    N_COLUMNS
};

static const cli_column columns[N_COLUMNS] = {
    [COLUMN_CONTEXT] = {"context", 7, false}, [COLUMN_ROWS] = {"rows", 7, false},
    [COLUMN_QUERIES] = {"queries", 7, false}, [COLUMN_PROFILE] = {"profile", 8, true},
    [COLUMN_MEDIAN] = {"median", 8, false},   [COLUMN_P10] = {"p10", 8, false},
    [COLUMN_P90] = {"p90", 8, false},         [COLUMN_RUNS] = {"runs", 4, false},
    [COLUMN_BYTES] = {"bytes", 8, false},     [COLUMN_LIMIT] = {"limit", 9, true},
    [COLUMN_SHARE] = {"share", 6, false},     [COLUMN_LEGACY] = {"x legacy", 8, false},
    [COLUMN_LIST] = {"x list", 7, false},     [COLUMN_OPENBLAS] = {"x openblas", 10, false}};

/* How many times as fast as another profile; empty where that was not measured. */
static void print_ratio(const cli_bench_rows *rows, const cli_bench_row *row, bench_profile other,
                        char cell[CLI_CELL_BYTES])
{
    const cli_bench_row *base = find_row(rows, row, other);
    if (base && row->profile != other && row->result.median_us > 0) /* a clock may be coarse */
        snprintf(cell, CLI_CELL_BYTES, "%.2f", base->result.median_us / row->result.median_us);
}

static void fill_cells(const cli_bench_rows *rows, const cli_bench_row *row,
                       char (*cells)[CLI_CELL_BYTES])
{
    const bench_result *result = &row->result;
    kvf_show_context(row->context_tokens, cells[COLUMN_CONTEXT]);
    kvf_show_count(result->rows, cells[COLUMN_ROWS]);
    snprintf(cells[COLUMN_QUERIES], CLI_CELL_BYTES, "%u", row->n_queries);
    snprintf(cells[COLUMN_PROFILE], CLI_CELL_BYTES, "%s", bench_profile_name(row->profile));
    kvf_show_microseconds(result->median_us, cells[COLUMN_MEDIAN]);
    kvf_show_microseconds(result->p10_us, cells[COLUMN_P10]);
    kvf_show_microseconds(result->p90_us, cells[COLUMN_P90]);
    snprintf(cells[COLUMN_RUNS], CLI_CELL_BYTES, "%u", result->n_runs);
    kvf_show_bytes((uint64_t)result->bytes, cells[COLUMN_BYTES]);
    snprintf(cells[COLUMN_LIMIT], CLI_CELL_BYTES, "%s", bench_limit_name(result->limit));
    snprintf(cells[COLUMN_SHARE], CLI_CELL_BYTES, "%.1f%%", 100 * result->limit_share);
    print_ratio(rows, row, BENCH_LEGACY, cells[COLUMN_LEGACY]);
    print_ratio(rows, row, BENCH_LIST, cells[COLUMN_LIST]);
    print_ratio(rows, row, BENCH_OPENBLAS, cells[COLUMN_OPENBLAS]);
}

int cli_bench_print_table(const cli_bench_rows *rows, uint32_t i_device, bench_stage stage)
{
    cli_table table;
    const cli_bench_row *first = NULL;
    cli_table_start(&table, columns, N_COLUMNS);
    for (uint32_t i = 0; i < rows->n_rows; i++) {
        const cli_bench_row *row = &rows->rows[i];
        if (row->i_device != i_device || row->stage != stage)
            continue;
        char(*cells)[CLI_CELL_BYTES] = cli_table_row(&table);
        if (!cells) {
            cli_table_free(&table);
            return cli_error("bench", "out of memory for a table");
        }
        if (!first || row->profile != BENCH_OPENBLAS)
            first = row;
        fill_cells(rows, row, cells);
    }
    if (first) {
        printf("\n%s on %s/%s, %u thread%s\n", bench_stage_name(stage), first->backend, first->isa,
               first->n_threads, first->n_threads == 1 ? "" : "s");
        cli_table_print(&table, true);
    }
    cli_table_free(&table);
    return CLI_EXIT_OK;
}

/* ---- Charts ----------------------------------------------------------------------- */

/* One stage with one number of queries: time and bytes of each profile and context. */
typedef struct chart_data {
    bench_stage stage;
    uint32_t n_queries;
    char titles[2][64];
    double times[BENCH_PROFILE_COUNT][CLI_MAX_CONTEXTS];
    double bytes[BENCH_PROFILE_COUNT][CLI_MAX_CONTEXTS];
} chart_data;

static int compare_contexts(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a;
    const uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Contexts that have rows on the device, ascending, each once. */
static uint32_t list_contexts(const cli_bench_rows *rows, uint32_t i_device,
                              uint64_t contexts[CLI_MAX_CONTEXTS])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < rows->n_rows; i++) {
        uint32_t found = 0;
        while (found < n && contexts[found] != rows->rows[i].context_tokens)
            found++;
        if (found == n && rows->rows[i].i_device == i_device)
            contexts[n++] = rows->rows[i].context_tokens;
    }
    qsort(contexts, n, sizeof contexts[0], compare_contexts);
    return n;
}

/* The chart_data that a row belongs to, added if it is the first. */
static chart_data *find_data(chart_data *data, uint32_t *n_data, const cli_bench_row *row)
{
    uint32_t i = 0;
    while (i < *n_data && (data[i].stage != row->stage || data[i].n_queries != row->n_queries))
        i++;
    if (i < *n_data)
        return &data[i];
    const char *name = bench_stage_name(row->stage);
    const char *plural = row->n_queries > 1 ? "queries" : "query";
    chart_data *added = &data[(*n_data)++];
    added->stage = row->stage;
    added->n_queries = row->n_queries;
    snprintf(added->titles[0], sizeof added->titles[0], "Time of %s, %u %s", name, row->n_queries,
             plural);
    snprintf(added->titles[1], sizeof added->titles[1], "Bytes of %s, %u %s", name, row->n_queries,
             plural);
    for (int p = 0; p < BENCH_PROFILE_COUNT; p++)
        for (int c = 0; c < CLI_MAX_CONTEXTS; c++)
            added->times[p][c] = added->bytes[p][c] = NAN;
    return added;
}

static uint32_t collect(const cli_bench_rows *rows, uint32_t i_device, const uint64_t *contexts,
                        chart_data *data)
{
    uint32_t n_data = 0;
    for (uint32_t i = 0; i < rows->n_rows; i++) {
        const cli_bench_row *row = &rows->rows[i];
        if (row->i_device != i_device)
            continue;
        chart_data *chart = find_data(data, &n_data, row);
        uint32_t c = 0;
        while (contexts[c] != row->context_tokens)
            c++;
        chart->times[row->profile][c] = row->result.median_us;
        chart->bytes[row->profile][c] = row->result.bytes;
    }
    return n_data;
}

static cli_chart make_chart(const chart_data *data, bool time, const char *model,
                            const uint64_t *contexts, uint32_t n_contexts)
{
    cli_chart chart = {.title = data->titles[!time],
                       .subject = model,
                       .note = time ? "median" : "that must come from memory; 1 MB = 1,000,000",
                       .unit = time ? CLI_CHART_MICROSECONDS : CLI_CHART_BYTES,
                       .n_contexts = n_contexts,
                       .contexts = contexts};
    for (int p = 0; p < BENCH_PROFILE_COUNT; p++) {
        const double *values = time ? data->times[p] : data->bytes[p];
        bool any = false;
        for (uint32_t c = 0; c < n_contexts; c++)
            any = any || !isnan(values[c]);
        if (any)
            chart.lines[chart.n_lines++] =
                (cli_chart_line){bench_profile_name((bench_profile)p), values};
    }
    return chart;
}

int cli_bench_write_svg(const cli_bench_rows *rows, uint32_t i_device, const char *model,
                        const char *path)
{
    enum { MAX_CHARTS = BENCH_STAGE_COUNT + 2 }; /* select has three numbers of queries */
    uint64_t contexts[CLI_MAX_CONTEXTS];
    cli_chart charts[2 * MAX_CHARTS];
    chart_data *data = calloc(MAX_CHARTS, sizeof *data);
    if (!data)
        return cli_error("bench", "out of memory for charts");
    const uint32_t n_contexts = list_contexts(rows, i_device, contexts);
    const uint32_t n_data = collect(rows, i_device, contexts, data);
    for (uint32_t i = 0; i < n_data; i++) {
        charts[2 * i] = make_chart(&data[i], true, model, contexts, n_contexts);
        charts[2 * i + 1] = make_chart(&data[i], false, model, contexts, n_contexts);
    }
    const int status = n_data ? cli_svg_write("bench", path, charts, 2 * n_data)
                              : cli_error("bench", "--svg: nothing was measured");
    free(data);
    return status;
}
