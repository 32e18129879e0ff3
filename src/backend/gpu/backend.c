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
static const char generic_isa[] = "generic";

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
    kvf_gpu_ready *ready = &gpu->kernels[kernel][variant];
    const kvf_gpu_override *override = ready->override;
    const kvf_status status = !override ? compile(gpu, file, variant, error)
                              : ready->library
                                  ? KVF_OK
                                  : gpu->driver->compile(gpu->gpu, override->library,
                                                         override->source, &ready->library, error);
    if (status != KVF_OK)
        return status;
    return gpu->driver->make_pipeline(gpu->gpu,
                                      override ? ready->library : gpu->libraries[file][variant],
                                      kernels[kernel].name, &ready->pipeline, error);
}

const kvf_gpu_pipeline *kvf_gpu_pipeline_of(kvf_gpu_device *gpu, kvf_gpu_kernel kernel,
                                            kvf_gpu_variant variant)
{
    kvf_error error;
    const kvf_gpu_ready *ready = &gpu->kernels[kernel][variant];
    if (!ready->pipeline && make_pipeline(gpu, kernel, variant, &error) != KVF_OK)
        kvf_gpu_lose(gpu, error.status, error.message);
    return ready->pipeline;
}

kvf_gpu_shape kvf_gpu_shape_of(const kvf_gpu_device *gpu, kvf_gpu_kernel kernel,
                               kvf_gpu_variant variant, kvf_gpu_shape generic)
{
    const kvf_gpu_override *override = gpu->kernels[kernel][variant].override;
    return override && override->shape.threads ? override->shape : generic;
}

/* ---- The device ---------------------------------------------------------------------- */

static void release_ready(kvf_gpu_device *gpu, const kvf_gpu_ready *ready)
{
    if (ready->pipeline)
        gpu->driver->release_pipeline(gpu->gpu, ready->pipeline);
    if (ready->library)
        gpu->driver->release_library(gpu->gpu, ready->library);
}

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
                release_ready(gpu, &gpu->kernels[i][v]);
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

/* "sm80, generic" */
static const char *list_isas(const kvf_gpu_limits *limits, char *text, size_t bytes)
{
    size_t used = 0;
    for (const char *const *isa = limits->isas; *isa && used < bytes; isa++)
        used += (size_t)snprintf(text + used, bytes - used, "%s, ", *isa);
    if (used < bytes)
        snprintf(text + used, bytes - used, "%s", generic_isa);
    return text;
}

/* The kernels that an override names. */
static void set_override(kvf_gpu_device *gpu, const kvf_gpu_override *override)
{
    for (int k = 0; k < KVF_KERNEL_COUNT; k++) {
        const bool has_variants = kernels[k].file == KVF_GPU_FILE_products;
        if (strcmp(override->kernel, kernels[k].name) != 0 || has_variants != !!override->variant)
            continue;
        for (int v = 0; v < KVF_GPU_VARIANT_COUNT; v++)
            if (!has_variants || strcmp(override->variant, variant_names[v]) == 0)
                gpu->kernels[k][v].override = override;
    }
}

/*
 * What runs by the ISA that was asked for, NULL: the best one. Those that it falls back on come
 * after it in limits.isas, so that they are set first.
 */
static kvf_status choose_isa(kvf_gpu_device *gpu, const char *asked, kvf_error *error)
{
    const char *const *isas = gpu->limits.isas;
    char names[64];
    uint32_t n = 0;
    uint32_t chosen = 0;
    while (isas[n])
        n++;
    if (asked && strcmp(asked, generic_isa) == 0)
        chosen = n;
    while (asked && chosen < n && strcmp(isas[chosen], asked) != 0)
        chosen++;
    if (asked && chosen == n && strcmp(asked, generic_isa) != 0)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "backend %s has no ISA '%.40s' on %s; there are: %s",
                        gpu->base.backend->name, asked, gpu->limits.name,
                        list_isas(&gpu->limits, names, sizeof names));
    gpu->base.isa = chosen < n ? isas[chosen] : generic_isa;
    while (n > chosen) {
        n--;
        for (const kvf_gpu_override *o = gpu->driver->overrides; o && o->isa; o++)
            if (strcmp(o->isa, isas[n]) == 0)
                set_override(gpu, o);
    }
    return KVF_OK;
}

static kvf_status open_parts(kvf_gpu_device *gpu, const char *isa, kvf_error *error)
{
    kvf_status status = gpu->driver->open(&gpu->gpu, error);
    if (status != KVF_OK)
        return status;
    gpu->limits = *gpu->driver->limits(gpu->gpu);
    status = choose_isa(gpu, isa, error);
    if (status != KVF_OK)
        return status;
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
    kvf_gpu_device *gpu = calloc(1, sizeof *gpu);
    if (!gpu)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a device");
    gpu->base.backend = backend;
    gpu->base.n_threads = 1; /* of the host; whatever was asked */
    gpu->driver = driver;
    gpu->n_waits = 1;
    const kvf_status status = open_parts(gpu, options->isa, error);
    if (status != KVF_OK) {
        kvf_gpu_close_device(&gpu->base);
        return status;
    }
    *device = &gpu->base;
    return KVF_OK;
}
