/*
 * check, pack and unpack on the GPU. Rows are checked, then all of them or none are stored,
 * then one simdgroup tells what was found: three dispatches, and nothing for the host to see.
 */
#include "backend/gpu/gpu.h"

static uint32_t n_groups(uint64_t n_rows)
{
    return kvf_gpu_pieces(n_rows, KVF_PACK_ROWS);
}

void kvf_gpu_run_report(kvf_gpu_device *gpu, kvf_findings found, kvf_report_kernel_args *args)
{
    args->found = gpu->found.gpu_address;
    args->place = kvf_gpu_at(gpu, found.place);
    args->first = found.first;
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_report,
                                     .groups = {1, 1, 1},
                                     .threads = KVF_REPORT_THREADS,
                                     KVF_GPU_ARGUMENTS(*args)});
}

void kvf_gpu_run_pack(kvf_gpu_device *gpu, const kvf_rows *out, uint64_t first_row,
                      kvf_pack_kernel_args *args)
{
    args->found = gpu->found.gpu_address;
    args->out = kvf_gpu_rows(gpu, out);
    args->first_row = out->n_rows ? first_row % out->n_rows : 0;
    kvf_gpu_call call = {.kernel = KVF_KERNEL_pack_check,
                         .groups = {n_groups(args->n_rows), 1, 1},
                         .threads = KVF_PACK_THREADS,
                         KVF_GPU_ARGUMENTS(*args)};
    kvf_gpu_run(gpu, &call);
    call.kernel = KVF_KERNEL_pack_store;
    kvf_gpu_run(gpu, &call);
}

/* n_rows fits in 32 bits: 2^32 rows of 128 f32 would be 2 TB. */
void kvf_gpu_pack(kvf_device *device, const kvf_pack_args *args, kvf_findings found)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    if (args->n_rows == 0)
        return;
    kvf_pack_kernel_args k = {.rows = kvf_gpu_at(gpu, args->rows),
                              .words =
                                  kvf_gpu_scratch(gpu, (size_t)args->n_rows * sizeof(uint32_t)),
                              .stride = args->stride,
                              .n_rows = (uint32_t)args->n_rows,
                              .width = args->out.width,
                              .grid = args->grid,
                              .hadamard = args->hadamard,
                              .check_input = true};
    kvf_report_kernel_args report = {.words = k.words};
    kvf_gpu_run_pack(gpu, &args->out, args->first_row, &k);
    kvf_gpu_run_report(gpu, found, &report);
}

void kvf_gpu_check(kvf_device *device, const kvf_check_args *args, kvf_findings found)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    if (args->n_rows == 0)
        return;
    const kvf_check_kernel_args k = {
        .values = kvf_gpu_at(gpu, args->values),
        .found = gpu->found.gpu_address,
        .words = kvf_gpu_scratch(gpu, (size_t)args->n_rows * sizeof(uint32_t)),
        .n_rows = args->n_rows,
        .width = args->width};
    kvf_report_kernel_args report = {.words = k.words};
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_check,
                                     .groups = {n_groups(args->n_rows), 1, 1},
                                     .threads = KVF_PACK_THREADS,
                                     KVF_GPU_ARGUMENTS(k)});
    kvf_gpu_run_report(gpu, found, &report);
}

void kvf_gpu_unpack(kvf_device *device, const kvf_unpack_args *args)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const kvf_unpack_kernel_args k = {.list = kvf_gpu_at(gpu, args->row_list),
                                      .out = kvf_gpu_at(gpu, args->out),
                                      .in = kvf_gpu_rows(gpu, &args->in),
                                      .first_row = args->first_row,
                                      .stride = args->stride,
                                      .n_rows = (uint32_t)args->n_rows,
                                      .width = args->in.width};
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_unpack,
                                     .groups = {n_groups(args->n_rows), 1, 1},
                                     .threads = KVF_PACK_THREADS,
                                     KVF_GPU_ARGUMENTS(k)});
}
