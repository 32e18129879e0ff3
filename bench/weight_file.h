/* Matrices of one stored type in a mapped file, as a model has them. */
#ifndef KVF_BENCH_WEIGHT_FILE_H
#define KVF_BENCH_WEIGHT_FILE_H

#include "kvfold.h"
#include "shared/matrix.h"

typedef struct bench_weight_file {
    kvf_matrix first; /* the others have the same form */
    uint32_t n_matrices;
    uint64_t stride;       /* bytes from one matrix to the next, a multiple of 512 */
    uint64_t matrix_bytes; /* of weights and scales: the stride less its padding */
    const uint8_t *map;
    uint64_t map_bytes;
} bench_weight_file;

/*
 * Writes n matrices to a file in the folder, maps it, and takes its name away: nothing is
 * left of it whatever happens. KVF_FILE_IO, KVF_OUT_OF_MEMORY.
 */
kvf_status bench_weight_file_open(const char *folder, kvf_weight_id type, uint32_t rows,
                                  uint32_t cols, uint64_t least_bytes, bench_weight_file *file,
                                  kvf_error *error);
void bench_weight_file_close(bench_weight_file *file);
kvf_matrix bench_weight_file_at(const bench_weight_file *file, uint32_t i);

/* Bytes of a matrix with its scales behind it, and such a matrix of random finite values. */
uint64_t bench_weight_bytes(kvf_weight_id type, uint32_t rows, uint32_t cols);
kvf_matrix bench_weight_fill(kvf_weight_id type, uint32_t rows, uint32_t cols, uint64_t seed,
                             void *memory);

#endif
