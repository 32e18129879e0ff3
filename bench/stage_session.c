/*
 * layer and step: tokens that go through a session, each stage in its turn: append
 * (compress and pack), select, attend. `step` is the whole model's cache, every layer
 * with memory of its own; `layer` is a session of one CSA layer, in steps of `ratio`
 * tokens, of which the last emits a row.
 *
 * `list` runs on legacy's session, whose rows are f32, with select and attend as on
 * plain memory; only the window's rows are its own, because a session's are its secret.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/stages.h"
#include "cache/layout.h"
#include "error.h"

/* Tokens of a chunk while the session is filled; a larger one only costs scratch. */
enum { CHUNK_TOKENS = 64 };

typedef struct session_case {
    bench_case base;
    kvf_device *device;
    kvf_geometry geometry;
    kvf_session *session;
    /* Inputs, the same for all layers; token t takes row t % CHUNK_TOKENS of each. */
    float *noise;           /* what the pointers of append_args point into */
    kvf_append_args csa;    /* shapes of a CSA layer .. */
    kvf_append_args hca;    /* .. and of any other */
    float *index_q;         /* [n_index_heads][128] */
    float *fresh_index_q;   /* [steps_per_run][n_layers] of them: select overwrites its own */
    const float *q;         /* [n_heads][512] */
    const float *weights;   /* [n_index_heads] */
    const float *sinks;     /* [n_heads] */
    float *out;             /* [n_heads][512] */
    float *recorded;        /* [n_layers][n_heads][512] of the recording run's last token */
    int32_t *recorded_list; /* [n_layers][top_k] */
    /* Of `list` alone. */
    bool lists;
    kvf_rows *windows; /* [n_layers] f32 rows, twice the window's: see append_window */
    kvf_select_args select;
    kvf_attend_args attend;
    uint32_t visible;
    uint32_t list_len;
} session_case;

static bool is_step(const bench_input *input)
{
    return input->stage == BENCH_STEP;
}

/* ---- Sizes --------------------------------------------------------------------- */

/* Room for the runs and the runs that warm up. */
static uint64_t max_tokens_of(const bench_input *input)
{
    const uint32_t layer = bench_first_layer(input->geometry, KVF_LAYER_CSA);
    const uint32_t ratio = is_step(input) ? 1 : input->geometry->layers[layer].ratio;
    return input->context_tokens + (uint64_t)ratio * (input->max_runs + 8);
}

/* The model's geometry, or that of one of its CSA layers; as long as the runs need it. */
static kvf_geometry geometry_of(const bench_input *input)
{
    kvf_geometry geometry = *input->geometry;
    geometry.max_tokens = max_tokens_of(input);
    if (!is_step(input)) {
        geometry.layers[0] = geometry.layers[bench_first_layer(&geometry, KVF_LAYER_CSA)];
        geometry.n_layers = 1;
    }
    return geometry;
}

static kvf_session_options options_of(const bench_input *input)
{
    const kvf_profile *storage = bench_profile_storage(input->profile);
    kvf_profile_id id = KVF_PROFILE_LEGACY;
    while (kvf_profile_get(id) != storage)
        id++;
    return (kvf_session_options){.profile = id,
                                 .max_tokens = max_tokens_of(input),
                                 .chunk_tokens = CHUNK_TOKENS,
                                 .backend = kvf_device_backend_name(input->device),
                                 .n_threads = kvf_device_n_threads(input->device)};
}

uint64_t bench_session_bytes(const bench_input *input)
{
    const kvf_geometry geometry = geometry_of(input);
    const kvf_session_options options = options_of(input);
    kvf_plan plan;
    if (kvf_plan_make(&geometry, &options, options.max_tokens, &plan, NULL) != KVF_OK)
        return UINT64_MAX;
    const uint64_t bytes = plan.allocated_bytes + plan.scratch_bytes;
    kvf_plan_free(&plan);
    return bytes;
}

/* ---- Appending ----------------------------------------------------------------- */

static const kvf_append_args *inputs_of(const session_case *c, uint32_t layer)
{
    return c->geometry.layers[layer].kind == KVF_LAYER_CSA ? &c->csa : &c->hca;
}

/* The inputs of n tokens from `token` on, which do not cross a multiple of CHUNK_TOKENS. */
static kvf_append_args inputs_at(const session_case *c, uint32_t layer, uint64_t token)
{
    const uint64_t row = token % CHUNK_TOKENS;
    const uint32_t parts = kvf_layer_parts(c->geometry.layers[layer]);
    kvf_append_args args = *inputs_of(c, layer);
    args.window += row * KVF_ROW_WIDTH;
    args.rows.kv += row * parts * KVF_ROW_WIDTH;
    args.rows.gate += row * parts * KVF_ROW_WIDTH;
    args.index.kv += row * parts * KVF_INDEX_WIDTH;
    args.index.gate += row * parts * KVF_INDEX_WIDTH;
    return args;
}

/*
 * `list` keeps the window in rows of its own: each is written twice, a window's length apart, so
 * that any window_tokens of them in a row are the last ones, oldest first.
 */
static kvf_status append_window(session_case *c, uint32_t layer, const float *window,
                                uint64_t token, uint32_t n_tokens, kvf_error *error)
{
    kvf_pack_args args = {.rows = window,
                          .stride = KVF_ROW_WIDTH,
                          .n_rows = n_tokens,
                          .grid = KVF_GRID_FP8,
                          .out = c->windows[layer],
                          .first_row = token};
    const kvf_status status = kvf_pack(c->device, &args, error);
    args.first_row += c->geometry.window_tokens;
    return status == KVF_OK ? kvf_pack(c->device, &args, error) : status;
}

static kvf_status append(session_case *c, uint32_t layer, uint32_t n_tokens, kvf_error *error)
{
    const uint64_t token = kvf_session_n_tokens(c->session);
    const kvf_append_args args = inputs_at(c, layer, token);
    const kvf_status status = kvf_session_append(c->session, layer, &args, error);
    if (status != KVF_OK || !c->lists)
        return status;
    return append_window(c, layer, args.window, token, n_tokens, error);
}

/* ---- Filling ------------------------------------------------------------------- */

static kvf_status begin(session_case *c, uint32_t n_tokens, kvf_error *error)
{
    static const int32_t tokens[CHUNK_TOKENS] = {0};
    return kvf_session_begin(c->session, tokens, n_tokens, error);
}

/* Tokens that only take their place: pages come, and are filled afterwards. */
static kvf_status skip_tokens(session_case *c, uint64_t n_tokens, kvf_error *error)
{
    kvf_status status = KVF_OK;
    for (uint64_t done = 0; status == KVF_OK && done < n_tokens; done += CHUNK_TOKENS) {
        status = begin(c, CHUNK_TOKENS, error);
        if (status == KVF_OK)
            status = kvf_session_commit(c->session, error);
    }
    return status;
}

/* Random rows into every layer's pages; index rows are made once and copied. */
static kvf_status fill_pages(session_case *c, kvf_error *error)
{
    const uint32_t first_csa = bench_first_layer(&c->geometry, KVF_LAYER_CSA);
    kvf_rows index = {0};
    kvf_status status = KVF_OK;
    for (uint32_t layer = 0; status == KVF_OK && layer < c->geometry.n_layers; layer++) {
        const kvf_layer_kind kind = c->geometry.layers[layer].kind;
        if (kind == KVF_LAYER_WINDOW)
            continue;
        const kvf_rows rows = kvf_session_rows(c->session, layer);
        status = bench_fill_rows(c->device, &rows, 10 + layer, error);
        if (kind != KVF_LAYER_CSA || status != KVF_OK)
            continue;
        const kvf_rows layer_index = kvf_session_index_rows(c->session, layer);
        if (layer == first_csa) {
            index = layer_index;
            status = bench_fill_index_rows(c->device, &index, 9, error);
        } else {
            bench_copy_rows(&index, &layer_index);
        }
    }
    return status;
}

/* A chunk of real tokens, so that windows and compressors are as in use. */
static kvf_status append_chunk(session_case *c, uint32_t n_tokens, kvf_error *error)
{
    kvf_status status = begin(c, n_tokens, error);
    for (uint32_t layer = 0; status == KVF_OK && layer < c->geometry.n_layers; layer++)
        status = append(c, layer, n_tokens, error);
    return status == KVF_OK ? kvf_session_commit(c->session, error) : status;
}

static kvf_status fill(session_case *c, uint64_t context_tokens, kvf_error *error)
{
    const uint64_t real_tokens = c->geometry.window_tokens + CHUNK_TOKENS;
    const uint64_t skipped = context_tokens > real_tokens
                                 ? (context_tokens - real_tokens) / CHUNK_TOKENS * CHUNK_TOKENS
                                 : 0;
    kvf_status status = skip_tokens(c, skipped, error);
    if (status == KVF_OK)
        status = fill_pages(c, error);
    for (uint64_t done = skipped; status == KVF_OK && done < context_tokens;) {
        const uint64_t left = context_tokens - done;
        const uint32_t n = left < CHUNK_TOKENS ? (uint32_t)left : CHUNK_TOKENS;
        status = append_chunk(c, n, error);
        done += n;
    }
    return status;
}

/* ---- Running ------------------------------------------------------------------- */

static kvf_status select_list(session_case *c, uint32_t layer, float *index_q, kvf_error *error)
{
    const uint32_t n_heads = c->geometry.n_index_heads;
    kvf_select_args *args = &c->select;
    args->queries = (kvf_rows){.format = KVF_FORMAT_F32,
                               .width = KVF_INDEX_WIDTH,
                               .page_rows = n_heads,
                               .n_rows = n_heads,
                               .base = index_q,
                               .page_stride_bytes = 4ull * KVF_INDEX_WIDTH * n_heads};
    kvf_pack_args pack = {.rows = index_q,
                          .stride = KVF_INDEX_WIDTH,
                          .n_rows = n_heads,
                          .grid = KVF_GRID_FP4,
                          .hadamard = true,
                          .out = args->queries};
    const kvf_status status = kvf_pack(c->device, &pack, error);
    args->keys = kvf_session_index_rows(c->session, layer);
    c->visible = (uint32_t)args->keys.n_rows;
    return status == KVF_OK ? kvf_select(c->device, args, error) : status;
}

static kvf_status attend_list(session_case *c, uint32_t layer, kvf_error *error)
{
    const bool selected = c->geometry.layers[layer].kind == KVF_LAYER_CSA;
    kvf_attend_args *args = &c->attend;
    args->first_token = kvf_session_n_tokens(c->session);
    args->window = c->windows[layer];
    const uint64_t end = args->first_token + 1;
    args->window_first =
        end < args->window_tokens ? 0 : end - args->window_tokens - end % args->window_tokens;
    args->rows = (kvf_rows){.format = KVF_FORMAT_F32, .width = KVF_ROW_WIDTH, .page_rows = 1};
    if (c->geometry.layers[layer].kind != KVF_LAYER_WINDOW)
        args->rows = kvf_session_rows(c->session, layer);
    args->list = selected ? c->select.list : NULL;
    args->list_len = selected ? &c->list_len : NULL;
    c->visible = (uint32_t)args->rows.n_rows;
    return kvf_attend(c->device, args, error);
}

static void record(session_case *c, uint32_t layer)
{
    const uint32_t top_k = c->geometry.top_k;
    const size_t n_out = (size_t)c->geometry.n_heads * KVF_ROW_WIDTH;
    int32_t *list = c->recorded_list + (size_t)layer * top_k;
    uint32_t n = 0;
    memcpy(c->recorded + layer * n_out, c->out, n_out * sizeof *c->out);
    if (c->geometry.layers[layer].kind == KVF_LAYER_CSA && c->lists) {
        n = c->list_len;
        memcpy(list, c->select.list, n * sizeof *list);
    } else if (c->geometry.layers[layer].kind == KVF_LAYER_CSA) {
        if (kvf_session_selection(c->session, 0, list, &n, NULL) != KVF_OK)
            n = 0; /* and what is compared differs */
    }
    for (; n < top_k; n++)
        list[n] = -1;
}

static kvf_status run_layer(session_case *c, uint32_t step, uint32_t layer, kvf_error *error)
{
    const size_t use = (size_t)step * c->geometry.n_layers + layer;
    float *index_q = c->fresh_index_q + use * c->geometry.n_index_heads * KVF_INDEX_WIDTH;
    kvf_status status = append(c, layer, 1, error);
    if (status == KVF_OK && c->geometry.layers[layer].kind == KVF_LAYER_CSA)
        status = c->lists ? select_list(c, layer, index_q, error)
                          : kvf_session_select(c->session, layer, (kvf_chunk_span){0, 1}, index_q,
                                               c->weights, error);
    if (status == KVF_OK)
        status = c->lists ? attend_list(c, layer, error)
                          : kvf_session_attend(c->session, layer, (kvf_chunk_span){0, 1}, c->q,
                                               c->sinks, c->out, error);
    if (status == KVF_OK && c->base.recording)
        record(c, layer);
    return status;
}

static kvf_status run(bench_case *self, kvf_error *error)
{
    session_case *c = (session_case *)self;
    kvf_status status = KVF_OK;
    for (uint32_t step = 0; status == KVF_OK && step < c->base.steps_per_run; step++) {
        status = begin(c, 1, error);
        for (uint32_t layer = 0; status == KVF_OK && layer < c->geometry.n_layers; layer++)
            status = run_layer(c, step, layer, error);
        if (status == KVF_OK)
            status = kvf_session_commit(c->session, error);
    }
    return status;
}

/* Fresh index queries: select left the last ones rounded, or overwrote them. */
static void prepare(bench_case *self)
{
    session_case *c = (session_case *)self;
    const size_t n = (size_t)c->geometry.n_index_heads * KVF_INDEX_WIDTH;
    const size_t n_uses = (size_t)c->base.steps_per_run * c->geometry.n_layers;
    for (size_t use = 0; use < n_uses; use++)
        memcpy(c->fresh_index_q + use * n, c->index_q, n * sizeof *c->index_q);
}

static kvf_status output(bench_case *self, bench_output *out, kvf_error *error)
{
    const session_case *c = (session_case *)self;
    *out = (bench_output){.list = c->recorded_list,
                          .n_list = (size_t)c->geometry.n_layers * c->geometry.top_k,
                          .values = c->recorded,
                          .n_values =
                              (size_t)c->geometry.n_layers * c->geometry.n_heads * KVF_ROW_WIDTH};
    return kvf_ok(error);
}

/* ---- Opening ------------------------------------------------------------------- */

static void close_case(bench_case *self)
{
    session_case *c = (session_case *)self;
    kvf_session_close(c->session);
    for (uint32_t layer = 0; c->windows && layer < c->geometry.n_layers; layer++)
        free(c->windows[layer].base);
    free(c->windows);
    free(c->noise);
    free(c->fresh_index_q);
    free(c->out);
    free(c->recorded);
    free(c->recorded_list);
    free(c->select.list);
    free(c->select.workspace);
    free(c->attend.workspace);
    free(c);
}

/* Next n values of the noise. */
static float *take(float **place, size_t n)
{
    float *taken = *place;
    *place += n;
    return taken;
}

/* Pointers of one kind of layer into the noise. */
static kvf_append_args make_inputs(float **place, uint32_t parts, uint32_t ratio,
                                   kvf_rope_table rope, const float *norm_weight)
{
    const size_t row_values = (size_t)parts * KVF_ROW_WIDTH;
    const size_t index_values = (size_t)parts * KVF_INDEX_WIDTH;
    const float eps = 1e-6f;
    kvf_append_args args = {.window = take(place, (size_t)CHUNK_TOKENS * KVF_ROW_WIDTH),
                            .row_rope = rope};
    args.rows = (kvf_compressor_input){.kv = take(place, CHUNK_TOKENS * row_values),
                                       .gate = take(place, CHUNK_TOKENS * row_values),
                                       .position_bias = take(place, ratio * row_values),
                                       .norm_weight = norm_weight,
                                       .norm_eps = eps};
    args.index = (kvf_compressor_input){.kv = take(place, CHUNK_TOKENS * index_values),
                                        .gate = take(place, CHUNK_TOKENS * index_values),
                                        .position_bias = take(place, ratio * index_values),
                                        .norm_weight = norm_weight,
                                        .norm_eps = eps};
    return args;
}

static uint32_t largest_ratio(const kvf_geometry *geometry)
{
    uint32_t largest = 1;
    for (uint32_t i = 0; i < geometry->n_layers; i++)
        if (geometry->layers[i].ratio > largest)
            largest = geometry->layers[i].ratio;
    return largest;
}

static kvf_status make_noise(session_case *c, kvf_error *error)
{
    const uint32_t ratio = largest_ratio(&c->geometry);
    const size_t parts = 2; /* the most that a compressor has */
    const size_t n_head_values = (size_t)c->geometry.n_heads * KVF_ROW_WIDTH;
    const size_t n_index_values = (size_t)c->geometry.n_index_heads * KVF_INDEX_WIDTH;
    const size_t n_rope = (size_t)CHUNK_TOKENS * KVF_ROPE_WIDTH / 2;
    const size_t n_layer_kind =
        CHUNK_TOKENS * (size_t)KVF_ROW_WIDTH +
        (2 * CHUNK_TOKENS + ratio) * parts * (size_t)(KVF_ROW_WIDTH + KVF_INDEX_WIDTH);
    const size_t n = 2 * n_layer_kind + n_index_values + n_head_values + c->geometry.n_index_heads +
                     c->geometry.n_heads + KVF_ROW_WIDTH + 2 * n_rope;
    c->noise = bench_alloc(4 * n, error);
    if (!c->noise)
        return KVF_OUT_OF_MEMORY;
    bench_fill_values(c->noise, n, 11);
    float *place = c->noise;
    c->index_q = take(&place, n_index_values);
    c->q = take(&place, n_head_values);
    c->weights = take(&place, c->geometry.n_index_heads);
    c->sinks = take(&place, c->geometry.n_heads);
    const float *norm_weight = take(&place, KVF_ROW_WIDTH);
    const float *cosines = take(&place, n_rope);
    const float *sines = take(&place, n_rope);
    const kvf_rope_table rope = {cosines, sines};
    c->csa = make_inputs(&place, 2, ratio, rope, norm_weight);
    c->hca = make_inputs(&place, 1, ratio, rope, norm_weight);
    return KVF_OK;
}

static kvf_status make_outputs(session_case *c, kvf_error *error)
{
    const size_t n_layers = c->geometry.n_layers;
    const size_t n_out = (size_t)c->geometry.n_heads * KVF_ROW_WIDTH;
    const size_t n_uses = c->base.steps_per_run * n_layers;
    c->fresh_index_q = bench_alloc(4 * n_uses * c->geometry.n_index_heads * KVF_INDEX_WIDTH, error);
    c->out = bench_alloc(4 * n_out, error);
    c->recorded = bench_alloc(4 * n_layers * n_out, error);
    c->recorded_list = bench_alloc(4 * n_layers * c->geometry.top_k, error);
    return c->fresh_index_q && c->out && c->recorded && c->recorded_list ? KVF_OK
                                                                         : KVF_OUT_OF_MEMORY;
}

/* What `list` needs besides the session: windows, a list, workspace for the longest context. */
static kvf_status make_lists(session_case *c, kvf_error *error)
{
    const kvf_geometry *geometry = &c->geometry;
    kvf_status status = KVF_OK;
    c->windows = calloc(geometry->n_layers, sizeof *c->windows);
    if (!c->windows)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %u windows", geometry->n_layers);
    for (uint32_t i = 0; status == KVF_OK && i < geometry->n_layers; i++)
        status = bench_rows_open(KVF_FORMAT_F32, KVF_ROW_WIDTH, 2ull * geometry->window_tokens,
                                 &c->windows[i], error);
    c->select = (kvf_select_args){.n_queries = 1,
                                  .n_heads = geometry->n_index_heads,
                                  .top_k = geometry->top_k,
                                  .head_weights = c->weights,
                                  .n_visible = &c->visible,
                                  .list_len = &c->list_len};
    c->attend = (kvf_attend_args){.n_queries = 1,
                                  .n_heads = geometry->n_heads,
                                  .q = c->q,
                                  .sinks = c->sinks,
                                  .scale = (float)(1.0 / sqrt((double)KVF_ROW_WIDTH)),
                                  .window_tokens = geometry->window_tokens,
                                  .n_visible = &c->visible,
                                  .list_stride = geometry->top_k,
                                  .out = c->out};
    /* Without a list the workspace grows with the rows, and HCA layers attend all of theirs. */
    uint64_t n_rows = geometry->top_k;
    const uint32_t hca = bench_first_layer(geometry, KVF_LAYER_HCA);
    if (hca < geometry->n_layers &&
        kvf_layer_rows(geometry->layers[hca], geometry->max_tokens) > n_rows)
        n_rows = kvf_layer_rows(geometry->layers[hca], geometry->max_tokens);
    c->attend.rows.n_rows = n_rows;
    c->select.list = bench_alloc(4ull * geometry->top_k, error);
    c->select.workspace_bytes = kvf_select_workspace_bytes(c->device, &c->select);
    c->select.workspace = bench_alloc(c->select.workspace_bytes, error);
    c->attend.workspace_bytes = kvf_attend_workspace_bytes(c->device, &c->attend);
    c->attend.workspace = bench_alloc(c->attend.workspace_bytes, error);
    if (!c->select.list || !c->select.workspace || !c->attend.workspace)
        return KVF_OUT_OF_MEMORY;
    return status;
}

static void add_work(bench_work *sum, bench_work part, double count)
{
    sum->int8_ops += part.int8_ops * count;
    sum->fma_ops += part.fma_ops * count;
    sum->bytes += part.bytes * count;
}

/* Select, and attend by kind of layer: parts that each have a limit of their own. */
static void count_work(session_case *c, const bench_input *input)
{
    const kvf_geometry *geometry = &c->geometry;
    const bench_profile profile = input->profile;
    c->base.n_parts = 4;
    for (uint32_t i = 0; i < geometry->n_layers; i++) {
        const kvf_layer layer = geometry->layers[i];
        const uint64_t rows = kvf_layer_rows(layer, input->context_tokens);
        const bool selects = layer.kind == KVF_LAYER_CSA;
        if (selects)
            add_work(&c->base.work[3], bench_select_work(profile, geometry, rows, 1), 1);
        add_work(&c->base.work[layer.kind], bench_attend_work(profile, geometry, rows, selects), 1);
    }
}

kvf_status bench_session_open(const bench_input *input, bench_case **out, kvf_error *error)
{
    const kvf_session_options options = options_of(input);
    session_case *c = bench_alloc(sizeof *c, error);
    if (!c)
        return KVF_OUT_OF_MEMORY;
    memset(c, 0, sizeof *c);
    c->device = input->device;
    c->geometry = geometry_of(input);
    c->lists = input->profile == BENCH_LIST;
    c->base = (bench_case){.rows = bench_layer_rows(input, KVF_LAYER_CSA),
                           .steps_per_run = is_step(input) ? 1 : c->geometry.layers[0].ratio,
                           .prepare = prepare,
                           .run = run,
                           .output = output,
                           .close = close_case};
    count_work(c, input);
    kvf_status status = make_noise(c, error);
    if (status == KVF_OK)
        status = make_outputs(c, error);
    if (status == KVF_OK && c->lists)
        status = make_lists(c, error);
    if (status == KVF_OK)
        status = kvf_session_open(c->device, &c->geometry, &options, &c->session, error);
    if (status == KVF_OK)
        status = fill(c, input->context_tokens, error);
    if (status != KVF_OK) {
        close_case(&c->base);
        return status;
    }
    *out = &c->base;
    return kvf_ok(error);
}
