#include "cli/nearest.h"

#include <string.h>

enum { MAX_WORD = 31 }; /* longer words are never near: every name is shorter */

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Edit distance with swaps of neighbours; both words are at most MAX_WORD long. */
static size_t edits(const char *a, const char *b)
{
    const size_t a_length = strlen(a);
    const size_t b_length = strlen(b);
    size_t distance[MAX_WORD + 1][MAX_WORD + 1];
    for (size_t i = 0; i <= a_length; i++)
        distance[i][0] = i;
    for (size_t j = 0; j <= b_length; j++)
        distance[0][j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        for (size_t j = 1; j <= b_length; j++) {
            const size_t replace = distance[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            const size_t other = min_size(distance[i - 1][j], distance[i][j - 1]) + 1;
            distance[i][j] = min_size(replace, other);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                distance[i][j] = min_size(distance[i][j], distance[i - 2][j - 2] + 1);
        }
    }
    return distance[a_length][b_length];
}

const char *cli_nearest(const char *word, const char *const *candidates, size_t n_candidates)
{
    if (strlen(word) > MAX_WORD)
        return NULL;
    const char *best = NULL;
    size_t best_edits = 3;
    for (size_t i = 0; i < n_candidates; i++) {
        if (strlen(candidates[i]) > MAX_WORD)
            continue;
        const size_t n = edits(word, candidates[i]);
        if (n < best_edits && 2 * n < strlen(word)) {
            best = candidates[i];
            best_edits = n;
        }
    }
    return best;
}
