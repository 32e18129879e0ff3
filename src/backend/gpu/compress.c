/*
 * compress on the GPU: the chunk's input is checked, its rows are made as f32, checked, and
 * stored by the kernels of pack, then its tokens go into the state. The kernels that store
 * look whether a check before them found anything in their session.
 */
#include "backend/gpu/gpu.h"

static_assert(2 * KVF_ROPE_PAIRS == KVF_ROPE_WIDTH, "kernels.h is Metal too");
static_assert(KVF_COMPRESS_MAX_THREADS >= KVF_ROW_WIDTH, "a thread a dimension");

static uint32_t n_slots_of(const kvf_compress_args *args)
{
    return (args->overlap ? 2 : 1) * args->ratio;
}

/* Rows that the chunk completes. */
static uint32_t n_made(const kvf_compress_args *args)
{
    return (uint32_t)((args->first_token + args->n) / args->ratio -
                      args->first_token / args->ratio);
}

/* Tokens that the ring still has after the chunk. */
static uint32_t n_kept(const kvf_compress_args *args)
{
    return args->n < n_slots_of(args) ? args->n : n_slots_of(args);
}

/* Elements of spans: so many in all, or before one. */
typedef struct counts {
    uint32_t tokens;
    uint32_t made;
    uint32_t kept;
} counts;

static counts add(counts before, const kvf_compress_args *args)
{
    return (counts){before.tokens + args->n, before.made + n_made(args),
                    before.kept + n_kept(args)};
}

static kvf_compress_span make_span(kvf_gpu_device *gpu, const kvf_compress_args *args,
                                   counts before)
{
    return (kvf_compress_span){.kv = kvf_gpu_at(gpu, args->input.kv),
                               .gate = kvf_gpu_at(gpu, args->input.gate),
                               .state = kvf_gpu_at(gpu, args->state),
                               .cosines = kvf_gpu_at(gpu, args->rope.cosines),
                               .sines = kvf_gpu_at(gpu, args->rope.sines),
                               .first = before.tokens,
                               .first_made = before.made,
                               .first_kept = before.kept,
                               .kept_from = args->n - n_kept(args),
                               .first_slot = (uint32_t)(args->first_token % n_slots_of(args)),
                               .phase = (uint32_t)(args->first_token % args->ratio),
                               .at_start = args->first_token < args->ratio};
}

/* What a dispatch of compress's kernels and one of pack's on the rows it makes have in common. */
typedef struct kernel_args {
    kvf_compress_kernel_args compress;
    kvf_row_kernel_args rows;
} kernel_args;

static kernel_args make_arguments(kvf_gpu_device *gpu, const kvf_compress_args *args, counts all)
{
    const uint32_t columns = (args->overlap ? 2 : 1) * args->width;
    return (kernel_args){.compress = {.bias = kvf_gpu_at(gpu, args->input.position_bias),
                                      .weight = kvf_gpu_at(gpu, args->input.norm_weight),
                                      .width = args->width,
                                      .ratio = args->ratio,
                                      .overlap = args->overlap,
                                      .columns = columns,
                                      .n_slots = n_slots_of(args),
                                      .norm_eps = args->input.norm_eps},
                         .rows = {.stride = args->width,
                                  .n_rows = all.made,
                                  .width = args->width,
                                  .grid = args->grid,
                                  .hadamard = args->hadamard,
                                  .columns = columns,
                                  .made = true}};
}

/* Rows as f32 before Hadamard and grid, words of the rows, and both tables. */
static bool set_scratch(kvf_gpu_device *gpu, uint32_t n, counts all, kernel_args *k,
                        kvf_gpu_table *table)
{
    const size_t rows_bytes = (size_t)all.made * k->rows.width * sizeof(float);
    const size_t words_bytes = ((size_t)all.made * sizeof(uint32_t) + 15) / 16 * 16;
    const size_t table_bytes = kvf_gpu_spans_bytes(n, sizeof(kvf_compress_span), 3) +
                               kvf_gpu_spans_bytes(n, sizeof(kvf_row_span), 1);
    k->compress.found = k->rows.found = kvf_gpu_found(gpu, n);
    k->compress.rows = kvf_gpu_scratch(gpu, rows_bytes + words_bytes + table_bytes);
    k->rows.words = k->compress.rows + rows_bytes;
    return kvf_gpu_begin_table(gpu, k->rows.words + words_bytes, table_bytes, table);
}

static void send_spans(kvf_gpu_device *gpu, const kvf_compress_args *args,
                       const kvf_findings *found, uint32_t n, kvf_gpu_table *table, kernel_args *k)
{
    uint32_t *firsts;
    uint32_t *first_rows;
    kvf_compress_span *spans =
        kvf_gpu_add_spans(table, n, sizeof *spans, 3, &k->compress.spans, &firsts);
    kvf_row_span *rows = kvf_gpu_add_spans(table, n, sizeof *rows, 1, &k->rows.spans, &first_rows);
    counts before = {0};
    for (uint32_t i = 0; i < n; i++) {
        spans[i] = make_span(gpu, &args[i], before);
        firsts[i] = before.tokens;
        firsts[n + i] = before.made;
        firsts[2 * n + i] = before.kept;
        rows[i] =
            kvf_gpu_row_span(gpu, &args[i].out, args[i].first_token / args[i].ratio, found[i]);
        rows[i].rows = k->compress.rows + (uint64_t)before.made * args->width * sizeof(float);
        rows[i].kv = spans[i].kv;
        rows[i].gate = spans[i].gate;
        first_rows[i] = rows[i].first = before.made;
        before = add(before, &args[i]);
    }
    k->compress.one = spans[0];
    k->rows.one = rows[0];
    kvf_gpu_send_table(gpu, table);
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

void kvf_gpu_compress(kvf_device *device, const kvf_compress_args *args, const kvf_findings *found,
                      uint32_t n)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    counts all = {0};
    for (uint32_t i = 0; i < n; i++)
        all = add(all, &args[i]);
    if (all.tokens == 0)
        return;
    kernel_args k = make_arguments(gpu, args, all);
    kvf_gpu_table table;
    if (!set_scratch(gpu, n, all, &k, &table))
        return;
    send_spans(gpu, args, found, n, &table, &k);
    run_on_tokens(gpu, KVF_KERNEL_compress_check, &k.compress, all.tokens);
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_compress_make,
                                     .groups = {all.made, 1, 1},
                                     .threads = args->width,
                                     KVF_GPU_ARGUMENTS(k.compress),
                                     .threadgroup_bytes = {args->width * sizeof(float)}});
    kvf_gpu_run_pack(gpu, &k.rows);
    run_on_tokens(gpu, KVF_KERNEL_compress_keep, &k.compress, all.kept);
    kvf_gpu_run_report(gpu, &k.rows);
}
