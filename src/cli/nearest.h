/* "did you mean": the known word that an unknown one is probably meant to be. */
#ifndef KVF_CLI_NEAREST_H
#define KVF_CLI_NEAREST_H

#include <stddef.h>

/*
 * The candidate with the fewest edits (insert, delete, replace, swap of neighbours)
 * to word, if they are at most 2 and fewer than half its letters; else NULL.
 */
const char *cli_nearest(const char *word, const char *const *candidates, size_t n_candidates);

#endif
