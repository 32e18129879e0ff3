/* score: how well an index row answers a query, exact (docs/FORMAT.md 5). */
#include "backend/ref/ref.h"

#include <math.h>

#include "shared/layout.h"
#include "shared/visible.h"

/*
 * Sum over the blocks of q . k. Two FP4 values of a block multiply to an integer of
 * at most 144 (12 * 12, doubled codes) times 2^x with one x a block, so a partial
 * sum is an integer of at most 4608 times 2^x: exact in f32 in any order, and equal
 * to the integer dot times 2^x. Hence packed and f32 rows give the same bits. For
 * values outside the grid the order of the loop is part of the definition.
 */
static float head_score(const float *q, const float *key)
{
    float score = 0.0f;
    for (size_t b = 0; b < KVF_INDEX_WIDTH; b += KVF_FP4_BLOCK_VALUES) {
        float dot = 0.0f;
        for (size_t i = b; i < b + KVF_FP4_BLOCK_VALUES; i++)
            dot += q[i] * key[i];
        score += dot; /* 0 + dot is dot; no sum of these is ever -0 */
    }
    return score;
}

float kvf_ref_score_row(const kvf_select_args *args, uint32_t query, uint64_t row)
{
    const uint32_t n_heads = args->n_heads;
    const float *weights = args->head_weights + (size_t)query * n_heads;
    const float scale = (float)(1.0 / sqrt((double)n_heads * KVF_INDEX_WIDTH));
    float key[KVF_INDEX_WIDTH];
    float q[KVF_INDEX_WIDTH];
    float a[KVF_REF_SCORE_LANES] = {0};

    kvf_ref_load_row(&args->keys, row, key);
    for (uint32_t h = 0; h < n_heads; h++) {
        kvf_ref_load_row(&args->queries, (uint64_t)query * n_heads + h, q);
        const float s = head_score(q, key);
        float *lane = &a[h % KVF_REF_SCORE_LANES];
        *lane = fmaf(weights[h] * scale, s > 0.0f ? s : 0.0f, *lane);
    }
    const float score = ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]));
    /* Infinities of both signs add up to NaN: ordered as the lowest (docs/FORMAT.md 9.4). */
    return score > -INFINITY ? score : -INFINITY;
}

void kvf_ref_score(kvf_device *device, const kvf_score_args *args)
{
    (void)device;
    for (uint32_t i = 0; i < args->n_queries; i++) {
        const uint32_t query = args->first_query + i;
        float *scores = args->scores + i * args->stride;
        for (uint64_t row = 0; row < args->n_rows; row++)
            scores[row] = row < kvf_select_visible(args->select, query)
                              ? kvf_ref_score_row(args->select, query, row)
                              : -INFINITY;
    }
}
