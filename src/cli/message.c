#include "cli/message.h"

#include <stdarg.h>
#include <stdio.h>

int cli_error(const char *command, const char *format, ...)
{
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    /* One line, whatever a file name or an option's value contains. */
    for (char *c = message; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    }
    fprintf(stderr, "kvfold: %s%s%s\n", command ? command : "", command ? ": " : "", message);
    return CLI_EXIT_BAD_INPUT;
}
