/* A bar on stderr while something long runs; nothing where stderr is no terminal. */
#ifndef KVF_CLI_PROGRESS_H
#define KVF_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct cli_progress {
    bool shown;     /* stderr is a terminal */
    bool in_bytes;  /* what is counted, instead of tokens */
    int drawn;      /* columns of the line that the bar takes now */
    char label[48]; /* "fold 8k" */
    uint64_t total;
    double started; /* kvf_seconds() */
    double redrawn;
} cli_progress;

void cli_progress_start(cli_progress *progress, const char *label, uint64_t total_tokens);
/* The same where bytes are counted. */
void cli_progress_start_bytes(cli_progress *progress, const char *label, uint64_t total_bytes);
/* Redraws at most ten times a second: percent, tokens/s or bytes/s, time left. */
void cli_progress_update(cli_progress *progress, uint64_t done);
/* Clears the line. May be called at any time, any number of times. */
void cli_progress_finish(cli_progress *progress);

#endif
