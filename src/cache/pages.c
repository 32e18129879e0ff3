/* Pages: counted, shared, copied before they are written; and rows that lie in them. */
#include <stdlib.h>
#include <string.h>

#include "assertion.h"
#include "cache/session.h"
#include "error.h"

void *kvf_session_alloc(kvf_session *session, uint64_t bytes)
{
    void *memory = kvf_device_alloc(session->device, KVF_MEMORY_CACHE, KVF_PLACE_STAGING, bytes);
    if (!memory)
        return NULL;
    memset(memory, 0, bytes);
    session->allocated_bytes += bytes;
    return memory;
}

void kvf_session_release(kvf_session *session, void *memory, uint64_t bytes)
{
    if (!memory)
        return;
    kvf_device_release(session->device, KVF_MEMORY_CACHE, memory, bytes);
    session->allocated_bytes -= bytes;
}

/* ---- One page ----------------------------------------------------------------- */

void kvf_page_owner_release(kvf_page_owner *owner)
{
    if (--owner->n_references == 0)
        owner->release(owner);
}

static void *take_device_page(kvf_session *session, uint64_t bytes, kvf_slab **slab)
{
    void *memory = kvf_device_take_page(session->device, KVF_MEMORY_CACHE, bytes, slab);
    if (!memory)
        return NULL;
    session->device->backend->zero(session->device, memory, bytes);
    session->allocated_bytes += bytes;
    return memory;
}

kvf_page *kvf_session_new_page(kvf_session *session, kvf_place place, uint64_t bytes)
{
    kvf_page *page = calloc(1, sizeof *page);
    if (!page)
        return NULL;
    page->memory = place == KVF_PLACE_STAGING ? kvf_session_alloc(session, bytes)
                                              : take_device_page(session, bytes, &page->slab);
    if (!page->memory) {
        free(page);
        return NULL;
    }
    page->bytes = bytes;
    page->place = place;
    page->n_sessions = 1;
    page->checked = true;
    return page;
}

kvf_page *kvf_session_map_page(kvf_session *session, kvf_page_owner *owner, const void *memory,
                               uint64_t bytes)
{
    kvf_page *page = calloc(1, sizeof *page);
    if (!page)
        return NULL;
    /* Views have no pointers to constant memory; an owner's is never written all the same. */
    page->memory = (void *)(uintptr_t)memory;
    page->bytes = bytes;
    page->n_sessions = 1;
    page->owner = owner;
    owner->n_references++;
    session->mapped_bytes += bytes;
    return page;
}

/* The page's bytes move between the two classes with those who hold it. */
static void reclassify(kvf_device *device, const kvf_page *page, kvf_memory_class from,
                       kvf_memory_class to)
{
    if (!page->owner)
        kvf_device_reclassify(device, from, to, page->bytes);
}

static void close_page(kvf_device *device, kvf_page *page, kvf_memory_class klass)
{
    if (page->owner)
        kvf_page_owner_release(page->owner);
    else
        kvf_device_give_page(device, klass, page->memory, page->bytes, page->slab);
    free(page);
}

void kvf_session_hold_page(kvf_session *session, kvf_page *page)
{
    if (page->n_sessions++ == 0)
        reclassify(session->device, page, KVF_MEMORY_CHECKPOINT, KVF_MEMORY_CACHE);
    *(page->owner ? &session->mapped_bytes : &session->allocated_bytes) += page->bytes;
}

void kvf_session_drop_page(kvf_session *session, kvf_page *page)
{
    if (!page)
        return;
    KVF_ASSERT(page->n_sessions > 0);
    KVF_ASSERT((page->owner ? session->mapped_bytes : session->allocated_bytes) >= page->bytes);
    *(page->owner ? &session->mapped_bytes : &session->allocated_bytes) -= page->bytes;
    if (--page->n_sessions > 0)
        return;
    if (page->n_checkpoints > 0)
        reclassify(session->device, page, KVF_MEMORY_CACHE, KVF_MEMORY_CHECKPOINT);
    else
        close_page(session->device, page, KVF_MEMORY_CACHE);
}

void kvf_page_keep(kvf_device *device, kvf_page *page)
{
    (void)device;
    page->n_checkpoints++;
}

void kvf_page_unkeep(kvf_device *device, kvf_page *page)
{
    if (page && --page->n_checkpoints == 0 && page->n_sessions == 0)
        close_page(device, page, KVF_MEMORY_CHECKPOINT);
}

kvf_status kvf_page_check(kvf_page *page, kvf_error *error)
{
    if (!page || page->checked)
        return KVF_OK;
    const kvf_status status = page->owner->check(page->owner, page->memory, page->bytes, error);
    page->checked = status == KVF_OK;
    return status;
}

kvf_status kvf_session_own_page(kvf_session *session, kvf_page **page, bool copied,
                                kvf_page **before, kvf_error *error)
{
    kvf_page *old = *page;
    if (!before && !old->owner && old->n_sessions == 1 && old->n_checkpoints == 0)
        return KVF_OK;
    const kvf_status status = copied ? kvf_page_check(old, error) : KVF_OK;
    if (status != KVF_OK)
        return status;
    kvf_page *own = kvf_session_new_page(session, old->place, old->bytes);
    if (!own)
        return kvf_fail(error, KVF_OUT_OF_MEMORY,
                        "no memory for an own copy of a page of %llu bytes; the session holds "
                        "%llu tokens and %llu bytes",
                        (unsigned long long)old->bytes,
                        (unsigned long long)session->header->n_tokens,
                        (unsigned long long)session->allocated_bytes);
    if (copied && old->place == KVF_PLACE_STAGING)
        memcpy(own->memory, old->memory, old->bytes);
    else if (copied)
        session->device->backend->copy(session->device, own->memory, old->memory, old->bytes);
    if (before) {
        kvf_page_keep(session->device, old);
        *before = old;
    }
    kvf_session_drop_page(session, old);
    *page = own;
    return KVF_OK;
}

/* ---- Rows in pages ------------------------------------------------------------- */

uint64_t kvf_paged_rows_page_bytes(const kvf_paged_rows *rows)
{
    return kvf_format_page_bytes(rows->format, rows->width, KVF_PAGE_ROWS);
}

kvf_status kvf_paged_rows_open(kvf_session *session, kvf_paged_rows *rows, kvf_format_id format,
                               uint32_t width, uint64_t max_rows, kvf_error *error)
{
    memset(rows, 0, sizeof *rows);
    rows->format = format;
    rows->width = width;
    rows->max_pages = kvf_ceil_div(max_rows, KVF_PAGE_ROWS);
    const size_t n = rows->max_pages ? rows->max_pages : 1;
    rows->memory = calloc(n, sizeof *rows->memory);
    rows->pages = calloc(n, sizeof *rows->pages);
    rows->table = kvf_device_alloc(session->device, KVF_MEMORY_TABLE, KVF_PLACE_DEVICE,
                                   kvf_table_bytes(rows->max_pages));
    if (!rows->memory || !rows->pages || !rows->table)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a table of %llu pages",
                        (unsigned long long)rows->max_pages);
    return KVF_OK;
}

void kvf_paged_rows_close(kvf_session *session, kvf_paged_rows *rows)
{
    kvf_paged_rows_shrink(session, rows, rows->first_row);
    kvf_device_release(session->device, KVF_MEMORY_TABLE, rows->table,
                       kvf_table_bytes(rows->max_pages));
    free(rows->memory);
    free(rows->pages);
    memset(rows, 0, sizeof *rows);
}

void kvf_paged_rows_put(kvf_paged_rows *rows, kvf_page *page)
{
    KVF_ASSERT(rows->n_pages < rows->max_pages);
    rows->memory[rows->n_pages] = page->memory;
    rows->pages[rows->n_pages++] = page;
}

void kvf_paged_rows_put_memory(kvf_paged_rows *rows, void *memory)
{
    KVF_ASSERT(rows->n_pages < rows->max_pages);
    rows->memory[rows->n_pages] = memory;
    rows->pages[rows->n_pages++] = NULL;
}

static void write_table(kvf_session *session, const kvf_paged_rows *rows, uint64_t first,
                        uint64_t n)
{
    if (n > 0)
        session->device->backend->write(session->device, rows->table + first, rows->memory + first,
                                        n * sizeof *rows->table);
}

void kvf_paged_rows_write(kvf_session *session, const kvf_paged_rows *rows, uint64_t first)
{
    write_table(session, rows, first, rows->n_pages - first);
}

kvf_status kvf_paged_rows_reserve(kvf_session *session, kvf_paged_rows *rows, uint64_t n_rows,
                                  kvf_error *error)
{
    const uint64_t needed = kvf_ceil_div(n_rows - rows->first_row, KVF_PAGE_ROWS);
    const uint64_t page_bytes = kvf_paged_rows_page_bytes(rows);
    const uint64_t first = rows->n_pages;
    kvf_status status = KVF_OK;
    while (rows->n_pages < needed && status == KVF_OK) {
        kvf_page *page = kvf_session_new_page(session, KVF_PLACE_DEVICE, page_bytes);
        if (page)
            kvf_paged_rows_put(rows, page);
        else
            status = kvf_fail(error, KVF_OUT_OF_MEMORY,
                              "no memory for page %llu of %s rows (%llu bytes); the session holds "
                              "%llu tokens and %llu bytes",
                              (unsigned long long)(rows->first_row / KVF_PAGE_ROWS + rows->n_pages),
                              kvf_format_name(rows->format), (unsigned long long)page_bytes,
                              (unsigned long long)session->header->n_tokens,
                              (unsigned long long)session->allocated_bytes);
    }
    kvf_paged_rows_write(session, rows, first);
    return status;
}

kvf_status kvf_paged_rows_own(kvf_session *session, kvf_paged_rows *rows, uint64_t i, bool copied,
                              kvf_page **before, kvf_error *error)
{
    const kvf_status status = kvf_session_own_page(session, &rows->pages[i], copied, before, error);
    if (rows->memory[i] != rows->pages[i]->memory) {
        rows->memory[i] = rows->pages[i]->memory;
        write_table(session, rows, i, 1);
    }
    return status;
}

void kvf_paged_rows_shrink(kvf_session *session, kvf_paged_rows *rows, uint64_t n_rows)
{
    const uint64_t needed = kvf_ceil_div(n_rows - rows->first_row, KVF_PAGE_ROWS);
    while (rows->n_pages > needed) {
        rows->n_pages--;
        kvf_session_drop_page(session, rows->pages[rows->n_pages]);
        rows->pages[rows->n_pages] = NULL;
        rows->memory[rows->n_pages] = NULL;
    }
    if (rows->n_checked > rows->n_pages)
        rows->n_checked = rows->n_pages;
}

void kvf_paged_rows_advance(kvf_session *session, kvf_paged_rows *rows, uint64_t first_row)
{
    const uint64_t fallen = (first_row - rows->first_row) / KVF_PAGE_ROWS;
    KVF_ASSERT(first_row >= rows->first_row && fallen <= rows->n_pages);
    if (fallen == 0)
        return;
    const uint64_t left = rows->n_pages - fallen;
    for (uint64_t i = 0; i < fallen; i++)
        kvf_session_drop_page(session, rows->pages[i]);
    memmove(rows->pages, rows->pages + fallen, left * sizeof *rows->pages);
    memmove(rows->memory, rows->memory + fallen, left * sizeof *rows->memory);
    rows->first_row += fallen * KVF_PAGE_ROWS;
    rows->n_pages = left;
    rows->n_checked = rows->n_checked > fallen ? rows->n_checked - fallen : 0;
    kvf_paged_rows_write(session, rows, 0);
}

/* Pages that were written here, or that another session had checked. */
static void skip_checked(kvf_paged_rows *rows)
{
    while (rows->n_checked < rows->n_pages && rows->pages[rows->n_checked]->checked)
        rows->n_checked++;
}

kvf_status kvf_paged_rows_check(kvf_paged_rows *rows, uint64_t n_rows, kvf_error *error)
{
    const uint64_t n = kvf_ceil_div(n_rows - rows->first_row, KVF_PAGE_ROWS);
    for (; rows->n_checked < n; rows->n_checked++) {
        const kvf_status status = kvf_page_check(rows->pages[rows->n_checked], error);
        if (status != KVF_OK)
            return status;
    }
    return KVF_OK;
}

kvf_status kvf_paged_rows_check_page(kvf_paged_rows *rows, uint64_t i, kvf_error *error)
{
    return i < rows->n_checked ? KVF_OK : kvf_page_check(rows->pages[i], error);
}

kvf_status kvf_paged_rows_check_list(kvf_paged_rows *rows, const int32_t *list, uint64_t n,
                                     kvf_error *error)
{
    skip_checked(rows);
    if (rows->n_checked == rows->n_pages)
        return KVF_OK;
    for (uint64_t i = 0; i < n; i++) {
        if (list[i] < 0)
            continue;
        const kvf_status status =
            kvf_paged_rows_check_page(rows, (uint64_t)list[i] / KVF_PAGE_ROWS, error);
        if (status != KVF_OK)
            return status;
    }
    return KVF_OK;
}

kvf_rows kvf_paged_rows_view(const kvf_paged_rows *rows, uint64_t n_rows)
{
    return (kvf_rows){.format = rows->format,
                      .width = rows->width,
                      .page_rows = KVF_PAGE_ROWS,
                      .n_rows = n_rows - rows->first_row,
                      .pages = rows->table};
}
