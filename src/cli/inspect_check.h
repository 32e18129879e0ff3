/* The pass of inspect that reads all of a checkpoint, once. */
#ifndef KVF_CLI_INSPECT_CHECK_H
#define KVF_CLI_INSPECT_CHECK_H

#include "model/model.h"

enum { CLI_SHA256_TEXT_BYTES = 65 };

typedef struct cli_check {
    /* By place in the set; NULL where values were not asked for. */
    uint64_t *n_faults; /* codes that stand for no number (model/tensor_check.h) */
    uint64_t *sums;     /* of the data (docs/FORMAT.md 10.6, version 1) */
    /* By file; NULL where it was not asked for. */
    char (*sha256)[CLI_SHA256_TEXT_BYTES];
} cli_check;

/*
 * Reads all files, with a bar, by the device's threads. Returns 0, or prints why not and returns
 * the exit status: memory, a file that changed meanwhile. Free in any case.
 */
int cli_check_run(kvf_tensor_set *files, kvf_device *device, bool values, bool sha256,
                  cli_check *check);
void cli_check_free(cli_check *check);

#endif
