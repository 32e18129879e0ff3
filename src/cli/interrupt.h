/* Ctrl-C, and other ends of a run: flags that long loops look at between two steps. */
#ifndef KVF_CLI_INTERRUPT_H
#define KVF_CLI_INTERRUPT_H

#include <stdbool.h>

/*
 * From here on SIGINT sets a flag and ends blocking reads (EINTR) instead of ending the
 * process. A file that may grow no further is an error of the write, not the end.
 */
void cli_interrupt_catch(void);
/*
 * For a run with something to save after it: SIGTERM and SIGHUP (a closed terminal) set the
 * flag too, and ask to leave; a second one of them ends the process at once. A pipe that
 * nobody reads is an error of the write.
 */
void cli_interrupt_save_first(void);
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
