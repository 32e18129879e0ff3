/* Pages of rows: they come as tokens do, and every byte is counted. */
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "error.h"

void *kvf_session_alloc(kvf_session *session, uint64_t bytes)
{
    void *memory = kvf_device_alloc(session->device, KVF_MEMORY_CACHE, bytes);
    if (memory) {
        memset(memory, 0, bytes);
        session->allocated_bytes += bytes;
    }
    return memory;
}

void kvf_session_release(kvf_session *session, void *memory, uint64_t bytes)
{
    if (!memory)
        return;
    kvf_device_release(session->device, KVF_MEMORY_CACHE, memory, bytes);
    session->allocated_bytes -= bytes;
}

kvf_status kvf_paged_rows_open(kvf_paged_rows *rows, kvf_format_id format, uint32_t width,
                               uint64_t max_rows, kvf_error *error)
{
    rows->format = format;
    rows->width = width;
    rows->max_pages = kvf_ceil_div(max_rows, KVF_PAGE_ROWS);
    rows->n_pages = 0;
    rows->pages = calloc(rows->max_pages ? rows->max_pages : 1, sizeof *rows->pages);
    if (!rows->pages)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a table of %llu pages",
                        (unsigned long long)rows->max_pages);
    return KVF_OK;
}

kvf_status kvf_paged_rows_reserve(kvf_session *session, kvf_paged_rows *rows, uint64_t n_rows,
                                  kvf_error *error)
{
    const uint64_t needed = kvf_ceil_div(n_rows, KVF_PAGE_ROWS);
    const size_t page_bytes = kvf_format_page_bytes(rows->format, rows->width, KVF_PAGE_ROWS);
    while (rows->n_pages < needed) {
        void *page = kvf_session_alloc(session, page_bytes);
        if (!page)
            return kvf_fail(error, KVF_OUT_OF_MEMORY,
                            "no memory for page %llu of %s rows (%zu bytes); the session holds "
                            "%llu tokens and %llu bytes",
                            (unsigned long long)rows->n_pages, kvf_format_name(rows->format),
                            page_bytes, (unsigned long long)session->header->n_tokens,
                            (unsigned long long)session->allocated_bytes);
        rows->pages[rows->n_pages++] = page;
    }
    return KVF_OK;
}

void kvf_paged_rows_close(kvf_session *session, kvf_paged_rows *rows)
{
    const size_t page_bytes = kvf_format_page_bytes(rows->format, rows->width, KVF_PAGE_ROWS);
    for (uint64_t i = 0; i < rows->n_pages; i++)
        kvf_session_release(session, rows->pages[i], page_bytes);
    free(rows->pages);
    memset(rows, 0, sizeof *rows);
}

kvf_rows kvf_paged_rows_view(const kvf_paged_rows *rows, uint64_t n_rows)
{
    return (kvf_rows){.format = rows->format,
                      .width = rows->width,
                      .page_rows = KVF_PAGE_ROWS,
                      .n_rows = n_rows,
                      .pages = rows->pages};
}
