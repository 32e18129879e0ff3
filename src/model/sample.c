/*
 * Order: temperature, then min-p, then top-p on what min-p left, then one draw.
 *
 * The same settings, state and logits give the same token on every machine (exp and
 * the sums are in f64, in one order). NaN counts as -infinity.
 * Where there is nothing to draw from (no finite logit, or one of +infinity) the
 * answer is kvf_argmax's.
 */
#include "model/sample.h"

#include <math.h>

#include "shared/fp_environment.h"
#include "shared/math64.h"

uint32_t kvf_argmax(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;
    float highest = -INFINITY;
    for (uint32_t i = 0; i < vocab; i++) {
        if (logits[i] > highest) { /* false for NaN */
            highest = logits[i];
            best = i;
        }
    }
    return best;
}

/*
 * SplitMix64 (Steele, Lea, Flood 2014): the state is a counter in steps of the odd
 * number nearest 2^64 / golden ratio, its output two multiply-xorshift rounds of it.
 * Every seed is as good as another and the period is 2^64.
 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1): the upper 53 bits, which a double holds exactly. */
static double next_uniform(uint64_t *state)
{
    return (double)(next_random(state) >> 11) * 0x1p-53;
}

/* The likelier first; equal ones: the lower id. No two candidates are equal. */
static bool comes_before(kvf_candidate a, kvf_candidate b)
{
    return a.p > b.p || (a.p >= b.p && a.token < b.token);
}

/* Restores the heap (first on top) of n candidates where only `at` may be out of place. */
static void sift_down(kvf_candidate *heap, uint32_t n, uint32_t at)
{
    const kvf_candidate moved = heap[at];
    for (;;) {
        uint64_t child = 2 * (uint64_t)at + 1;
        if (child + 1 < n && comes_before(heap[child + 1], heap[child]))
            child++;
        if (child >= n || !comes_before(heap[child], moved))
            break;
        heap[at] = heap[child];
        at = (uint32_t)child;
    }
    heap[at] = moved;
}

/*
 * The softmax of logits / temperature, unnormalised (the highest has p = 1), without
 * tokens below min_p. Ascending by id; returns how many are left. A p that f32 cannot
 * hold is 0 and dropped.
 */
static uint32_t list_candidates(const kvf_sampler *sampler, const float *logits, uint32_t vocab,
                                float highest, kvf_candidate *candidates)
{
    const float min_p = fminf(sampler->min_p, 1.0f); /* the likeliest always stays */
    uint32_t n = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        if (!(logits[i] > -INFINITY))
            continue;
        double scaled = ((double)logits[i] - (double)highest) / (double)sampler->temperature;
        float p = (float)kvf_exp_f64(scaled);
        if (p > 0 && !(p < min_p))
            candidates[n++] = (kvf_candidate){p, i};
    }
    return n;
}

static double sum_p(const kvf_candidate *candidates, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)candidates[i].p;
    return sum;
}

/*
 * Takes the likeliest candidates until they have top_p of the sum: a heap, because
 * few of a large vocabulary are taken. They end up at the array's end, likeliest
 * last; *kept is where they start. Returns their number, at least 1.
 */
static uint32_t keep_top_p(kvf_candidate *candidates, uint32_t n, double top_p,
                           kvf_candidate **kept)
{
    const double wanted = top_p * sum_p(candidates, n);
    for (uint32_t i = n / 2; i-- > 0;)
        sift_down(candidates, n, i);
    uint32_t left = n;
    double sum = 0;
    do {
        const kvf_candidate top = candidates[0];
        sum += (double)top.p;
        candidates[0] = candidates[--left];
        candidates[left] = top;
        if (left > 0)
            sift_down(candidates, left, 0);
    } while (left > 0 && sum < wanted);
    *kept = candidates + left;
    return n - left;
}

uint32_t kvf_sample(kvf_sampler *sampler, const float *logits, uint32_t vocab,
                    kvf_candidate *workspace)
{
    KVF_FP_DOOR();
    const uint32_t best = kvf_argmax(logits, vocab);
    if (vocab == 0 || !(sampler->temperature > 0) || !isfinite(logits[best]))
        return best;
    uint32_t n = list_candidates(sampler, logits, vocab, logits[best], workspace);
    kvf_candidate *candidates = workspace;
    if (sampler->top_p < 1)
        n = keep_top_p(workspace, n, (double)sampler->top_p, &candidates);
    const double target = next_uniform(&sampler->state) * sum_p(candidates, n);
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += (double)candidates[i].p;
        if (target < sum)
            return candidates[i].token;
    }
    return candidates[n - 1].token; /* target was rounded up to the sum */
}
