/* Who may ask: names of this server, pages of others, keys. docs/SERVER.md. Internal. */
#ifndef KVF_SERVER_ACCESS_H
#define KVF_SERVER_ACCESS_H

#include "server/http.h"
#include "server/refusal.h"

typedef struct kvf_access {
    const char *host;               /* that it listens on */
    const char *const *allow_hosts; /* [n_allow_hosts] other names of it */
    size_t n_allow_hosts;
    const char *const *origins; /* [n_origins] of pages that may ask; "*": any */
    size_t n_origins;
    const char *const *keys; /* [n_keys] one of which a request needs; 0: none does */
    size_t n_keys;
} kvf_access;

/*
 * Whether the request names this server as its host, comes from no other's page, and has a key
 * where one is needed (not for /health). *key: which, from 1 on. Adds to an answer what lets an
 * allowed page read it.
 */
bool kvf_access_check(const kvf_access *access, kvf_exchange *exchange, uint64_t *key,
                      kvf_refusal *refusal);

/* Whether nobody but this machine's programs can reach it at that host. */
bool kvf_access_is_loopback(const char *host);

#endif
