/* Views of rows as kernels see them. */
#include <assert.h>

#include "backend/gpu/gpu.h"
#include "format/format.h"

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

kvf_kernel_rows kvf_gpu_rows(kvf_gpu_device *gpu, const kvf_rows *view)
{
    const void *memory = view->pages ? (const void *)view->pages : view->base;
    /* A view of one page may leave its stride 0, which to kernels means a table. */
    const uint64_t stride = view->page_stride_bytes ? view->page_stride_bytes : 1;
    return (kvf_kernel_rows){.address = view->n_rows ? kvf_gpu_at(gpu, memory) : 0,
                             .page_stride_bytes = view->pages ? 0 : stride,
                             .n_rows = view->n_rows,
                             .page_rows = view->page_rows ? view->page_rows : 1,
                             .format = view->format};
}
