/*
 * Memory of the host that kernels read where it lies: buffers over a mapped file, so that weights
 * are in memory once where host and GPU share it. A GPU takes whole pages and has a largest
 * buffer, so several lie over one file, and neighbours may have a page in common.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/gpu/gpu.h"
#include "error.h"

/* What nobody reads for as long begins another buffer: tensors that are not run are not given. */
#define GAP_BYTES (1u << 20)

static uintptr_t page_of(const kvf_gpu_device *gpu, uintptr_t address)
{
    return address / gpu->limits.map_bytes * gpu->limits.map_bytes;
}

static uintptr_t end_of(const kvf_gpu_device *gpu, const kvf_host_part *part)
{
    const uintptr_t end = (uintptr_t)part->memory + part->bytes;
    return page_of(gpu, end + gpu->limits.map_bytes - 1);
}

/* How many mappings begin at or before the address. */
static uint32_t n_before(const kvf_gpu_device *gpu, uintptr_t address)
{
    uint32_t n = gpu->n_mappings;
    while (n > 0 && gpu->mappings[n - 1].start > address)
        n--;
    return n;
}

uint64_t kvf_gpu_mapped_at(const kvf_gpu_device *gpu, uintptr_t address)
{
    /*
     * The last one that begins at or before it: it holds all of the part. One of the buffer before
     * that begins in this one's first page ends there too, before this one's own first part.
     */
    const uint32_t n = n_before(gpu, address);
    if (n == 0 || address - gpu->mappings[n - 1].start >= gpu->mappings[n - 1].buffer.bytes)
        return 0;
    return gpu->mappings[n - 1].buffer.gpu_address + (address - gpu->mappings[n - 1].start);
}

static kvf_status add_mapping(kvf_gpu_device *gpu, uintptr_t start, size_t bytes, kvf_error *error)
{
    const uint64_t used = kvf_device_used_bytes(&gpu->base);
    const uint64_t memory_bytes = gpu->base.memory_bytes;
    kvf_gpu_buffer buffer;
    if (bytes > (used < memory_bytes ? memory_bytes - used : 0))
        return kvf_fail(error, KVF_OUT_OF_MEMORY,
                        "%s lets %llu bytes be used; %llu of the weights do not fit beside %llu",
                        gpu->limits.name, (unsigned long long)memory_bytes,
                        (unsigned long long)bytes, (unsigned long long)used);
    if (!kvf_gpu_reserve((void **)&gpu->mappings, gpu->n_mappings, &gpu->mappings_capacity,
                         sizeof *gpu->mappings))
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a list of what is mapped");
    if (!gpu->driver->map_buffer(gpu->gpu, (const void *)start, bytes, &buffer))
        return kvf_fail(error, KVF_OUT_OF_MEMORY,
                        "%s does not take %llu bytes of weights where they are mapped",
                        gpu->limits.name, (unsigned long long)bytes);
    const uint32_t at = n_before(gpu, start);
    memmove(gpu->mappings + at + 1, gpu->mappings + at,
            (gpu->n_mappings - at) * sizeof *gpu->mappings);
    gpu->mappings[at] = (kvf_gpu_mapping){start, buffer};
    gpu->n_mappings++;
    gpu->allocated_bytes += bytes;
    gpu->region_bytes += bytes;
    gpu->base.mapped_bytes += bytes;
    return KVF_OK;
}

/* How many of n parts one buffer holds, from the first on; 0: not even that one. */
static size_t n_together(const kvf_gpu_device *gpu, const kvf_host_part *parts, size_t n)
{
    const uintptr_t start = page_of(gpu, (uintptr_t)parts[0].memory);
    size_t together = 0;
    while (together < n && end_of(gpu, &parts[together]) - start <= gpu->limits.buffer_bytes &&
           (together == 0 ||
            (uintptr_t)parts[together].memory <= end_of(gpu, &parts[together - 1]) + GAP_BYTES))
        together++;
    return together;
}

kvf_status kvf_gpu_map(kvf_device *device, const kvf_host_part *parts, size_t n, kvf_error *error)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    kvf_status status = KVF_OK;
    for (size_t first = 0; first < n && status == KVF_OK;) {
        const size_t together = n_together(gpu, parts + first, n - first);
        if (together == 0)
            return kvf_fail(error, KVF_OUT_OF_MEMORY,
                            "%llu bytes of weights are in one piece; a buffer of %s has at most "
                            "%llu",
                            (unsigned long long)parts[first].bytes, gpu->limits.name,
                            (unsigned long long)gpu->limits.buffer_bytes);
        const uintptr_t start = page_of(gpu, (uintptr_t)parts[first].memory);
        status = add_mapping(gpu, start, end_of(gpu, &parts[first + together - 1]) - start, error);
        first += together;
    }
    return status;
}

static void remove_mapping(kvf_gpu_device *gpu, uint32_t at)
{
    const size_t bytes = gpu->mappings[at].buffer.bytes;
    gpu->driver->release_buffer(gpu->gpu, &gpu->mappings[at].buffer);
    gpu->allocated_bytes -= bytes;
    gpu->region_bytes -= bytes;
    gpu->base.mapped_bytes -= bytes;
    gpu->n_mappings--;
    memmove(gpu->mappings + at, gpu->mappings + at + 1,
            (gpu->n_mappings - at) * sizeof *gpu->mappings);
}

void kvf_gpu_unmap(kvf_device *device, const void *memory, size_t bytes)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    const uintptr_t start = page_of(gpu, (uintptr_t)memory);
    kvf_gpu_flush(gpu); /* what is queued may read it; an error stays for the caller's wait */
    for (uint32_t i = gpu->n_mappings; i-- > 0;)
        if (gpu->mappings[i].start - start < (uintptr_t)memory + bytes - start)
            remove_mapping(gpu, i);
}

void kvf_gpu_close_mapped(kvf_gpu_device *gpu)
{
    while (gpu->n_mappings > 0)
        remove_mapping(gpu, gpu->n_mappings - 1);
    free(gpu->mappings);
}
