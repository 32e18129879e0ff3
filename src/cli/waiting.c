#include "cli/waiting.h"

#include <stdlib.h>
#include <unistd.h>

/* About 50 microseconds of spinning, what a sleep and a wake-up cost. */
#define SPIN_COUNT "1000"

void cli_waiting_settle(char **argv)
{
#if defined(__linux__)
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"))
        return;
    if (setenv("GOMP_SPINCOUNT", SPIN_COUNT, 1) == 0)
        execv("/proc/self/exe", argv); /* where it fails, the program runs as it is */
#else
    (void)argv;
#endif
}
