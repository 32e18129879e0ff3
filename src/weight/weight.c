#include "weight/weight.h"

#include <stddef.h>
#include <string.h>

/* Declares every type's table .. */
#define KVF_WEIGHT(id, symbol) extern const kvf_weight_type symbol;
#include "shared/weights.def"
#undef KVF_WEIGHT

/* .. and lists them by id. */
static const kvf_weight_type *const types[KVF_WEIGHT_COUNT] = {
#define KVF_WEIGHT(id, symbol) [id] = &symbol,
#include "shared/weights.def"
#undef KVF_WEIGHT
};

const kvf_weight_type *kvf_weight_get(kvf_weight_id id)
{
    /* Cast: an id from a caller may be any int; negative ones become large. */
    return (unsigned)id < KVF_WEIGHT_COUNT ? types[id] : NULL;
}

bool kvf_weight_find(const char *name, kvf_weight_id *id)
{
    for (unsigned i = 0; i < KVF_WEIGHT_COUNT; i++) {
        if (strcmp(name, types[i]->name) == 0) {
            *id = (kvf_weight_id)i;
            return true;
        }
    }
    return false;
}

uint64_t kvf_weight_row_bytes(const kvf_weight_type *type, uint64_t cols)
{
    if (cols > UINT32_MAX || cols % type->block_values != 0)
        return 0;
    return cols / type->block_values * type->block_bytes; /* both below 2^32 */
}

uint64_t kvf_weight_bytes(const kvf_weight_type *type, uint64_t rows, uint64_t cols)
{
    const uint64_t row_bytes = kvf_weight_row_bytes(type, cols);
    if (rows > UINT32_MAX || row_bytes == 0 || rows > UINT64_MAX / row_bytes)
        return 0;
    return rows * row_bytes;
}

kvf_weight_scales kvf_weight_scales_of(const kvf_weight_type *type, uint64_t rows, uint64_t cols)
{
    kvf_weight_scales plane = {0};
    if (type->scale_bytes == 0 || kvf_weight_bytes(type, rows, cols) == 0)
        return plane;
    /* rows and cols are below 2^32, and a scale is for at least 4 values for each of its bytes. */
    plane.rows = (uint32_t)((rows + type->scale_rows - 1) / type->scale_rows);
    plane.cols = (uint32_t)((cols + type->scale_cols - 1) / type->scale_cols);
    plane.stride_bytes = plane.cols * type->scale_bytes;
    plane.bytes = (uint64_t)plane.rows * plane.stride_bytes;
    return plane;
}

kvf_matrix kvf_matrix_columns(const kvf_matrix *matrix, uint32_t first, uint32_t n)
{
    const kvf_weight_type *type = types[matrix->type];
    kvf_matrix part = *matrix;
    part.cols = n;
    part.data =
        (const uint8_t *)matrix->data + (size_t)(first / type->block_values) * type->block_bytes;
    if (type->scale_bytes)
        part.scales = (const uint8_t *)matrix->scales +
                      (size_t)(first / type->scale_cols) * type->scale_bytes;
    return part;
}

kvf_matrix kvf_matrix_rows(const kvf_matrix *matrix, uint32_t first, uint32_t n)
{
    const kvf_weight_type *type = types[matrix->type];
    kvf_matrix part = *matrix;
    part.rows = n;
    part.data = (const uint8_t *)matrix->data + first * matrix->row_bytes;
    if (type->scale_bytes)
        part.scales = (const uint8_t *)matrix->scales +
                      (size_t)(first / type->scale_rows) * matrix->scale_stride;
    return part;
}
