/* bench: results as tables, records and charts. */
#ifndef KVF_CLI_BENCH_REPORT_H
#define KVF_CLI_BENCH_REPORT_H

#include <stdio.h>

#include "bench/measure.h"
#include "cli/options.h"

/* One line of results: what was measured, on what, and the times. */
typedef struct cli_bench_row {
    bench_stage stage;
    bench_profile profile;
    uint64_t context_tokens;
    uint32_t n_queries;
    const char *isa;     /* openblas: the kernels it took */
    const char *backend; /* openblas: the same name */
    uint32_t n_threads;
    uint32_t i_device; /* rows with equal ones were measured beside each other */
    bench_result result;
} cli_bench_row;

typedef struct cli_bench_rows {
    cli_bench_row *rows; /* [capacity] */
    uint32_t n_rows;
    uint32_t capacity;
} cli_bench_rows;

/* Room for one more row; NULL when memory ran out. */
cli_bench_row *cli_bench_rows_add(cli_bench_rows *rows);
void cli_bench_rows_free(cli_bench_rows *rows);

/* The machine, to stdout in the form for people, else to stderr. */
void cli_bench_print_machine(FILE *out, const char *model, const kvf_geometry *geometry,
                             const bench_machine *machine);
/* An ISA's peaks with one thread and with all. */
void cli_bench_print_peaks(FILE *out, const char *isa, const bench_peaks *one,
                           const bench_peaks *all);

/* Each returns 0, or reports why not and returns the exit status. */

/* The last row as a line for machines. */
int cli_bench_print_record(const cli_bench_rows *rows, cli_output output);
/* The rows of one stage on one device, with how many times as fast they are as others. */
int cli_bench_print_table(const cli_bench_rows *rows, uint32_t i_device, bench_stage stage);
/* Time and bytes against context of every stage on one device. */
int cli_bench_write_svg(const cli_bench_rows *rows, uint32_t i_device, const char *model,
                        const char *path);

#endif
