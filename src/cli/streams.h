/* Standard input, output and error as this process was given them. */
#ifndef KVF_CLI_STREAMS_H
#define KVF_CLI_STREAMS_H

#include <stdbool.h>

/*
 * To be called before any file is opened. A standard stream that is closed gets a descriptor
 * that no read or write succeeds on: a file that is opened later could land on the number
 * otherwise, and messages would go into it. Output that another program has set to
 * O_NONBLOCK is set back, because what does not fit a full pipe would be lost. False where
 * a descriptor cannot be had.
 */
bool cli_streams_open(void);

/* Whether STDIN_FILENO, STDOUT_FILENO or STDERR_FILENO was closed then. */
bool cli_stream_was_closed(int descriptor);

#endif
