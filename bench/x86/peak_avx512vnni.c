/* Peaks of AVX-512 with VNNI. */
#include "bench/x86/peak_avx512.inc.h"

const bench_peak_kernels bench_peak_avx512vnni = {"avx512vnni", fma_avx512, int8_avx512, "vpdpbusd",
                                                  read_avx512};
