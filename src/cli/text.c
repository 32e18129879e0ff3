#include "cli/text.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/interrupt.h"
#include "cli/message.h"

enum { READ_STEP_BYTES = 64 * 1024 };

/* Appends what the stream still holds; false with errno set. */
static bool read_rest(FILE *file, cli_text *text)
{
    size_t capacity = 0;
    for (;;) {
        if (text->bytes + 1 >= capacity) {
            capacity = capacity ? capacity * 2 : READ_STEP_BYTES;
            char *larger = capacity > text->bytes ? realloc(text->data, capacity) : NULL;
            if (!larger) {
                errno = ENOMEM;
                return false;
            }
            text->data = larger;
        }
        text->bytes += fread(text->data + text->bytes, 1, capacity - text->bytes - 1, file);
        /* O_NONBLOCK comes from another program that has the same terminal or pipe. */
        if (ferror(file) && errno == EAGAIN && cli_interrupt_wait_readable(fileno(file)))
            clearerr(file);
        else if (ferror(file))
            return false;
        if (feof(file)) {
            text->data[text->bytes] = '\0';
            return true;
        }
    }
}

int cli_text_read(const char *command, const char *path, cli_text *text)
{
    memset(text, 0, sizeof *text);
    const bool from_stdin = strcmp(path, "-") == 0;
    FILE *file = from_stdin ? stdin : fopen(path, "rb");
    if (!file)
        return cli_error(command, "cannot open '%s': %s", path, strerror(errno));
    errno = 0;
    const bool complete = read_rest(file, text);
    const int reason = errno;
    if (!from_stdin)
        fclose(file);
    if (complete)
        return CLI_EXIT_OK;
    cli_text_free(text);
    if (cli_interrupted())
        return CLI_EXIT_INTERRUPTED;
    return cli_error(command, "cannot read '%s': %s", path, strerror(reason));
}

int cli_text_copy(const char *command, const void *data, size_t bytes, cli_text *text)
{
    text->data = malloc(bytes + 1);
    text->bytes = bytes;
    if (!text->data)
        return cli_error(command, "out of memory for %zu bytes of text", bytes);
    memcpy(text->data, data, bytes);
    text->data[bytes] = '\0';
    return CLI_EXIT_OK;
}

void cli_text_free(cli_text *text)
{
    free(text->data);
    memset(text, 0, sizeof *text);
}
