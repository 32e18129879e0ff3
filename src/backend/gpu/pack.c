/*
 * check, pack and unpack on the GPU. Rows are checked, then all of a session's or none are stored,
 * then a simdgroup a session tells what was found: three dispatches for all sessions, and nothing
 * for the host to see.
 */
#include "backend/gpu/gpu.h"

static uint32_t n_groups(uint64_t n_rows)
{
    return kvf_gpu_pieces(n_rows, KVF_PACK_ROWS);
}

/* ---- Rows of several spans ------------------------------------------------------------- */

static void run_on_rows(kvf_gpu_device *gpu, kvf_gpu_kernel kernel, const kvf_row_kernel_args *args)
{
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = kernel,
                                     .groups = {n_groups(args->n_rows), 1, 1},
                                     .threads = KVF_PACK_THREADS,
                                     KVF_GPU_ARGUMENTS(*args)});
}

void kvf_gpu_run_pack(kvf_gpu_device *gpu, const kvf_row_kernel_args *args)
{
    run_on_rows(gpu, KVF_KERNEL_pack_check, args);
    run_on_rows(gpu, KVF_KERNEL_pack_store, args);
}

void kvf_gpu_run_report(kvf_gpu_device *gpu, const kvf_row_kernel_args *args)
{
    kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_report,
                                     .groups = {args->spans.n, 1, 1},
                                     .threads = KVF_REPORT_THREADS,
                                     KVF_GPU_ARGUMENTS(*args)});
}

kvf_row_span kvf_gpu_row_span(kvf_gpu_device *gpu, const kvf_rows *out, uint64_t first_row,
                              kvf_findings found)
{
    return (kvf_row_span){.place = kvf_gpu_at(gpu, found.place),
                          .first_index = found.first,
                          .out = kvf_gpu_rows(gpu, out),
                          .first_row = out->n_rows ? first_row % out->n_rows : 0};
}

/*
 * Scratch for n spans of n_rows rows: words, and the table, of which this is the only part. NULL:
 * there is nothing to do, or the device is lost. n_rows fits in 32 bits: 2^32 rows of 128 f32
 * would be 2 TB.
 */
static kvf_row_span *begin_rows(kvf_gpu_device *gpu, uint32_t n, uint64_t n_rows,
                                kvf_gpu_table *table, uint32_t **firsts, kvf_row_kernel_args *k)
{
    if (n_rows == 0)
        return NULL;
    const size_t words_bytes = ((size_t)n_rows * sizeof(uint32_t) + 15) / 16 * 16;
    const size_t table_bytes = kvf_gpu_spans_bytes(n, sizeof(kvf_row_span), 1);
    k->n_rows = (uint32_t)n_rows;
    k->found = kvf_gpu_found(gpu, n);
    k->words = kvf_gpu_scratch(gpu, words_bytes + table_bytes);
    if (!kvf_gpu_begin_table(gpu, k->words + words_bytes, table_bytes, table))
        return NULL;
    return kvf_gpu_add_spans(table, n, sizeof(kvf_row_span), 1, &k->spans, firsts);
}

/* ---- The operations --------------------------------------------------------------------- */

void kvf_gpu_pack(kvf_device *device, const kvf_pack_args *args, const kvf_findings *found,
                  uint32_t n)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    kvf_row_kernel_args k = {.stride = args->stride,
                             .width = args->out.width,
                             .grid = args->grid,
                             .hadamard = args->hadamard,
                             .check_input = true};
    kvf_gpu_table table;
    uint32_t *firsts;
    uint64_t n_rows = 0;
    for (uint32_t i = 0; i < n; i++)
        n_rows += args[i].n_rows;
    kvf_row_span *spans = begin_rows(gpu, n, n_rows, &table, &firsts, &k);
    if (!spans)
        return;
    uint32_t first = 0;
    for (uint32_t i = 0; i < n; i++) {
        spans[i] = kvf_gpu_row_span(gpu, &args[i].out, args[i].first_row, found[i]);
        spans[i].rows = kvf_gpu_at(gpu, args[i].rows);
        firsts[i] = spans[i].first = first;
        first += (uint32_t)args[i].n_rows;
    }
    k.one = spans[0];
    kvf_gpu_send_table(gpu, &table);
    kvf_gpu_run_pack(gpu, &k);
    kvf_gpu_run_report(gpu, &k);
}

void kvf_gpu_check(kvf_device *device, const kvf_check_args *args, const kvf_findings *found,
                   uint32_t n)
{
    static const kvf_rows nowhere = {.format = KVF_FORMAT_F32};
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    kvf_row_kernel_args k = {.width = args->width};
    kvf_gpu_table table;
    uint32_t *firsts;
    uint64_t n_rows = 0;
    for (uint32_t i = 0; i < n; i++)
        n_rows += args[i].n_rows;
    kvf_row_span *spans = begin_rows(gpu, n, n_rows, &table, &firsts, &k);
    if (!spans)
        return;
    uint32_t first = 0;
    for (uint32_t i = 0; i < n; i++) {
        spans[i] = kvf_gpu_row_span(gpu, &nowhere, 0, found[i]);
        spans[i].rows = kvf_gpu_at(gpu, args[i].values);
        firsts[i] = spans[i].first = first;
        first += (uint32_t)args[i].n_rows;
    }
    k.one = spans[0];
    kvf_gpu_send_table(gpu, &table);
    run_on_rows(gpu, KVF_KERNEL_check, &k);
    kvf_gpu_run_report(gpu, &k);
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
