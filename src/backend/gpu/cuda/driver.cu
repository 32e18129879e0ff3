/*
 * device.h over the CUDA runtime: kernels built by make_kernels.py --cuda and nvcc. One
 * stream; buffers are managed memory, so that host and GPU address the same bytes. Of
 * emulator.h only what value tests need does something.
 *
 * With KVF_CUDA_TIMES in the environment, times are printed when the process ends.
 */
#include <cuda_runtime.h>

#include <map>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <string.h>
#include <vector>

#include "device_cuda.h"
#include "emulator.h"
#include "metal_cuda_launch.h"

/* Managed memory in all; more than a card has free could hang it. */
constexpr uint64_t most_bytes = 16ull << 30;
constexpr size_t page_bytes = 4096;

kvf_cuda_library *kvf_cuda_libraries;

struct kvf_gpu_library {
    const kvf_cuda_library *library;
};

struct kvf_gpu_pipeline {
    const kvf_cuda_kernel *kernel;
    unsigned max_threads;
};

struct timed {
    const char *kernel;
    cudaEvent_t start, end;
};

struct kvf_gpu {
    kvf_gpu_limits limits;
    std::vector<timed> running;
    std::string complaint; /* of a dispatch that was not launched */
};

struct times {
    uint64_t n = 0;
    double total_ms = 0, least_ms = 0;
};

static struct {
    kvf_emulator_counters counters;
    std::map<std::string, times> of_kernel;
    bool print_at_exit;
} state;

/* ---- emulator.h, as far as it makes sense here ------------------------------------------ */

extern "C" void kvf_emulator_reset(void)
{
    kvf_emulator_counters *c = &state.counters;
    *c = {0, 0, 0, 0, 0, c->live_buffers, c->live_bytes, c->live_bytes, c->live_objects};
}
extern "C" const kvf_emulator_counters *kvf_emulator_get_counters(void)
{
    return &state.counters;
}
extern "C" void kvf_emulator_set_quiet(bool)
{
}
extern "C" void kvf_emulator_set_reverse(bool)
{
}

extern "C" void kvf_cuda_print_times(FILE *to)
{
    fprintf(to, "%-32s %9s %12s %12s\n", "kernel", "runs", "total ms", "least ms");
    for (const auto &entry : state.of_kernel)
        fprintf(to, "%-32s %9lu %12.3f %12.4f\n", entry.first.c_str(),
                (unsigned long)entry.second.n, entry.second.total_ms, entry.second.least_ms);
}

static void print_at_exit()
{
    kvf_cuda_print_times(stdout);
}

/* ---- The GPU ------------------------------------------------------------------------------ */

static kvf_status fail(kvf_error *error, kvf_status status, const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        error->status = status;
        vsnprintf(error->message, sizeof(error->message), format, arguments);
        va_end(arguments);
    }
    return status;
}

static kvf_status good(kvf_error *error)
{
    if (error)
        *error = {};
    return KVF_OK;
}

extern "C" kvf_status kvf_gpu_open(kvf_gpu **gpu, kvf_error *error)
{
    *gpu = nullptr;
    cudaDeviceProp properties;
    const cudaError_t found = cudaGetDeviceProperties(&properties, 0);
    if (found != cudaSuccess)
        return fail(error, KVF_UNSUPPORTED, "no CUDA device: %s", cudaGetErrorString(found));
    kvf_gpu *g = new kvf_gpu();
    snprintf(g->limits.name, sizeof(g->limits.name), "%.63s", properties.name);
    g->limits.working_set_bytes = most_bytes;
    g->limits.buffer_bytes = most_bytes / 2;
    /* Metal's, so that nothing passes here that would not there. */
    g->limits.threadgroup_bytes = 32768;
    g->limits.threadgroup_threads = 1024;
    state.counters.live_objects++;
    if (getenv("KVF_CUDA_TIMES") && !state.print_at_exit)
        state.print_at_exit = atexit(print_at_exit) == 0;
    *gpu = g;
    return good(error);
}

extern "C" void kvf_gpu_close(kvf_gpu *gpu)
{
    if (!gpu)
        return;
    kvf_gpu_wait(gpu, nullptr);
    delete gpu;
    state.counters.live_objects--;
}

extern "C" const kvf_gpu_limits *kvf_gpu_get_limits(const kvf_gpu *gpu)
{
    return &gpu->limits;
}

extern "C" kvf_status kvf_gpu_compile(kvf_gpu *, const char *name, const char *,
                                      kvf_gpu_library **library, kvf_error *error)
{
    *library = nullptr;
    state.counters.compiles++;
    for (const kvf_cuda_library *l = kvf_cuda_libraries; l; l = l->next) {
        if (strcmp(l->name, name) != 0)
            continue;
        *library = new kvf_gpu_library{l};
        state.counters.live_objects++;
        return good(error);
    }
    return fail(error, KVF_UNSUPPORTED, "%s was not linked", name);
}

extern "C" void kvf_gpu_release_library(kvf_gpu *, kvf_gpu_library *library)
{
    state.counters.live_objects -= library != nullptr;
    delete library;
}

extern "C" kvf_status kvf_gpu_make_pipeline(kvf_gpu *, kvf_gpu_library *library, const char *kernel,
                                            kvf_gpu_pipeline **pipeline, kvf_error *error)
{
    *pipeline = nullptr;
    for (unsigned i = 0; i < library->library->n_kernels; i++) {
        const kvf_cuda_kernel *k = &library->library->kernels[i];
        if (strcmp(k->name, kernel) != 0)
            continue;
        cudaFuncAttributes attributes;
        const cudaError_t found = cudaFuncGetAttributes(&attributes, k->entry);
        if (found != cudaSuccess)
            return fail(error, KVF_UNSUPPORTED, "%s: %s", kernel, cudaGetErrorString(found));
        *pipeline = new kvf_gpu_pipeline{k, (unsigned)attributes.maxThreadsPerBlock};
        state.counters.live_objects++;
        return good(error);
    }
    return fail(error, KVF_UNSUPPORTED, "%s has no kernel %s", library->library->name, kernel);
}

extern "C" void kvf_gpu_release_pipeline(kvf_gpu *, kvf_gpu_pipeline *pipeline)
{
    state.counters.live_objects -= pipeline != nullptr;
    delete pipeline;
}

extern "C" bool kvf_gpu_make_buffer(kvf_gpu *gpu, size_t bytes, kvf_gpu_buffer *buffer)
{
    *buffer = {};
    kvf_emulator_counters *c = &state.counters;
    if (bytes == 0 || bytes > gpu->limits.buffer_bytes || c->live_bytes + bytes > most_bytes)
        return false;
    /* Aligned to a page at the front; nothing added behind, where memcheck looks. */
    void *memory;
    if (cudaMallocManaged(&memory, bytes + page_bytes) != cudaSuccess)
        return false;
    const uintptr_t front = (uintptr_t)memory % page_bytes;
    const size_t skip = front ? page_bytes - front : page_bytes;
    buffer->handle = memory;
    buffer->contents = static_cast<unsigned char *>(memory) + skip;
    buffer->gpu_address = (uintptr_t)buffer->contents;
    buffer->bytes = bytes;
    memset(buffer->contents, 0xff, bytes);
    c->live_buffers++;
    c->live_bytes += bytes;
    if (c->live_bytes > c->peak_bytes)
        c->peak_bytes = c->live_bytes;
    return true;
}

extern "C" void kvf_gpu_release_buffer(kvf_gpu *, kvf_gpu_buffer *buffer)
{
    if (!buffer->handle)
        return;
    state.counters.live_buffers--;
    state.counters.live_bytes -= buffer->bytes;
    cudaFree(buffer->handle);
    *buffer = {};
}

/* ---- Dispatches ------------------------------------------------------------------------------ */

static bool fits(kvf_gpu *gpu, const kvf_gpu_dispatch *d)
{
    const kvf_cuda_kernel *k = d->pipeline->kernel;
    const uint64_t threads = (uint64_t)d->threads[0] * d->threads[1] * d->threads[2];
    char text[256] = "";
    if (threads > d->pipeline->max_threads)
        snprintf(text, sizeof(text), "%s: %lu threads, its registers allow %u", k->name,
                 (unsigned long)threads, d->pipeline->max_threads);
    else if (d->argument_bytes != k->argument_bytes || d->n_buffers != k->n_buffers ||
             d->n_threadgroup_arrays != k->n_threadgroup_arrays)
        snprintf(text, sizeof(text), "%s: the dispatch does not fit the kernel", k->name);
    if (text[0] && gpu->complaint.empty())
        gpu->complaint = text;
    return text[0] == '\0';
}

extern "C" void kvf_gpu_run(kvf_gpu *gpu, const kvf_gpu_dispatch *d)
{
    if (!fits(gpu, d))
        return;
    const kvf_cuda_kernel *k = d->pipeline->kernel;
    kvf_cuda_call call = {};
    for (uint32_t i = 0; i < d->n_buffers; i++) {
        if (d->buffers[i])
            call.buffers[i] = static_cast<unsigned char *>(d->buffers[i]->contents) + d->offsets[i];
    }
    unsigned shared_bytes = 0;
    for (uint32_t i = 0; i < d->n_threadgroup_arrays; i++) {
        call.offsets[i] = shared_bytes;
        shared_bytes += d->threadgroup_bytes[i];
    }
    /* By value: the launch copies them. */
    alignas(16) unsigned char arguments[KVF_GPU_MAX_ARGUMENT_BYTES];
    memcpy(arguments, d->arguments, d->argument_bytes);
    void *parameters[] = {arguments, &call};
    timed t = {k->name, nullptr, nullptr};
    cudaEventCreate(&t.start);
    cudaEventCreate(&t.end);
    cudaEventRecord(t.start);
    const cudaError_t launched = cudaLaunchKernel(
        k->entry, dim3(d->groups[0], d->groups[1], d->groups[2]),
        dim3(d->threads[0], d->threads[1], d->threads[2]), parameters, shared_bytes, nullptr);
    cudaEventRecord(t.end);
    gpu->running.push_back(t);
    if (launched != cudaSuccess && gpu->complaint.empty())
        gpu->complaint = std::string(k->name) + ": " + cudaGetErrorString(launched);
}

extern "C" kvf_status kvf_gpu_wait(kvf_gpu *gpu, kvf_error *error)
{
    state.counters.waits++;
    const cudaError_t ended = cudaDeviceSynchronize();
    if (ended != cudaSuccess && gpu->complaint.empty())
        gpu->complaint = cudaGetErrorString(ended);
    for (const timed &t : gpu->running) {
        float ms = 0;
        if (cudaEventElapsedTime(&ms, t.start, t.end) == cudaSuccess) {
            times *sum = &state.of_kernel[t.kernel];
            sum->least_ms = sum->n == 0 || (double)ms < sum->least_ms ? (double)ms : sum->least_ms;
            sum->total_ms += (double)ms;
            sum->n++;
            state.counters.dispatches++;
        }
        cudaEventDestroy(t.start);
        cudaEventDestroy(t.end);
    }
    gpu->running.clear();
    if (gpu->complaint.empty())
        return good(error);
    const kvf_status status = fail(error, KVF_DEVICE_LOST, "%s", gpu->complaint.c_str());
    state.counters.violations++;
    fprintf(stderr, "cuda: %s\n", gpu->complaint.c_str());
    gpu->complaint.clear();
    return status;
}
