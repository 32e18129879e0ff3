/* The GPU backend: opening the GPU by a driver, compiling the kernels. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/gpu/dense.h"
#include "backend/gpu/gpu.h"
#include "backend/gpu/sources.h"
#include "error.h"

/* What the largest threadgroups of any kernel need: mix and compress; attend and select. */
#define LEAST_THREADGROUP_THREADS 512
#define LEAST_THREADGROUP_BYTES 32768

/* Of the working set, one in so many bytes is kept for staging and scratch. */
#define STAGING_PART 64

/* What runs where a driver has no kernels of its own. */
#define GENERIC "generic"

static_assert(KVF_MIX_MOST_THREADS <= LEAST_THREADGROUP_THREADS &&
                  KVF_COMPRESS_MAX_THREADS <= LEAST_THREADGROUP_THREADS,
              "a kernel needs more threads");

static const char *const file_names[KVF_GPU_FILE_COUNT] = {
#define KVF_GPU_FILE(file) [KVF_GPU_FILE_##file] = #file,
#define KVF_GPU_KERNEL(file, name)
#include "backend/gpu/kernels.def"
#undef KVF_GPU_FILE
#undef KVF_GPU_KERNEL
};

static const struct {
    const char *name;
    kvf_gpu_file file;
} kernels[KVF_KERNEL_COUNT] = {
#define KVF_GPU_FILE(file)
#define KVF_GPU_KERNEL(file, name) [KVF_KERNEL_##name] = {"kvf_" #name, KVF_GPU_FILE_##file},
#include "backend/gpu/kernels.def"
#undef KVF_GPU_FILE
#undef KVF_GPU_KERNEL
};

static const char *const variant_names[KVF_GPU_VARIANT_COUNT] = {
#define KVF_GPU_VARIANT(name, id) [KVF_GPU_VARIANT_##name] = #name,
#include "backend/gpu/variants.def"
#undef KVF_GPU_VARIANT
};

kvf_gpu_variant kvf_gpu_variant_of(kvf_weight_id type)
{
    static const struct {
        kvf_weight_id type;
        kvf_gpu_variant variant;
    } variants[] = {
#define KVF_GPU_VARIANT(name, id) {id, KVF_GPU_VARIANT_##name},
#include "backend/gpu/variants.def"
#undef KVF_GPU_VARIANT
    };
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++)
        if (variants[i].type == type)
            return variants[i].variant;
    return KVF_GPU_VARIANT_any;
}

/* ---- Kernels --------------------------------------------------------------------- */

/* The text of products.metal with the type of its weights before it. */
static kvf_status compile_variant(kvf_gpu_device *gpu, kvf_gpu_variant variant,
                                  kvf_gpu_library **library, kvf_error *error)
{
    const char *source = kvf_gpu_sources[KVF_GPU_FILE_products];
    const size_t bytes = strlen(source) + 64;
    char name[64];
    char *text = malloc(bytes);
    if (!text)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a kernel's text");
    snprintf(name, sizeof name, "products.%s.metal", variant_names[variant]);
    snprintf(text, bytes, "#define KVF_W kvf_weight_%s\n%s", variant_names[variant], source);
    const kvf_status status = gpu->driver->compile(gpu->gpu, name, text, library, error);
    free(text);
    return status;
}

static kvf_status compile(kvf_gpu_device *gpu, kvf_gpu_file file, kvf_gpu_variant variant,
                          kvf_error *error)
{
    kvf_gpu_library **library = &gpu->libraries[file][variant];
    char name[64];
    if (*library)
        return KVF_OK;
    if (file == KVF_GPU_FILE_products)
        return compile_variant(gpu, variant, library, error);
    snprintf(name, sizeof name, "%s.metal", file_names[file]);
    return gpu->driver->compile(gpu->gpu, name, kvf_gpu_sources[file], library, error);
}

static kvf_status make_pipeline(kvf_gpu_device *gpu, kvf_gpu_kernel kernel, kvf_gpu_variant variant,
                                kvf_error *error)
{
    const kvf_gpu_file file = kernels[kernel].file;
    const kvf_status status = compile(gpu, file, variant, error);
    if (status != KVF_OK)
        return status;
    return gpu->driver->make_pipeline(gpu->gpu, gpu->libraries[file][variant], kernels[kernel].name,
                                      &gpu->pipelines[kernel][variant], error);
}

const kvf_gpu_pipeline *kvf_gpu_pipeline_of(kvf_gpu_device *gpu, kvf_gpu_kernel kernel,
                                            kvf_gpu_variant variant)
{
    kvf_error error;
    if (!gpu->pipelines[kernel][variant] && make_pipeline(gpu, kernel, variant, &error) != KVF_OK)
        kvf_gpu_lose(gpu, error.status, error.message);
    return gpu->pipelines[kernel][variant];
}

/* ---- The device ---------------------------------------------------------------------- */

void kvf_gpu_close_device(kvf_device *device)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    if (gpu->gpu) {
        gpu->driver->wait(gpu->gpu, NULL); /* what is still encoded may use what is released */
        kvf_gpu_close_experts(gpu);
        kvf_gpu_close_memory(gpu);
        kvf_gpu_close_queue(gpu);
        for (int i = 0; i < KVF_KERNEL_COUNT; i++)
            for (int v = 0; v < KVF_GPU_VARIANT_COUNT; v++)
                if (gpu->pipelines[i][v])
                    gpu->driver->release_pipeline(gpu->gpu, gpu->pipelines[i][v]);
        for (int i = 0; i < KVF_GPU_FILE_COUNT; i++)
            for (int v = 0; v < KVF_GPU_VARIANT_COUNT; v++)
                if (gpu->libraries[i][v])
                    gpu->driver->release_library(gpu->gpu, gpu->libraries[i][v]);
        gpu->driver->close(gpu->gpu);
    }
    free(gpu);
}

static kvf_status check_limits(const kvf_gpu_limits *limits, kvf_error *error)
{
    if (limits->threadgroup_threads < LEAST_THREADGROUP_THREADS ||
        limits->threadgroup_bytes < LEAST_THREADGROUP_BYTES)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "%s has threadgroups of %u threads and %u bytes; the kernels need %u and "
                        "%u",
                        limits->name, limits->threadgroup_threads, limits->threadgroup_bytes,
                        LEAST_THREADGROUP_THREADS, LEAST_THREADGROUP_BYTES);
    return KVF_OK;
}

/* All kernels but those of types that no weights may have, which are many. */
static kvf_status compile_all(kvf_gpu_device *gpu, kvf_error *error)
{
    kvf_status status = KVF_OK;
    for (int i = 0; i < KVF_KERNEL_COUNT && status == KVF_OK; i++)
        status = make_pipeline(gpu, (kvf_gpu_kernel)i, KVF_GPU_VARIANT_any, error);
    return status;
}

static kvf_status open_parts(kvf_gpu_device *gpu, kvf_error *error)
{
    kvf_status status = gpu->driver->open(&gpu->gpu, error);
    if (status != KVF_OK)
        return status;
    gpu->limits = *gpu->driver->limits(gpu->gpu);
    gpu->base.memory_bytes = gpu->limits.working_set_bytes / STAGING_PART * (STAGING_PART - 1);
    gpu->base.buffer_bytes = gpu->limits.buffer_bytes;
    status = check_limits(&gpu->limits, error);
    if (status == KVF_OK)
        status = compile_all(gpu, error);
    if (status == KVF_OK)
        status = kvf_gpu_open_queue(gpu, error);
    if (status != KVF_OK)
        return status;
    kvf_gpu_found(gpu, 1);
    return kvf_gpu_wait(&gpu->base, error);
}

kvf_status kvf_gpu_open_device(const kvf_backend *backend, const kvf_gpu_driver *driver,
                               const kvf_device_options *options, kvf_device **device,
                               kvf_error *error)
{
    if (options->isa && strcmp(options->isa, GENERIC) != 0)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "backend %s has no ISA '%.40s'; its only one is '" GENERIC "'",
                        backend->name, options->isa);
    kvf_gpu_device *gpu = calloc(1, sizeof *gpu);
    if (!gpu)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a device");
    gpu->base.backend = backend;
    gpu->base.isa = GENERIC;
    gpu->base.n_threads = 1; /* of the host; whatever was asked */
    gpu->driver = driver;
    const kvf_status status = open_parts(gpu, error);
    if (status != KVF_OK) {
        kvf_gpu_close_device(&gpu->base);
        return status;
    }
    *device = &gpu->base;
    return KVF_OK;
}
