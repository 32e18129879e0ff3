/* What rows may hold, and the search for what they may not; shared by pack and compress. */
#ifndef KVF_CPU_ROWS_H
#define KVF_CPU_ROWS_H

#include <stdatomic.h>

#include "kvfold.h"

/* 248 * 2^120: from here on an FP8 value is 256 * 2^120 = 2^128, which f32 lacks. */
#define KVF_FP8_TOO_LARGE 0x1.fp+127f
/* An FP4 block's exponent is in -50 .. 50 where amax is over 6 * 2^-51 and up to 6 * 2^50. */
#define KVF_FP4_TOO_SMALL 0x1.8p-49f
#define KVF_FP4_LARGEST 0x1.8p+52f

/*
 * Why a row cannot be stored (docs/FORMAT.md 3, 9.4): KVF_NONFINITE or KVF_RANGE with
 * the dimension, or KVF_OK. The kernels' row_is_storable is the quick form of it.
 */
kvf_status kvf_check_row(const float *values, uint32_t width, kvf_grid grid, uint32_t *bad_dim);

/* Lowers *least to value where it is above: the first bad row that any thread finds. */
static inline void kvf_lower_to(_Atomic int64_t *least, int64_t value)
{
    int64_t known = atomic_load_explicit(least, memory_order_relaxed);
    while (value < known && !atomic_compare_exchange_weak_explicit(
                                least, &known, value, memory_order_relaxed, memory_order_relaxed))
        ;
}

#endif
