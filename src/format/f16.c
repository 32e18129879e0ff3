/*
 * f16: 2 bytes a value, rounded to nearest even. A page is its rows, one after the
 * other. A value on the FP8 grid is exact here while its block's exponent is within
 * -15 .. 7 (docs/FORMAT.md 3); pack says when one is not.
 */
#include "format/format.h"

#include "shared/half.h"

static size_t row_bytes(uint32_t width)
{
    return width == KVF_ROW_WIDTH || width == KVF_INDEX_WIDTH ? width * sizeof(uint16_t) : 0;
}

static size_t page_bytes(uint32_t width, uint32_t page_rows)
{
    return page_rows * row_bytes(width);
}

static bool pack(void *page, uint32_t page_rows, uint32_t row, uint32_t width, const float *values)
{
    (void)page_rows;
    uint8_t *out = (uint8_t *)page + row * row_bytes(width);
    bool exact = true;
    for (uint32_t i = 0; i < width; i++) {
        const uint32_t bits = kvf_bits_of(values[i]);
        const uint16_t code = kvf_f16_encode(bits);
        memcpy(out + i * sizeof code, &code, sizeof code);
        exact &= kvf_f16_decode(code) == bits;
    }
    return exact;
}

static void unpack(const void *page, uint32_t page_rows, uint32_t row, uint32_t width,
                   float *values)
{
    (void)page_rows;
    const uint8_t *in = (const uint8_t *)page + row * row_bytes(width);
    for (uint32_t i = 0; i < width; i++) {
        uint16_t code;
        memcpy(&code, in + i * sizeof code, sizeof code);
        values[i] = kvf_float_of(kvf_f16_decode(code));
    }
}

const kvf_format kvf_format_f16 = {"f16", KVF_GRID_NONE, row_bytes, page_bytes, pack, unpack};
