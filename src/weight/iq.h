/* Code book entries as signed values; bit j of signs set, value j is negative. */
#ifndef KVF_WEIGHT_IQ_H
#define KVF_WEIGHT_IQ_H

#include "shared/iq_grids.h"
#include "shared/iquant.h"
#include "weight/block.h"

/* Negated, not multiplied by -1: the same bits, zeros and infinities included. */
static inline float kvf_signed(float value, uint32_t negative)
{
    return negative ? -value : value;
}

/* The eight values of an IQ2 entry. */
static inline void kvf_put_iq2(float scale, uint32_t entry, uint32_t signs, float *out)
{
    const uint64_t values = kvf_iq2_expand(entry);
    for (int j = 0; j < 8; j++)
        out[j] = kvf_signed(scale * (float)((values >> (8 * j)) & 255), (signs >> j) & 1);
}

/* The four values of an expanded IQ3 entry. */
static inline void kvf_put_iq3(float scale, uint32_t values, uint32_t signs, float *out)
{
    for (int j = 0; j < 4; j++)
        out[j] = kvf_signed(scale * (float)((values >> (8 * j)) & 255), (signs >> j) & 1);
}

#endif
