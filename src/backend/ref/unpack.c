/* unpack: bytes to f32, exact. */
#include "backend/ref/ref.h"

#include "format/format.h"

void kvf_ref_load_row(const kvf_rows *rows, uint64_t row, float *values)
{
    kvf_format_get(rows->format)
        ->unpack(kvf_rows_page(rows, row), rows->page_rows, (uint32_t)(row % rows->page_rows),
                 rows->width, values);
}

void kvf_ref_unpack(kvf_device *device, const kvf_unpack_args *args)
{
    (void)device;
    for (uint64_t i = 0; i < args->n_rows; i++) {
        const uint64_t row = args->row_list ? (uint64_t)args->row_list[i] : args->first_row + i;
        kvf_ref_load_row(&args->in, row, args->out + i * args->stride);
    }
}
