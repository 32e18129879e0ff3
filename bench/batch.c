#include "bench/batch.h"

#include <stdlib.h>
#include <string.h>

#include "bench/stages.h"
#include "clock.h"
#include "error.h"

/* Tokens that take their place at a time, while a session is filled. */
enum { FILL_TOKENS = 4096 };

typedef struct batch_run {
    const bench_batch_input *input;
    kvf_batch *batch;
    kvf_session **sessions; /* [n_sessions] */
    kvf_batch_item *items;  /* likewise */
    int32_t *ids;           /* likewise */
    uint64_t drawn;
    /* What the observer counts. */
    bool *seen; /* [n_experts] */
    uint64_t n_distinct;
    uint32_t n_layers;
} batch_run;

static kvf_session_options options_of(const bench_batch_input *input)
{
    return (kvf_session_options){.profile = input->profile,
                                 .max_tokens = input->context_tokens,
                                 .chunk_tokens = input->n_sessions,
                                 .batch_sessions = input->n_sessions,
                                 .backend = kvf_device_backend_name(input->model->device),
                                 .n_threads = kvf_device_n_threads(input->model->device),
                                 .checkpoint_count = KVF_NO_CHECKPOINTS};
}

uint64_t bench_batch_bytes(const bench_batch_input *input)
{
    const kvf_session_options options = options_of(input);
    kvf_plan plan;
    if (kvf_plan_make(&input->model->config.geometry, &options, input->context_tokens, &plan,
                      NULL) != KVF_OK)
        return UINT64_MAX;
    const uint64_t bytes =
        plan.scratch_bytes + input->n_sessions * (plan.allocated_bytes + plan.chunk_undo_bytes);
    kvf_plan_free(&plan);
    return bytes;
}

/* ---- Filling ---------------------------------------------------------------------- */

/* Tokens that only take their place: pages come, and are filled afterwards. */
static kvf_status take_places(kvf_batch *filler, kvf_session *session, uint64_t n_tokens,
                              kvf_error *error)
{
    static const int32_t ids[FILL_TOKENS];
    kvf_status status = KVF_OK;
    for (uint64_t done = 0; done < n_tokens && status == KVF_OK; done += FILL_TOKENS) {
        const uint64_t left = n_tokens - done;
        kvf_batch_item item = {
            .session = session, .ids = ids, .n = left < FILL_TOKENS ? (uint32_t)left : FILL_TOKENS};
        status = kvf_batch_begin(filler, &item, 1, error);
        if (status == KVF_OK)
            status = kvf_batch_commit(filler, error);
    }
    return status;
}

/* Random rows in every layer's pages, or those of a session that has them. */
static kvf_status fill_pages(const batch_run *r, kvf_session *session, const kvf_session *like,
                             kvf_error *error)
{
    const kvf_geometry *geometry = &r->input->model->config.geometry;
    kvf_device *device = r->input->model->device;
    kvf_status status = KVF_OK;
    for (uint32_t layer = 0; layer < geometry->n_layers && status == KVF_OK; layer++) {
        const kvf_layer_kind kind = geometry->layers[layer].kind;
        const kvf_rows rows = kvf_session_rows(session, layer);
        const kvf_rows index = kvf_session_index_rows(session, layer);
        if (kind == KVF_LAYER_WINDOW)
            continue;
        if (like) {
            const kvf_rows from = kvf_session_rows(like, layer);
            const kvf_rows index_from = kvf_session_index_rows(like, layer);
            bench_copy_rows(&from, &rows);
            if (kind == KVF_LAYER_CSA)
                bench_copy_rows(&index_from, &index);
            continue;
        }
        status = bench_fill_rows(device, &rows, 10 + layer, error);
        if (status == KVF_OK && kind == KVF_LAYER_CSA)
            status = bench_fill_index_rows(device, &index, 1000 + layer, error);
    }
    return status;
}

static kvf_status fill_sessions(batch_run *r, kvf_error *error)
{
    const bench_batch_input *input = r->input;
    const kvf_geometry *geometry = &input->model->config.geometry;
    const uint64_t n_tokens = input->context_tokens - input->n_runs - 2; /* to warm up, to look */
    kvf_session_options options = options_of(input);
    kvf_batch *filler;
    options.chunk_tokens = FILL_TOKENS;
    options.batch_sessions = 1;
    kvf_status status = kvf_batch_open(input->model->device, geometry, &options, &filler, error);
    if (status != KVF_OK)
        return status;
    for (uint32_t i = 0; i < input->n_sessions && status == KVF_OK; i++) {
        status = kvf_session_open(input->model->device, geometry, &options, &r->sessions[i], error);
        if (status == KVF_OK)
            status = take_places(filler, r->sessions[i], n_tokens, error);
        /* Elsewhere rows stay zeros, as pages come: they take the same time, but for ties. */
        if (status == KVF_OK && input->model->device->backend->addresses_host_memory)
            status = fill_pages(r, r->sessions[i], i ? r->sessions[0] : NULL, error);
    }
    kvf_batch_close(filler);
    return status;
}

/* ---- Passes ------------------------------------------------------------------------ */

/* Another random token for each session: what experts it chooses depends on that. */
static kvf_status pass(batch_run *r, kvf_error *error)
{
    const bench_batch_input *input = r->input;
    for (uint32_t i = 0; i < input->n_sessions; i++) {
        r->drawn = r->drawn * 6364136223846793005u + 1442695040888963407u;
        r->ids[i] = (int32_t)((r->drawn >> 33) % input->model->config.geometry.vocab);
        r->items[i] = (kvf_batch_item){.session = r->sessions[i], .ids = &r->ids[i], .n = 1};
    }
    const kvf_status status =
        kvf_model_forward(input->model, r->batch, r->items, input->n_sessions, error);
    for (uint32_t i = 0; i < input->n_sessions && status == KVF_OK; i++)
        if (r->items[i].status != KVF_OK) {
            *error = r->items[i].error;
            return error->status;
        }
    return status;
}

static void count_experts(void *user, const char *name, uint32_t layer, const void *values,
                          uint64_t n, uint64_t width)
{
    batch_run *r = user;
    const int32_t *experts = values;
    (void)layer;
    if (strcmp(name, "experts") != 0)
        return;
    memset(r->seen, 0, r->input->model->config.n_experts * sizeof *r->seen);
    for (uint64_t i = 0; i < n * width; i++) {
        r->n_distinct += !r->seen[experts[i]];
        r->seen[experts[i]] = true;
    }
    r->n_layers++;
}

static kvf_status measure(batch_run *r, bench_batch_result *result, kvf_error *error)
{
    kvf_model *model = r->input->model;
    double seconds[BENCH_MAX_RUNS];
    model->observe = count_experts;
    model->observe_user = r;
    kvf_status status = pass(r, error);
    model->observe = NULL;
    if (status == KVF_OK)
        status = pass(r, error);
    for (uint32_t i = 0; i < r->input->n_runs && status == KVF_OK; i++) {
        const double started = kvf_seconds();
        status = pass(r, error);
        seconds[i] = kvf_seconds() - started;
    }
    if (status != KVF_OK)
        return status;
    result->seconds = bench_spread_of(seconds, r->input->n_runs);
    result->tokens_per_second = r->input->n_sessions / result->seconds.median;
    result->n_chosen = r->input->n_sessions * model->config.n_experts_used;
    result->n_distinct = (double)r->n_distinct / (r->n_layers ? r->n_layers : 1);
    return KVF_OK;
}

static void close_run(batch_run *r)
{
    for (uint32_t i = 0; r->sessions && i < r->input->n_sessions; i++)
        kvf_session_close(r->sessions[i]);
    kvf_batch_close(r->batch);
    free(r->sessions);
    free(r->items);
    free(r->ids);
    free(r->seen);
}

kvf_status bench_batch_measure(const bench_batch_input *input, bench_batch_result *result,
                               kvf_error *error)
{
    const kvf_model *model = input->model;
    const uint32_t n = input->n_sessions;
    const kvf_session_options options = options_of(input);
    batch_run r = {.input = input, .drawn = 1};
    if (input->context_tokens < input->n_runs + 3)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "%u runs and more do not fit %llu tokens",
                        input->n_runs, (unsigned long long)input->context_tokens);
    r.sessions = calloc(n, sizeof *r.sessions);
    r.items = calloc(n, sizeof *r.items);
    r.ids = calloc(n, sizeof *r.ids);
    r.seen = calloc(model->config.n_experts, sizeof *r.seen);
    kvf_status status =
        r.sessions && r.items && r.ids && r.seen
            ? kvf_batch_open(model->device, &model->config.geometry, &options, &r.batch, error)
            : kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %u sessions", n);
    if (status == KVF_OK)
        status = fill_sessions(&r, error);
    if (status == KVF_OK)
        status = measure(&r, result, error);
    close_run(&r);
    return status;
}
