/* f16: IEEE binary16. */
#include "weight/block.h"

static void decode(const kvf_matrix *matrix, uint32_t row, float *out)
{
    const uint8_t *values = kvf_weight_row(matrix, row);
    for (size_t i = 0; i < matrix->cols; i++)
        out[i] = kvf_load_f16(values + 2 * i);
}

const kvf_weight_type kvf_weight_f16 = {
    .name = "f16",
    .block_values = 1,
    .block_bytes = 2,
    .decode = decode,
};
