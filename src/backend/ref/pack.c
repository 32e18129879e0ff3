/* pack: f32 rows to bytes. A row that cannot be stored is not. */
#include "backend/ref/ref.h"

#include <math.h>
#include <string.h>

#include "format/format.h"
#include "shared/layout.h"

/*
 * A block's scale exponent e is the smallest with amax <= 6 * 2^e, so e > 50 iff
 * amax > 6 * 2^50, and e < -50 iff amax <= 6 * 2^-51.
 */
#define FP4_LARGEST_AMAX 0x1.8p+52f
#define FP4_TOO_SMALL_AMAX 0x1.8p-49f

/* 248 * 2^120 and more round to 2^128, which f32 lacks (docs/FORMAT.md 9.4). */
#define FP8_TOO_LARGE 0x1.fp+127f

static bool fp4_block_in_range(const float *block)
{
    float amax = 0.0f;
    for (size_t i = 0; i < KVF_FP4_BLOCK_VALUES; i++)
        amax = fmaxf(amax, fabsf(block[i]));
    return amax == 0.0f || (amax > FP4_TOO_SMALL_AMAX && amax <= FP4_LARGEST_AMAX);
}

kvf_status kvf_ref_check_row(const float *values, uint32_t width, kvf_grid grid, uint32_t *bad_dim)
{
    for (uint32_t i = 0; i < width; i++) {
        if (!isfinite(values[i])) {
            *bad_dim = i;
            return KVF_NONFINITE;
        }
    }
    for (uint32_t i = 0; grid == KVF_GRID_FP8 && i < KVF_NOPE_WIDTH; i++) {
        if (fabsf(values[i]) >= FP8_TOO_LARGE) {
            *bad_dim = i;
            return KVF_RANGE;
        }
    }
    if (grid != KVF_GRID_FP4)
        return KVF_OK;
    for (uint32_t i = 0; i < width; i += KVF_FP4_BLOCK_VALUES) {
        if (!fp4_block_in_range(values + i)) {
            *bad_dim = i;
            return KVF_RANGE;
        }
    }
    return KVF_OK;
}

bool kvf_ref_store_row(const kvf_rows *out, uint64_t row, kvf_grid grid, float *values)
{
    const kvf_format *format = kvf_format_get(out->format);
    /*
     * A format that contains the grid rounds by itself and gets the plain values: a
     * rounded block can have a smaller maximum, hence another scale and other bytes.
     */
    if (format->grid == KVF_GRID_NONE) {
        if (grid == KVF_GRID_FP8)
            kvf_grid_fp8(values);
        else if (grid == KVF_GRID_FP4)
            kvf_grid_fp4(values);
    }
    return format->pack(kvf_rows_page(out, row), out->page_rows, (uint32_t)(row % out->page_rows),
                        out->width, values);
}

/* What row i of the input is before the grid. */
static void take_row(const kvf_pack_args *args, uint64_t i, float *values)
{
    memcpy(values, args->rows + i * args->stride, args->out.width * sizeof *values);
    if (args->hadamard)
        kvf_hadamard_128(values);
}

/* The input itself, then (a Hadamard sum can overflow) what becomes of it. */
static kvf_status check_input_row(const kvf_pack_args *args, uint64_t i, uint32_t *bad_dim)
{
    float values[KVF_ROW_WIDTH];
    const kvf_status status =
        kvf_ref_check_row(args->rows + i * args->stride, args->out.width, KVF_GRID_NONE, bad_dim);
    if (status != KVF_OK)
        return status;
    take_row(args, i, values);
    return kvf_ref_check_row(values, args->out.width, args->grid, bad_dim);
}

static void pack_rows(const kvf_pack_args *args, kvf_findings found)
{
    for (uint64_t i = 0; i < args->n_rows; i++) {
        float values[KVF_ROW_WIDTH];
        uint32_t bad_dim;
        const kvf_status status = check_input_row(args, i, &bad_dim);
        if (status != KVF_OK) {
            kvf_found_lower(found, false, i, bad_dim, status);
            continue;
        }
        take_row(args, i, values);
        const uint64_t row = (args->first_row + i) % args->out.n_rows;
        if (!kvf_ref_store_row(&args->out, row, args->grid, values))
            found.place->inexact_rows++;
    }
}

void kvf_ref_pack(kvf_device *device, const kvf_pack_args *args, const kvf_findings *found,
                  uint32_t n)
{
    (void)device;
    for (uint32_t i = 0; i < n; i++)
        pack_rows(&args[i], found[i]);
}
