/* Passes as CUDA graphs: graphs.h. */
#include "backend/gpu/cuda/graphs.h"

#include <stdlib.h>
#include <string.h>

/* Passes of fewer are as fast launched one by one; of more, they are no tokens. */
constexpr unsigned least_launches = 16;
constexpr unsigned most_launches = 8192;
/* Kept at a time. A decoded token has a few forms: with and without rows that compress makes. */
constexpr unsigned most_graphs = 8;
constexpr unsigned most_seen = 32;

struct pass {
    kvf_cuda_launch *launches;
    unsigned n, capacity;
    /* Of all launches, one after another, each at a multiple of 16; launches have addresses in it. */
    unsigned char *bytes;
    size_t n_bytes, bytes_capacity;
};

struct graph {
    pass now; /* what the nodes have */
    cudaGraphNode_t *nodes;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    uint64_t used; /* the pass that used it last */
};

struct kvf_cuda_graphs {
    cudaStream_t stream;
    pass running;
    bool forgotten;   /* the running pass is not remembered: too long, or no memory */
    unsigned n_kept;  /* of it, kept back: all but the first launches */
    graph *guess;     /* what it goes on like; nullptr: nothing is kept back */
    graph *all[most_graphs];
    unsigned n_graphs;
    uint64_t n_passes;
    uint64_t seen[most_seen]; /* orders of kernels of the last passes, as numbers */
};

/* ---- Launches -------------------------------------------------------------------------- */

cudaError_t kvf_cuda_launch_now(const kvf_cuda_launch *l, cudaStream_t stream)
{
    kvf_cuda_call call = l->call;
    void *parameters[] = {const_cast<void *>(l->arguments), &call}; /* the launch copies them */
    if (!l->early)
        return cudaLaunchKernel(l->kernel->entry, l->groups, l->threads, parameters,
                                l->shared_bytes, stream);
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = l->groups;
    config.blockDim = l->threads;
    config.dynamicSmemBytes = l->shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelExC(&config, l->kernel->entry, parameters);
}

static bool same_launch(const kvf_cuda_launch *a, const kvf_cuda_launch *b)
{
    return a->groups.x == b->groups.x && a->groups.y == b->groups.y && a->groups.z == b->groups.z &&
           a->threads.x == b->threads.x && a->threads.y == b->threads.y &&
           a->threads.z == b->threads.z && a->shared_bytes == b->shared_bytes &&
           memcmp(&a->call, &b->call, sizeof(a->call)) == 0 &&
           memcmp(a->arguments, b->arguments, a->kernel->argument_bytes) == 0;
}

/* ---- Passes ------------------------------------------------------------------------------- */

static bool grow(void **array, size_t needed, size_t *capacity)
{
    if (needed <= *capacity)
        return true;
    const size_t wanted = needed > 2 * *capacity ? needed : 2 * *capacity;
    void *grown = realloc(*array, wanted);
    if (!grown)
        return false;
    *array = grown;
    *capacity = wanted;
    return true;
}

static bool add_launch(pass *p, const kvf_cuda_launch *launch)
{
    const size_t bytes = (launch->kernel->argument_bytes + 15) / 16 * 16;
    size_t launches_bytes = p->capacity * sizeof(kvf_cuda_launch);
    const unsigned char *before = p->bytes;
    if (!grow((void **)&p->launches, (p->n + 1) * sizeof(kvf_cuda_launch), &launches_bytes))
        return false;
    p->capacity = (unsigned)(launches_bytes / sizeof(kvf_cuda_launch));
    if (!grow((void **)&p->bytes, p->n_bytes + bytes, &p->bytes_capacity))
        return false;
    if (p->bytes != before) {
        size_t at = 0;
        for (unsigned i = 0; i < p->n; i++) {
            p->launches[i].arguments = p->bytes + at;
            at += (p->launches[i].kernel->argument_bytes + 15) / 16 * 16;
        }
    }
    p->launches[p->n] = *launch;
    p->launches[p->n].arguments = p->bytes + p->n_bytes;
    memcpy(p->bytes + p->n_bytes, launch->arguments, launch->kernel->argument_bytes);
    p->n++;
    p->n_bytes += bytes;
    return true;
}

static void clear_pass(pass *p)
{
    p->n = 0;
    p->n_bytes = 0;
}

static void free_pass(pass *p)
{
    free(p->launches);
    free(p->bytes);
    *p = {};
}

/* The first n kernels are the same. */
static bool begins_like(const pass *a, const pass *b, unsigned n)
{
    if (a->n < n || b->n < n)
        return false;
    for (unsigned i = 0; i < n; i++)
        if (a->launches[i].kernel != b->launches[i].kernel)
            return false;
    return true;
}

static uint64_t number_of(const pass *p)
{
    uint64_t number = 1469598103934665603ull; /* FNV-1a */
    for (unsigned i = 0; i < p->n; i++)
        number = (number ^ (uintptr_t)p->launches[i].kernel) * 1099511628211ull;
    return number;
}

/* ---- Graphs --------------------------------------------------------------------------------- */

static void free_graph(graph *g)
{
    if (!g)
        return;
    if (g->exec)
        cudaGraphExecDestroy(g->exec);
    if (g->graph)
        cudaGraphDestroy(g->graph);
    free(g->nodes);
    free_pass(&g->now);
    free(g);
}

/* Calls f with what a node of the launch is made of. */
template <class F> static cudaError_t with_node(const kvf_cuda_launch *l, F f)
{
    kvf_cuda_call call = l->call;
    void *parameters[] = {const_cast<void *>(l->arguments), &call};
    cudaKernelNodeParams node = {};
    node.func = const_cast<void *>(l->kernel->entry);
    node.gridDim = l->groups;
    node.blockDim = l->threads;
    node.sharedMemBytes = l->shared_bytes;
    node.kernelParams = parameters;
    return f(&node);
}

/* The running pass's, which is given to it; nullptr: it could not be made. */
static graph *make_graph(kvf_cuda_graphs *graphs)
{
    graph *g = static_cast<graph *>(calloc(1, sizeof(graph)));
    if (!g)
        return nullptr;
    g->now = graphs->running;
    graphs->running = {};
    g->nodes = static_cast<cudaGraphNode_t *>(calloc(g->now.n, sizeof(cudaGraphNode_t)));
    bool good = g->nodes && cudaGraphCreate(&g->graph, 0) == cudaSuccess;
    cudaGraphEdgeData early = {};
    early.from_port = cudaGraphKernelNodePortProgrammatic;
    early.type = cudaGraphDependencyTypeProgrammatic;
    for (unsigned i = 0; i < g->now.n && good; i++) {
        const kvf_cuda_launch *l = &g->now.launches[i];
        good = with_node(l, [=](const cudaKernelNodeParams *node) {
                   return cudaGraphAddKernelNode(&g->nodes[i], g->graph, nullptr, 0, node);
               }) == cudaSuccess;
        if (good && i)
            good = cudaGraphAddDependencies(g->graph, &g->nodes[i - 1], &g->nodes[i],
                                            l->early ? &early : nullptr, 1) == cudaSuccess;
    }
    if (good && cudaGraphInstantiate(&g->exec, g->graph, 0) == cudaSuccess)
        return g;
    cudaGetLastError();
    free_graph(g);
    return nullptr;
}

/* The place of a new graph: where the one was that was not used for longest. */
static graph **place_for_graph(kvf_cuda_graphs *graphs)
{
    if (graphs->n_graphs < most_graphs)
        return &graphs->all[graphs->n_graphs++];
    graph **oldest = &graphs->all[0];
    for (unsigned i = 1; i < most_graphs; i++)
        if (graphs->all[i]->used < (*oldest)->used)
            oldest = &graphs->all[i];
    free_graph(*oldest);
    return oldest;
}

/* The graph used last of those that the running pass goes on like, `whole` to its end. */
static graph *find_graph(const kvf_cuda_graphs *graphs, bool whole)
{
    graph *found = nullptr;
    for (unsigned i = 0; i < graphs->n_graphs; i++) {
        graph *g = graphs->all[i];
        if ((!whole || g->now.n == graphs->running.n) &&
            begins_like(&g->now, &graphs->running, graphs->running.n) &&
            (!found || g->used > found->used))
            found = g;
    }
    return found;
}

static cudaError_t launch_graph(kvf_cuda_graphs *graphs, graph *g)
{
    for (unsigned i = 0; i < g->now.n; i++) {
        const kvf_cuda_launch *l = &graphs->running.launches[i];
        if (same_launch(l, &g->now.launches[i]))
            continue;
        const cudaError_t set = with_node(l, [=](const cudaKernelNodeParams *node) {
            return cudaGraphExecKernelNodeSetParams(g->exec, g->nodes[i], node);
        });
        if (set != cudaSuccess)
            return set;
    }
    /* The running pass is what the nodes have now; what they had is room for the next one. */
    const pass now = graphs->running;
    graphs->running = g->now;
    g->now = now;
    clear_pass(&graphs->running);
    graphs->forgotten = true; /* there is nothing to learn of it */
    g->used = ++graphs->n_passes;
    return cudaGraphLaunch(g->exec, graphs->stream);
}

/* ---- The running pass -------------------------------------------------------------------------- */

kvf_cuda_graphs *kvf_cuda_graphs_open(cudaStream_t stream)
{
    kvf_cuda_graphs *graphs = static_cast<kvf_cuda_graphs *>(calloc(1, sizeof(kvf_cuda_graphs)));
    if (graphs)
        graphs->stream = stream;
    return graphs;
}

void kvf_cuda_graphs_close(kvf_cuda_graphs *graphs)
{
    if (!graphs)
        return;
    for (unsigned i = 0; i < graphs->n_graphs; i++)
        free_graph(graphs->all[i]);
    free_pass(&graphs->running);
    free(graphs);
}

/* From here on the pass is launched as it comes. */
static cudaError_t launch_kept(kvf_cuda_graphs *graphs)
{
    cudaError_t launched = cudaSuccess;
    const pass *p = &graphs->running;
    for (unsigned i = p->n - graphs->n_kept; i < p->n && launched == cudaSuccess; i++)
        launched = kvf_cuda_launch_now(&p->launches[i], graphs->stream);
    graphs->n_kept = 0;
    graphs->guess = nullptr;
    return launched;
}

cudaError_t kvf_cuda_graphs_run(kvf_cuda_graphs *graphs, const kvf_cuda_launch *launch)
{
    pass *p = &graphs->running;
    if (graphs->forgotten)
        return kvf_cuda_launch_now(launch, graphs->stream);
    const bool is_first = p->n == 0;
    if (p->n == most_launches || !add_launch(p, launch)) {
        const cudaError_t launched = launch_kept(graphs);
        graphs->forgotten = true;
        return launched == cudaSuccess ? kvf_cuda_launch_now(launch, graphs->stream) : launched;
    }
    if (!is_first && !graphs->guess)
        return kvf_cuda_launch_now(launch, graphs->stream);
    graphs->n_kept++;
    const graph *guess = graphs->guess;
    if (guess && p->n <= guess->now.n &&
        guess->now.launches[p->n - 1].kernel == launch->kernel)
        return cudaSuccess;
    graphs->guess = find_graph(graphs, false);
    return graphs->guess ? cudaSuccess : launch_kept(graphs);
}

cudaError_t kvf_cuda_graphs_end(kvf_cuda_graphs *graphs)
{
    if (graphs->n_kept == 0)
        return cudaSuccess;
    graph *g = find_graph(graphs, true);
    if (!g)
        return launch_kept(graphs);
    graphs->n_kept = 0;
    graphs->guess = nullptr;
    return launch_graph(graphs, g);
}

void kvf_cuda_graphs_done(kvf_cuda_graphs *graphs)
{
    const bool learn = !graphs->forgotten && graphs->running.n >= least_launches;
    if (learn) {
        const uint64_t number = number_of(&graphs->running);
        bool was_seen = false;
        for (unsigned i = 0; i < most_seen && !was_seen; i++)
            was_seen = graphs->seen[i] == number;
        graphs->seen[++graphs->n_passes % most_seen] = number;
        if (was_seen && !find_graph(graphs, true)) {
            graph *g = make_graph(graphs);
            if (g) {
                g->used = graphs->n_passes;
                *place_for_graph(graphs) = g;
            }
        }
    }
    clear_pass(&graphs->running);
    graphs->forgotten = false;
}
