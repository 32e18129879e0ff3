/* fp8_f16: the FP8 grid, rope as f16. Exact for every finite row. */
#include "format/fp8.h"

static const kvf_fp8_rope rope = {kvf_f16_encode, kvf_f16_decode};

static bool pack(void *page, uint32_t page_rows, uint32_t row, uint32_t width, const float *values)
{
    (void)width;
    return kvf_fp8_pack(page, page_rows, row, values, rope);
}

static void unpack(const void *page, uint32_t page_rows, uint32_t row, uint32_t width,
                   float *values)
{
    (void)width;
    kvf_fp8_unpack(page, page_rows, row, values, rope);
}

const kvf_format kvf_format_fp8_f16 = {"fp8_f16",          KVF_GRID_FP8, kvf_fp8_row_bytes,
                                       kvf_fp8_page_bytes, pack,         unpack};
