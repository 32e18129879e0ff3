/* Dense products: OpenBLAS or Accelerate, or a plain loop where neither was built in. */
#ifndef KVF_CPU_BLAS_H
#define KVF_CPU_BLAS_H

#include "shared/args.h"

/* As kvf_matmul_args says. Bits may depend on n, on n_threads and on the library's kernel. */
void kvf_blas_matmul(uint32_t n_threads, const kvf_matmul_args *args);

#endif
