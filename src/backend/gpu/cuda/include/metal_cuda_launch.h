/* What kernels and driver.cu know of each other. */
#ifndef KVF_METAL_CUDA_LAUNCH_H
#define KVF_METAL_CUDA_LAUNCH_H

/* What a dispatch gives besides its arguments: offsets in shared memory. */
struct kvf_cuda_call {
    unsigned offsets[4];
};

struct kvf_cuda_kernel {
    const char *name;
    const void *entry;
    unsigned argument_bytes;
    unsigned n_threadgroup_arrays;
};

/* One .metal file, for a type of weights where it has any. */
struct kvf_cuda_library {
    const char *name;
    const kvf_cuda_kernel *kernels;
    unsigned n_kernels;
    unsigned begins_early; /* its kernels wait for those before them by themselves */
};

/* All there are; the last is null. gpu_kernels.py --cuda-list writes it. */
extern "C" const kvf_cuda_library *const kvf_cuda_libraries[];

#endif
