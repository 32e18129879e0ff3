/* Conformance of attend. */
#include "conformance.h"
#include "shared/visible.h"

#include <math.h>

#include "backend/ref/ref.h"

enum mode { LIST, MASK_F32, MASK_F16, ALL_VISIBLE, WINDOW_ONLY, N_MODES };

/*
 * Every seventh case: the sink takes nearly all the weight, p = exp(-85) = 1e-37, and
 * the values are a few 1e-9, so that all products underflow, half of them to -0.
 */
#define UNDERFLOW_SINK 85.0f
#define UNDERFLOW_VALUE 1e-9f

static bool is_underflow_case(const cf_run *run)
{
    return run->index % 7 == 3;
}

/* How large the scores are: 1e3 makes most of the exponentials 0. */
static float pick_magnitude(cf_run *run)
{
    const float magnitudes[] = {1.0f, 1.0f, 0.0f, 30.0f, 1000.0f};
    const float magnitude = magnitudes[cf_pick(&run->random, 5)];
    return is_underflow_case(run) ? 0.0f : magnitude;
}

static const float *make_sinks(cf_run *run, uint32_t n_heads)
{
    const bool underflow = is_underflow_case(run);
    if (cf_chance(&run->random, 2) && !underflow)
        return NULL;
    float *sinks = cf_random_floats(run, CF_NORMAL, n_heads);
    for (uint32_t h = 0; h < n_heads; h++)
        sinks[h] = underflow ? UNDERFLOW_SINK : sinks[h] * 10.0f;
    return sinks;
}

static kvf_rows make_view(cf_run *run, kvf_format_id format, uint64_t n_rows)
{
    const cf_pattern patterns[] = {CF_NORMAL, CF_NORMAL, CF_NORMAL,
                                   CF_TINY,   CF_SPARSE, CF_BOUNDARY};
    const cf_pattern pattern = patterns[cf_pick(&run->random, 6)];
    kvf_rows view = cf_rows(run, format, KVF_ROW_WIDTH, n_rows);
    float *values =
        cf_random_floats(run, is_underflow_case(run) ? CF_NORMAL : pattern, n_rows * KVF_ROW_WIDTH);
    for (size_t i = 0; is_underflow_case(run) && i < n_rows * KVF_ROW_WIDTH; i++)
        values[i] *= UNDERFLOW_VALUE;
    cf_store(&view, KVF_GRID_FP8, values);
    return view;
}

static kvf_format_id pick_format(uint64_t *random)
{
    const kvf_format_id formats[] = {KVF_FORMAT_FP8_F16, KVF_FORMAT_F32, KVF_FORMAT_F16,
                                     KVF_FORMAT_FP8_BF16};
    return formats[cf_pick(random, 4)];
}

/* Queries, sinks and window; no rows yet. */
static kvf_attend_args make_queries(cf_run *run, uint32_t n_rows)
{
    uint64_t *random = &run->random;
    const bool large = n_rows == 1000;
    kvf_attend_args args = {.n_queries = large ? 1 : CF_ONE_OF(random, 1, 2, 3, 23, 41),
                            .n_heads = large ? 3 : CF_ONE_OF(random, 1, 3, 8, 17),
                            .scale = (float)(1.0 / sqrt(512.0))};
    const size_t n_q = (size_t)args.n_queries * args.n_heads * KVF_ROW_WIDTH;
    float *q = cf_random_floats(run, CF_NORMAL, n_q);
    const float magnitude = pick_magnitude(run);
    for (size_t i = 0; i < n_q; i++)
        q[i] *= magnitude;
    args.q = q;
    args.sinks = make_sinks(run, args.n_heads);
    /* At the very start, in a window that is not full, far along. */
    args.first_token = CF_ONE_OF(random, 0, 1, 100, 126, 127, 128, 5000);
    args.window_tokens = CF_ONE_OF(random, 1, 16, 64, 128);
    /* Of exactly what is needed, or of more before and behind it. */
    const uint64_t oldest =
        args.first_token < args.window_tokens ? 0 : args.first_token - args.window_tokens + 1;
    const uint64_t before = CF_ONE_OF(random, 0, 1, 64);
    args.window_first = oldest < before ? 0 : oldest - before;
    args.window = make_view(run, pick_format(random),
                            args.first_token + args.n_queries - args.window_first +
                                CF_ONE_OF(random, 0, 1, 64));
    return args;
}

/* Ascending rows, each there with the given chance; -1 entries in between. */
static void make_list(cf_run *run, kvf_attend_args *args, uint32_t one_in)
{
    args->list_stride = args->rows.n_rows + 8;
    int32_t *list = cf_alloc(run, args->n_queries * args->list_stride * sizeof *list);
    uint32_t *list_len = cf_alloc(run, args->n_queries * sizeof *list_len);
    for (size_t i = 0; i < args->n_queries; i++) {
        uint32_t n = 0;
        uint32_t n_empty = 8;
        for (uint32_t row = 0; row < kvf_attend_visible(args, i); row++) {
            if (n_empty && cf_chance(&run->random, 16)) {
                list[i * args->list_stride + n++] = -1;
                n_empty--;
            }
            if (cf_chance(&run->random, one_in))
                list[i * args->list_stride + n++] = (int32_t)row;
        }
        list_len[i] = n;
    }
    args->list = list;
    args->list_len = list_len;
}

/* The masks of the list that args has. */
static void make_masks(cf_run *run, const kvf_attend_args *args, float **mask_f32,
                       uint16_t **mask_f16)
{
    const size_t n = args->n_queries * args->mask_stride;
    *mask_f32 = cf_floats(run, n);
    *mask_f16 = cf_alloc(run, n * sizeof **mask_f16);
    for (size_t i = 0; i < n; i++) {
        (*mask_f32)[i] = -INFINITY;
        (*mask_f16)[i] = 0xFC00;
    }
    for (size_t i = 0; i < args->n_queries; i++) {
        for (uint32_t j = 0; j < args->list_len[i]; j++) {
            const int32_t row = args->list[i * args->list_stride + j];
            if (row < 0)
                continue;
            (*mask_f32)[i * args->mask_stride + (size_t)row] = 0.0f;
            (*mask_f16)[i * args->mask_stride + (size_t)row] = 0x0000;
        }
    }
}

static void make_rows(cf_run *run, kvf_attend_args *args, uint32_t n_rows)
{
    args->rows = make_view(run, pick_format(&run->random), n_rows);
    uint32_t *n_visible = cf_alloc(run, args->n_queries * sizeof *n_visible);
    for (uint32_t i = 0; i < args->n_queries; i++) {
        const uint32_t some = cf_pick(&run->random, n_rows + 1);
        n_visible[i] = CF_ONE_OF(&run->random, 0, some, n_rows, n_rows);
    }
    if (n_rows && cf_chance(&run->random, 3)) /* the smallest ratio that all rows are enough for */
        args->ratio = (uint32_t)((args->first_token + args->n_queries) / (n_rows + 1)) + 1;
    else
        args->n_visible = n_visible;
    args->mask_stride = n_rows + CF_ONE_OF(&run->random, 0, 0, 5);
    make_list(run, args, CF_ONE_OF(&run->random, 1, 2, 10));
}

/* Runs; the lse as well, if it is asked for. */
static float *attend_into(cf_run *run, kvf_attend_args *args, bool with_lse)
{
    const size_t n_heads = (size_t)args->n_queries * args->n_heads;
    args->out = cf_floats(run, n_heads * KVF_ROW_WIDTH);
    args->lse = with_lse ? cf_floats(run, n_heads) : NULL;
    args->workspace_bytes = kvf_attend_workspace_bytes(run->device, args);
    args->workspace = cf_alloc(run, args->workspace_bytes);
    run->device->backend->attend(run->device, args, 1);
    cf_wait(run);
    return args->out;
}

static size_t out_bytes(const kvf_attend_args *args)
{
    return (size_t)args->n_queries * args->n_heads * KVF_ROW_WIDTH * sizeof(float);
}

/* CPUs have the reference's bits; of a GPU, the reference's run says how close it has to be. */
static void report_results(cf_run *run, const kvf_attend_args *args)
{
    const size_t n_heads = (size_t)args->n_queries * args->n_heads;
    if (!run->gpu) {
        cf_report(run, "out", args->out, out_bytes(args));
        if (args->lse)
            cf_report_floats(run, "lse", args->lse, n_heads);
        return;
    }
    double *out_bounds = cf_alloc(run, n_heads * KVF_ROW_WIDTH * sizeof *out_bounds);
    double *lse_bounds = cf_alloc(run, n_heads * sizeof *lse_bounds);
    if (run->device->backend == &kvf_backend_ref)
        cf_attend_bounds(run, args, args->out, out_bounds, args->lse ? lse_bounds : NULL);
    cf_report_close(run, "out", args->out, out_bounds, n_heads * KVF_ROW_WIDTH);
    if (args->lse && args->window_tokens > 0)
        cf_report_close(run, "lse", args->lse, lse_bounds, n_heads);
}

static void keep_mode(cf_run *run, kvf_attend_args *args, enum mode mode)
{
    float *mask_f32;
    uint16_t *mask_f16;
    make_masks(run, args, &mask_f32, &mask_f16);
    if (mode != LIST)
        args->list = NULL;
    if (mode == MASK_F32)
        args->mask_f32 = mask_f32;
    if (mode == MASK_F16)
        args->mask_f16 = mask_f16;
    if (mode == WINDOW_ONLY) {
        args->rows = (kvf_rows){.format = KVF_FORMAT_F32, .width = KVF_ROW_WIDTH, .page_rows = 64};
        args->n_visible = NULL;
    }
}

/* The queries of one session of those that args is cut into. */
static kvf_attend_args session_of(const kvf_attend_args *args, uint32_t first, uint32_t end,
                                  float *out, float *lse)
{
    kvf_attend_args session = *args;
    const size_t first_head = (size_t)first * args->n_heads;
    session.n_queries = end - first;
    session.first_token += first;
    session.q += first_head * KVF_ROW_WIDTH;
    session.out = out + first_head * KVF_ROW_WIDTH;
    session.lse = args->lse ? lse + first_head : NULL;
    session.n_visible = args->n_visible ? args->n_visible + first : NULL;
    session.list = args->list ? args->list + first * args->list_stride : NULL;
    session.list_len = args->list ? args->list_len + first : NULL;
    session.mask_f32 = args->mask_f32 ? args->mask_f32 + first * args->mask_stride : NULL;
    session.mask_f16 = args->mask_f16 ? args->mask_f16 + first * args->mask_stride : NULL;
    return session;
}

/* Whatever queries share an operation, each has the bits that it has among others. */
static void check_sessions(cf_run *run, const kvf_attend_args *args)
{
    kvf_attend_args sessions[CF_MOST_SESSIONS];
    uint32_t firsts[CF_MOST_SESSIONS + 1];
    const size_t n_heads = (size_t)args->n_queries * args->n_heads;
    const uint32_t n = cf_cut(&run->random, args->n_queries, firsts);
    float *out = cf_floats(run, n_heads * KVF_ROW_WIDTH);
    float *lse = cf_floats(run, n_heads);
    size_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        sessions[i] = session_of(args, firsts[i], firsts[i + 1], out, lse);
        const size_t needed = kvf_attend_workspace_bytes(run->device, &sessions[i]);
        bytes = needed > bytes ? needed : bytes;
    }
    void *workspace = cf_alloc(run, bytes);
    for (uint32_t i = 0; i < n; i++) {
        sessions[i].workspace = workspace;
        sessions[i].workspace_bytes = bytes;
    }
    run->device->backend->attend(run->device, sessions, n);
    cf_wait(run);
    if (memcmp(out, args->out, out_bytes(args)) != 0 ||
        (args->lse && memcmp(lse, args->lse, n_heads * sizeof *lse) != 0))
        fail_msg("case %u on %s: queries of %u sessions differ from those of one", run->index,
                 run->target, n);
}

static void run_attend(cf_run *run)
{
    const uint32_t n_rows = cf_n_rows(run->index);
    const enum mode mode = (enum mode)(run->index / CF_N_SIZES % N_MODES);
    kvf_attend_args args = make_queries(run, n_rows);
    make_rows(run, &args, n_rows);
    keep_mode(run, &args, mode);
    /* Without a window: rows alone, or nothing at all. */
    if (cf_chance(&run->random, 8))
        args.window_tokens = 0;
    attend_into(run, &args, cf_chance(&run->random, 2));
    report_results(run, &args);
    check_sessions(run, &args);
}

const cf_operation cf_attend = {"attend", "bit-identical, or bounded on a GPU",
                                CF_N_SIZES *N_MODES * 4, false, run_attend};

/* A copy of a view's rows in another format. */
static kvf_rows convert(cf_run *run, const kvf_rows *view, kvf_format_id format)
{
    float *values = cf_floats(run, view->n_rows * KVF_ROW_WIDTH);
    const kvf_unpack_args unpack = {
        .in = *view, .n_rows = view->n_rows, .out = values, .stride = KVF_ROW_WIDTH};
    run->device->backend->unpack(run->device, &unpack);
    cf_wait(run);
    kvf_rows converted = cf_rows(run, format, KVF_ROW_WIDTH, view->n_rows);
    cf_store(&converted, KVF_GRID_NONE, values);
    return converted;
}

/* One set of values: list, both masks, and f32 for FP8 rows, all with the same bits. */
static void run_attend_forms(cf_run *run)
{
    const uint32_t n_rows = cf_n_rows(run->index);
    kvf_attend_args args = make_queries(run, n_rows);
    make_rows(run, &args, n_rows);
    const float *expected = attend_into(run, &args, false);
    report_results(run, &args);

    float *mask_f32;
    uint16_t *mask_f16;
    make_masks(run, &args, &mask_f32, &mask_f16);
    const kvf_rows rows = args.rows;
    const kvf_rows window = args.window;
    const kvf_rows rows_f32 = convert(run, &rows, KVF_FORMAT_F32);
    const kvf_rows window_f32 = convert(run, &window, KVF_FORMAT_F32);
    const int32_t *list = args.list;
    for (uint32_t form = 0; form < 6; form++) {
        const bool plain = form >= 3;
        args.rows = plain ? rows_f32 : rows;
        args.window = plain ? window_f32 : window;
        args.list = form % 3 == 0 ? list : NULL;
        args.mask_f32 = form % 3 == 1 ? mask_f32 : NULL;
        args.mask_f16 = form % 3 == 2 ? mask_f16 : NULL;
        const float *out = attend_into(run, &args, false);
        if (memcmp(out, expected, out_bytes(&args)) != 0)
            fail_msg("case %u: %s rows by %s differ from the packed ones by list", run->index,
                     plain ? "f32" : "packed",
                     args.list ? "list" : (args.mask_f32 ? "mask_f32" : "mask_f16"));
    }
}

const cf_operation cf_attend_forms = {"attend forms", "bit-identical", CF_N_SIZES * 4, false,
                                      run_attend_forms};
