#include "backend/cpu/candidates.h"

#include <math.h>
#include <stdlib.h>

void kvf_candidates_start(kvf_candidates *candidates, uint64_t *keys, uint32_t capacity,
                          uint32_t top_k)
{
    *candidates = (kvf_candidates){
        .keys = keys, .capacity = capacity, .top_k = top_k, .floor_score = -INFINITY};
}

static uint64_t median_of_three(uint64_t a, uint64_t b, uint64_t c)
{
    const uint64_t low = a < b ? a : b;
    const uint64_t high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

/* Moves the k largest keys to the front (Hoare's selection); keys are distinct. */
static void partition_top(uint64_t *keys, uint32_t n, uint32_t k)
{
    int64_t left = 0;
    int64_t right = (int64_t)n - 1;
    while (left < right) {
        const uint64_t pivot = median_of_three(keys[left], keys[(left + right) / 2], keys[right]);
        int64_t i = left;
        int64_t j = right;
        while (i <= j) {
            while (keys[i] > pivot)
                i++;
            while (keys[j] < pivot)
                j--;
            if (i <= j) {
                const uint64_t other = keys[i];
                keys[i++] = keys[j];
                keys[j--] = other;
            }
        }
        if ((int64_t)k - 1 <= j)
            right = j;
        else if ((int64_t)k >= i + 1)
            left = i;
        else
            return;
    }
}

void kvf_candidates_thin(kvf_candidates *candidates)
{
    if (candidates->n < candidates->top_k)
        return;
    partition_top(candidates->keys, candidates->n, candidates->top_k);
    candidates->n = candidates->top_k;
    uint64_t lowest = candidates->keys[0];
    for (uint32_t i = 1; i < candidates->n; i++)
        if (candidates->keys[i] < lowest)
            lowest = candidates->keys[i];
    candidates->floor = lowest;
    candidates->floor_score = kvf_candidate_score(lowest);
}

void kvf_candidates_push(kvf_candidates *candidates, const float *scores, uint32_t n,
                         uint32_t first_row)
{
    for (uint32_t i = 0; i < n; i++)
        if (!(scores[i] < candidates->floor_score)) /* most rows end here */
            kvf_candidates_push_key(candidates, kvf_candidate_key(scores[i], first_row + i));
}

static int compare_rows(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a;
    const int32_t y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

uint32_t kvf_candidates_finish(kvf_candidates *candidates, int32_t *list)
{
    kvf_candidates_thin(candidates);
    const uint32_t n = candidates->n;
    for (uint32_t i = 0; i < n; i++)
        list[i] = (int32_t)kvf_candidate_row(candidates->keys[i]);
    qsort(list, n, sizeof *list, compare_rows);
    for (uint32_t i = n; i < candidates->top_k; i++)
        list[i] = -1;
    return n;
}
