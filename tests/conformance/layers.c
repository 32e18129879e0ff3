/*
 * Conformance of mix and experts: to the bit, or on a GPU, which may order sums as it likes,
 * within bounds.
 */
#include "conformance.h"

#include <math.h>

/* Sum |a_i b_i|, which a dot's error is proportional to. */
static double dot_size(const float *a, const float *b, size_t k)
{
    double sum = 0.0;
    for (size_t i = 0; i < k; i++)
        sum += fabs((double)a[i] * (double)b[i]);
    return sum;
}

/* ---- mix --------------------------------------------------------------------- */

/*
 * Bounds for one token. The two sides' mix[m] differ by at most
 *     d_mix = u * r * S * (2k + k + 8)
 * with S = sum |fn flat|, k terms: twice k for the dot, k for the mean square (half
 * of it a side, after the square root), 8 for the rest; and the logits z by
 *     d_z = |scale| d_mix + 4 u (|mix scale| + |base|).
 * sigmoid's slope is at most 1/4 and its own error below 8 u a side.
 */
struct mix_bounds {
    double pre[KVF_MAX_STREAMS];
    double post[KVF_MAX_STREAMS];
    double comb_logit; /* the largest d_z of comb */
};

static double logit_bound(const kvf_mix_args *args, const float *flat, size_t m, size_t part)
{
    const size_t k = (size_t)args->n_streams * args->hidden;
    double mean_square = 0.0;
    for (size_t i = 0; i < k; i++)
        mean_square += (double)flat[i] * (double)flat[i] / (double)k;
    const double r = 1.0 / sqrt(mean_square + (double)args->norm_eps);
    const float *fn = args->weights.fn.data; /* f32 for a GPU */
    const double size = r * dot_size(fn + m * k, flat, k);
    const double scale = fabs((double)args->weights.scale[part]);
    return scale * CF_U * size * (3.0 * (double)k + 8.0) +
           4.0 * CF_U * (scale * size + fabs((double)args->weights.base[m]));
}

static struct mix_bounds make_mix_bounds(const kvf_mix_args *args, const float *flat)
{
    const size_t n = args->n_streams;
    struct mix_bounds bounds = {.comb_logit = 0.0};
    for (size_t j = 0; j < n; j++)
        bounds.pre[j] = logit_bound(args, flat, j, 0) / 4.0 + 16.0 * CF_U;
    if (args->sinkhorn_rounds == 0)
        return bounds;
    for (size_t k = 0; k < n; k++)
        bounds.post[k] = logit_bound(args, flat, n + k, 1) / 2.0 + 32.0 * CF_U;
    for (size_t i = 0; i < n * n; i++)
        bounds.comb_logit = fmax(bounds.comb_logit, logit_bound(args, flat, 2 * n + i, 2));
    return bounds;
}

/*
 * How far comb may differ, relatively. Let e be a bound on |log| of what the softmax's
 * entries differ by: 2 d_z an exponential, 4 d_z a quotient, (2n + 32) u rounding; each
 * later pass rounds the entries once more on each side. After any number of passes
 * comb = diag(r) A diag(c), and a pass makes r = 1 / (A c + eps / r_old): so the log
 * of r differs by at most that of c, plus e, plus 2(n + 3) u rounding: one more e a
 * pass, for r and for c.
 */
static double comb_relative_bound(const kvf_mix_args *args, double logit)
{
    const double n = args->n_streams;
    const double passes = 2.0 * args->sinkhorn_rounds - 1.0;
    const double e = 4.0 * logit + (2.0 * n + 32.0 + 2.0 * passes) * CF_U;
    return expm1((2.0 * passes + 1.0) * (e + 2.0 * (n + 3.0) * CF_U));
}

static void report_close_mix(cf_run *run, const kvf_mix_args *args, size_t t)
{
    const size_t n = args->n_streams;
    const float *flat = args->streams + t * n * args->hidden;
    const struct mix_bounds bounds = make_mix_bounds(args, flat);

    double *out_bounds = cf_alloc(run, args->hidden * sizeof *out_bounds);
    for (size_t i = 0; i < args->hidden; i++) {
        out_bounds[i] = 0x1p-149;
        /* pre is at most 1 + eps; n products and sums. */
        for (size_t j = 0; j < n; j++)
            out_bounds[i] += fabs((double)flat[j * args->hidden + i]) *
                             (bounds.pre[j] + 2.02 * (double)(n + 1) * CF_U);
    }
    cf_report_close(run, "out", args->out + t * args->hidden, out_bounds, args->hidden);
    if (args->sinkhorn_rounds == 0)
        return;

    double comb_bounds[KVF_MAX_STREAMS * KVF_MAX_STREAMS];
    const float *comb = args->comb + t * n * n;
    for (size_t i = 0; i < n * n; i++)
        comb_bounds[i] = (double)comb[i] * comb_relative_bound(args, bounds.comb_logit);
    cf_report_close(run, "post", args->post + t * n, bounds.post, n);
    cf_report_close(run, "comb", comb, comb_bounds, n * n);
}

static void report_mix(cf_run *run, const kvf_mix_args *args)
{
    const size_t n = args->n_streams;
    for (size_t t = 0; run->gpu && t < args->n; t++)
        report_close_mix(run, args, t);
    if (run->gpu)
        return;
    cf_report_floats(run, "out", args->out, (size_t)args->n * args->hidden);
    if (args->sinkhorn_rounds == 0)
        return;
    cf_report_floats(run, "post", args->post, args->n * n);
    cf_report_floats(run, "comb", args->comb, args->n * n * n);
}

/* F32 for a GPU, otherwise of any type that has no blocks: such are what checkpoints have. */
static kvf_matrix random_fn(cf_run *run, uint32_t rows, uint32_t cols)
{
    static const kvf_weight_id types[] = {KVF_WEIGHT_F32, KVF_WEIGHT_F16, KVF_WEIGHT_BF16};
    if (run->gpu || cf_chance(&run->random, 2))
        return cf_f32_matrix(run, rows, cols);
    return cf_matrix(run, types[cf_pick(&run->random, 3)], rows, cols, cf_chance(&run->random, 2));
}

static void run_mix(cf_run *run)
{
    uint64_t *random = &run->random;
    kvf_mix_args args = {.n = CF_ONE_OF(random, 1, 3, 17),
                         .hidden = CF_ONE_OF(random, 4, 16, 64, 100, 256),
                         .n_streams = CF_ONE_OF(random, 1, 2, 4, 8),
                         .sinkhorn_rounds = CF_ONE_OF(random, 0, 1, 2, 20, 20),
                         .norm_eps = 1e-6f,
                         .eps = 1e-6f};
    const size_t n = args.n_streams;
    const size_t n_mix = args.sinkhorn_rounds ? n * (2 + n) : n;
    const size_t n_flat = n * args.hidden;
    args.streams = cf_random_floats(run, CF_NORMAL, args.n * n_flat);
    args.weights.fn = random_fn(run, (uint32_t)n_mix, (uint32_t)n_flat);
    args.weights.base = cf_random_floats(run, CF_NORMAL, n_mix);
    args.weights.scale = cf_random_floats(run, CF_NORMAL, args.sinkhorn_rounds ? 3 : 1);
    args.mix = cf_floats(run, args.n * n * (2 + n));
    args.out = cf_floats(run, (size_t)args.n * args.hidden);
    if (args.sinkhorn_rounds) {
        args.post = cf_floats(run, args.n * n);
        args.comb = cf_floats(run, args.n * n * n);
    }
    run->device->backend->mix(run->device, &args);
    cf_wait(run);
    report_mix(run, &args);
}

const cf_operation cf_mix = {"mix", CF_BITS_OR("within derived bounds"), 100, false, run_mix};

/* ---- experts ----------------------------------------------------------------- */

/*
 * Adds the bounds of weight * expert(x) to bounds[hidden]. Gate and up differ by at
 * most dg, du = 2.02 k u sum|w x|. Clamping does not amplify; |silu'| <= 1.1; silu's
 * own error is below 8 u a side: the activation differs by at most
 *     1.1 dg |u| + |silu| du + 1.1 dg du + 16 u |silu u|
 * and the output by sum |w2| d_act + (2.02 ffn + 2) u sum |w2 act|.
 */
static void add_expert_bounds(cf_run *run, const kvf_expert_weights *expert, const float *x,
                              double weight, double limit, double *bounds)
{
    const size_t hidden = expert->w1.cols;
    const size_t ffn = expert->w1.rows;
    const float *all_w1 = cf_decoded(run, &expert->w1);
    const float *all_w3 = cf_decoded(run, &expert->w3);
    const float *w2 = cf_decoded(run, &expert->w2);
    for (size_t f = 0; f < ffn; f++) {
        const float *w1 = all_w1 + f * hidden;
        const float *w3 = all_w3 + f * hidden;
        double gate = 0.0;
        double up = 0.0;
        for (size_t i = 0; i < hidden; i++) {
            gate += (double)w1[i] * (double)x[i];
            up += (double)w3[i] * (double)x[i];
        }
        if (limit != 0.0) {
            gate = fmin(gate, limit);
            up = fmax(fmin(up, limit), -limit);
        }
        const double silu = gate / (1.0 + exp(-gate));
        const double k_u = 2.02 * (double)hidden * CF_U;
        const double dg = k_u * dot_size(w1, x, hidden);
        const double du = k_u * dot_size(w3, x, hidden);
        const double act = fabs(silu * up);
        const double d_act =
            1.1 * dg * fabs(up) + fabs(silu) * du + 1.1 * dg * du + 16.0 * CF_U * act;
        const double terms = (2.02 * (double)ffn + 2.0) * CF_U;
        for (size_t i = 0; i < hidden; i++)
            bounds[i] += weight * fabs((double)w2[i * ffn + f]) * (d_act + terms * (act + d_act));
    }
}

/* The last sums: top_k + 1 terms, each of which is at most its own size. */
static void add_sum_bounds(const kvf_experts_args *args, const float *out, double *bounds)
{
    for (size_t i = 0; i < args->hidden; i++)
        bounds[i] += 2.02 * (args->top_k + 2) * CF_U * fabs((double)out[i]) + 0x1p-140;
}

static void report_close_experts(cf_run *run, const kvf_experts_args *args, size_t t)
{
    const float *x = args->in + t * args->hidden;
    const float *out = args->out + t * args->hidden;
    double *bounds = cf_alloc(run, args->hidden * sizeof *bounds);
    memset(bounds, 0, args->hidden * sizeof *bounds);
    for (size_t k = 0; k < args->top_k; k++) {
        const size_t place = t * args->top_k + k;
        add_expert_bounds(run, &args->routed[args->experts[place]], x,
                          fabs((double)args->weights[place]), (double)args->limit, bounds);
    }
    if (args->shared_ffn)
        add_expert_bounds(run, &args->shared, x, 1.0, (double)args->limit, bounds);
    add_sum_bounds(args, out, bounds);
    cf_report_close(run, "out", out, bounds, args->hidden);
}

/* Routes at random, with workspace and weights and inputs that are there, and reports. */
static void compute_experts(cf_run *run, kvf_experts_args *args)
{
    const size_t n_choices = (size_t)args->n * args->top_k;
    /* A table of experts from a file may name one twice: that is allowed. */
    int32_t *experts = cf_alloc(run, n_choices * sizeof *experts);
    for (size_t i = 0; i < n_choices; i++)
        experts[i] = (int32_t)cf_pick(&run->random, args->n_experts);
    args->experts = experts;
    args->weights = cf_random_floats(run, CF_NORMAL, n_choices);
    args->out = cf_floats(run, (size_t)args->n * args->hidden);
    const kvf_backend *backend = run->device->backend;
    args->workspace = cf_alloc(run, backend->experts_workspace_bytes(run->device, args));
    backend->experts(run->device, args);
    cf_wait(run);
    for (size_t t = 0; run->gpu && t < args->n; t++)
        report_close_experts(run, args, t);
    if (!run->gpu)
        cf_report_floats(run, "out", args->out, (size_t)args->n * args->hidden);
}

static float random_limit(cf_run *run)
{
    const float limits[] = {0.0f, 0.5f, 10.0f};
    return limits[cf_pick(&run->random, 3)];
}

static kvf_expert_weights f32_expert(cf_run *run, uint32_t hidden, uint32_t ffn)
{
    kvf_expert_weights expert;
    expert.w1 = cf_f32_matrix(run, ffn, hidden);
    expert.w3 = cf_f32_matrix(run, ffn, hidden);
    expert.w2 = cf_f32_matrix(run, hidden, ffn);
    return expert;
}

#define MOST_EXPERTS 8

static void run_experts(cf_run *run)
{
    uint64_t *random = &run->random;
    kvf_experts_args args = {.n = CF_ONE_OF(random, 1, 2, 5, 33),
                             .hidden = CF_ONE_OF(random, 16, 64, 100),
                             .ffn = CF_ONE_OF(random, 8, 48, 96),
                             .n_experts = CF_ONE_OF(random, 1, 4, MOST_EXPERTS),
                             .top_k = CF_ONE_OF(random, 1, 2, 6),
                             .limit = random_limit(run)};
    args.shared_ffn = cf_chance(random, 3) ? 0 : CF_ONE_OF(random, args.ffn, 2 * args.ffn, 24);
    args.in = cf_random_floats(run, CF_NORMAL, (size_t)args.n * args.hidden);
    kvf_expert_weights routed[MOST_EXPERTS];
    for (uint32_t e = 0; e < args.n_experts; e++)
        routed[e] = f32_expert(run, args.hidden, args.ffn);
    args.routed = routed;
    if (args.shared_ffn)
        args.shared = f32_expert(run, args.hidden, args.shared_ffn);
    compute_experts(run, &args);
}

const cf_operation cf_experts = {"experts", CF_BITS_OR("within derived bounds"), 100, false,
                                 run_experts};

/* ---- experts as they are stored ------------------------------------------------ */

/* A type whose blocks fit the columns. */
static kvf_weight_id fitting_type(uint64_t *random, uint32_t cols)
{
    kvf_weight_id type = cf_type(random);
    while (cols % kvf_weight_get(type)->block_values != 0)
        type = cf_type(random);
    return type;
}

/* Every matrix of a type of its own or, as in most files, all of `up` and `down`. */
static kvf_expert_weights stored_expert(cf_run *run, uint32_t hidden, uint32_t ffn, bool calm,
                                        bool mixed, kvf_weight_id up, kvf_weight_id down)
{
    uint64_t *random = &run->random;
    kvf_expert_weights expert;
    expert.w1 = cf_matrix(run, mixed ? fitting_type(random, hidden) : up, ffn, hidden, calm);
    expert.w3 = cf_matrix(run, mixed ? fitting_type(random, hidden) : up, ffn, hidden, calm);
    expert.w2 = cf_matrix(run, mixed ? fitting_type(random, ffn) : down, hidden, ffn, calm);
    return expert;
}

/*
 * Three kinds in turn: few tokens and widths of every type's blocks; more tokens for an expert
 * than are multiplied at a time; more choices than a tile of backend/cpu takes.
 */
static kvf_experts_args stored_shape(cf_run *run)
{
    uint64_t *random = &run->random;
    kvf_experts_args args = {.limit = random_limit(run)};
    args.n_experts = 1 + cf_pick(random, MOST_EXPERTS);
    args.top_k = 1 + cf_pick(random, 8);
    switch (run->index % 8) {
    case 0:
        args.n = args.top_k < 6 ? 900 * 7 / (args.top_k + 1) : 900;
        args.hidden = CF_ONE_OF(random, 1, 7, 16);
        args.ffn = CF_ONE_OF(random, 1, 8, 17);
        break;
    case 1:
        args.n = CF_ONE_OF(random, 191, 193, 400);
        args.hidden = CF_ONE_OF(random, 15, 32, 33);
        args.ffn = CF_ONE_OF(random, 16, 31, 32);
        args.n_experts = 1 + cf_pick(random, 2);
        args.top_k = 1 + cf_pick(random, 2);
        break;
    default:
        args.n = CF_ONE_OF(random, 1, 1, 2, 3, 6);
        args.hidden = CF_ONE_OF(random, 32, 96, 100, 256, 256, 512);
        args.ffn = CF_ONE_OF(random, 24, 64, 128, 256, 256);
        args.top_k = 1 + cf_pick(random, args.hidden > 256 ? 3 : 6);
    }
    args.shared_ffn = cf_chance(random, 2) ? 0 : CF_ONE_OF(random, args.ffn, 2 * args.ffn, 24);
    return args;
}

static void run_experts_stored(cf_run *run)
{
    kvf_experts_args args = stored_shape(run);
    const bool calm = cf_chance(&run->random, 2);
    bool calm_in;
    args.in = cf_activations(run, (size_t)args.n * args.hidden, &calm_in);
    kvf_expert_weights routed[MOST_EXPERTS];
    const bool mixed = cf_chance(&run->random, 3);
    const kvf_weight_id up = fitting_type(&run->random, args.hidden);
    const kvf_weight_id down = fitting_type(&run->random, args.ffn);
    for (uint32_t e = 0; e < args.n_experts; e++)
        routed[e] = stored_expert(run, args.hidden, args.ffn, calm, mixed, up, down);
    args.routed = routed;
    if (args.shared_ffn)
        args.shared =
            stored_expert(run, args.hidden, args.shared_ffn, calm,
                          mixed || args.shared_ffn % kvf_weight_get(down)->block_values, up, down);
    compute_experts(run, &args);
}

const cf_operation cf_experts_stored = {"experts_stored", CF_BITS_OR("within derived bounds"), 160,
                                        true, run_experts_stored};
