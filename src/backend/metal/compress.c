/*
 * compress on the GPU: the chunk's input is checked, its rows are made as f32, checked,
 * and stored by the kernels of pack, then its tokens go into the state. One wait: the
 * kernels that store look whether a check before them found anything.
 */
#include <math.h>

#include "backend/metal/pack.h"

static_assert(2 * KVF_ROPE_PAIRS == KVF_ROPE_WIDTH, "kernels.h is Metal too");
static_assert(KVF_COMPRESS_MAX_THREADS >= KVF_ROW_WIDTH, "a thread a dimension");

/* What the kernels read and write, besides rows. */
struct compress_spans {
    kvf_metal_span kv;
    kvf_metal_span gate;
    kvf_metal_span state;
    kvf_metal_found found;
};

static kvf_compress_kernel_args kernel_args(const kvf_compress_args *args)
{
    const uint32_t parts = args->overlap ? 2 : 1;
    const uint32_t n_slots = parts * args->ratio;
    const bool at_start = args->first_token < args->ratio;
    const uint32_t n_dropped = args->n > n_slots ? args->n - n_slots : 0;
    return (kvf_compress_kernel_args){.width = args->width,
                                      .ratio = args->ratio,
                                      .overlap = args->overlap,
                                      .columns = parts * args->width,
                                      .n_slots = n_slots,
                                      .first_slot = (uint32_t)(args->first_token % n_slots),
                                      .phase = (uint32_t)(args->first_token % args->ratio),
                                      .at_start = at_start,
                                      .first_kept = n_dropped,
                                      .norm_eps = args->input.norm_eps};
}

/* compress_check, or (with the state) compress_keep. */
static void run_on_tokens(kvf_metal_device *metal, kvf_metal_kernel kernel,
                          const kvf_compress_kernel_args *arguments, uint32_t n_tokens,
                          const struct compress_spans *spans)
{
    const kvf_metal_call call = {
        .kernel = kernel,
        .groups = {(arguments->columns + KVF_ELEMENTS_THREADS - 1) / KVF_ELEMENTS_THREADS, n_tokens,
                   1},
        .threads = KVF_ELEMENTS_THREADS,
        .arguments = arguments,
        .argument_bytes = sizeof *arguments,
        .spans = {spans->kv, spans->gate, spans->found.found,
                  kernel == KVF_KERNEL_compress_keep ? spans->state : (kvf_metal_span){0}}};
    kvf_metal_run(metal, &call);
}

/* The rows that the chunk completes, as f32 before Hadamard and grid. */
static kvf_metal_span run_make(kvf_metal_device *metal, const kvf_compress_args *args,
                               const kvf_compress_kernel_args *arguments, uint32_t n_rows,
                               const struct compress_spans *spans)
{
    const size_t width = args->width;
    const size_t angle_bytes = (size_t)n_rows * KVF_ROPE_PAIRS * sizeof(float);
    const size_t bias_bytes = (size_t)args->ratio * arguments->columns * sizeof(float);
    const kvf_metal_span rows = kvf_metal_temporary(metal, n_rows * width * sizeof(float));
    const kvf_metal_call call = {
        .kernel = KVF_KERNEL_compress_make,
        .groups = {n_rows, 1, 1},
        .threads = args->width,
        .arguments = arguments,
        .argument_bytes = sizeof *arguments,
        .spans = {spans->kv, spans->gate,
                  kvf_metal_input(metal, args->input.position_bias, bias_bytes), spans->state,
                  kvf_metal_input(metal, args->input.norm_weight, width * sizeof(float)),
                  kvf_metal_input(metal, args->rope.cosines, angle_bytes),
                  kvf_metal_input(metal, args->rope.sines, angle_bytes), rows},
        .threadgroup_bytes = {args->width * sizeof(float)}};
    kvf_metal_run(metal, &call);
    return rows;
}

static void run_compress(kvf_metal_device *metal, const kvf_compress_args *args, uint32_t n_rows,
                         struct compress_spans *spans)
{
    const kvf_compress_kernel_args arguments = kernel_args(args);
    const size_t input_bytes = (size_t)args->n * arguments.columns * sizeof(float);
    spans->found = kvf_metal_begin_checks(metal, n_rows);
    spans->kv = kvf_metal_input(metal, args->input.kv, input_bytes);
    spans->gate = kvf_metal_input(metal, args->input.gate, input_bytes);
    spans->state = kvf_metal_output(
        metal, args->state, (size_t)arguments.n_slots * 2 * arguments.columns * sizeof(float));
    run_on_tokens(metal, KVF_KERNEL_compress_check, &arguments, args->n, spans);
    if (n_rows) {
        kvf_pack_kernel_args pack = {.stride = args->width,
                                     .n_rows = n_rows,
                                     .width = args->width,
                                     .grid = args->grid,
                                     .hadamard = args->hadamard,
                                     .check_input = false};
        const kvf_metal_span rows = run_make(metal, args, &arguments, n_rows, spans);
        kvf_metal_run_pack(metal, &args->out, args->first_token / args->ratio, &pack, rows,
                           &spans->found);
    }
    run_on_tokens(metal, KVF_KERNEL_compress_keep, &arguments, args->n - arguments.first_kept,
                  spans);
}

/* The first bad value of the token that compress_check found. */
static void report_input(const kvf_compress_args *args, uint32_t token, kvf_findings found)
{
    const uint32_t columns = (args->overlap ? 2 : 1) * args->width;
    const float *kv = args->input.kv + (size_t)token * columns;
    const float *gate = args->input.gate + (size_t)token * columns;
    uint32_t i = 0;
    while (i + 1 < columns && isfinite(kv[i]) && isfinite(gate[i]))
        i++;
    kvf_found_lower(found, false, token, i, KVF_NONFINITE);
}

static void take_findings(const kvf_compress_args *args, const kvf_metal_found *checks,
                          kvf_findings found)
{
    const uint32_t token =
        ((const uint32_t *)kvf_metal_contents(checks->found))[KVF_FOUND_BAD_INPUT];
    uint64_t bad_row = 0;
    uint32_t bad_dim = 0;
    if (token != KVF_FOUND_NOTHING) {
        report_input(args, token, found);
        return;
    }
    const kvf_status status = kvf_metal_bad_row(checks, &bad_row, &bad_dim);
    if (status != KVF_OK)
        kvf_found_lower(found, true, bad_row, bad_dim, status);
    found.place->inexact_rows += kvf_metal_inexact_rows(checks);
}

void kvf_metal_compress(kvf_device *device, const kvf_compress_args *args, kvf_findings found)
{
    if (args->n == 0)
        return;
    kvf_metal_device *metal = kvf_metal_of(device);
    const uint64_t first_row = args->first_token / args->ratio;
    const uint64_t n_rows = (args->first_token + args->n) / args->ratio - first_row;
    struct compress_spans spans;
    run_compress(metal, args, (uint32_t)n_rows, &spans);
    if (kvf_metal_wait(metal) == KVF_OK)
        take_findings(args, &spans.found, found);
    kvf_metal_finish(metal);
}
