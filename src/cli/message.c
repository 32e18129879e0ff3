#include "cli/message.h"

#include <stdarg.h>
#include <stdio.h>

static void print_line(const char *command, const char *kind, const char *format, va_list arguments)
{
    char message[1024];
    vsnprintf(message, sizeof message, format, arguments);
    /* One line, whatever a file name or an option's value contains. */
    for (char *c = message; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    }
    fprintf(stderr, "kvfold: %s%s%s%s\n", command ? command : "", command ? ": " : "", kind,
            message);
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
