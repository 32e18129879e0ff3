/*
 * driver.h by Apple's Metal. The one file that names its interface; no logic but the order
 * of calls. References are counted by hand: new.. and Create.. give one, release takes it.
 *
 * Kernels reach buffers through addresses alone, so all buffers are in one residency set of
 * the queue, and every dispatch waits for what those before it wrote. Command buffers run one
 * after the other; one is committed when it has so many dispatches that the GPU should not
 * wait for more of them, and that none comes near the seconds after which macOS ends one.
 */
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/gpu/metal/metal.h"
#include "error.h"

/* open refuses systems without residency sets and math modes. */
#pragma clang diagnostic ignored "-Wunguarded-availability-new"

#define PAGE_BYTES 16384 /* of Apple's processors; a buffer takes whole ones */
#define COMMITTED_DISPATCHES 64

/* kvf_gpu_library * and kvf_gpu_pipeline * are id<MTLLibrary>, id<MTLComputePipelineState>. */
struct kvf_gpu {
    kvf_gpu_limits limits;
    id<MTLDevice> device;
    id<MTLCommandQueue> queue;
    id<MTLResidencySet> residents;
    id<MTLCommandBuffer> commands;        /* nil: nothing is encoded */
    id<MTLComputeCommandEncoder> encoder; /* of commands */
    uint32_t n_dispatches;                /* of commands */
    id<MTLCommandBuffer> *committed;      /* since the last wait, in order */
    uint32_t n_committed;
    uint32_t capacity;
    const char *refused; /* why a dispatch was not encoded; NULL: all were */
};

static const char *text_of(NSError *reason)
{
    return reason ? reason.localizedDescription.UTF8String : "no reason is given";
}

/* ---- The GPU --------------------------------------------------------------------- */

/* What the kernels use and this machine lacks; NULL: it is all there. */
static const char *missing_feature(id<MTLDevice> device)
{
    if (@available(macOS 15.0, *)) {
        if (!device)
            return "this machine has no Metal GPU";
        if (![device supportsFamily:MTLGPUFamilyApple7])
            return "the GPU has no simdgroup matrices; M1 and later have";
        if (![device supportsFamily:MTLGPUFamilyMetal3] || !device.hasUnifiedMemory)
            return "the GPU does not support Metal 3 with memory that the host shares";
        return NULL;
    }
    return "the GPU backend metal needs macOS 15 or later";
}

static kvf_status open_queue(kvf_gpu *gpu, kvf_error *error)
{
    NSError *reason = nil;
    MTLResidencySetDescriptor *descriptor = [[[MTLResidencySetDescriptor alloc] init] autorelease];
    gpu->residents = [gpu->device newResidencySetWithDescriptor:descriptor error:&reason];
    gpu->queue = [gpu->device newCommandQueue];
    if (!gpu->residents || !gpu->queue)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no command queue: %s", gpu->limits.name,
                        text_of(reason));
    [gpu->queue addResidencySet:gpu->residents];
    return kvf_ok(error);
}

static kvf_status open_device(kvf_gpu *gpu, kvf_error *error)
{
    gpu->device = MTLCreateSystemDefaultDevice();
    const char *missing = missing_feature(gpu->device);
    if (missing)
        return kvf_fail(error, KVF_UNSUPPORTED, "%s", missing);
    snprintf(gpu->limits.name, sizeof gpu->limits.name, "%s", gpu->device.name.UTF8String);
    gpu->limits.working_set_bytes = gpu->device.recommendedMaxWorkingSetSize;
    gpu->limits.buffer_bytes = gpu->device.maxBufferLength;
    gpu->limits.page_bytes = PAGE_BYTES;
    gpu->limits.map_bytes = PAGE_BYTES;
    gpu->limits.threadgroup_bytes = (uint32_t)gpu->device.maxThreadgroupMemoryLength;
    gpu->limits.threadgroup_threads = (uint32_t)gpu->device.maxThreadsPerThreadgroup.width;
    return open_queue(gpu, error);
}

static void close_gpu(kvf_gpu *gpu)
{
    [gpu->encoder endEncoding];
    [gpu->encoder release];
    [gpu->commands release];
    [gpu->queue release];
    [gpu->residents release];
    [gpu->device release];
    free(gpu->committed);
    free(gpu);
}

static kvf_status open_gpu(kvf_gpu **gpu, kvf_error *error)
{
    kvf_status status;
    *gpu = calloc(1, sizeof **gpu);
    if (!*gpu)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a GPU");
    @autoreleasepool {
        status = open_device(*gpu, error);
    }
    if (status != KVF_OK) {
        close_gpu(*gpu);
        *gpu = NULL;
    }
    return status;
}

static const kvf_gpu_limits *limits_of(const kvf_gpu *gpu)
{
    return &gpu->limits;
}

/* ---- Kernels ----------------------------------------------------------------------- */

static kvf_status compile(kvf_gpu *gpu, const char *name, const char *source,
                          kvf_gpu_library **library, kvf_error *error)
{
    @autoreleasepool {
        NSError *reason = nil;
        MTLCompileOptions *options = [[[MTLCompileOptions alloc] init] autorelease];
        options.languageVersion = MTLLanguageVersion3_2;
        options.mathMode = MTLMathModeSafe;
        options.mathFloatingPointFunctions = MTLMathFloatingPointFunctionsPrecise;
        *library = (kvf_gpu_library *)[gpu->device newLibraryWithSource:@(source)
                                                                options:options
                                                                  error:&reason];
        if (*library)
            return kvf_ok(error);
        /* The first error with its file and line: warnings may come before it. */
        const char *log = text_of(reason);
        const char *first = strstr(log, "error:");
        while (first && first > log && first[-1] != '\n')
            first--;
        return kvf_fail(error, KVF_UNSUPPORTED, "the Metal compiler refuses %s: %.400s", name,
                        first ? first : log);
    }
}

static void release_library(kvf_gpu *gpu, kvf_gpu_library *library)
{
    (void)gpu;
    [(id<MTLLibrary>)library release];
}

static kvf_status make_pipeline(kvf_gpu *gpu, kvf_gpu_library *library, const char *kernel,
                                kvf_gpu_pipeline **pipeline, kvf_error *error)
{
    @autoreleasepool {
        NSError *reason = nil;
        id<MTLComputePipelineState> state = nil;
        id<MTLFunction> function = [(id<MTLLibrary>)library newFunctionWithName:@(kernel)];
        if (function)
            state = [gpu->device newComputePipelineStateWithFunction:function error:&reason];
        [function release];
        *pipeline = (kvf_gpu_pipeline *)state;
        return state ? kvf_ok(error)
                     : kvf_fail(error, KVF_UNSUPPORTED, "%s: no kernel %s: %s", gpu->limits.name,
                                kernel, text_of(reason));
    }
}

static void release_pipeline(kvf_gpu *gpu, kvf_gpu_pipeline *pipeline)
{
    (void)gpu;
    [(id<MTLComputePipelineState>)pipeline release];
}

/* ---- Buffers ------------------------------------------------------------------------- */

/* What was made becomes resident; nil: false. */
static bool add_buffer(kvf_gpu *gpu, id<MTLBuffer> made, bool shared, size_t bytes,
                       kvf_gpu_buffer *buffer)
{
    if (!made)
        return false;
    [gpu->residents addAllocation:made];
    [gpu->residents commit];
    *buffer = (kvf_gpu_buffer){made, shared ? made.contents : NULL, made.gpuAddress, bytes};
    return true;
}

static bool make_buffer(kvf_gpu *gpu, size_t bytes, bool shared, kvf_gpu_buffer *buffer)
{
    const NSUInteger length = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    id<MTLBuffer> made = nil;
    if (bytes > 0 && bytes <= gpu->limits.buffer_bytes)
        made = [gpu->device newBufferWithLength:length options:MTLResourceStorageModeShared];
    return add_buffer(gpu, made, shared, bytes, buffer);
}

/*
 * Apple wants whole pages of one region of the virtual memory, which a mapped file is; of a private
 * mapping they would be this process's own.
 */
static bool map_buffer(kvf_gpu *gpu, const void *pages, size_t bytes, kvf_gpu_buffer *buffer)
{
    return add_buffer(gpu,
                      [gpu->device newBufferWithBytesNoCopy:(void *)(uintptr_t)pages
                                                     length:bytes
                                                    options:MTLResourceStorageModeShared
                                                deallocator:nil],
                      false, bytes, buffer);
}

static void release_buffer(kvf_gpu *gpu, kvf_gpu_buffer *buffer)
{
    id<MTLBuffer> made = (id<MTLBuffer>)buffer->handle;
    if (made)
        [gpu->residents removeAllocation:made];
    [gpu->residents commit]; /* until then the set keeps the memory */
    [made release];
    memset(buffer, 0, sizeof *buffer);
}

/* ---- Dispatches ------------------------------------------------------------------------ */

/* What is encoded runs from now on; false: there is no memory to remember it. */
static bool commit(kvf_gpu *gpu)
{
    if (gpu->n_committed == gpu->capacity) {
        const uint32_t wanted = gpu->capacity ? 2 * gpu->capacity : 64;
        id<MTLCommandBuffer> *grown = realloc(gpu->committed, wanted * sizeof *grown);
        if (!grown)
            return false;
        gpu->committed = grown;
        gpu->capacity = wanted;
    }
    [gpu->encoder endEncoding];
    [gpu->commands commit];
    [gpu->encoder release];
    gpu->committed[gpu->n_committed++] = gpu->commands;
    gpu->encoder = nil;
    gpu->commands = nil;
    gpu->n_dispatches = 0;
    return true;
}

static void run(kvf_gpu *gpu, const kvf_gpu_dispatch *d)
{
    id<MTLComputePipelineState> state = (id<MTLComputePipelineState>)d->pipeline;
    const NSUInteger threads = (NSUInteger)d->threads[0] * d->threads[1] * d->threads[2];
    if (threads > state.maxTotalThreadsPerThreadgroup || state.threadExecutionWidth != 32)
        gpu->refused = "a kernel cannot have the threads that it was written for";
    if (gpu->refused)
        return;
    @autoreleasepool {
        if (!gpu->commands) {
            gpu->commands = [[gpu->queue commandBuffer] retain];
            gpu->encoder = [[gpu->commands computeCommandEncoder] retain];
        }
        if (!gpu->encoder) {
            gpu->refused = "there is no memory for commands";
            return;
        }
        [gpu->encoder memoryBarrierWithScope:MTLBarrierScopeBuffers];
        [gpu->encoder setComputePipelineState:state];
        [gpu->encoder setBytes:d->arguments length:d->argument_bytes atIndex:0];
        for (uint32_t i = 0; i < d->n_threadgroup_arrays; i++)
            [gpu->encoder setThreadgroupMemoryLength:d->threadgroup_bytes[i] atIndex:i];
        [gpu->encoder
             dispatchThreadgroups:MTLSizeMake(d->groups[0], d->groups[1], d->groups[2])
            threadsPerThreadgroup:MTLSizeMake(d->threads[0], d->threads[1], d->threads[2])];
        /* What could not be committed here, goes with the next ones. */
        if (++gpu->n_dispatches >= COMMITTED_DISPATCHES)
            commit(gpu);
    }
}

static kvf_status wait(kvf_gpu *gpu, kvf_error *error)
{
    kvf_status status = kvf_ok(error);
    if (gpu->refused)
        status = kvf_fail(error, KVF_DEVICE_LOST, "%s", gpu->refused);
    @autoreleasepool {
        if (gpu->commands && !commit(gpu))
            status = kvf_fail(error, KVF_DEVICE_LOST, "no memory for a list of commands");
        for (uint32_t i = 0; i < gpu->n_committed; i++) {
            id<MTLCommandBuffer> commands = gpu->committed[i];
            [commands waitUntilCompleted];
            if (status == KVF_OK && commands.status != MTLCommandBufferStatusCompleted)
                status = kvf_fail(error, KVF_DEVICE_LOST, "%s", text_of(commands.error));
            [commands release];
        }
        gpu->n_committed = 0;
    }
    return status;
}

const kvf_gpu_driver kvf_gpu_driver_metal = {.open = open_gpu,
                                             .close = close_gpu,
                                             .limits = limits_of,
                                             .compile = compile,
                                             .release_library = release_library,
                                             .make_pipeline = make_pipeline,
                                             .release_pipeline = release_pipeline,
                                             .make_buffer = make_buffer,
                                             .release_buffer = release_buffer,
                                             .run = run,
                                             .wait = wait,
                                             .map_buffer = map_buffer};
