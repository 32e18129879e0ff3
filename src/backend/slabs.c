/*
 * Pages in slabs: a device gives memory in few large pieces, each of pages of one size, and a page
 * that nobody holds any more is the next one that is taken (docs/MEMORY.md, Slabs).
 */
#include <stdlib.h>

#include "assertion.h"
#include "backend/backend.h"

struct kvf_slab {
    kvf_slab *next; /* of the list that it is in, if any: kvf_slab_size's */
    kvf_slab *previous;
    kvf_slab_size *size;
    uint8_t *memory;
    uint32_t n_pages;
    uint32_t n_free;
    uint64_t free_pages[]; /* a bit each */
};

/* ---- Free pages under the address sanitizer ---------------------------------------- */

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KVF_WATCHES_PAGES
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define KVF_WATCHES_PAGES
#endif

#ifdef KVF_WATCHES_PAGES
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#endif

/* To the allocator all of a slab is in use: whoever touches a free page is to be told all the same.
 */
static void close_pages(const kvf_device *device, void *memory, size_t bytes)
{
    if (device->backend->addresses_host_memory)
        ASAN_POISON_MEMORY_REGION(memory, bytes);
}

static void open_pages(const kvf_device *device, void *memory, size_t bytes)
{
    if (device->backend->addresses_host_memory)
        ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
}

/* ---- Lists ------------------------------------------------------------------------- */

static void push(kvf_slab **list, kvf_slab *slab)
{
    slab->previous = NULL;
    slab->next = *list;
    if (*list)
        (*list)->previous = slab;
    *list = slab;
}

static void unlink_from(kvf_slab **list, kvf_slab *slab)
{
    if (slab->next)
        slab->next->previous = slab->previous;
    *(slab->previous ? &slab->previous->next : list) = slab->next;
}

/* ---- Slabs ------------------------------------------------------------------------- */

/* Where slabs of such pages are kept; NULL: there are pages of too many other sizes. */
static kvf_slab_size *size_of(kvf_device *device, size_t page_bytes)
{
    kvf_slab_size *unused = NULL;
    for (int i = 0; i < KVF_SLAB_SIZES; i++) {
        kvf_slab_size *size = &device->slab_sizes[i];
        if (size->n_slabs == 0)
            unused = unused ? unused : size;
        else if (size->page_bytes == page_bytes)
            return size;
    }
    if (unused)
        *unused = (kvf_slab_size){.page_bytes = page_bytes};
    return unused;
}

/* A slab without a page that is held, in its list of those. NULL: no memory. */
static kvf_slab *open_slab(kvf_device *device, kvf_slab_size *size)
{
    const uint32_t n_pages = kvf_slab_pages(device->slab_bytes, size->page_bytes);
    const uint32_t n_words = (n_pages + 63) / 64;
    const size_t bytes = n_pages * size->page_bytes;
    kvf_slab *slab = malloc(sizeof *slab + n_words * sizeof *slab->free_pages);
    if (!slab)
        return NULL;
    slab->memory = kvf_device_alloc(device, KVF_MEMORY_POOL, KVF_PLACE_DEVICE, bytes);
    if (!slab->memory) {
        free(slab);
        return NULL;
    }
    close_pages(device, slab->memory, bytes);
    slab->size = size;
    slab->n_pages = n_pages;
    slab->n_free = n_pages;
    for (uint32_t i = 0; i < n_words; i++) {
        const uint32_t left = n_pages - i * 64;
        slab->free_pages[i] = left < 64 ? (UINT64_C(1) << left) - 1 : UINT64_MAX;
    }
    size->n_slabs++;
    size->n_free += n_pages;
    push(&size->empty, slab);
    return slab;
}

static void close_slab(kvf_device *device, kvf_slab *slab)
{
    kvf_slab_size *size = slab->size;
    const size_t bytes = slab->n_pages * size->page_bytes;
    unlink_from(&size->empty, slab);
    size->n_slabs--;
    size->n_free -= slab->n_pages;
    open_pages(device, slab->memory, bytes);
    kvf_device_release(device, KVF_MEMORY_POOL, slab->memory, bytes);
    free(slab);
}

void kvf_device_trim(kvf_device *device)
{
    for (int i = 0; i < KVF_SLAB_SIZES; i++)
        while (device->slab_sizes[i].empty)
            close_slab(device, device->slab_sizes[i].empty);
}

/* ---- Pages ------------------------------------------------------------------------- */

/* The first that is free, so that what was never used stays together at the slab's end. */
static uint32_t take_free(kvf_slab *slab)
{
    uint32_t word = 0;
    while (slab->free_pages[word] == 0)
        word++;
    const uint32_t bit = (uint32_t)__builtin_ctzll(slab->free_pages[word]);
    slab->free_pages[word] &= slab->free_pages[word] - 1;
    return word * 64 + bit;
}

void *kvf_device_take_page(kvf_device *device, kvf_memory_class klass, size_t bytes,
                           kvf_slab **slab)
{
    *slab = NULL;
    const uint32_t n_pages = kvf_slab_pages(device->slab_bytes, bytes);
    kvf_slab_size *size = n_pages ? size_of(device, bytes) : NULL;
    if (!size)
        return kvf_device_alloc(device, klass, KVF_PLACE_DEVICE, bytes);
    kvf_slab *from = size->partly ? size->partly : size->empty;
    if (!from)
        from = open_slab(device, size);
    if (!from)
        return NULL;
    if (from->n_free == from->n_pages) {
        unlink_from(&size->empty, from);
        push(&size->partly, from);
    }
    uint8_t *page = from->memory + take_free(from) * bytes;
    size->n_free--;
    if (--from->n_free == 0)
        unlink_from(&size->partly, from);
    open_pages(device, page, bytes);
    kvf_device_reclassify(device, KVF_MEMORY_POOL, klass, bytes);
    *slab = from;
    return page;
}

void kvf_device_give_page(kvf_device *device, kvf_memory_class klass, void *page, size_t bytes,
                          kvf_slab *slab)
{
    if (!slab) {
        kvf_device_release(device, klass, page, bytes);
        return;
    }
    kvf_slab_size *size = slab->size;
    const size_t at = ((uintptr_t)page - (uintptr_t)slab->memory) / size->page_bytes;
    KVF_ASSERT(bytes == size->page_bytes && at < slab->n_pages);
    KVF_ASSERT(!(slab->free_pages[at / 64] >> at % 64 & 1));
    slab->free_pages[at / 64] |= UINT64_C(1) << at % 64;
    size->n_free++;
    close_pages(device, page, bytes);
    kvf_device_reclassify(device, klass, KVF_MEMORY_POOL, bytes);
    /* Where all were held until now there are few to fill up: it comes first, and others empty. */
    if (slab->n_free++ == 0)
        push(&size->partly, slab);
    if (slab->n_free == slab->n_pages) {
        unlink_from(&size->partly, slab);
        push(&size->empty, slab);
    }
}
