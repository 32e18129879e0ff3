/* What the environment says, which is read by options.c alone. */
#ifndef KVF_CLI_ENVIRONMENT_H
#define KVF_CLI_ENVIRONMENT_H

#include <stdbool.h>
#include <stdint.h>

/* NULL where it is not set or empty. */
const char *cli_environment_text(const char *name);

/* "1" is on; unset, empty and "0" are off. For another value returns false and says so. */
bool cli_environment_switch(const char *command, const char *name, bool *on);

/*
 * OMP_NUM_THREADS: how many threads the user gives to any program, or a list of such numbers
 * for nested levels, of which the first counts. It is not this program's own, so what it
 * cannot mean is said and left alone.
 */
uint32_t cli_environment_threads(const char *command);

#endif
