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
#include <stdlib.h>

#include "error.h"
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
 * A token in the softmax of logits / temperature, unnormalised (the highest has p = 1). A p that
 * f32 cannot hold is 0.
 */
static float p_of(const kvf_sampler *sampler, float logit, float highest)
{
    const double scaled = ((double)logit - (double)highest) / (double)sampler->temperature;
    return (float)kvf_exp_f64(scaled);
}

/* Whether min_p leaves it; the likeliest always stays. */
static bool stays(const kvf_sampler *sampler, float p)
{
    return p > 0 && !(p < fminf(sampler->min_p, 1.0f));
}

/* The tokens that min_p leaves, ascending by id; returns how many. */
static uint32_t list_candidates(const kvf_sampler *sampler, const float *logits, uint32_t vocab,
                                float highest, kvf_candidate *candidates)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        if (!(logits[i] > -INFINITY))
            continue;
        const float p = p_of(sampler, logits[i], highest);
        if (stays(sampler, p))
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

/*
 * What top_k and top_p leave of the candidates, as keep_likeliest gives it. mass: of all tokens
 * that top_p is a part of, where some of them are no candidates; NULL: of the candidates.
 */
static uint32_t keep(const kvf_sampler *sampler, kvf_candidate *candidates, uint32_t n,
                     const double *mass, kvf_candidate **kept)
{
    *kept = candidates;
    if (sampler->top_k > 0 && sampler->top_k < n) {
        n = keep_likeliest(candidates, n, sampler->top_k, INFINITY, kept);
        candidates = *kept;
    }
    if (sampler->top_p < 1) {
        const double all = mass ? *mass : sum_p(candidates, n);
        n = keep_likeliest(candidates, n, n, (double)sampler->top_p * all, kept);
    }
    return n;
}

/* One draw from n kept candidates, at least 1. */
static uint32_t draw(kvf_sampler *sampler, const kvf_candidate *candidates, uint32_t n)
{
    const double target = next_uniform(&sampler->state) * sum_p(candidates, n);
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += (double)candidates[i].p;
        if (target < sum)
            return candidates[i].token;
    }
    return candidates[n - 1].token; /* target was rounded up to the sum */
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
    n = keep(sampler, workspace, n, NULL, &candidates);
    return draw(sampler, candidates, n);
}

/* ---- From the highest logits alone ---------------------------------------------------------- */

/*
 * How far a mass may be from the sum of the p, relatively. f32 on a GPU: a term's argument is at
 * most 104 in size (below, p is 0), rounded twice in each of two steps, 4 * 104 * 2^-24; exp
 * 2^-22; at most 16 + 5 + 16 additions in a part and one a part, 256 of them for 2^20 tokens:
 * together under 715 * 2^-24 = 2^-14.5.
 */
#define MASS_ERROR 0x1p-14

/* Of two logits the lower one's p may be the higher by as much: exp is not exact. */
#define ORDER_ERROR 0x1p-22

static bool is_above(float p, float other)
{
    return (double)p > (double)other * (1 + ORDER_ERROR);
}

/*
 * Whether top_p keeps listed tokens alone, where tokens that are not listed are candidates as well:
 * the sum of all is known within bounds, and both ends must end at the same token.
 */
static bool top_p_ends(const kvf_sampler *sampler, const kvf_candidate *candidates, uint32_t n,
                       double mass)
{
    const double wanted = (double)sampler->top_p * mass;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += (double)candidates[i].p;
        if (sum < wanted * (1 - MASS_ERROR))
            continue;
        return sum >= wanted * (1 + MASS_ERROR) && is_above(candidates[i].p, candidates[n - 1].p);
    }
    return false;
}

/*
 * Whether what the sampler keeps is among n candidates, the likeliest first, which are all that is
 * listed, and others that are not listed may be candidates too.
 */
static bool keeps_listed(const kvf_sampler *sampler, const kvf_candidate *candidates, uint32_t n,
                         double mass)
{
    const float least = candidates[n - 1].p;
    if (sampler->top_k > 0)
        return sampler->top_k < n && is_above(candidates[sampler->top_k - 1].p, least);
    /* Of tokens that are not listed nobody knows which min_p drops: they are in the mass. */
    return sampler->top_p < 1 && !(sampler->min_p > 0) && top_p_ends(sampler, candidates, n, mass);
}

static int by_id(const void *a, const void *b)
{
    const uint32_t x = ((const kvf_candidate *)a)->token;
    const uint32_t y = ((const kvf_candidate *)b)->token;
    return (x > y) - (x < y);
}

bool kvf_sample_few(kvf_sampler *sampler, const kvf_sampled *sampled, kvf_candidate *workspace,
                    uint32_t *token)
{
    KVF_FP_DOOR();
    const kvf_sampled_token *best = &sampled->tokens[0];
    *token = sampled->n > 0 ? best->id : 0;
    if (sampled->n == 0 || !(sampler->temperature > 0) || !isfinite(best->logit))
        return true;
    uint32_t n = 0;
    float least = 1;
    for (uint32_t i = 0; i < sampled->n; i++) {
        least = p_of(sampler, sampled->tokens[i].logit, best->logit);
        if (stays(sampler, least))
            workspace[n++] = (kvf_candidate){least, sampled->tokens[i].id};
    }
    /* All candidates are listed, if the last token that is listed is none by far. */
    const bool is_whole = sampled->n == sampled->n_drawable || !(least > 0) ||
                          is_above(fminf(sampler->min_p, 1.0f), least);
    const double mass = (double)sampled->mass;
    if (!is_whole && (n < sampled->n || !keeps_listed(sampler, workspace, n, mass)))
        return false;
    qsort(workspace, n, sizeof *workspace, by_id); /* sums are in their order */
    kvf_candidate *candidates;
    n = keep(sampler, workspace, n, is_whole || sampler->top_k > 0 ? NULL : &mass, &candidates);
    *token = draw(sampler, candidates, n);
    return true;
}

kvf_status kvf_draw_token(kvf_sampler *sampler, kvf_session *session, const kvf_sampling *sampling,
                          const kvf_drawing *drawing, uint32_t *token, kvf_error *error)
{
    if (sampling->is_sampled &&
        kvf_sample_few(sampler, &sampling->sampled, drawing->candidates, token))
        return kvf_ok(error);
    const kvf_status status = kvf_session_wait_logits(session, error);
    if (status != KVF_OK)
        return status;
    const float *logits = kvf_session_logits(session);
    if (!kvf_logit_changes_none(&sampling->changes)) {
        kvf_change_logits(&sampling->changes, logits, drawing->vocab, drawing->logits);
        logits = drawing->logits;
    }
    *token = kvf_sample(sampler, logits, drawing->vocab, drawing->candidates);
    return status;
}

/* ---- Before it is drawn ---------------------------------------------------------------- */

bool kvf_logit_changes_none(const kvf_logit_changes *changes)
{
    return changes->n_bias == 0 && !changes->allowed &&
           !(changes->repeat_penalty < 1 || changes->repeat_penalty > 1) &&
           !(changes->presence_penalty < 0 || changes->presence_penalty > 0) &&
           !(changes->frequency_penalty < 0 || changes->frequency_penalty > 0);
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

bool kvf_logprobs_few(const kvf_sampling *sampling, uint32_t id, float *logprob, kvf_logprob *top,
                      uint32_t n_top)
{
    const kvf_sampled *sampled = &sampling->sampled;
    if (!sampling->is_sampled || !isfinite(sampled->highest_given) || n_top > sampled->n ||
        (n_top > 0 && !kvf_logit_changes_none(&sampling->changes)))
        return false;
    const double log_sum = (double)sampled->highest_given + kvf_log_f64((double)sampled->given_sum);
    for (uint32_t i = 0; i < n_top; i++)
        top[i] = (kvf_logprob){(int32_t)sampled->tokens[i].id,
                               (float)((double)sampled->tokens[i].given - log_sum)};
    for (uint32_t i = 0; i < sampled->n; i++)
        if (sampled->tokens[i].id == id) {
            *logprob = (float)((double)sampled->tokens[i].given - log_sum);
            return true;
        }
    return false;
}
