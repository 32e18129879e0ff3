#include "cli/ids.h"

#include <string.h>

enum { SHOWN_BYTES = sizeof((cli_ids *)NULL)->line - sizeof "..." };

void cli_ids_start(cli_ids *ids, uint32_t vocab)
{
    memset(ids, 0, sizeof *ids);
    ids->vocab = vocab;
    ids->line_number = 1;
}

/* The line as a message shows it: its beginning, without what no terminal should get. */
static bool refuse(cli_ids *ids)
{
    const bool whole = ids->line_bytes <= SHOWN_BYTES;
    const size_t n = whole ? (size_t)ids->line_bytes : SHOWN_BYTES;
    for (size_t i = 0; i < n; i++)
        if (ids->line[i] < ' ' || ids->line[i] > '~')
            ids->line[i] = '?';
    strcpy(ids->line + n, whole ? "" : "...");
    return false;
}

static void start_line(cli_ids *ids)
{
    ids->line_bytes = 0;
    ids->id = 0;
    ids->faulty = false;
}

/* Editors of other systems put it before the first line. */
static bool is_mark(const cli_ids *ids)
{
    static const char mark[] = "\xef\xbb\xbf";
    return ids->line_number == 1 && !ids->marked && ids->line_bytes == sizeof mark - 1 &&
           memcmp(ids->line, mark, sizeof mark - 1) == 0;
}

/* False where the line is none, and no more of it is shown. */
static bool add(cli_ids *ids, char c)
{
    if (ids->line_bytes < SHOWN_BYTES)
        ids->line[ids->line_bytes] = c;
    ids->line_bytes++;
    if (c < '0' || c > '9')
        ids->faulty = true;
    if (!ids->faulty) {
        ids->id = 10 * ids->id + (uint64_t)(c - '0');
        ids->faulty = ids->id >= ids->vocab;
    }
    if (is_mark(ids)) {
        ids->marked = true;
        start_line(ids);
    }
    return !ids->faulty || ids->line_bytes <= SHOWN_BYTES || refuse(ids);
}

static bool end_line(cli_ids *ids, int32_t *out)
{
    if (ids->faulty || ids->line_bytes == 0)
        return refuse(ids);
    *out = (int32_t)ids->id;
    ids->line_number++;
    start_line(ids);
    return true;
}

bool cli_ids_take(cli_ids *ids, const char *text, size_t bytes, int32_t *out, uint64_t capacity,
                  uint64_t *n_ids, size_t *used)
{
    *n_ids = 0;
    for (*used = 0; *used < bytes && *n_ids < capacity; ++*used) {
        const char c = text[*used];
        const bool ends = c == '\n' || c == '\r';
        const bool ended_before = c == '\n' && ids->after_return;
        ids->after_return = c == '\r';
        if (ended_before)
            continue;
        if (ends ? !end_line(ids, &out[*n_ids]) : !add(ids, c))
            return false;
        *n_ids += ends;
    }
    return true;
}

bool cli_ids_end(cli_ids *ids, int32_t *out, uint64_t *n_ids)
{
    *n_ids = ids->line_bytes > 0;
    return *n_ids == 0 || end_line(ids, out);
}
