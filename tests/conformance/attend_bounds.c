/*
 * How far attend may be from the reference on a GPU, whose sums have an order of their own.
 * Worked out in double precision for each call: the errors of the scores, of exp and of the
 * sums, carried through the softmax.
 */
#include "conformance.h"
#include "shared/visible.h"

#include <math.h>

#include "backend/ref/ref.h"

/* docs/FORMAT.md 6 */
#define ABSOLUTE_LIMIT 1e-3
#define RELATIVE_LIMIT (2.01 / 128)

/*
 * Roundings on the way to a score, of both sides: of the GPU 64 products a simdgroup, in any
 * order, 8 sums and the scale; of the reference 32 products a lane, 4 sums and the scale.
 */
#define SCORE_ROUNDINGS (73.0 + 37.0)
/*
 * And to a weight: exp (3 u) of a difference of at most 87, rounded, twice, as it may have
 * been under another maximum; a few operations more.
 */
#define WEIGHT_ROUNDINGS (2.0 * 2.0 * (3.0 + 87.0) + 16.0)

/* The rows that a query attends, decoded. */
struct attended {
    size_t n;
    float *values;  /* [n][512] */
    double *scores; /* of one head */
};

static bool lets_through(const kvf_attend_args *args, size_t query, uint64_t row)
{
    if (args->mask_f32)
        return args->mask_f32[query * args->mask_stride + row] == 0.0f;
    return !args->mask_f16 || args->mask_f16[query * args->mask_stride + row] == 0;
}

static void add_row(struct attended *a, const kvf_rows *view, uint64_t row)
{
    kvf_ref_load_row(view, row, a->values + a->n++ * KVF_ROW_WIDTH);
}

static void find_attended(const kvf_attend_args *args, uint32_t query, struct attended *a)
{
    const uint64_t n_tokens = args->first_token + query + 1;
    const uint64_t n_window = n_tokens < args->window_tokens ? n_tokens : args->window_tokens;
    a->n = 0;
    for (uint64_t token = n_tokens - n_window; token < n_tokens; token++)
        add_row(a, &args->window, token - args->window_first);
    if (args->rows.n_rows == 0)
        return;
    const uint32_t n_places = args->list ? args->list_len[query] : kvf_attend_visible(args, query);
    for (uint32_t i = 0; i < n_places; i++) {
        const int32_t row = args->list ? args->list[query * args->list_stride + i] : (int32_t)i;
        if (row >= 0 && lets_through(args, query, (uint64_t)row))
            add_row(a, &args->rows, (uint64_t)row);
    }
}

/* Scores of one head; returns how far one may be off. */
static double score_rows(const struct attended *a, const float *q, double scale)
{
    double worst = 0.0;
    for (size_t r = 0; r < a->n; r++) {
        const float *value = a->values + r * KVF_ROW_WIDTH;
        double dot = 0.0;
        double size = 0.0;
        for (size_t i = 0; i < KVF_ROW_WIDTH; i++) {
            dot += (double)q[i] * (double)value[i];
            size += fabs((double)q[i] * (double)value[i]);
        }
        a->scores[r] = dot * scale;
        worst = fmax(worst, SCORE_ROUNDINGS * CF_U * size * scale);
    }
    return worst;
}

/* Scores become weights, whose sum with the sink's is 1. */
static void weigh_rows(const struct attended *a, double sink)
{
    double highest = sink;
    for (size_t r = 0; r < a->n; r++)
        highest = fmax(highest, a->scores[r]);
    double sum = exp(sink - highest);
    for (size_t r = 0; r < a->n; r++)
        sum += exp(a->scores[r] - highest);
    for (size_t r = 0; r < a->n; r++)
        a->scores[r] = exp(a->scores[r] - highest) / sum;
}

/* Of one head: `relative` is how far a weight may be off. */
static void bound_values(const struct attended *a, double relative, const float *out,
                         double *bounds)
{
    for (size_t i = 0; i < KVF_ROW_WIDTH; i++) {
        double size = 0.0;
        double largest = 0.0;
        for (size_t r = 0; r < a->n; r++) {
            const double value = fabs((double)a->values[r * KVF_ROW_WIDTH + i]);
            size += a->scores[r] * value;
            largest = fmax(largest, value);
        }
        /* Weights below exp(-87) become 0, products below 2^-126 may. */
        const double lost = (double)a->n * 0x1p-125 * (largest + 1.0);
        const double derived = fmin(relative * size, 2.0 * largest) + lost;
        /* The limits are for weights that f32 can tell; scores of 1e4 have no such. */
        const double limit = fmax(ABSOLUTE_LIMIT, RELATIVE_LIMIT * fabs((double)out[i]));
        bounds[i] = relative < RELATIVE_LIMIT ? fmin(derived, limit) : derived;
    }
}

void cf_attend_bounds(cf_run *run, const kvf_attend_args *args, const float *out,
                      double *out_bounds, double *lse_bounds)
{
    const size_t most = args->window_tokens + (size_t)args->rows.n_rows + 1;
    struct attended a = {.values = cf_floats(run, most * KVF_ROW_WIDTH),
                         .scores = cf_alloc(run, most * sizeof(double))};
    for (uint32_t query = 0; query < args->n_queries; query++) {
        find_attended(args, query, &a);
        for (uint32_t h = 0; h < args->n_heads; h++) {
            const size_t head = (size_t)query * args->n_heads + h;
            const double score =
                score_rows(&a, args->q + head * KVF_ROW_WIDTH, (double)args->scale);
            /* Both sides: n sums of weights and of products, a factor a tile of 8 rows. */
            const double weight = (WEIGHT_ROUNDINGS + 3.0 * (double)a.n) * CF_U;
            weigh_rows(&a, args->sinks ? (double)args->sinks[h] : -INFINITY);
            bound_values(&a, 2.0 * (expm1(score) + weight), out + head * KVF_ROW_WIDTH,
                         out_bounds + head * KVF_ROW_WIDTH);
            if (lse_bounds)
                lse_bounds[head] =
                    score + weight + 8.0 * CF_U * (fabs((double)args->lse[head]) + 8.0);
        }
    }
}
