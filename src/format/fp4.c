/* fp4: the FP4 grid in DeepGEMM's layout. Exact for every finite row. No Hadamard here. */
#include "format/fp4.h"

static size_t row_bytes(uint32_t width)
{
    return width == KVF_INDEX_WIDTH ? KVF_FP4_ROW_BYTES : 0;
}

static size_t page_bytes(uint32_t width, uint32_t page_rows)
{
    return page_rows * row_bytes(width);
}

/* Where in its page a row's 64 code bytes and its 4 scale bytes begin. */
static size_t code_offset(uint32_t row)
{
    return (size_t)row * KVF_FP4_CODE_BYTES;
}

static size_t scale_offset(uint32_t page_rows, uint32_t row)
{
    return (size_t)page_rows * KVF_FP4_CODE_BYTES + (size_t)row * KVF_FP4_SCALE_BYTES;
}

static bool pack(void *page, uint32_t page_rows, uint32_t row, uint32_t width, const float *values)
{
    (void)width;
    uint8_t *codes = (uint8_t *)page + code_offset(row);
    uint8_t *scales = (uint8_t *)page + scale_offset(page_rows, row);
    for (int b = 0; b < KVF_FP4_BLOCKS; b++) {
        scales[b] = kvf_ue8m0_encode(kvf_fp4_encode_block(values + b * KVF_FP4_BLOCK_VALUES,
                                                          codes + b * KVF_FP4_BLOCK_CODE_BYTES));
    }
    return true;
}

static void unpack(const void *page, uint32_t page_rows, uint32_t row, uint32_t width,
                   float *values)
{
    (void)width;
    const uint8_t *codes = (const uint8_t *)page + code_offset(row);
    const uint8_t *scales = (const uint8_t *)page + scale_offset(page_rows, row);
    for (int b = 0; b < KVF_FP4_BLOCKS; b++)
        kvf_fp4_decode_block(codes + b * KVF_FP4_BLOCK_CODE_BYTES, scales[b],
                             values + b * KVF_FP4_BLOCK_VALUES);
}

const kvf_format kvf_format_fp4 = {"fp4", KVF_GRID_FP4, row_bytes, page_bytes, pack, unpack};
