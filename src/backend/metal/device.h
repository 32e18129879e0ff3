/*
 * What the Metal backend needs of a GPU: a dozen functions. device_apple.m gives them
 * Apple's; tests/metal_emulator gives them a machine that runs the same kernels on the
 * CPU and checks what hardware would not. No logic of the backend is below this line.
 *
 * One host thread uses a GPU at a time. Dispatches run one after the other, in the order
 * they were encoded, each seeing what those before it wrote; kvf_gpu_wait ends them. The
 * host may read or write a buffer only while nothing that uses it is under way.
 */
#ifndef KVF_BACKEND_METAL_DEVICE_H
#define KVF_BACKEND_METAL_DEVICE_H

#include "kvfold.h"

typedef struct kvf_gpu kvf_gpu;
typedef struct kvf_gpu_library kvf_gpu_library;
typedef struct kvf_gpu_pipeline kvf_gpu_pipeline;

typedef struct kvf_gpu_limits {
    char name[64];              /* "Apple M3 Ultra", or the emulator's name */
    uint64_t working_set_bytes; /* what should be allocated at most, in all */
    uint64_t buffer_bytes;      /* the largest buffer */
    uint32_t page_bytes;        /* a buffer takes a multiple of it; 0 or 1: as it is */
    uint32_t threadgroup_bytes; /* threadgroup memory a threadgroup */
    uint32_t threadgroup_threads;
} kvf_gpu_limits;

/* Shared storage: host and GPU address the same bytes. */
typedef struct kvf_gpu_buffer {
    void *handle;         /* the implementation's */
    void *contents;       /* the host's address, aligned to a page of 4096 bytes at least */
    uint64_t gpu_address; /* the kernels' address of the same byte */
    size_t bytes;
} kvf_gpu_buffer;

/*
 * What a kernel is given besides the pipeline. Argument structs go to [[buffer(0)]], by
 * value; buffers[i] at offsets[i] to [[buffer(1 + i)]]; threadgroup_bytes[i] of
 * threadgroup memory to [[threadgroup(i)]]. Addresses inside argument structs and inside
 * buffers (page tables) are gpu addresses; every live buffer is resident.
 */
#define KVF_GPU_MAX_BUFFERS 16
#define KVF_GPU_MAX_THREADGROUP_ARRAYS 4
#define KVF_GPU_MAX_ARGUMENT_BYTES 4096 /* setBytes takes no more */
typedef struct kvf_gpu_dispatch {
    const kvf_gpu_pipeline *pipeline;
    uint32_t groups[3];  /* threadgroups in the grid */
    uint32_t threads[3]; /* threads in a threadgroup */
    const void *arguments;
    size_t argument_bytes;
    uint32_t n_buffers;
    const kvf_gpu_buffer *buffers[KVF_GPU_MAX_BUFFERS];
    size_t offsets[KVF_GPU_MAX_BUFFERS];
    uint32_t n_threadgroup_arrays;
    uint32_t threadgroup_bytes[KVF_GPU_MAX_THREADGROUP_ARRAYS]; /* multiples of 16 */
} kvf_gpu_dispatch;

/* KVF_UNSUPPORTED where there is no GPU, or one without the features the kernels use. */
kvf_status kvf_gpu_open(kvf_gpu **gpu, kvf_error *error);
/* Everything made of it must have been released. */
void kvf_gpu_close(kvf_gpu *gpu);
const kvf_gpu_limits *kvf_gpu_get_limits(const kvf_gpu *gpu);

/*
 * Compiles a source as one library, math mode safe and contraction off. `name` stands
 * for its file name. Fails with the compiler's message.
 */
kvf_status kvf_gpu_compile(kvf_gpu *gpu, const char *name, const char *source,
                           kvf_gpu_library **library, kvf_error *error);
void kvf_gpu_release_library(kvf_gpu *gpu, kvf_gpu_library *library);
kvf_status kvf_gpu_make_pipeline(kvf_gpu *gpu, kvf_gpu_library *library, const char *kernel,
                                 kvf_gpu_pipeline **pipeline, kvf_error *error);
void kvf_gpu_release_pipeline(kvf_gpu *gpu, kvf_gpu_pipeline *pipeline);

/* False where the memory cannot be had. Contents are undefined. */
bool kvf_gpu_make_buffer(kvf_gpu *gpu, size_t bytes, kvf_gpu_buffer *buffer);
void kvf_gpu_release_buffer(kvf_gpu *gpu, kvf_gpu_buffer *buffer);

/* Encodes one dispatch; the argument struct is copied. */
void kvf_gpu_run(kvf_gpu *gpu, const kvf_gpu_dispatch *dispatch);
/* Runs what was encoded to its end. KVF_DEVICE_LOST if the GPU failed, with its message. */
kvf_status kvf_gpu_wait(kvf_gpu *gpu, kvf_error *error);

#endif
