/* Conformance of compress: random chunks, then the same tokens as one chunk. */
#include "conformance.h"

#include <math.h>

struct kind {
    uint32_t width;
    uint32_t ratio;
    bool overlap;
    bool hadamard;
    kvf_grid grid;
    kvf_format_id format;
};

static const struct kind kinds[] = {
    {512, 4, true, false, KVF_GRID_FP8, KVF_FORMAT_FP8_F16},
    {512, 128, false, false, KVF_GRID_FP8, KVF_FORMAT_FP8_F16},
    {128, 4, true, true, KVF_GRID_FP4, KVF_FORMAT_FP4},
    {512, 4, true, false, KVF_GRID_FP8, KVF_FORMAT_F16},
    {512, 128, false, false, KVF_GRID_FP8, KVF_FORMAT_F32},
    {128, 4, true, true, KVF_GRID_FP4, KVF_FORMAT_F32},
    {512, 4, true, false, KVF_GRID_NONE, KVF_FORMAT_F32},
    {128, 4, true, false, KVF_GRID_NONE, KVF_FORMAT_F32},
    {512, 8, true, false, KVF_GRID_FP8, KVF_FORMAT_FP8_BF16},
    {128, 8, false, true, KVF_GRID_FP4, KVF_FORMAT_FP4},
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

/* All tokens of a case; chunks are slices of it. */
struct sequence {
    const struct kind *kind;
    uint64_t first_token;
    uint32_t n_tokens;
    size_t columns;
    float *kv;
    float *gate;
    kvf_compressor_input learnt; /* bias and norm; kv and gate are each chunk's */
    kvf_rope_table rope;         /* of row first_token / ratio and later */
    size_t state_bytes;
};

/* Where tokens go: a layer's rows and state. */
struct layer {
    kvf_rows rows;
    float *state;
    uint64_t inexact_rows;
};

static struct sequence make_sequence(cf_run *run)
{
    uint64_t *random = &run->random;
    const struct kind *kind = &kinds[run->index % N_KINDS];
    struct sequence s = {.kind = kind};
    const uint32_t parts = kind->overlap ? 2 : 1;
    s.columns = (size_t)parts * kind->width;
    s.state_bytes = parts * kind->ratio * 2 * s.columns * sizeof(float);
    /* From the start, or (with a state full of something) from the middle of a window. */
    s.first_token = cf_chance(random, 3) ? kind->ratio * 5 + cf_pick(random, kind->ratio) : 0;
    s.n_tokens = 1 + cf_pick(random, 4 * kind->ratio + 20);
    /* Pooling of huge values overflows, which is an error the reference reports too. */
    const cf_pattern pattern =
        cf_chance(random, 3) ? (cf_pattern)cf_pick(random, CF_PATTERN_COUNT) : CF_NORMAL;
    s.kv = cf_random_floats(run, pattern, s.n_tokens * s.columns);
    s.gate =
        cf_random_floats(run, cf_chance(random, 3) ? CF_WIDE : CF_NORMAL, s.n_tokens * s.columns);
    s.learnt.position_bias = cf_random_floats(run, CF_NORMAL, kind->ratio * s.columns);
    float *weight = cf_random_floats(run, CF_NORMAL, kind->width);
    /* Rows too large or too small for f16, or (1e-30) for the range of index rows. */
    const float scales[] = {1.0f, 1.0f, 1.0f, 1e6f, 1e-4f, 1e-30f};
    const float scale = scales[cf_pick(random, 6)];
    for (uint32_t i = 0; i < kind->width; i++)
        weight[i] *= scale;
    s.learnt.norm_weight = weight;
    s.learnt.norm_eps = 1e-6f;
    s.rope = cf_rope_table(run, s.n_tokens / kind->ratio + 2);
    return s;
}

static struct layer make_layer(cf_run *run, const struct sequence *s, const float *state)
{
    const uint64_t n_rows = (s->first_token + s->n_tokens) / s->kind->ratio + 1;
    struct layer layer = {.rows = cf_rows(run, s->kind->format, s->kind->width, n_rows)};
    layer.state = cf_alloc(run, s->state_bytes);
    memcpy(layer.state, state, s->state_bytes);
    return layer;
}

static kvf_compress_args make_args(const struct sequence *s, const struct layer *layer,
                                   uint32_t first, uint32_t n)
{
    const struct kind *kind = s->kind;
    kvf_compress_args args = {.width = kind->width,
                              .ratio = kind->ratio,
                              .overlap = kind->overlap,
                              .first_token = s->first_token + first,
                              .n = n,
                              .input = s->learnt,
                              .rope = s->rope,
                              .state = layer->state,
                              .hadamard = kind->hadamard,
                              .grid = kind->grid,
                              .out = layer->rows};
    args.input.kv = s->kv + first * s->columns;
    args.input.gate = s->gate + first * s->columns;
    const uint64_t rows_before = args.first_token / kind->ratio - s->first_token / kind->ratio;
    args.rope.cosines += rows_before * (KVF_ROPE_WIDTH / 2);
    args.rope.sines += rows_before * (KVF_ROPE_WIDTH / 2);
    return args;
}

/* The first n stored rows as f32, so that layers with different pages can be compared. */
static float *decode(cf_run *run, const struct sequence *s, const kvf_rows *rows, uint64_t n)
{
    const uint64_t first = s->first_token / s->kind->ratio;
    float *values = cf_floats(run, n * s->kind->width);
    const kvf_unpack_args args = {
        .in = *rows, .first_row = first, .n_rows = n, .out = values, .stride = s->kind->width};
    run->device->backend->unpack(run->device, &args);
    cf_wait(run);
    return values;
}

/* Runs a chunk; where it fails, the state is as before, as whoever drops a chunk has it. */
static kvf_status run_chunk(cf_run *run, const struct sequence *s, struct layer *layer,
                            uint32_t first, uint32_t n)
{
    const kvf_compress_args args = make_args(s, layer, first, n);
    const kvf_findings found = cf_findings(run);
    float *state_before = cf_alloc(run, s->state_bytes);
    memcpy(state_before, layer->state, s->state_bytes);

    run->device->backend->compress(run->device, &args, &found, 1);
    cf_wait(run);
    const kvf_status status = cf_report_finding(run, &found);
    if (status != KVF_OK)
        memcpy(layer->state, state_before, s->state_bytes);
    else
        layer->inexact_rows += found.place->inexact_rows;
    return status;
}

/* Spoils one value of the chunk, sees it refused, and mends it. */
static void run_spoilt_chunk(cf_run *run, const struct sequence *s, struct layer *layer,
                             uint32_t first, uint32_t n)
{
    const float bad[] = {NAN, INFINITY, -INFINITY};
    float *values = cf_chance(&run->random, 2) ? s->kv : s->gate;
    float *spoilt = &values[(first + cf_pick(&run->random, n)) * s->columns +
                            cf_pick(&run->random, (uint32_t)s->columns)];
    const float good = *spoilt;
    *spoilt = bad[cf_pick(&run->random, 3)];
    assert_int_equal(run_chunk(run, s, layer, first, n), KVF_NONFINITE);
    *spoilt = good;
}

/*
 * Sessions with the sequence's first tokens, some, none that completes a row among them, in one
 * operation: what is found, and where nothing is rows and state, as each alone.
 */
static void check_sessions(cf_run *run, const struct sequence *s, const float *state)
{
    enum { MOST = 7 };
    struct layer alone[MOST];
    struct layer together[MOST];
    kvf_compress_args sessions[MOST];
    kvf_findings found_alone[MOST];
    kvf_findings found[MOST];
    const uint32_t n = CF_ONE_OF(&run->random, 2, 3, MOST);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t some = 1 + cf_pick(&run->random, s->n_tokens);
        const uint32_t n_tokens = CF_ONE_OF(&run->random, 1, some, s->n_tokens);
        alone[i] = make_layer(run, s, state);
        together[i] = make_layer(run, s, state);
        const kvf_compress_args args = make_args(s, &alone[i], 0, n_tokens);
        found_alone[i] = cf_findings(run);
        found[i] = cf_findings(run);
        found[i].first = found_alone[i].first;
        run->device->backend->compress(run->device, &args, &found_alone[i], 1);
        sessions[i] = make_args(s, &together[i], 0, n_tokens);
    }
    run->device->backend->compress(run->device, sessions, found, n);
    cf_wait(run);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(found[i].place->first_bad, found_alone[i].place->first_bad);
        if (cf_found(&found[i]) != KVF_OK)
            continue;
        assert_int_equal(found[i].place->inexact_rows, found_alone[i].place->inexact_rows);
        assert_memory_equal(together[i].state, alone[i].state, s->state_bytes);
        const uint64_t n_rows =
            (s->first_token + sessions[i].n) / s->kind->ratio - s->first_token / s->kind->ratio;
        const float *a = decode(run, s, &together[i].rows, n_rows);
        const float *b = decode(run, s, &alone[i].rows, n_rows);
        if (n_rows)
            assert_memory_equal(a, b, n_rows * s->kind->width * sizeof *a);
    }
}

static void run_compress(cf_run *run)
{
    const struct sequence s = make_sequence(run);
    float *state = cf_alloc(run, s.state_bytes);
    if (s.first_token > 0)
        cf_values(&run->random, CF_NORMAL, state, s.state_bytes / sizeof *state);
    struct layer chunked = make_layer(run, &s, state);
    struct layer whole = make_layer(run, &s, state);
    if (cf_chance(&run->random, 4))
        check_sessions(run, &s, state);

    kvf_status status = KVF_OK;
    for (uint32_t first = 0; first < s.n_tokens && status == KVF_OK;) {
        const uint32_t left = s.n_tokens - first;
        const uint32_t most = CF_ONE_OF(&run->random, 1, 3, 5, 150, 1000);
        const uint32_t n = 1 + cf_pick(&run->random, left < most ? left : most);
        if (cf_chance(&run->random, 6))
            run_spoilt_chunk(run, &s, &chunked, first, n);
        status = run_chunk(run, &s, &chunked, first, n);
        first += n;
    }
    /* However the tokens were split, the rows and the state are the same. */
    const kvf_status whole_status = run_chunk(run, &s, &whole, 0, s.n_tokens);
    assert_int_equal(whole_status, status);
    if (status != KVF_OK)
        return;
    cf_report(run, "inexact_rows", &chunked.inexact_rows, sizeof chunked.inexact_rows);
    cf_report_rows(run, &chunked.rows);
    cf_report(run, "state", chunked.state, s.state_bytes);
    assert_memory_equal(whole.state, chunked.state, s.state_bytes);
    assert_int_equal(whole.inexact_rows, chunked.inexact_rows);
    const uint64_t n_rows =
        (s.first_token + s.n_tokens) / s.kind->ratio - s.first_token / s.kind->ratio;
    const float *a = decode(run, &s, &chunked.rows, n_rows);
    const float *b = decode(run, &s, &whole.rows, n_rows);
    if (n_rows)
        assert_memory_equal(a, b, n_rows * s.kind->width * sizeof *a);
}

const cf_operation cf_compress = {"compress", "bit-identical", N_KINDS * 20, false, run_compress};
