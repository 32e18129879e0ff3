/*
 * matmul. Rounds of what is compared follow one another, a few tens of milliseconds each; a
 * share is of the round that it was measured in.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "bench/matmul.h"
#include "bench/peak.h"
#include "bench/peer.h"
#include "bench/stages.h"
#include "bench/weight_file.h"
#include "clock.h"
#include "error.h"
#include "weight/weight.h"

/* Rows of the matrix that 512 tokens are multiplied with. */
#define MOST_TILE_ROWS 2048u
/* Of the L1 cache; the smallest of processors that are still in use. */
#define L1_BYTES (32u << 10)
#define L1_ROWS 8u

const char *bench_matmul_type_name(uint32_t type)
{
    return type < KVF_WEIGHT_COUNT ? kvf_weight_get((kvf_weight_id)type)->name : NULL;
}

typedef struct matmul_run {
    const bench_matmul_input *input;
    const kvf_cpu_kernels *kernels;
    const bench_peak_kernels *peak;   /* of the device's ISA */
    const bench_peak_kernels *widest; /* of the machine's best */
    uint32_t n_threads;
    bench_weight_file file;
    float *in;  /* [BENCH_MATMUL_TOKENS][BENCH_MATMUL_COLS] */
    float *out; /* [BENCH_MATMUL_TOKENS][BENCH_MATMUL_ROWS], fewer rows are used */
} matmul_run;

static kvf_matrix tile_rows(const matmul_run *run)
{
    const uint32_t rows = run->file.first.rows;
    return kvf_matrix_rows(&run->file.first, 0, rows < MOST_TILE_ROWS ? rows : MOST_TILE_ROWS);
}

/* ---- Matrix x vector, and loading alone --------------------------------------------------- */

static void multiply(matmul_run *run, const kvf_matrix *weight, uint32_t n)
{
    kvf_matmul_args args = {.n = n,
                            .weight = *weight,
                            .in = run->in,
                            .in_stride = BENCH_MATMUL_COLS,
                            .out = run->out,
                            .out_stride = BENCH_MATMUL_ROWS};
    run->input->device->backend->matmul(run->input->device, &args);
}

/* Seconds of a product with each matrix of the file. */
static double multiply_all(matmul_run *run)
{
    const double started = kvf_seconds();
    for (uint32_t i = 0; i < run->file.n_matrices; i++) {
        const kvf_matrix matrix = bench_weight_file_at(&run->file, i);
        multiply(run, &matrix, 1);
    }
    return kvf_seconds() - started;
}

typedef struct read_work {
    const matmul_run *run;
    uint64_t piece_bytes;
} read_work;

static void read_pieces(void *context, size_t first, size_t end, uint32_t thread)
{
    const read_work *work = context;
    const bench_weight_file *file = &work->run->file;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        const uint64_t begin = i * work->piece_bytes;
        const uint64_t left = file->map_bytes - begin;
        volatile int32_t kept; /* a result that is stored is a result that is computed */
        int32_t bits;
        work->run->widest->read(file->map + begin,
                                left < work->piece_bytes ? left : work->piece_bytes, &bits);
        kept = bits;
        (void)kept;
    }
}

/* The least seconds of a few ways to share the file out among the threads. */
static double read_all(matmul_run *run)
{
    const uint64_t bytes = run->file.map_bytes;
    const uint64_t halves = (bytes / run->n_threads + 511) / 512 * 512;
    const uint64_t pieces[] = {256u << 10, 4u << 20, halves};
    double least = INFINITY;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        read_work work = {run, pieces[i]};
        const double started = kvf_seconds();
        kvf_device_run(run->input->device, (bytes + pieces[i] - 1) / pieces[i], 1, read_pieces,
                       &work);
        const double seconds = kvf_seconds() - started;
        least = seconds < least ? seconds : least;
    }
    return least;
}

static void measure_vector(matmul_run *run, bench_matmul_result *result)
{
    double vector[BENCH_MAX_RUNS];
    double read[BENCH_MAX_RUNS];
    double share[BENCH_MAX_RUNS];
    const uint32_t n = run->input->n_rounds;
    const double bytes = (double)run->file.matrix_bytes * run->file.n_matrices;
    read_all(run); /* what is mapped gets its pages */
    multiply_all(run);
    for (uint32_t i = 0; i < n; i++) {
        /* The loop loads what pads the matrices as well. */
        read[i] = (double)run->file.map_bytes / read_all(run);
        vector[i] = bytes / multiply_all(run);
        share[i] = vector[i] / read[i];
    }
    result->vector_bytes = bench_spread_of(vector, n);
    result->read_bytes = bench_spread_of(read, n);
    result->read_share = bench_spread_of(share, n);
}

/* ---- The kernel with its rows in L1 ---------------------------------------------------------- */

/* Hides the value from the compiler, so that each addition waits for the one before. */
#define KEEP(x) __asm__ volatile("" : "+r"(x))

/* Cycles a second: additions that wait for each other take one each. */
static double measure_clock(void)
{
    enum { ADDS = 16, ROUNDS = 20000 };
    uint64_t sum = 1;
    uint64_t step = 3; /* in a register: adding a constant may cost nothing */
    KEEP(step);
    const double started = kvf_seconds();
    for (int i = 0; i < ROUNDS; i++) {
        for (int k = 0; k < ADDS; k += 4) {
            sum += step;
            KEEP(sum);
            sum += step;
            KEEP(sum);
            sum += step;
            KEEP(sum);
            sum += step;
            KEEP(sum);
        }
    }
    return (double)ADDS * ROUNDS / (kvf_seconds() - started);
}

typedef struct decode_work {
    const matmul_run *run;
    kvf_matrix *matrices; /* [n_threads]: each thread has its own, of 8 rows */
    uint32_t repeats;
    double *per_cycle; /* [n_threads] values */
    double *clock;
    double *seconds; /* of all repeats */
} decode_work;

static void decode_parts(void *context, size_t first, size_t end, uint32_t thread)
{
    const decode_work *work = context;
    (void)thread;
    for (size_t part = first; part < end; part++) {
        const kvf_matrix *matrix = &work->matrices[part];
        float out[L1_ROWS];
        volatile float kept;
        const double before = measure_clock();
        const double started = kvf_seconds();
        for (uint32_t i = 0; i < work->repeats; i++)
            work->run->kernels->products[matrix->type].dot(matrix, 0, L1_ROWS, work->run->in, NULL,
                                                           out);
        const double seconds = kvf_seconds() - started;
        const double after = measure_clock();
        kept = out[0];
        (void)kept;
        work->clock[part] = (before + after) / 2;
        work->seconds[part] = seconds;
        work->per_cycle[part] =
            (double)L1_ROWS * matrix->cols * work->repeats / (seconds * work->clock[part]);
    }
}

/* Columns so that 8 rows of the type and the vector fit into L1: a multiple of 256. */
static uint32_t l1_cols(kvf_weight_id type)
{
    uint32_t cols = 256;
    while (cols < BENCH_MATMUL_COLS &&
           kvf_weight_bytes(kvf_weight_get(type), L1_ROWS, cols + 256) + 4 * (cols + 256) <=
               L1_BYTES)
        cols += 256;
    return cols;
}

/* A loop that was held up looks long enough too early: the least of a few tries counts. */
#define TRIES 5

/* About a millisecond's worth. */
static void find_repeats(decode_work *work)
{
    double least;
    work->repeats = 1;
    do {
        work->repeats *= 2;
        least = INFINITY;
        for (int i = 0; i < TRIES; i++) {
            decode_parts(work, 0, 1, 0);
            least = fmin(least, work->seconds[0]);
        }
    } while (least < 1e-3 && work->repeats < 1u << 24);
}

static void collect_decode(matmul_run *run, decode_work *work, bench_matmul_result *result)
{
    double per_cycle[BENCH_MAX_RUNS];
    double clock[BENCH_MAX_RUNS];
    double bytes[BENCH_MAX_RUNS];
    const uint32_t n = run->input->n_rounds;
    const kvf_weight_type *stored = kvf_weight_get(run->input->type);
    const double matrix_bytes =
        (double)kvf_weight_bytes(stored, L1_ROWS, work->matrices[0].cols) +
        (double)kvf_weight_scales_of(stored, L1_ROWS, work->matrices[0].cols).bytes / 16;
    find_repeats(work);
    for (uint32_t i = 0; i < n; i++) {
        kvf_device_run(run->input->device, run->n_threads, 1, decode_parts, work);
        per_cycle[i] = clock[i] = bytes[i] = 0;
        for (uint32_t t = 0; t < run->n_threads; t++) {
            per_cycle[i] += work->per_cycle[t] / run->n_threads;
            clock[i] += work->clock[t] / run->n_threads;
            bytes[i] += matrix_bytes * work->repeats / work->seconds[t];
        }
    }
    result->values_per_cycle = bench_spread_of(per_cycle, n);
    result->clock_hz = bench_spread_of(clock, n).median;
    result->decode_bytes = bench_spread_of(bytes, n).median;
}

static kvf_status measure_decode(matmul_run *run, bench_matmul_result *result, kvf_error *error)
{
    const kvf_weight_id type = run->input->type;
    const uint32_t cols = l1_cols(type);
    const uint64_t bytes = (bench_weight_bytes(type, L1_ROWS, cols) + 4095) / 4096 * 4096;
    const uint32_t n = run->n_threads;
    uint8_t *memory = bench_alloc(n * bytes, error);
    kvf_matrix *matrices = bench_alloc(n * sizeof *matrices, error);
    double *numbers = bench_alloc(3 * n * sizeof *numbers, error);
    const bool enough = memory && matrices && numbers;
    if (enough) {
        decode_work work = {run, matrices, 1, numbers, numbers + n, numbers + 2 * (size_t)n};
        for (uint32_t i = 0; i < n; i++)
            matrices[i] = bench_weight_fill(type, L1_ROWS, cols, i + 1, memory + i * bytes);
        collect_decode(run, &work, result);
    }
    free(memory);
    free(matrices);
    free(numbers);
    return enough ? KVF_OK : KVF_OUT_OF_MEMORY;
}

/* ---- 512 tokens -------------------------------------------------------------------------------
 */

typedef struct fma_work {
    const bench_peak_kernels *peak;
    uint64_t rounds;
    _Atomic uint64_t ops;
} fma_work;

static void run_fma(void *context, size_t first, size_t end, uint32_t thread)
{
    fma_work *work = context;
    (void)thread;
    for (size_t part = first; part < end; part++) {
        volatile float kept;
        float sum;
        work->ops += work->peak->fma(work->rounds, &sum);
        kept = sum;
        (void)kept;
    }
}

/* Operations a second of all threads. */
static double fma_rate(matmul_run *run, fma_work *work)
{
    work->ops = 0;
    const double started = kvf_seconds();
    kvf_device_run(run->input->device, run->n_threads, 1, run_fma, work);
    return (double)work->ops / (kvf_seconds() - started);
}

/* Rounds of some milliseconds. */
static void find_rounds(fma_work *work)
{
    double least;
    work->rounds = 1000;
    do {
        work->rounds *= 2;
        least = INFINITY;
        for (int i = 0; i < TRIES; i++) {
            const double started = kvf_seconds();
            run_fma(work, 0, 1, 0);
            least = fmin(least, kvf_seconds() - started);
        }
    } while (least < 4e-3);
}

static double tile_rate(matmul_run *run, const kvf_matrix *matrix)
{
    const double started = kvf_seconds();
    multiply(run, matrix, BENCH_MATMUL_TOKENS);
    return 2.0 * BENCH_MATMUL_TOKENS * matrix->rows * matrix->cols / (kvf_seconds() - started);
}

static double sgemm_rate(matmul_run *run, const kvf_matrix *matrix)
{
    const bench_peer_matmul_args args = {.device = run->input->device,
                                         .n = BENCH_MATMUL_TOKENS,
                                         .rows = matrix->rows,
                                         .cols = matrix->cols,
                                         .weight = matrix->data,
                                         .weight_stride = matrix->row_bytes / sizeof(float),
                                         .in = run->in,
                                         .in_stride = BENCH_MATMUL_COLS,
                                         .out = run->out,
                                         .out_stride = BENCH_MATMUL_ROWS};
    const double started = kvf_seconds();
    bench_peer_matmul(&args);
    return 2.0 * BENCH_MATMUL_TOKENS * matrix->rows * matrix->cols / (kvf_seconds() - started);
}

static void measure_tokens(matmul_run *run, uint32_t cols, bench_matmul_tokens *result)
{
    double ops[BENCH_MAX_RUNS];
    double share[BENCH_MAX_RUNS];
    double against[BENCH_MAX_RUNS];
    const uint32_t n = run->input->n_rounds;
    const kvf_matrix rows = tile_rows(run);
    const kvf_matrix matrix = kvf_matrix_columns(&rows, 0, cols);
    const bool has_peer = matrix.type == KVF_WEIGHT_F32 && bench_peer_available();
    fma_work fma = {.peak = run->peak};
    find_rounds(&fma);
    tile_rate(run, &matrix);
    if (has_peer)
        sgemm_rate(run, &matrix);
    for (uint32_t i = 0; i < n; i++) {
        const double before = fma_rate(run, &fma);
        ops[i] = tile_rate(run, &matrix);
        const double after = fma_rate(run, &fma);
        share[i] = ops[i] / ((before + after) / 2);
        if (has_peer)
            against[i] = ops[i] / sgemm_rate(run, &matrix);
    }
    *result = (bench_matmul_tokens){cols, bench_spread_of(ops, n), bench_spread_of(share, n),
                                    has_peer ? bench_spread_of(against, n) : (bench_spread){0}};
}

/* ---- Whether it is right ------------------------------------------------------------------------
 */

/* The first row times the first token, against a sum of decoded values in f64. */
static bool is_right(matmul_run *run, kvf_error *error)
{
    float values[BENCH_MATMUL_COLS];
    double sum = 0;
    double size = 0;
    multiply(run, &run->file.first, 1);
    const float found = run->out[0];
    kvf_weight_get(run->input->type)->decode(&run->file.first, 0, values);
    for (uint32_t i = 0; i < BENCH_MATMUL_COLS; i++) {
        sum += (double)values[i] * run->in[i];
        size += fabs((double)values[i] * run->in[i]);
    }
    if (!(fabs(found - sum) <= size * BENCH_MATMUL_COLS * 0x1p-24)) {
        kvf_fail(error, KVF_INVALID_ARGUMENT, "a product is %.9g, not %.9g", found, sum);
        return false;
    }
    const kvf_matrix rows = tile_rows(run);
    multiply(run, &rows, BENCH_MATMUL_TOKENS);
    if (memcmp(&found, run->out, sizeof found) == 0)
        return true;
    kvf_fail(error, KVF_INVALID_ARGUMENT, "a product with %d tokens is %.9g, with one %.9g",
             BENCH_MATMUL_TOKENS, run->out[0], found);
    return false;
}

/* ---- All of it
 * ------------------------------------------------------------------------------------ */

static kvf_status measure_all(matmul_run *run, bool *agrees, bench_matmul_result *result,
                              kvf_error *error)
{
    *agrees = is_right(run, error);
    if (!*agrees)
        return KVF_OK;
    result->file_bytes = run->file.matrix_bytes * run->file.n_matrices;
    result->n_matrices = run->file.n_matrices;
    result->bits = 8.0 * (double)run->file.matrix_bytes / run->input->rows / BENCH_MATMUL_COLS;
    measure_vector(run, result);
    if (run->input->vector_only)
        return kvf_ok(error);
    const kvf_status status = measure_decode(run, result, error);
    if (status != KVF_OK)
        return status;
    result->limit_share =
        result->vector_bytes.median / fmin(result->read_bytes.median, result->decode_bytes);
    measure_tokens(run, 1024, &result->tokens[0]);
    measure_tokens(run, BENCH_MATMUL_COLS, &result->tokens[1]);
    return kvf_ok(error);
}

/* Loops of the best ISA that this machine has: loading alone is done as fast as it can be. */
static kvf_status find_widest(matmul_run *run, kvf_error *error)
{
    kvf_device *best;
    const kvf_device_options options = {.backend = "cpu", .n_threads = 1};
    const kvf_status status = kvf_device_open(&options, &best, error);
    if (status != KVF_OK)
        return status;
    run->widest = bench_peak_find(kvf_device_isa_name(best));
    run->peak = bench_peak_find(kvf_device_isa_name(run->input->device));
    kvf_device_close(best);
    return run->widest && run->peak ? KVF_OK
                                    : kvf_fail(error, KVF_UNSUPPORTED, "no peak loops for the ISA");
}

kvf_status bench_matmul_measure(const bench_matmul_input *input, bool *agrees,
                                bench_matmul_result *result, kvf_error *error)
{
    matmul_run run = {.input = input, .n_threads = kvf_device_n_threads(input->device)};
    *agrees = true;
    *result = (bench_matmul_result){0};
    if (input->device->backend != &kvf_backend_cpu)
        return kvf_fail(error, KVF_UNSUPPORTED, "matmul times the kernels of the backend cpu");
    run.kernels = kvf_kernels_of(input->device);
    kvf_status status = find_widest(&run, error);
    if (status != KVF_OK)
        return status;
    run.in = bench_alloc(4ull * BENCH_MATMUL_TOKENS * BENCH_MATMUL_COLS, error);
    run.out = bench_alloc(4ull * BENCH_MATMUL_TOKENS * BENCH_MATMUL_ROWS, error);
    status = run.in && run.out
                 ? bench_weight_file_open(input->folder, input->type, input->rows,
                                          BENCH_MATMUL_COLS, input->file_bytes, &run.file, error)
                 : KVF_OUT_OF_MEMORY;
    if (status == KVF_OK) {
        bench_fill_values(run.in, (size_t)BENCH_MATMUL_TOKENS * BENCH_MATMUL_COLS, 2);
        status = measure_all(&run, agrees, result, error);
    }
    bench_weight_file_close(&run.file);
    free(run.in);
    free(run.out);
    return status;
}
