/*
 * The dense layers on the GPU. Which form of a product is used depends on shapes only: equal
 * input gives equal bits.
 */
#include "backend/gpu/gpu.h"

#include "backend/gpu/dense.h"

static_assert(KVF_MIX_MAX_STREAMS == KVF_MAX_STREAMS, "threadgroup memory of mix.metal");
static_assert(KVF_ROPE_PAIRS_A_HEAD == KVF_ROPE_WIDTH / 2, "dense.h is Metal too");

/* ---- Products -------------------------------------------------------------------- */

kvf_kernel_matrix kvf_gpu_matrix(kvf_gpu_device *gpu, const kvf_matrix *matrix)
{
    return (kvf_kernel_matrix){.data = kvf_gpu_at(gpu, matrix->data),
                               .scales = kvf_gpu_at(gpu, matrix->scales),
                               .row_bytes = matrix->row_bytes,
                               .scale_stride = matrix->scale_stride,
                               .type = matrix->type};
}

void kvf_gpu_matmul(kvf_device *device, const kvf_matmul_args *args)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const uint32_t parts = args->groups ? args->groups : 1;
    const kvf_matmul_kernel_args k = {.weight = kvf_gpu_matrix(gpu, &args->weight),
                                      .in = kvf_gpu_at(gpu, args->in),
                                      .out = kvf_gpu_at(gpu, args->out),
                                      .in_stride = args->in_stride,
                                      .out_stride = args->out_stride,
                                      .n = args->n,
                                      .rows = args->weight.rows / parts,
                                      .cols = args->weight.cols,
                                      .old_weight = kvf_gpu_is_old(gpu, args->weight.data) &&
                                                    kvf_gpu_is_old(gpu, args->weight.scales)};
    const kvf_gpu_variant variant = kvf_gpu_variant_of(args->weight.type);
    kvf_gpu_kernel kernel = KVF_KERNEL_matmul_tile;
    kvf_gpu_shape shape = {KVF_TILE_TOKENS, KVF_TILE_ROWS, KVF_TILE_THREADS, KVF_TILE_BYTES};
    if (args->n < KVF_TILE_LEAST_TOKENS) {
        kernel = args->n == 1 ? KVF_KERNEL_matmul_one : KVF_KERNEL_matmul_few;
        shape = (kvf_gpu_shape){args->n == 1 ? 1 : KVF_VECTOR_MANY_TOKENS, KVF_VECTOR_ROWS,
                                KVF_VECTOR_THREADS, KVF_VECTOR_BYTES};
    }
    shape = kvf_gpu_shape_of(gpu, kernel, variant, shape);
    const kvf_gpu_call call = {
        .kernel = kernel,
        .variant = variant,
        .groups = {kvf_gpu_pieces(k.n, shape.tokens), kvf_gpu_pieces(k.rows, shape.rows), parts},
        .threads = shape.threads,
        KVF_GPU_ARGUMENTS(k),
        .threadgroup_bytes = {shape.threadgroup_bytes}};
    kvf_gpu_run(gpu, &call);
}

/* ---- Layers that work value by value ------------------------------------------------ */

void kvf_gpu_embed(kvf_device *device, const kvf_embed_args *args)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const kvf_embed_kernel_args k = {.table = kvf_gpu_matrix(gpu, &args->table),
                                     .tokens = kvf_gpu_at(gpu, args->tokens),
                                     .streams = kvf_gpu_at(gpu, args->streams),
                                     .hidden = args->table.cols,
                                     .n_streams = args->n_streams};
    kvf_gpu_run(gpu, &(kvf_gpu_call){
                         .kernel = KVF_KERNEL_embed,
                         .variant = kvf_gpu_variant_of(args->table.type),
                         .groups = {args->n, kvf_gpu_pieces(k.hidden, 4 * KVF_ELEMENT_THREADS), 1},
                         .threads = KVF_ELEMENT_THREADS,
                         KVF_GPU_ARGUMENTS(k)});
}

void kvf_gpu_norm(kvf_device *device, const kvf_norm_args *args)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const kvf_norm_kernel_args k = {.in = kvf_gpu_at(gpu, args->in),
                                    .out = kvf_gpu_at(gpu, args->out),
                                    .weight = kvf_gpu_at(gpu, args->weight),
                                    .n = args->n,
                                    .in_stride = args->in_stride,
                                    .out_stride = args->out_stride,
                                    .width = args->width,
                                    .eps = args->eps};
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_norm,
                                     .groups = {kvf_gpu_pieces(k.n, KVF_NORM_ROWS), 1, 1},
                                     .threads = KVF_ELEMENT_THREADS,
                                     KVF_GPU_ARGUMENTS(k)});
}

void kvf_gpu_rope(kvf_device *device, const kvf_rope_args *args)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const uint64_t n_pairs = (uint64_t)args->n * args->heads * KVF_ROPE_PAIRS_A_HEAD;
    const kvf_rope_kernel_args k = {.values = kvf_gpu_at(gpu, args->values),
                                    .cosines = kvf_gpu_at(gpu, args->table.cosines),
                                    .sines = kvf_gpu_at(gpu, args->table.sines),
                                    .n = args->n,
                                    .heads = args->heads,
                                    .width = args->width,
                                    .inverse = args->inverse};
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_rope,
                                     .groups = {kvf_gpu_pieces(n_pairs, KVF_ELEMENT_THREADS), 1, 1},
                                     .threads = KVF_ELEMENT_THREADS,
                                     KVF_GPU_ARGUMENTS(k)});
}

/* ---- Hyper-connections --------------------------------------------------------------- */

/* Threads of mix for one token: about 16 values each, of all streams. */
static uint32_t n_mix_threads(uint32_t n_flat)
{
    const uint32_t threads = kvf_gpu_pieces(n_flat / 16, KVF_SIMD_WIDTH) * KVF_SIMD_WIDTH;
    if (threads < KVF_MIX_LEAST_THREADS)
        return KVF_MIX_LEAST_THREADS;
    return threads < KVF_MIX_MOST_THREADS ? threads : KVF_MIX_MOST_THREADS;
}

void kvf_gpu_mix(kvf_device *device, const kvf_mix_args *args)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const uint32_t n = args->n_streams;
    const bool head = args->sinkhorn_rounds == 0;
    const uint32_t n_flat = n * args->hidden;
    const kvf_matmul_args product = {.n = args->n,
                                     .weight = args->weights.fn,
                                     .in = args->streams,
                                     .in_stride = n_flat,
                                     .out = args->mix,
                                     .out_stride = head ? n : n * (2 + n)};
    kvf_gpu_matmul(device, &product);
    const kvf_mix_kernel_args k = {.mix = kvf_gpu_at(gpu, args->mix),
                                   .streams = kvf_gpu_at(gpu, args->streams),
                                   .base = kvf_gpu_at(gpu, args->weights.base),
                                   .scale = kvf_gpu_at(gpu, args->weights.scale),
                                   .out = kvf_gpu_at(gpu, args->out),
                                   .post = head ? 0 : kvf_gpu_at(gpu, args->post),
                                   .comb = head ? 0 : kvf_gpu_at(gpu, args->comb),
                                   .hidden = args->hidden,
                                   .n_streams = n,
                                   .sinkhorn_rounds = args->sinkhorn_rounds,
                                   .norm_eps = args->norm_eps,
                                   .eps = args->eps};
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_mix,
                                     .groups = {args->n, 1, 1},
                                     .threads = n_mix_threads(n_flat),
                                     KVF_GPU_ARGUMENTS(k),
                                     .threadgroup_bytes = {KVF_MIX_BYTES}});
}

void kvf_gpu_unmix(kvf_device *device, const kvf_unmix_args *args)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const kvf_unmix_kernel_args k = {.sublayer = kvf_gpu_at(gpu, args->sublayer),
                                     .post = kvf_gpu_at(gpu, args->post),
                                     .comb = kvf_gpu_at(gpu, args->comb),
                                     .streams = kvf_gpu_at(gpu, args->streams),
                                     .hidden = args->hidden,
                                     .n_streams = args->n_streams};
    kvf_gpu_run(gpu, &(kvf_gpu_call){
                         .kernel = KVF_KERNEL_unmix,
                         .groups = {args->n, kvf_gpu_pieces(args->hidden, KVF_ELEMENT_THREADS), 1},
                         .threads = KVF_ELEMENT_THREADS,
                         KVF_GPU_ARGUMENTS(k)});
}

/* ---- Routing --------------------------------------------------------------------------- */

void kvf_gpu_route(kvf_device *device, const kvf_route_args *args)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const kvf_route_kernel_args k = {.logits = kvf_gpu_at(gpu, args->logits),
                                     .bias = kvf_gpu_at(gpu, args->bias),
                                     .token_map = kvf_gpu_at(gpu, args->token_map),
                                     .tokens = args->token_map ? kvf_gpu_at(gpu, args->tokens) : 0,
                                     .experts = kvf_gpu_at(gpu, args->experts),
                                     .weights = kvf_gpu_at(gpu, args->weights),
                                     .n_experts = args->n_experts,
                                     .top_k = args->top_k,
                                     .normalise = args->normalise,
                                     .scaling = args->scaling};
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_route,
                                     .groups = {args->n, 1, 1},
                                     .threads = KVF_SIMD_WIDTH,
                                     KVF_GPU_ARGUMENTS(k)});
}
