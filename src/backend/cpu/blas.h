/* Dense products: OpenBLAS or Accelerate, or a plain loop where neither was built in. */
#ifndef KVF_CPU_BLAS_H
#define KVF_CPU_BLAS_H

#include "backend/backend.h"

/*
 * As kvf_matmul_args says, by the threads of a device of this backend. Bits may depend on n
 * and on the library's kernel; on the number of threads only where Accelerate chooses it.
 */
void kvf_blas_matmul(kvf_device *device, const kvf_matmul_args *args);

#endif
