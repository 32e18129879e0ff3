/* Checking and storing one row; shared by pack and compress. */
#ifndef KVF_CPU_ROWS_H
#define KVF_CPU_ROWS_H

#include "kvfold.h"

/* KVF_NONFINITE or KVF_RANGE (FP4 grid) with the dimension, or KVF_OK. */
kvf_status kvf_check_row(const float *values, uint32_t width, kvf_grid grid, uint32_t *bad_dim);

/* Rounds to the grid and stores; false where the format could not hold the row exactly. */
bool kvf_store_row(const kvf_rows *out, uint64_t row, kvf_grid grid, const float *values);

#endif
