/* attend: pieces of work over threads; the arithmetic is attend.inc.h. */
#include <omp.h>

#include "backend/cpu/kernels.h"
#include "shared/workspace.h"

kvf_attend_size kvf_attend_size_of(const kvf_attend_args *args)
{
    return (kvf_attend_size){
        .n_heads = args->n_heads,
        .window_tokens = args->window_tokens,
        .n_rows = args->list ? args->list_stride : args->rows.n_rows,
        .dense = args->mask_f32 != NULL,
        .window_decoded = args->window_tokens && args->window.format != KVF_FORMAT_F32,
        .rows_decoded = args->rows.n_rows && args->rows.format != KVF_FORMAT_F32};
}

size_t kvf_cpu_attend_workspace(const kvf_device *device, const kvf_attend_args *args)
{
    const kvf_attend_size size = kvf_attend_size_of(args);
    return device->n_threads * kvf_attend_thread_parts(&size).total;
}

/* Heads a piece: as many as fit when there are queries enough, else a share for each thread. */
static uint32_t heads_per_item(const kvf_device *device, const kvf_attend_args *args)
{
    const uint32_t most = kvf_attend_block_heads(args->n_heads, args->mask_f32 != NULL);
    if (args->n_queries >= device->n_threads)
        return most;
    const uint32_t share = (args->n_heads + device->n_threads - 1) / device->n_threads;
    const uint32_t padded = (share + 3) / 4 * 4; /* register blocks hold up to 4 heads */
    return padded < most ? padded : most;
}

/* Queries a piece: a run shares decoded rows, but every thread should have several runs. */
static uint32_t queries_per_item(const kvf_device *device, const kvf_attend_args *args)
{
    const uint32_t share = args->n_queries / (4 * device->n_threads);
    return share < 1 ? 1 : share < KVF_ATTEND_RUN_QUERIES ? share : KVF_ATTEND_RUN_QUERIES;
}

/* Rows that the last query attends, to estimate the work. */
static uint64_t rows_of_query(const kvf_attend_args *args)
{
    const uint32_t last = args->n_queries - 1;
    const uint64_t rows = args->rows.n_rows == 0 ? 0
                          : args->list           ? args->list_len[last]
                                                 : args->n_visible[last];
    return args->window_tokens + rows;
}

void kvf_cpu_attend(kvf_device *device, const kvf_attend_args *args)
{
    if (args->n_queries == 0)
        return;
    const kvf_cpu_kernels *kernels = kvf_kernels_of(device);
    const kvf_attend_size size = kvf_attend_size_of(args);
    const size_t thread_bytes = kvf_attend_thread_parts(&size).total;
    const uint32_t heads = heads_per_item(device, args);
    const uint32_t queries = queries_per_item(device, args);
    const uint32_t blocks = (args->n_heads + heads - 1) / heads;
    const uint32_t runs = (args->n_queries + queries - 1) / queries;
    const int64_t n_items = (int64_t)runs * blocks;
    const uint64_t work =
        (uint64_t)args->n_queries * args->n_heads * rows_of_query(args) * 2 * KVF_ROW_WIDTH;
#pragma omp parallel for schedule(dynamic)                                                         \
    num_threads((int)device->n_threads) if (work >= KVF_LEAST_THREADED_WORK)
    for (int64_t i = 0; i < n_items; i++) {
        const uint32_t head = (uint32_t)(i % blocks) * heads;
        const uint32_t query = (uint32_t)(i / blocks) * queries;
        const kvf_attend_item item = {
            .first_query = query,
            .n_queries = args->n_queries - query < queries ? args->n_queries - query : queries,
            .first_head = head,
            .n_heads = args->n_heads - head < heads ? args->n_heads - head : heads};
        kernels->attend(args, &item,
                        (uint8_t *)args->workspace + (size_t)omp_get_thread_num() * thread_bytes);
    }
}
