/*
 * A file that appears whole or not at all: written beside its place under a
 * temporary name and renamed when it is complete. A file that is there is replaced,
 * through links, and keeps its permissions; overlap.h sees to it that it is no input.
 */
#ifndef KVF_CLI_OUTFILE_H
#define KVF_CLI_OUTFILE_H

#include <stdio.h>

typedef struct cli_outfile {
    FILE *stream; /* NULL: not open */
    char *path;
    char *temporary_path;
} cli_outfile;

/* Each returns 0, or prints why not and returns the exit status. */
int cli_outfile_open(const char *command, const char *path, cli_outfile *file);
/* Whether it could be opened, before work is done for it; leaves nothing behind. */
int cli_outfile_try(const char *command, const char *path);
/* Completes and renames; on failure nothing is left behind. Closes in either case. */
int cli_outfile_commit(const char *command, cli_outfile *file);
/* Removes what was written. Does nothing for a file that is not open. */
void cli_outfile_discard(cli_outfile *file);

#endif
