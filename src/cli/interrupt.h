/* Ctrl-C: a flag that long loops look at between two steps. */
#ifndef KVF_CLI_INTERRUPT_H
#define KVF_CLI_INTERRUPT_H

#include <stdbool.h>

/*
 * From here on SIGINT sets the flag and ends blocking reads (EINTR) instead of
 * ending the process.
 */
void cli_interrupt_catch(void);
bool cli_interrupted(void);
/*
 * Waits until a descriptor can be read; false when Ctrl-C came first, even if it
 * came before the wait began.
 */
bool cli_interrupt_wait_readable(int descriptor);
/* Clears the flag, for a session that goes on after an interrupted answer. */
void cli_interrupt_clear(void);

#endif
