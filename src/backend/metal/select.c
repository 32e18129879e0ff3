/*
 * select, score and mask on the GPU. select's candidates are memory of the operation, of a
 * size that depends on top_k alone, so callers need to give no workspace.
 */
#include <math.h>

#include "backend/metal/metal.h"
#include "shared/layout.h"
#include "shared/visible.h"

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

static uint32_t n_pieces(uint64_t n, uint32_t piece)
{
    return (uint32_t)((n + piece - 1) / piece);
}

static uint32_t most_visible(const kvf_select_args *args)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < args->n_queries; i++)
        if (kvf_select_visible(args, i) > most)
            most = kvf_select_visible(args, i);
    return most;
}

static bool are_codes(const kvf_select_args *args)
{
    return args->queries.format == KVF_FORMAT_FP4 && args->keys.format == KVF_FORMAT_FP4;
}

static kvf_select_kernel_args kernel_args(kvf_metal_device *metal, const kvf_select_args *args)
{
    return (kvf_select_kernel_args){
        .queries = kvf_metal_input_rows(metal, &args->queries),
        .keys = kvf_metal_input_rows(metal, &args->keys),
        .n_heads = args->n_heads,
        .top_k = args->top_k,
        .weight_scale = (float)(1.0 / sqrt((double)args->n_heads * KVF_INDEX_WIDTH))};
}

/* What both select and score read of the queries. */
static void set_inputs(kvf_metal_device *metal, const kvf_select_args *args, kvf_metal_call *call)
{
    const size_t n = args->n_queries;
    call->threads = KVF_SELECT_THREADS;
    call->spans[0] = kvf_metal_input(metal, args->head_weights, n * args->n_heads * sizeof(float));
    call->spans[1] = kvf_metal_visible(metal, args->n_visible, args->first_token, args->ratio, n);
    call->threadgroup_bytes[0] = are_codes(args) ? KVF_SELECT_CODE_BYTES : KVF_SELECT_VALUE_BYTES;
    call->threadgroup_bytes[1] = KVF_SELECT_WORK_BYTES;
}

/* ---- select ------------------------------------------------------------------------- */

/* How a call is cut into dispatches and threadgroups. */
struct cut {
    uint32_t capacity;  /* candidates a part */
    uint32_t n_parts;   /* of a query */
    uint32_t n_queries; /* of a dispatch */
};

static struct cut make_cut(const kvf_select_args *args)
{
    const uint32_t visible = most_visible(args);
    /* Thinned when twice as many are there as are kept, and no sooner than after four tiles. */
    const uint32_t kept = least(args->top_k, visible);
    struct cut cut = {.capacity = least(2 * (uint64_t)kept, visible) + 4 * KVF_SELECT_TILE_KEYS};
    const uint32_t slots =
        n_pieces(CANDIDATES_BYTES, (uint32_t)sizeof(uint64_t)) / cut.capacity + 1;
    const uint32_t parts =
        least(n_pieces(visible, LEAST_PART_ROWS), WANTED_GROUPS / args->n_queries);
    cut.n_parts = least(parts > 0 ? parts : 1, slots);
    cut.n_queries = least(slots / cut.n_parts, args->n_queries);
    return cut;
}

/* Where candidates and lists are. */
struct select_spans {
    kvf_metal_span orders;
    kvf_metal_span rows;
    kvf_metal_span counts;
    kvf_metal_span list;
    kvf_metal_span list_len;
};

static struct select_spans make_spans(kvf_metal_device *metal, const kvf_select_args *args,
                                      const struct cut *cut)
{
    const size_t slots = (size_t)cut->n_parts * cut->n_queries;
    const size_t n = args->n_queries;
    return (struct select_spans){
        .orders = kvf_metal_temporary(metal, slots * cut->capacity * sizeof(uint32_t)),
        .rows = kvf_metal_temporary(metal, slots * cut->capacity * sizeof(int32_t)),
        .counts = kvf_metal_temporary(metal, slots * sizeof(uint32_t)),
        .list = kvf_metal_output(metal, args->list, n * args->top_k * sizeof *args->list),
        .list_len = kvf_metal_output(metal, args->list_len, n * sizeof *args->list_len)};
}

/* Parts of n queries to their lists, a few parts at a time. */
static void run_merges(kvf_metal_device *metal, const kvf_select_kernel_args *select, uint32_t n,
                       const struct select_spans *spans)
{
    kvf_merge_kernel_args arguments = {.first_query = select->first_query,
                                       .top_k = select->top_k,
                                       .n_parts = select->n_parts,
                                       .n_live = select->n_parts,
                                       .step = 1,
                                       .capacity = select->capacity};
    while (!arguments.is_last) {
        const uint32_t n_groups = n_pieces(arguments.n_live, KVF_SELECT_MERGE_PARTS);
        arguments.is_last = n_groups == 1;
        const kvf_metal_call call = {
            .kernel = KVF_KERNEL_select_merge,
            .groups = {n_groups, n, 1},
            .threads = KVF_TOP_THREADS,
            .arguments = &arguments,
            .argument_bytes = sizeof arguments,
            .spans = {spans->orders, spans->rows, spans->counts, spans->list, spans->list_len},
            .threadgroup_bytes = {KVF_TOP_BYTES}};
        kvf_metal_run(metal, &call);
        arguments.n_live = n_groups;
        arguments.step *= KVF_SELECT_MERGE_PARTS;
    }
}

static void run_select(kvf_metal_device *metal, const kvf_select_args *args)
{
    const struct cut cut = make_cut(args);
    const struct select_spans spans = make_spans(metal, args, &cut);
    kvf_select_kernel_args arguments = kernel_args(metal, args);
    arguments.n_parts = cut.n_parts;
    arguments.capacity = cut.capacity;
    kvf_metal_call call = {.kernel =
                               are_codes(args) ? KVF_KERNEL_select_codes : KVF_KERNEL_select_rows,
                           .arguments = &arguments,
                           .argument_bytes = sizeof arguments};
    set_inputs(metal, args, &call);
    call.spans[2] = spans.orders;
    call.spans[3] = spans.rows;
    call.spans[4] = spans.counts;
    call.spans[5] = spans.list;
    call.spans[6] = spans.list_len;
    call.threadgroup_bytes[2] = KVF_TOP_BYTES;
    for (uint32_t first = 0; first < args->n_queries; first += cut.n_queries) {
        const uint32_t n = least(cut.n_queries, args->n_queries - first);
        arguments.first_query = first;
        call.groups[0] = cut.n_parts;
        call.groups[1] = n;
        call.groups[2] = 1;
        kvf_metal_run(metal, &call);
        if (cut.n_parts > 1)
            run_merges(metal, &arguments, n, &spans);
    }
}

void kvf_metal_select(kvf_device *device, const kvf_select_args *args)
{
    if (args->n_queries == 0)
        return;
    kvf_metal_device *metal = kvf_metal_of(device);
    run_select(metal, args);
    kvf_metal_finish(metal);
}

size_t kvf_metal_select_workspace_bytes(uint32_t n_threads, const kvf_select_args *args)
{
    (void)n_threads;
    (void)args;
    return 0;
}

/* ---- score and mask -------------------------------------------------------------------- */

void kvf_metal_score(kvf_device *device, const kvf_score_args *args)
{
    const kvf_select_args *select = args->select;
    const size_t n = args->n_queries;
    if (n == 0 || args->n_rows == 0)
        return;
    kvf_metal_device *metal = kvf_metal_of(device);
    kvf_select_kernel_args arguments = kernel_args(metal, select);
    arguments.first_query = args->first_query;
    arguments.n_rows = (uint32_t)args->n_rows;
    arguments.score_stride = args->stride;
    kvf_metal_call call = {.kernel =
                               are_codes(select) ? KVF_KERNEL_score_codes : KVF_KERNEL_score_plain,
                           .groups = {n_pieces(args->n_rows, KVF_SCORE_ROWS), args->n_queries, 1},
                           .arguments = &arguments,
                           .argument_bytes = sizeof arguments};
    set_inputs(metal, select, &call);
    const size_t values = (n - 1) * args->stride + (size_t)args->n_rows;
    call.spans[2] = kvf_metal_output(metal, args->scores, values * sizeof(float));
    kvf_metal_run(metal, &call);
    kvf_metal_finish(metal);
}

void kvf_metal_mask(kvf_device *device, const kvf_mask_args *args)
{
    const size_t n = args->n_queries;
    if (n == 0 || args->n_rows == 0)
        return;
    kvf_metal_device *metal = kvf_metal_of(device);
    kvf_mask_kernel_args arguments = {.score_stride = args->score_stride,
                                      .mask_stride = args->mask_stride,
                                      .n_rows = (uint32_t)args->n_rows,
                                      .top_k = args->top_k};
    const size_t scores = (n - 1) * args->score_stride + (size_t)args->n_rows;
    const size_t masks = (n - 1) * args->mask_stride + (size_t)args->n_rows;
    kvf_metal_call call = {
        .kernel = KVF_KERNEL_mask,
        .groups = {args->n_queries, 1, 1},
        .threads = KVF_TOP_THREADS,
        .arguments = &arguments,
        .argument_bytes = sizeof arguments,
        .spans = {kvf_metal_input(metal, args->scores, scores * sizeof(float)),
                  kvf_metal_visible(metal, args->n_visible, args->first_token, args->ratio, n),
                  kvf_metal_output(metal, args->mask_f32, masks * sizeof(float)),
                  kvf_metal_output(metal, args->mask_f16, masks * sizeof(uint16_t))},
        .threadgroup_bytes = {KVF_TOP_BYTES}};
    for (int half_form = 0; half_form < 2; half_form++) {
        arguments.half_form = (uint32_t)half_form;
        if (half_form ? args->mask_f16 != NULL : args->mask_f32 != NULL)
            kvf_metal_run(metal, &call);
    }
    kvf_metal_finish(metal);
}

kvf_metal_span kvf_metal_visible(kvf_metal_device *metal, const uint32_t *n_visible,
                                 uint64_t first_token, uint32_t ratio, size_t n)
{
    if (ratio == 0)
        return kvf_metal_input(metal, n_visible, n * sizeof *n_visible);
    const kvf_metal_span span = kvf_metal_temporary(metal, n * sizeof *n_visible);
    uint32_t *counts =
        kvf_metal_state(&metal->base, NULL) == KVF_OK ? kvf_metal_contents(span) : NULL;
    for (size_t i = 0; counts && i < n; i++)
        counts[i] = kvf_visible_rows(NULL, first_token, ratio, i);
    return span;
}

/* ---- Lists ------------------------------------------------------------------------------- */

void kvf_metal_compact(kvf_metal_device *metal, const kvf_attend_args *args, uint32_t first_query,
                       uint32_t n_queries, const kvf_metal_lists *out)
{
    const size_t first = first_query;
    const bool list = args->list != NULL;
    const size_t stride = list ? args->list_stride : args->mask_stride;
    const size_t places = n_queries * stride;
    const kvf_compact_kernel_args arguments = {.in_stride = stride,
                                               .out_stride = out->stride,
                                               .kind = list             ? KVF_COMPACT_LIST
                                                       : args->mask_f32 ? KVF_COMPACT_MASK_F32
                                                                        : KVF_COMPACT_MASK_F16};
    const kvf_metal_span nothing = kvf_metal_input(metal, NULL, 0);
    kvf_metal_call call = {
        .kernel = KVF_KERNEL_compact,
        .groups = {n_queries, 1, 1},
        .threads = KVF_TOP_THREADS,
        .arguments = &arguments,
        .argument_bytes = sizeof arguments,
        .spans = {nothing, nothing, nothing,
                  list ? kvf_metal_input(metal, args->list_len + first,
                                         n_queries * sizeof *args->list_len)
                       : kvf_metal_visible(metal, args->ratio ? NULL : args->n_visible + first,
                                           args->first_token + first, args->ratio, n_queries),
                  out->rows, out->counts},
        .threadgroup_bytes = {KVF_COMPACT_BYTES}};
    if (list)
        call.spans[0] =
            kvf_metal_input(metal, args->list + first * stride, places * sizeof(int32_t));
    else if (args->mask_f32)
        call.spans[1] =
            kvf_metal_input(metal, args->mask_f32 + first * stride, places * sizeof(float));
    else
        call.spans[2] =
            kvf_metal_input(metal, args->mask_f16 + first * stride, places * sizeof(uint16_t));
    kvf_metal_run(metal, &call);
}
