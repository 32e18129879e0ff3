/* The device, the model and its sessions, as every command but plan needs them. */
#ifndef KVF_CLI_ENGINE_H
#define KVF_CLI_ENGINE_H

#include "cli/budget.h"
#include "cli/options.h"
#include "model/model.h"
#include "text/decoder.h"
#include "text/encoder.h"

typedef struct cli_engine {
    const cli_options *options;
    kvf_device *device;
    kvf_model_config config;
    kvf_tensor_set *files; /* the model's; watched (lost_files.h) */
    kvf_model *model;
    kvf_tokenizer *tokenizer; /* with the encoder, NULL until it is opened */
    kvf_encoder *encoder;
    bool warned;           /* of memory that will be slow */
    uint64_t needed_bytes; /* of memory: the most that was asked for so far */
} cli_engine;

/* All of these return 0, or print why not and return the exit status. */

/* Reads the config of a checkpoint and notes which of its keys were passed over. */
int cli_config_load(const char *command, const char *path, kvf_model_config *config);

/*
 * Opens the files, the device and, where they stay in the files, the weights; nothing large is
 * read or allocated yet.
 */
int cli_engine_open(const cli_options *options, cli_engine *engine);
/* Closes model and device and opens the device that the options, which changed, ask for now. */
int cli_engine_open_device(cli_engine *engine);
void cli_engine_close(cli_engine *engine);

/* The checkpoint's tokenizer; the status says why there is none, and nothing is printed. */
kvf_status cli_engine_open_tokenizer(cli_engine *engine, kvf_error *error);
/* Appends the ids of a text, in which no added token is found, behind BOS where bos is set and
 * the model has one. */
int cli_engine_encode(cli_engine *engine, const char *text, size_t bytes, bool bos, kvf_ids *ids);

/*
 * Refuses what the limits of this process cannot hold (budget.h, limits.h), before weights
 * are read. Names the limit, and what would fit.
 */
int cli_engine_check_memory(cli_engine *engine, const cli_request *request);

/*
 * Loads the model for sessions of up to that context. Says in a line where they do not fit the
 * memory that is left, and so come from the disk as they are needed.
 */
int cli_engine_load(cli_engine *engine, uint64_t context_tokens);

int cli_engine_open_session(cli_engine *engine, kvf_profile_id profile, uint64_t context_tokens,
                            kvf_session **session);

/* Reports what a library function said about a session of this profile and context. */
int cli_engine_error(const cli_engine *engine, const kvf_error *error, kvf_profile_id profile,
                     uint64_t context_tokens);

#endif
