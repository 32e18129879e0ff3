/*
 * What the GPU backend needs of a GPU: a struct of a dozen functions, so that several kinds
 * fit into one binary. metal/ has Apple's, cuda/ NVIDIA's; tests/metal_emulator has one that
 * runs the kernels on the CPU and checks what hardware would not. No logic of the backend is
 * below this line.
 *
 * One host thread uses a GPU at a time. Dispatches run one after the other, in the order they
 * were encoded, each seeing what those before it wrote; `wait` ends them.
 */
#ifndef KVF_BACKEND_GPU_DRIVER_H
#define KVF_BACKEND_GPU_DRIVER_H

#include "kvfold.h"

typedef struct kvf_gpu kvf_gpu;
typedef struct kvf_gpu_library kvf_gpu_library;
typedef struct kvf_gpu_pipeline kvf_gpu_pipeline;

#define KVF_GPU_MAX_ISAS 3

typedef struct kvf_gpu_limits {
    char name[64];              /* "Apple M3 Ultra", or the emulator's name */
    uint64_t working_set_bytes; /* what should be allocated at most, in all */
    uint64_t buffer_bytes;      /* the largest buffer */
    uint32_t page_bytes;        /* a buffer takes a multiple of it; 0 or 1: as it is */
    uint32_t map_bytes;         /* pages of map_buffer; 0: there is no such function */
    uint32_t threadgroup_bytes; /* threadgroup memory a threadgroup */
    uint32_t threadgroup_threads;
    /*
     * The ISAs that this GPU runs beside generic, the best first, NULL past the last. One that
     * lacks a kernel takes it from those after it, and at last from the generic ones.
     */
    const char *isas[KVF_GPU_MAX_ISAS + 1];
} kvf_gpu_limits;

typedef struct kvf_gpu_buffer {
    void *handle;         /* the driver's */
    void *contents;       /* the host's address; NULL: the host cannot reach it */
    uint64_t gpu_address; /* the kernels' address of the same byte, aligned to 256 at least */
    size_t bytes;
} kvf_gpu_buffer;

/*
 * The argument struct goes to [[buffer(0)]], by value; threadgroup_bytes[i] of threadgroup
 * memory to [[threadgroup(i)]]. All else is reached by the gpu addresses inside the struct and
 * inside buffers; every live buffer is resident.
 */
#define KVF_GPU_MAX_THREADGROUP_ARRAYS 4
#define KVF_GPU_MAX_ARGUMENT_BYTES 4096 /* Metal's setBytes takes no more, nor does CUDA */
typedef struct kvf_gpu_dispatch {
    const kvf_gpu_pipeline *pipeline;
    uint32_t groups[3];  /* threadgroups in the grid; the last two at most 65,535 */
    uint32_t threads[3]; /* threads in a threadgroup */
    const void *arguments;
    size_t argument_bytes;
    uint32_t n_threadgroup_arrays;
    uint32_t threadgroup_bytes[KVF_GPU_MAX_THREADGROUP_ARRAYS]; /* multiples of 16 */
} kvf_gpu_dispatch;

/* What a threadgroup of a kernel is, and does. */
typedef struct kvf_gpu_shape {
    uint32_t tokens; /* of the grid's x a threadgroup */
    uint32_t rows;   /* of the grid's y */
    uint32_t threads;
    uint32_t threadgroup_bytes;
} kvf_gpu_shape;

/*
 * A kernel that runs in the place of the generic one of the same name, where its ISA is chosen:
 * the same arguments and results. Those of products.metal may have a shape of their own.
 */
typedef struct kvf_gpu_override {
    const char *isa;     /* one of limits.isas; NULL ends a table */
    const char *kernel;  /* "kvf_matmul_one" */
    const char *variant; /* the type of weights that it is for: "q8_0"; NULL: the kernel has none */
    const char *library; /* what `compile` is given as name */
    const char *source;  /* and as source; "" where kernels are compiled before */
    kvf_gpu_shape shape; /* {0}: the generic one's */
} kvf_gpu_override;

typedef struct kvf_gpu_driver {
    /* The kernels of its own, of all ISAs; NULL: there are none. */
    const kvf_gpu_override *overrides;

    /* KVF_UNSUPPORTED where there is no GPU, or one without the features the kernels use. */
    kvf_status (*open)(kvf_gpu **gpu, kvf_error *error);
    /* Everything made of it must have been released. */
    void (*close)(kvf_gpu *gpu);
    const kvf_gpu_limits *(*limits)(const kvf_gpu *gpu);

    /*
     * Compiles a source as one library, math mode safe and contraction off. `name` stands for
     * its file name; drivers whose kernels are compiled before look for that alone. Fails with
     * the compiler's message.
     */
    kvf_status (*compile)(kvf_gpu *gpu, const char *name, const char *source,
                          kvf_gpu_library **library, kvf_error *error);
    void (*release_library)(kvf_gpu *gpu, kvf_gpu_library *library);
    kvf_status (*make_pipeline)(kvf_gpu *gpu, kvf_gpu_library *library, const char *kernel,
                                kvf_gpu_pipeline **pipeline, kvf_error *error);
    void (*release_pipeline)(kvf_gpu *gpu, kvf_gpu_pipeline *pipeline);

    /* False where the memory cannot be had. Contents are undefined. Shared: with the host. */
    bool (*make_buffer)(kvf_gpu *gpu, size_t bytes, bool shared, kvf_gpu_buffer *buffer);
    /* Not while work that uses it is encoded. */
    void (*release_buffer)(kvf_gpu *gpu, kvf_gpu_buffer *buffer);

    /* Encodes one dispatch; the argument struct is copied. It may run at once, or at wait. */
    void (*run)(kvf_gpu *gpu, const kvf_gpu_dispatch *dispatch);
    /* Runs what was encoded to its end. KVF_DEVICE_LOST if the GPU failed, with its message. */
    kvf_status (*wait)(kvf_gpu *gpu, kvf_error *error);

    /*
     * A buffer over pages of the host's memory, without a copy: of one mapping of a file that is
     * shared (MAP_SHARED), read-only, and stays until release_buffer. Address and bytes are
     * multiples of limits.map_bytes. `contents` is NULL. False where the system refuses it.
     */
    bool (*map_buffer)(kvf_gpu *gpu, const void *pages, size_t bytes, kvf_gpu_buffer *buffer);
} kvf_gpu_driver;

#endif
