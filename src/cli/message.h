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
 * Control characters and what is not UTF-8 are shown as '?'; a message that is too long, by a
 * path or a value in it, loses its middle.
 */
int cli_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A path on standard output, all of it; what does not show, or would do more, is '?'. */
void cli_put_path(const char *path);

/* As cli_error, "kvfold: COMMAND: note: message", where the command goes on. */
void cli_note(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same with "warning: ". */
void cli_warn(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
