/*
 * Order: temperature, then min-p, then the top k of what min-p left, then top-p on those, then one
 * draw.
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
 * Takes the likeliest candidates until they have top_p of the sum, or are `most`: a heap,
 * because few of a large vocabulary are taken. They end up at the array's end, likeliest
 * last; *kept is where they start. Returns their number, at least 1.
 */
static uint32_t keep_likeliest(kvf_candidate *candidates, uint32_t n, uint32_t most, double wanted,
                               kvf_candidate **kept)
{
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
    } while (left > 0 && n - left < most && sum < wanted);
    *kept = candidates + left;
    return n - left;
}

/* What top_k and top_p leave of the candidates, as keep_likeliest gives it. */
static uint32_t keep(const kvf_sampler *sampler, kvf_candidate *candidates, uint32_t n,
                     kvf_candidate **kept)
{
    *kept = candidates;
    if (sampler->top_k > 0 && sampler->top_k < n) {
        n = keep_likeliest(candidates, n, sampler->top_k, INFINITY, kept);
        candidates = *kept;
    }
    if (sampler->top_p < 1)
        n = keep_likeliest(candidates, n, n, (double)sampler->top_p * sum_p(candidates, n), kept);
    return n;
}

uint32_t kvf_sample(kvf_sampler *sampler, const float *logits, uint32_t vocab,
                    kvf_candidate *workspace)
{
    KVF_FP_DOOR();
    const uint32_t best = kvf_argmax(logits, vocab);
    if (vocab == 0 || !(sampler->temperature > 0) || !isfinite(logits[best]))
        return best;
    uint32_t n = list_candidates(sampler, logits, vocab, logits[best], workspace);
    kvf_candidate *candidates;
    n = keep(sampler, workspace, n, &candidates);
    const double target = next_uniform(&sampler->state) * sum_p(candidates, n);
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += (double)candidates[i].p;
        if (target < sum)
            return candidates[i].token;
    }
    return candidates[n - 1].token; /* target was rounded up to the sum */
}

/* ---- Before it is drawn ---------------------------------------------------------------- */

bool kvf_logit_changes_none(const kvf_logit_changes *changes)
{
    return changes->n_bias == 0 && !(changes->repeat_penalty < 1 || changes->repeat_penalty > 1) &&
           !(changes->presence_penalty < 0 || changes->presence_penalty > 0) &&
           !(changes->frequency_penalty < 0 || changes->frequency_penalty > 0);
}

void kvf_change_logits(const kvf_logit_changes *changes, const float *logits, uint32_t vocab,
                       float *changed)
{
    KVF_FP_DOOR();
    for (uint32_t i = 0; i < vocab; i++) {
        float logit = logits[i];
        if (changes->seen && changes->seen[i])
            logit = logit > 0 ? logit / changes->repeat_penalty : logit * changes->repeat_penalty;
        if (changes->counts && changes->counts[i] > 0)
            logit -=
                changes->presence_penalty + changes->frequency_penalty * (float)changes->counts[i];
        changed[i] = logit;
    }
    for (uint32_t i = 0; i < changes->n_bias; i++)
        if (changes->bias[i].id >= 0 && (uint32_t)changes->bias[i].id < vocab)
            changed[changes->bias[i].id] += changes->bias[i].value;
}

/* ---- After it is drawn ------------------------------------------------------------------ */

/* Puts a token among the n likeliest so far, of which there is room for n_top. */
static uint32_t insert_top(kvf_logprob *top, uint32_t n, uint32_t n_top, kvf_logprob token)
{
    if (n == n_top && !(token.logprob > top[n - 1].logprob))
        return n;
    uint32_t at = n < n_top ? n : n_top - 1;
    for (; at > 0 && token.logprob > top[at - 1].logprob; at--)
        top[at] = top[at - 1];
    top[at] = token;
    return n < n_top ? n + 1 : n;
}

float kvf_logprobs(const float *logits, uint32_t vocab, uint32_t id, kvf_logprob *top,
                   uint32_t n_top)
{
    KVF_FP_DOOR();
    const uint32_t best = kvf_argmax(logits, vocab);
    const double highest = (double)logits[best];
    double sum = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        const float logit = logits[i] >= -INFINITY ? logits[i] : -INFINITY; /* NaN */
        if (logit > -INFINITY)
            sum += kvf_exp_f64((double)logit - highest);
        if (n_top > 0)
            n = insert_top(top, n, n_top, (kvf_logprob){(int32_t)i, logit});
    }
    /* Without a highest one that is a number, the softmax is not: all of it is the likeliest's. */
    const bool is_finite = isfinite(highest);
    const double log_sum = is_finite ? highest + kvf_log_f64(sum) : 0;
    for (uint32_t i = 0; i < n; i++) {
        const float one = (uint32_t)top[i].id == best ? 0.0f : -INFINITY;
        top[i].logprob = is_finite ? (float)((double)top[i].logprob - log_sum) : one;
    }
    if (!is_finite)
        return id == best ? 0.0f : -INFINITY;
    return logits[id] >= -INFINITY ? (float)((double)logits[id] - log_sum) : -INFINITY;
}
