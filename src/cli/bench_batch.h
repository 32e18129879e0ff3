/* bench --stage batch: tokens a second of several sessions in one pass, as a table or records. */
#ifndef KVF_CLI_BENCH_BATCH_H
#define KVF_CLI_BENCH_BATCH_H

#include "backend/backend.h"
#include "cli/options.h"

/* What the benchmark knows of its surroundings. */
typedef struct cli_bench_batch {
    const cli_options *options;
    kvf_device *device;
    const uint64_t *contexts; /* [n_contexts] */
    uint32_t n_contexts;
    uint64_t memory_bytes; /* that may be taken */
    uint32_t *n_printed;   /* counts records over all devices */
} cli_bench_batch;

/* Loads the model that -m names, measures, prints. 0, or why not was reported: the exit status. */
int cli_bench_batch_run(const cli_bench_batch *bench);

#endif
