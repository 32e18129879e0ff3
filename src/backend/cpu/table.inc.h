/*
 * The table of an ISA: the last include of its file. Parameters: KVF_TABLE, KVF_TABLE_ISA, and
 * KVF_PRODUCT_ISA, whose products it takes.
 */
#include "backend/cpu/product_isa.inc.h"

const kvf_cpu_kernels KVF_TABLE = {
    .isa = KVF_TABLE_ISA,
    .products = KVF_PRODUCT_NAME(types),
    .product_tile_rows = V16_TILE_ROWS,
    .few_tokens = V16_FEW_TOKENS,
    .product_tile = KVF_PRODUCT_NAME(tile),
    .swiglu = KVF_PRODUCT_NAME(swiglu),
    .attend_scores = attend_scores,
    .attend_softmax = attend_softmax,
    .attend_output = attend_output,
    .load_query = load_query,
    .score = score_rows,
    .push = push_rows,
    .norm = norm_row,
    .pool = pool_row,
    .hadamard = hadamard_row,
    .row_is_storable = row_is_storable,
    .store_row = store_row,
    .unpack = unpack_rows,
};
