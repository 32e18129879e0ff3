#include "cli/ids.h"

#include <string.h>

/* The line at c as a message shows it: its beginning, without what no terminal should get. */
static void show_line(const char *c, const char *end, cli_ids_fault *fault)
{
    enum { SHOWN_BYTES = sizeof fault->text - sizeof "..." };
    size_t n = 0;
    while (c < end && *c != '\n' && *c != '\r' && n < SHOWN_BYTES) {
        fault->text[n++] = *c < ' ' || *c > '~' ? '?' : *c;
        c++;
    }
    const bool whole = c == end || *c == '\n' || *c == '\r';
    strcpy(fault->text + n, whole ? "" : "...");
}

bool cli_ids_parse(const char *text, size_t bytes, uint32_t vocab, int32_t *ids, uint64_t *n_ids,
                   cli_ids_fault *fault)
{
    static const char mark[] = "\xef\xbb\xbf"; /* editors of other systems put it there */
    const char *c = text;
    const char *end = text + bytes;
    *n_ids = 0;
    fault->line = 1;
    if (bytes >= sizeof mark - 1 && memcmp(text, mark, sizeof mark - 1) == 0)
        c += sizeof mark - 1;
    while (c < end) {
        uint64_t id = 0;
        const char *start = c;
        for (; c < end && *c >= '0' && *c <= '9' && id < vocab; c++)
            id = 10 * id + (uint64_t)(*c - '0');
        if (c == start || id >= vocab || (c < end && *c != '\n' && *c != '\r')) {
            show_line(start, end, fault);
            return false;
        }
        ids[(*n_ids)++] = (int32_t)id;
        if (end - c >= 2 && c[0] == '\r' && c[1] == '\n')
            c++;
        c += c < end;
        fault->line++;
    }
    return true;
}
