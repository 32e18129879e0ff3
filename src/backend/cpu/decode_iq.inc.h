/*
 * ggml's types with code books: an entry has 8 values of two bits (iq2) or 4 of three (iq3),
 * each an index into a few numbers. Those numbers, times the scale, are a table of four or
 * eight floats: an entry is looked up as a whole, without integers in between. A template
 * over v16; interface: product_type.inc.h.
 */
#include "shared/iq_grids.h"

/* Entries of two groups of 8 values beside each other; signs likewise. */
static inline v16 iq2_values(uint32_t low, uint32_t high, uint32_t signs, float scale)
{
    /* shared/iquant.h: no entry has the fourth */
    static const float values[8] = {8.0f, 25.0f, 43.0f, 60.0f, 8.0f, 25.0f, 43.0f, 60.0f};
    return v16_negate(v16_lookup_4(low | high << 16, v16_table_of(values, scale)), signs);
}

/* Four entries of 4 values. */
static inline v16 iq3_values(const uint16_t *grid, const uint32_t index[4], uint32_t signs,
                             v16_table table)
{
    return v16_negate(v16_lookup_8(grid[index[0]] | (uint32_t)grid[index[1]] << 12,
                                   grid[index[2]] | (uint32_t)grid[index[3]] << 12, table),
                      signs);
}

/*
 * The signs of 16 values from seven bits each for 8 and 8, as kvf_iq_signs has them one by
 * one: the parities of both at once, folded into bits 0 and 8.
 */
static inline uint32_t two_signs(uint32_t low, uint32_t high)
{
    const uint32_t seven = (low & 127) | (high & 127) << 8;
    uint32_t parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return seven | (parity & 0x0101) << 7;
}

typedef struct iq_unit {
    const uint8_t *block;
    float d;
} iq_unit;
typedef iq_unit iq2_xxs_unit;
typedef iq_unit iq2_xs_unit;
typedef iq_unit iq2_s_unit;
typedef iq_unit iq3_xxs_unit;
typedef iq_unit iq3_s_unit;

/* d is the first field of all of them. */
static inline iq_unit iq_open(const uint8_t *bytes, const uint8_t *scales, uint32_t u)
{
    (void)scales;
    (void)u;
    return (iq_unit){bytes, v16_half(bytes)};
}
#define iq2_xxs_open iq_open
#define iq2_xs_open iq_open
#define iq2_s_open iq_open
#define iq3_xxs_open iq_open
#define iq3_s_open iq_open
static_assert(KVF_IQ2_XXS_D == 0 && KVF_IQ2_XS_D == 0 && KVF_IQ2_S_D == 0 && KVF_IQ3_XXS_D == 0 &&
                  KVF_IQ3_S_D == 0,
              "iq_open");

static inline v16 iq2_xxs_group(const iq2_xxs_unit *unit, int g)
{
    const uint8_t *group =
        unit->block + KVF_IQ2_XXS_GROUPS + (size_t)(g / 2) * KVF_IQ2_XXS_GROUP_BYTES;
    const uint8_t *index = group + 2 * (g % 2);
    const uint32_t word = kvf_load_u32(group + 4);
    const float scale = unit->d * (0.5f + (float)(word >> 28)) * 0.25f;
    return iq2_values(kvf_iq2_xxs_grid[index[0]], kvf_iq2_xxs_grid[index[1]],
                      two_signs(word >> 14 * (g % 2), word >> (14 * (g % 2) + 7)), scale);
}

/* Four bits for 16 values each. */
static inline float iq2_scale(float d, const uint8_t *scales, int g)
{
    return d * (0.5f + (float)(scales[g / 2] >> 4 * (g % 2) & 15)) * 0.25f;
}

static inline v16 iq2_xs_group(const iq2_xs_unit *unit, int g)
{
    const uint32_t codes = kvf_load_u32(unit->block + KVF_IQ2_XS_CODES + 4 * g);
    const uint32_t signs = two_signs(codes >> 9, codes >> 25);
    return iq2_values(kvf_iq2_xs_grid[codes & 511], kvf_iq2_xs_grid[codes >> 16 & 511], signs,
                      iq2_scale(unit->d, unit->block + KVF_IQ2_XS_SCALES, g));
}

static inline v16 iq2_s_group(const iq2_s_unit *unit, int g)
{
    const uint8_t *index = unit->block + KVF_IQ2_S_INDEX + 2 * g;
    const uint32_t high = unit->block[KVF_IQ2_S_HIGH + g / 2] >> 4 * (g % 2);
    return iq2_values(kvf_iq2_s_grid[index[0] | (high & 3) << 8],
                      kvf_iq2_s_grid[index[1] | (high >> 2 & 3) << 8],
                      kvf_load_u16(unit->block + KVF_IQ2_S_SIGNS + 2 * g),
                      iq2_scale(unit->d, unit->block + KVF_IQ2_S_SCALES, g));
}

static inline v16 iq3_xxs_group(const iq3_xxs_unit *unit, int g)
{
    const uint8_t *index = unit->block + KVF_IQ3_XXS_INDEX + 4 * g;
    const uint32_t word = kvf_load_u32(unit->block + KVF_IQ3_XXS_WORDS + g / 2 * 4);
    static const float values[8] = {4.0f, 12.0f, 20.0f, 28.0f, 36.0f, 44.0f, 52.0f, 62.0f};
    const float scale = unit->d * (0.5f + (float)(word >> 28)) * 0.5f;
    const uint32_t indices[4] = {index[0], index[1], index[2], index[3]};
    return iq3_values(kvf_iq3_xxs_grid, indices,
                      two_signs(word >> 14 * (g % 2), word >> (14 * (g % 2) + 7)),
                      v16_table_of(values, scale));
}

static inline v16 iq3_s_group(const iq3_s_unit *unit, int g)
{
    const uint8_t *index = unit->block + KVF_IQ3_S_INDEX + 4 * g;
    const uint32_t high = unit->block[KVF_IQ3_S_HIGH + g / 2] >> 4 * (g % 2);
    const uint32_t nibble = unit->block[KVF_IQ3_S_SCALES + g / 4] >> 4 * (g / 2 % 2) & 15;
    static const float values[8] = {1.0f, 3.0f, 5.0f, 7.0f, 9.0f, 11.0f, 13.0f, 15.0f};
    const uint32_t indices[4] = {index[0] | (high & 1) << 8, index[1] | (high & 2) << 7,
                                 index[2] | (high & 4) << 6, index[3] | (high & 8) << 5};
    return iq3_values(kvf_iq3_s_grid, indices, kvf_load_u16(unit->block + KVF_IQ3_S_SIGNS + 2 * g),
                      v16_table_of(values, unit->d * (float)(1 + 2 * nibble)));
}
