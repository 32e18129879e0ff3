/*
 * matmul: products with weights of one stored type, against what bounds them in the same run:
 * a loop that only loads the same mapped file, the same kernel with its rows in the L1 cache,
 * a loop that only multiplies and adds. What is compared is measured in turns, and shares are
 * of neighbours, as machines that are shared change their speed within a run.
 */
#ifndef KVF_BENCH_MATMUL_H
#define KVF_BENCH_MATMUL_H

#include "bench/measure.h"
#include "kvfold.h"
#include "shared/matrix.h"

/* Rows as long as V4-Flash's hidden state, and tokens of a chunk that is computed by tiles. */
enum { BENCH_MATMUL_COLS = 4096, BENCH_MATMUL_ROWS = 4096, BENCH_MATMUL_TOKENS = 512 };
/* For smoke tests: the fewest rows that have whole tiles of scales. */
enum { BENCH_MATMUL_QUICK_ROWS = 128 };

typedef struct bench_matmul_input {
    kvf_device *device; /* of the cpu backend */
    kvf_weight_id type;
    uint32_t rows; /* of a matrix, at most BENCH_MATMUL_ROWS, which is what is worth a report */
    const char *folder;  /* takes a file of file_bytes that has no name any more */
    uint64_t file_bytes; /* at least so many bytes of weights, larger than the caches */
    uint32_t n_rounds;   /* 1 .. BENCH_MAX_RUNS */
    bool vector_only;    /* the rest of the result stays 0 */
} bench_matmul_input;

/* "q8_0"; NULL past the last. */
const char *bench_matmul_type_name(uint32_t type);

/* A matrix of 2048 rows, or fewer where the input has fewer, times 512 tokens. */
typedef struct bench_matmul_tokens {
    uint32_t cols;
    bench_spread ops;         /* a second; a multiply and an add are two */
    bench_spread fma_share;   /* of the loop of multiply-adds, all threads */
    bench_spread sgemm_share; /* speed over OpenBLAS's; all 0: not f32, or no OpenBLAS */
} bench_matmul_tokens;

typedef struct bench_matmul_result {
    uint64_t file_bytes; /* weights of one round */
    uint32_t n_matrices;
    double bits; /* of a value, with its share of the scales */
    /* Matrix x vector, all threads: bytes of weights a second. */
    bench_spread vector_bytes;
    bench_spread read_bytes; /* the loop that only loads them */
    bench_spread read_share;
    /* The kernel on 8 rows in L1, on all threads at once; of one core. */
    bench_spread values_per_cycle;
    double clock_hz;
    double decode_bytes; /* of all threads a second */
    double limit_share;  /* vector_bytes of the lower one of read_bytes and decode_bytes */
    bench_matmul_tokens tokens[2];
} bench_matmul_result;

/*
 * Before times are taken, a value is compared with a sum in f64, and a product with 512 tokens with
 * one of a single token, to the bit: *agrees is false where they differ (and *error says how).
 * KVF_UNSUPPORTED for another backend, KVF_FILE_IO where the folder takes no such file,
 * KVF_OUT_OF_MEMORY.
 */
kvf_status bench_matmul_measure(const bench_matmul_input *input, bool *agrees,
                                bench_matmul_result *result, kvf_error *error);

#endif
