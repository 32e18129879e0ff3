/* pack and unpack: rows over threads. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/rows.h"
#include "format/format.h"
#include "shared/layout.h"

kvf_status kvf_check_row(const float *values, uint32_t width, kvf_grid grid, uint32_t *bad_dim)
{
    for (uint32_t i = 0; i < width; i++)
        if (!isfinite(values[i])) {
            *bad_dim = i;
            return KVF_NONFINITE;
        }
    for (uint32_t i = 0; grid == KVF_GRID_FP8 && i < KVF_NOPE_WIDTH; i++)
        if (fabsf(values[i]) >= KVF_FP8_TOO_LARGE) {
            *bad_dim = i;
            return KVF_RANGE;
        }
    if (grid != KVF_GRID_FP4)
        return KVF_OK;
    for (uint32_t block = 0; block < width; block += KVF_FP4_BLOCK_VALUES) {
        float largest = 0.0f;
        for (uint32_t i = block; i < block + KVF_FP4_BLOCK_VALUES; i++)
            largest = fmaxf(largest, fabsf(values[i]));
        if (largest > KVF_FP4_LARGEST || (largest > 0.0f && largest <= KVF_FP4_TOO_SMALL)) {
            *bad_dim = block;
            return KVF_RANGE;
        }
    }
    return KVF_OK;
}

/* Rows that one thread packs in less time than it takes to wake another. */
#define PACK_ALONE_ROWS 32

/* Input row i as it goes to the grid: itself, or its Hadamard transform in buffer. */
static const float *input_row(const kvf_cpu_kernels *kernels, const kvf_pack_args *args, uint64_t i,
                              float *buffer)
{
    const float *values = args->rows + i * args->stride;
    if (!args->hadamard)
        return values;
    memcpy(buffer, values, KVF_INDEX_WIDTH * sizeof *buffer);
    kernels->hadamard(buffer);
    return buffer;
}

/* Names what is wrong with the first bad row. */
static kvf_status report_bad_row(const kvf_cpu_kernels *kernels, kvf_pack_args *args, uint64_t row)
{
    float buffer[KVF_INDEX_WIDTH];
    args->bad_row = row;
    /* A non-finite input spreads over the transform: name where it was. */
    if (kvf_check_row(args->rows + row * args->stride, args->out.width, KVF_GRID_NONE,
                      &args->bad_dim) != KVF_OK)
        return KVF_NONFINITE;
    return kvf_check_row(input_row(kernels, args, row, buffer), args->out.width, args->grid,
                         &args->bad_dim);
}

/* A row is checked and stored while it is in the L1 cache: memory is read once. */
kvf_status kvf_cpu_pack(kvf_device *device, kvf_pack_args *args)
{
    const kvf_cpu_kernels *kernels = kvf_kernels_of(device);
    const int64_t n_rows = (int64_t)args->n_rows;
    int64_t bad_row = n_rows;
    int64_t inexact = 0;
#pragma omp parallel for schedule(static) reduction(min : bad_row) reduction(+ : inexact)          \
    num_threads((int)device->n_threads) if (n_rows > PACK_ALONE_ROWS)
    for (int64_t i = 0; i < n_rows; i++) {
        float buffer[KVF_INDEX_WIDTH];
        const float *values = input_row(kernels, args, (uint64_t)i, buffer);
        /* Infinite input may cancel in the transform to NaN: still found. */
        if (!kernels->row_is_storable(values, args->out.width, args->grid)) {
            bad_row = i < bad_row ? i : bad_row;
            continue;
        }
        const uint64_t row = (args->first_row + (uint64_t)i) % args->out.n_rows;
        inexact += !kernels->store_row(&args->out, row, args->grid, values);
    }
    if (bad_row < n_rows)
        return report_bad_row(kernels, args, (uint64_t)bad_row);
    args->inexact_rows += (uint64_t)inexact;
    return KVF_OK;
}

void kvf_cpu_unpack(kvf_device *device, const kvf_unpack_args *args)
{
    const kvf_cpu_kernels *kernels = kvf_kernels_of(device);
    const int64_t blocks = (int64_t)((args->n_rows + KVF_PAGE_ROWS - 1) / KVF_PAGE_ROWS);
#pragma omp parallel for schedule(static) num_threads((int)device->n_threads) if (blocks > 1)
    for (int64_t i = 0; i < blocks; i++) {
        const uint64_t begin = (uint64_t)i * KVF_PAGE_ROWS;
        const uint64_t end = begin + KVF_PAGE_ROWS;
        kernels->unpack(args, begin, end < args->n_rows ? end : args->n_rows);
    }
}
