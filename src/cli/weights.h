/* What a checkpoint's weights are and take, for plan and inspect, and what a token reads of them.
 */
#ifndef KVF_CLI_WEIGHTS_H
#define KVF_CLI_WEIGHTS_H

#include "cli/table.h"
#include "model/model.h"

/* Tensors that are there and not run: what further tokens are predicted with. */
typedef enum cli_skipped {
    CLI_SKIPPED_MTP,
    CLI_SKIPPED_DSPARK,
    CLI_SKIPPED_LAYERS,
    CLI_SKIPPED_KINDS
} cli_skipped;

typedef struct cli_tensors {
    uint32_t n;
    uint64_t bytes;
} cli_tensors;

typedef struct cli_weights {
    cli_tensors types[KVF_STORED_COUNT];    /* of all tensors of the files */
    cli_tensors skipped[CLI_SKIPPED_KINDS]; /* of them */
    cli_tensors all;
    uint32_t n_files;
    uint64_t mapped_bytes;  /* the files: addresses, and memory only as long as there is some */
    uint64_t surplus_bytes; /* of them, behind the last tensor */
    uint64_t copied_bytes;  /* what the device is asked for: vectors and tables */
} cli_weights;

/* Of open files. Without a config (NULL) nothing is known to be skipped or copied. */
void cli_weights_count(const kvf_tensor_set *files, const kvf_model_config *config,
                       bool takes_stored_weights, cli_weights *weights);
/* DeepSeek-V4-Flash as it was released in April 2026, of which no file is here. */
void cli_weights_of_v4_flash(const kvf_model_config *config, bool takes_stored_weights,
                             cli_weights *weights);

/* "mtp" .. */
const char *cli_skipped_name(cli_skipped kind);

/* Tables: a line a stored type and one for all; returns 0, or the exit status. */
int cli_weights_print(const char *command, const cli_weights *weights);
/* [{"type", "tensors", "bytes"}]; NULL when memory ran out. */
cJSON *cli_weights_list(const cli_weights *weights);

#endif
