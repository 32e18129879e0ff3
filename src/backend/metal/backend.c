/* The Metal backend: opening the GPU, compiling the kernels, the table of operations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/metal/dense.h"
#include "backend/metal/metal.h"
#include "backend/metal/sources.h"
#include "error.h"

/* What the largest threadgroups of any kernel need: mix and compress; attend and select. */
#define LEAST_THREADGROUP_THREADS 512
#define LEAST_THREADGROUP_BYTES 32768

/* Of the working set, one in so many bytes is kept for the arrays of running operations. */
#define STAGING_PART 64

static_assert(KVF_MIX_MOST_THREADS <= LEAST_THREADGROUP_THREADS &&
                  KVF_COMPRESS_MAX_THREADS <= LEAST_THREADGROUP_THREADS,
              "a kernel needs more threads");

static const char *const file_names[KVF_METAL_FILE_COUNT] = {
#define KVF_METAL_FILE(file) [KVF_METAL_FILE_##file] = #file ".metal",
#define KVF_METAL_KERNEL(file, name)
#include "backend/metal/kernels.def"
#undef KVF_METAL_FILE
#undef KVF_METAL_KERNEL
};

static const struct {
    const char *name;
    kvf_metal_file file;
} kernels[KVF_KERNEL_COUNT] = {
#define KVF_METAL_FILE(file)
#define KVF_METAL_KERNEL(file, name) [KVF_KERNEL_##name] = {"kvf_" #name, KVF_METAL_FILE_##file},
#include "backend/metal/kernels.def"
#undef KVF_METAL_FILE
#undef KVF_METAL_KERNEL
};

static void close_metal(kvf_device *device)
{
    kvf_metal_device *metal = kvf_metal_of(device);
    if (metal->gpu) {
        kvf_metal_close_memory(metal);
        kvf_gpu_release_buffer(metal->gpu, &metal->nothing);
        for (int i = 0; i < KVF_KERNEL_COUNT; i++)
            if (metal->pipelines[i])
                kvf_gpu_release_pipeline(metal->gpu, metal->pipelines[i]);
        for (int i = 0; i < KVF_METAL_FILE_COUNT; i++)
            if (metal->libraries[i])
                kvf_gpu_release_library(metal->gpu, metal->libraries[i]);
        kvf_gpu_close(metal->gpu);
    }
    free(metal);
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

static kvf_status compile(kvf_metal_device *metal, kvf_error *error)
{
    kvf_status status = KVF_OK;
    for (int i = 0; i < KVF_METAL_FILE_COUNT && status == KVF_OK; i++)
        status = kvf_gpu_compile(metal->gpu, file_names[i], kvf_metal_sources[i],
                                 &metal->libraries[i], error);
    for (int i = 0; i < KVF_KERNEL_COUNT && status == KVF_OK; i++)
        status = kvf_gpu_make_pipeline(metal->gpu, metal->libraries[kernels[i].file],
                                       kernels[i].name, &metal->pipelines[i], error);
    return status;
}

static kvf_status open_parts(kvf_metal_device *metal, kvf_error *error)
{
    kvf_status status = kvf_gpu_open(&metal->gpu, error);
    if (status != KVF_OK)
        return status;
    metal->limits = *kvf_gpu_get_limits(metal->gpu);
    metal->base.memory_bytes = metal->limits.working_set_bytes / STAGING_PART * (STAGING_PART - 1);
    metal->base.buffer_bytes = metal->limits.buffer_bytes;
    status = check_limits(&metal->limits, error);
    if (status == KVF_OK)
        status = compile(metal, error);
    if (status == KVF_OK && !kvf_gpu_make_buffer(metal->gpu, sizeof(float), &metal->nothing))
        status = kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory on %s", metal->limits.name);
    return status;
}

static kvf_status open_metal(const kvf_device_options *options, kvf_device **device,
                             kvf_error *error)
{
    if (options->isa && strcmp(options->isa, "metal") != 0)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "backend metal has no ISA '%.40s'; its only one is 'metal'", options->isa);
    kvf_metal_device *metal = calloc(1, sizeof *metal);
    if (!metal)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a device");
    metal->base.backend = &kvf_backend_metal;
    metal->base.isa = "metal";
    metal->base.n_threads = 1; /* of the host; whatever was asked */
    const kvf_status status = open_parts(metal, error);
    if (status != KVF_OK) {
        close_metal(&metal->base);
        return status;
    }
    *device = &metal->base;
    return KVF_OK;
}

const kvf_backend kvf_backend_metal = {
    .name = "metal",
    .open = open_metal,
    .close = close_metal,
    .alloc = kvf_metal_alloc,
    .release = kvf_metal_release,
    .zero = kvf_host_zero,
    .write = kvf_host_write,
    .read = kvf_host_read,
    .copy = kvf_host_copy,
    .wait = kvf_metal_state,
    .embed = kvf_metal_embed,
    .matmul = kvf_metal_matmul,
    .norm = kvf_metal_norm,
    .rope = kvf_metal_rope,
    .mix = kvf_metal_mix,
    .unmix = kvf_metal_unmix,
    .route = kvf_metal_route,
    .experts = kvf_metal_experts,
    .check = kvf_metal_check,
    .compress = kvf_metal_compress,
    .pack = kvf_metal_pack,
    .unpack = kvf_metal_unpack,
    .select = kvf_metal_select,
    .score = kvf_metal_score,
    .mask = kvf_metal_mask,
    .experts_workspace_bytes = kvf_metal_experts_workspace_bytes,
    .select_workspace_bytes = kvf_metal_select_workspace_bytes,
    .attend = kvf_metal_attend,
    .attend_workspace_bytes = kvf_metal_attend_workspace_bytes,
};
