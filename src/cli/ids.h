/* Token ids as text. */
#ifndef KVF_CLI_IDS_H
#define KVF_CLI_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is no id. */
typedef struct cli_ids_fault {
    uint64_t line; /* counted from 1 */
    char text[48]; /* the line, printable, its beginning where it is long */
} cli_ids_fault;

/*
 * Reads one id below vocab (at most 2^24) a line. Lines end as on any system (LF, CR LF or
 * CR), the last one may lack its end, and a byte order mark may stand before the first; no
 * empty lines, no spaces. ids has room for cli_ids_most(bytes) of them. False where a line
 * is something else: *fault is set then.
 */
bool cli_ids_parse(const char *text, size_t bytes, uint32_t vocab, int32_t *ids, uint64_t *n_ids,
                   cli_ids_fault *fault);

/* The most ids that so many bytes can hold: each is a digit and a line break, or the last. */
static inline size_t cli_ids_most(size_t bytes)
{
    return bytes / 2 + 1;
}

#endif
