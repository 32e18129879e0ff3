/*
 * The dense layers on the GPU. Which form of a product is used, and how the experts' work
 * is cut, depends on shapes only: equal input gives equal bits.
 */
#include "backend/metal/metal.h"

#include <string.h>

#include "backend/metal/dense.h"

static_assert(KVF_MIX_MAX_STREAMS == KVF_MAX_STREAMS, "threadgroup memory of mix.metal");
static_assert(KVF_ROPE_PAIRS_A_HEAD == KVF_ROPE_WIDTH / 2, "dense.h is Metal too");

static uint32_t n_pieces(uint64_t n, uint32_t piece)
{
    return (uint32_t)((n + piece - 1) / piece);
}

/* Bytes from the first to the last value of n rows (not 0), stride values apart. */
static size_t row_bytes(uint64_t n, size_t stride, size_t width)
{
    return ((size_t)(n - 1) * stride + width) * sizeof(float);
}

static size_t dense_bytes(uint64_t n, size_t width)
{
    return (size_t)n * width * sizeof(float);
}

/* ---- Products -------------------------------------------------------------------- */

/* Whether four values may be loaded at once of rows that start there, so far apart. */
static bool loads_vectors(const void *first, uint64_t stride)
{
    return stride % 4 == 0 && (uintptr_t)first % (4 * sizeof(float)) == 0;
}

static void run_matmul(kvf_metal_device *metal, const kvf_matmul_args *args, kvf_metal_span out)
{
    const kvf_matrix *weight = &args->weight;
    const kvf_matmul_kernel_args arguments = {.in_stride = args->in_stride,
                                              .out_stride = args->out_stride,
                                              .n = args->n,
                                              .rows = weight->rows,
                                              .cols = weight->cols,
                                              .vectors =
                                                  loads_vectors(weight->data, weight->cols) &&
                                                  loads_vectors(args->in, args->in_stride)};
    const bool tiles = args->n >= KVF_TILE_LEAST_TOKENS;
    const bool one = args->n == 1;
    kvf_metal_call call = {
        .kernel = tiles ? KVF_KERNEL_matmul_tile_f32
                  : one ? KVF_KERNEL_matmul_one_f32
                        : KVF_KERNEL_matmul_few_f32,
        .groups = {n_pieces(weight->rows, KVF_VECTOR_ROWS),
                   n_pieces(args->n, one ? 1 : KVF_VECTOR_MANY_TOKENS), 1},
        .threads = KVF_VECTOR_THREADS,
        .arguments = &arguments,
        .argument_bytes = sizeof arguments,
        .spans = {kvf_metal_input(metal, weight->data, dense_bytes(weight->rows, weight->cols)),
                  kvf_metal_input(metal, args->in,
                                  row_bytes(args->n, args->in_stride, weight->cols)),
                  out},
        .threadgroup_bytes = {KVF_VECTOR_BYTES}};
    if (tiles) {
        call.groups[0] = n_pieces(weight->rows, KVF_TILE_ROWS);
        call.groups[1] = n_pieces(args->n, KVF_TILE_TOKENS);
        call.threads = KVF_TILE_THREADS;
        call.threadgroup_bytes[0] = KVF_TILE_BYTES;
    }
    kvf_metal_run(metal, &call);
}

void kvf_metal_matmul(kvf_device *device, const kvf_matmul_args *args)
{
    if (args->n == 0 || args->weight.rows == 0)
        return;
    kvf_metal_device *metal = kvf_metal_of(device);
    const uint32_t groups = args->groups ? args->groups : 1;
    kvf_matmul_args part = *args;
    part.weight.rows /= groups;
    for (uint32_t g = 0; g < groups; g++) {
        run_matmul(metal, &part,
                   kvf_metal_output(metal, part.out,
                                    row_bytes(args->n, args->out_stride, part.weight.rows)));
        kvf_metal_finish(metal);
        part.weight.data =
            (const float *)part.weight.data + (size_t)part.weight.rows * part.weight.cols;
        part.in += part.weight.cols;
        part.out += part.weight.rows;
    }
}

/* ---- Layers that work value by value ------------------------------------------------ */

void kvf_metal_embed(kvf_device *device, const kvf_embed_args *args)
{
    kvf_metal_device *metal = kvf_metal_of(device);
    const uint32_t hidden = args->table.cols;
    const kvf_embed_kernel_args arguments = {.hidden = hidden, .n_streams = args->n_streams};
    const kvf_metal_call call = {
        .kernel = KVF_KERNEL_embed_f32,
        .groups = {args->n, n_pieces(hidden, KVF_ELEMENT_THREADS), 1},
        .threads = KVF_ELEMENT_THREADS,
        .arguments = &arguments,
        .argument_bytes = sizeof arguments,
        .spans = {kvf_metal_input(metal, args->table.data, dense_bytes(args->table.rows, hidden)),
                  kvf_metal_input(metal, args->tokens, args->n * sizeof *args->tokens),
                  kvf_metal_output(metal, args->streams,
                                   dense_bytes((uint64_t)args->n * args->n_streams, hidden))}};
    kvf_metal_run(metal, &call);
    kvf_metal_finish(metal);
}

void kvf_metal_norm(kvf_device *device, const kvf_norm_args *args)
{
    if (args->n == 0)
        return;
    kvf_metal_device *metal = kvf_metal_of(device);
    const kvf_norm_kernel_args arguments = {.n = args->n,
                                            .in_stride = args->in_stride,
                                            .out_stride = args->out_stride,
                                            .width = args->width,
                                            .has_weight = args->weight != NULL,
                                            .eps = args->eps};
    const kvf_metal_call call = {
        .kernel = KVF_KERNEL_norm,
        .groups = {n_pieces(args->n, KVF_NORM_ROWS), 1, 1},
        .threads = KVF_ELEMENT_THREADS,
        .arguments = &arguments,
        .argument_bytes = sizeof arguments,
        .spans = {
            kvf_metal_input(metal, args->in, row_bytes(args->n, args->in_stride, args->width)),
            kvf_metal_output(metal, args->out, row_bytes(args->n, args->out_stride, args->width)),
            kvf_metal_input(metal, args->weight, dense_bytes(1, args->width))}};
    kvf_metal_run(metal, &call);
    kvf_metal_finish(metal);
}

void kvf_metal_rope(kvf_device *device, const kvf_rope_args *args)
{
    kvf_metal_device *metal = kvf_metal_of(device);
    const uint64_t n_heads = (uint64_t)args->n * args->heads;
    const kvf_rope_kernel_args arguments = {
        .n = args->n, .heads = args->heads, .width = args->width, .inverse = args->inverse};
    const size_t table_bytes = dense_bytes(args->n, KVF_ROPE_PAIRS_A_HEAD);
    const kvf_metal_call call = {
        .kernel = KVF_KERNEL_rope,
        .groups = {n_pieces(n_heads * KVF_ROPE_PAIRS_A_HEAD, KVF_ELEMENT_THREADS), 1, 1},
        .threads = KVF_ELEMENT_THREADS,
        .arguments = &arguments,
        .argument_bytes = sizeof arguments,
        .spans = {kvf_metal_output(metal, args->values, dense_bytes(n_heads, args->width)),
                  kvf_metal_input(metal, args->table.cosines, table_bytes),
                  kvf_metal_input(metal, args->table.sines, table_bytes)}};
    kvf_metal_run(metal, &call);
    kvf_metal_finish(metal);
}

/* ---- Hyper-connections --------------------------------------------------------------- */

/* Threads of mix for one token: about 16 values each, of all streams. */
static uint32_t n_mix_threads(uint32_t n_flat)
{
    const uint32_t threads = n_pieces(n_flat / 16, KVF_SIMD_WIDTH) * KVF_SIMD_WIDTH;
    if (threads < KVF_MIX_LEAST_THREADS)
        return KVF_MIX_LEAST_THREADS;
    return threads < KVF_MIX_MOST_THREADS ? threads : KVF_MIX_MOST_THREADS;
}

void kvf_metal_mix(kvf_device *device, const kvf_mix_args *args)
{
    if (args->n == 0)
        return;
    kvf_metal_device *metal = kvf_metal_of(device);
    const uint32_t n = args->n_streams;
    const bool head = args->sinkhorn_rounds == 0;
    const uint32_t n_mix = head ? n : n * (2 + n);
    const uint32_t n_flat = n * args->hidden;
    const kvf_matmul_args product = {.n = args->n,
                                     .weight = args->weights.fn,
                                     .in = args->streams,
                                     .in_stride = n_flat,
                                     .out = args->mix,
                                     .out_stride = n_mix};
    const kvf_metal_span mix = kvf_metal_output(metal, args->mix, dense_bytes(args->n, n_mix));
    run_matmul(metal, &product, mix);

    const kvf_mix_kernel_args arguments = {.hidden = args->hidden,
                                           .n_streams = n,
                                           .sinkhorn_rounds = args->sinkhorn_rounds,
                                           .norm_eps = args->norm_eps,
                                           .eps = args->eps};
    const kvf_metal_call call = {
        .kernel = KVF_KERNEL_mix,
        .groups = {args->n, 1, 1},
        .threads = n_mix_threads(n_flat),
        .arguments = &arguments,
        .argument_bytes = sizeof arguments,
        .spans = {mix, kvf_metal_input(metal, args->streams, dense_bytes(args->n, n_flat)),
                  kvf_metal_input(metal, args->weights.base, dense_bytes(1, n_mix)),
                  kvf_metal_input(metal, args->weights.scale, dense_bytes(1, head ? 1 : 3)),
                  kvf_metal_output(metal, args->out, dense_bytes(args->n, args->hidden)),
                  kvf_metal_output(metal, head ? NULL : args->post, dense_bytes(args->n, n)),
                  kvf_metal_output(metal, head ? NULL : args->comb,
                                   dense_bytes(args->n, (size_t)n * n))},
        .threadgroup_bytes = {KVF_MIX_BYTES}};
    kvf_metal_run(metal, &call);
    kvf_metal_finish(metal);
}

void kvf_metal_unmix(kvf_device *device, const kvf_unmix_args *args)
{
    kvf_metal_device *metal = kvf_metal_of(device);
    const size_t n = args->n_streams;
    const kvf_unmix_kernel_args arguments = {.hidden = args->hidden, .n_streams = args->n_streams};
    const kvf_metal_call call = {
        .kernel = KVF_KERNEL_unmix,
        .groups = {args->n, n_pieces(args->hidden, KVF_ELEMENT_THREADS), 1},
        .threads = KVF_ELEMENT_THREADS,
        .arguments = &arguments,
        .argument_bytes = sizeof arguments,
        .spans = {kvf_metal_input(metal, args->sublayer, dense_bytes(args->n, args->hidden)),
                  kvf_metal_input(metal, args->post, dense_bytes(args->n, n)),
                  kvf_metal_input(metal, args->comb, dense_bytes(args->n, n * n)),
                  kvf_metal_output(metal, args->streams, dense_bytes(args->n, n * args->hidden))}};
    kvf_metal_run(metal, &call);
    kvf_metal_finish(metal);
}

/* ---- Routing --------------------------------------------------------------------------- */

/* A hash layer's map has a row a token id; those up to the highest of these are needed. */
static size_t map_bytes(const kvf_route_args *args)
{
    int32_t highest = 0;
    for (uint32_t i = 0; i < args->n; i++)
        if (args->tokens[i] > highest)
            highest = args->tokens[i];
    return ((size_t)highest + 1) * args->top_k * sizeof *args->token_map;
}

void kvf_metal_route(kvf_device *device, const kvf_route_args *args)
{
    kvf_metal_device *metal = kvf_metal_of(device);
    const bool map = args->token_map != NULL;
    const size_t n_choices = (size_t)args->n * args->top_k;
    const kvf_route_kernel_args arguments = {.n_experts = args->n_experts,
                                             .top_k = args->top_k,
                                             .has_bias = args->bias != NULL,
                                             .has_map = map,
                                             .normalise = args->normalise,
                                             .scaling = args->scaling};
    const kvf_metal_call call = {
        .kernel = KVF_KERNEL_route,
        .groups = {args->n, 1, 1},
        .threads = KVF_SIMD_WIDTH,
        .arguments = &arguments,
        .argument_bytes = sizeof arguments,
        .spans = {kvf_metal_input(metal, args->logits, dense_bytes(args->n, args->n_experts)),
                  kvf_metal_input(metal, args->bias, dense_bytes(1, args->n_experts)),
                  kvf_metal_input(metal, args->token_map, map ? map_bytes(args) : 0),
                  kvf_metal_input(metal, map ? args->tokens : NULL, args->n * sizeof *args->tokens),
                  kvf_metal_output(metal, args->experts, n_choices * sizeof *args->experts),
                  kvf_metal_output(metal, args->weights, n_choices * sizeof *args->weights)}};
    kvf_metal_run(metal, &call);
    kvf_metal_finish(metal);
}

/* ---- Experts: what both forms share -------------------------------------------------------- */

static uint64_t matrix_address(kvf_metal_device *metal, const kvf_matrix *matrix)
{
    return kvf_metal_address(
        kvf_metal_input(metal, matrix->data, dense_bytes(matrix->rows, matrix->cols)));
}

static kvf_expert_block make_block(kvf_metal_device *metal, const kvf_expert_weights *expert)
{
    return (kvf_expert_block){.w1 = matrix_address(metal, &expert->w1),
                              .w3 = matrix_address(metal, &expert->w3),
                              .w2 = matrix_address(metal, &expert->w2)};
}

/* Whether all operands of these n experts, chosen or not, may be loaded four values at once. */
static bool experts_load_vectors(const kvf_experts_args *args, const kvf_expert_weights *experts,
                                 uint32_t n)
{
    bool all = loads_vectors(args->in, args->hidden) && loads_vectors(args->workspace, 4);
    for (uint32_t e = 0; e < n; e++)
        all = all && loads_vectors(experts[e].w1.data, experts[e].w1.cols) &&
              loads_vectors(experts[e].w3.data, experts[e].w3.cols) &&
              loads_vectors(experts[e].w2.data, experts[e].w2.cols);
    return all;
}

static size_t experts_workspace_floats(const kvf_experts_args *args)
{
    const uint32_t widest = args->ffn > args->shared_ffn ? args->ffn : args->shared_ffn;
    return args->n * (2 * (size_t)args->hidden + 2 * (size_t)widest); /* in, gate, up, out */
}

size_t kvf_metal_experts_workspace_bytes(const kvf_device *device, const kvf_experts_args *args)
{
    (void)device;
    return experts_workspace_floats(args) * sizeof(float);
}

/* Where the operation's arrays are; each is asked for once, as one may be a copy. */
struct expert_spans {
    kvf_metal_span in;
    kvf_metal_span weights;
    kvf_metal_span out;
    kvf_metal_span workspace;
};

static struct expert_spans find_expert_spans(kvf_metal_device *metal, const kvf_experts_args *args)
{
    const size_t in_bytes = dense_bytes(args->n, args->hidden);
    return (struct expert_spans){
        .in = kvf_metal_input(metal, args->in, in_bytes),
        .weights = kvf_metal_input(metal, args->weights, dense_bytes(args->n, args->top_k)),
        .out = kvf_metal_output(metal, args->out, in_bytes),
        .workspace = kvf_metal_output(metal, args->workspace,
                                      experts_workspace_floats(args) * sizeof(float))};
}

/* ---- Experts by vectors ---------------------------------------------------------------------- */

/* Runs args' tokens at places first .. first + n_slots, or their shared expert. */
static void run_vectors(kvf_metal_device *metal, const kvf_experts_args *args,
                        const struct expert_spans *spans, const kvf_experts_kernel_args *kernel,
                        kvf_metal_span table)
{
    const kvf_metal_call up = {
        .kernel = KVF_KERNEL_experts_gate_up_vector_f32,
        .groups = {n_pieces(kernel->ffn, KVF_VECTOR_ROWS), kernel->n_slots, args->n},
        .threads = KVF_VECTOR_THREADS,
        .arguments = kernel,
        .argument_bytes = sizeof *kernel,
        .spans = {table, spans->in, spans->workspace},
        .threadgroup_bytes = {KVF_VECTOR_BYTES}};
    kvf_metal_run(metal, &up);
    const kvf_metal_call down = {.kernel = KVF_KERNEL_experts_down_vector_f32,
                                 .groups = {n_pieces(args->hidden, KVF_VECTOR_ROWS), args->n, 1},
                                 .threads = KVF_VECTOR_THREADS,
                                 .arguments = kernel,
                                 .argument_bytes = sizeof *kernel,
                                 .spans = {table, spans->workspace, spans->weights, spans->out},
                                 .threadgroup_bytes = {KVF_VECTOR_BYTES}};
    kvf_metal_run(metal, &down);
}

/* A table of n_slots entries a token: those of its places from first on. */
static kvf_metal_span make_vector_table(kvf_metal_device *metal, const kvf_experts_args *args,
                                        uint32_t first, uint32_t n_slots)
{
    const kvf_metal_span table =
        kvf_metal_temporary(metal, (size_t)args->n * n_slots * sizeof(kvf_expert_block));
    if (kvf_metal_state(&metal->base, NULL) != KVF_OK)
        return table; /* a dummy */
    kvf_expert_block *blocks = kvf_metal_contents(table);
    for (uint32_t t = 0; t < args->n; t++)
        for (uint32_t s = 0; s < n_slots; s++)
            blocks[t * n_slots + s] = make_block(
                metal, &args->routed[args->experts[(size_t)t * args->top_k + first + s]]);
    return table;
}

static void run_experts_by_vectors(kvf_metal_device *metal, const kvf_experts_args *args)
{
    kvf_experts_kernel_args kernel = {
        .hidden = args->hidden,
        .ffn = args->ffn,
        .limit = args->limit,
        .top_k = args->top_k,
        .vectors = experts_load_vectors(args, args->routed, args->n_experts)};
    const struct expert_spans spans = find_expert_spans(metal, args);
    /* As many places as the workspace has room for act: two at least. */
    const size_t room = experts_workspace_floats(args) / ((size_t)args->n * args->ffn);
    const uint32_t most = room < args->top_k ? (uint32_t)room : args->top_k;
    for (uint32_t first = 0; first < args->top_k; first += most) {
        kernel.first = first;
        kernel.n_slots = args->top_k - first < most ? args->top_k - first : most;
        run_vectors(metal, args, &spans, &kernel,
                    make_vector_table(metal, args, first, kernel.n_slots));
        kernel.accumulate = 1;
    }
    if (args->shared_ffn == 0)
        return;
    kvf_expert_block blocks[KVF_TILE_LEAST_TOKENS];
    for (uint32_t t = 0; t < args->n; t++)
        blocks[t] = make_block(metal, &args->shared);
    kernel.ffn = args->shared_ffn;
    kernel.first = 0;
    kernel.n_slots = 1;
    kernel.shared = 1;
    kernel.vectors = experts_load_vectors(args, &args->shared, 1);
    run_vectors(metal, args, &spans, &kernel,
                kvf_metal_upload(metal, blocks, args->n * sizeof *blocks));
}

/* ---- Experts by tiles ------------------------------------------------------------------------ */

/* Choices are pairs of a token and a place; grouped by expert, then in order of token. */
struct grouping {
    uint32_t n_choices;
    uint32_t *first_of; /* [n_experts + 1] first choice of each expert */
    uint32_t *order;    /* [n_choices] token * top_k + place */
    uint32_t *place_of; /* [n][top_k] its inverse */
    kvf_metal_span order_span;
    kvf_metal_span place_span;
};

static void group_by_expert(const kvf_experts_args *args, struct grouping *g)
{
    memset(g->first_of, 0, ((size_t)args->n_experts + 1) * sizeof *g->first_of);
    for (uint32_t i = 0; i < g->n_choices; i++)
        g->first_of[args->experts[i] + 1]++;
    for (uint32_t e = 0; e < args->n_experts; e++)
        g->first_of[e + 1] += g->first_of[e];
    for (uint32_t i = 0; i < g->n_choices; i++) {
        const uint32_t place = g->first_of[args->experts[i]]++;
        g->order[place] = i;
        g->place_of[i] = place;
    }
    /* Each entry has moved on to where the next expert's choices begin: moved back. */
    memmove(g->first_of + 1, g->first_of, args->n_experts * sizeof *g->first_of);
    g->first_of[0] = 0;
}

/* A batch of blocks that is being filled: as many choices as the workspace has room for. */
struct tile_batch {
    const kvf_experts_args *args;
    const struct grouping *grouping;
    struct expert_spans spans;
    kvf_expert_block *blocks; /* the batch's first */
    kvf_metal_span table;     /* the same */
    uint32_t n_blocks;
    uint32_t most_choices;
    kvf_experts_kernel_args kernel;
};

/* So that rows begin at a multiple of 16 bytes after act. */
#define ACT_PADDING 3

static void run_tiles(kvf_metal_device *metal, const struct tile_batch *batch)
{
    const kvf_experts_args *args = batch->args;
    const kvf_experts_kernel_args *kernel = &batch->kernel;
    const struct expert_spans *spans = &batch->spans;
    const size_t n_act = (size_t)kernel->n_choices * kernel->ffn;
    kvf_metal_span rows = spans->workspace;
    rows.offset += dense_bytes(1, (n_act + ACT_PADDING) / 4 * 4);
    kvf_metal_call call = {
        .kernel = KVF_KERNEL_experts_gate_up_tile_f32,
        .groups = {n_pieces(kernel->ffn, KVF_EXPERT_TILE_FFN), batch->n_blocks, 1},
        .threads = KVF_TILE_THREADS,
        .arguments = kernel,
        .argument_bytes = sizeof *kernel,
        .spans = {batch->table, batch->grouping->order_span, spans->in, spans->workspace},
        .threadgroup_bytes = {KVF_TILE_BYTES}};
    kvf_metal_run(metal, &call);

    call.kernel = KVF_KERNEL_experts_down_tile_f32;
    call.groups[0] = n_pieces(args->hidden, KVF_TILE_ROWS);
    call.spans[1] = spans->workspace;
    call.spans[2] = rows;
    call.spans[3] = (kvf_metal_span){0};
    kvf_metal_run(metal, &call);

    const kvf_metal_call combine = {
        .kernel = KVF_KERNEL_experts_combine,
        .groups = {args->n, n_pieces(args->hidden, KVF_ELEMENT_THREADS), 1},
        .threads = KVF_ELEMENT_THREADS,
        .arguments = kernel,
        .argument_bytes = sizeof *kernel,
        .spans = {batch->grouping->place_span, rows, spans->weights, spans->out}};
    kvf_metal_run(metal, &combine);
}

static void flush_tiles(kvf_metal_device *metal, struct tile_batch *batch)
{
    if (batch->n_blocks == 0)
        return;
    run_tiles(metal, batch);
    batch->blocks += batch->n_blocks;
    batch->table.offset += batch->n_blocks * sizeof *batch->blocks;
    batch->n_blocks = 0;
    batch->kernel.first += batch->kernel.n_choices;
    batch->kernel.n_choices = 0;
    batch->kernel.accumulate = 1;
}

/* The next n choices are one expert's. */
static void add_tiles(kvf_metal_device *metal, struct tile_batch *batch,
                      const kvf_expert_weights *expert, uint32_t n)
{
    const kvf_expert_block weights = n ? make_block(metal, expert) : (kvf_expert_block){0};
    while (n > 0) {
        if (batch->kernel.n_choices == batch->most_choices)
            flush_tiles(metal, batch);
        const uint32_t room = batch->most_choices - batch->kernel.n_choices;
        uint32_t taken = n < KVF_TILE_TOKENS ? n : KVF_TILE_TOKENS;
        taken = taken < room ? taken : room;
        kvf_expert_block *block = &batch->blocks[batch->n_blocks++];
        *block = weights;
        block->first = batch->kernel.n_choices;
        block->n = taken;
        batch->kernel.n_choices += taken;
        n -= taken;
    }
}

/* Choices whose act and rows fit into the workspace: at least 2 n, whatever the widths. */
static uint32_t most_tile_choices(const kvf_experts_args *args, uint32_t ffn)
{
    const size_t most = (experts_workspace_floats(args) - ACT_PADDING) / (ffn + args->hidden);
    return most > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)most;
}

/*
 * Blocks at most of n choices in `groups` groups: one for each 32 and the rest of each group,
 * and one more for each batch that cuts one in two.
 */
static size_t most_blocks(uint32_t n, uint32_t groups, uint32_t batch_choices)
{
    return n / KVF_TILE_TOKENS + groups + n_pieces(n, batch_choices);
}

static void run_experts_by_tiles(kvf_metal_device *metal, const kvf_experts_args *args)
{
    struct tile_batch batch = {
        .args = args,
        .spans = find_expert_spans(metal, args),
        .most_choices = most_tile_choices(args, args->ffn),
        .kernel = {.hidden = args->hidden,
                   .ffn = args->ffn,
                   .limit = args->limit,
                   .top_k = args->top_k,
                   .vectors = experts_load_vectors(args, args->routed, args->n_experts)}};
    const uint32_t most_shared = most_tile_choices(args, args->shared_ffn);
    struct grouping g = {.n_choices = args->n * args->top_k};
    const size_t blocks = most_blocks(g.n_choices, args->n_experts, batch.most_choices) +
                          most_blocks(args->n, 1, most_shared);
    const kvf_metal_span counts =
        kvf_metal_temporary(metal, ((size_t)args->n_experts + 1) * sizeof *g.first_of);
    g.order_span = kvf_metal_temporary(metal, g.n_choices * sizeof *g.order);
    g.place_span = kvf_metal_temporary(metal, g.n_choices * sizeof *g.place_of);
    batch.table = kvf_metal_temporary(metal, blocks * sizeof *batch.blocks);
    if (kvf_metal_state(&metal->base, NULL) != KVF_OK)
        return; /* they are dummies */
    g.first_of = kvf_metal_contents(counts);
    g.order = kvf_metal_contents(g.order_span);
    g.place_of = kvf_metal_contents(g.place_span);
    batch.blocks = kvf_metal_contents(batch.table);
    batch.grouping = &g;

    group_by_expert(args, &g);
    for (uint32_t e = 0; e < args->n_experts; e++)
        add_tiles(metal, &batch, &args->routed[e], g.first_of[e + 1] - g.first_of[e]);
    flush_tiles(metal, &batch);
    if (args->shared_ffn == 0)
        return;
    batch.most_choices = most_shared;
    batch.kernel.ffn = args->shared_ffn;
    batch.kernel.first = 0;
    batch.kernel.top_k = 1;
    batch.kernel.shared = 1;
    batch.kernel.vectors = experts_load_vectors(args, &args->shared, 1);
    add_tiles(metal, &batch, &args->shared, args->n);
    flush_tiles(metal, &batch);
}

/*
 * Reads args->experts on the host: the operation before has ended. Only the tables are made
 * here; the weights are addressed where they are.
 */
void kvf_metal_experts(kvf_device *device, const kvf_experts_args *args)
{
    kvf_metal_device *metal = kvf_metal_of(device);
    if (args->n == 0)
        return;
    if (args->n < KVF_TILE_LEAST_TOKENS)
        run_experts_by_vectors(metal, args);
    else
        run_experts_by_tiles(metal, args);
    kvf_metal_finish(metal);
}
