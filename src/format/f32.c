/* f32: 4 bytes a value, as they are. A page is its rows, one after the other. */
#include "format/format.h"

#include <string.h>

static size_t row_bytes(uint32_t width)
{
    return width == KVF_ROW_WIDTH || width == KVF_INDEX_WIDTH ? width * sizeof(float) : 0;
}

static size_t page_bytes(uint32_t width, uint32_t page_rows)
{
    return page_rows * row_bytes(width);
}

static bool pack(void *page, uint32_t page_rows, uint32_t row, uint32_t width, const float *values)
{
    (void)page_rows;
    memcpy((uint8_t *)page + row * row_bytes(width), values, row_bytes(width));
    return true;
}

static void unpack(const void *page, uint32_t page_rows, uint32_t row, uint32_t width,
                   float *values)
{
    (void)page_rows;
    memcpy(values, (const uint8_t *)page + row * row_bytes(width), row_bytes(width));
}

const kvf_format kvf_format_f32 = {"f32", KVF_GRID_NONE, row_bytes, page_bytes, pack, unpack};
