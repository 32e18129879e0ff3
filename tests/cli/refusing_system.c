/*
 * Put before the system's own calls (LD_PRELOAD): those named in KVF_TEST_REFUSE, as in
 * "flock:37,fsync:22", fail with that errno. EINTR they give three times each, then they work.
 * KVF_TEST_MEMINFO is a file to be read in the place of /proc/meminfo.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool refused(const char *call, unsigned *n_interrupted)
{
    const char *all = getenv("KVF_TEST_REFUSE");
    const char *found = all ? strstr(all, call) : NULL;
    if (!found || found[strlen(call)] != ':')
        return false;
    errno = atoi(found + strlen(call) + 1);
    return errno != EINTR || (*n_interrupted)++ < 3;
}

int flock(int file, int operation);
int flock(int file, int operation)
{
    static unsigned n_interrupted;
    int (*real)(int, int);
    *(void **)&real = dlsym(RTLD_NEXT, "flock");
    return refused("flock", &n_interrupted) ? -1 : real(file, operation);
}

int fsync(int file);
int fsync(int file)
{
    static unsigned n_interrupted;
    int (*real)(int);
    *(void **)&real = dlsym(RTLD_NEXT, "fsync");
    return refused("fsync", &n_interrupted) ? -1 : real(file);
}

FILE *fopen(const char *path, const char *mode)
{
    const char *meminfo = getenv("KVF_TEST_MEMINFO");
    FILE *(*real)(const char *, const char *);
    *(void **)&real = dlsym(RTLD_NEXT, "fopen");
    return real(meminfo && strcmp(path, "/proc/meminfo") == 0 ? meminfo : path, mode);
}
