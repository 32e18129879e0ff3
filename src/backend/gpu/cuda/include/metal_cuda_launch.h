/* What kernels and device_cuda.cu know of each other. */
#ifndef KVF_METAL_CUDA_LAUNCH_H
#define KVF_METAL_CUDA_LAUNCH_H

/* What a dispatch gives besides its arguments: addresses, offsets in shared memory. */
struct kvf_cuda_call {
    void *buffers[16];
    unsigned offsets[4];
};

struct kvf_cuda_kernel {
    const char *name;
    const void *entry;
    unsigned argument_bytes;
    unsigned n_buffers;
    unsigned n_threadgroup_arrays;
};

/* One .metal file; its object adds itself to the list before main. */
struct kvf_cuda_library {
    const char *name;
    const kvf_cuda_kernel *kernels;
    unsigned n_kernels;
    kvf_cuda_library *next;
};

extern kvf_cuda_library *kvf_cuda_libraries;

struct kvf_cuda_adds_library {
    explicit kvf_cuda_adds_library(kvf_cuda_library *library)
    {
        library->next = kvf_cuda_libraries;
        kvf_cuda_libraries = library;
    }
};

#endif
