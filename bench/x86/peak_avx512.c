/* Peaks of AVX-512 without VNNI. */
#include "bench/x86/peak_avx512.inc.h"

const bench_peak_kernels bench_peak_avx512 = {"avx512", fma_avx512, int8_avx512,
                                              "vpmaddubsw + vpmaddwd", read_avx512};
