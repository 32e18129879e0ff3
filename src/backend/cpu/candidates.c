#include "backend/cpu/candidates.h"

#include <math.h>

void kvf_candidates_start(kvf_candidates *candidates, uint64_t *keys, uint64_t *spare,
                          uint32_t capacity, uint32_t top_k)
{
    *candidates = (kvf_candidates){.keys = keys,
                                   .spare = spare,
                                   .capacity = capacity,
                                   .top_k = top_k,
                                   .floor_score = -INFINITY};
}

static uint64_t median_of_three(uint64_t a, uint64_t b, uint64_t c)
{
    const uint64_t low = a < b ? a : b;
    const uint64_t high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

/* Moves a median of three to keys[0], then the larger keys behind it; returns their number. */
static uint32_t partition_larger(uint64_t *keys, uint32_t n)
{
    const uint64_t pivot = median_of_three(keys[0], keys[n / 2], keys[n - 1]);
    uint32_t at = pivot == keys[0] ? 0 : pivot == keys[n / 2] ? n / 2 : n - 1;
    keys[at] = keys[0];
    keys[0] = pivot;
    at = 1;
    for (uint32_t i = 1; i < n; i++) { /* no branch: which way a key goes cannot be predicted */
        const uint64_t key = keys[i];
        keys[i] = keys[at];
        keys[at] = key;
        at += key > pivot;
    }
    return at - 1;
}

/* The k-th largest of n distinct keys, which are reordered; 1 <= k <= n (quickselect). */
static uint64_t kth_largest(uint64_t *keys, uint32_t n, uint32_t k)
{
    for (;;) {
        const uint32_t n_larger = partition_larger(keys, n);
        if (n_larger == k - 1)
            return keys[0];
        keys++; /* the pivot is not it */
        if (n_larger >= k) {
            n = n_larger;
        } else {
            keys += n_larger;
            n -= n_larger + 1;
            k -= n_larger + 1;
        }
    }
}

void kvf_candidates_thin(kvf_candidates *candidates)
{
    if (candidates->n < candidates->top_k)
        return;
    memcpy(candidates->spare, candidates->keys, candidates->n * sizeof *candidates->keys);
    const uint64_t floor = kth_largest(candidates->spare, candidates->n, candidates->top_k);
    uint32_t n = 0;
    for (uint32_t i = 0; i < candidates->n; i++) { /* in place, in their order */
        const uint64_t key = candidates->keys[i];
        candidates->keys[n] = key;
        n += key >= floor;
    }
    candidates->n = n;
    candidates->floor = floor;
    candidates->floor_score = kvf_candidate_score(floor);
}

void kvf_candidates_merge(kvf_candidates *candidates, const uint64_t *keys, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (candidates->n == candidates->capacity)
            kvf_candidates_thin(candidates);
        candidates->keys[candidates->n] = keys[i];
        candidates->n += keys[i] >= candidates->floor;
    }
}

uint32_t kvf_candidates_finish(kvf_candidates *candidates, int32_t *list)
{
    kvf_candidates_thin(candidates);
    const uint32_t n = candidates->n;
    for (uint32_t i = 0; i < n; i++)
        list[i] = (int32_t)kvf_candidate_row(candidates->keys[i]);
    for (uint32_t i = n; i < candidates->top_k; i++)
        list[i] = -1;
    return n;
}
