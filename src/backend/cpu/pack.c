/* check, pack and unpack: rows over threads. */
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/rows.h"
#include "format/format.h"
#include "shared/bits.h"
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

/* ---- check ----------------------------------------------------------------------- */

/* Values that one thread looks at in less time than it takes to wake another. */
#define CHECK_ALONE_VALUES (1u << 16)

typedef struct check_work {
    const kvf_check_args *args;
    _Atomic int64_t bad_row; /* the first one, n_rows where there is none */
} check_work;

static void check_rows(void *context, size_t first, size_t end, uint32_t thread)
{
    check_work *work = context;
    const uint32_t width = work->args->width;
    (void)thread;
    for (size_t row = first; row < end; row++) {
        const float *values = work->args->values + row * width;
        bool finite = true;
        for (uint32_t i = 0; i < width; i++) /* all of them: no branch, so it is vectors' work */
            finite &= (kvf_bits_of(values[i]) & KVF_F32_MAGNITUDE_MASK) < KVF_F32_INFINITY;
        if (!finite) {
            kvf_lower_to(&work->bad_row, (int64_t)row);
            return;
        }
    }
}

static void check_session(kvf_device *device, const kvf_check_args *args, kvf_findings found)
{
    check_work work = {args, (int64_t)args->n_rows};
    uint32_t bad_dim = 0;
    kvf_cpu_loop(device, args->n_rows * args->width > CHECK_ALONE_VALUES, args->n_rows, 0,
                 check_rows, &work);
    const uint64_t row = (uint64_t)work.bad_row;
    if (row == args->n_rows)
        return;
    kvf_check_row(args->values + row * args->width, args->width, KVF_GRID_NONE, &bad_dim);
    kvf_found_lower(found, false, row, bad_dim, KVF_NONFINITE);
}

void kvf_cpu_check(kvf_device *device, const kvf_check_args *args, const kvf_findings *found,
                   uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        check_session(device, &args[i], found[i]);
}

/* ---- pack and unpack --------------------------------------------------------------- */

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
static void report_bad_row(const kvf_cpu_kernels *kernels, const kvf_pack_args *args, uint64_t row,
                           kvf_findings found)
{
    float buffer[KVF_INDEX_WIDTH];
    uint32_t bad_dim = 0;
    /* A non-finite input spreads over the transform: name where it was. */
    kvf_status status =
        kvf_check_row(args->rows + row * args->stride, args->out.width, KVF_GRID_NONE, &bad_dim);
    if (status == KVF_OK)
        status = kvf_check_row(input_row(kernels, args, row, buffer), args->out.width, args->grid,
                               &bad_dim);
    kvf_found_lower(found, false, row, bad_dim, status);
}

typedef struct pack_work {
    const kvf_cpu_kernels *kernels;
    const kvf_pack_args *args;
    _Atomic int64_t bad_row; /* the first one, n_rows where there is none */
    _Atomic uint64_t inexact;
} pack_work;

/* A row is checked and stored while it is in the L1 cache: memory is read once. */
static void pack_rows(void *context, size_t first, size_t end, uint32_t thread)
{
    pack_work *work = context;
    const kvf_cpu_kernels *kernels = work->kernels;
    const kvf_pack_args *args = work->args;
    uint64_t inexact = 0;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        float buffer[KVF_INDEX_WIDTH];
        const float *values = input_row(kernels, args, i, buffer);
        /* Infinite input may cancel in the transform to NaN: still found. */
        if (!kernels->row_is_storable(values, args->out.width, args->grid)) {
            kvf_lower_to(&work->bad_row, (int64_t)i);
            continue;
        }
        const uint64_t row = (args->first_row + i) % args->out.n_rows;
        inexact += !kernels->store_row(&args->out, row, args->grid, values);
    }
    atomic_fetch_add_explicit(&work->inexact, inexact, memory_order_relaxed);
}

static void pack_session(kvf_device *device, const kvf_pack_args *args, kvf_findings found)
{
    pack_work work = {kvf_kernels_of(device), args, (int64_t)args->n_rows, 0};
    kvf_cpu_loop(device, args->n_rows > PACK_ALONE_ROWS, args->n_rows, 0, pack_rows, &work);
    if (work.bad_row < (int64_t)args->n_rows)
        report_bad_row(work.kernels, args, (uint64_t)work.bad_row, found);
    found.place->inexact_rows += work.inexact;
}

void kvf_cpu_pack(kvf_device *device, const kvf_pack_args *args, const kvf_findings *found,
                  uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        pack_session(device, &args[i], found[i]);
}

typedef struct unpack_work {
    const kvf_cpu_kernels *kernels;
    const kvf_unpack_args *args;
} unpack_work;

static void unpack_pages(void *context, size_t first, size_t end, uint32_t thread)
{
    const unpack_work *work = context;
    const uint64_t end_row = (uint64_t)end * KVF_PAGE_ROWS;
    (void)thread;
    work->kernels->unpack(work->args, (uint64_t)first * KVF_PAGE_ROWS,
                          end_row < work->args->n_rows ? end_row : work->args->n_rows);
}

void kvf_cpu_unpack(kvf_device *device, const kvf_unpack_args *args)
{
    unpack_work work = {kvf_kernels_of(device), args};
    const size_t n_pages = (args->n_rows + KVF_PAGE_ROWS - 1) / KVF_PAGE_ROWS;
    kvf_cpu_loop(device, n_pages > 1, n_pages, 0, unpack_pages, &work);
}
