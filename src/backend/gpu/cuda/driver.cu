/*
 * driver.h over the CUDA runtime, which finds NVIDIA's driver when it is first called: a binary
 * with this runs where there is none. Kernels are built by gpu_kernels.py --cuda and nvcc.
 * Device memory is plain allocations, shared memory is pinned; one stream.
 */
#include "backend/gpu/cuda/cuda.h"
#include "backend/gpu/cuda/graphs.h"
#include "backend/gpu/cuda/overrides.h"

#include <cuda_runtime.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "error.h"
}
#include "metal_cuda_launch.h"

/*
 * Of the memory that is free when the device is opened, this is left to the driver: its own
 * arrays grow with kernels and streams.
 */
constexpr uint64_t left_bytes = 512ull << 20;
/* cudaMalloc gives pages of this size. */
constexpr uint32_t page_bytes = 2u << 20;
constexpr unsigned most_timed = 4096;
constexpr unsigned most_kernels = 256;

struct kvf_gpu_library {
    const kvf_cuda_library *library;
};

struct kvf_gpu_pipeline {
    const kvf_cuda_kernel *kernel;
    const char *library;
    unsigned max_threads;
    bool begins_early;
};

struct timed {
    const kvf_gpu_pipeline *pipeline;
    cudaEvent_t start, end;
};

struct kvf_gpu {
    kvf_gpu_limits limits;
    cudaStream_t stream;
    kvf_cuda_graphs *graphs;
    bool captures;       /* launches go to the stream, which is being made a graph of */
    char complaint[256]; /* of what was not launched; "": all was */
    timed running[most_timed];
    unsigned n_running;
};

static struct {
    bool on;
    unsigned n;
    kvf_cuda_times of[most_kernels];
} times;
static bool overlaps = true;
static kvf_gpu *opened_last; /* what graphs are timed on; as times, for tests and tables */

/* ---- Errors ------------------------------------------------------------------------------- */

static void complain(kvf_gpu *gpu, const char *what, const char *why)
{
    if (!gpu->complaint[0])
        snprintf(gpu->complaint, sizeof(gpu->complaint), "%s: %s", what, why);
}

/* ---- The GPU ------------------------------------------------------------------------------ */

static void close_gpu(kvf_gpu *gpu)
{
    if (opened_last == gpu)
        opened_last = nullptr;
    kvf_cuda_graphs_close(gpu->graphs);
    if (gpu->stream)
        cudaStreamDestroy(gpu->stream);
    free(gpu);
}

static kvf_status open_stream(kvf_gpu *gpu, const cudaDeviceProp *properties, kvf_error *error)
{
    size_t free_bytes = 0;
    size_t all_bytes = 0;
    cudaError_t found = cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking);
    if (found == cudaSuccess)
        found = cudaMemGetInfo(&free_bytes, &all_bytes);
    if (found != cudaSuccess)
        return kvf_fail(error, KVF_UNSUPPORTED, "%s: %s", properties->name,
                        cudaGetErrorString(found));
    gpu->graphs = kvf_cuda_graphs_open(gpu->stream);
    if (!gpu->graphs)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for graphs");
    kvf_gpu_limits *limits = &gpu->limits;
    snprintf(limits->name, sizeof(limits->name), "%.63s", properties->name);
    limits->working_set_bytes = free_bytes > left_bytes ? free_bytes - left_bytes : 0;
    limits->buffer_bytes = limits->working_set_bytes;
    limits->page_bytes = page_bytes;
    /* Metal's, so that nothing passes here that would not there. */
    limits->threadgroup_bytes = 32768;
    limits->threadgroup_threads = (uint32_t)properties->maxThreadsPerBlock;
    if (properties->major >= 8)
        limits->isas[0] = "sm80";
    return kvf_ok(error);
}

/* The kernels are machine code of one architecture; all of them are, if one is. */
static kvf_status check_kernels(const cudaDeviceProp *properties, kvf_error *error)
{
    cudaFuncAttributes attributes;
    const cudaError_t found =
        cudaFuncGetAttributes(&attributes, kvf_cuda_libraries[0]->kernels[0].entry);
    if (found == cudaSuccess)
        return kvf_ok(error);
    cudaGetLastError();
    return kvf_fail(error, KVF_UNSUPPORTED,
                "%s has compute capability %d.%d, which this build has no kernels for (%s): build "
                "with -DKVF_CUDA_ARCH=%d%d",
                properties->name, properties->major, properties->minor, cudaGetErrorString(found),
                properties->major, properties->minor);
}

static kvf_status open_gpu(kvf_gpu **out, kvf_error *error)
{
    cudaDeviceProp properties;
    int n_devices = 0;
    *out = nullptr;
    cudaError_t found = cudaGetDeviceCount(&n_devices);
    if (found == cudaErrorInsufficientDriver)
        return kvf_fail(error, KVF_UNSUPPORTED,
                    "backend cuda: no NVIDIA driver was found, or one older than CUDA %d.%d needs",
                    CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (found == cudaErrorNoDevice || (found == cudaSuccess && n_devices == 0))
        return kvf_fail(error, KVF_UNSUPPORTED, "backend cuda: there is no NVIDIA GPU");
    if (found == cudaSuccess)
        found = cudaGetDeviceProperties(&properties, 0);
    if (found != cudaSuccess)
        return kvf_fail(error, KVF_UNSUPPORTED, "backend cuda: %s", cudaGetErrorString(found));
    kvf_status status = check_kernels(&properties, error);
    if (status != KVF_OK)
        return status;
    kvf_gpu *gpu = static_cast<kvf_gpu *>(calloc(1, sizeof(kvf_gpu)));
    if (!gpu)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a GPU");
    status = open_stream(gpu, &properties, error);
    if (status != KVF_OK) {
        close_gpu(gpu);
        return status;
    }
    *out = opened_last = gpu;
    return KVF_OK;
}

static const kvf_gpu_limits *limits_of(const kvf_gpu *gpu)
{
    return &gpu->limits;
}

/* ---- Kernels ------------------------------------------------------------------------------- */

static kvf_status compile(kvf_gpu *, const char *name, const char *, kvf_gpu_library **library,
                          kvf_error *error)
{
    *library = nullptr;
    for (const kvf_cuda_library *const *l = kvf_cuda_libraries; *l; l++) {
        if (strcmp((*l)->name, name) != 0)
            continue;
        *library = static_cast<kvf_gpu_library *>(calloc(1, sizeof(kvf_gpu_library)));
        if (!*library)
            return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %s", name);
        (*library)->library = *l;
        return kvf_ok(error);
    }
    return kvf_fail(error, KVF_UNSUPPORTED, "%s was not linked", name);
}

static void release_library(kvf_gpu *, kvf_gpu_library *library)
{
    free(library);
}

static kvf_status make_pipeline(kvf_gpu *, kvf_gpu_library *library, const char *kernel,
                                kvf_gpu_pipeline **pipeline, kvf_error *error)
{
    const kvf_cuda_library *l = library->library;
    *pipeline = nullptr;
    for (unsigned i = 0; i < l->n_kernels; i++) {
        const kvf_cuda_kernel *k = &l->kernels[i];
        if (strcmp(k->name, kernel) != 0)
            continue;
        cudaFuncAttributes attributes;
        const cudaError_t found = cudaFuncGetAttributes(&attributes, k->entry);
        if (found != cudaSuccess)
            return kvf_fail(error, KVF_UNSUPPORTED, "%s: %s", kernel, cudaGetErrorString(found));
        *pipeline = static_cast<kvf_gpu_pipeline *>(calloc(1, sizeof(kvf_gpu_pipeline)));
        if (!*pipeline)
            return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for kernel %s", kernel);
        **pipeline = {k, l->name, (unsigned)attributes.maxThreadsPerBlock,
                      l->begins_early && attributes.binaryVersion >= 90};
        return kvf_ok(error);
    }
    return kvf_fail(error, KVF_UNSUPPORTED, "%s has no kernel %s", l->name, kernel);
}

static void release_pipeline(kvf_gpu *, kvf_gpu_pipeline *pipeline)
{
    free(pipeline);
}

/* ---- Buffers -------------------------------------------------------------------------------- */

static bool make_buffer(kvf_gpu *, size_t bytes, bool shared, kvf_gpu_buffer *buffer)
{
    void *memory = nullptr;
    *buffer = {};
    const cudaError_t made = shared ? cudaHostAlloc(&memory, bytes, cudaHostAllocMapped)
                                    : cudaMalloc(&memory, bytes);
    if (made != cudaSuccess) {
        cudaGetLastError(); /* it was said; a later launch is not to say it again */
        return false;
    }
    buffer->handle = memory;
    buffer->contents = shared ? memory : nullptr;
    buffer->gpu_address = (uintptr_t)memory; /* one address space for host and device */
    buffer->bytes = bytes;
    return true;
}

static void release_buffer(kvf_gpu *, kvf_gpu_buffer *buffer)
{
    if (buffer->contents)
        cudaFreeHost(buffer->handle);
    else
        cudaFree(buffer->handle);
    *buffer = {};
}

/* ---- Times ----------------------------------------------------------------------------------- */

extern "C" void kvf_cuda_time(bool on)
{
    times.on = on;
    times.n = 0;
}

extern "C" const kvf_cuda_times *kvf_cuda_get_times(unsigned i)
{
    return i < times.n ? &times.of[i] : nullptr;
}

static void add_time(const kvf_gpu_pipeline *pipeline, double ms)
{
    kvf_cuda_times *of = nullptr;
    for (unsigned i = 0; i < times.n && !of; i++)
        if (times.of[i].kernel == pipeline->kernel->name &&
            times.of[i].library == pipeline->library)
            of = &times.of[i];
    if (!of) {
        if (times.n == most_kernels)
            return;
        of = &times.of[times.n++];
        *of = {pipeline->kernel->name, pipeline->library, 0, 0.0, ms};
    }
    of->n++;
    of->total_ms += ms;
    of->least_ms = ms < of->least_ms ? ms : of->least_ms;
}

/* With two events around it, while there is room for them. */
static cudaError_t run_timed(kvf_gpu *gpu, const kvf_gpu_pipeline *pipeline,
                             const kvf_cuda_launch *launch)
{
    const cudaError_t before = kvf_cuda_graphs_end(gpu->graphs); /* what came before it */
    if (before != cudaSuccess || gpu->n_running == most_timed)
        return before != cudaSuccess ? before : kvf_cuda_launch_now(launch, gpu->stream);
    timed *t = &gpu->running[gpu->n_running++];
    t->pipeline = pipeline;
    cudaEventCreate(&t->start);
    cudaEventCreate(&t->end);
    cudaEventRecord(t->start, gpu->stream);
    const cudaError_t launched = kvf_cuda_launch_now(launch, gpu->stream);
    cudaEventRecord(t->end, gpu->stream);
    return launched;
}

static void end_timings(kvf_gpu *gpu)
{
    for (unsigned i = 0; i < gpu->n_running; i++) {
        float ms = 0;
        if (cudaEventElapsedTime(&ms, gpu->running[i].start, gpu->running[i].end) == cudaSuccess)
            add_time(gpu->running[i].pipeline, (double)ms);
        cudaEventDestroy(gpu->running[i].start);
        cudaEventDestroy(gpu->running[i].end);
    }
    gpu->n_running = 0;
}

extern "C" void kvf_cuda_overlap(bool on)
{
    overlaps = on;
}

/* Milliseconds of n calls of f, between two events; below 0: something failed. */
template <class F> static double time_calls(kvf_gpu *gpu, unsigned n, F f)
{
    cudaEvent_t start = nullptr;
    cudaEvent_t end = nullptr;
    float ms = -1.0f;
    bool good = cudaEventCreate(&start) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess &&
                cudaEventRecord(start, gpu->stream) == cudaSuccess;
    for (unsigned i = 0; i < n && good; i++)
        good = f() == cudaSuccess;
    good = good && cudaEventRecord(end, gpu->stream) == cudaSuccess &&
           cudaEventSynchronize(end) == cudaSuccess &&
           cudaEventElapsedTime(&ms, start, end) == cudaSuccess;
    if (start)
        cudaEventDestroy(start);
    if (end)
        cudaEventDestroy(end);
    return good ? (double)ms : -1.0;
}

extern "C" bool kvf_cuda_begin_graph(void)
{
    opened_last->captures =
        kvf_cuda_graphs_end(opened_last->graphs) == cudaSuccess &&
        cudaStreamBeginCapture(opened_last->stream, cudaStreamCaptureModeThreadLocal) ==
            cudaSuccess;
    return opened_last->captures;
}

extern "C" double kvf_cuda_time_graph(unsigned n)
{
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    kvf_gpu *gpu = opened_last;
    double ms = -1.0;
    const bool captured = gpu->captures;
    gpu->captures = false;
    if (captured && n && cudaStreamEndCapture(gpu->stream, &graph) == cudaSuccess &&
        cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess) {
        const auto launch = [=] { return cudaGraphLaunch(exec, gpu->stream); };
        if (time_calls(gpu, 1, launch) >= 0)
            ms = time_calls(gpu, n, launch) / n;
    }
    if (exec)
        cudaGraphExecDestroy(exec);
    if (graph)
        cudaGraphDestroy(graph);
    return ms;
}

extern "C" double kvf_cuda_copy_rate(size_t bytes)
{
    const unsigned repeats = 10;
    kvf_gpu *gpu = opened_last;
    void *from = nullptr;
    void *to = nullptr;
    double ms = -1.0;
    if (gpu && cudaMalloc(&from, bytes) == cudaSuccess && cudaMalloc(&to, bytes) == cudaSuccess &&
        cudaMemsetAsync(from, 0x5a, bytes, gpu->stream) == cudaSuccess) {
        const auto copy = [=] {
            return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, gpu->stream);
        };
        if (time_calls(gpu, 1, copy) >= 0)
            ms = time_calls(gpu, repeats, copy) / repeats;
    }
    cudaFree(from);
    cudaFree(to);
    return ms > 0 ? 2.0 * (double)bytes / 1e6 / ms : -1.0;
}

/* ---- Dispatches ------------------------------------------------------------------------------ */

static bool fits(kvf_gpu *gpu, const kvf_gpu_dispatch *d)
{
    const kvf_cuda_kernel *k = d->pipeline->kernel;
    const uint64_t threads = (uint64_t)d->threads[0] * d->threads[1] * d->threads[2];
    if (threads > d->pipeline->max_threads)
        complain(gpu, k->name, "its registers do not allow so many threads");
    else if (d->argument_bytes != k->argument_bytes ||
             d->n_threadgroup_arrays != k->n_threadgroup_arrays)
        complain(gpu, k->name, "the dispatch does not fit the kernel");
    return !gpu->complaint[0];
}

static void run(kvf_gpu *gpu, const kvf_gpu_dispatch *d)
{
    if (!fits(gpu, d))
        return;
    const kvf_cuda_kernel *k = d->pipeline->kernel;
    kvf_cuda_call call = {};
    unsigned shared_bytes = 0;
    for (uint32_t i = 0; i < d->n_threadgroup_arrays; i++) {
        call.offsets[i] = shared_bytes;
        shared_bytes += d->threadgroup_bytes[i];
    }
    const kvf_cuda_launch launch = {k,
                                    dim3(d->groups[0], d->groups[1], d->groups[2]),
                                    dim3(d->threads[0], d->threads[1], d->threads[2]),
                                    shared_bytes,
                                    call,
                                    d->arguments,
                                    d->pipeline->begins_early && overlaps};
    const cudaError_t launched = times.on        ? run_timed(gpu, d->pipeline, &launch)
                                 : gpu->captures ? kvf_cuda_launch_now(&launch, gpu->stream)
                                                 : kvf_cuda_graphs_run(gpu->graphs, &launch);
    if (launched != cudaSuccess)
        complain(gpu, k->name, cudaGetErrorString(launched));
}

static kvf_status wait(kvf_gpu *gpu, kvf_error *error)
{
    cudaError_t ended = kvf_cuda_graphs_end(gpu->graphs);
    if (ended == cudaSuccess)
        ended = cudaStreamSynchronize(gpu->stream);
    if (ended == cudaSuccess)
        kvf_cuda_graphs_done(gpu->graphs);
    end_timings(gpu);
    if (ended != cudaSuccess)
        complain(gpu, "the GPU stopped", cudaGetErrorString(ended));
    if (gpu->complaint[0])
        return kvf_fail(error, KVF_DEVICE_LOST, "%s", gpu->complaint);
    return kvf_ok(error);
}

extern "C" const kvf_gpu_driver kvf_gpu_driver_cuda = {
    kvf_cuda_overrides, open_gpu,    close_gpu,      limits_of, compile, release_library, make_pipeline, release_pipeline,
    make_buffer, release_buffer, run,       wait,    nullptr};
