/*
 * The dense kernels that the backend's table does not reach yet, through device.h: weights
 * in f16 and bf16, and the argmax of the logits.
 *
 * matmul of each type is held to a sum in double precision; the other kernels of f16 and
 * bf16 weights to the f32 kernel on the same values, bit for bit, which the conformance
 * suite holds to the reference.
 */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/gpu/dense.h"
#include "backend/gpu/driver.h"

typedef enum weight_type { F32, F16, BF16, N_TYPES } weight_type;

static const char *const type_names[N_TYPES] = {"f32", "f16", "bf16"};
static const size_t type_bytes[N_TYPES] = {4, 2, 2};

/* ---- The GPU ------------------------------------------------------------------- */

struct machine {
    kvf_gpu *gpu;
    kvf_gpu_library *library;
};

static void check(kvf_status status, const kvf_error *error)
{
    if (status != KVF_OK)
        fail_msg("%s", error->message);
}

static struct machine open_machine(const char *file)
{
    struct machine m;
    kvf_error error;
    check(kvf_gpu_open(&m.gpu, &error), &error);
    /* The emulator finds the library by the file's name; the source only has to be there. */
    check(kvf_gpu_compile(m.gpu, file, file, &m.library, &error), &error);
    return m;
}

static void close_machine(struct machine *m)
{
    kvf_gpu_release_library(m->gpu, m->library);
    kvf_gpu_close(m->gpu);
}

static kvf_gpu_buffer make_buffer(struct machine *m, size_t bytes)
{
    kvf_gpu_buffer buffer;
    assert_true(kvf_gpu_make_buffer(m->gpu, bytes ? bytes : 4, &buffer));
    memset(buffer.contents, 0xff, buffer.bytes); /* NaN */
    return buffer;
}

/* Runs the named kernel; the dispatch's pipeline is filled in here. */
static void run_kernel(struct machine *m, const char *kernel, kvf_gpu_dispatch *dispatch)
{
    kvf_error error;
    kvf_gpu_pipeline *pipeline;
    check(kvf_gpu_make_pipeline(m->gpu, m->library, kernel, &pipeline, &error), &error);
    dispatch->pipeline = pipeline;
    kvf_gpu_run(m->gpu, dispatch);
    check(kvf_gpu_wait(m->gpu, &error), &error);
    kvf_gpu_release_pipeline(m->gpu, pipeline);
}

static void run_typed(struct machine *m, const char *kernel, weight_type type,
                      kvf_gpu_dispatch *dispatch)
{
    char name[64];
    snprintf(name, sizeof name, "%s_%s", kernel, type_names[type]);
    run_kernel(m, name, dispatch);
}

/* ---- Values --------------------------------------------------------------------- */

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* [-1, 1) */
static float next_unit(uint32_t *state)
{
    return (float)next_random(state) * 0x1p-23f - 1.0f;
}

/*
 * A random weight that f16 and bf16 both hold: sign, 7 mantissa bits, exponent -14 .. 1.
 * Its three encodings are built here from those parts, by nobody's codec.
 */
static void store_weight(uint32_t *state, void *const stored[N_TYPES], size_t i)
{
    const uint32_t sign = next_random(state) & 1;
    const uint32_t mantissa = next_random(state) & 0x7f;
    const int exponent = (int)(next_random(state) % 16) - 14;
    const double magnitude = ldexp(1.0 + mantissa / 128.0, exponent);
    ((float *)stored[F32])[i] = (float)(sign ? -magnitude : magnitude);
    ((uint16_t *)stored[F16])[i] =
        (uint16_t)(sign << 15 | (uint32_t)(exponent + 15) << 10 | mantissa << 3);
    ((uint16_t *)stored[BF16])[i] =
        (uint16_t)(sign << 15 | (uint32_t)(exponent + 127) << 7 | mantissa);
}

/* The same n weights in buffers of the three types. */
static void make_weights(struct machine *m, uint32_t *state, size_t n,
                         kvf_gpu_buffer buffers[N_TYPES])
{
    void *contents[N_TYPES];
    for (weight_type type = F32; type < N_TYPES; type++) {
        buffers[type] = make_buffer(m, n * type_bytes[type]);
        contents[type] = buffers[type].contents;
    }
    for (size_t i = 0; i < n; i++)
        store_weight(state, contents, i);
}

static kvf_gpu_buffer make_inputs(struct machine *m, uint32_t *state, size_t n)
{
    const kvf_gpu_buffer buffer = make_buffer(m, n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        ((float *)buffer.contents)[i] = next_unit(state);
    return buffer;
}

static void release(struct machine *m, kvf_gpu_buffer *buffers, size_t n)
{
    for (size_t i = 0; i < n; i++)
        kvf_gpu_release_buffer(m->gpu, &buffers[i]);
}

static uint32_t pieces(uint32_t n, uint32_t piece)
{
    return (n + piece - 1) / piece;
}

/* ---- matmul ----------------------------------------------------------------------- */

static kvf_gpu_buffer run_matmul(struct machine *m, weight_type type, kvf_matmul_kernel_args args,
                                 const kvf_gpu_buffer *weight, const kvf_gpu_buffer *in)
{
    const kvf_gpu_buffer out = make_buffer(m, args.n * args.out_stride * sizeof(float));
    kvf_gpu_dispatch dispatch = {.arguments = &args,
                                 .argument_bytes = sizeof args,
                                 .n_buffers = 3,
                                 .buffers = {weight, in, &out},
                                 .n_threadgroup_arrays = 1};
    const char *kernel;
    if (args.n >= KVF_TILE_LEAST_TOKENS) {
        kernel = "kvf_matmul_tile";
        memcpy(dispatch.groups,
               (uint32_t[]){pieces(args.rows, KVF_TILE_ROWS), pieces(args.n, KVF_TILE_TOKENS), 1},
               sizeof dispatch.groups);
        memcpy(dispatch.threads, (uint32_t[]){KVF_TILE_THREADS, 1, 1}, sizeof dispatch.threads);
        dispatch.threadgroup_bytes[0] = KVF_TILE_BYTES;
    } else {
        const uint32_t tokens = args.n == 1 ? 1 : KVF_VECTOR_MANY_TOKENS;
        kernel = args.n == 1 ? "kvf_matmul_one" : "kvf_matmul_few";
        memcpy(dispatch.groups,
               (uint32_t[]){pieces(args.rows, KVF_VECTOR_ROWS), pieces(args.n, tokens), 1},
               sizeof dispatch.groups);
        memcpy(dispatch.threads, (uint32_t[]){KVF_VECTOR_THREADS, 1, 1}, sizeof dispatch.threads);
        dispatch.threadgroup_bytes[0] = KVF_VECTOR_BYTES;
    }
    run_typed(m, kernel, type, &dispatch);
    return out;
}

/* Every product within k u sum |a b| of a sum in double, as conformance/dense.c has it. */
static void compare_with_double(kvf_matmul_kernel_args args, const float *weight, const float *in,
                                const float *out)
{
    for (size_t t = 0; t < args.n; t++) {
        for (size_t r = 0; r < args.rows; r++) {
            double sum = 0.0;
            double size = 0.0;
            for (size_t i = 0; i < args.cols; i++) {
                const double product =
                    (double)weight[r * args.cols + i] * (double)in[t * args.in_stride + i];
                sum += product;
                size += fabs(product);
            }
            const double got = out[t * args.out_stride + r];
            if (!(fabs(got - sum) <= 1.01 * 0x1p-24 * args.cols * size + 0x1p-149))
                fail_msg("n %u rows %u cols %u: out[%zu][%zu] is %.9g, not %.9g", args.n, args.rows,
                         args.cols, t, r, got, sum);
        }
        for (size_t r = args.rows; r < args.out_stride; r++)
            assert_true(isnan(out[t * args.out_stride + r])); /* the gap was not written */
    }
}

static void check_matmul(struct machine *m, uint32_t *state, kvf_matmul_kernel_args args)
{
    kvf_gpu_buffer weights[N_TYPES];
    make_weights(m, state, (size_t)args.rows * args.cols, weights);
    kvf_gpu_buffer in = make_inputs(m, state, args.n * args.in_stride);
    kvf_gpu_buffer out[N_TYPES];
    for (weight_type type = F32; type < N_TYPES; type++) {
        out[type] = run_matmul(m, type, args, &weights[type], &in);
        compare_with_double(args, weights[F32].contents, in.contents, out[type].contents);
        assert_memory_equal(out[type].contents, out[F32].contents,
                            args.n * args.out_stride * sizeof(float));
    }
    /* Whether four values are loaded at once must not be seen in the result. */
    kvf_matmul_kernel_args single = args;
    single.vectors = 0;
    kvf_gpu_buffer again = run_matmul(m, BF16, single, &weights[BF16], &in);
    assert_memory_equal(again.contents, out[F32].contents,
                        args.n * args.out_stride * sizeof(float));
    release(m, &again, 1);
    release(m, out, N_TYPES);
    release(m, &in, 1);
    release(m, weights, N_TYPES);
}

static void test_matmul(void **unused)
{
    (void)unused;
    struct machine m = open_machine("matmul.metal");
    uint32_t state = 1;
    const uint32_t shapes[][2] = {{1, 1}, {3, 5}, {64, 32}, {67, 36}, {9, 130}, {33, 516}};
    const uint32_t ns[] = {1, 2, 7, 8, 37};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (size_t n = 0; n < sizeof ns / sizeof ns[0]; n++) {
            const uint32_t rows = shapes[s][0];
            const uint32_t cols = shapes[s][1];
            const uint32_t gap = n % 2 * 4;
            check_matmul(&m, &state,
                         (kvf_matmul_kernel_args){.in_stride = cols + gap,
                                                  .out_stride = rows + gap,
                                                  .n = ns[n],
                                                  .rows = rows,
                                                  .cols = cols,
                                                  .vectors = cols % 4 == 0});
        }
    }
    close_machine(&m);
}

/* ---- embed ------------------------------------------------------------------------ */

static void test_embed(void **unused)
{
    (void)unused;
    struct machine m = open_machine("embed.metal");
    uint32_t state = 2;
    enum { VOCAB = 11, HIDDEN = 200, STREAMS = 3, N = 5 };
    kvf_gpu_buffer tables[N_TYPES];
    make_weights(&m, &state, (size_t)VOCAB * HIDDEN, tables);
    kvf_gpu_buffer tokens = make_buffer(&m, N * sizeof(int32_t));
    const int32_t chosen[N] = {10, 0, 3, 3, 7};
    memcpy(tokens.contents, chosen, sizeof chosen);
    const kvf_embed_kernel_args args = {.hidden = HIDDEN, .n_streams = STREAMS};
    for (weight_type type = F32; type < N_TYPES; type++) {
        kvf_gpu_buffer streams = make_buffer(&m, sizeof(float) * N * STREAMS * HIDDEN);
        kvf_gpu_dispatch dispatch = {.groups = {N, pieces(HIDDEN, KVF_ELEMENT_THREADS), 1},
                                     .threads = {KVF_ELEMENT_THREADS, 1, 1},
                                     .arguments = &args,
                                     .argument_bytes = sizeof args,
                                     .n_buffers = 3,
                                     .buffers = {&tables[type], &tokens, &streams}};
        run_typed(&m, "kvf_embed", type, &dispatch);
        for (size_t i = 0; i < (size_t)N * STREAMS; i++)
            assert_memory_equal((float *)streams.contents + i * HIDDEN,
                                (float *)tables[F32].contents +
                                    (size_t)chosen[i / STREAMS] * HIDDEN,
                                HIDDEN * sizeof(float));
        release(&m, &streams, 1);
    }
    release(&m, &tokens, 1);
    release(&m, tables, N_TYPES);
    close_machine(&m);
}

/* ---- experts ------------------------------------------------------------------------ */

enum { HIDDEN = 68, FFN = 44, EXPERTS = 3, TOKENS = 9, CHOICES = TOKENS * EXPERTS };

/* One layer of experts in one type, and what its kernels made of it. */
struct expert_run {
    kvf_gpu_buffer table;
    kvf_gpu_buffer act;
    kvf_gpu_buffer out;
};

/* Entries of `bytes`-wide weights: three matrices an expert, one after the other. */
static void fill_block(kvf_expert_block *block, const kvf_gpu_buffer *weights, size_t bytes,
                       uint32_t expert, uint32_t first, uint32_t n)
{
    const uint64_t matrix_bytes = (uint64_t)HIDDEN * FFN * bytes;
    const uint64_t w1 = weights->gpu_address + 3 * expert * matrix_bytes;
    *block = (kvf_expert_block){
        .w1 = w1, .w3 = w1 + matrix_bytes, .w2 = w1 + 2 * matrix_bytes, .first = first, .n = n};
}

/* Every token goes to every expert. By tiles: a block an expert; by vectors: an entry a choice. */
static struct expert_run run_experts(struct machine *m, weight_type type, bool tiles,
                                     const kvf_gpu_buffer *weights, const kvf_gpu_buffer *order,
                                     const kvf_gpu_buffer *in, const kvf_gpu_buffer *shares)
{
    struct expert_run run = {
        .table = make_buffer(m, CHOICES * sizeof(kvf_expert_block)),
        .act = make_buffer(m, sizeof(float) * CHOICES * FFN),
        .out = make_buffer(m, sizeof(float) * (tiles ? CHOICES : TOKENS) * HIDDEN)};
    kvf_expert_block *blocks = run.table.contents;
    for (uint32_t i = 0; i < (tiles ? EXPERTS : CHOICES); i++)
        fill_block(&blocks[i], weights, type_bytes[type], i % EXPERTS, i * TOKENS, TOKENS);
    const kvf_experts_kernel_args args = {.hidden = HIDDEN,
                                          .ffn = FFN,
                                          .limit = 0.75f,
                                          .top_k = EXPERTS,
                                          .n_choices = CHOICES,
                                          .n_slots = EXPERTS,
                                          .vectors = 1};
    kvf_gpu_dispatch up = {
        .arguments = &args, .argument_bytes = sizeof args, .n_threadgroup_arrays = 1};
    kvf_gpu_dispatch down = up;
    if (tiles) {
        up = (kvf_gpu_dispatch){.groups = {pieces(FFN, KVF_EXPERT_TILE_FFN), EXPERTS, 1},
                                .threads = {KVF_TILE_THREADS, 1, 1},
                                .arguments = &args,
                                .argument_bytes = sizeof args,
                                .n_buffers = 4,
                                .buffers = {&run.table, order, in, &run.act},
                                .n_threadgroup_arrays = 1,
                                .threadgroup_bytes = {KVF_TILE_BYTES}};
        down = up;
        down.groups[0] = pieces(HIDDEN, KVF_TILE_ROWS);
        down.n_buffers = 3;
        down.buffers[1] = &run.act;
        down.buffers[2] = &run.out;
    } else {
        up = (kvf_gpu_dispatch){.groups = {pieces(FFN, KVF_VECTOR_ROWS), EXPERTS, TOKENS},
                                .threads = {KVF_VECTOR_THREADS, 1, 1},
                                .arguments = &args,
                                .argument_bytes = sizeof args,
                                .n_buffers = 3,
                                .buffers = {&run.table, in, &run.act},
                                .n_threadgroup_arrays = 1,
                                .threadgroup_bytes = {KVF_VECTOR_BYTES}};
        down = up;
        memcpy(down.groups, (uint32_t[]){pieces(HIDDEN, KVF_VECTOR_ROWS), TOKENS, 1},
               sizeof down.groups);
        down.n_buffers = 4;
        down.buffers[1] = &run.act;
        down.buffers[2] = shares;
        down.buffers[3] = &run.out;
    }
    run_typed(m, tiles ? "kvf_experts_gate_up_tile" : "kvf_experts_gate_up_vector", type, &up);
    run_typed(m, tiles ? "kvf_experts_down_tile" : "kvf_experts_down_vector", type, &down);
    return run;
}

static void check_experts(bool tiles)
{
    struct machine m = open_machine("experts.metal");
    uint32_t state = 3;
    kvf_gpu_buffer weights[N_TYPES];
    make_weights(&m, &state, (size_t)EXPERTS * 3 * HIDDEN * FFN, weights);
    kvf_gpu_buffer in = make_inputs(&m, &state, (size_t)TOKENS * HIDDEN);
    kvf_gpu_buffer shares = make_inputs(&m, &state, CHOICES);
    kvf_gpu_buffer order = make_buffer(&m, CHOICES * sizeof(uint32_t));
    for (uint32_t i = 0; i < CHOICES; i++) /* choice i: token i % TOKENS, expert i / TOKENS */
        ((uint32_t *)order.contents)[i] = i % TOKENS * EXPERTS + i / TOKENS;
    struct expert_run runs[N_TYPES];
    for (weight_type type = F32; type < N_TYPES; type++) {
        runs[type] = run_experts(&m, type, tiles, &weights[type], &order, &in, &shares);
        assert_memory_equal(runs[type].act.contents, runs[F32].act.contents,
                            sizeof(float) * CHOICES * FFN);
        assert_memory_equal(runs[type].out.contents, runs[F32].out.contents, runs[F32].out.bytes);
    }
    for (size_t i = 0; i < runs[F32].out.bytes / sizeof(float); i++)
        assert_true(isfinite(((float *)runs[F32].out.contents)[i]));
    for (weight_type type = F32; type < N_TYPES; type++) {
        release(&m, &runs[type].table, 1);
        release(&m, &runs[type].act, 1);
        release(&m, &runs[type].out, 1);
    }
    release(&m, &order, 1);
    release(&m, &shares, 1);
    release(&m, &in, 1);
    release(&m, weights, N_TYPES);
    close_machine(&m);
}

static void test_experts_by_vectors(void **unused)
{
    (void)unused;
    check_experts(false);
}

static void test_experts_by_tiles(void **unused)
{
    (void)unused;
    check_experts(true);
}

/* ---- argmax -------------------------------------------------------------------------- */

static uint32_t run_argmax(struct machine *m, const float *logits, uint32_t n)
{
    const uint32_t n_parts = pieces(n, KVF_ARGMAX_GROUP_VALUES);
    kvf_gpu_buffer in = make_buffer(m, n * sizeof(float));
    kvf_gpu_buffer found = make_buffer(m, n_parts * sizeof(uint32_t));
    kvf_gpu_buffer answer = make_buffer(m, sizeof(uint32_t));
    memcpy(in.contents, logits, n * sizeof(float));
    kvf_argmax_kernel_args args = {.n = n};
    kvf_gpu_dispatch dispatch = {.groups = {n_parts, 1, 1},
                                 .threads = {KVF_ARGMAX_THREADS, 1, 1},
                                 .arguments = &args,
                                 .argument_bytes = sizeof args,
                                 .n_buffers = 2,
                                 .buffers = {&in, &found},
                                 .n_threadgroup_arrays = 1,
                                 .threadgroup_bytes = {KVF_ARGMAX_BYTES}};
    run_kernel(m, "kvf_argmax_parts", &dispatch);
    args.n = n_parts;
    dispatch.groups[0] = 1;
    dispatch.n_buffers = 3;
    dispatch.buffers[2] = &answer;
    run_kernel(m, "kvf_argmax_merge", &dispatch);
    const uint32_t best = *(uint32_t *)answer.contents;
    release(m, &in, 1);
    release(m, &found, 1);
    release(m, &answer, 1);
    return best;
}

static void test_argmax(void **unused)
{
    (void)unused;
    struct machine m = open_machine("sample.metal");
    enum { MOST = 3 * KVF_ARGMAX_GROUP_VALUES + 5 };
    const uint32_t ns[] = {1,   31, 33, 257, KVF_ARGMAX_GROUP_VALUES, KVF_ARGMAX_GROUP_VALUES + 1,
                           MOST};
    float *logits = malloc(MOST * sizeof *logits);
    assert_non_null(logits);
    uint32_t state = 4;
    for (size_t s = 0; s < sizeof ns / sizeof ns[0]; s++) {
        const uint32_t n = ns[s];
        for (uint32_t i = 0; i < n; i++)
            logits[i] = next_unit(&state);
        /* Each of two equal highest values in turn, in any part: the lower wins. */
        const uint32_t places[] = {0, n / 3, n / 2, n - 1};
        for (size_t p = 4; p-- > 0;) {
            logits[places[p]] = 2.0f;
            assert_int_equal(run_argmax(&m, logits, n), places[p]);
        }
        logits[0] = NAN; /* never wins */
        assert_int_equal(run_argmax(&m, logits, n), n == 1 ? 0 : places[1] ? places[1] : places[2]);
        for (uint32_t i = 0; i < n; i++)
            logits[i] = i % 2 ? NAN : -INFINITY;
        assert_int_equal(run_argmax(&m, logits, n), 0);
        logits[n - 1] = -FLT_MAX;
        assert_int_equal(run_argmax(&m, logits, n), n - 1);
    }
    free(logits);
    close_machine(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_experts_by_vectors),
        cmocka_unit_test(test_experts_by_tiles),
        cmocka_unit_test(test_argmax),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
