/* Ctrl-C, and being asked to end: flags that long loops look at between two steps. */
#ifndef KVF_CLI_INTERRUPT_H
#define KVF_CLI_INTERRUPT_H

#include <stdbool.h>

/*
 * From here on SIGINT sets a flag and ends blocking reads (EINTR) instead of ending the
 * process. SIGTERM and SIGHUP (a closed terminal) do so too, and ask to leave: what there is
 * is saved first. A second one of those ends the process at once. A file that may grow no
 * further is an error of the write, not the end.
 */
void cli_interrupt_catch(void);
/* The same of a pipe that nobody reads, for a command with something to save after it. */
void cli_interrupt_outlive_output(void);
bool cli_interrupted(void);
/* Whether the process was asked to end: no further turn is to be waited for. */
bool cli_leaving(void);
/*
 * Waits until a descriptor can be read; false when Ctrl-C came first, even if it
 * came before the wait began.
 */
bool cli_interrupt_wait_readable(int descriptor);
/* Clears the flag, for a session that goes on after an interrupted answer; not when leaving. */
void cli_interrupt_clear(void);

#endif
