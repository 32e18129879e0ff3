#include "cli/message.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

/* One line, whatever a file name or an option's value contains. */
static void print_line(const char *command, const char *kind, const char *format, va_list arguments)
{
    char message[1024];
    char line[1024];
    char *longer = NULL;
    va_list again;
    va_copy(again, arguments);
    const int bytes = vsnprintf(message, sizeof message, format, arguments);
    /* A path may have 4096 bytes, and what is wrong with it stands behind it. */
    if (bytes >= (int)sizeof message)
        longer = malloc((size_t)bytes + 1);
    if (longer)
        vsnprintf(longer, (size_t)bytes + 1, format, again);
    va_end(again);
    kvf_print_line(line, sizeof line, longer ? longer : message);
    free(longer);
    fprintf(stderr, "kvfold: %s%s%s%s\n", command ? command : "", command ? ": " : "", kind, line);
}

int cli_error(const char *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_line(command, "", format, arguments);
    va_end(arguments);
    return CLI_EXIT_BAD_INPUT;
}

void cli_note(const char *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_line(command, "note: ", format, arguments);
    va_end(arguments);
}

void cli_warn(const char *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_line(command, "warning: ", format, arguments);
    va_end(arguments);
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
