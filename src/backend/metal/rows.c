/*
 * Views of rows as kernels see them: a GPU address and a stride, or the address of a table
 * of page addresses, which is made here for each operation.
 */
#include <assert.h>

#include "assertion.h"
#include "backend/metal/metal.h"
#include "format/format.h"
#include "shared/layout.h"

static_assert((int)KVF_ROWS_F32 == KVF_FORMAT_F32 && (int)KVF_ROWS_F16 == KVF_FORMAT_F16 &&
                  (int)KVF_ROWS_FP8_F16 == KVF_FORMAT_FP8_F16 &&
                  (int)KVF_ROWS_FP8_BF16 == KVF_FORMAT_FP8_BF16 &&
                  (int)KVF_ROWS_FP4 == KVF_FORMAT_FP4,
              "kernels.h has the formats' numbers for Metal");
static_assert((int)KVF_TO_NO_GRID == KVF_GRID_NONE && (int)KVF_TO_FP8 == KVF_GRID_FP8 &&
                  (int)KVF_TO_FP4 == KVF_GRID_FP4,
              "kernels.h has the grids' numbers for Metal");
static_assert((int)KVF_ROW_IS_OK == KVF_OK && (int)KVF_ROW_IS_NONFINITE == KVF_NONFINITE &&
                  (int)KVF_ROW_IS_RANGE == KVF_RANGE,
              "kernels.h has the status numbers for Metal");

/* Bytes from a page's start to the end of its n-th row, which are not all of it. */
static size_t used_bytes(const kvf_rows *view, uint64_t n)
{
    switch (view->format) {
    case KVF_FORMAT_FP8_F16:
    case KVF_FORMAT_FP8_BF16:
        return (size_t)view->page_rows * KVF_FP8_DATA_BYTES + (size_t)n * KVF_FP8_SCALE_BYTES;
    case KVF_FORMAT_FP4:
        return (size_t)view->page_rows * KVF_FP4_CODE_BYTES + (size_t)n * KVF_FP4_SCALE_BYTES;
    case KVF_FORMAT_F32:
    case KVF_FORMAT_F16: return (size_t)n * kvf_format_row_bytes(view->format, view->width);
    case KVF_FORMAT_COUNT: break;
    }
    KVF_UNREACHABLE();
    return 0;
}

/* `near`: the buffer of the page before, where this one mostly is too; NULL at first. */
static uint64_t page_address(kvf_metal_device *metal, void *page, size_t bytes, bool written,
                             const kvf_gpu_buffer **near)
{
    if (*near) {
        const uintptr_t offset = (uintptr_t)page - (uintptr_t)(*near)->contents;
        if (offset < (*near)->bytes && bytes <= (*near)->bytes - offset)
            return (*near)->gpu_address + offset;
    }
    const kvf_metal_span span =
        written ? kvf_metal_output(metal, page, bytes) : kvf_metal_input(metal, page, bytes);
    *near = span.buffer;
    return kvf_metal_address(span);
}

static void make_table(kvf_metal_device *metal, const kvf_rows *view, bool written,
                       uint64_t n_pages, kvf_kernel_rows *rows)
{
    const kvf_metal_span table = kvf_metal_temporary(metal, (size_t)n_pages * sizeof(uint64_t));
    if (kvf_metal_state(&metal->base, NULL) != KVF_OK)
        return;
    uint64_t *addresses = kvf_metal_contents(table);
    const kvf_gpu_buffer *near = NULL;
    for (uint64_t p = 0; p < n_pages; p++) {
        const uint64_t left = view->n_rows - p * view->page_rows;
        const uint64_t n = left < view->page_rows ? left : view->page_rows;
        addresses[p] = page_address(metal, view->pages[p], used_bytes(view, n), written, &near);
    }
    rows->address = kvf_metal_address(table);
}

static kvf_kernel_rows make_rows(kvf_metal_device *metal, const kvf_rows *view, bool written)
{
    kvf_kernel_rows rows = {.address = metal->nothing.gpu_address,
                            .n_rows = view->n_rows,
                            .page_rows = view->page_rows ? view->page_rows : 1,
                            .format = view->format};
    if (view->n_rows == 0)
        return rows;
    const uint64_t n_pages = (view->n_rows - 1) / view->page_rows + 1;
    if (view->pages) {
        make_table(metal, view, written, n_pages, &rows);
        return rows;
    }
    const uint64_t last_rows = view->n_rows - (n_pages - 1) * view->page_rows;
    const size_t bytes =
        (size_t)(n_pages - 1) * view->page_stride_bytes + used_bytes(view, last_rows);
    const kvf_gpu_buffer *near = NULL;
    rows.address = page_address(metal, view->base, bytes, written, &near);
    /* A view of one page may leave its stride 0, which to kernels means a table. */
    rows.page_stride_bytes = n_pages > 1 ? view->page_stride_bytes : bytes;
    return rows;
}

kvf_kernel_rows kvf_metal_input_rows(kvf_metal_device *metal, const kvf_rows *view)
{
    return make_rows(metal, view, false);
}

kvf_kernel_rows kvf_metal_output_rows(kvf_metal_device *metal, const kvf_rows *view)
{
    return make_rows(metal, view, true);
}
