/*
 * attend: one query over the window and the rows of one layer.
 *
 * Warm: the same rows in every run. Cold: a pool of several layers' rows, larger than
 * the caches, is walked slot by slot, each run with its own window and its own selection,
 * so that no run meets a row that an earlier one brought in.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/peer.h"
#include "bench/stages.h"
#include "error.h"

/*
 * Windows and selections to rotate: more than there are runs. Both numbers are prime, so
 * that a slot meets another selection whenever it comes round. Masks are as long as the
 * context, so there are fewer of them.
 */
enum { COLD_VARIANTS = 251, COLD_MASKS = 31 };

typedef struct attend_case {
    bench_case base;
    const kvf_profile *storage;
    kvf_device *device;
    bool masked;
    kvf_attend_args args;
    kvf_rows slots;   /* [n_slots] times the pages of a slot */
    kvf_rows windows; /* [n_windows] times the window's rows */
    uint64_t slot_rows;
    uint32_t n_slots;
    uint32_t n_windows;
    uint32_t n_selections; /* lists or masks */
    uint32_t top_k;
    uint64_t i_run;
    float *values; /* q, then sinks */
    uint32_t visible;
    uint32_t list_len;
    int32_t *lists; /* [n_selections][top_k] */
    uint8_t *masks; /* [n_selections][slot_rows] of f32 or f16 */
    bench_peer_attend_args peer;
} attend_case;

/* ---- Sizes --------------------------------------------------------------------- */

static bool selects(const bench_input *input)
{
    return input->stage == BENCH_ATTEND_CSA || input->stage == BENCH_ATTEND_CSA_COLD;
}

static bool is_cold(const bench_input *input)
{
    return input->stage == BENCH_ATTEND_CSA_COLD || input->stage == BENCH_ATTEND_HCA_COLD;
}

static bool has_mask(const bench_input *input)
{
    return selects(input) && input->profile < BENCH_LIST &&
           bench_profile_storage(input->profile)->mask != KVF_MASK_NONE;
}

static uint64_t rows_of(const bench_input *input)
{
    return bench_layer_rows(input, selects(input) ? KVF_LAYER_CSA : KVF_LAYER_HCA);
}

static uint64_t slot_bytes(const bench_input *input)
{
    return bench_rows_bytes(bench_profile_storage(input->profile)->row_format, KVF_ROW_WIDTH,
                            rows_of(input));
}

/* Slots of the pool; two at least, so that there is always another one. */
static uint64_t n_slots_of(const bench_input *input)
{
    if (!is_cold(input))
        return 1;
    const uint64_t n = input->cold_bytes / slot_bytes(input) + 1;
    return n < 2 ? 2 : n;
}

static uint32_t n_windows_of(const bench_input *input)
{
    return is_cold(input) ? COLD_VARIANTS : 1;
}

static uint32_t n_selections_of(const bench_input *input)
{
    if (!is_cold(input))
        return 1;
    return has_mask(input) ? COLD_MASKS : COLD_VARIANTS;
}

uint64_t bench_attend_bytes(const bench_input *input)
{
    const kvf_profile *storage = bench_profile_storage(input->profile);
    const uint64_t rows = rows_of(input);
    uint64_t bytes = n_slots_of(input) * slot_bytes(input) +
                     n_windows_of(input) * bench_rows_bytes(storage->window_format, KVF_ROW_WIDTH,
                                                            input->geometry->window_tokens);
    if (has_mask(input))
        bytes += n_selections_of(input) * rows * (storage->mask == KVF_MASK_F32 ? 4 : 2);
    /* Scores of every row for a block of heads and thread, and its list. */
    return bytes + rows * 4ull * (input->geometry->n_heads + 1) * 2;
}

/* ---- Running ------------------------------------------------------------------- */

/* The part of `all` that begins at row first. */
static kvf_rows rows_at(const kvf_rows *all, uint64_t first, uint64_t n_rows)
{
    kvf_rows part = *all;
    part.base = (uint8_t *)all->base + first / KVF_PAGE_ROWS * all->page_stride_bytes;
    part.n_rows = n_rows;
    return part;
}

/* The first run takes slot, window and selection 0: what all profiles are compared by. */
static void prepare(bench_case *self)
{
    attend_case *c = (attend_case *)self;
    const uint64_t selection = c->i_run % c->n_selections;
    const uint64_t slot_pages = (c->slot_rows + KVF_PAGE_ROWS - 1) / KVF_PAGE_ROWS;
    c->args.rows =
        rows_at(&c->slots, c->i_run % c->n_slots * slot_pages * KVF_PAGE_ROWS, c->slot_rows);
    c->args.window = rows_at(&c->windows, c->i_run % c->n_windows * c->args.window_tokens,
                             c->args.window_tokens);
    if (c->masked && c->storage->mask == KVF_MASK_F32)
        c->args.mask_f32 = (const float *)c->masks + selection * c->slot_rows;
    else if (c->masked)
        c->args.mask_f16 = (const uint16_t *)c->masks + selection * c->slot_rows;
    else if (c->lists)
        c->args.list = c->lists + selection * c->top_k;
    c->peer.list = c->args.list;
    c->peer.rows = c->args.rows.base;
    c->peer.window = c->args.window.base;
    c->i_run++;
}

static kvf_status run_attend(bench_case *self, kvf_error *error)
{
    attend_case *c = (attend_case *)self;
    return kvf_attend(c->device, &c->args, error);
}

static kvf_status run_peer(bench_case *self, kvf_error *error)
{
    bench_peer_attend(&((attend_case *)self)->peer);
    return kvf_ok(error);
}

static kvf_status output(bench_case *self, bench_output *out, kvf_error *error)
{
    attend_case *c = (attend_case *)self;
    *out =
        (bench_output){.values = c->args.out, .n_values = (size_t)c->args.n_heads * KVF_ROW_WIDTH};
    return kvf_ok(error);
}

/* ---- Opening ------------------------------------------------------------------- */

static void close_case(bench_case *self)
{
    attend_case *c = (attend_case *)self;
    free(c->slots.base);
    free(c->windows.base);
    free(c->values);
    free(c->lists);
    free(c->masks);
    free(c->args.out);
    free(c->args.workspace);
    free(c->peer.gathered);
    free(c->peer.scores);
    free(c);
}

/* The windows first: what fills the slots afterwards has pushed them out of the caches. */
static kvf_status make_rows(attend_case *c, const bench_input *input, kvf_error *error)
{
    const uint64_t slot_pages = (c->slot_rows + KVF_PAGE_ROWS - 1) / KVF_PAGE_ROWS;
    kvf_status status = bench_rows_open(c->storage->window_format, KVF_ROW_WIDTH,
                                        (uint64_t)c->n_windows * input->geometry->window_tokens,
                                        &c->windows, error);
    if (status == KVF_OK)
        status = bench_fill_rows(c->device, &c->windows, 5, error);
    if (status == KVF_OK)
        status = bench_rows_open(c->storage->row_format, KVF_ROW_WIDTH,
                                 c->n_slots * slot_pages * KVF_PAGE_ROWS, &c->slots, error);
    return status == KVF_OK ? bench_fill_rows(c->device, &c->slots, 6, error) : status;
}

static void fill_mask(attend_case *c, const int32_t *list, uint64_t selection)
{
    float *f32 = (float *)c->masks + selection * c->slot_rows;
    uint16_t *f16 = (uint16_t *)c->masks + selection * c->slot_rows;
    const bool wide = c->storage->mask == KVF_MASK_F32;
    for (uint64_t row = 0; row < c->slot_rows; row++) {
        if (wide)
            f32[row] = -INFINITY;
        else
            f16[row] = 0xfc00; /* -infinity */
    }
    for (uint32_t i = 0; i < c->top_k; i++) {
        if (wide)
            f32[list[i]] = 0.0f;
        else
            f16[list[i]] = 0;
    }
}

/* Selections as lists, and from them as masks in the profiles that have one. */
static kvf_status make_selections(attend_case *c, kvf_error *error)
{
    c->lists = bench_alloc(4ull * c->n_selections * c->top_k, error);
    if (c->masked)
        c->masks = bench_alloc(
            c->n_selections * c->slot_rows * (c->storage->mask == KVF_MASK_F32 ? 4 : 2), error);
    if (!c->lists || (c->masked && !c->masks))
        return KVF_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < c->n_selections; i++) {
        int32_t *list = c->lists + (size_t)i * c->top_k;
        bench_draw_rows(7 + (uint64_t)i * c->top_k, c->slot_rows, c->top_k, list);
        if (c->masked)
            fill_mask(c, list, i);
    }
    c->list_len = c->top_k;
    c->args.list_len = &c->list_len;
    c->args.list_stride = c->top_k;
    c->args.mask_stride = c->slot_rows;
    return KVF_OK;
}

static kvf_status make_arguments(attend_case *c, const bench_input *input, kvf_error *error)
{
    const kvf_geometry *geometry = input->geometry;
    const size_t n = (size_t)geometry->n_heads * KVF_ROW_WIDTH;
    c->values = bench_alloc(4 * (n + geometry->n_heads), error);
    c->args.out = bench_alloc(4 * n, error);
    if (!c->values || !c->args.out)
        return KVF_OUT_OF_MEMORY;
    bench_fill_values(c->values, n + geometry->n_heads, 8);
    c->visible = (uint32_t)c->slot_rows;
    c->args.n_queries = 1;
    c->args.n_heads = geometry->n_heads;
    c->args.q = c->values;
    c->args.sinks = c->values + n;
    c->args.scale = (float)(1.0 / sqrt((double)KVF_ROW_WIDTH));
    c->args.first_token = geometry->window_tokens - 1; /* the window is full */
    c->args.window_tokens = geometry->window_tokens;
    c->args.n_visible = &c->visible;
    prepare(&c->base);
    c->i_run = 0;
    c->args.workspace_bytes = kvf_attend_workspace_bytes(c->device, &c->args);
    c->args.workspace = bench_alloc(c->args.workspace_bytes, error);
    return c->args.workspace ? KVF_OK : KVF_OUT_OF_MEMORY;
}

static kvf_status make_peer(attend_case *c, kvf_error *error)
{
    const uint32_t n_rows = c->lists ? c->top_k : (uint32_t)c->slot_rows;
    const uint64_t total = (uint64_t)c->args.window_tokens + n_rows;
    c->peer = (bench_peer_attend_args){.device = c->device,
                                       .n_heads = c->args.n_heads,
                                       .q = c->args.q,
                                       .sinks = c->args.sinks,
                                       .scale = c->args.scale,
                                       .n_window = c->args.window_tokens,
                                       .n_rows = n_rows,
                                       .out = c->args.out};
    c->peer.gathered = bench_alloc(4 * total * KVF_ROW_WIDTH, error);
    c->peer.scores = bench_alloc(4 * total * c->args.n_heads, error);
    c->base.run = run_peer;
    return c->peer.gathered && c->peer.scores ? KVF_OK : KVF_OUT_OF_MEMORY;
}

kvf_status bench_attend_open(const bench_input *input, bench_case **out, kvf_error *error)
{
    attend_case *c = bench_alloc(sizeof *c, error);
    if (!c)
        return KVF_OUT_OF_MEMORY;
    memset(c, 0, sizeof *c);
    c->slot_rows = rows_of(input);
    c->base = (bench_case){.rows = c->slot_rows,
                           .steps_per_run = 1,
                           .n_parts = 1,
                           .prepare = prepare,
                           .run = run_attend,
                           .output = output,
                           .close = close_case};
    c->base.work[0] =
        bench_attend_work(input->profile, input->geometry, c->slot_rows, selects(input));
    c->storage = bench_profile_storage(input->profile);
    c->device = input->device;
    c->masked = has_mask(input);
    c->n_slots = (uint32_t)n_slots_of(input);
    c->n_windows = n_windows_of(input);
    c->n_selections = n_selections_of(input);
    c->top_k =
        c->slot_rows < input->geometry->top_k ? (uint32_t)c->slot_rows : input->geometry->top_k;
    kvf_status status = make_rows(c, input, error);
    if (status == KVF_OK && selects(input))
        status = make_selections(c, error);
    if (status == KVF_OK)
        status = make_arguments(c, input, error);
    if (status == KVF_OK && input->profile == BENCH_OPENBLAS)
        status = make_peer(c, error);
    if (status != KVF_OK) {
        close_case(&c->base);
        return status;
    }
    *out = &c->base;
    return kvf_ok(error);
}
