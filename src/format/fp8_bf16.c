/*
 * fp8_bf16: the FP8 grid, rope as bf16: the bytes of FlashMLA, vLLM and SGLang.
 *
 * The rope value stored is the bf16 nearest to the input, as theirs is, not to the
 * input's f16 grid value. bf16 keeps 8 significant bits where f16 keeps 11, so pack
 * returns false for most rows: the row serves those engines but is not bit-identical
 * to the grid. A rope value of 2^128 - 2^119 or more becomes infinity, as with them.
 */
#include "format/fp8.h"
#include "shared/bf16.h"

static const kvf_fp8_rope rope = {kvf_bf16_encode, kvf_bf16_decode};

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

const kvf_format kvf_format_fp8_bf16 = {"fp8_bf16",         KVF_GRID_FP8, kvf_fp8_row_bytes,
                                        kvf_fp8_page_bytes, pack,         unpack};
