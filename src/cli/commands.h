/* The commands, one file each. They return the exit status and have reported why. */
#ifndef KVF_CLI_COMMANDS_H
#define KVF_CLI_COMMANDS_H

#include "cli/options.h"

int cli_run(const cli_options *options);
int cli_verify(const cli_options *options);
int cli_score(const cli_options *options);
int cli_plan(const cli_options *options);
int cli_bench(const cli_options *options);
int cli_session(const cli_options *options);
int cli_inspect(const cli_options *options);
int cli_tokenize(const cli_options *options);
int cli_serve(const cli_options *options);

#endif
