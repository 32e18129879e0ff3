/* Ctrl-C, and other ends of a run: flags that long loops look at between two steps. */
#ifndef KVF_CLI_INTERRUPT_H
#define KVF_CLI_INTERRUPT_H

#include <stdbool.h>

/*
 * From here on SIGINT sets a flag and ends blocking reads (EINTR) instead of ending the
 * process. A second one ends it at once, whatever it does, with exit status 130; with
 * at_once, for a command that has nothing to finish, so does the first. Whatever signal ends
 * the process, the files of cli_interrupt_remove go. A file that may grow no further is an
 * error of the write, not the end; a mapped file that somebody shortens is the end, with
 * exit status 2.
 */
void cli_interrupt_catch(bool at_once);
/*
 * For a run with something to save after it: SIGTERM, SIGHUP (a closed terminal) and others
 * that would end it (SIGXCPU, SIGUSR1, SIGUSR2, SIGALRM; not SIGQUIT) set the flag too, and ask
 * to leave; a second SIGTERM, or Ctrl-C after one, ends the process at once. A closed terminal may
 * be told twice and asks no more than that. A pipe that nobody reads is an error of the write.
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

/*
 * A file that means nothing without this process: it is removed if a signal ends the process.
 * The path is kept, not copied, until _keep with the same pointer (NULL: nothing happens).
 */
void cli_interrupt_remove(const char *path);
void cli_interrupt_keep(const char *path);

#endif
