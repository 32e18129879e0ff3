/* Exit statuses, and the one way in which a command reports a failure. */
#ifndef KVF_CLI_MESSAGE_H
#define KVF_CLI_MESSAGE_H

typedef enum cli_exit {
    CLI_EXIT_OK = 0,
    CLI_EXIT_DIFFERENT = 1, /* a comparison failed */
    CLI_EXIT_BAD_INPUT = 2, /* usage, input, memory, files */
    CLI_EXIT_INTERRUPTED = 130
} cli_exit;

/*
 * Writes "kvfold: COMMAND: message" as one line to stderr (without COMMAND where
 * it is NULL) and returns CLI_EXIT_BAD_INPUT:
 *     return cli_error("plan", "--svg: cannot write %s", path);
 */
int cli_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Likewise "kvfold: COMMAND: note: message", where the command goes on. */
void cli_note(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
