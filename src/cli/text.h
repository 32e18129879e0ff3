/* Text that comes in: prompt files, standard input, the text bundled in the binary. */
#ifndef KVF_CLI_TEXT_H
#define KVF_CLI_TEXT_H

#include <stddef.h>

/* models/prompt.txt, made into an array by scripts/embed.py when the project is built. */
extern const unsigned char cli_bundled_text[];
extern const size_t cli_bundled_text_bytes;

typedef struct cli_text {
    char *data; /* [bytes], malloc'd, a NUL behind it that is not counted */
    size_t bytes;
} cli_text;

/*
 * Reads all of a file ("-": standard input). Returns 0, or prints why not and
 * returns the exit status. An interrupted read is CLI_EXIT_INTERRUPTED.
 */
int cli_text_read(const char *command, const char *path, cli_text *text);
/* A copy of bytes in memory. */
int cli_text_copy(const char *command, const void *data, size_t bytes, cli_text *text);
void cli_text_free(cli_text *text);

#endif
