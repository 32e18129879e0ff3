#include "cli/message.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

int cli_error(const char *command, const char *format, ...)
{
    char message[1024];
    char line[1024];
    char *longer = NULL;
    va_list arguments;
    va_start(arguments, format);
    const int bytes = vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    /* A path may have 4096 bytes, and what is wrong with it stands behind it. */
    if (bytes >= (int)sizeof message)
        longer = malloc((size_t)bytes + 1);
    if (longer) {
        va_start(arguments, format);
        vsnprintf(longer, (size_t)bytes + 1, format, arguments);
        va_end(arguments);
    }
    kvf_print_line(line, sizeof line, longer ? longer : message);
    free(longer);
    fprintf(stderr, "kvfold: %s%s%s\n", command ? command : "", command ? ": " : "", line);
    return CLI_EXIT_BAD_INPUT;
}

void cli_put_path(const char *path)
{
    const size_t room_bytes = strlen(path) + 8; /* nothing becomes longer */
    char *shown = malloc(room_bytes);
    if (shown)
        kvf_print_line(shown, room_bytes, path);
    fputs(shown ? shown : "?", stdout);
    free(shown);
}
