/*
 * What the system lets this process have: limits of its cgroups (v1 and v2, at every
 * level), of the process itself, of overcommit, and the machine's memory.
 */
#ifndef KVF_ENGINE_LIMITS_H
#define KVF_ENGINE_LIMITS_H

#include <stdint.h>

/* What counts against a limit; each kind has all that the one before it has. */
typedef enum kvf_limit_kind {
    KVF_LIMIT_MEMORY,    /* memory of this process's own; pages of files can be dropped */
    KVF_LIMIT_DATA,      /* memory that was asked for, whether or not it is ever written */
    KVF_LIMIT_ADDRESSES, /* addresses: mapped files too */
    KVF_LIMIT_KINDS
} kvf_limit_kind;

enum { KVF_LIMIT_NAME_BYTES = 256 };

typedef struct kvf_limit {
    char name[KVF_LIMIT_NAME_BYTES]; /* "memory.max of the cgroup /sys/fs/cgroup/a" */
    uint64_t bytes;                  /* what it is set to; UINT64_MAX: there is none */
    uint64_t left_bytes;             /* how much more this process can take below it */
} kvf_limit;

typedef struct kvf_limits {
    kvf_limit tightest[KVF_LIMIT_KINDS]; /* with the least left, of each kind */
    kvf_limit slow; /* memory.high: what is above it is slowed down, not refused */
} kvf_limits;

/* What is not read from files. */
typedef struct kvf_system {
    const char *root;       /* of proc and sys: ""; tests have trees of their own */
    uint64_t machine_bytes; /* where /proc/meminfo does not say; UINT64_MAX: unknown */
    uint64_t data_bytes;    /* RLIMIT_DATA, RLIMIT_AS; UINT64_MAX: unlimited */
    uint64_t address_bytes;
    uint64_t page_bytes;
} kvf_system;

/*
 * The limits of a process under that root. Files that are not there or make no sense set
 * none: a system without them has the machine's memory.
 */
void kvf_limits_find(const kvf_system *system, kvf_limits *limits);
/* This process's. */
void kvf_limits_read(kvf_limits *limits);

/* What is left to this process, now, below all of its limits; 1 at the least. */
uint64_t kvf_limits_left(void);

/* Takes a limit that is known from elsewhere (a GPU's) into account. */
void kvf_limits_lower(kvf_limits *limits, kvf_limit_kind kind, const char *name, uint64_t bytes,
                      uint64_t left_bytes);

#endif
