/* The machine that the benchmark runs on: what it is, and what it can do at best. */
#ifndef KVF_BENCH_MACHINE_H
#define KVF_BENCH_MACHINE_H

#include "kvfold.h"

typedef struct bench_machine {
    char cpu[96]; /* the model's name, "unknown" where the system does not say */
    uint32_t n_cores;
    uint64_t l3_bytes; /* the largest cache; a guess of 32 MiB where the system does not say */
    bool l3_known;
} bench_machine;

void bench_machine_describe(bench_machine *machine);

/* Peaks of one ISA with a number of threads; operations and bytes a second, of all together. */
typedef struct bench_peaks {
    const char *int8_instruction;
    uint32_t n_threads;
    double fma_ops;
    double int8_ops;
    double read_bytes;
} bench_peaks;

/*
 * Measures for a few tenths of a second; `quick` for a few hundredths. memory is
 * memory_bytes of memory that was written (a multiple of 512, 64-byte aligned), larger
 * than the caches if the bandwidth is to be memory's. Takes the best of several tries:
 * what disturbs a loop can only make it slower.
 */
kvf_status bench_peaks_measure(const char *isa, uint32_t n_threads, const void *memory,
                               size_t memory_bytes, bool quick, bench_peaks *peaks,
                               kvf_error *error);

#endif
