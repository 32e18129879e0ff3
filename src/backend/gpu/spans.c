/* Tables of spans: what operations are given of several sessions, for one dispatch. */
#include <stdlib.h>

#include "backend/gpu/gpu.h"

#define TABLE_LEAST_BYTES 4096
#define TABLE_ALIGNMENT_BYTES 16 /* of what move copies fastest */

size_t kvf_gpu_spans_bytes(uint32_t n, size_t span_bytes, uint32_t n_numberings)
{
    const size_t bytes = n * (span_bytes + n_numberings * sizeof(uint32_t));
    return (bytes + TABLE_ALIGNMENT_BYTES - 1) / TABLE_ALIGNMENT_BYTES * TABLE_ALIGNMENT_BYTES;
}

bool kvf_gpu_begin_table(kvf_gpu_device *gpu, uint64_t there, size_t bytes, kvf_gpu_table *table)
{
    if (gpu->lost.status != KVF_OK)
        return false;
    if (bytes > gpu->table_bytes) {
        const size_t wanted = bytes > TABLE_LEAST_BYTES / 2 ? 2 * bytes : TABLE_LEAST_BYTES;
        uint8_t *grown = realloc(gpu->table, wanted);
        if (!grown) {
            kvf_gpu_lose(gpu, KVF_OUT_OF_MEMORY, "no memory for the sessions of an operation");
            return false;
        }
        gpu->table = grown;
        gpu->table_bytes = wanted;
    }
    *table = (kvf_gpu_table){.host = gpu->table, .there = there};
    return true;
}

void *kvf_gpu_add_spans(kvf_gpu_table *table, uint32_t n, size_t span_bytes, uint32_t n_numberings,
                        kvf_kernel_spans *spans, uint32_t **firsts)
{
    uint8_t *host = table->host + table->bytes;
    const uint64_t there = table->there + table->bytes;
    *spans = (kvf_kernel_spans){.table = there, .firsts = there + n * span_bytes, .n = n};
    *firsts = (uint32_t *)(void *)(host + n * span_bytes);
    table->bytes += kvf_gpu_spans_bytes(n, span_bytes, n_numberings);
    table->n = n;
    return host;
}

void kvf_gpu_send_table(kvf_gpu_device *gpu, const kvf_gpu_table *table)
{
    if (table->n > 1)
        kvf_gpu_write(&gpu->base, (void *)(uintptr_t)(table->there | KVF_DEVICE_BIT), table->host,
                      table->bytes);
}
