/* Token ids as text. */
#ifndef KVF_CLI_IDS_H
#define KVF_CLI_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Reads one id below vocab (at most 2^24) a line, LF or CR LF, no empty lines. ids has
 * room for cli_ids_most(bytes) of them. False where a line is something else; then
 * *line_number is that line, counted from 1.
 */
bool cli_ids_parse(const char *text, size_t bytes, uint32_t vocab, int32_t *ids, uint64_t *n_ids,
                   uint64_t *line_number);

/* The most ids that so many bytes can hold: each is a digit and a line break, or the last. */
static inline size_t cli_ids_most(size_t bytes)
{
    return bytes / 2 + 1;
}

#endif
