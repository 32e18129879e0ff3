/*
 * A device whose memory is the host's, for a backend whose is not: every operation runs on
 * copies (backend/mirror.h) and is done when it returns. So cases prepare and look at memory
 * themselves, whatever the backend.
 */
#include "conformance.h"

#include <stdlib.h>

#include "backend/mirror.h"
#include "format/format.h"

struct mirrored {
    kvf_device base; /* first */
    kvf_device *inner;
    kvf_backend table; /* with the inner backend's name */
    kvf_error error;   /* of the first operation that failed */
};

static struct mirrored *mirrored_of(kvf_device *device)
{
    return (struct mirrored *)device;
}

static kvf_mirror begin(kvf_device *device)
{
    kvf_mirror m;
    kvf_mirror_begin(&m, mirrored_of(device)->inner);
    return m;
}

static void note(kvf_device *device, kvf_status status, const kvf_error *error)
{
    struct mirrored *mirrored = mirrored_of(device);
    if (status != KVF_OK && mirrored->error.status == KVF_OK)
        mirrored->error = *error;
}

static void end(kvf_device *device, kvf_mirror *m)
{
    kvf_error error;
    note(device, kvf_mirror_end(m, &error), &error);
}

/* Runs an operation that is void on `there`, unless there was no memory for copies. */
#define RUN(operation)                                                                             \
    do {                                                                                           \
        if (!m.failed)                                                                             \
            m.device->backend->operation(m.device, &there);                                        \
        end(device, &m);                                                                           \
    } while (0)

static size_t floats(uint64_t n, size_t stride, size_t width)
{
    return n ? ((size_t)(n - 1) * stride + width) * sizeof(float) : 0;
}

/* ---- Memory ----------------------------------------------------------------------------- */

static void *host_alloc(kvf_device *device, size_t bytes, kvf_place place)
{
    void *memory = NULL;
    (void)device;
    (void)place;
    return posix_memalign(&memory, 64, bytes ? bytes : 1) == 0 ? memory : NULL;
}

static void host_release(kvf_device *device, void *memory, size_t bytes)
{
    (void)device;
    (void)bytes;
    free(memory);
}

static kvf_status mirrored_wait(kvf_device *device, kvf_error *error)
{
    const struct mirrored *mirrored = mirrored_of(device);
    *error = mirrored->error;
    return mirrored->error.status;
}

/* ---- Dense layers ----------------------------------------------------------------------- */

static kvf_matrix matrix_there(kvf_mirror *m, const kvf_matrix *matrix)
{
    const kvf_weight_type *type = kvf_weight_get(matrix->type);
    const kvf_weight_scales scales = kvf_weight_scales_of(type, matrix->rows, matrix->cols);
    kvf_matrix there = *matrix;
    if (!matrix->data)
        return there;
    there.data = kvf_mirror_in(m, matrix->data,
                               (matrix->rows - 1) * matrix->row_bytes +
                                   kvf_weight_row_bytes(type, matrix->cols));
    if (matrix->scales)
        there.scales =
            kvf_mirror_in(m, matrix->scales,
                          (size_t)(scales.rows - 1) * matrix->scale_stride + scales.stride_bytes);
    return there;
}

static void mirrored_embed(kvf_device *device, const kvf_embed_args *args)
{
    kvf_mirror m = begin(device);
    kvf_embed_args there = *args;
    there.streams = kvf_mirror_out(
        &m, args->streams, (size_t)args->n * args->n_streams * args->table.cols * sizeof(float));
    there.tokens = kvf_mirror_in(&m, args->tokens, args->n * sizeof *args->tokens);
    there.table = matrix_there(&m, &args->table);
    RUN(embed);
}

static void mirrored_matmul(kvf_device *device, const kvf_matmul_args *args)
{
    kvf_mirror m = begin(device);
    kvf_matmul_args there = *args;
    const size_t groups = args->groups ? args->groups : 1;
    there.out = kvf_mirror_out(&m, args->out, floats(args->n, args->out_stride, args->weight.rows));
    there.in =
        kvf_mirror_in(&m, args->in, floats(args->n, args->in_stride, groups * args->weight.cols));
    there.weight = matrix_there(&m, &args->weight);
    RUN(matmul);
}

static void mirrored_norm(kvf_device *device, const kvf_norm_args *args)
{
    kvf_mirror m = begin(device);
    kvf_norm_args there = *args;
    there.out = kvf_mirror_out(&m, args->out, floats(args->n, args->out_stride, args->width));
    there.in = kvf_mirror_in(&m, args->in, floats(args->n, args->in_stride, args->width));
    there.weight = kvf_mirror_in(&m, args->weight, args->width * sizeof(float));
    RUN(norm);
}

static kvf_rope_table table_there(kvf_mirror *m, kvf_rope_table table, uint64_t n)
{
    const size_t bytes = (size_t)n * (KVF_ROPE_WIDTH / 2) * sizeof(float);
    return (kvf_rope_table){.cosines = kvf_mirror_in(m, table.cosines, bytes),
                            .sines = kvf_mirror_in(m, table.sines, bytes)};
}

static void mirrored_rope(kvf_device *device, const kvf_rope_args *args)
{
    kvf_mirror m = begin(device);
    kvf_rope_args there = *args;
    there.values = kvf_mirror_out(&m, args->values,
                                  (size_t)args->n * args->heads * args->width * sizeof(float));
    there.table = table_there(&m, args->table, args->n);
    RUN(rope);
}

static void mirrored_mix(kvf_device *device, const kvf_mix_args *args)
{
    kvf_mirror m = begin(device);
    kvf_mix_args there = *args;
    const size_t n = args->n_streams;
    const size_t tokens = args->n * sizeof(float);
    const size_t n_mix = args->sinkhorn_rounds ? n * (2 + n) : n;
    there.out = kvf_mirror_out(&m, args->out, tokens * args->hidden);
    there.post = kvf_mirror_out(&m, args->post, tokens * n);
    there.comb = kvf_mirror_out(&m, args->comb, tokens * n * n);
    there.mix = kvf_mirror_scratch(&m, tokens * n_mix);
    there.streams = kvf_mirror_in(&m, args->streams, tokens * n * args->hidden);
    there.weights.fn = matrix_there(&m, &args->weights.fn);
    there.weights.base = kvf_mirror_in(&m, args->weights.base, n_mix * sizeof(float));
    there.weights.scale =
        kvf_mirror_in(&m, args->weights.scale, (args->sinkhorn_rounds ? 3 : 1) * sizeof(float));
    RUN(mix);
}

static void mirrored_unmix(kvf_device *device, const kvf_unmix_args *args)
{
    kvf_mirror m = begin(device);
    kvf_unmix_args there = *args;
    const size_t n = args->n_streams;
    const size_t tokens = args->n * sizeof(float);
    there.streams = kvf_mirror_out(&m, args->streams, tokens * n * args->hidden);
    there.sublayer = kvf_mirror_in(&m, args->sublayer, tokens * args->hidden);
    there.post = kvf_mirror_in(&m, args->post, tokens * n);
    there.comb = kvf_mirror_in(&m, args->comb, tokens * n * n);
    RUN(unmix);
}

static void mirrored_route(kvf_device *device, const kvf_route_args *args)
{
    kvf_mirror m = begin(device);
    kvf_route_args there = *args;
    const size_t n_choices = (size_t)args->n * args->top_k;
    int32_t highest = 0;
    for (uint32_t i = 0; args->token_map && i < args->n; i++)
        highest = args->tokens[i] > highest ? args->tokens[i] : highest;
    there.experts = kvf_mirror_out(&m, args->experts, n_choices * sizeof *args->experts);
    there.weights = kvf_mirror_out(&m, args->weights, n_choices * sizeof *args->weights);
    there.logits =
        kvf_mirror_in(&m, args->logits, (size_t)args->n * args->n_experts * sizeof(float));
    there.bias = kvf_mirror_in(&m, args->bias, args->n_experts * sizeof(float));
    there.token_map =
        kvf_mirror_in(&m, args->token_map, ((size_t)highest + 1) * args->top_k * sizeof(int32_t));
    there.tokens =
        args->token_map ? kvf_mirror_in(&m, args->tokens, args->n * sizeof(int32_t)) : NULL;
    RUN(route);
}

static kvf_expert_weights expert_there(kvf_mirror *m, const kvf_expert_weights *expert)
{
    return (kvf_expert_weights){.w1 = matrix_there(m, &expert->w1),
                                .w3 = matrix_there(m, &expert->w3),
                                .w2 = matrix_there(m, &expert->w2)};
}

static void mirrored_experts(kvf_device *device, const kvf_experts_args *args)
{
    kvf_mirror m = begin(device);
    kvf_experts_args there = *args;
    const kvf_backend *backend = m.device->backend;
    const size_t n_choices = (size_t)args->n * args->top_k;
    const size_t values = (size_t)args->n * args->hidden * sizeof(float);
    kvf_expert_weights *routed = calloc(args->n_experts, sizeof *routed);
    if (!routed)
        fail_msg("no memory for the test itself");
    for (uint32_t e = 0; e < args->n_experts; e++)
        routed[e] = expert_there(&m, &args->routed[e]);
    there.routed = routed;
    if (args->shared_ffn)
        there.shared = expert_there(&m, &args->shared);
    there.out = kvf_mirror_out(&m, args->out, values);
    there.in = kvf_mirror_in(&m, args->in, values);
    there.experts = kvf_mirror_in(&m, args->experts, n_choices * sizeof *args->experts);
    there.weights = kvf_mirror_in(&m, args->weights, n_choices * sizeof *args->weights);
    there.workspace = kvf_mirror_scratch(&m, backend->experts_workspace_bytes(m.device, args));
    RUN(experts);
    free(routed); /* the queue is done */
}

/* ---- Stages ------------------------------------------------------------------------------ */

/* Arrays of n, for the arguments and findings of sessions. */
static void *array(uint32_t n, size_t bytes)
{
    void *made = calloc(n, bytes);
    if (!made)
        fail_msg("no memory for the test itself");
    return made;
}

/* A finding that is the case's memory, where the device can lower it. */
static kvf_findings finding_there(kvf_mirror *m, kvf_findings found)
{
    return (kvf_findings){.place = kvf_mirror_out(m, found.place, sizeof *found.place),
                          .first = found.first};
}

static kvf_check_args check_there(kvf_mirror *m, const kvf_check_args *args)
{
    kvf_check_args there = *args;
    there.values = kvf_mirror_in(m, args->values, floats(args->n_rows, args->width, args->width));
    return there;
}

static kvf_pack_args pack_there(kvf_mirror *m, const kvf_pack_args *args)
{
    kvf_pack_args there = *args;
    there.out = kvf_mirror_rows(m, &args->out, true);
    there.rows = kvf_mirror_in(m, args->rows, floats(args->n_rows, args->stride, args->out.width));
    return there;
}

static kvf_compress_args compress_there(kvf_mirror *m, const kvf_compress_args *args)
{
    kvf_compress_args there = *args;
    const size_t parts = args->overlap ? 2 : 1;
    const size_t columns = parts * args->width;
    const uint64_t n_rows =
        (args->first_token + args->n) / args->ratio - args->first_token / args->ratio;
    there.state = kvf_mirror_out(m, args->state, parts * args->ratio * 2 * columns * sizeof(float));
    there.out = kvf_mirror_rows(m, &args->out, true);
    there.input.kv = kvf_mirror_in(m, args->input.kv, args->n * columns * sizeof(float));
    there.input.gate = kvf_mirror_in(m, args->input.gate, args->n * columns * sizeof(float));
    there.input.position_bias =
        kvf_mirror_in(m, args->input.position_bias, args->ratio * columns * sizeof(float));
    there.input.norm_weight =
        kvf_mirror_in(m, args->input.norm_weight, args->width * sizeof(float));
    there.rope = table_there(m, args->rope, n_rows);
    return there;
}

#define MIRRORED_FINDING(operation)                                                                \
    static void mirrored_##operation(kvf_device *device, const kvf_##operation##_args *args,       \
                                     const kvf_findings *found, uint32_t n)                        \
    {                                                                                              \
        kvf_mirror m = begin(device);                                                              \
        kvf_##operation##_args *there = array(n, sizeof *there);                                   \
        kvf_findings *places = array(n, sizeof *places);                                           \
        for (uint32_t i = 0; i < n; i++) {                                                         \
            there[i] = operation##_there(&m, &args[i]);                                            \
            places[i] = finding_there(&m, found[i]);                                               \
        }                                                                                          \
        if (!m.failed)                                                                             \
            m.device->backend->operation(m.device, there, places, n);                              \
        end(device, &m);                                                                           \
        free(there);                                                                               \
        free(places);                                                                              \
    }
MIRRORED_FINDING(check)
MIRRORED_FINDING(pack)
MIRRORED_FINDING(compress)

#define MIRRORED_STAGE(operation)                                                                  \
    static void mirrored_##operation(kvf_device *device, const kvf_##operation##_args *args,       \
                                     uint32_t n)                                                   \
    {                                                                                              \
        kvf_mirror m = begin(device);                                                              \
        kvf_##operation##_args *there = array(n, sizeof *there);                                   \
        for (uint32_t i = 0; i < n; i++)                                                           \
            there[i] = kvf_mirror_##operation##_args(&m, &args[i]);                                \
        if (!m.failed)                                                                             \
            m.device->backend->operation(m.device, there, n);                                      \
        end(device, &m);                                                                           \
        free(there);                                                                               \
    }
MIRRORED_STAGE(select)
MIRRORED_STAGE(attend)

static void mirrored_unpack(kvf_device *device, const kvf_unpack_args *args)
{
    kvf_error error;
    note(device, kvf_mirror_unpack(mirrored_of(device)->inner, args, &error), &error);
}

static void mirrored_score(kvf_device *device, const kvf_score_args *args)
{
    kvf_mirror m = begin(device);
    const kvf_select_args inputs = kvf_mirror_select_inputs(&m, args->select);
    kvf_score_args there = *args;
    there.select = &inputs;
    there.scores =
        kvf_mirror_out(&m, args->scores, floats(args->n_queries, args->stride, args->n_rows));
    RUN(score);
}

static void mirrored_mask(kvf_device *device, const kvf_mask_args *args)
{
    kvf_mirror m = begin(device);
    kvf_mask_args there = *args;
    const size_t n = args->n_queries;
    const size_t values = floats(n, args->mask_stride, args->n_rows);
    there.mask_f32 = kvf_mirror_out(&m, args->mask_f32, values);
    there.mask_f16 = kvf_mirror_out(&m, args->mask_f16, values / 2);
    there.scores = kvf_mirror_in(&m, args->scores, floats(n, args->score_stride, args->n_rows));
    there.n_visible = kvf_mirror_in(&m, args->n_visible, n * sizeof *args->n_visible);
    RUN(mask);
}

static void mirrored_sample(kvf_device *device, const kvf_sample_args *args)
{
    kvf_mirror m = begin(device);
    kvf_sample_args there = *args;
    const size_t bytes = (size_t)args->n * args->vocab * sizeof(float);
    there.out = kvf_mirror_out(&m, args->out, args->n * sizeof *args->out);
    there.logits = kvf_mirror_in(&m, args->logits, bytes);
    there.changed = args->changed ? kvf_mirror_scratch(&m, bytes) : NULL;
    RUN(sample);
}

/* ---- The device -------------------------------------------------------------------------- */

static size_t experts_workspace_bytes(const kvf_device *device, const kvf_experts_args *args)
{
    const kvf_device *inner = ((const struct mirrored *)device)->inner;
    return inner->backend->experts_workspace_bytes(inner, args);
}

static void mirrored_close(kvf_device *device)
{
    kvf_device_close(mirrored_of(device)->inner);
    free(device);
}

kvf_device *cf_mirrored(kvf_device *inner)
{
    struct mirrored *mirrored = calloc(1, sizeof *mirrored);
    if (!mirrored)
        return NULL;
    mirrored->inner = inner;
    mirrored->table =
        (kvf_backend){.name = inner->backend->name,
                      .takes_stored_weights = inner->backend->takes_stored_weights,
                      .close = mirrored_close,
                      .alloc = host_alloc,
                      .release = host_release,
                      .zero = kvf_host_zero,
                      .write = kvf_host_write,
                      .read = kvf_host_read,
                      .copy = kvf_host_copy,
                      .wait = mirrored_wait,
                      .embed = mirrored_embed,
                      .matmul = mirrored_matmul,
                      .norm = mirrored_norm,
                      .rope = mirrored_rope,
                      .mix = mirrored_mix,
                      .unmix = mirrored_unmix,
                      .route = mirrored_route,
                      .experts = mirrored_experts,
                      .sample = mirrored_sample,
                      .check = mirrored_check,
                      .compress = mirrored_compress,
                      .pack = mirrored_pack,
                      .unpack = mirrored_unpack,
                      .select = mirrored_select,
                      .score = mirrored_score,
                      .mask = mirrored_mask,
                      .attend = mirrored_attend,
                      .experts_workspace_bytes = experts_workspace_bytes,
                      .select_workspace_bytes = inner->backend->select_workspace_bytes,
                      .attend_workspace_bytes = inner->backend->attend_workspace_bytes};
    mirrored->base =
        (kvf_device){.backend = &mirrored->table, .isa = inner->isa, .n_threads = inner->n_threads};
    return &mirrored->base;
}
