#include "cli/lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/interrupt.h"

static const char byte_order_mark[] = "\xef\xbb\xbf";
enum { MARK_BYTES = sizeof byte_order_mark - 1 };

void cli_lines_start(cli_lines *lines, int descriptor, size_t kept_bytes, size_t max_bytes)
{
    memset(lines, 0, sizeof *lines);
    lines->descriptor = descriptor;
    lines->kept_bytes = kept_bytes;
    lines->max_bytes = max_bytes;
}

void cli_lines_free(cli_lines *lines)
{
    free(lines->line);
    lines->line = NULL;
}

/* More bytes into the buffer, which is empty. */
static cli_lines_result fill(cli_lines *lines)
{
    for (;;) {
        if (!cli_interrupt_wait_readable(lines->descriptor))
            return CLI_LINES_INTERRUPTED;
        const ssize_t n = read(lines->descriptor, lines->buffer, sizeof lines->buffer);
        if (n > 0) {
            lines->next = 0;
            lines->end = (size_t)n;
            return CLI_LINE;
        }
        if (n == 0)
            return CLI_LINES_END;
        /* Another reader of the same terminal may have been quicker: EAGAIN. */
        if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)
            return CLI_LINES_FAILED;
    }
}

static cli_lines_result append(cli_lines *lines, const char *data, size_t bytes)
{
    if (bytes > lines->max_bytes - lines->bytes)
        return CLI_LINES_TOO_LONG;
    lines->bytes += bytes;
    if (bytes > lines->kept_bytes - lines->held_bytes)
        bytes = lines->kept_bytes - lines->held_bytes;
    if (lines->capacity - lines->held_bytes <= bytes) {
        const size_t capacity = 2 * lines->capacity + bytes + 1;
        char *larger = realloc(lines->line, capacity);
        if (!larger) {
            errno = ENOMEM;
            return CLI_LINES_FAILED;
        }
        lines->line = larger;
        lines->capacity = capacity;
    }
    memcpy(lines->line + lines->held_bytes, data, bytes);
    lines->held_bytes += bytes;
    lines->line[lines->held_bytes] = '\0';
    return CLI_LINE;
}

/* Bytes of the buffer up to a line's end, or all of them. */
static size_t up_to_an_end(const cli_lines *lines)
{
    size_t n = 0;
    while (lines->next + n < lines->end && lines->buffer[lines->next + n] != '\n' &&
           lines->buffer[lines->next + n] != '\r')
        n++;
    return n;
}

/* Takes bytes up to the line's end or to the end of everything. */
static cli_lines_result take(cli_lines *lines)
{
    for (;;) {
        if (lines->next == lines->end) {
            const cli_lines_result filled = fill(lines);
            if (filled == CLI_LINES_END && lines->bytes > 0)
                return CLI_LINE;
            if (filled != CLI_LINE)
                return filled;
        }
        if (lines->skips_line_feed && lines->buffer[lines->next] == '\n')
            lines->next++;
        lines->skips_line_feed = false;
        const size_t n = up_to_an_end(lines);
        const cli_lines_result appended = append(lines, lines->buffer + lines->next, n);
        if (appended != CLI_LINE)
            return appended;
        lines->next += n;
        if (lines->next < lines->end) {
            lines->skips_line_feed = lines->buffer[lines->next++] == '\r';
            return CLI_LINE;
        }
    }
}

cli_lines_result cli_lines_next(cli_lines *lines)
{
    lines->bytes = lines->held_bytes = 0;
    const cli_lines_result result = take(lines);
    if (result != CLI_LINE)
        return result;
    if (lines->n_lines++ == 0 && lines->bytes >= MARK_BYTES &&
        memcmp(lines->line, byte_order_mark, MARK_BYTES) == 0) {
        lines->bytes -= MARK_BYTES;
        lines->held_bytes -= MARK_BYTES;
        memmove(lines->line, lines->line + MARK_BYTES, lines->held_bytes + 1);
    }
    return CLI_LINE;
}
