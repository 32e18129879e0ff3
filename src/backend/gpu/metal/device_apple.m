/*
 * device.h by Apple's Metal. The one file that names its interface; no logic but the order
 * of calls. References are counted by hand: new.. and Create.. give one, release takes it.
 *
 * Kernels reach buffers through addresses too, so all buffers are in one residency set of
 * the queue, and every dispatch waits for what those before it wrote.
 */
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/gpu/driver.h"
#include "error.h"

/* kvf_gpu_open refuses systems without residency sets and math modes. */
#pragma clang diagnostic ignored "-Wunguarded-availability-new"

#define PAGE_BYTES 16384 /* of Apple's processors; a buffer takes whole ones */

/* kvf_gpu_library * and kvf_gpu_pipeline * are id<MTLLibrary>, id<MTLComputePipelineState>. */
struct kvf_gpu {
    kvf_gpu_limits limits;
    id<MTLDevice> device;
    id<MTLCommandQueue> queue;
    id<MTLResidencySet> residents;
    id<MTLCommandBuffer> commands;        /* nil: nothing is encoded */
    id<MTLComputeCommandEncoder> encoder; /* of commands */
    const char *refused;                  /* why a dispatch was not encoded; NULL: all were */
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
    gpu->limits.threadgroup_bytes = (uint32_t)gpu->device.maxThreadgroupMemoryLength;
    gpu->limits.threadgroup_threads = (uint32_t)gpu->device.maxThreadsPerThreadgroup.width;
    return open_queue(gpu, error);
}

kvf_status kvf_gpu_open(kvf_gpu **gpu, kvf_error *error)
{
    kvf_status status;
    *gpu = calloc(1, sizeof **gpu);
    if (!*gpu)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a GPU");
    @autoreleasepool {
        status = open_device(*gpu, error);
    }
    if (status != KVF_OK) {
        kvf_gpu_close(*gpu);
        *gpu = NULL;
    }
    return status;
}

void kvf_gpu_close(kvf_gpu *gpu)
{
    [gpu->encoder endEncoding];
    [gpu->encoder release];
    [gpu->commands release];
    [gpu->queue release];
    [gpu->residents release];
    [gpu->device release];
    free(gpu);
}

const kvf_gpu_limits *kvf_gpu_get_limits(const kvf_gpu *gpu)
{
    return &gpu->limits;
}

/* ---- Kernels ----------------------------------------------------------------------- */

kvf_status kvf_gpu_compile(kvf_gpu *gpu, const char *name, const char *source,
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

void kvf_gpu_release_library(kvf_gpu *gpu, kvf_gpu_library *library)
{
    (void)gpu;
    [(id<MTLLibrary>)library release];
}

kvf_status kvf_gpu_make_pipeline(kvf_gpu *gpu, kvf_gpu_library *library, const char *kernel,
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

void kvf_gpu_release_pipeline(kvf_gpu *gpu, kvf_gpu_pipeline *pipeline)
{
    (void)gpu;
    [(id<MTLComputePipelineState>)pipeline release];
}

/* ---- Buffers ------------------------------------------------------------------------- */

bool kvf_gpu_make_buffer(kvf_gpu *gpu, size_t bytes, kvf_gpu_buffer *buffer)
{
    const NSUInteger length = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    id<MTLBuffer> made = nil;
    if (bytes > 0 && bytes <= gpu->limits.buffer_bytes)
        made = [gpu->device newBufferWithLength:length options:MTLResourceStorageModeShared];
    if (!made)
        return false;
    [gpu->residents addAllocation:made];
    *buffer = (kvf_gpu_buffer){made, made.contents, made.gpuAddress, bytes};
    return true;
}

void kvf_gpu_release_buffer(kvf_gpu *gpu, kvf_gpu_buffer *buffer)
{
    id<MTLBuffer> made = (id<MTLBuffer>)buffer->handle;
    if (made)
        [gpu->residents removeAllocation:made];
    [gpu->residents commit]; /* until then the set keeps the memory */
    [made release];
    memset(buffer, 0, sizeof *buffer);
}

/* ---- Dispatches ------------------------------------------------------------------------ */

void kvf_gpu_run(kvf_gpu *gpu, const kvf_gpu_dispatch *d)
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
        for (uint32_t i = 0; i < d->n_buffers; i++)
            [gpu->encoder setBuffer:(id<MTLBuffer>)d->buffers[i]->handle
                             offset:d->offsets[i]
                            atIndex:1 + i];
        for (uint32_t i = 0; i < d->n_threadgroup_arrays; i++)
            [gpu->encoder setThreadgroupMemoryLength:d->threadgroup_bytes[i] atIndex:i];
        [gpu->encoder
             dispatchThreadgroups:MTLSizeMake(d->groups[0], d->groups[1], d->groups[2])
            threadsPerThreadgroup:MTLSizeMake(d->threads[0], d->threads[1], d->threads[2])];
    }
}

kvf_status kvf_gpu_wait(kvf_gpu *gpu, kvf_error *error)
{
    kvf_status status = kvf_ok(error);
    @autoreleasepool {
        [gpu->residents commit];
        [gpu->encoder endEncoding];
        [gpu->commands commit];
        [gpu->commands waitUntilCompleted];
        if (gpu->refused)
            status = kvf_fail(error, KVF_DEVICE_LOST, "%s", gpu->refused);
        else if (gpu->commands && gpu->commands.status != MTLCommandBufferStatusCompleted)
            status = kvf_fail(error, KVF_DEVICE_LOST, "%s", text_of(gpu->commands.error));
        [gpu->encoder release];
        [gpu->commands release];
        gpu->encoder = nil;
        gpu->commands = nil;
    }
    return status;
}
