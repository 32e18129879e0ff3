/*
 * select's scores, one query against 16 index rows: docs/FORMAT.md 5. A template.
 *
 * Parameters, from the including file's v16_*.h:
 *   v16, v16i                  16 lanes: one row each
 *   V16_KEY_OFFSET             what is added to key codes so that the ISA's integer
 *                              dot can take them (12: unsigned; 0: signed)
 *   v16_unpack_codes           16 words of 8 nibbles to doubled codes plus offset
 *
 * The rows lie across the lanes, so a score never needs a sum across lanes, and all
 * heads read one tile. A dot of doubled codes is an exact integer, at most 4608 a
 * block. f32 rows hold the same grid values, whose products and sums within a block
 * are multiples of 2^(x - 2) below 2^13 of them: exact in f32 in any order. Both
 * forms therefore give the same bits.
 */
#include <math.h>

#include "backend/cpu/kernels.h"
#include "format/format.h"
#include "shared/layout.h"

/* Scale byte to 2^(e - 1): what doubled codes are multiplied with. */
static inline float half_scale(uint8_t byte)
{
    const uint32_t bits = byte ? (uint32_t)(byte - 1) << 23 : 0;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

static void load_packed_keys(const kvf_rows *keys, uint64_t first_row, uint32_t n,
                             kvf_key_tile *tile)
{
    _Alignas(64) uint32_t words[KVF_FP4_CODE_BYTES / 4][KVF_TILE_ROWS] = {{0}};
    for (uint32_t r = 0; r < KVF_TILE_ROWS; r++) {
        if (r >= n) {
            for (uint32_t b = 0; b < KVF_FP4_BLOCKS; b++)
                tile->scales[b][r] = 0.0f;
            continue;
        }
        const uint64_t row = first_row + r;
        const uint8_t *page = kvf_rows_page(keys, row);
        const uint32_t in_page = (uint32_t)(row % keys->page_rows);
        const uint8_t *codes = page + (size_t)in_page * KVF_FP4_CODE_BYTES;
        const uint8_t *scales = page + (size_t)keys->page_rows * KVF_FP4_CODE_BYTES +
                                (size_t)in_page * KVF_FP4_SCALE_BYTES;
        for (uint32_t j = 0; j < KVF_FP4_CODE_BYTES / 4; j++)
            memcpy(&words[j][r], codes + 4 * j, 4);
        for (uint32_t b = 0; b < KVF_FP4_BLOCKS; b++)
            tile->scales[b][r] = half_scale(scales[b]);
    }
    for (uint32_t j = 0; j < KVF_FP4_CODE_BYTES / 4; j++)
        v16_unpack_codes(words[j], tile->codes[2 * j], tile->codes[2 * j + 1]);
}

static void load_f32_keys(const kvf_rows *keys, uint64_t first_row, uint32_t n, kvf_key_tile *tile)
{
    float decoded[KVF_TILE_ROWS][KVF_INDEX_WIDTH];
    const float *rows[KVF_TILE_ROWS];
    for (uint32_t r = 0; r < KVF_TILE_ROWS; r++) {
        const uint64_t row = first_row + (r < n ? r : 0);
        const void *page = kvf_rows_page(keys, row);
        const uint32_t in_page = (uint32_t)(row % keys->page_rows);
        if (keys->format == KVF_FORMAT_F32) {
            rows[r] = (const float *)page + (size_t)in_page * KVF_INDEX_WIDTH;
        } else {
            kvf_format_get(keys->format)
                ->unpack(page, keys->page_rows, in_page, KVF_INDEX_WIDTH, decoded[r]);
            rows[r] = decoded[r];
        }
    }
    for (uint32_t i = 0; i < KVF_INDEX_WIDTH; i++)
        for (uint32_t r = 0; r < KVF_TILE_ROWS; r++)
            tile->values[i][r] = rows[r][i];
}

static void load_keys(const kvf_rows *keys, uint64_t first_row, uint32_t n, bool packed,
                      kvf_key_tile *tile)
{
    if (packed)
        load_packed_keys(keys, first_row, n, tile);
    else
        load_f32_keys(keys, first_row, n, tile);
}

/* s_h of 16 packed rows. */
static inline v16 score_head_packed(const kvf_index_query *query, uint32_t h,
                                    const kvf_key_tile *tile)
{
    const int8_t *codes = query->codes + (size_t)h * KVF_INDEX_WIDTH;
    v16i dots[KVF_FP4_BLOCKS];
    for (int b = 0; b < KVF_FP4_BLOCKS; b++)
        dots[b] = v16i_set1(-V16_KEY_OFFSET * query->sums[h * KVF_FP4_BLOCKS + b]);
    for (int i = 0; i < 8; i++)
        for (int b = 0; b < KVF_FP4_BLOCKS; b++)
            dots[b] = v16i_dot4(dots[b], tile->codes[8 * b + i], codes + 4 * (8 * b + i));
    const float *scales = query->scales + h * KVF_FP4_BLOCKS;
    /* Scales are powers of two: each product with a dot is exact, so the fma rounds the sum once.
     */
    v16 s =
        v16_mul(v16i_to_float(dots[0]), v16_mul(v16_load(tile->scales[0]), v16_set1(scales[0])));
    for (int b = 1; b < KVF_FP4_BLOCKS; b++)
        s = v16_fma(v16i_to_float(dots[b]), v16_mul(v16_load(tile->scales[b]), v16_set1(scales[b])),
                    s);
    return s;
}

/* s_h of 16 f32 rows. */
static inline v16 score_head_f32(const kvf_index_query *query, uint32_t h, const kvf_key_tile *tile)
{
    const float *values = query->values + (size_t)h * KVF_INDEX_WIDTH;
    v16 dots[KVF_FP4_BLOCKS];
    for (int b = 0; b < KVF_FP4_BLOCKS; b++)
        dots[b] = v16_set1(0.0f);
    for (int i = 0; i < KVF_FP4_BLOCK_VALUES; i++)
        for (int b = 0; b < KVF_FP4_BLOCKS; b++) {
            const int at = b * KVF_FP4_BLOCK_VALUES + i;
            dots[b] = v16_fma(v16_set1(values[at]), v16_load(tile->values[at]), dots[b]);
        }
    return v16_add(v16_add(v16_add(dots[0], dots[1]), dots[2]), dots[3]);
}

static void score_tile_rows(const kvf_index_query *query, const kvf_key_tile *tile, float *scores)
{
    const v16 zero = v16_set1(0.0f);
    v16 sums[8];
    for (int l = 0; l < 8; l++)
        sums[l] = zero;
    for (uint32_t h = 0; h < query->n_heads; h += 8)
        for (int l = 0; l < 8; l++) {
            const v16 s = query->packed ? score_head_packed(query, h + l, tile)
                                        : score_head_f32(query, h + l, tile);
            sums[l] = v16_fma(v16_set1(query->weights[h + l]), v16_max(s, zero), sums[l]);
        }
    const v16 low = v16_add(v16_add(sums[0], sums[1]), v16_add(sums[2], sums[3]));
    const v16 high = v16_add(v16_add(sums[4], sums[5]), v16_add(sums[6], sums[7]));
    /* Of a NaN the maximum is its second operand (docs/FORMAT.md 9.4). */
    v16_store(scores, v16_max(v16_add(low, high), v16_set1(-INFINITY)));
}
