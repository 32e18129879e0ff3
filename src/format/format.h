/*
 * A row format: how one row's values become bytes. One file each, one line each in
 * formats.def. Formats know bytes and nothing else (docs/FORMAT.md).
 */
#ifndef KVF_FORMAT_FORMAT_H
#define KVF_FORMAT_FORMAT_H

#include "kvfold.h"

typedef struct kvf_format {
    const char *name;
    /* The grid that this format contains; KVF_GRID_NONE: it stores values as given. */
    kvf_grid grid;
    /* Bytes of a row without page padding; 0: the format does not exist in that width. */
    size_t (*row_bytes)(uint32_t width);
    /* Bytes of a page with padding. The caller has bounded page_rows (no overflow). */
    size_t (*page_bytes)(uint32_t width, uint32_t page_rows);
    /*
     * Stores row `row` (< page_rows) of a page from values[width], which are finite.
     * Touches that row's bytes only. Returns false when the stored row does not
     * decode to the grid value exactly (f16 outside its range, bf16 rope).
     */
    bool (*pack)(void *page, uint32_t page_rows, uint32_t row, uint32_t width, const float *values);
    /* Exact decode of one row to values[width]. */
    void (*unpack)(const void *page, uint32_t page_rows, uint32_t row, uint32_t width,
                   float *values);
} kvf_format;

/* NULL for an unknown id. */
const kvf_format *kvf_format_get(kvf_format_id id);

/* Rounds values[512] to the grid of FORMAT.md 3, in place. */
void kvf_grid_fp8(float *values);
/* Rounds values[128] to the grid of FORMAT.md 4, in place (no Hadamard). */
void kvf_grid_fp4(float *values);
/* Hadamard-128 of FORMAT.md 4, in place. */
void kvf_hadamard_128(float *values);

/* Address of the page that holds `row` of a view. */
static inline void *kvf_rows_page(const kvf_rows *rows, uint64_t row)
{
    const uint64_t page = row / rows->page_rows;
    return rows->pages ? rows->pages[page]
                       : (void *)((uint8_t *)rows->base + page * rows->page_stride_bytes);
}

#endif
