/*
 * sample: the highest logits are the same to the bit, in the same order, with the same changes;
 * both sums are close. draw: what comes of it is the token that the whole row gives.
 */
#include "conformance.h"

#include <math.h>

#include "model/sample.h"

/* About KVF_SAMPLED_MOST, a thread's and a part's values of a GPU, and more. */
static const uint32_t vocabs[] = {1, 5, 255, 256, 257, 511, 513, 4095, 4097, 9000};
#define N_VOCABS (sizeof vocabs / sizeof vocabs[0])
#define KINDS 6
#define MOST_ROWS 3

/* What a model never gives but a request may make, and values that tie at every place. */
static void make_row(cf_run *run, float *logits, uint32_t vocab, uint32_t kind)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 0x1p-149f};
    uint64_t *random = &run->random;
    cf_values(random, kind == 1 ? CF_WIDE : kind == 2 ? CF_CONSTANT : CF_NORMAL, logits, vocab);
    for (uint32_t i = 0; i < vocab; i++) {
        if (kind == 3) /* about 20 different ones */
            logits[i] = rintf(logits[i] * 4.0f);
        else if (kind == 4 && cf_chance(random, 4))
            logits[i] = odd[cf_pick(random, 6)];
        else if (kind == 5)
            logits[i] = cf_chance(random, 2) ? NAN : -INFINITY;
    }
}

/* Every id at most once, in a random order. */
static uint32_t pick_ids(uint64_t *random, uint32_t vocab, uint32_t n, uint32_t *ids)
{
    const uint32_t step = 7919; /* a prime that no vocabulary here is a multiple of */
    const uint32_t first = cf_pick(random, vocab);
    n = n < vocab ? n : vocab;
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (uint32_t)(((uint64_t)i * step + first) % vocab);
    return n;
}

static const kvf_logit_changes *make_changes(cf_run *run, uint32_t vocab)
{
    uint64_t *random = &run->random;
    kvf_logit_changes *changes = cf_alloc(run, sizeof *changes);
    uint32_t *ids = cf_alloc(run, vocab * sizeof *ids);
    kvf_token_use *uses = cf_alloc(run, vocab * sizeof *uses);
    kvf_bias *bias = cf_alloc(run, vocab * sizeof *bias);
    uint32_t *allowed = cf_alloc(run, (vocab + 31) / 32 * sizeof *allowed);
    *changes = (kvf_logit_changes){
        .uses = uses, .bias = bias, .repeat_penalty = 1.0f + 0.1f * (float)cf_pick(random, 4)};
    changes->presence_penalty = cf_chance(random, 2) ? cf_unit(random) : 0.0f;
    changes->frequency_penalty = cf_chance(random, 2) ? cf_unit(random) : 0.0f;
    changes->n_uses = pick_ids(random, vocab, CF_ONE_OF(random, 0, 1, 700, 9000), ids);
    for (uint32_t i = 0; i < changes->n_uses; i++)
        uses[i] = (kvf_token_use){ids[i], cf_pick(random, 3)};
    changes->n_bias = pick_ids(random, vocab, CF_ONE_OF(random, 0, 1, 600), ids);
    for (uint32_t i = 0; i < changes->n_bias; i++)
        bias[i] =
            (kvf_bias){(int32_t)ids[i], cf_chance(random, 5) ? -INFINITY : 8.0f * cf_unit(random)};
    for (uint32_t i = 0; i < (vocab + 31) / 32; i++)
        allowed[i] = (uint32_t)cf_random(random);
    changes->allowed = cf_chance(random, 2) ? allowed : NULL;
    return changes;
}

/* A sum of so many terms in f32, whose arguments are rounded: docs/SAMPLING.md. */
static void report_sum(cf_run *run, const char *what, float sum, bool is_defined)
{
    const float value = is_defined ? sum : 0.0f;
    const double bound = 0x1p-14 * (double)value;
    cf_report_close(run, what, &value, &bound, 1);
}

static void report(cf_run *run, const kvf_sampled *out, const kvf_sample_row *row)
{
    const float highest_given = out->highest_given + 0.0f; /* of -0 and 0 either is */
    const bool has_highest = out->n > 0 && isfinite(out->tokens[0].logit);
    cf_report(run, "n", &out->n, sizeof out->n);
    cf_report(run, "n_drawable", &out->n_drawable, sizeof out->n_drawable);
    cf_report(run, "first_bad", &out->first_bad, sizeof out->first_bad);
    cf_report_floats(run, "highest_given", &highest_given, 1);
    for (uint32_t i = 0; i < KVF_SAMPLED_MOST; i++) {
        cf_report(run, "id", &out->tokens[i].id, sizeof out->tokens[i].id);
        cf_report_floats(run, "logit", &out->tokens[i].logit, 2);
    }
    report_sum(run, "given_sum", out->given_sum, isfinite(out->highest_given));
    report_sum(run, "mass", out->mass, has_highest && row->temperature > 0);
}

static void run_sample(cf_run *run)
{
    uint64_t *random = &run->random;
    const uint32_t vocab = vocabs[run->index % N_VOCABS];
    kvf_sample_row rows[MOST_ROWS];
    kvf_sample_args args = {.n = 1 + cf_pick(random, MOST_ROWS), .vocab = vocab, .rows = rows};
    float *logits = cf_floats(run, (size_t)args.n * vocab);
    for (uint32_t i = 0; i < args.n; i++) {
        make_row(run, logits + (size_t)i * vocab, vocab,
                 (run->index / (uint32_t)N_VOCABS + i) % KINDS);
        rows[i] = (kvf_sample_row){NULL, 0.5f * (float)cf_pick(random, 4)};
        if (!cf_chance(random, 3))
            continue;
        rows[i].changes = make_changes(run, vocab);
        if (!args.changed)
            args.changed = cf_floats(run, (size_t)args.n * vocab);
    }
    args.logits = logits;
    args.out = cf_alloc(run, args.n * sizeof *args.out);
    run->device->backend->sample(run->device, &args);
    cf_wait(run);
    for (uint32_t i = 0; i < args.n; i++)
        report(run, &args.out[i], &rows[i]);
}

const cf_operation cf_sample = {"sample", "bit-identical, its sums close", N_VOCABS *KINDS, false,
                                run_sample};

/* ---- draw ------------------------------------------------------------------------- */

#define DRAWS 40

/* A few high ones over a flat rest, as a model gives them, that ties may cut anywhere. */
static void make_drawn_row(cf_run *run, float *logits, uint32_t vocab)
{
    uint64_t *random = &run->random;
    const uint32_t n_high = CF_ONE_OF(random, 0, 1, 3, 30, 250, 300);
    const float apart = (float)CF_ONE_OF(random, 0, 1, 4, 12, 40);
    const bool ties = cf_chance(random, 3);
    cf_values(random, CF_NORMAL, logits, vocab);
    for (uint32_t i = 0; i < n_high; i++)
        logits[cf_pick(random, vocab)] += apart;
    for (uint32_t i = 0; i < vocab && ties; i++)
        logits[i] = rintf(logits[i] * 4.0f) / 4.0f;
    if (cf_chance(random, 6))
        make_row(run, logits, vocab, 4);
}

static kvf_sampler make_sampler(uint64_t *random, float temperature)
{
    static const float top_ps[] = {1, 1, 0.99f, 0.95f, 0.9f, 0.5f, 0.05f, 0};
    static const float min_ps[] = {0, 0, 0, 0.05f, 0.3f, 1e-3f, 1};
    return (kvf_sampler){.temperature = temperature,
                         .top_p = top_ps[cf_pick(random, 8)],
                         .min_p = min_ps[cf_pick(random, 7)],
                         .top_k = CF_ONE_OF(random, 0, 0, 0, 1, 2, 40, 254, 255, 256, 257, 1000),
                         .state = cf_random(random)};
}

/* The token and the state by the excerpt, if it tells; whether it did. */
static bool draw_both(const kvf_sampler *sampler, const kvf_sampled *sampled, const float *logits,
                      uint32_t vocab, kvf_candidate *candidates)
{
    kvf_sampler whole = *sampler;
    kvf_sampler few = *sampler;
    uint32_t token;
    const bool tells = kvf_sample_few(&few, sampled, candidates, &token);
    if (!tells) {
        assert_memory_equal(&few, sampler, sizeof few);
        return false;
    }
    const uint32_t expected = kvf_sample(&whole, logits, vocab, candidates);
    if (token != expected || few.state != whole.state)
        fail_msg("token %u, not %u: temperature %g, top_k %u, top_p %g, min_p %g", token, expected,
                 (double)sampler->temperature, sampler->top_k, (double)sampler->top_p,
                 (double)sampler->min_p);
    return true;
}

static void run_draw(cf_run *run)
{
    uint64_t *random = &run->random;
    const uint32_t vocab = CF_ONE_OF(random, 1, 7, 255, 256, 257, 700, 3000, 9000);
    float *logits = cf_floats(run, vocab);
    float *changed = cf_floats(run, vocab);
    kvf_candidate *candidates = cf_alloc(run, (vocab + KVF_SAMPLED_MOST) * sizeof *candidates);
    kvf_sampled *sampled = cf_alloc(run, sizeof *sampled);
    make_drawn_row(run, logits, vocab);
    const kvf_sample_row row = {cf_chance(random, 2) ? make_changes(run, vocab) : NULL,
                                0.4f * (float)CF_ONE_OF(random, 0, 1, 2, 3, 25)};
    const kvf_sample_args args = {
        .n = 1, .vocab = vocab, .logits = logits, .rows = &row, .changed = changed, .out = sampled};
    run->device->backend->sample(run->device, &args);
    cf_wait(run);
    const float *drawn = logits;
    if (row.changes) {
        kvf_change_logits(row.changes, logits, vocab, changed);
        drawn = changed;
    }
    uint32_t n_told = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        const kvf_sampler sampler = make_sampler(random, row.temperature);
        n_told += draw_both(&sampler, sampled, drawn, vocab, candidates);
    }
    /* A list that has all tells all. */
    if (sampled->n == sampled->n_drawable)
        assert_int_equal(n_told, DRAWS);
}

const cf_operation cf_draw = {"draw", "the token of the whole row", 10000 / DRAWS, false, run_draw};
