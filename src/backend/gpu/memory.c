/*
 * Memory of the GPU backend: buffers that are given out, where a pointer lies in them, and
 * scratch, which lasts for one operation.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/gpu/gpu.h"

#define ALIGNMENT_BYTES 256
#define SCRATCH_LEAST_BYTES (1u << 20)
/* A kernel may load all of so many aligned bytes where it needs some of them. */
#define LOAD_BYTES 16

#define BLOCKS 64    /* of a region, a bit each in free_blocks */
#define PAGE_WASTE 8 /* a buffer of its own may leave an eighth of its bytes unused */

/* ---- Buffers --------------------------------------------------------------------- */

bool kvf_gpu_make_buffer(kvf_gpu_device *gpu, size_t bytes, bool shared, kvf_gpu_buffer *buffer)
{
    if (bytes > gpu->limits.buffer_bytes ||
        bytes > gpu->limits.working_set_bytes - gpu->allocated_bytes ||
        !gpu->driver->make_buffer(gpu->gpu, bytes, shared, buffer))
        return false;
    gpu->allocated_bytes += bytes;
    return true;
}

void kvf_gpu_release_buffer(kvf_gpu_device *gpu, kvf_gpu_buffer *buffer)
{
    if (!buffer->handle)
        return;
    gpu->allocated_bytes -= buffer->bytes;
    gpu->driver->release_buffer(gpu->gpu, buffer);
    *buffer = (kvf_gpu_buffer){0};
}

bool kvf_gpu_reserve(void **array, uint32_t n, uint32_t *capacity, size_t element_bytes)
{
    if (n < *capacity)
        return true;
    const uint32_t wanted = *capacity ? 2 * *capacity : 64;
    void *grown = realloc(*array, wanted * element_bytes);
    if (!grown)
        return false;
    *array = grown;
    *capacity = wanted;
    return true;
}

/* Later, when nothing that is encoded can use it; now, if there is no memory to remember it. */
static void release_later(kvf_gpu_device *gpu, kvf_gpu_buffer buffer)
{
    kvf_gpu_releases *releases = &gpu->releases;
    if (kvf_gpu_reserve((void **)&releases->buffers, releases->n_buffers,
                        &releases->buffers_capacity, sizeof *releases->buffers)) {
        releases->buffers[releases->n_buffers++] = buffer;
        return;
    }
    kvf_gpu_flush(gpu);
    kvf_gpu_release_buffer(gpu, &buffer);
}

/* ---- Regions ----------------------------------------------------------------------- */

/* How many regions begin at or before the address. */
static uint32_t n_before(const kvf_gpu_regions *regions, uintptr_t address)
{
    uint32_t low = 0;
    uint32_t high = regions->n;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (regions->all[middle]->given <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static kvf_gpu_region **last_blocks(kvf_gpu_regions *regions, size_t block_bytes)
{
    const size_t n = sizeof regions->last_blocks / sizeof regions->last_blocks[0];
    return &regions->last_blocks[block_bytes / ALIGNMENT_BYTES % n];
}

static bool make_region_buffer(kvf_gpu_device *gpu, size_t bytes, bool shared,
                               kvf_gpu_buffer *buffer)
{
    if (bytes > gpu->base.memory_bytes)
        return false;
    if (bytes <= gpu->base.memory_bytes - gpu->region_bytes &&
        kvf_gpu_make_buffer(gpu, bytes, shared, buffer))
        return true;
    if (gpu->releases.n_buffers == 0)
        return false;
    /* What was released may be enough. */
    return kvf_gpu_flush(gpu) == KVF_OK && bytes <= gpu->base.memory_bytes - gpu->region_bytes &&
           kvf_gpu_make_buffer(gpu, bytes, shared, buffer);
}

/* NULL where the memory cannot be had. */
static kvf_gpu_region *add_region(kvf_gpu_device *gpu, kvf_place place, size_t bytes)
{
    kvf_gpu_regions *regions = &gpu->regions[place];
    kvf_gpu_region *region = calloc(1, sizeof *region);
    if (!region ||
        !kvf_gpu_reserve((void **)&regions->all, regions->n, &regions->capacity,
                         sizeof *regions->all) ||
        !make_region_buffer(gpu, bytes, place == KVF_PLACE_STAGING, &region->buffer)) {
        free(region);
        return NULL;
    }
    gpu->region_bytes += region->buffer.bytes;
    region->n_waits = gpu->n_waits;
    region->given = place == KVF_PLACE_STAGING
                        ? (uintptr_t)region->buffer.contents
                        : (uintptr_t)(region->buffer.gpu_address | KVF_DEVICE_BIT);
    const uint32_t at = n_before(regions, region->given);
    memmove(regions->all + at + 1, regions->all + at, (regions->n - at) * sizeof(kvf_gpu_region *));
    regions->all[at] = region;
    regions->n++;
    return region;
}

static void remove_region(kvf_gpu_device *gpu, kvf_gpu_regions *regions, uint32_t at)
{
    kvf_gpu_region *region = regions->all[at];
    if (*last_blocks(regions, region->block_bytes) == region)
        *last_blocks(regions, region->block_bytes) = NULL;
    gpu->region_bytes -= region->buffer.bytes;
    release_later(gpu, region->buffer);
    free(region);
    regions->n--;
    memmove(regions->all + at, regions->all + at + 1, (regions->n - at) * sizeof(kvf_gpu_region *));
}

/* The region of that place that holds the address, and its number; NULL: none. */
static kvf_gpu_region *find_region(const kvf_gpu_regions *regions, uintptr_t address, uint32_t *at)
{
    const uint32_t after = n_before(regions, address);
    if (after == 0 ||
        address - regions->all[after - 1]->given > regions->all[after - 1]->buffer.bytes)
        return NULL;
    *at = after - 1;
    return regions->all[after - 1];
}

/* ---- Blocks: allocations of which pages would be left half empty -------------------- */

static bool has_block(const kvf_gpu_region *region, size_t block_bytes)
{
    return region && region->block_bytes == block_bytes && region->free_blocks;
}

static uintptr_t alloc_block(kvf_gpu_device *gpu, kvf_place place, size_t block_bytes)
{
    kvf_gpu_regions *regions = &gpu->regions[place];
    kvf_gpu_region *region = *last_blocks(regions, block_bytes);
    for (uint32_t i = 0; i < regions->n && !has_block(region, block_bytes); i++)
        region = regions->all[i];
    if (!has_block(region, block_bytes)) {
        region = add_region(gpu, place, BLOCKS * block_bytes);
        if (!region)
            return 0;
        region->block_bytes = block_bytes;
        region->free_blocks = UINT64_MAX;
    }
    *last_blocks(regions, block_bytes) = region;
    uint32_t block = 0;
    while (!(region->free_blocks >> block & 1))
        block++;
    region->free_blocks &= ~(UINT64_C(1) << block);
    return region->given + block * block_bytes;
}

static bool wastes_pages(const kvf_gpu_device *gpu, size_t bytes)
{
    const size_t page_bytes = gpu->limits.page_bytes > 1 ? gpu->limits.page_bytes : 1;
    const size_t unused = (page_bytes - bytes % page_bytes) % page_bytes;
    return unused > bytes / PAGE_WASTE;
}

void *kvf_gpu_alloc(kvf_device *device, size_t bytes, kvf_place place)
{
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    if (bytes > SIZE_MAX - LOAD_BYTES)
        return NULL;
    bytes = bytes ? (bytes + LOAD_BYTES - 1) / LOAD_BYTES * LOAD_BYTES : LOAD_BYTES;
    if (wastes_pages(gpu, bytes)) {
        const uintptr_t block = alloc_block(
            gpu, place, (bytes + ALIGNMENT_BYTES - 1) / ALIGNMENT_BYTES * ALIGNMENT_BYTES);
        if (block)
            return (void *)block;
        /* There may be room for one where there is none for a region of them. */
    }
    const kvf_gpu_region *region = add_region(gpu, place, bytes);
    return region ? (void *)region->given : NULL;
}

bool kvf_gpu_is_device_memory(const kvf_device *device, const void *memory)
{
    (void)device;
    return (uintptr_t)memory & KVF_DEVICE_BIT;
}

static kvf_place place_of(const void *memory)
{
    return (uintptr_t)memory & KVF_DEVICE_BIT ? KVF_PLACE_DEVICE : KVF_PLACE_STAGING;
}

/* A block is free again, or a region's only memory. */
static void free_memory(kvf_gpu_device *gpu, void *memory)
{
    kvf_gpu_regions *regions = &gpu->regions[place_of(memory)];
    uint32_t at;
    kvf_gpu_region *region = find_region(regions, (uintptr_t)memory, &at);
    if (!region)
        return; /* not this device's */
    if (region->block_bytes) {
        const size_t offset = (uintptr_t)memory - region->given;
        region->free_blocks |= UINT64_C(1) << offset / region->block_bytes % BLOCKS;
        if (region->free_blocks != UINT64_MAX)
            return;
    }
    remove_region(gpu, regions, at);
}

/*
 * Device memory that is given again is written in order, after what still reads it; the host
 * writes to shared memory when it likes.
 */
void kvf_gpu_release(kvf_device *device, void *memory, size_t bytes)
{
    (void)bytes;
    kvf_gpu_device *gpu = kvf_gpu_of(device);
    kvf_gpu_releases *releases = &gpu->releases;
    if (place_of(memory) == KVF_PLACE_STAGING &&
        kvf_gpu_reserve((void **)&releases->blocks, releases->n_blocks, &releases->blocks_capacity,
                        sizeof *releases->blocks)) {
        releases->blocks[releases->n_blocks++] = memory;
        return;
    }
    if (place_of(memory) == KVF_PLACE_STAGING)
        kvf_gpu_flush(gpu);
    free_memory(gpu, memory);
}

void kvf_gpu_end_releases(kvf_gpu_device *gpu)
{
    kvf_gpu_releases *releases = &gpu->releases;
    while (releases->n_blocks > 0)
        free_memory(gpu, releases->blocks[--releases->n_blocks]);
    while (releases->n_buffers > 0)
        kvf_gpu_release_buffer(gpu, &releases->buffers[--releases->n_buffers]);
}

/* ---- Addresses ----------------------------------------------------------------------- */

uint64_t kvf_gpu_at(kvf_gpu_device *gpu, const void *memory)
{
    const uintptr_t address = (uintptr_t)memory;
    uint32_t at;
    if (address & KVF_DEVICE_BIT || !memory)
        return address & ~(uint64_t)KVF_DEVICE_BIT;
    const kvf_gpu_region *region = find_region(&gpu->regions[KVF_PLACE_STAGING], address, &at);
    if (region)
        return region->buffer.gpu_address + (address - region->given);
    const uint64_t mapped = kvf_gpu_mapped_at(gpu, address);
    if (mapped)
        return mapped;
    kvf_gpu_lose(gpu, KVF_INVALID_ARGUMENT,
                 "an operation was given memory that the device did not give");
    return 0;
}

static kvf_gpu_region *region_of(kvf_gpu_device *gpu, const void *memory)
{
    uint32_t at;
    return find_region(&gpu->regions[place_of(memory)], (uintptr_t)memory, &at);
}

bool kvf_gpu_is_old(kvf_gpu_device *gpu, const void *memory)
{
    const kvf_gpu_region *region = memory ? region_of(gpu, memory) : NULL;
    return !memory || (region && region->n_waits < gpu->n_waits);
}

void kvf_gpu_note(kvf_gpu_device *gpu, const void *memory)
{
    kvf_gpu_region *region = region_of(gpu, memory);
    if (region)
        region->n_waits = gpu->n_waits;
}

/* ---- Scratch --------------------------------------------------------------------------- */

uint64_t kvf_gpu_scratch(kvf_gpu_device *gpu, size_t bytes)
{
    if (gpu->lost.status != KVF_OK || gpu->lacks.status != KVF_OK)
        return 0;
    if (bytes <= gpu->scratch.bytes)
        return gpu->scratch.gpu_address;
    kvf_gpu_buffer larger;
    bytes = bytes > SCRATCH_LEAST_BYTES ? bytes : SCRATCH_LEAST_BYTES;
    if (!kvf_gpu_make_buffer(gpu, bytes, false, &larger)) {
        kvf_gpu_lose(gpu, KVF_OUT_OF_MEMORY, "no memory on the GPU for an operation's own arrays");
        return 0;
    }
    if (gpu->scratch.handle)
        release_later(gpu, gpu->scratch);
    gpu->scratch = larger;
    return larger.gpu_address;
}

/*
 * A buffer of the words, written by a dispatch: those before it may still use the old one.
 * `start` has what they are at first.
 */
static bool make_found(kvf_gpu_device *gpu, uint32_t n, kvf_gpu_buffer *made)
{
    static const uint32_t nothing[KVF_FOUND_WORDS] = {KVF_FOUND_NOTHING, KVF_FOUND_NOTHING, 0};
    kvf_gpu_buffer start;
    if (!kvf_gpu_make_buffer(gpu, n * sizeof nothing, false, made))
        return false;
    if (!kvf_gpu_make_buffer(gpu, n * sizeof nothing, true, &start)) {
        kvf_gpu_release_buffer(gpu, made);
        return false;
    }
    for (uint32_t i = 0; i < n; i++)
        memcpy((uint8_t *)start.contents + i * sizeof nothing, nothing, sizeof nothing);
    const kvf_move_kernel_args k = {.to = made->gpu_address,
                                    .from = start.gpu_address,
                                    .n_units = (uint64_t)n * KVF_FOUND_WORDS,
                                    .unit_bytes = sizeof nothing[0]};
    kvf_gpu_run(gpu,
                &(kvf_gpu_call){.kernel = KVF_KERNEL_move,
                                .groups = {kvf_gpu_pieces(k.n_units, KVF_ELEMENTS_THREADS), 1, 1},
                                .threads = KVF_ELEMENTS_THREADS,
                                KVF_GPU_ARGUMENTS(k)});
    release_later(gpu, start);
    return true;
}

uint64_t kvf_gpu_found(kvf_gpu_device *gpu, uint32_t n)
{
    kvf_gpu_buffer larger;
    if (gpu->lost.status != KVF_OK || gpu->lacks.status != KVF_OK)
        return 0;
    if (n <= gpu->n_found)
        return gpu->found.gpu_address;
    if (!make_found(gpu, n, &larger)) {
        kvf_gpu_lose(gpu, KVF_OUT_OF_MEMORY, "no memory on the GPU for what checks find");
        return 0;
    }
    if (gpu->found.handle)
        release_later(gpu, gpu->found);
    gpu->found = larger;
    gpu->n_found = n;
    return larger.gpu_address;
}

void kvf_gpu_close_memory(kvf_gpu_device *gpu)
{
    kvf_gpu_end_releases(gpu);
    kvf_gpu_close_mapped(gpu);
    for (int place = 0; place < 2; place++) {
        kvf_gpu_regions *regions = &gpu->regions[place];
        while (regions->n > 0)
            remove_region(gpu, regions, regions->n - 1);
        free(regions->all);
    }
    kvf_gpu_end_releases(gpu);
    kvf_gpu_release_buffer(gpu, &gpu->scratch);
    kvf_gpu_release_buffer(gpu, &gpu->found);
    free(gpu->table);
    free(gpu->releases.buffers);
    free(gpu->releases.blocks);
}
