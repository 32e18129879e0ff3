/* Token ids as text. */
#ifndef KVF_CLI_IDS_H
#define KVF_CLI_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A text of ids that comes in pieces of any size. Start with cli_ids_start. */
typedef struct cli_ids {
    uint32_t vocab;
    uint64_t line_number; /* of the line that is being read, counted from 1 */
    uint64_t line_bytes;  /* of it so far */
    uint64_t id;          /* as far as its digits are read */
    bool faulty;          /* it is no id; the rest of it is only read to be shown */
    bool marked;          /* there was a byte order mark */
    bool after_return;    /* the last line ended with CR: an LF that follows belongs to it */
    char line[48];        /* its beginning; made printable and ended when it is found to be no id */
} cli_ids;

/* vocab is at most 2^24. */
void cli_ids_start(cli_ids *ids, uint32_t vocab);
/*
 * Reads one id below vocab a line into out[0..capacity), *n_ids of them. Lines end as on any
 * system (LF, CR LF or CR), and a byte order mark may stand before the first; no empty lines,
 * no spaces. *used is how many bytes of the piece were read: all of them, unless there was no
 * room for another id. False where a line is something else: ids->line_number is that line,
 * and ids->line what to show of it.
 */
bool cli_ids_take(cli_ids *ids, const char *text, size_t bytes, int32_t *out, uint64_t capacity,
                  uint64_t *n_ids, size_t *used);
/*
 * The end of the text, whose last line needs no line break: *n_ids (0 or 1) more into *out.
 * False as above.
 */
bool cli_ids_end(cli_ids *ids, int32_t *out, uint64_t *n_ids);

/* The most ids that so many bytes can hold: each is a digit and a line break, or the last. */
static inline size_t cli_ids_most(size_t bytes)
{
    return bytes / 2 + 1;
}

#endif
