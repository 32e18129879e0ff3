/* Lines that are typed, or come from a pipe or a file, as any system ends them. */
#ifndef KVF_CLI_LINES_H
#define KVF_CLI_LINES_H

#include <stdbool.h>
#include <stddef.h>

typedef enum cli_lines_result {
    CLI_LINE,
    CLI_LINES_END,
    CLI_LINES_INTERRUPTED, /* Ctrl-C, or another signal that ends the command */
    CLI_LINES_TOO_LONG,    /* more than max_bytes without an end */
    CLI_LINES_FAILED       /* errno says why */
} cli_lines_result;

typedef struct cli_lines {
    int descriptor;
    size_t kept_bytes; /* of a line that are wanted; those behind them are counted alone */
    size_t max_bytes;  /* in a line */
    char *line;        /* [held_bytes], without its end; a NUL behind it that is not counted */
    size_t held_bytes; /* the line's, or kept_bytes where it has more */
    size_t bytes;      /* in the line */
    size_t capacity;
    size_t n_lines;       /* so far */
    bool skips_line_feed; /* the last line ended with CR: an LF that follows belongs to it */
    size_t next;          /* in the buffer: the first that was not looked at .. */
    size_t end;           /* .. and where it ends */
    char buffer[4096];
} cli_lines;

/* kept_bytes: 3, which a byte order mark has, at the least. */
void cli_lines_start(cli_lines *lines, int descriptor, size_t kept_bytes, size_t max_bytes);

/*
 * The next line into lines->line. It ends with LF, CR LF or CR; the last one may lack its
 * end; a byte order mark before the first is none of it. Any other byte may be in it. Waits
 * where nothing is there yet, also on a descriptor that is set to O_NONBLOCK.
 */
cli_lines_result cli_lines_next(cli_lines *lines);

void cli_lines_free(cli_lines *lines);

#endif
