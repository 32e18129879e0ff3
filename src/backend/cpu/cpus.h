/* How many processors this process may keep busy. */
#ifndef KVF_CPU_CPUS_H
#define KVF_CPU_CPUS_H

#include <stdint.h>

/*
 * The processors of the affinity mask, or as many as the CPU quota of a control group lets
 * run at once (rounded up) where that is less; at least 1. The environment is not asked.
 */
uint32_t kvf_cpus_available(void);

/*
 * The smallest quota of this process' control groups, versions 1 and 2, and of all above
 * them, in processors rounded up; UINT32_MAX where there is none. `root` goes before every
 * path that is read: "" for the system's own.
 */
uint32_t kvf_cpus_quota(const char *root);

#endif
