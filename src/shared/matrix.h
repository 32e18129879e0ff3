/*
 * A weight matrix as it is stored: [rows][cols], rows are outputs, and the list of types
 * that it may be stored in. What a type's bytes mean: docs/WEIGHTS.md, src/weight.
 */
#ifndef KVF_SHARED_MATRIX_H
#define KVF_SHARED_MATRIX_H

#if !defined(__METAL_VERSION__)
#include <stdint.h>
#endif

typedef enum kvf_weight_id {
#define KVF_WEIGHT(id, symbol) id,
#include "shared/weights.def"
#undef KVF_WEIGHT
    KVF_WEIGHT_COUNT
} kvf_weight_id;

#if !defined(__METAL_VERSION__) /* pointers there name their address space */
/*
 * Points into memory that belongs to somebody else (a mapped file); both planes may begin
 * at any address. Row r begins at data + r * row_bytes. A type with a plane of scales has
 * the scales of row r at scales + (r / scale_rows) * scale_stride, one for scale_cols
 * values; the last one of a row or of the plane may cover fewer.
 */
typedef struct kvf_matrix {
    kvf_weight_id type;
    uint32_t rows;
    uint32_t cols;
    uint64_t row_bytes; /* from one row to the next: at least kvf_weight_row_bytes() */
    const void *data;
    const void *scales;    /* NULL: the type has its scales in the blocks, or has none */
    uint32_t scale_stride; /* bytes from one row of the scale plane to the next */
} kvf_matrix;
#endif

#endif
