/*
 * attend on the GPU: how the work is cut, and where lists and partial results lie.
 *
 * Every form of the rows becomes an ascending list without holes, or the first rows of all,
 * before the kernel sees it. A query's places are cut into splits by their number alone, on the
 * GPU. Whether the splits of a query are threadgroups of their own, whose results are merged, or
 * one threadgroup walks them all, is decided here, by how many there are in the dispatch: the
 * bits are the same.
 */
#include "backend/gpu/gpu.h"

static_assert(KVF_ATTEND_STRIDE % 4 == 0 && KVF_ROW_WIDTH == 512, "attend.metal's 512");

/* Lists of a dispatch: those of one query with more are taken alone. */
#define LIST_BYTES (32u << 20)
/* Partial results of a dispatch: with more, writing and reading them takes longer than walking. */
#define PARTIAL_BYTES (64u << 20)
#define MOST_GROUPS (1u << 24) /* of a dispatch */

struct attend_cut {
    uint32_t n_queries;       /* of all spans */
    uint32_t n_blocks;        /* of KVF_ATTEND_HEADS heads */
    uint32_t n_parts;         /* splits of a query at most */
    uint32_t batch_queries;   /* of a dispatch */
    bool whole;               /* a threadgroup walks all splits */
    uint64_t list_stride;     /* 0: no lists */
    size_t partial_sum_bytes; /* 0: whole */
    size_t partial_softmax_bytes;
    size_t list_bytes;
};

static uint32_t kind_of(const kvf_attend_args *args)
{
    return args->list       ? KVF_ATTEND_LIST
           : args->mask_f32 ? KVF_ATTEND_MASK_F32
           : args->mask_f16 ? KVF_ATTEND_MASK_F16
                            : KVF_ATTEND_FIRST_ROWS;
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

static size_t round_up(size_t bytes)
{
    return (bytes + 15) / 16 * 16;
}

static void set_partials(struct attend_cut *cut, uint32_t n_heads)
{
    const size_t n = (size_t)cut->batch_queries * cut->n_parts * n_heads;
    const size_t sum_bytes = n * KVF_ROW_WIDTH * sizeof(float);
    cut->whole = cut->n_parts == 1 || sum_bytes > PARTIAL_BYTES ||
                 (uint64_t)cut->batch_queries * cut->n_blocks >= KVF_ATTEND_GROUPS;
    if (cut->whole)
        return;
    cut->partial_sum_bytes = sum_bytes;
    cut->partial_softmax_bytes = round_up(n * 2 * sizeof(float));
}

static struct attend_cut make_cut(const kvf_attend_args *args, uint32_t n)
{
    struct attend_cut cut = {.n_blocks = (args->n_heads + KVF_ATTEND_HEADS - 1) / KVF_ATTEND_HEADS};
    uint64_t rows = 0;
    for (uint32_t i = 0; i < n; i++) {
        rows = most_rows(&args[i]) > rows ? most_rows(&args[i]) : rows;
        cut.n_queries += args[i].n_queries;
    }
    if (cut.n_queries == 0)
        return cut;
    const uint64_t shortest =
        (args->window_tokens + rows + KVF_ATTEND_LEAST_PLACES - 1) / KVF_ATTEND_LEAST_PLACES;
    cut.n_parts = (uint32_t)clamp(shortest, 1, KVF_ATTEND_MAX_SPLITS);
    cut.list_stride = kind_of(args) == KVF_ATTEND_FIRST_ROWS ? 0 : rows;
    const uint64_t most = clamp(MOST_GROUPS / cut.n_blocks, 1, cut.n_queries);
    const uint64_t fit = cut.list_stride ? LIST_BYTES / sizeof(int32_t) / cut.list_stride : most;
    cut.batch_queries = (uint32_t)clamp(fit, 1, most);
    cut.list_bytes = round_up(cut.batch_queries * (size_t)cut.list_stride * sizeof(int32_t));
    set_partials(&cut, args->n_heads);
    return cut;
}

static kvf_attend_span make_span(kvf_gpu_device *gpu, const kvf_attend_args *args, uint32_t first)
{
    static const kvf_rows nothing = {.format = KVF_FORMAT_F32, .width = KVF_ROW_WIDTH};
    const bool has_window = args->window_tokens > 0;
    const bool has_rows = args->rows.n_rows > 0;
    const void *chosen = args->list       ? (const void *)args->list
                         : args->mask_f32 ? (const void *)args->mask_f32
                                          : (const void *)args->mask_f16;
    const uint32_t *lengths = args->list ? args->list_len : args->ratio ? NULL : args->n_visible;
    return (kvf_attend_span){.q = kvf_gpu_at(gpu, args->q),
                             .out = kvf_gpu_at(gpu, args->out),
                             .lse = kvf_gpu_at(gpu, args->lse),
                             .chosen = has_rows ? kvf_gpu_at(gpu, chosen) : 0,
                             .lengths = has_rows ? kvf_gpu_at(gpu, lengths) : 0,
                             .first_token = args->first_token,
                             .first_row = has_window ? args->first_token - args->window_first : 0,
                             .window = kvf_gpu_rows(gpu, has_window ? &args->window : &nothing),
                             .rows = kvf_gpu_rows(gpu, has_rows ? &args->rows : &nothing),
                             .first = first};
}

/* Arrays that only this call has, which the next dispatch of it uses again, and the spans. */
static bool set_scratch(kvf_gpu_device *gpu, const kvf_attend_args *args, uint32_t n,
                        const struct attend_cut *cut, kvf_attend_kernel_args *k)
{
    const size_t count_bytes = round_up(cut->batch_queries * sizeof(uint32_t));
    const size_t table_bytes = kvf_gpu_spans_bytes(n, sizeof(kvf_attend_span), 1);
    kvf_gpu_table table;
    uint32_t *firsts;
    uint32_t first = 0;
    k->partial_sums = kvf_gpu_scratch(gpu, cut->partial_sum_bytes + cut->partial_softmax_bytes +
                                               cut->list_bytes + count_bytes + table_bytes);
    k->partial_softmax = k->partial_sums + cut->partial_sum_bytes;
    k->lists = k->partial_softmax + cut->partial_softmax_bytes;
    k->counts = k->lists + cut->list_bytes;
    if (!kvf_gpu_begin_table(gpu, k->counts + count_bytes, table_bytes, &table))
        return false;
    kvf_attend_span *spans = kvf_gpu_add_spans(&table, n, sizeof *spans, 1, &k->spans, &firsts);
    for (uint32_t i = 0; i < n; i++) {
        spans[i] = make_span(gpu, &args[i], first);
        firsts[i] = first;
        first += args[i].n_queries;
    }
    k->one = spans[0];
    kvf_gpu_send_table(gpu, &table);
    return true;
}

void kvf_gpu_run_compact(kvf_gpu_device *gpu, const kvf_attend_kernel_args *args, uint32_t n)
{
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_compact,
                                     .groups = {n, 1, 1},
                                     .threads = KVF_TOP_THREADS,
                                     KVF_GPU_ARGUMENTS(*args),
                                     .threadgroup_bytes = {KVF_COMPACT_BYTES}});
}

/* Queries k->first_query .. + n. */
static void run_batch(kvf_gpu_device *gpu, const struct attend_cut *cut,
                      const kvf_attend_kernel_args *k, uint32_t n)
{
    if (k->kind != KVF_ATTEND_FIRST_ROWS)
        kvf_gpu_run_compact(gpu, k, n);
    kvf_gpu_run(
        gpu, &(kvf_gpu_call){.kernel = cut->whole ? KVF_KERNEL_attend_whole : KVF_KERNEL_attend,
                             .groups = {n * cut->n_blocks, cut->whole ? 1 : cut->n_parts, 1},
                             .threads = KVF_ATTEND_THREADS,
                             KVF_GPU_ARGUMENTS(*k),
                             .threadgroup_bytes = {KVF_ATTEND_ROWS_BYTES, KVF_ATTEND_WORK_BYTES}});
    if (!cut->whole)
        kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_attend_merge,
                                         .groups = {n, k->n_heads, 1},
                                         .threads = KVF_ATTEND_MERGE_THREADS,
                                         KVF_GPU_ARGUMENTS(*k)});
}

void kvf_gpu_attend(kvf_device *device, const kvf_attend_args *args, uint32_t n)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const struct attend_cut cut = make_cut(args, n);
    if (cut.n_queries == 0)
        return;
    kvf_attend_kernel_args k = {.sinks = kvf_gpu_at(gpu, args->sinks),
                                .list_stride = cut.list_stride,
                                .in_stride = args->list ? args->list_stride : args->mask_stride,
                                .n_heads = args->n_heads,
                                .window_tokens = args->window_tokens,
                                .kind = cut.list_stride ? kind_of(args) : KVF_ATTEND_FIRST_ROWS,
                                .ratio = args->ratio,
                                .n_parts = cut.n_parts,
                                .scale = args->scale};
    if (!set_scratch(gpu, args, n, &cut, &k))
        return;
    for (uint32_t first = 0; first < cut.n_queries; first += cut.batch_queries) {
        const uint32_t left = cut.n_queries - first;
        k.first_query = first;
        run_batch(gpu, &cut, &k, left < cut.batch_queries ? left : cut.batch_queries);
    }
}

/* Nothing of the caller: what a call needs depends on the lists' form and lasts as long. */
size_t kvf_gpu_attend_workspace_bytes(uint32_t n_threads, const kvf_attend_args *args)
{
    (void)n_threads;
    (void)args;
    return 0;
}
