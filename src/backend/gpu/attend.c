/*
 * attend on the GPU: how the work is cut, and where lists and partial results lie.
 *
 * Every form of the rows becomes an ascending list without holes, or the first rows of all,
 * before the kernel sees it. What the cuts depend on is the number of queries and heads
 * alone, and on the GPU the number of places attended: the same in all profiles, so that
 * all have the same bits. Upper bounds, which differ, only decide how much is allocated.
 */
#include "backend/gpu/gpu.h"

static_assert(KVF_ATTEND_STRIDE % 4 == 0 && KVF_ROW_WIDTH == 512, "attend.metal's 512");

/* Lists of a batch of queries: those of one query with more are taken alone. */
#define LIST_BYTES (32u << 20)
#define MOST_GROUPS (1u << 24) /* of a dispatch */

struct attend_cut {
    uint32_t n_blocks; /* of KVF_ATTEND_HEADS heads */
    uint32_t n_splits;
    uint32_t n_parts;
    uint32_t batch_queries;
    bool has_rows;
    uint64_t list_stride; /* 0: no lists */
};

static bool has_mask(const kvf_attend_args *args)
{
    return args->mask_f32 || args->mask_f16;
}

/* No query has more rows after its window: how many each has, the device knows. */
static uint64_t most_rows(const kvf_attend_args *args)
{
    if (args->rows.n_rows == 0)
        return 0;
    return args->list ? args->list_stride : args->rows.n_rows;
}

static uint64_t clamp(uint64_t value, uint64_t least, uint64_t most)
{
    return value < least ? least : value > most ? most : value;
}

static struct attend_cut make_cut(const kvf_attend_args *args)
{
    const uint64_t rows = most_rows(args);
    const uint64_t places = args->window_tokens + rows;
    struct attend_cut cut = {.n_blocks = (args->n_heads + KVF_ATTEND_HEADS - 1) / KVF_ATTEND_HEADS,
                             .has_rows = rows > 0,
                             .list_stride = args->list || has_mask(args) ? rows : 0};
    const uint64_t n_groups = (uint64_t)args->n_queries * cut.n_blocks;
    cut.n_splits = (uint32_t)clamp(KVF_ATTEND_GROUPS / n_groups, 1, KVF_ATTEND_MAX_SPLITS);
    const uint64_t shortest = (places + KVF_ATTEND_LEAST_PLACES - 1) / KVF_ATTEND_LEAST_PLACES;
    cut.n_parts = (uint32_t)clamp(shortest, 1, cut.n_splits);
    const uint64_t most = clamp(MOST_GROUPS / cut.n_blocks, 1, args->n_queries);
    const uint64_t fit = cut.list_stride ? LIST_BYTES / sizeof(int32_t) / cut.list_stride : most;
    cut.batch_queries = (uint32_t)clamp(fit, 1, most);
    return cut;
}

/* Arrays that only this call has; the next batch of queries uses them again. */
static void set_scratch(kvf_gpu_device *gpu, const kvf_attend_args *args,
                        const struct attend_cut *cut, kvf_attend_kernel_args *k)
{
    const size_t n_heads =
        cut->n_splits > 1 ? (size_t)cut->batch_queries * cut->n_parts * args->n_heads : 0;
    const size_t sums_bytes = n_heads * KVF_ROW_WIDTH * sizeof(float);
    const size_t softmax_bytes = n_heads * 2 * sizeof(float);
    const size_t list_bytes = cut->batch_queries * (size_t)cut->list_stride * sizeof(int32_t);
    const size_t count_bytes = cut->batch_queries * sizeof(uint32_t);
    k->partial_sums = kvf_gpu_scratch(gpu, sums_bytes + softmax_bytes + list_bytes + count_bytes);
    k->partial_softmax = k->partial_sums + sums_bytes;
    k->lists = k->partial_softmax + softmax_bytes;
    k->counts = k->lists + list_bytes;
}

/* Queries k->first_query .. + n. */
static void run_batch(kvf_gpu_device *gpu, const kvf_attend_args *args,
                      const struct attend_cut *cut, const kvf_attend_kernel_args *all, uint32_t n)
{
    kvf_attend_kernel_args k = *all;
    const kvf_gpu_lists lists = {k.lists, k.counts, k.list_stride};
    if (k.has_list)
        kvf_gpu_compact(gpu, args, k.first_query, n, &lists);
    else if (k.has_rows && !k.ratio)
        k.counts = kvf_gpu_at(gpu, args->n_visible + k.first_query);
    kvf_gpu_run(
        gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_attend,
                             .groups = {n * cut->n_blocks, cut->n_parts, 1},
                             .threads = KVF_ATTEND_THREADS,
                             KVF_GPU_ARGUMENTS(k),
                             .threadgroup_bytes = {KVF_ATTEND_ROWS_BYTES, KVF_ATTEND_WORK_BYTES}});
    if (cut->n_splits > 1)
        kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_attend_merge,
                                         .groups = {n, args->n_heads, 1},
                                         .threads = KVF_ATTEND_MERGE_THREADS,
                                         KVF_GPU_ARGUMENTS(k)});
}

static kvf_attend_kernel_args make_arguments(kvf_gpu_device *gpu, const kvf_attend_args *args,
                                             const struct attend_cut *cut)
{
    const kvf_rows nothing = {.format = KVF_FORMAT_F32, .width = KVF_ROW_WIDTH};
    const bool has_window = args->window_tokens > 0;
    return (kvf_attend_kernel_args){
        .q = kvf_gpu_at(gpu, args->q),
        .sinks = kvf_gpu_at(gpu, args->sinks),
        .out = kvf_gpu_at(gpu, args->out),
        .lse = kvf_gpu_at(gpu, args->lse),
        .window = kvf_gpu_rows(gpu, has_window ? &args->window : &nothing),
        .rows = kvf_gpu_rows(gpu, cut->has_rows ? &args->rows : &nothing),
        .first_token = args->first_token,
        .first_row = has_window ? args->first_token - args->window_first : 0,
        .list_stride = cut->list_stride,
        .n_heads = args->n_heads,
        .window_tokens = args->window_tokens,
        .has_rows = cut->has_rows,
        .has_list = cut->list_stride > 0,
        .ratio = args->ratio,
        .n_splits = cut->n_splits,
        .n_parts = cut->n_parts,
        .scale = args->scale};
}

void kvf_gpu_attend(kvf_device *device, const kvf_attend_args *args)
{
    if (args->n_queries == 0)
        return;
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const struct attend_cut cut = make_cut(args);
    kvf_attend_kernel_args k = make_arguments(gpu, args, &cut);
    set_scratch(gpu, args, &cut, &k);
    for (uint32_t i = 0; i < args->n_queries; i += cut.batch_queries) {
        const uint32_t left = args->n_queries - i;
        k.first_query = i;
        run_batch(gpu, args, &cut, &k, left < cut.batch_queries ? left : cut.batch_queries);
    }
}

/* Nothing of the caller: what a call needs depends on the lists' form and lasts as long. */
size_t kvf_gpu_attend_workspace_bytes(uint32_t n_threads, const kvf_attend_args *args)
{
    (void)n_threads;
    (void)args;
    return 0;
}
