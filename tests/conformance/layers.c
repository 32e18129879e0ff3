/* Conformance of mix and experts, whose sums may be ordered as a backend likes. */
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
    const double size = r * dot_size(args->weights.fn + m * k, flat, k);
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

static void report_mix_token(cf_run *run, const kvf_mix_args *args, size_t t)
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
    float *fn = cf_random_floats(run, CF_NORMAL, n_mix * n_flat);
    for (size_t i = 0; i < n_mix * n_flat; i++)
        fn[i] /= sqrtf((float)n_flat);
    args.weights.fn = fn;
    args.weights.base = cf_random_floats(run, CF_NORMAL, n_mix);
    args.weights.scale = cf_random_floats(run, CF_NORMAL, args.sinkhorn_rounds ? 3 : 1);
    args.mix = cf_floats(run, args.n * n * (2 + n));
    args.out = cf_floats(run, (size_t)args.n * args.hidden);
    if (args.sinkhorn_rounds) {
        args.post = cf_floats(run, args.n * n);
        args.comb = cf_floats(run, args.n * n * n);
    }
    run->device->backend->mix(run->device, &args);
    for (size_t t = 0; t < args.n; t++)
        report_mix_token(run, &args, t);
}

static bool has_mix(const kvf_backend *backend)
{
    return backend->mix != NULL;
}

const cf_operation cf_mix = {"mix", "within derived bounds", 100, has_mix, run_mix};

/* ---- experts ----------------------------------------------------------------- */

/*
 * Adds the bounds of weight * expert(x) to bounds[hidden]. Gate and up differ by at
 * most dg, du = 2.02 k u sum|w x|. Clamping does not amplify; |silu'| <= 1.1; silu's
 * own error is below 8 u a side: the activation differs by at most
 *     1.1 dg |u| + |silu| du + 1.1 dg du + 16 u |silu u|
 * and the output by sum |w2| d_act + (2.02 ffn + 2) u sum |w2 act|.
 */
static void add_expert_bounds(const kvf_expert_weights *expert, const float *x, double weight,
                              double limit, double *bounds)
{
    const size_t hidden = expert->w1.cols;
    const size_t ffn = expert->w1.rows;
    for (size_t f = 0; f < ffn; f++) {
        const float *w1 = expert->w1.data + f * hidden;
        const float *w3 = expert->w3.data + f * hidden;
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
            bounds[i] += weight * fabs((double)expert->w2.data[i * ffn + f]) *
                         (d_act + terms * (act + d_act));
    }
}

/* The last sums: top_k + 1 terms, each of which is at most its own size. */
static void add_sum_bounds(const kvf_experts_args *args, const float *out, double *bounds)
{
    for (size_t i = 0; i < args->hidden; i++)
        bounds[i] += 2.02 * (args->top_k + 2) * CF_U * fabs((double)out[i]) + 0x1p-140;
}

static kvf_matrix random_matrix(cf_run *run, uint32_t rows, uint32_t cols)
{
    float *data = cf_random_floats(run, CF_NORMAL, (size_t)rows * cols);
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        data[i] *= 2.0f / sqrtf((float)cols);
    return (kvf_matrix){data, rows, cols};
}

static kvf_expert_weights random_expert(cf_run *run, uint32_t hidden, uint32_t ffn)
{
    kvf_expert_weights expert;
    expert.w1 = random_matrix(run, ffn, hidden);
    expert.w3 = random_matrix(run, ffn, hidden);
    expert.w2 = random_matrix(run, hidden, ffn);
    return expert;
}

static void report_experts(cf_run *run, const kvf_experts_args *args)
{
    for (size_t t = 0; t < args->n; t++) {
        const float *x = args->in + t * args->hidden;
        const float *out = args->out + t * args->hidden;
        double *bounds = cf_alloc(run, args->hidden * sizeof *bounds);
        memset(bounds, 0, args->hidden * sizeof *bounds);
        for (size_t k = 0; k < args->top_k; k++) {
            const size_t place = t * args->top_k + k;
            add_expert_bounds(&args->routed[args->experts[place]], x,
                              fabs((double)args->weights[place]), (double)args->limit, bounds);
        }
        if (args->shared_ffn)
            add_expert_bounds(&args->shared, x, 1.0, (double)args->limit, bounds);
        add_sum_bounds(args, out, bounds);
        cf_report_close(run, "out", out, bounds, args->hidden);
    }
}

static void run_experts(cf_run *run)
{
    uint64_t *random = &run->random;
    kvf_experts_args args = {.n = CF_ONE_OF(random, 1, 2, 5, 33),
                             .hidden = CF_ONE_OF(random, 16, 64, 100),
                             .ffn = CF_ONE_OF(random, 8, 48, 96),
                             .n_experts = CF_ONE_OF(random, 1, 4, 8),
                             .top_k = CF_ONE_OF(random, 1, 2, 6)};
    const float limits[] = {0.0f, 0.5f, 10.0f};
    args.limit = limits[cf_pick(random, 3)];
    args.shared_ffn = cf_chance(random, 3) ? 0 : CF_ONE_OF(random, args.ffn, 2 * args.ffn, 24);
    args.in = cf_random_floats(run, CF_NORMAL, (size_t)args.n * args.hidden);
    /* A table of experts from a file may name one twice: that is allowed. */
    int32_t *experts = cf_alloc(run, (size_t)args.n * args.top_k * sizeof *experts);
    for (size_t i = 0; i < (size_t)args.n * args.top_k; i++)
        experts[i] = (int32_t)cf_pick(random, args.n_experts);
    args.experts = experts;
    args.weights = cf_random_floats(run, CF_NORMAL, (size_t)args.n * args.top_k);
    kvf_expert_weights routed[8];
    for (uint32_t e = 0; e < args.n_experts; e++)
        routed[e] = random_expert(run, args.hidden, args.ffn);
    args.routed = routed;
    if (args.shared_ffn)
        args.shared = random_expert(run, args.hidden, args.shared_ffn);
    const uint32_t widest = args.ffn > args.shared_ffn ? args.ffn : args.shared_ffn;
    args.out = cf_floats(run, (size_t)args.n * args.hidden);
    args.workspace = cf_floats(run, kvf_experts_workspace_floats(args.n, args.hidden, widest));
    run->device->backend->experts(run->device, &args);
    report_experts(run, &args);
}

static bool has_experts(const kvf_backend *backend)
{
    return backend->experts != NULL;
}

const cf_operation cf_experts = {"experts", "within derived bounds", 100, has_experts, run_experts};
