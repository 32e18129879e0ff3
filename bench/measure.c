#include "bench/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/stages.h"
#include "clock.h"
#include "error.h"

const char *bench_limit_name(bench_limit limit)
{
    static const char *const names[] = {"int8", "fma", "bandwidth"};
    return names[limit];
}

/* ---- Outputs ------------------------------------------------------------------- */

void bench_expected_free(bench_expected *expected)
{
    free(expected->list);
    free(expected->values);
    memset(expected, 0, sizeof *expected);
}

static kvf_status keep_output(const bench_output *output, bench_expected *expected,
                              kvf_error *error)
{
    *expected = (bench_expected){true, NULL, output->n_list, NULL, output->n_values};
    expected->list = bench_alloc(output->n_list * sizeof *output->list, error);
    expected->values = bench_alloc(output->n_values * sizeof *output->values, error);
    if (!expected->list || !expected->values) {
        bench_expected_free(expected);
        return KVF_OUT_OF_MEMORY;
    }
    if (output->n_list)
        memcpy(expected->list, output->list, output->n_list * sizeof *output->list);
    if (output->n_values)
        memcpy(expected->values, output->values, output->n_values * sizeof *output->values);
    return KVF_OK;
}

static bool same_bits(const bench_output *output, const bench_expected *expected, kvf_error *error)
{
    for (size_t i = 0; i < output->n_list; i++)
        if (output->list[i] != expected->list[i]) {
            kvf_fail(error, KVF_INVALID_ARGUMENT, "selected row %zu is %d, not %d", i,
                     output->list[i], expected->list[i]);
            return false;
        }
    for (size_t i = 0; i < output->n_values; i++)
        if (memcmp(output->values + i, expected->values + i, sizeof *output->values) != 0) {
            kvf_fail(error, KVF_INVALID_ARGUMENT, "value %zu is %.9g, not %.9g", i,
                     output->values[i], expected->values[i]);
            return false;
        }
    return true;
}

static int compare_rows(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a;
    const int32_t y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/*
 * The peer sums in another order. Its scores may be off in the last bits, so a row at the
 * threshold may be another; and a dot of 512 products of size 1 by 512 * 2^-24.
 */
static bool nearly_same(const bench_output *output, const bench_expected *expected,
                        kvf_error *error)
{
    static const double tolerance = 512 * 0x1p-24;
    static const double common_share = 0.99;
    double largest = 0;
    double difference = 0;
    size_t n_common = 0;
    int32_t *sorted = bench_alloc(expected->n_list * sizeof *sorted, error);
    if (!sorted)
        return false;
    if (expected->n_list)
        memcpy(sorted, expected->list, expected->n_list * sizeof *sorted);
    qsort(sorted, expected->n_list, sizeof *sorted, compare_rows);
    for (size_t i = 0; i < output->n_list; i++)
        n_common += bsearch(&output->list[i], sorted, expected->n_list, sizeof *sorted,
                            compare_rows) != NULL;
    free(sorted);
    for (size_t i = 0; i < output->n_values; i++) {
        largest = fmax(largest, fabs(expected->values[i]));
        difference = fmax(difference, fabs((double)output->values[i] - expected->values[i]));
    }
    if ((double)n_common < common_share * (double)output->n_list) {
        kvf_fail(error, KVF_INVALID_ARGUMENT, "%zu of %zu selected rows are the same", n_common,
                 output->n_list);
        return false;
    }
    if (difference > tolerance * largest) {
        kvf_fail(error, KVF_INVALID_ARGUMENT, "values differ by %g of at most %g", difference,
                 largest);
        return false;
    }
    return true;
}

static kvf_status check_output(bench_case *c, const bench_input *input, bench_expected *expected,
                               bool *agrees, kvf_error *error)
{
    bench_output output;
    const kvf_status status = c->output(c, &output, error);
    *agrees = true;
    if (status != KVF_OK)
        return status;
    if (!expected->known)
        return input->profile == BENCH_OPENBLAS ? KVF_OK : keep_output(&output, expected, error);
    if (output.n_list != expected->n_list || output.n_values != expected->n_values)
        *agrees = false;
    else if (input->profile == BENCH_OPENBLAS)
        *agrees = nearly_same(&output, expected, error);
    else
        *agrees = same_bits(&output, expected, error);
    return KVF_OK;
}

/* ---- Times --------------------------------------------------------------------- */

static kvf_status run_once(bench_case *c, double *seconds, kvf_error *error)
{
    if (c->prepare)
        c->prepare(c);
    const double started = kvf_seconds();
    const kvf_status status = c->run(c, error);
    *seconds = kvf_seconds() - started;
    return status;
}

static bool enough(const bench_sampling *sampling, uint32_t n_runs, double seconds)
{
    if (n_runs >= sampling->max_runs)
        return true;
    if (sampling->limit_seconds > 0 && n_runs >= 3 && seconds > sampling->limit_seconds)
        return true;
    return n_runs >= sampling->min_runs && seconds > sampling->target_seconds;
}

static int compare_numbers(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Between the two nearest of n sorted numbers. */
static double quantile(const double *sorted, uint32_t n, double at)
{
    const double place = at * (n - 1);
    const uint32_t below = (uint32_t)place;
    const uint32_t above = below + 1 < n ? below + 1 : below;
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

bench_spread bench_spread_of(double *samples, uint32_t n)
{
    qsort(samples, n, sizeof samples[0], compare_numbers);
    return (bench_spread){.median = quantile(samples, n, 0.5),
                          .p10 = quantile(samples, n, 0.1),
                          .p90 = quantile(samples, n, 0.9)};
}

static kvf_status sample(bench_case *c, const bench_sampling *sampling, bench_result *result,
                         kvf_error *error)
{
    double seconds[BENCH_MAX_RUNS];
    double total = 0;
    uint32_t n = 0;
    kvf_status status = run_once(c, &seconds[0], error); /* a second one to warm up */
    while (status == KVF_OK && !enough(sampling, n, total)) {
        status = run_once(c, &seconds[n], error);
        total += seconds[n++];
    }
    if (status != KVF_OK)
        return status;
    const bench_spread spread = bench_spread_of(seconds, n);
    const double unit = 1e6 / c->steps_per_run;
    result->n_runs = n;
    result->median_us = spread.median * unit;
    result->p10_us = spread.p10 * unit;
    result->p90_us = spread.p90 * unit;
    return KVF_OK;
}

/* ---- Limits -------------------------------------------------------------------- */

static void compare_with_limit(const bench_case *c, const bench_peaks *peaks, bench_result *result)
{
    double seconds[BENCH_LIMIT_BANDWIDTH + 1] = {0}; /* by the kind that binds a part */
    for (uint32_t i = 0; i < c->n_parts; i++) {
        const bench_work *work = &c->work[i];
        const double int8 = work->int8_ops / peaks->int8_ops;
        const double fma = work->fma_ops / peaks->fma_ops;
        const double read = work->bytes / peaks->read_bytes;
        if (read > int8 + fma)
            seconds[BENCH_LIMIT_BANDWIDTH] += read;
        else {
            seconds[BENCH_LIMIT_INT8] += int8;
            seconds[BENCH_LIMIT_FMA] += fma;
        }
        result->bytes += work->bytes;
        result->ops += work->int8_ops + work->fma_ops;
    }
    double total = 0;
    for (int kind = 0; kind <= BENCH_LIMIT_BANDWIDTH; kind++) {
        total += seconds[kind];
        if (seconds[kind] > seconds[result->limit])
            result->limit = (bench_limit)kind;
    }
    result->limit_share = total * 1e6 / result->median_us;
}

kvf_status bench_measure(const bench_input *input, const bench_peaks *peaks,
                         const bench_sampling *sampling, bench_expected *expected, bool *agrees,
                         bench_result *result, kvf_error *error)
{
    bench_case *c;
    double seconds;
    *agrees = true;
    kvf_status status = bench_case_open(input, &c, error);
    if (status != KVF_OK)
        return status;
    c->recording = true;
    status = run_once(c, &seconds, error);
    c->recording = false;
    if (status == KVF_OK)
        status = check_output(c, input, expected, agrees, error);
    if (status == KVF_OK && *agrees && result) {
        *result = (bench_result){.rows = c->rows};
        status = sample(c, sampling, result, error);
        if (status == KVF_OK)
            compare_with_limit(c, peaks, result);
    }
    c->close(c);
    return status;
}
