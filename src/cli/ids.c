#include "cli/ids.h"

void cli_ids_start(cli_ids *ids, uint32_t vocab)
{
    *ids = (cli_ids){.vocab = vocab, .line_number = 1};
}

bool cli_ids_take(cli_ids *ids, const char *text, size_t bytes, int32_t *out, uint64_t capacity,
                  uint64_t *n_ids, size_t *used)
{
    *n_ids = 0;
    for (*used = 0; *used < bytes && *n_ids < capacity; ++*used) {
        const char c = text[*used];
        if (c >= '0' && c <= '9' && !ids->has_return) {
            ids->id = 10 * ids->id + (uint64_t)(c - '0');
            ids->has_digits = true;
            if (ids->id >= ids->vocab)
                return false;
        } else if (c == '\r' && ids->has_digits && !ids->has_return) {
            ids->has_return = true;
        } else if (c == '\n' && ids->has_digits) {
            out[(*n_ids)++] = (int32_t)ids->id;
            ids->line_number++;
            ids->id = 0;
            ids->has_digits = ids->has_return = false;
        } else {
            return false;
        }
    }
    return true;
}

bool cli_ids_end(const cli_ids *ids, int32_t *out)
{
    if (ids->has_digits)
        *out = (int32_t)ids->id;
    return ids->has_digits;
}
