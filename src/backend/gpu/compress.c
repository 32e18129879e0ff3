/*
 * compress on the GPU: the chunk's input is checked, its rows are made as f32, checked, and
 * stored by the kernels of pack, then its tokens go into the state. The kernels that store
 * look whether a check before them found anything.
 */
#include "backend/gpu/gpu.h"

static_assert(2 * KVF_ROPE_PAIRS == KVF_ROPE_WIDTH, "kernels.h is Metal too");
static_assert(KVF_COMPRESS_MAX_THREADS >= KVF_ROW_WIDTH, "a thread a dimension");

static kvf_compress_kernel_args kernel_args(kvf_gpu_device *gpu, const kvf_compress_args *args)
{
    const uint32_t parts = args->overlap ? 2 : 1;
    const uint32_t n_slots = parts * args->ratio;
    return (kvf_compress_kernel_args){
        .kv = kvf_gpu_at(gpu, args->input.kv),
        .gate = kvf_gpu_at(gpu, args->input.gate),
        .found = gpu->found.gpu_address,
        .bias = kvf_gpu_at(gpu, args->input.position_bias),
        .state = kvf_gpu_at(gpu, args->state),
        .weight = kvf_gpu_at(gpu, args->input.norm_weight),
        .cosines = kvf_gpu_at(gpu, args->rope.cosines),
        .sines = kvf_gpu_at(gpu, args->rope.sines),
        .width = args->width,
        .ratio = args->ratio,
        .overlap = args->overlap,
        .columns = parts * args->width,
        .n_slots = n_slots,
        .first_slot = (uint32_t)(args->first_token % n_slots),
        .phase = (uint32_t)(args->first_token % args->ratio),
        .at_start =
            args->first_token<args->ratio, .first_kept = args->n> n_slots ? args->n - n_slots : 0,
        .norm_eps = args->input.norm_eps};
}

/* compress_check or compress_keep. */
static void run_on_tokens(kvf_gpu_device *gpu, kvf_gpu_kernel kernel,
                          const kvf_compress_kernel_args *k, uint32_t n_tokens)
{
    kvf_gpu_run(gpu, &(kvf_gpu_call){
                         .kernel = kernel,
                         .groups = {n_tokens, kvf_gpu_pieces(k->columns, KVF_ELEMENTS_THREADS), 1},
                         .threads = KVF_ELEMENTS_THREADS,
                         KVF_GPU_ARGUMENTS(*k)});
}

/* The rows that the chunk completes: made as f32 before Hadamard and grid, then packed. */
static void run_rows(kvf_gpu_device *gpu, const kvf_compress_args *args,
                     const kvf_compress_kernel_args *k, uint32_t n_rows, uint64_t words)
{
    kvf_pack_kernel_args pack = {.rows = k->rows,
                                 .words = words,
                                 .stride = args->width,
                                 .n_rows = n_rows,
                                 .width = args->width,
                                 .grid = args->grid,
                                 .hadamard = args->hadamard};
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_compress_make,
                                     .groups = {n_rows, 1, 1},
                                     .threads = args->width,
                                     KVF_GPU_ARGUMENTS(*k),
                                     .threadgroup_bytes = {args->width * sizeof(float)}});
    kvf_gpu_run_pack(gpu, &args->out, args->first_token / args->ratio, &pack);
}

void kvf_gpu_compress(kvf_device *device, const kvf_compress_args *args, kvf_findings found)
{
    if (args->n == 0)
        return;
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const uint64_t first_row = args->first_token / args->ratio;
    const uint32_t n_rows = (uint32_t)((args->first_token + args->n) / args->ratio - first_row);
    const size_t rows_bytes = (size_t)n_rows * args->width * sizeof(float);
    kvf_compress_kernel_args k = kernel_args(gpu, args);
    k.rows = kvf_gpu_scratch(gpu, rows_bytes + n_rows * sizeof(uint32_t));
    kvf_report_kernel_args report = {.words = k.rows + rows_bytes,
                                     .kv = k.kv,
                                     .gate = k.gate,
                                     .columns = k.columns,
                                     .made = true};
    run_on_tokens(gpu, KVF_KERNEL_compress_check, &k, args->n);
    if (n_rows)
        run_rows(gpu, args, &k, n_rows, report.words);
    run_on_tokens(gpu, KVF_KERNEL_compress_keep, &k, args->n - k.first_kept);
    kvf_gpu_run_report(gpu, found, &report);
}
