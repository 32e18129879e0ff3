#include "cli/ids.h"

bool cli_ids_parse(const char *text, size_t bytes, uint32_t vocab, int32_t *ids, uint64_t *n_ids,
                   uint64_t *line_number)
{
    const char *c = text;
    const char *end = text + bytes;
    *n_ids = 0;
    *line_number = 1;
    while (c < end) {
        uint64_t id = 0;
        const char *start = c;
        for (; c < end && *c >= '0' && *c <= '9' && id < vocab; c++)
            id = 10 * id + (uint64_t)(*c - '0');
        if (c == start || id >= vocab)
            return false;
        ids[(*n_ids)++] = (int32_t)id;
        if (c < end && *c == '\r')
            c++;
        if (c < end && *c++ != '\n')
            return false;
        ++*line_number;
    }
    return true;
}
