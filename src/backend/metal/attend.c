/*
 * attend on the GPU: how the work is cut, and where lists and partial results lie.
 *
 * Every form of the rows becomes an ascending list without holes, or the first rows of all,
 * before the kernel sees it. What the cuts depend on is the number of queries and heads
 * alone, and on the GPU the number of places attended: the same in all profiles, so that
 * all have the same bits. Upper bounds, which differ, only decide how much is allocated.
 */
#include "backend/metal/metal.h"
#include "shared/visible.h"

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

/* No query has more rows after its window. */
static uint64_t most_rows(const kvf_attend_args *args)
{
    uint64_t most = 0;
    if (args->rows.n_rows == 0)
        return 0;
    if (args->list)
        return args->list_stride;
    for (uint32_t i = 0; i < args->n_queries; i++)
        if (kvf_attend_visible(args, i) > most)
            most = kvf_attend_visible(args, i);
    return most;
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

/* Memory of a batch; the next one uses it again. */
struct attend_spans {
    kvf_metal_span q;
    kvf_metal_span sinks;
    kvf_metal_span visible;
    kvf_metal_span out;
    kvf_metal_span lse;
    kvf_metal_lists lists;
    kvf_metal_span partial_sums;
    kvf_metal_span partial_softmax;
};

/* The first `bytes` of what is left of a span. */
static kvf_metal_span take(kvf_metal_span *left, size_t bytes)
{
    const kvf_metal_span taken = *left;
    left->offset += bytes;
    return taken;
}

/* Arrays that only this call has, in one piece: the next call will ask for about as much. */
static void make_temporaries(kvf_metal_device *metal, const kvf_attend_args *args,
                             const struct attend_cut *cut, struct attend_spans *spans)
{
    const size_t n_heads =
        cut->n_splits > 1 ? (size_t)cut->batch_queries * cut->n_parts * args->n_heads : 0;
    const size_t sums_bytes = n_heads * KVF_ROW_WIDTH * sizeof(float);
    const size_t softmax_bytes = n_heads * 2 * sizeof(float);
    const size_t list_bytes = cut->batch_queries * (size_t)cut->list_stride * sizeof(int32_t);
    const size_t count_bytes = cut->batch_queries * sizeof(uint32_t);
    kvf_metal_span left =
        kvf_metal_temporary(metal, sums_bytes + softmax_bytes + list_bytes + count_bytes);
    if (kvf_metal_state(&metal->base, NULL) != KVF_OK)
        return; /* spans that nothing will be run with */
    spans->partial_sums = take(&left, sums_bytes);
    spans->partial_softmax = take(&left, softmax_bytes);
    spans->lists.rows = take(&left, list_bytes);
    spans->lists.counts = take(&left, count_bytes);
    spans->lists.stride = cut->list_stride;
}

/* Queries kernel->first_query .. + n. */
static void run_batch(kvf_metal_device *metal, const kvf_attend_args *args,
                      const struct attend_cut *cut, const struct attend_spans *spans,
                      const kvf_attend_kernel_args *kernel, uint32_t n)
{
    kvf_metal_span counts = spans->lists.counts;
    if (kernel->has_list)
        kvf_metal_compact(metal, args, kernel->first_query, n, &spans->lists);
    else if (kernel->has_rows) {
        counts = spans->visible;
        counts.offset += kernel->first_query * sizeof(uint32_t);
    }
    const kvf_metal_call attend = {
        .kernel = KVF_KERNEL_attend,
        .groups = {n * cut->n_blocks, cut->n_parts, 1},
        .threads = KVF_ATTEND_THREADS,
        .arguments = kernel,
        .argument_bytes = sizeof *kernel,
        .spans = {spans->q, spans->sinks, spans->lists.rows, counts, spans->out, spans->lse,
                  spans->partial_sums, spans->partial_softmax},
        .threadgroup_bytes = {KVF_ATTEND_ROWS_BYTES, KVF_ATTEND_WORK_BYTES}};
    kvf_metal_run(metal, &attend);
    if (cut->n_splits == 1)
        return;
    const kvf_metal_call merge = {.kernel = KVF_KERNEL_attend_merge,
                                  .groups = {args->n_heads, n, 1},
                                  .threads = KVF_ATTEND_MERGE_THREADS,
                                  .arguments = kernel,
                                  .argument_bytes = sizeof *kernel,
                                  .spans = {spans->sinks, counts, spans->partial_sums,
                                            spans->partial_softmax, spans->out, spans->lse}};
    kvf_metal_run(metal, &merge);
}

static kvf_attend_kernel_args make_arguments(kvf_metal_device *metal, const kvf_attend_args *args,
                                             const struct attend_cut *cut)
{
    const kvf_rows nothing = {.format = KVF_FORMAT_F32, .width = KVF_ROW_WIDTH};
    const bool has_window = args->window_tokens > 0;
    return (kvf_attend_kernel_args){
        .window = kvf_metal_input_rows(metal, has_window ? &args->window : &nothing),
        .rows = kvf_metal_input_rows(metal, cut->has_rows ? &args->rows : &nothing),
        .first_token = args->first_token,
        .first_row = has_window ? args->first_token - args->window_first : 0,
        .list_stride = cut->list_stride,
        .n_heads = args->n_heads,
        .window_tokens = args->window_tokens,
        .has_rows = cut->has_rows,
        .has_list = cut->list_stride > 0,
        .has_sinks = args->sinks != NULL,
        .has_lse = args->lse != NULL,
        .n_splits = cut->n_splits,
        .n_parts = cut->n_parts,
        .scale = args->scale};
}

void kvf_metal_attend(kvf_device *device, const kvf_attend_args *args)
{
    if (args->n_queries == 0)
        return;
    kvf_metal_device *metal = kvf_metal_of(device);
    const struct attend_cut cut = make_cut(args);
    const size_t n_heads = (size_t)args->n_queries * args->n_heads;
    const size_t value_bytes = n_heads * KVF_ROW_WIDTH * sizeof(float);
    kvf_attend_kernel_args kernel = make_arguments(metal, args, &cut);
    struct attend_spans spans = {
        .q = kvf_metal_input(metal, args->q, value_bytes),
        .sinks = kvf_metal_input(metal, args->sinks, args->n_heads * sizeof(float)),
        .visible = kernel.has_list || !kernel.has_rows
                       ? kvf_metal_input(metal, NULL, 0)
                       : kvf_metal_visible(metal, args->n_visible, args->first_token, args->ratio,
                                           args->n_queries),
        .out = kvf_metal_output(metal, args->out, value_bytes),
        .lse = kvf_metal_output(metal, args->lse, n_heads * sizeof(float))};
    make_temporaries(metal, args, &cut, &spans);
    for (uint32_t i = 0; i < args->n_queries; i += cut.batch_queries) {
        const uint32_t left = args->n_queries - i;
        kernel.first_query = i;
        run_batch(metal, args, &cut, &spans, &kernel,
                  left < cut.batch_queries ? left : cut.batch_queries);
    }
    kvf_metal_finish(metal);
}

/* Nothing of the caller: what a call needs depends on the lists' form and lasts as long. */
size_t kvf_metal_attend_workspace_bytes(uint32_t n_threads, const kvf_attend_args *args)
{
    (void)n_threads;
    (void)args;
    return 0;
}
