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
    char path[4096]; /* the real one, so that the process keeps its name */
    const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
    if (n <= 0 || (size_t)n >= sizeof path || setenv("GOMP_SPINCOUNT", SPIN_COUNT, 1) != 0)
        return;
    path[n] = '\0';
    execv(path, argv); /* where it fails, the program runs as it is */
#else
    (void)argv;
#endif
}
