/*
 * `sample` where the host addresses the device's memory: the specification in code. And what
 * changes a row of logits, for it and for a host that has the row.
 */
#include "backend/backend.h"

#include <math.h>
#include <string.h>

#include "shared/fp_environment.h"
#include "shared/math64.h"

/* Each step of f32 is rounded by itself: every backend gives the same bits. */
static float use_penalty(const kvf_logit_changes *changes, uint32_t count, float logit)
{
    logit = logit > 0 ? logit / changes->repeat_penalty : logit * changes->repeat_penalty;
    if (count > 0)
        logit -= changes->presence_penalty + changes->frequency_penalty * (float)count;
    return logit;
}

void kvf_change_logits(const kvf_logit_changes *changes, const float *logits, uint32_t vocab,
                       float *changed)
{
    KVF_FP_DOOR();
    memcpy(changed, logits, vocab * sizeof *changed);
    for (uint32_t i = 0; i < changes->n_uses; i++) {
        const kvf_token_use use = changes->uses[i];
        if (use.id < vocab)
            changed[use.id] = use_penalty(changes, use.count, changed[use.id]);
    }
    for (uint32_t i = 0; i < changes->n_bias; i++)
        if (changes->bias[i].id >= 0 && (uint32_t)changes->bias[i].id < vocab)
            changed[changes->bias[i].id] += changes->bias[i].value;
    for (uint32_t i = 0; i < vocab && changes->allowed; i++)
        if (!(changes->allowed[i / 32] >> i % 32 & 1))
            changed[i] = -INFINITY;
}

/* ---- sample ------------------------------------------------------------------------------- */

/* Takes a token among the highest so far; ids come ascending, so equal ones stay in order. */
static void insert(kvf_sampled *out, kvf_sampled_token token)
{
    if (out->n == KVF_SAMPLED_MOST && !(token.logit > out->tokens[out->n - 1].logit))
        return;
    uint32_t at = out->n < KVF_SAMPLED_MOST ? out->n++ : KVF_SAMPLED_MOST - 1;
    for (; at > 0 && token.logit > out->tokens[at - 1].logit; at--)
        out->tokens[at] = out->tokens[at - 1];
    out->tokens[at] = token;
}

/* Of exp((value - highest) / divisor); NaN and -infinity add nothing. */
static float sum_exp(const float *values, uint32_t n, float highest, float divisor)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        if (values[i] > -INFINITY)
            sum += kvf_exp_f64(((double)values[i] - (double)highest) / (double)divisor);
    return (float)sum;
}

static void sample_row(const float *given, uint32_t vocab, const kvf_sample_row *row,
                       float *changed, kvf_sampled *out)
{
    const float *logits = given;
    memset(out, 0, sizeof *out);
    out->first_bad = KVF_SAMPLED_ALL_FINITE;
    out->highest_given = -INFINITY;
    if (row->changes) {
        kvf_change_logits(row->changes, given, vocab, changed);
        logits = changed;
    }
    for (uint32_t i = 0; i < vocab; i++) {
        if (!isfinite(given[i]) && out->first_bad == KVF_SAMPLED_ALL_FINITE)
            out->first_bad = i;
        if (given[i] > out->highest_given)
            out->highest_given = given[i];
        if (!(logits[i] > -INFINITY))
            continue;
        out->n_drawable++;
        insert(out, (kvf_sampled_token){i, logits[i], given[i]});
    }
    if (isfinite(out->highest_given))
        out->given_sum = sum_exp(given, vocab, out->highest_given, 1);
    if (out->n > 0 && row->temperature > 0)
        out->mass = sum_exp(logits, vocab, out->tokens[0].logit, row->temperature);
}

void kvf_host_sample(kvf_device *device, const kvf_sample_args *args)
{
    (void)device;
    for (uint32_t i = 0; i < args->n; i++) {
        const size_t first = (size_t)i * args->vocab;
        sample_row(args->logits + first, args->vocab, &args->rows[i],
                   args->changed ? args->changed + first : NULL, &args->out[i]);
    }
}
