/*
 * Conformance of embed and matmul, of f32 in device memory and of every stored type where it
 * lies in the host's.
 */
#include "conformance.h"

#include <math.h>

/* ---- embed ------------------------------------------------------------------- */

static void compute_embed(cf_run *run, kvf_embed_args *args)
{
    uint64_t *random = &run->random;
    int32_t *tokens = cf_alloc(run, args->n * sizeof *tokens);
    for (uint32_t i = 0; i < args->n; i++)
        tokens[i] = (int32_t)cf_pick(random, args->table.rows);
    args->tokens = tokens;
    const size_t n_out = (size_t)args->n * args->n_streams * args->table.cols;
    args->streams = cf_floats(run, n_out);
    run->device->backend->embed(run->device, args);
    cf_wait(run);
    cf_report_floats(run, "streams", args->streams, n_out);
}

static void run_embed(cf_run *run)
{
    uint64_t *random = &run->random;
    kvf_embed_args args = {.n = CF_ONE_OF(random, 0, 1, 3, 17, 65),
                           .n_streams = CF_ONE_OF(random, 1, 2, 4, 8)};
    args.table = cf_f32_matrix(run, 37, CF_ONE_OF(random, 1, 16, 100, 256));
    compute_embed(run, &args);
}

const cf_operation cf_embed = {"embed", "bit-identical", 40, false, run_embed};

static void run_embed_stored(cf_run *run)
{
    uint64_t *random = &run->random;
    const kvf_weight_id type = (kvf_weight_id)(run->index % KVF_WEIGHT_COUNT);
    kvf_embed_args args = {.n = CF_ONE_OF(random, 1, 3, 17, 65),
                           .n_streams = CF_ONE_OF(random, 1, 2, 4)};
    args.table = cf_matrix(run, type, CF_ONE_OF(random, 1, 5, 130), cf_cols(random, type),
                           cf_chance(random, 2));
    compute_embed(run, &args);
}

const cf_operation cf_embed_stored = {"embed_stored", "bit-identical", 2 * KVF_WEIGHT_COUNT, true,
                                      run_embed_stored};

/* ---- matmul ------------------------------------------------------------------ */

/*
 * A dot of k products, summed in any order, with or without fma, errs by at most
 * k * u * sum |a_i b_i| (u = 2^-24, k * u small; 1 % more covers the second order),
 * and by half the smallest subnormal a product. Reference and backend may err in
 * opposite directions: twice that.
 */
static double dot_bound(const float *a, const float *b, size_t k)
{
    double sum = 0.0;
    for (size_t i = 0; i < k; i++)
        sum += fabs((double)a[i] * (double)b[i]);
    return sum < 0x1p127 ? 2.02 * (double)k * (CF_U * sum + 0x1p-150) : (double)INFINITY;
}

/* One token's outputs. */
static void report_close_product(cf_run *run, const kvf_matmul_args *args, const float *weight,
                                 size_t t)
{
    const uint32_t rows_of_group = args->weight.rows / (args->groups ? args->groups : 1);
    const size_t cols = args->weight.cols;
    double *bounds = cf_alloc(run, args->weight.rows * sizeof *bounds);
    for (size_t r = 0; r < args->weight.rows; r++)
        bounds[r] = dot_bound(args->in + t * args->in_stride + r / rows_of_group * cols,
                              weight + r * cols, cols);
    cf_report_close(run, "out", args->out + t * args->out_stride, bounds, args->weight.rows);
}

static void compute_product(cf_run *run, kvf_matmul_args *args)
{
    args->out_stride = args->weight.rows + CF_ONE_OF(&run->random, 0, 0, 5);
    args->out = cf_floats(run, args->n * args->out_stride);
    run->device->backend->matmul(run->device, args);
    cf_wait(run);
    const float *weight = run->gpu ? cf_decoded(run, &args->weight) : NULL;
    for (size_t t = 0; t < args->n; t++) {
        const float *out = args->out + t * args->out_stride;
        if (run->gpu)
            report_close_product(run, args, weight, t);
        else
            cf_report_floats(run, "out", out, args->weight.rows);
        cf_report(run, "gap", out + args->weight.rows,
                  (args->out_stride - args->weight.rows) * sizeof *out);
    }
}

static void run_matmul(cf_run *run)
{
    uint64_t *random = &run->random;
    kvf_matmul_args args = {.n = CF_ONE_OF(random, 1, 2, 3, 17, 64),
                            .groups = CF_ONE_OF(random, 0, 0, 1, 2, 8)};
    const uint32_t groups = args.groups ? args.groups : 1;
    const uint32_t rows = CF_ONE_OF(random, 1, 5, 16, 33, 64, 130);
    args.weight = cf_f32_matrix(run, groups > 1 ? groups * (rows + 3) / 4 : rows,
                                CF_ONE_OF(random, 1, 7, 16, 64, 100, 257));
    args.weight.rows -= args.weight.rows % groups;
    args.in_stride = groups * args.weight.cols + CF_ONE_OF(random, 0, 0, 3);
    args.in =
        cf_random_floats(run, cf_chance(random, 3) ? CF_WIDE : CF_NORMAL, args.n * args.in_stride);
    compute_product(run, &args);
}

const cf_operation cf_matmul = {"matmul", CF_BITS_OR("within 2k u sum|ab|"), 80, false, run_matmul};

/* ---- Products with weights as they are stored ---------------------------------- */

/* One, few, as many as a register tile has and one more; about a tile of backend/cpu; two. */
static const uint32_t token_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 64, 191, 192, 193, 400};
#define N_TOKEN_COUNTS (sizeof token_counts / sizeof token_counts[0])
/* Multiply-adds of a case: some 20 milliseconds of the reference. */
#define MOST_PRODUCTS (3u << 20)

/* Rows of a group: about a block of backend/cpu, as many as there is time for. */
static uint32_t random_rows(uint64_t *random, uint64_t products_a_row)
{
    uint32_t rows = CF_ONE_OF(random, 1, 5, 15, 16, 17, 33, 64);
    while (rows > 1 && rows * products_a_row > MOST_PRODUCTS)
        rows = CF_ONE_OF(random, 1, 5, 15, 16, 17);
    return rows;
}

/* Every type with every number of tokens, in turn. */
static void run_product(cf_run *run)
{
    uint64_t *random = &run->random;
    const kvf_weight_id type = (kvf_weight_id)(run->index % KVF_WEIGHT_COUNT);
    kvf_matmul_args args = {.n = token_counts[run->index / KVF_WEIGHT_COUNT % N_TOKEN_COUNTS]};
    uint32_t groups, cols;
    do { /* one group and the fewest columns always fit */
        args.groups = CF_ONE_OF(random, 0, 0, 1, 2, 8);
        groups = args.groups ? args.groups : 1;
        cols = cf_cols(random, type);
    } while ((uint64_t)args.n * groups * cols > MOST_PRODUCTS / 4);
    const bool calm = !cf_chance(random, 3);
    args.weight = cf_matrix(
        run, type, groups * random_rows(random, (uint64_t)args.n * groups * cols), cols, calm);
    args.in_stride = (size_t)groups * cols + CF_ONE_OF(random, 0, 0, 3);
    bool calm_in;
    args.in = cf_activations(run, (args.n - 1) * args.in_stride + (size_t)groups * cols, &calm_in);
    compute_product(run, &args);
    /* Sums of NaNs alone would show nothing. */
    for (size_t i = 0; calm && calm_in && i < args.weight.rows; i++)
        assert_true(isfinite(args.out[i]));
}

const cf_operation cf_product = {"product", CF_BITS_OR("within 2k u sum|ab|"),
                                 2 * KVF_WEIGHT_COUNT *N_TOKEN_COUNTS, true, run_product};
