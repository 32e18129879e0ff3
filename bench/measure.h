/* Runs a case often enough, and says how near its time is to what the machine allows. */
#ifndef KVF_BENCH_MEASURE_H
#define KVF_BENCH_MEASURE_H

#include "bench/case.h"
#include "bench/machine.h"

enum { BENCH_MAX_RUNS = 200 };

typedef struct bench_sampling {
    uint32_t min_runs;     /* 1 .. max_runs */
    uint32_t max_runs;     /* at most BENCH_MAX_RUNS */
    double target_seconds; /* more than min_runs while they take less than this together */
    double limit_seconds;  /* fewer, three at least, when they take more; 0: no limit */
} bench_sampling;

typedef struct bench_spread {
    double median;
    double p10;
    double p90;
} bench_spread;
/* Of n samples, 1 at least, which it sorts. */
bench_spread bench_spread_of(double *samples, uint32_t n);

typedef enum bench_limit { BENCH_LIMIT_INT8, BENCH_LIMIT_FMA, BENCH_LIMIT_BANDWIDTH } bench_limit;
const char *bench_limit_name(bench_limit limit);

typedef struct bench_result {
    uint64_t rows;
    uint32_t n_runs;
    double median_us; /* of one step */
    double p10_us;
    double p90_us;
    double bytes; /* bench_work of one step, all parts */
    double ops;
    /*
     * A part takes at least the longer of operations / peak and bytes / bandwidth; the
     * parts' sum over the median is the share; the kind that most of it comes from binds.
     */
    bench_limit limit;
    double limit_share;
} bench_result;

/* What a stage gives: of the first exact profile that ran; the others are held to it. */
typedef struct bench_expected {
    bool known;
    int32_t *list;
    size_t n_list;
    float *values;
    size_t n_values;
} bench_expected;

void bench_expected_free(bench_expected *expected);

/*
 * Opens the case and makes one run; its output becomes what is expected, or is compared
 * with it: bit by bit, the peer's up to rounding. Then measures, unless result is NULL.
 * *agrees is false where the output differs (and *error says how): nothing was measured.
 */
kvf_status bench_measure(const bench_input *input, const bench_peaks *peaks,
                         const bench_sampling *sampling, bench_expected *expected, bool *agrees,
                         bench_result *result, kvf_error *error);

#endif
