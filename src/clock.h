/* Seconds of a clock that never jumps; only differences mean anything. */
#ifndef KVF_CLOCK_H
#define KVF_CLOCK_H

#include <time.h>

static inline double kvf_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* n things in that time, a second; 0 where no time passed. */
static inline double kvf_rate(double n, double seconds)
{
    return seconds > 0 ? n / seconds : 0;
}

#endif
