/* The texts of --help. */
#ifndef KVF_CLI_HELP_H
#define KVF_CLI_HELP_H

#include "cli/options.h"

void cli_help_print(cli_command command);
/* The list of commands. */
void cli_help_print_overview(void);

#endif
