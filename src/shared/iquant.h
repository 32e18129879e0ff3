/*
 * Scalars of ggml's IQ types: expansion of code book entries, signs, scales, and the
 * sixteen values of IQ4. The code books themselves: shared/iq_grids.h.
 */
#ifndef KVF_SHARED_IQUANT_H
#define KVF_SHARED_IQUANT_H

#include "shared/bits.h"

/* IQ4_NL, IQ4_XS: the value of each code. */
KVF_SHARED_TABLE int8_t kvf_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                              1,    13,   25,  38,  53,  69,  89,  113};

/* IQ4_XS: the scale of group g < 8 of 32 values, -32 to 31; low holds the bytes of SCALES_LOW. */
KVF_INLINE int32_t kvf_iq4_xs_scale(uint32_t low, uint32_t high, uint32_t g)
{
    return (int32_t)(((low >> (4 * g)) & 15) | ((high >> (2 * g)) & 3) << 4) - 32;
}

/*
 * Signs of eight values from their seven stored bits: bit j set, value j is negative.
 * The number of minus signs is even, so the eighth is the parity of the others.
 */
KVF_INLINE uint32_t kvf_iq_signs(uint32_t stored)
{
    uint32_t parity = stored ^ stored >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return stored | (parity & 1) << 7;
}

/*
 * Eight values of an IQ2 entry, value j in byte j: two bits each, 8, 25 or 43 (and 60,
 * which no entry has). The bits go to bytes of their own, then 8 + 17 i + i / 2.
 */
KVF_INLINE uint64_t kvf_iq2_expand(uint32_t entry)
{
    uint64_t i = entry & 0xffff;
    i = (i | i << 24) & 0x000000ff000000ffu;
    i = (i | i << 12) & 0x000f000f000f000fu;
    i = (i | i << 6) & 0x0303030303030303u;
    return 0x0808080808080808u + 17 * i + ((i >> 1) & 0x0101010101010101u);
}

/* An entry of four values, three bits each, as bytes 0 to 7. */
KVF_INLINE uint32_t kvf_iq3_indices(uint32_t entry)
{
    uint32_t i = entry & 0xfff;
    i = (i | i << 10) & 0x003f003fu;
    return (i | i << 5) & 0x07070707u;
}

/* Four values of an IQ3_XXS entry: 4 12 20 28 36 44 52 62; 4 + 8 i, and 2 more for 7. */
KVF_INLINE uint32_t kvf_iq3_xxs_expand(uint32_t entry)
{
    const uint32_t i = kvf_iq3_indices(entry);
    return 0x04040404u + 8 * i + 2 * (i & i >> 1 & i >> 2 & 0x01010101u);
}

/* Four values of an IQ3_S entry: 1 3 5 .. 15. */
KVF_INLINE uint32_t kvf_iq3_s_expand(uint32_t entry)
{
    return 0x01010101u + 2 * kvf_iq3_indices(entry);
}

#endif
