/* Conformance of norm, rope, unmix and route. */
#include "conformance.h"

#include <math.h>

/* ---- norm -------------------------------------------------------------------- */

static void run_norm(cf_run *run)
{
    uint64_t *random = &run->random;
    kvf_norm_args args = {.n = CF_ONE_OF(random, 1, 2, 5, 33), .eps = 1e-6f};
    args.width = CF_ONE_OF(random, 1, 16, 17, 64, 100, 128, 256, 512);
    args.in_stride = args.width + CF_ONE_OF(random, 0, 0, 3);
    float *in = cf_random_floats(run, (cf_pattern)cf_pick(random, CF_PATTERN_COUNT),
                                 args.n * args.in_stride);
    args.in = in;
    if (cf_chance(random, 2)) {
        args.out = in;
        args.out_stride = args.in_stride;
    } else {
        args.out_stride = args.width + CF_ONE_OF(random, 0, 0, 5);
        args.out = cf_floats(run, args.n * args.out_stride);
    }
    if (cf_chance(random, 2))
        args.weight = cf_random_floats(run, CF_NORMAL, args.width);
    run->device->backend->norm(run->device, &args);
    cf_wait(run);
    cf_report(run, "out", args.out, args.n * args.out_stride * sizeof(float));
}

const cf_operation cf_norm = {"norm", "bit-identical", 200, false, run_norm};

/* ---- rope -------------------------------------------------------------------- */

static void run_rope(cf_run *run)
{
    uint64_t *random = &run->random;
    kvf_rope_args args = {.n = CF_ONE_OF(random, 0, 1, 2, 5, 17),
                          .heads = CF_ONE_OF(random, 1, 3, 8, 64),
                          .width = CF_ONE_OF(random, 64, 128, 512),
                          .inverse = cf_chance(random, 2)};
    const size_t n_values = (size_t)args.n * args.heads * args.width;
    args.values = cf_random_floats(run, (cf_pattern)cf_pick(random, CF_PATTERN_COUNT), n_values);
    args.table = cf_rope_table(run, args.n);
    run->device->backend->rope(run->device, &args);
    cf_wait(run);
    cf_report(run, "values", args.values, n_values * sizeof(float));
}

const cf_operation cf_rope = {"rope", "bit-identical", 100, false, run_rope};

/* ---- unmix ------------------------------------------------------------------- */

static void run_unmix(cf_run *run)
{
    uint64_t *random = &run->random;
    kvf_unmix_args args = {.n = CF_ONE_OF(random, 0, 1, 3, 17),
                           .hidden = CF_ONE_OF(random, 1, 4, 16, 64, 100, 256),
                           .n_streams = CF_ONE_OF(random, 1, 2, 3, 4, 8)};
    const size_t n_streams = args.n_streams;
    args.sublayer = cf_random_floats(run, CF_NORMAL, (size_t)args.n * args.hidden);
    args.post = cf_random_floats(run, CF_NORMAL, args.n * n_streams);
    args.comb = cf_random_floats(run, CF_NORMAL, args.n * n_streams * n_streams);
    args.streams = cf_random_floats(run, cf_chance(random, 3) ? CF_WIDE : CF_NORMAL,
                                    args.n * n_streams * args.hidden);
    run->device->backend->unmix(run->device, &args);
    cf_wait(run);
    cf_report(run, "streams", args.streams, args.n * n_streams * args.hidden * sizeof(float));
}

const cf_operation cf_unmix = {"unmix", "bit-identical", 100, false, run_unmix};

/* ---- route ------------------------------------------------------------------- */

/*
 * Experts must be the same, ties included. On a GPU, which has an exponential and a logarithm
 * of its own, a weight is a square root of a logarithm of an exponential, each good to 2 u and
 * never amplified, over a sum of top_k such: (8 + top_k) u of each side, and the two last
 * roundings.
 */
static void report_weights(cf_run *run, const kvf_route_args *args)
{
    const size_t n_out = (size_t)args->n * args->top_k;
    double *bounds = cf_alloc(run, n_out * sizeof *bounds);
    for (size_t i = 0; i < n_out; i++)
        bounds[i] = 2 * (10 + args->top_k) * CF_U * fabs((double)args->weights[i]) + 0x1p-149;
    if (run->gpu)
        cf_report_close(run, "weights", args->weights, bounds, n_out);
    else
        cf_report_floats(run, "weights", args->weights, n_out);
}

static void run_route(cf_run *run)
{
    uint64_t *random = &run->random;
    kvf_route_args args = {.n = CF_ONE_OF(random, 1, 3, 33),
                           .n_experts = CF_ONE_OF(random, 8, 17, 64, 256),
                           .top_k = CF_ONE_OF(random, 1, 2, 6, 8),
                           .scaling = cf_chance(random, 2) ? 1.5f : 1.0f,
                           .normalise = cf_chance(random, 2)};
    float *logits = cf_random_floats(run, CF_NORMAL, (size_t)args.n * args.n_experts);
    /* Few different values: ties; large ones: softplus must not overflow. */
    const bool ties = cf_chance(random, 2);
    const float spread = cf_chance(random, 4) ? 200.0f : 4.0f;
    for (size_t i = 0; i < (size_t)args.n * args.n_experts; i++)
        logits[i] = ties ? rintf(logits[i] * 2.0f) : logits[i] * spread;
    /* A chunk with NaNs goes on to its end: whatever is chosen is an expert. */
    const bool spoilt = cf_chance(random, 6);
    for (uint32_t i = 0; spoilt && i < args.n_experts; i++)
        logits[cf_pick(random, args.n * args.n_experts)] = cf_chance(random, 4) ? INFINITY : NAN;
    args.logits = logits;
    if (!ties && cf_chance(random, 2))
        args.bias = cf_random_floats(run, CF_NORMAL, args.n_experts);
    const uint32_t vocab = 29;
    if (cf_chance(random, 3)) {
        int32_t *tokens = cf_alloc(run, args.n * sizeof *tokens);
        int32_t *map = cf_alloc(run, vocab * args.top_k * sizeof *map);
        for (uint32_t i = 0; i < args.n; i++)
            tokens[i] = (int32_t)cf_pick(random, vocab);
        for (uint32_t i = 0; i < vocab * args.top_k; i++)
            map[i] = (int32_t)cf_pick(random, args.n_experts);
        args.tokens = tokens;
        args.token_map = map;
    }
    const size_t n_out = (size_t)args.n * args.top_k;
    args.experts = cf_alloc(run, n_out * sizeof *args.experts);
    args.weights = cf_floats(run, n_out);
    run->device->backend->route(run->device, &args);
    cf_wait(run);

    for (size_t i = 0; spoilt && i < n_out; i++)
        if (args.experts[i] < 0 || args.experts[i] >= (int32_t)args.n_experts)
            fail_msg("case %u: choice %zu is expert %d", run->index, i, args.experts[i]);
    if (spoilt)
        return;
    cf_report(run, "experts", args.experts, n_out * sizeof *args.experts);
    report_weights(run, &args);
}

const cf_operation cf_route = {"route", CF_BITS_OR("same experts, weights within 2(10+k) u"), 100,
                               false, run_route};
