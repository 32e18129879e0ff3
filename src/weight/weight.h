/*
 * A stored weight type: how the bytes of a matrix's row become values. One file each, one
 * line each in shared/weights.def. decode is the specification: the values are a contract,
 * to the bit (docs/WEIGHTS.md), for every backend.
 *
 * Nothing here allocates or keeps state; all of it may be called from any thread.
 */
#ifndef KVF_WEIGHT_WEIGHT_H
#define KVF_WEIGHT_WEIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/matrix.h"

typedef struct kvf_weight_type {
    const char *name;      /* ggml's own where the type is ggml's: q8_0, q2_K, iq2_xxs */
    uint32_t block_values; /* a row has a multiple of them */
    uint32_t block_bytes;
    /* Rows and columns that share a scale of the plane, and a scale's bytes; 0: no plane. */
    uint32_t scale_rows;
    uint32_t scale_cols;
    uint32_t scale_bytes;
    /*
     * Writes matrix->cols values of row `row` (< matrix->rows). The matrix is of this type
     * and was checked against its memory; reads kvf_weight_row_bytes() bytes of the row and
     * the scales of that row, at any alignment, and no byte besides.
     */
    void (*decode)(const kvf_matrix *matrix, uint32_t row, float *out);
} kvf_weight_type;

/* NULL for an unknown id. */
const kvf_weight_type *kvf_weight_get(kvf_weight_id id);

/* The type of that name; false: there is none, and id is left alone. */
bool kvf_weight_find(const char *name, kvf_weight_id *id);

/*
 * Bytes of a row of `cols` values, densely stored. 0: a matrix of this type cannot have
 * such rows, because cols is 0, no multiple of block_values, or more than a kvf_matrix counts.
 */
uint64_t kvf_weight_row_bytes(const kvf_weight_type *type, uint64_t cols);

/* Bytes of a dense matrix; 0: it cannot exist, as above or because rows are 0 or too many. */
uint64_t kvf_weight_bytes(const kvf_weight_type *type, uint64_t rows, uint64_t cols);

/* Values that lie as f32 in memory, as a matrix. */
static inline kvf_matrix kvf_matrix_of_f32(const float *values, uint32_t rows, uint32_t cols)
{
    return (kvf_matrix){.type = KVF_WEIGHT_F32,
                        .rows = rows,
                        .cols = cols,
                        .row_bytes = (uint64_t)cols * sizeof *values,
                        .data = values};
}

/* Columns first .. + n of a matrix; first is a multiple of 256, or 0. */
kvf_matrix kvf_matrix_columns(const kvf_matrix *matrix, uint32_t first, uint32_t n);

/* Rows first .. + n of a matrix; first is a multiple of the type's scale_rows, or 0. */
kvf_matrix kvf_matrix_rows(const kvf_matrix *matrix, uint32_t first, uint32_t n);

/* Shape of the scale plane of a matrix; both 0 for a type without one. */
typedef struct kvf_weight_scales {
    uint32_t rows;         /* ceil(matrix rows / scale_rows) */
    uint32_t cols;         /* ceil(matrix cols / scale_cols) */
    uint32_t stride_bytes; /* of a dense plane, which is what files have: cols * scale_bytes */
    uint64_t bytes;
} kvf_weight_scales;

/* All zeros where kvf_weight_bytes() is 0, too. */
kvf_weight_scales kvf_weight_scales_of(const kvf_weight_type *type, uint64_t rows, uint64_t cols);

#endif
