/* Beyond device.h and emulator.h: what the GPU's clock said of each kernel. */
#ifndef KVF_DEVICE_CUDA_H
#define KVF_DEVICE_CUDA_H

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Kernels, number of dispatches, total and least time, of this process so far. */
void kvf_cuda_print_times(FILE *to);

#ifdef __cplusplus
}
#endif

#endif
