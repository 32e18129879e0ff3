/*
 * select: the top_k visible rows of each query, by score, equal: lower row first.
 * Rows come in ascending order and a newcomer is put at the end, so the list is
 * ascending at all times and needs no sort.
 */
#include "backend/ref/ref.h"
#include "shared/visible.h"

#include <string.h>

/* The member that leaves first: the lowest score; of equal ones, the highest row. */
static uint32_t find_weakest(const float *scores, uint32_t n)
{
    uint32_t weakest = 0;
    for (uint32_t i = 1; i < n; i++)
        if (scores[i] <= scores[weakest])
            weakest = i;
    return weakest;
}

/* list[top_k] and scores[top_k] of one query; returns how many rows are in the list. */
static uint32_t select_rows(const kvf_select_args *args, uint32_t query, int32_t *list,
                            float *scores)
{
    uint32_t n = 0;
    uint32_t weakest = 0;
    const uint32_t n_visible = kvf_select_visible(args, query);
    for (uint64_t row = 0; row < n_visible; row++) {
        const float score = kvf_ref_score_row(args, query, row);
        if (n == args->top_k) {
            /* An equal score does not get in: the row in the list is the lower one. */
            if (!(score > scores[weakest]))
                continue;
            const size_t n_after = n - 1 - weakest;
            memmove(list + weakest, list + weakest + 1, n_after * sizeof *list);
            memmove(scores + weakest, scores + weakest + 1, n_after * sizeof *scores);
            n--;
        }
        list[n] = (int32_t)row;
        scores[n] = score;
        n++;
        if (n == args->top_k)
            weakest = find_weakest(scores, n);
    }
    return n;
}

size_t kvf_ref_select_workspace_bytes(uint32_t n_threads, const kvf_select_args *args)
{
    (void)n_threads;
    return (size_t)args->top_k * sizeof(float);
}

static void select_queries(const kvf_select_args *args)
{
    for (uint32_t query = 0; query < args->n_queries; query++) {
        int32_t *list = args->list + (size_t)query * args->top_k;
        const uint32_t n = select_rows(args, query, list, args->workspace);
        for (uint32_t i = n; i < args->top_k; i++)
            list[i] = -1;
        args->list_len[query] = n;
    }
}

void kvf_ref_select(kvf_device *device, const kvf_select_args *args, uint32_t n)
{
    (void)device;
    for (uint32_t i = 0; i < n; i++)
        select_queries(&args[i]);
}
