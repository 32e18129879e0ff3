/* attend: pieces of work over threads; the arithmetic is attend.inc.h. */
#include <omp.h>

#include "backend/cpu/kernels.h"
#include "shared/workspace.h"

static uint64_t rows_of(const kvf_attend_args *args)
{
    return args->window_tokens + (args->list ? args->list_stride : args->rows.n_rows);
}

size_t kvf_cpu_attend_workspace(const kvf_device *device, const kvf_attend_args *args)
{
    return device->n_threads *
           kvf_attend_thread_bytes(args->n_heads, rows_of(args), args->mask_f32 != NULL);
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

void kvf_cpu_attend(kvf_device *device, const kvf_attend_args *args)
{
    const kvf_cpu_kernels *kernels = kvf_kernels_of(device);
    const uint32_t heads = heads_per_item(device, args);
    const uint32_t blocks = (args->n_heads + heads - 1) / heads;
    const int64_t n_items = (int64_t)args->n_queries * blocks;
    const size_t thread_bytes =
        kvf_attend_thread_bytes(args->n_heads, rows_of(args), args->mask_f32 != NULL);
#pragma omp parallel for schedule(dynamic) num_threads((int)device->n_threads)
    for (int64_t i = 0; i < n_items; i++) {
        const uint32_t first = (uint32_t)(i % blocks) * heads;
        const kvf_attend_item item = {
            .query = (uint32_t)(i / blocks),
            .first_head = first,
            .n_heads = args->n_heads - first < heads ? args->n_heads - first : heads};
        kernels->attend(args, &item,
                        (uint8_t *)args->workspace + (size_t)omp_get_thread_num() * thread_bytes);
    }
}
