/* bench: the names that its options take. */
#ifndef KVF_CLI_BENCH_NAMES_H
#define KVF_CLI_BENCH_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CLI_BENCH_MAX_RUNS = 200 };

/*
 * Adds to *set the bits of the entries of that name; for an unknown one returns false
 * and says in *reason which there are.
 */
typedef bool cli_name_finder(const char *name, uint32_t *set, char *reason, size_t reason_bytes);

/* Profiles of bench/case.h. */
cli_name_finder cli_bench_find_profile;
/* Stages of bench/case.h; a first word such as "attend" stands for all that begin so. */
cli_name_finder cli_bench_find_stage;
/* The bit of the stage "matmul", which has types of weights and no contexts (bench/matmul.h). */
#define CLI_BENCH_MATMUL (UINT32_C(1) << 31)
/* The bit of the stage "batch", which runs a model (bench/batch.h). */
#define CLI_BENCH_BATCH (UINT32_C(1) << 30)
/* What goes through the cache alone: the stages of bench/case.h. */
#define CLI_BENCH_CASES (~(CLI_BENCH_MATMUL | CLI_BENCH_BATCH))
/* Stored types of weights, shared/weights.def. */
cli_name_finder cli_bench_find_type;

#endif
