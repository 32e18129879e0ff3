/* What the engine tells the command: notes on stderr, Ctrl-C, a bar, files to remove. */
#ifndef KVF_CLI_EVENTS_H
#define KVF_CLI_EVENTS_H

#include "cli/options.h"
#include "cli/progress.h"
#include "engine/engine.h"

typedef struct cli_listener {
    const char *command;
    cli_progress progress;
} cli_listener;

/* The listener outlives what was opened with the events. */
kvf_engine_events cli_events(cli_listener *listener, const char *command);

/* Prints an error as cli_error does, and returns the exit status. */
int cli_fail(const char *command, const kvf_error *error);

/*
 * For a call of the engine: its error, if it failed, is printed. Returns the exit status.
 *     status = cli_result("run", kvf_engine_load(engine, context, &error), &error);
 */
int cli_result(const char *command, kvf_status status, const kvf_error *error);

/* Reads the config of a checkpoint and notes which of its keys were passed over. */
int cli_config_load(const char *command, const char *path, kvf_model_config *config);

/* kvf_engine_open_device; says where the ISA came from, too. Returns the exit status. */
int cli_open_device(const cli_options *options, kvf_engine *engine);
/* The same behind kvf_engine_open. */
int cli_open_engine(const cli_options *options, cli_listener *listener, kvf_engine *engine);

#endif
