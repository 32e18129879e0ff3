/* Kernels for NVIDIA's GPUs in the place of generic ones. Internal. */
#ifndef KVF_BACKEND_GPU_CUDA_OVERRIDES_H
#define KVF_BACKEND_GPU_CUDA_OVERRIDES_H

#include "backend/gpu/driver.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Those of ISA sm80: what came with compute capability 8.0 (copies to shared memory that run
 * on their own), so that later cards have them too.
 */
extern const kvf_gpu_override kvf_cuda_overrides[];

#ifdef __cplusplus
}
#endif

#endif
