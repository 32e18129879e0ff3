/* Text that comes in: prompt files, standard input, the text bundled in the binary. */
#ifndef KVF_CLI_TEXT_H
#define KVF_CLI_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* models/prompt.txt, made into an array by scripts/embed.py when the project is built. */
extern const unsigned char cli_bundled_text[];
extern const size_t cli_bundled_text_bytes;

/* All that return int: 0, or they print why not and return the exit status. */

/* ---- A file that is read piece by piece -------------------------------------------------- */

typedef struct cli_source {
    const char *command;
    const char *path;
    int file;
    bool is_stdin;
    bool regular;
    bool device;         /* that is no terminal: /dev/zero and the like never end */
    uint64_t size_bytes; /* regular: of the whole file when it was opened */
    uint64_t left_bytes; /* regular: from where it is read */
} cli_source;

/* Opens a file ("-": standard input). path is kept. */
int cli_source_open(const char *command, const char *path, cli_source *source);
/* Refuses a regular file that has another size than when it was opened. */
int cli_source_check(const cli_source *source);
/*
 * Reads on until `most` bytes are there or the source ends (*n < most), and checks it. An
 * interrupted read is CLI_EXIT_INTERRUPTED.
 */
int cli_source_read(cli_source *source, void *data, size_t most, size_t *n);
/* Goes back to where a regular file was opened. */
int cli_source_rewind(cli_source *source);
/* May be called for one that is not open (all zero). */
void cli_source_close(cli_source *source);

/* ---- A text that is in memory as a whole --------------------------------------------------- */

typedef struct cli_text {
    char *data; /* [bytes], malloc'd, a NUL behind it that is not counted */
    size_t bytes;
    bool longer; /* the file has more than was asked for */
} cli_text;

/*
 * Reads a file ("-": standard input), at most most_bytes of it. whole: of a longer one
 * nothing is needed, and nothing is read where its size tells. Free with cli_text_free.
 */
int cli_text_read(const char *command, const char *path, size_t most_bytes, bool whole,
                  cli_text *text);
/* A copy of bytes in memory. */
int cli_text_copy(const char *command, const void *data, size_t bytes, cli_text *text);
void cli_text_free(cli_text *text);

#endif
