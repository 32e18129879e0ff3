/*
 * The experts of a layer on the GPU. The host knows neither who chose whom nor how many did:
 * the kernels find weights in a table that the layer has on the device, and group choices
 * there.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/gpu/dense.h"
#include "backend/gpu/gpu.h"
#include "error.h"

/* Tokens that are grouped at a time: what they make is in the caller's workspace. */
#define MOST_TOKENS 512
/* Layers that the device remembers; with more, the oldest are replaced. */
#define MOST_TABLES 1024

/* ---- Tables ------------------------------------------------------------------------ */

static kvf_gpu_variant common(kvf_gpu_variant a, kvf_gpu_variant b)
{
    return a == b ? a : KVF_GPU_VARIANT_any;
}

static void choose_variants(kvf_gpu_expert_table *table)
{
    const uint32_t n = table->n_experts;
    for (uint32_t e = 0; e <= n; e++) {
        const kvf_expert_weights *expert = &table->copy[e];
        const int shared = e == n;
        const kvf_gpu_variant up =
            common(kvf_gpu_variant_of(expert->w1.type), kvf_gpu_variant_of(expert->w3.type));
        const kvf_gpu_variant down = kvf_gpu_variant_of(expert->w2.type);
        const bool first = e == 0 || shared;
        table->up[shared] = first ? up : common(table->up[shared], up);
        table->down[shared] = first ? down : common(table->down[shared], down);
    }
}

static void send_table(kvf_gpu_device *gpu, kvf_gpu_expert_table *table)
{
    kvf_expert_entry piece[32];
    const uint32_t n = table->n_experts + 1;
    const uint32_t most = sizeof piece / sizeof piece[0];
    for (uint32_t first = 0; first < n; first += most) {
        const uint32_t end = n - first < most ? n : first + most;
        for (uint32_t e = first; e < end; e++)
            piece[e - first] = (kvf_expert_entry){.w1 = kvf_gpu_matrix(gpu, &table->copy[e].w1),
                                                  .w3 = kvf_gpu_matrix(gpu, &table->copy[e].w3),
                                                  .w2 = kvf_gpu_matrix(gpu, &table->copy[e].w2)};
        kvf_gpu_write(&gpu->base, (kvf_expert_entry *)table->entries + first, piece,
                      (end - first) * sizeof piece[0]);
    }
    choose_variants(table);
}

static void drop_table(kvf_gpu_device *gpu, kvf_gpu_expert_table *table)
{
    if (table->entries)
        kvf_gpu_release(&gpu->base, table->entries,
                        (table->n_experts + 1) * sizeof(kvf_expert_entry));
    free(table->copy);
    *table = (kvf_gpu_expert_table){0};
}

void kvf_gpu_close_experts(kvf_gpu_device *gpu)
{
    for (uint32_t i = 0; i < gpu->n_tables; i++)
        drop_table(gpu, &gpu->tables[i]);
    free(gpu->tables);
}

/* A place for the table of a layer that is not there yet, or has another number of experts. */
static kvf_gpu_expert_table *make_table(kvf_gpu_device *gpu, kvf_gpu_expert_table *old,
                                        const kvf_experts_args *args)
{
    kvf_gpu_expert_table *table = old;
    if (!table && gpu->n_tables == MOST_TABLES)
        table = &gpu->tables[0];
    if (table) {
        drop_table(gpu, table);
    } else if (kvf_gpu_reserve((void **)&gpu->tables, gpu->n_tables, &gpu->tables_capacity,
                               sizeof *gpu->tables)) {
        table = &gpu->tables[gpu->n_tables++];
        *table = (kvf_gpu_expert_table){0};
    } else {
        return NULL;
    }
    const size_t n = (size_t)args->n_experts + 1;
    table->n_experts = args->n_experts;
    table->copy = calloc(n, sizeof *table->copy);
    table->entries = kvf_gpu_alloc(&gpu->base, n * sizeof(kvf_expert_entry), KVF_PLACE_DEVICE);
    return table->copy && table->entries ? table : NULL;
}

/*
 * The layer's table as the caller has it now: sent when it is new, or another than it was (the
 * host's memory may have been given to another model since). NULL: the device is lost.
 */
static const kvf_gpu_expert_table *find_table(kvf_gpu_device *gpu, const kvf_experts_args *args)
{
    const size_t routed_bytes = args->n_experts * sizeof *args->routed;
    kvf_gpu_expert_table *table = NULL;
    for (uint32_t i = 0; i < gpu->n_tables && !table; i++)
        if (gpu->tables[i].routed == args->routed)
            table = &gpu->tables[i];
    if (!table || table->n_experts != args->n_experts)
        table = make_table(gpu, table, args);
    if (!table) {
        kvf_gpu_lose(gpu, KVF_OUT_OF_MEMORY, "no memory for a layer's table of experts");
        return NULL;
    }
    if (table->routed == args->routed && memcmp(table->copy, args->routed, routed_bytes) == 0 &&
        memcmp(table->copy + args->n_experts, &args->shared, sizeof args->shared) == 0)
        return table;
    memcpy(table->copy, args->routed, routed_bytes);
    memcpy(table->copy + args->n_experts, &args->shared, sizeof args->shared);
    table->routed = args->routed;
    send_table(gpu, table);
    return table;
}

/* ---- Workspace ------------------------------------------------------------------------- */

static size_t rounded(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static bool by_tiles(uint32_t n)
{
    return n >= KVF_TILE_LEAST_TOKENS;
}

/* Blocks at most: one for each 32 choices, and the rest of each expert that is chosen. */
static uint32_t most_blocks(uint32_t n_choices, uint32_t n_experts)
{
    return n_choices / KVF_TILE_TOKENS + (n_experts < n_choices ? n_experts : n_choices);
}

/* Parts of the workspace for so many tokens, in this order. */
struct workspace {
    size_t act;
    size_t rows;
    size_t order;
    size_t places;
    size_t counts;
    size_t blocks;
};

static struct workspace workspace_of(const kvf_experts_args *args)
{
    const uint32_t n = args->n < MOST_TOKENS ? args->n : MOST_TOKENS;
    const size_t n_choices = (size_t)n * args->top_k;
    const size_t routed_act = n_choices * args->ffn;
    const size_t shared_act = (size_t)n * args->shared_ffn;
    struct workspace w = {
        .act = rounded((routed_act > shared_act ? routed_act : shared_act) * sizeof(float))};
    if (!by_tiles(args->n))
        return w;
    w.rows = rounded((n_choices > n ? n_choices : n) * args->hidden * sizeof(float));
    w.order = rounded(n_choices * sizeof(uint32_t));
    w.places = w.order;
    w.counts = rounded(3 * (size_t)args->n_experts * sizeof(uint32_t));
    w.blocks =
        rounded(most_blocks((uint32_t)n_choices, args->n_experts) * sizeof(kvf_expert_block));
    return w;
}

size_t kvf_gpu_experts_workspace_bytes(const kvf_device *device, const kvf_experts_args *args)
{
    const struct workspace w = workspace_of(args);
    (void)device;
    return w.act + w.rows + w.order + w.places + w.counts + w.blocks;
}

/* ---- Passes ------------------------------------------------------------------------------ */

/* A dispatch over n places (choices, tokens or blocks of them) and so many rows. */
static void run_shaped(kvf_gpu_device *gpu, kvf_gpu_kernel kernel, kvf_gpu_variant variant,
                       kvf_gpu_shape generic, uint32_t n, uint32_t rows,
                       const kvf_experts_kernel_args *k)
{
    const kvf_gpu_shape shape = kvf_gpu_shape_of(gpu, kernel, variant, generic);
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = kernel,
                                     .variant = variant,
                                     .groups = {kvf_gpu_pieces(n, shape.tokens),
                                                kvf_gpu_pieces(rows, shape.rows), 1},
                                     .threads = shape.threads,
                                     .arguments = k,
                                     .argument_bytes = sizeof *k,
                                     .threadgroup_bytes = {shape.threadgroup_bytes}});
}

static void run_vectors(kvf_gpu_device *gpu, const kvf_experts_kernel_args *k, kvf_gpu_variant up,
                        kvf_gpu_variant down)
{
    const kvf_gpu_shape generic = {1, KVF_VECTOR_ROWS, KVF_VECTOR_THREADS, KVF_VECTOR_BYTES};
    run_shaped(gpu, KVF_KERNEL_experts_gate_up_vector, up, generic, k->n * k->top_k, k->ffn, k);
    run_shaped(gpu, KVF_KERNEL_experts_down_vector, down, generic, k->n, k->hidden, k);
}

static void run_tiles(kvf_gpu_device *gpu, const kvf_experts_kernel_args *k, kvf_gpu_variant up,
                      kvf_gpu_variant down)
{
    const kvf_gpu_variant any = KVF_GPU_VARIANT_any;
    const kvf_gpu_shape group = {1, 1, KVF_GROUPING_THREADS, 0};
    const kvf_gpu_shape gate_up = {1, KVF_EXPERT_TILE_FFN, KVF_TILE_THREADS, KVF_TILE_BYTES};
    const kvf_gpu_shape rows = {1, KVF_TILE_ROWS, KVF_TILE_THREADS, KVF_TILE_BYTES};
    const kvf_gpu_shape values = {1, KVF_ELEMENT_THREADS, KVF_ELEMENT_THREADS, 0};
    if (!k->shared)
        run_shaped(gpu, KVF_KERNEL_experts_group, any, group, 1, 1, k);
    run_shaped(gpu, KVF_KERNEL_experts_gate_up_tile, up, gate_up, k->n_blocks, k->ffn, k);
    run_shaped(gpu, KVF_KERNEL_experts_down_tile, down, rows, k->n_blocks, k->hidden, k);
    run_shaped(gpu, KVF_KERNEL_experts_combine, any, values, k->n, k->hidden, k);
}

/* Tokens first .. + n of the call; their routed experts, then the shared one. */
static void run_tokens(kvf_gpu_device *gpu, const kvf_experts_args *args, uint32_t first,
                       uint32_t n, const kvf_gpu_expert_table *table)
{
    const struct workspace w = workspace_of(args);
    const uint64_t act = kvf_gpu_at(gpu, args->workspace);
    const uint64_t order = act + w.act + w.rows;
    const size_t offset = (size_t)first * args->hidden;
    const size_t choices = (size_t)first * args->top_k;
    kvf_experts_kernel_args k = {.table = kvf_gpu_at(gpu, table->entries),
                                 .in = kvf_gpu_at(gpu, args->in + offset),
                                 .experts = kvf_gpu_at(gpu, args->experts + choices),
                                 .weights = kvf_gpu_at(gpu, args->weights + choices),
                                 .act = act,
                                 .rows = act + w.act,
                                 .out = kvf_gpu_at(gpu, args->out + offset),
                                 .order = order,
                                 .places = order + w.order,
                                 .counts = order + w.order + w.places,
                                 .blocks = order + w.order + w.places + w.counts,
                                 .hidden = args->hidden,
                                 .ffn = args->ffn,
                                 .n = n,
                                 .top_k = args->top_k,
                                 .n_experts = args->n_experts,
                                 .n_blocks = most_blocks(n * args->top_k, args->n_experts),
                                 .limit = args->limit};
    void (*const run)(kvf_gpu_device *, const kvf_experts_kernel_args *, kvf_gpu_variant,
                      kvf_gpu_variant) = by_tiles(args->n) ? run_tiles : run_vectors;
    run(gpu, &k, table->up[0], table->down[0]);
    if (args->shared_ffn == 0)
        return;
    k.ffn = args->shared_ffn;
    k.top_k = 1;
    k.n_blocks = kvf_gpu_pieces(n, KVF_TILE_TOKENS);
    k.shared = 1;
    k.accumulate = 1;
    run(gpu, &k, table->up[1], table->down[1]);
}

void kvf_gpu_experts(kvf_device *device, const kvf_experts_args *args)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const kvf_gpu_expert_table *table = args->n ? find_table(gpu, args) : NULL;
    if (!table)
        return;
    for (uint32_t first = 0; first < args->n; first += MOST_TOKENS)
        run_tokens(gpu, args, first, args->n - first < MOST_TOKENS ? args->n - first : MOST_TOKENS,
                   table);
}
