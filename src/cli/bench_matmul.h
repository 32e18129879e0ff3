/* bench --stage matmul: every stored type, as a table or records. */
#ifndef KVF_CLI_BENCH_MATMUL_H
#define KVF_CLI_BENCH_MATMUL_H

#include "bench/machine.h"
#include "cli/options.h"

/*
 * Measures the types that were asked for on an open device and prints them; *n_printed
 * counts records over all devices. Returns 0, or reports why not and returns the exit status.
 */
int cli_bench_matmul(const cli_options *options, kvf_device *device, const bench_machine *machine,
                     uint32_t *n_printed);

#endif
