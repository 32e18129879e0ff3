#include "cli/interrupt.h"

#include <signal.h>
#include <string.h>

/* A signal handler can reach nothing else than an object of static storage. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

void cli_interrupt_catch(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt; /* sa_flags without SA_RESTART: reads return EINTR */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

bool cli_interrupted(void)
{
    return interrupted != 0;
}

void cli_interrupt_clear(void)
{
    interrupted = 0;
}
