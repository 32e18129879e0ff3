/* Synthetic data: cheap to make, the same in every run and for every profile. */
#include <stdlib.h>
#include <string.h>

#include "bench/stages.h"
#include "error.h"
#include "format/format.h"

/* Rows that are made at a time: 64 pages. */
enum { BLOCK_ROWS = 64 * KVF_PAGE_ROWS };

void *bench_alloc(uint64_t bytes, kvf_error *error)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes ? bytes : 64) != 0) {
        kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %llu bytes of test data",
                 (unsigned long long)bytes);
        return NULL;
    }
    return memory;
}

static uint64_t n_pages(uint64_t n_rows)
{
    return (n_rows + KVF_PAGE_ROWS - 1) / KVF_PAGE_ROWS;
}

uint64_t bench_rows_bytes(kvf_format_id format, uint32_t width, uint64_t n_rows)
{
    return n_pages(n_rows) * kvf_format_page_bytes(format, width, KVF_PAGE_ROWS);
}

kvf_status bench_rows_open(kvf_format_id format, uint32_t width, uint64_t n_rows, kvf_rows *rows,
                           kvf_error *error)
{
    const uint64_t bytes = bench_rows_bytes(format, width, n_rows);
    *rows = (kvf_rows){.format = format,
                       .width = width,
                       .page_rows = KVF_PAGE_ROWS,
                       .n_rows = n_rows,
                       .page_stride_bytes = kvf_format_page_bytes(format, width, KVF_PAGE_ROWS)};
    rows->base = bench_alloc(bytes, error);
    if (!rows->base)
        return KVF_OUT_OF_MEMORY;
    memset(rows->base, 0, bytes);
    return KVF_OK;
}

/* splitmix64: one word from a counter. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

void bench_fill_values(float *values, size_t n, uint64_t seed)
{
    const uint64_t start = mix(seed);
    /* Four uniform 16-bit numbers: variance 4 * 65536^2 / 12. */
    const float scale = 1.7320508f / 65536.0f;
    for (size_t i = 0; i < n; i++) {
        const uint64_t word = mix(start + i);
        const int32_t sum = (int32_t)(word & 0xffff) + (int32_t)(word >> 16 & 0xffff) +
                            (int32_t)(word >> 32 & 0xffff) + (int32_t)(word >> 48);
        values[i] = (float)(sum - 2 * 65535) * scale;
    }
}

/* Makes and packs rows first .. of a view, at most BLOCK_ROWS; values is their space. */
static kvf_status fill_block(kvf_device *device, const kvf_rows *rows, uint64_t first,
                             uint64_t seed, float *values, kvf_error *error)
{
    const uint64_t left = rows->n_rows - first;
    const uint64_t n = left < BLOCK_ROWS ? left : BLOCK_ROWS;
    const bool index = rows->width == KVF_INDEX_WIDTH;
    bench_fill_values(values, n * rows->width, seed + first);
    kvf_pack_args args = {.rows = values,
                          .stride = rows->width,
                          .n_rows = n,
                          .grid = index ? KVF_GRID_FP4 : KVF_GRID_FP8,
                          .hadamard = index,
                          .out = *rows,
                          .first_row = first};
    return kvf_pack(device, &args, error);
}

kvf_status bench_fill_index_rows(kvf_device *device, const kvf_rows *rows, uint64_t seed,
                                 kvf_error *error)
{
    float *values = bench_alloc(4ull * BLOCK_ROWS * rows->width, error);
    kvf_status status = values ? KVF_OK : KVF_OUT_OF_MEMORY;
    for (uint64_t first = 0; status == KVF_OK && first < rows->n_rows; first += BLOCK_ROWS)
        status = fill_block(device, rows, first, seed, values, error);
    free(values);
    return status;
}

kvf_status bench_fill_rows(kvf_device *device, const kvf_rows *rows, uint64_t seed,
                           kvf_error *error)
{
    const size_t page_bytes = kvf_format_page_bytes(rows->format, rows->width, rows->page_rows);
    if (rows->n_rows == 0)
        return KVF_OK;
    float *values = bench_alloc(4ull * BLOCK_ROWS * rows->width, error);
    if (!values)
        return KVF_OUT_OF_MEMORY;
    const kvf_status status = fill_block(device, rows, 0, seed, values, error);
    free(values);
    for (uint64_t row = BLOCK_ROWS; status == KVF_OK && row < rows->n_rows; row += KVF_PAGE_ROWS)
        memcpy(kvf_rows_page(rows, row), kvf_rows_page(rows, row % BLOCK_ROWS), page_bytes);
    return status;
}

void bench_copy_rows(const kvf_rows *from, const kvf_rows *to)
{
    const size_t page_bytes = kvf_format_page_bytes(from->format, from->width, from->page_rows);
    for (uint64_t row = 0; row < from->n_rows; row += from->page_rows)
        memcpy(kvf_rows_page(to, row), kvf_rows_page(from, row), page_bytes);
}

void bench_draw_rows(uint64_t seed, uint64_t n_rows, uint32_t k, int32_t *list)
{
    /* One row from each of k equal pieces: different and ascending without a sort. */
    for (uint32_t i = 0; i < k; i++) {
        const uint64_t begin = n_rows * i / k;
        const uint64_t end = n_rows * (i + 1) / k;
        list[i] = (int32_t)(begin + mix(seed + i) % (end - begin));
    }
}

void bench_list_of_mask(const void *mask, kvf_mask_kind kind, uint64_t n_rows, uint32_t k,
                        int32_t *list)
{
    const float *f32 = mask;
    const uint16_t *f16 = mask;
    uint32_t n = 0;
    for (uint64_t row = 0; row < n_rows && n < k; row++) {
        const bool selected = kind == KVF_MASK_F32 ? f32[row] == 0.0f : f16[row] == 0;
        if (selected)
            list[n++] = (int32_t)row;
    }
    while (n < k)
        list[n++] = -1;
}
