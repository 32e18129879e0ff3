#include "cli/sha256.h"

#ifdef KVF_NETTLE_NONE

bool cli_sha256_is_there(void)
{
    return false;
}

cli_sha256 *cli_sha256_start(void)
{
    return NULL;
}

void cli_sha256_add(cli_sha256 *hash, const void *data, size_t bytes)
{
    (void)hash;
    (void)data;
    (void)bytes;
}

void cli_sha256_end(cli_sha256 *hash, char text[65])
{
    (void)hash;
    text[0] = '\0';
}

#else

#include <nettle/sha2.h>
#include <nettle/version.h>
#include <stdio.h>
#include <stdlib.h>

struct cli_sha256 {
    struct sha256_ctx context;
};

bool cli_sha256_is_there(void)
{
    return true;
}

cli_sha256 *cli_sha256_start(void)
{
    cli_sha256 *hash = malloc(sizeof *hash);
    if (hash)
        sha256_init(&hash->context);
    return hash;
}

void cli_sha256_add(cli_sha256 *hash, const void *data, size_t bytes)
{
    sha256_update(&hash->context, bytes, data);
}

void cli_sha256_end(cli_sha256 *hash, char text[65])
{
    unsigned char digest[SHA256_DIGEST_SIZE];
#if NETTLE_VERSION_MAJOR >= 4
    sha256_digest(&hash->context, digest);
#else
    sha256_digest(&hash->context, sizeof digest, digest);
#endif
    for (int i = 0; i < SHA256_DIGEST_SIZE; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    free(hash);
}

#endif
