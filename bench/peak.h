/*
 * What one core can do at best: loops with nothing in them but the instruction that is
 * measured. One table an ISA, in a file of its own that is compiled for it; which one
 * runs is decided at run time, by the ISA of the device.
 */
#ifndef KVF_BENCH_PEAK_H
#define KVF_BENCH_PEAK_H

#include <stddef.h>
#include <stdint.h>

typedef struct bench_peak_kernels {
    const char *isa; /* as the CPU backend names it */
    /*
     * `rounds` rounds of independent f32 multiply-adds, all in registers. Returns the
     * operations made (a multiply and an add are two); *sink keeps the result alive.
     */
    uint64_t (*fma)(uint64_t rounds, float *sink);
    /* The same for products of 8-bit integers summed to 32 bits. */
    uint64_t (*int8)(uint64_t rounds, int32_t *sink);
    const char *int8_instruction; /* for the report */
    /* Reads every byte once; bytes is a multiple of 512, memory is 64-byte aligned. */
    void (*read)(const void *memory, size_t bytes, int32_t *sink);
} bench_peak_kernels;

/* The table of that ISA (machine.c); NULL where there is none. */
const bench_peak_kernels *bench_peak_find(const char *isa);

extern const bench_peak_kernels bench_peak_scalar;
#if defined(__x86_64__)
extern const bench_peak_kernels bench_peak_avx2;
extern const bench_peak_kernels bench_peak_avx512;
extern const bench_peak_kernels bench_peak_avx512vnni;
#endif
#if defined(__aarch64__)
extern const bench_peak_kernels bench_peak_neon;
#endif

#endif
