/* How idle threads wait. */
#ifndef KVF_CLI_WAITING_H
#define KVF_CLI_WAITING_H

/*
 * GNU's OpenMP lets an idle thread spin for milliseconds before it sleeps. Where
 * another program uses the same core that turns every step into a lost time slice:
 * 16 times slower was measured at a load of 6 on 2 cores. Its limit is read from the
 * environment before main, so this starts the program once more with GOMP_SPINCOUNT
 * set, unless the user has chosen a policy. Returns when there is nothing to do.
 */
void cli_waiting_settle(char **argv);

#endif
