/*
 * Memory of the Metal backend: shared buffers that are given out, where a pointer lies in
 * them, and staging, which lasts for one operation.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/metal/metal.h"

#define STAGING_ALIGNMENT_BYTES 256
#define STAGING_LEAST_BYTES (256u << 10)

#define BLOCKS 64 /* of a region, a bit each in free_blocks */
#define BLOCK_ALIGNMENT_BYTES 256
#define PAGE_WASTE 8 /* a buffer of its own may leave an eighth of its bytes unused */

/* ---- Buffers --------------------------------------------------------------------- */

/*
 * False where the memory cannot be had: the device has no room or no such large buffers, or
 * the system refuses.
 */
static bool make_buffer(kvf_metal_device *metal, size_t bytes, kvf_gpu_buffer *buffer)
{
    if (bytes > metal->limits.buffer_bytes ||
        bytes > metal->limits.working_set_bytes - metal->allocated_bytes ||
        !kvf_gpu_make_buffer(metal->gpu, bytes, buffer))
        return false;
    metal->allocated_bytes += bytes;
    return true;
}

static void release_buffer(kvf_metal_device *metal, kvf_gpu_buffer *buffer)
{
    metal->allocated_bytes -= buffer->bytes;
    kvf_gpu_release_buffer(metal->gpu, buffer);
}

/* Room for one more in an array of n; false without memory. */
static bool reserve(void **array, uint32_t n, uint32_t *capacity, size_t element_bytes)
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

/* How many regions begin at or before the pointer. */
static uint32_t n_before(const kvf_metal_device *metal, const void *pointer)
{
    uint32_t low = 0;
    uint32_t high = metal->n_regions;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if ((uintptr_t)metal->regions[middle]->buffer.contents <= (uintptr_t)pointer)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static kvf_metal_region **last_blocks(kvf_metal_device *metal, size_t block_bytes)
{
    const size_t n = sizeof metal->last_blocks / sizeof metal->last_blocks[0];
    return &metal->last_blocks[block_bytes / BLOCK_ALIGNMENT_BYTES % n];
}

/* NULL as make_buffer's false. */
static kvf_metal_region *add_region(kvf_metal_device *metal, size_t bytes)
{
    if (!reserve((void **)&metal->regions, metal->n_regions, &metal->regions_capacity,
                 sizeof(kvf_metal_region *)))
        return NULL;
    /* The rest of the working set is for staging. */
    if (bytes > metal->base.memory_bytes - metal->region_bytes)
        return NULL;
    kvf_metal_region *region = calloc(1, sizeof *region);
    if (!region || !make_buffer(metal, bytes, &region->buffer)) {
        free(region);
        return NULL;
    }
    metal->region_bytes += bytes;
    const uint32_t place = n_before(metal, region->buffer.contents);
    memmove(metal->regions + place + 1, metal->regions + place,
            (metal->n_regions - place) * sizeof(kvf_metal_region *));
    metal->regions[place] = region;
    metal->n_regions++;
    return region;
}

static void remove_region(kvf_metal_device *metal, uint32_t place)
{
    kvf_metal_region *region = metal->regions[place];
    if (*last_blocks(metal, region->block_bytes) == region)
        *last_blocks(metal, region->block_bytes) = NULL;
    metal->region_bytes -= region->buffer.bytes;
    release_buffer(metal, &region->buffer);
    free(region);
    metal->n_regions--;
    memmove(metal->regions + place, metal->regions + place + 1,
            (metal->n_regions - place) * sizeof(kvf_metal_region *));
}

/* ---- Blocks: allocations of which pages would be left half empty -------------------- */

static bool has_block(const kvf_metal_region *region, size_t block_bytes)
{
    return region && region->block_bytes == block_bytes && region->free_blocks;
}

static void *alloc_block(kvf_metal_device *metal, size_t block_bytes)
{
    kvf_metal_region *region = *last_blocks(metal, block_bytes);
    for (uint32_t i = 0; i < metal->n_regions && !has_block(region, block_bytes); i++)
        region = metal->regions[i];
    if (!has_block(region, block_bytes)) {
        region = add_region(metal, BLOCKS * block_bytes);
        if (!region)
            return NULL;
        region->block_bytes = block_bytes;
        region->free_blocks = UINT64_MAX;
    }
    *last_blocks(metal, block_bytes) = region;
    uint32_t block = 0;
    while (!(region->free_blocks >> block & 1))
        block++;
    region->free_blocks &= ~(UINT64_C(1) << block);
    return (uint8_t *)region->buffer.contents + block * block_bytes;
}

static bool wastes_pages(const kvf_metal_device *metal, size_t bytes)
{
    const size_t page_bytes = metal->limits.page_bytes > 1 ? metal->limits.page_bytes : 1;
    const size_t unused = (page_bytes - bytes % page_bytes) % page_bytes;
    return unused > bytes / PAGE_WASTE;
}

void *kvf_metal_alloc(kvf_device *device, size_t bytes, kvf_place place)
{
    (void)place; /* all of it is shared */
    kvf_metal_device *metal = kvf_metal_of(device);
    bytes = bytes ? bytes : 1;
    if (wastes_pages(metal, bytes)) {
        void *block = alloc_block(metal, (bytes + BLOCK_ALIGNMENT_BYTES - 1) /
                                             BLOCK_ALIGNMENT_BYTES * BLOCK_ALIGNMENT_BYTES);
        if (block)
            return block;
        /* There may be room for one where there is none for a region of them. */
    }
    const kvf_metal_region *region = add_region(metal, bytes);
    return region ? region->buffer.contents : NULL;
}

void kvf_metal_release(kvf_device *device, void *memory, size_t bytes)
{
    (void)bytes;
    kvf_metal_device *metal = kvf_metal_of(device);
    const uint32_t after = n_before(metal, memory);
    if (after == 0)
        return; /* not this device's */
    kvf_metal_region *region = metal->regions[after - 1];
    if (region->block_bytes) {
        const size_t offset = (uintptr_t)memory - (uintptr_t)region->buffer.contents;
        region->free_blocks |= UINT64_C(1) << offset / region->block_bytes % BLOCKS;
        if (region->free_blocks != UINT64_MAX)
            return;
    }
    remove_region(metal, after - 1);
}

/* ---- Addresses ----------------------------------------------------------------------- */

bool kvf_metal_find(const kvf_metal_device *metal, const void *pointer, size_t bytes,
                    kvf_metal_span *span)
{
    const uint32_t after = n_before(metal, pointer);
    if (after == 0)
        return false;
    const kvf_metal_region *region = metal->regions[after - 1];
    const size_t offset = (uintptr_t)pointer - (uintptr_t)region->buffer.contents;
    if (offset > region->buffer.bytes || bytes > region->buffer.bytes - offset)
        return false;
    *span = (kvf_metal_span){&region->buffer, offset};
    return true;
}

/* ---- Staging --------------------------------------------------------------------- */

static kvf_metal_span dummy(const kvf_metal_device *metal)
{
    return (kvf_metal_span){&metal->nothing, 0};
}

static bool is_lost(const kvf_metal_device *metal)
{
    return metal->lost.status != KVF_OK;
}

/*
 * A buffer with room for bytes becomes the last one: if it can be, with room for all that
 * the operation has had so far too, so that the next such operation needs no new one.
 */
static bool grow_staging(kvf_metal_device *metal, size_t bytes)
{
    kvf_metal_staging *staging = &metal->staging;
    kvf_gpu_buffer **buffers =
        realloc(staging->buffers, (staging->n_buffers + 1) * sizeof *staging->buffers);
    if (!buffers)
        return false;
    staging->buffers = buffers;
    bytes = bytes > STAGING_LEAST_BYTES ? bytes : STAGING_LEAST_BYTES;
    size_t all_bytes = bytes;
    for (uint32_t i = 0; i < staging->n_buffers; i++)
        all_bytes += staging->buffers[i]->bytes;
    kvf_gpu_buffer *buffer = calloc(1, sizeof *buffer);
    if (!buffer || (!make_buffer(metal, all_bytes, buffer) &&
                    (all_bytes == bytes || !make_buffer(metal, bytes, buffer)))) {
        free(buffer);
        return false;
    }
    staging->buffers[staging->n_buffers++] = buffer;
    staging->used_bytes = 0;
    return true;
}

kvf_metal_span kvf_metal_temporary(kvf_metal_device *metal, size_t bytes)
{
    kvf_metal_staging *staging = &metal->staging;
    if (bytes == 0 || is_lost(metal))
        return dummy(metal);
    const size_t room = staging->n_buffers ? staging->buffers[staging->n_buffers - 1]->bytes : 0;
    size_t start = (staging->used_bytes + STAGING_ALIGNMENT_BYTES - 1) / STAGING_ALIGNMENT_BYTES *
                   STAGING_ALIGNMENT_BYTES;
    if (start > room || bytes > room - start) {
        if (!grow_staging(metal, bytes)) {
            kvf_metal_lose(metal, KVF_OUT_OF_MEMORY,
                           "no memory on the GPU for an operation's own arrays");
            return dummy(metal);
        }
        start = 0;
    }
    staging->used_bytes = start + bytes;
    return (kvf_metal_span){staging->buffers[staging->n_buffers - 1], start};
}

kvf_metal_span kvf_metal_upload(kvf_metal_device *metal, const void *data, size_t bytes)
{
    const kvf_metal_span span = kvf_metal_temporary(metal, bytes);
    if (bytes > 0 && !is_lost(metal))
        memcpy(kvf_metal_contents(span), data, bytes);
    return span;
}

kvf_metal_span kvf_metal_input(kvf_metal_device *metal, const void *data, size_t bytes)
{
    kvf_metal_span span;
    if (!data || bytes == 0 || is_lost(metal))
        return dummy(metal);
    return kvf_metal_find(metal, data, bytes, &span) ? span : kvf_metal_upload(metal, data, bytes);
}

kvf_metal_span kvf_metal_output(kvf_metal_device *metal, void *data, size_t bytes)
{
    kvf_metal_staging *staging = &metal->staging;
    kvf_metal_span span;
    if (!data || bytes == 0 || is_lost(metal))
        return dummy(metal);
    if (kvf_metal_find(metal, data, bytes, &span))
        return span;
    if (!reserve((void **)&staging->copies, staging->n_copies, &staging->copies_capacity,
                 sizeof *staging->copies)) {
        kvf_metal_lose(metal, KVF_OUT_OF_MEMORY, "no memory for an operation's list of outputs");
        return dummy(metal);
    }
    span = kvf_metal_upload(metal, data, bytes);
    if (!is_lost(metal))
        staging->copies[staging->n_copies++] =
            (kvf_metal_copy){data, kvf_metal_contents(span), bytes};
    return span;
}

static void release_staging(kvf_metal_device *metal, kvf_gpu_buffer *buffer)
{
    release_buffer(metal, buffer);
    free(buffer);
}

void kvf_metal_end_staging(kvf_metal_device *metal, bool copy_back)
{
    kvf_metal_staging *staging = &metal->staging;
    for (uint32_t i = 0; copy_back && i < staging->n_copies; i++)
        memcpy(staging->copies[i].to, staging->copies[i].from, staging->copies[i].bytes);
    staging->n_copies = 0;
    /* The last one is kept: the next operation will ask for about as much. */
    while (staging->n_buffers > 1) {
        release_staging(metal, staging->buffers[0]);
        staging->buffers[0] = staging->buffers[--staging->n_buffers];
    }
    staging->used_bytes = 0;
}

void kvf_metal_close_memory(kvf_metal_device *metal)
{
    kvf_metal_staging *staging = &metal->staging;
    for (uint32_t i = 0; i < staging->n_buffers; i++)
        release_staging(metal, staging->buffers[i]);
    while (metal->n_regions > 0)
        remove_region(metal, metal->n_regions - 1);
    free(staging->buffers);
    free(staging->copies);
    free(metal->regions);
    metal->regions = NULL;
    metal->regions_capacity = 0;
    *staging = (kvf_metal_staging){0};
}
