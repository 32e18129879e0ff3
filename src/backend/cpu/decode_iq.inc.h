/*
 * ggml's types with code books: an entry has 8 values (iq2) or 4 (iq3), looked up as bytes, as
 * are their signs; 16 signed bytes are then widened and scaled. No value is 0, so a sign is
 * never lost. A template over v16; interface: product_type.inc.h.
 *
 * What binds is the number of instructions, about 16 for 16 values: indices and signs are
 * taken out of words one by one.
 */
#include "backend/cpu/iq_bytes.h"

/* A scale for 16 or 32 values each. */
typedef struct iq_unit {
    const uint8_t *block;
    _Alignas(64) float scales[16];
} iq_unit;
typedef iq_unit iq2_xxs_unit;
typedef iq_unit iq2_xs_unit;
typedef iq_unit iq2_s_unit;
typedef iq_unit iq3_xxs_unit;

/* iq3_s, with the indices of all entries, whose ninth bits lie in a byte for eight. */
typedef struct iq3_s_unit {
    iq_unit common;
    _Alignas(32) uint16_t indices[64];
} iq3_s_unit;

/* d is the first field of all of them; nibbles: integers of the scales. */
static inline void iq_open(iq_unit *unit, const uint8_t *bytes, v16 nibbles, float offset,
                           float factor)
{
    unit->block = bytes;
    v16_store(unit->scales,
              v16_mul(v16_add(nibbles, v16_set1(offset)), v16_set1(v16_half_4(bytes) * factor)));
    V16_IN_MEMORY(unit->scales);
}
static_assert(KVF_IQ2_XXS_D == 0 && KVF_IQ2_XS_D == 0 && KVF_IQ2_S_D == 0 && KVF_IQ3_XXS_D == 0 &&
                  KVF_IQ3_S_D == 0,
              "iq_open");

static inline v16 iq_group(b16 values, b16 signs, float scale)
{
    return v16_mul(v16_from_i8(b16_negate(values, signs)), v16_set1(scale));
}

/* Signs of 16 values from seven bits each for 8 and 8, or from eight. */
static inline b16 signs_of_7(uint32_t low, uint32_t high)
{
    return b16_load_8_8(kvf_iq_signs_of_7[low & 127], kvf_iq_signs_of_7[high & 127]);
}

static inline b16 signs_of_8(const uint8_t *bits)
{
    return b16_load_8_8(kvf_iq_signs_of_8[bits[0]], kvf_iq_signs_of_8[bits[1]]);
}

static inline void iq2_xxs_open(iq2_xxs_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                                uint32_t u)
{
    (void)scales;
    (void)u;
    iq_open(unit, bytes, v16_top_nibbles_of_8(bytes + KVF_IQ2_XXS_GROUPS, 2), 0.5f, 0.25f);
}

static inline v16 iq2_xxs_group(const iq2_xxs_unit *unit, int g)
{
    const uint8_t *group =
        unit->block + KVF_IQ2_XXS_GROUPS + (size_t)(g / 2) * KVF_IQ2_XXS_GROUP_BYTES;
    const uint8_t *index = group + 2 * (g % 2);
    const uint32_t word = kvf_load_u32(group + 4);
    return iq_group(b16_load_8_8(kvf_iq2_xxs_bytes[index[0]], kvf_iq2_xxs_bytes[index[1]]),
                    signs_of_7(word >> 14 * (g % 2), word >> (14 * (g % 2) + 7)),
                    unit->scales[g / 2]);
}

/* Eight bytes of two scales each, the low one first. */
static inline v16 iq2_nibbles(const uint8_t *bytes)
{
    const b16 pairs = b16_load_8(bytes);
    return v16_from_i8(b16_interleave(b16_shr_and(pairs, 0, 15), b16_shr_and(pairs, 4, 15)));
}

static inline void iq2_xs_open(iq2_xs_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                               uint32_t u)
{
    (void)scales;
    (void)u;
    iq_open(unit, bytes, iq2_nibbles(bytes + KVF_IQ2_XS_SCALES), 0.5f, 0.25f);
}

static inline v16 iq2_xs_group(const iq2_xs_unit *unit, int g)
{
    const uint32_t low = kvf_load_u16(unit->block + KVF_IQ2_XS_CODES + 4 * g);
    const uint32_t high = kvf_load_u16(unit->block + KVF_IQ2_XS_CODES + 4 * g + 2);
    return iq_group(b16_load_8_8(kvf_iq2_xs_bytes[low & 511], kvf_iq2_xs_bytes[high & 511]),
                    signs_of_7(low >> 9, high >> 9), unit->scales[g]);
}

static inline void iq2_s_open(iq2_s_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                              uint32_t u)
{
    (void)scales;
    (void)u;
    iq_open(unit, bytes, iq2_nibbles(bytes + KVF_IQ2_S_SCALES), 0.5f, 0.25f);
}

static inline v16 iq2_s_group(const iq2_s_unit *unit, int g)
{
    const uint8_t *index = unit->block + KVF_IQ2_S_INDEX + 2 * g;
    const uint32_t high = unit->block[KVF_IQ2_S_HIGH + g / 2] >> 4 * (g % 2);
    return iq_group(b16_load_8_8(kvf_iq2_s_bytes[index[0] | (high & 3) << 8],
                                 kvf_iq2_s_bytes[index[1] | (high >> 2 & 3) << 8]),
                    signs_of_8(unit->block + KVF_IQ2_S_SIGNS + 2 * g), unit->scales[g]);
}

static inline void iq3_xxs_open(iq3_xxs_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                                uint32_t u)
{
    (void)scales;
    (void)u;
    iq_open(unit, bytes, v16_top_nibbles_of_8(bytes + KVF_IQ3_XXS_WORDS, 1), 0.5f, 0.5f);
}

static inline v16 iq3_xxs_group(const iq3_xxs_unit *unit, int g)
{
    const uint8_t *index = unit->block + KVF_IQ3_XXS_INDEX + 4 * g;
    const uint32_t word = kvf_load_u32(unit->block + KVF_IQ3_XXS_WORDS + g / 2 * 4);
    return iq_group(b16_load_4_4_4_4(kvf_iq3_xxs_bytes[index[0]], kvf_iq3_xxs_bytes[index[1]],
                                     kvf_iq3_xxs_bytes[index[2]], kvf_iq3_xxs_bytes[index[3]]),
                    signs_of_7(word >> 14 * (g % 2), word >> (14 * (g % 2) + 7)),
                    unit->scales[g / 2]);
}

static inline void iq3_s_open(iq3_s_unit *unit, const uint8_t *bytes, const uint8_t *scales,
                              uint32_t u)
{
    (void)scales;
    (void)u;
    const uint64_t pairs = kvf_load_u32(bytes + KVF_IQ3_S_SCALES);
    iq_open(&unit->common, bytes, iq2_nibbles((const uint8_t *)&pairs), 0.5f, 2.0f);
    b16_add_ninth_bits(unit->indices, bytes + KVF_IQ3_S_INDEX, bytes + KVF_IQ3_S_HIGH);
    V16_IN_MEMORY(unit->indices);
}

static inline v16 iq3_s_group(const iq3_s_unit *unit, int g)
{
    const uint16_t *index = unit->indices + 4 * g;
    return iq_group(b16_load_4_4_4_4(kvf_iq3_s_bytes[index[0]], kvf_iq3_s_bytes[index[1]],
                                     kvf_iq3_s_bytes[index[2]], kvf_iq3_s_bytes[index[3]]),
                    signs_of_8(unit->common.block + KVF_IQ3_S_SIGNS + 2 * g),
                    unit->common.scales[g / 2]);
}
