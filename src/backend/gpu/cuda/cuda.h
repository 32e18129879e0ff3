/* NVIDIA's GPUs. */
#ifndef KVF_BACKEND_GPU_CUDA_CUDA_H
#define KVF_BACKEND_GPU_CUDA_CUDA_H

#include "backend/gpu/driver.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const struct kvf_backend kvf_backend_cuda;
extern const kvf_gpu_driver kvf_gpu_driver_cuda;

/*
 * Kernels that ran since kvf_cuda_time(true), by name: how many, and their time on the GPU.
 * While it is on, every kernel has two events around it and the wait reads them: for tests and
 * tables, one GPU at a time.
 */
typedef struct kvf_cuda_times {
    const char *kernel;
    const char *library;
    unsigned long n;
    double total_ms;
    double least_ms;
} kvf_cuda_times;
void kvf_cuda_time(bool on);
/* The i-th, NULL past the last. */
const kvf_cuda_times *kvf_cuda_get_times(unsigned i);

/*
 * What is encoded between these two, on the GPU that was opened last, becomes one graph: the
 * second one runs it so many times, after once that is not counted, and returns the milliseconds
 * of one time; below 0 where it could not. Nothing may wait in between. For tables.
 */
bool kvf_cuda_begin_graph(void);
double kvf_cuda_time_graph(unsigned n);

/*
 * Whether kernels that can begin before those before them have ended do so (they do at first, from
 * compute capability 9.0 on): for tables.
 */
void kvf_cuda_overlap(bool on);

/* GB/s of a copy within the GPU's memory of so many bytes, read and written; below 0: it failed. */
double kvf_cuda_copy_rate(size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
