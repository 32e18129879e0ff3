/*
 * select, score and mask on the GPU. select's candidates are memory of the operation, of a
 * size that depends on top_k alone, so callers need to give no workspace.
 */
#include <math.h>

#include "backend/gpu/gpu.h"

/*
 * Candidates of all threadgroups of a dispatch, of one part at least. 8 MiB are 682 parts
 * with a top_k of 512: more than enough threadgroups to fill a GPU.
 */
#define CANDIDATES_BYTES (8u << 20)
/* Of parts of few queries: threadgroups that a GPU of 80 cores is well filled with. */
#define WANTED_GROUPS 256
/* Rows of a part. With fewer, filling the threadgroup memory takes its share of the time. */
#define LEAST_PART_ROWS 1024

static uint32_t least(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

static bool are_codes(const kvf_select_args *args)
{
    return args->queries.format == KVF_FORMAT_FP4 && args->keys.format == KVF_FORMAT_FP4;
}

/* But for the list, which score has not. */
static kvf_select_span make_span(kvf_gpu_device *gpu, const kvf_select_args *args, uint32_t first)
{
    return (kvf_select_span){.weights = kvf_gpu_at(gpu, args->head_weights),
                             .n_visible = kvf_gpu_at(gpu, args->n_visible),
                             .first_token = args->first_token,
                             .queries = kvf_gpu_rows(gpu, &args->queries),
                             .keys = kvf_gpu_rows(gpu, &args->keys),
                             .first = first};
}

/* What is the same of all spans. */
static kvf_select_kernel_args kernel_args(const kvf_select_args *args)
{
    return (kvf_select_kernel_args){
        .n_heads = args->n_heads,
        .top_k = args->top_k,
        .ratio = args->ratio,
        .weight_scale = (float)(1.0 / sqrt((double)args->n_heads * KVF_INDEX_WIDTH))};
}

static kvf_gpu_call call_of(const kvf_select_args *args, kvf_gpu_kernel codes,
                            kvf_gpu_kernel values, const kvf_select_kernel_args *k)
{
    return (kvf_gpu_call){
        .kernel = are_codes(args) ? codes : values,
        .threads = KVF_SELECT_THREADS,
        .arguments = k,
        .argument_bytes = sizeof *k,
        .threadgroup_bytes = {are_codes(args) ? KVF_SELECT_CODE_BYTES : KVF_SELECT_VALUE_BYTES,
                              KVF_SELECT_WORK_BYTES}};
}

/* ---- select ------------------------------------------------------------------------- */

/* How a call is cut into dispatches and threadgroups. */
struct cut {
    uint32_t capacity;  /* candidates a part */
    uint32_t n_parts;   /* of a query */
    uint32_t n_queries; /* of a dispatch */
};

/* `visible`: no query of all n_queries sees more rows; what each sees, the device knows. */
static struct cut make_cut(uint32_t top_k, uint32_t visible, uint32_t n_queries)
{
    /* Thinned when twice as many are there as are kept, and no sooner than after four tiles. */
    const uint32_t kept = least(top_k, visible);
    struct cut cut = {.capacity = least(2 * (uint64_t)kept, visible) + 4 * KVF_SELECT_TILE_KEYS};
    const uint32_t slots =
        kvf_gpu_pieces(CANDIDATES_BYTES, (uint32_t)sizeof(uint64_t)) / cut.capacity + 1;
    const uint32_t parts =
        least(kvf_gpu_pieces(visible, LEAST_PART_ROWS), WANTED_GROUPS / n_queries);
    cut.n_parts = least(parts > 0 ? parts : 1, slots);
    cut.n_queries = least(slots / cut.n_parts, n_queries);
    return cut;
}

/* Parts of n queries to their lists, a few parts at a time. */
static void run_merges(kvf_gpu_device *gpu, const kvf_select_kernel_args *select, uint32_t n)
{
    kvf_select_kernel_args k = *select;
    k.n_live = k.n_parts;
    k.step = 1;
    while (!k.is_last) {
        const uint32_t n_groups = kvf_gpu_pieces(k.n_live, KVF_SELECT_MERGE_PARTS);
        k.is_last = n_groups == 1;
        kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_select_merge,
                                         .groups = {n, n_groups, 1},
                                         .threads = KVF_TOP_THREADS,
                                         KVF_GPU_ARGUMENTS(k),
                                         .threadgroup_bytes = {KVF_TOP_BYTES}});
        k.n_live = n_groups;
        k.step *= KVF_SELECT_MERGE_PARTS;
    }
}

/* Candidates of a dispatch, and the table of spans. */
static bool set_scratch(kvf_gpu_device *gpu, const kvf_select_args *args, uint32_t n,
                        const struct cut *cut, kvf_select_kernel_args *k)
{
    const size_t slots = (size_t)cut->n_parts * cut->n_queries;
    const size_t entries_bytes = slots * cut->capacity * sizeof(uint32_t);
    const size_t counts_bytes = (slots * sizeof(uint32_t) + 15) / 16 * 16;
    const size_t table_bytes = kvf_gpu_spans_bytes(n, sizeof(kvf_select_span), 1);
    kvf_gpu_table table;
    uint32_t *firsts;
    uint32_t first = 0;
    k->counts = kvf_gpu_scratch(gpu, counts_bytes + table_bytes + 2 * entries_bytes);
    k->orders = k->counts + counts_bytes + table_bytes;
    k->rows = k->orders + entries_bytes;
    k->n_parts = cut->n_parts;
    k->capacity = cut->capacity;
    if (!kvf_gpu_begin_table(gpu, k->counts + counts_bytes, table_bytes, &table))
        return false;
    kvf_select_span *spans = kvf_gpu_add_spans(&table, n, sizeof *spans, 1, &k->spans, &firsts);
    for (uint32_t i = 0; i < n; i++) {
        spans[i] = make_span(gpu, &args[i], first);
        spans[i].list = kvf_gpu_at(gpu, args[i].list);
        spans[i].list_len = kvf_gpu_at(gpu, args[i].list_len);
        firsts[i] = first;
        first += args[i].n_queries;
    }
    k->one = spans[0];
    kvf_gpu_send_table(gpu, &table);
    return true;
}

void kvf_gpu_select(kvf_device *device, const kvf_select_args *args, uint32_t n)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    uint64_t visible = 0;
    uint32_t n_queries = 0;
    for (uint32_t i = 0; i < n; i++) {
        visible = args[i].keys.n_rows > visible ? args[i].keys.n_rows : visible;
        n_queries += args[i].n_queries;
    }
    if (n_queries == 0)
        return;
    const struct cut cut = make_cut(args->top_k, (uint32_t)visible, n_queries);
    kvf_select_kernel_args k = kernel_args(args);
    if (!set_scratch(gpu, args, n, &cut, &k))
        return;
    kvf_gpu_call call = call_of(args, KVF_KERNEL_select_codes, KVF_KERNEL_select_rows, &k);
    call.threadgroup_bytes[2] = KVF_TOP_BYTES;
    for (uint32_t first = 0; first < n_queries; first += cut.n_queries) {
        k.first_query = first;
        call.groups[0] = least(cut.n_queries, n_queries - first);
        call.groups[1] = cut.n_parts;
        call.groups[2] = 1;
        kvf_gpu_run(gpu, &call);
        if (cut.n_parts > 1)
            run_merges(gpu, &k, call.groups[0]);
    }
}

size_t kvf_gpu_select_workspace_bytes(uint32_t n_threads, const kvf_select_args *args)
{
    (void)n_threads;
    (void)args;
    return 0;
}

/* ---- score and mask -------------------------------------------------------------------- */

void kvf_gpu_score(kvf_device *device, const kvf_score_args *args)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    kvf_select_kernel_args k = kernel_args(args->select);
    k.spans.n = 1;
    k.one = make_span(gpu, args->select, 0);
    k.scores = kvf_gpu_at(gpu, args->scores);
    k.first_query = args->first_query;
    k.n_rows = (uint32_t)args->n_rows;
    k.score_stride = args->stride;
    kvf_gpu_call call = call_of(args->select, KVF_KERNEL_score_codes, KVF_KERNEL_score_plain, &k);
    call.groups[0] = args->n_queries;
    call.groups[1] = kvf_gpu_pieces(args->n_rows, KVF_SCORE_ROWS);
    call.groups[2] = 1;
    kvf_gpu_run(gpu, &call);
}

void kvf_gpu_mask(kvf_device *device, const kvf_mask_args *args)
{
    if (args->n_rows == 0)
        return;
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    kvf_mask_kernel_args k = {.scores = kvf_gpu_at(gpu, args->scores),
                              .n_visible = kvf_gpu_at(gpu, args->n_visible),
                              .mask_f32 = kvf_gpu_at(gpu, args->mask_f32),
                              .mask_f16 = kvf_gpu_at(gpu, args->mask_f16),
                              .score_stride = args->score_stride,
                              .mask_stride = args->mask_stride,
                              .n_rows = (uint32_t)args->n_rows,
                              .top_k = args->top_k,
                              .ratio = args->ratio,
                              .first_token = args->first_token};
    const kvf_gpu_call call = {.kernel = KVF_KERNEL_mask,
                               .groups = {args->n_queries, 1, 1},
                               .threads = KVF_TOP_THREADS,
                               KVF_GPU_ARGUMENTS(k),
                               .threadgroup_bytes = {KVF_TOP_BYTES}};
    for (int half_form = 0; half_form < 2; half_form++) {
        k.half_form = (uint32_t)half_form;
        if (half_form ? args->mask_f16 != NULL : args->mask_f32 != NULL)
            kvf_gpu_run(gpu, &call);
    }
}
