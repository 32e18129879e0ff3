/*
 * Passes as CUDA graphs: what is encoded between two waits, once it was encoded twice in the same
 * order of kernels, is kept as a graph. The next such pass sets the arguments and grids that
 * changed, and is one launch. Whatever else comes is launched as it is. Internal.
 *
 * Nothing of a pass that goes on like a graph is launched before its wait: the graph's launch is
 * where the GPU begins. One that leaves the way of all graphs is launched from there on as it
 * comes.
 */
#ifndef KVF_BACKEND_GPU_CUDA_GRAPHS_H
#define KVF_BACKEND_GPU_CUDA_GRAPHS_H

#include <cuda_runtime.h>

#include "metal_cuda_launch.h"

#include <stddef.h>
#include <stdint.h>

/* A kernel's launch; `arguments` is copied wherever it is kept. */
struct kvf_cuda_launch {
    const kvf_cuda_kernel *kernel;
    dim3 groups, threads;
    unsigned shared_bytes;
    kvf_cuda_call call;
    const void *arguments; /* kernel->argument_bytes */
    bool early;            /* it may begin before the one before it has ended */
};

struct kvf_cuda_graphs;

/* nullptr without memory. */
kvf_cuda_graphs *kvf_cuda_graphs_open(cudaStream_t stream);
void kvf_cuda_graphs_close(kvf_cuda_graphs *graphs);

/* The next launch of the running pass: at once, or with its end. */
cudaError_t kvf_cuda_graphs_run(kvf_cuda_graphs *graphs, const kvf_cuda_launch *launch);
/* Launches what was kept back. The caller waits for the stream, and then calls `done`. */
cudaError_t kvf_cuda_graphs_end(kvf_cuda_graphs *graphs);
/* The pass has run: makes a graph of it where it is worth one. */
void kvf_cuda_graphs_done(kvf_cuda_graphs *graphs);

/* Of one launch, now. */
cudaError_t kvf_cuda_launch_now(const kvf_cuda_launch *launch, cudaStream_t stream);

#endif
