/* A bar on stderr while something long runs; nothing where stderr is no terminal. */
#ifndef KVF_CLI_PROGRESS_H
#define KVF_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct cli_progress {
    bool shown;     /* stderr is a terminal */
    int drawn;      /* columns of the line that the bar takes now */
    char label[48]; /* "fold 8k" */
    uint64_t total_tokens;
    double started; /* cli_seconds() */
    double redrawn;
} cli_progress;

void cli_progress_start(cli_progress *progress, const char *label, uint64_t total_tokens);
/* Redraws at most ten times a second: percent, tokens/s, time left. */
void cli_progress_update(cli_progress *progress, uint64_t done_tokens);
/* Clears the line. May be called at any time, any number of times. */
void cli_progress_finish(cli_progress *progress);

#endif
