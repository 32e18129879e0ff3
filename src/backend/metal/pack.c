/* pack and unpack on the GPU: all rows are checked, then all of them or none are stored. */
#include <math.h>

#include "backend/metal/pack.h"

static uint32_t n_groups(uint64_t n_rows)
{
    return (uint32_t)((n_rows + KVF_PACK_ROWS - 1) / KVF_PACK_ROWS);
}

/* From the first to the last value of n rows (not 0), stride values apart. */
static size_t rows_bytes(uint64_t n, size_t stride, uint32_t width)
{
    return ((size_t)(n - 1) * stride + width) * sizeof(float);
}

/* ---- What checks find ------------------------------------------------------------- */

kvf_metal_found kvf_metal_begin_checks(kvf_metal_device *metal, uint64_t n_rows)
{
    const uint32_t nothing[KVF_FOUND_WORDS] = {
        [KVF_FOUND_BAD_INPUT] = KVF_FOUND_NOTHING, [KVF_FOUND_BAD_ROW] = KVF_FOUND_NOTHING};
    return (kvf_metal_found){.found = kvf_metal_upload(metal, nothing, sizeof nothing),
                             .reasons =
                                 kvf_metal_temporary(metal, (size_t)n_rows * sizeof(uint32_t))};
}

kvf_status kvf_metal_bad_row(const kvf_metal_found *found, uint64_t *row, uint32_t *dim)
{
    const uint32_t bad = ((const uint32_t *)kvf_metal_contents(found->found))[KVF_FOUND_BAD_ROW];
    if (bad == KVF_FOUND_NOTHING)
        return KVF_OK;
    const uint32_t reason = ((const uint32_t *)kvf_metal_contents(found->reasons))[bad];
    *row = bad;
    *dim = reason & 0xffff;
    return (kvf_status)(reason >> 16);
}

uint32_t kvf_metal_inexact_rows(const kvf_metal_found *found)
{
    return ((const uint32_t *)kvf_metal_contents(found->found))[KVF_FOUND_INEXACT_ROWS];
}

/* ---- pack ---------------------------------------------------------------------------- */

void kvf_metal_run_pack(kvf_metal_device *metal, const kvf_rows *out, uint64_t first_row,
                        kvf_pack_kernel_args *args, kvf_metal_span rows,
                        const kvf_metal_found *found)
{
    args->out = kvf_metal_output_rows(metal, out);
    args->first_row = out->n_rows ? first_row % out->n_rows : 0;
    kvf_metal_call call = {.kernel = KVF_KERNEL_pack_check,
                           .groups = {n_groups(args->n_rows), 1, 1},
                           .threads = KVF_PACK_THREADS,
                           .arguments = args,
                           .argument_bytes = sizeof *args,
                           .spans = {rows, found->found, found->reasons}};
    kvf_metal_run(metal, &call);
    call.kernel = KVF_KERNEL_pack_store;
    call.spans[2] = (kvf_metal_span){0};
    kvf_metal_run(metal, &call);
}

/* n_rows fits in 32 bits: 2^32 rows of 128 f32 would be 2 TB. */
void kvf_metal_pack(kvf_device *device, const kvf_pack_args *args, kvf_findings found)
{
    kvf_metal_device *metal = kvf_metal_of(device);
    if (args->n_rows == 0)
        return;
    const uint32_t width = args->out.width;
    kvf_pack_kernel_args arguments = {.stride = args->stride,
                                      .n_rows = (uint32_t)args->n_rows,
                                      .width = width,
                                      .grid = args->grid,
                                      .hadamard = args->hadamard,
                                      .check_input = true};
    const kvf_metal_found checks = kvf_metal_begin_checks(metal, args->n_rows);
    const kvf_metal_span rows =
        kvf_metal_input(metal, args->rows, rows_bytes(args->n_rows, args->stride, width));
    kvf_metal_run_pack(metal, &args->out, args->first_row, &arguments, rows, &checks);
    if (kvf_metal_wait(metal) == KVF_OK) {
        uint64_t bad_row = 0;
        uint32_t bad_dim = 0;
        const kvf_status status = kvf_metal_bad_row(&checks, &bad_row, &bad_dim);
        if (status != KVF_OK)
            kvf_found_lower(found, false, bad_row, bad_dim, status);
        found.place->inexact_rows += kvf_metal_inexact_rows(&checks);
    }
    kvf_metal_finish(metal);
}

/* ---- check --------------------------------------------------------------------------- */

/*
 * The values were made by the GPU, in an operation that has ended; reading all of them takes
 * the host less time than a further dispatch and its wait.
 */
void kvf_metal_check(kvf_device *device, const kvf_check_args *args, kvf_findings found)
{
    if (kvf_metal_state(device, NULL) != KVF_OK)
        return;
    for (uint64_t row = 0; row < args->n_rows; row++) {
        const float *values = args->values + row * args->width;
        bool finite = true;
        for (uint32_t i = 0; i < args->width; i++) /* no branch: vectors' work */
            finite &= isfinite(values[i]) != 0;
        uint32_t dim = 0;
        while (!finite && isfinite(values[dim]))
            dim++;
        if (!finite)
            kvf_found_lower(found, false, row, dim, KVF_NONFINITE);
    }
}

/* ---- unpack -------------------------------------------------------------------------- */

void kvf_metal_unpack(kvf_device *device, const kvf_unpack_args *args)
{
    if (args->n_rows == 0)
        return;
    kvf_metal_device *metal = kvf_metal_of(device);
    const kvf_unpack_kernel_args arguments = {.in = kvf_metal_input_rows(metal, &args->in),
                                              .first_row = args->first_row,
                                              .stride = args->stride,
                                              .n_rows = (uint32_t)args->n_rows,
                                              .width = args->in.width,
                                              .has_list = args->row_list != NULL};
    const size_t list_bytes = (size_t)args->n_rows * sizeof *args->row_list;
    const kvf_metal_call call = {
        .kernel = KVF_KERNEL_unpack,
        .groups = {n_groups(args->n_rows), 1, 1},
        .threads = KVF_PACK_THREADS,
        .arguments = &arguments,
        .argument_bytes = sizeof arguments,
        .spans = {kvf_metal_input(metal, args->row_list, list_bytes),
                  kvf_metal_output(metal, args->out,
                                   rows_bytes(args->n_rows, args->stride, args->in.width))}};
    kvf_metal_run(metal, &call);
    kvf_metal_finish(metal);
}
