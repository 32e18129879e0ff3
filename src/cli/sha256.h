/* SHA-256 of what comes in pieces; of a library that a build may lack. */
#ifndef KVF_CLI_SHA256_H
#define KVF_CLI_SHA256_H

#include <stdbool.h>
#include <stddef.h>

/* Whether this build has it; without, cli_sha256_start gives NULL. */
bool cli_sha256_is_there(void);

typedef struct cli_sha256 cli_sha256;
/* To be freed by cli_sha256_end; NULL where memory ran out. */
cli_sha256 *cli_sha256_start(void);
void cli_sha256_add(cli_sha256 *hash, const void *data, size_t bytes);
/* 64 hexadecimal digits and a NUL. */
void cli_sha256_end(cli_sha256 *hash, char text[65]);

#endif
