#include "server/access.h"

#include "error.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

/* ---- Hosts -------------------------------------------------------------------------------- */

/* The name in "NAME:PORT", "[ADDRESS]:PORT" or either without a port, in a buffer. */
static bool host_of(const char *header, char *name, size_t room)
{
    const char *end = header + strlen(header);
    if (*header == '[') {
        const char *bracket = strchr(header, ']');
        if (!bracket || (bracket[1] != '\0' && bracket[1] != ':'))
            return false;
        header++;
        end = bracket;
    } else {
        const char *colon = strchr(header, ':');
        end = colon ? colon : end;
    }
    const size_t n = (size_t)(end - header);
    if (n == 0 || n >= room)
        return false;
    memcpy(name, header, n);
    name[n] = '\0';
    if (name[n - 1] == '.') /* "localhost." is the same name */
        name[n - 1] = '\0';
    return true;
}

bool kvf_access_is_loopback(const char *host)
{
    struct in_addr four;
    struct in6_addr six;
    if (strcasecmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &four) == 1)
        return ntohl(four.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

/* Addresses have several writings. */
static bool same_host(const char *a, const char *b)
{
    unsigned char left[sizeof(struct in6_addr)];
    unsigned char right[sizeof(struct in6_addr)];
    if (strcasecmp(a, b) == 0)
        return true;
    if (inet_pton(AF_INET, a, left) == 1)
        return inet_pton(AF_INET, b, right) == 1 && memcmp(left, right, 4) == 0;
    return inet_pton(AF_INET6, a, left) == 1 && inet_pton(AF_INET6, b, right) == 1 &&
           memcmp(left, right, sizeof left) == 0;
}

/* "::ffff:10.0.0.1" is how a socket for both kinds of addresses shows one of the older kind. */
static const char *without_mapping(const char *address)
{
    static const char prefix[] = "::ffff:";
    return strncasecmp(address, prefix, sizeof prefix - 1) == 0 ? address + sizeof prefix - 1
                                                                : address;
}

static bool is_own_host(const kvf_access *access, const kvf_exchange *exchange)
{
    const char *header = kvf_exchange_header(exchange, KVF_HEADER_HOST);
    const char *address = without_mapping(kvf_exchange_local_address(exchange));
    char name[256];
    /* Behind a Unix socket there is a program of this machine, and no browser. */
    if (kvf_exchange_is_local(exchange))
        return true;
    if (!header || !host_of(header, name, sizeof name))
        return false;
    if (kvf_access_is_loopback(name) || same_host(name, access->host) ||
        (*address && same_host(name, address)))
        return true;
    for (size_t i = 0; i < access->n_allow_hosts; i++)
        if (same_host(name, access->allow_hosts[i]))
            return true;
    return false;
}

/* ---- Origins ------------------------------------------------------------------------------ */

/* A page of this server: http, or https of a proxy before it, and the host that it was asked by. */
static bool is_own_origin(const kvf_exchange *exchange, const char *origin)
{
    const char *host = kvf_exchange_header(exchange, KVF_HEADER_HOST);
    const char *slashes = strstr(origin, "://");
    if (!host || !slashes ||
        (strncmp(origin, "http://", 7) != 0 && strncmp(origin, "https://", 8) != 0))
        return false;
    return strcasecmp(slashes + 3, host) == 0;
}

static bool is_allowed_origin(const kvf_access *access, const char *origin)
{
    for (size_t i = 0; i < access->n_origins; i++)
        if (strcmp(access->origins[i], "*") == 0 || strcasecmp(access->origins[i], origin) == 0)
            return true;
    return false;
}

static bool check_origin(const kvf_access *access, kvf_exchange *exchange, kvf_refusal *refusal)
{
    const char *origin = kvf_exchange_header(exchange, KVF_HEADER_ORIGIN);
    if (!origin || is_own_origin(exchange, origin))
        return true;
    if (!is_allowed_origin(access, origin))
        return kvf_refuse(refusal, 403, NULL,
                          "pages of %s may not ask this server; --cors ORIGIN allows it",
                          kvf_printable(origin).text);
    kvf_exchange_add_header(exchange, "Access-Control-Allow-Origin", origin);
    kvf_exchange_add_header(exchange, "Vary", "Origin");
    return true;
}

/* ---- Keys --------------------------------------------------------------------------------- */

/* In a time that says nothing of where they differ. */
static bool same_key(const char *key, const char *given)
{
    const size_t bytes = strlen(key);
    const size_t given_bytes = strlen(given);
    unsigned char difference = bytes != given_bytes;
    for (size_t i = 0; i < bytes; i++)
        difference |= (unsigned char)(key[i] ^ given[given_bytes > 0 ? i % given_bytes : 0]);
    return difference == 0;
}

static uint64_t find_key(const kvf_access *access, const char *given)
{
    uint64_t found = 0;
    for (size_t i = 0; i < access->n_keys && given; i++)
        if (same_key(access->keys[i], given))
            found = i + 1;
    return found;
}

static bool check_key(const kvf_access *access, const kvf_exchange *exchange, uint64_t *key,
                      kvf_refusal *refusal)
{
    const char *authorization = kvf_exchange_header(exchange, KVF_HEADER_AUTHORIZATION);
    *key = find_key(access, kvf_exchange_header(exchange, KVF_HEADER_API_KEY));
    if (*key == 0 && authorization && strncasecmp(authorization, "Bearer ", 7) == 0)
        *key = find_key(access, authorization + 7 + strspn(authorization + 7, " "));
    if (*key > 0)
        return true;
    return kvf_refuse(refusal, 401, NULL,
                      "a key of this server is needed, as \"Authorization: Bearer KEY\" or "
                      "\"x-api-key: KEY\"");
}

bool kvf_access_check(const kvf_access *access, kvf_exchange *exchange, uint64_t *key,
                      kvf_refusal *refusal)
{
    const bool is_preflight = strcmp(kvf_exchange_method(exchange), "OPTIONS") == 0;
    const bool is_health = strcmp(kvf_exchange_path(exchange), "/health") == 0;
    *key = 0;
    if (!is_own_host(access, exchange)) {
        const char *host = kvf_exchange_header(exchange, KVF_HEADER_HOST);
        return kvf_refuse(refusal, 403, NULL,
                          "this server is not \"%s\"; --allow-host NAME gives it another name",
                          kvf_printable(host ? host : "").text);
    }
    if (!check_origin(access, exchange, refusal))
        return false;
    /* A browser asks without a key whether it may ask. */
    if (access->n_keys == 0 || is_health || is_preflight)
        return true;
    return check_key(access, exchange, key, refusal);
}
