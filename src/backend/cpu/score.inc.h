/*
 * select's scores: queries against index rows, docs/FORMAT.md 5. A template.
 *
 * Parameters, from the including file's v16_*.h:
 *   v16, v16i           16 lanes: one row each
 *   V16_KEY_OFFSET      what is added to key codes so that the ISA's integer dot can
 *                       take them (12: unsigned; 0: signed)
 *   V16_QUERY_SHIFT     the most that a query's codes may be shifted (see below)
 *   V16_SCORE_HEADS     heads computed together in registers, a divisor of 8
 *   V16_SCORE_TILES     tiles of 16 rows computed together in registers
 *   v16_load_words      16 rows of 64 bytes to 16 vectors of 4-byte words
 *   v16_align_scales    may be there (V16_ALIGN_SCALES): the generic one is below
 *   v16_expand_codes    a vector of words to the doubled codes of their low and high
 *                       nibbles, plus offset, shifted by row
 *   v16i_dot4           += dots of 4 codes a row
 * Tested combinations: scalar 1x1, avx2 4x1, avx512 8x2, avx512vnni 8x2, neon 4x1.
 *
 * The rows lie across the lanes, so a score never needs a sum across lanes, and all
 * heads read one tile. A dot of doubled codes is an exact integer, at most 4608 a
 * block, and there are two ways to the same bits:
 *
 * Blocks: a dot a block, times a power of two, and three additions, as the format
 * is written.
 *
 * Aligned: where the four scales of a row lie within a factor of 8 of each other, and
 * those of a query head too, the codes are shifted to the smallest scale, and one
 * integer dot over all 128 is the exact sum of the blocks in units of that scale. It
 * is below 128 * 96 * 96 < 2^24, and so is each partial sum of the other way: none of
 * its additions rounded either. The powers of two leave the sum over heads as well: a
 * head's goes into its weight, a row's to the end. Multiplying by a power of two
 * commutes with rounding while nothing is subnormal or overflows, which the limits
 * ALIGNED_* guarantee: with |e| <= 20 and weights of 2^-40 .. 2^40 all values are
 * multiples of 2^-128 * 2^23 and below 2^100. What does not fit goes by blocks.
 */
#include <math.h>

#include "backend/cpu/kernels.h"
#include "format/format.h"
#include "shared/layout.h"

/* ---- Tiles of keys ------------------------------------------------------------ */

/* Scale byte to 2^(e - 1): what doubled codes are multiplied with. */
static inline float half_scale(uint8_t byte)
{
    const uint32_t bits = byte ? (uint32_t)(byte - 1) << 23 : 0;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

/* Where 16 packed rows lie; rows past the n-th repeat the first. */
typedef struct packed_rows {
    const uint8_t *codes[KVF_TILE_ROWS];
    _Alignas(64) uint32_t scales[KVF_TILE_ROWS]; /* the four scale bytes, block 0 lowest */
} packed_rows;

_Static_assert(KVF_FP4_SCALE_BYTES == sizeof(uint32_t), "a row's scales are one word");

static inline void find_packed_rows(const kvf_rows *keys, uint64_t first_row, uint32_t n,
                                    packed_rows *rows)
{
    const uint32_t page_rows = keys->page_rows;
    const size_t scales_at = (size_t)page_rows * KVF_FP4_CODE_BYTES;
    uint32_t in_page = (uint32_t)(first_row % page_rows);
    const uint8_t *page = kvf_rows_page(keys, first_row);
    if (n == KVF_TILE_ROWS && page_rows - in_page >= KVF_TILE_ROWS) { /* all in one page */
        for (uint32_t r = 0; r < KVF_TILE_ROWS; r++)
            rows->codes[r] = page + (size_t)(in_page + r) * KVF_FP4_CODE_BYTES;
        memcpy(rows->scales, page + scales_at + (size_t)in_page * KVF_FP4_SCALE_BYTES,
               sizeof rows->scales);
        return;
    }
    for (uint32_t r = 0; r < KVF_TILE_ROWS; r++) {
        if (r >= n) {
            rows->codes[r] = rows->codes[0];
            rows->scales[r] = rows->scales[0];
            continue;
        }
        if (in_page == page_rows) {
            page = kvf_rows_page(keys, first_row + r);
            in_page = 0;
        }
        rows->codes[r] = page + (size_t)in_page * KVF_FP4_CODE_BYTES;
        memcpy(&rows->scales[r], page + scales_at + (size_t)in_page * KVF_FP4_SCALE_BYTES,
               KVF_FP4_SCALE_BYTES);
        in_page++;
    }
}

/* Scale byte of block b. */
static inline uint32_t scale_byte(uint32_t scales, uint32_t b)
{
    return scales >> 8 * b & 255;
}

/* Codes of a tile, shifted by shifts[block][row]; offsets[block][row] is what is added then. */
static inline void expand_tile(const packed_rows *rows, uint32_t shifts[4][KVF_TILE_ROWS],
                               uint32_t offsets[4][KVF_TILE_ROWS], kvf_key_tile *tile)
{
    _Alignas(64) uint32_t words[KVF_FP4_CODE_BYTES / 4][KVF_TILE_ROWS];
    v16_load_words(rows->codes, words);
    for (uint32_t j = 0; j < KVF_FP4_CODE_BYTES / 4; j++)
        v16_expand_codes(words[j], shifts[j / 4], offsets[j / 4], tile->codes[2 * j],
                         tile->codes[2 * j + 1]);
}

static void load_blocks_tile(const packed_rows *rows, kvf_key_tile *tile)
{
    _Alignas(64) uint32_t none[4][KVF_TILE_ROWS] = {{0}};
    for (uint32_t r = 0; r < KVF_TILE_ROWS; r++)
        for (uint32_t b = 0; b < KVF_FP4_BLOCKS; b++)
            tile->scales[b][r] = half_scale((uint8_t)scale_byte(rows->scales[r], b));
    expand_tile(rows, none, none, tile);
}

/*
 * How the codes of 16 rows are aligned, from their scale bytes: shifts and offsets for
 * v16_expand_codes, and 2^(e - 1) of each row's lowest scale. False if a row has no
 * aligned form. A zero block has scale byte 1 and no nonzero block has (the range of
 * pack), so it does not count.
 */
#ifndef V16_ALIGN_SCALES
static bool v16_align_scales(const uint32_t scales[KVF_TILE_ROWS],
                             uint32_t shifts[4][KVF_TILE_ROWS], uint32_t offsets[4][KVF_TILE_ROWS],
                             float *half_scales)
{
    for (uint32_t r = 0; r < KVF_TILE_ROWS; r++) {
        uint32_t low = 255;
        uint32_t high = 0;
        for (uint32_t b = 0; b < KVF_FP4_BLOCKS; b++) {
            const uint32_t byte = scale_byte(scales[r], b);
            low = byte > 1 && byte < low ? byte : low;
            high = byte > high ? byte : high;
        }
        if (high <= 1)
            low = high = 127; /* a zero row */
        if (high - low > KVF_ALIGNED_KEY_SHIFT || low < KVF_ALIGNED_LOWEST ||
            high > KVF_ALIGNED_HIGHEST)
            return false;
        half_scales[r] = half_scale((uint8_t)low);
        for (uint32_t b = 0; b < KVF_FP4_BLOCKS; b++) {
            const uint32_t byte = scale_byte(scales[r], b);
            const uint32_t shift = byte > 1 ? byte - low : 0;
            shifts[b][r] = shift;
            /* (code + 12) << shift is to become (code << shift) + (12 << KEY_SHIFT). */
            offsets[b][r] = 0x01010101u * ((V16_KEY_OFFSET << KVF_ALIGNED_KEY_SHIFT) -
                                           ((uint32_t)V16_KEY_OFFSET << shift));
        }
    }
    return true;
}
#endif

/* The aligned form of a tile, if all of its rows have one. */
static bool load_aligned_tile(const packed_rows *rows, kvf_key_tile *tile)
{
    _Alignas(64) uint32_t shifts[KVF_FP4_BLOCKS][KVF_TILE_ROWS];
    _Alignas(64) uint32_t offsets[KVF_FP4_BLOCKS][KVF_TILE_ROWS];
    if (!v16_align_scales(rows->scales, shifts, offsets, tile->scales[0]))
        return false;
    expand_tile(rows, shifts, offsets, tile);
    return true;
}

static void load_f32_tile(const kvf_rows *keys, uint64_t first_row, uint32_t n, kvf_key_tile *tile)
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

/* ---- Scores of a tile ----------------------------------------------------------- */

/* ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7)) */
static inline v16 sum_lanes(const v16 sums[8])
{
    const v16 low = v16_add(v16_add(sums[0], sums[1]), v16_add(sums[2], sums[3]));
    const v16 high = v16_add(v16_add(sums[4], sums[5]), v16_add(sums[6], sums[7]));
    return v16_add(low, high);
}

/* Dots of V16_SCORE_HEADS heads with n_tiles (a constant) aligned tiles, into sums. */
static inline __attribute__((always_inline)) void
score_aligned_heads(const kvf_index_query *query, uint32_t h, const kvf_key_tile *tiles,
                    const int n_tiles, float sums[][8][KVF_TILE_ROWS])
{
    /* [n_heads / 8][32][8][4]: the same four places of eight heads beside each other */
    const int8_t *codes = query->aligned + (size_t)(h / 8) * 8 * KVF_INDEX_WIDTH + h % 8 * 4;
    v16i dots[V16_SCORE_TILES][V16_SCORE_HEADS];
    KVF_UNROLL
    for (int i = 0; i < V16_SCORE_HEADS; i++)
        KVF_UNROLL
    for (int t = 0; t < n_tiles; t++)
        dots[t][i] = v16i_set1(query->aligned_starts[h + i]);
        /* Several steps at a time: gcc copies every sum twice around the loop's end. */
#pragma GCC unroll 8
    for (int j = 0; j < KVF_INDEX_WIDTH / 4; j++)
        KVF_UNROLL
    for (int i = 0; i < V16_SCORE_HEADS; i++)
        KVF_UNROLL
    for (int t = 0; t < n_tiles; t++)
        dots[t][i] = v16i_dot4(dots[t][i], tiles[t].codes[j], codes + 32 * j + 4 * i);
    const v16 zero = v16_set1(0.0f);
    KVF_UNROLL
    for (int i = 0; i < V16_SCORE_HEADS; i++)
        KVF_UNROLL
    for (int t = 0; t < n_tiles; t++) {
        float *sum = sums[t][(h + i) % 8];
        v16_store(sum, v16_fma(v16_set1(query->aligned_weights[h + i]),
                               v16_max(v16i_to_float(dots[t][i]), zero), v16_load(sum)));
    }
}

static inline __attribute__((always_inline)) void score_aligned(const kvf_index_query *query,
                                                                const kvf_key_tile *tiles,
                                                                const int n_tiles, float *scores)
{
    /* In memory: the registers are the dots'. */
    _Alignas(64) float sums[V16_SCORE_TILES][8][KVF_TILE_ROWS] = {{{0}}};
    for (uint32_t h = 0; h < query->n_heads; h += V16_SCORE_HEADS)
        score_aligned_heads(query, h, tiles, n_tiles, sums);
    for (int t = 0; t < n_tiles; t++) {
        v16 lanes[8];
        for (int l = 0; l < 8; l++)
            lanes[l] = v16_load(sums[t][l]);
        v16_store(scores + t * KVF_TILE_ROWS,
                  v16_mul(sum_lanes(lanes), v16_load(tiles[t].scales[0])));
    }
}

/* s_h of 16 packed rows, block by block. */
static inline v16 score_head_blocks(const kvf_index_query *query, uint32_t h,
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
    /* Scales are powers of two: each product is exact, so the fma rounds the sum once. */
    v16 s =
        v16_mul(v16i_to_float(dots[0]), v16_mul(v16_load(tile->scales[0]), v16_set1(scales[0])));
    for (int b = 1; b < KVF_FP4_BLOCKS; b++)
        s = v16_fma(v16i_to_float(dots[b]), v16_mul(v16_load(tile->scales[b]), v16_set1(scales[b])),
                    s);
    return s;
}

/*
 * s_h of 16 f32 rows. Grid values: products and sums within a block are multiples of
 * the product of its scales and fewer than 2^24 of them, so exact in any order.
 */
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

/* Head by head, in the form of the tile: f32 or blocks. */
static void score_tile_heads(const kvf_index_query *query, const kvf_key_tile *tile, bool packed,
                             float *scores)
{
    const v16 zero = v16_set1(0.0f);
    v16 sums[8];
    for (int l = 0; l < 8; l++)
        sums[l] = zero;
    for (uint32_t h = 0; h < query->n_heads; h += 8)
        for (uint32_t l = 0; l < 8; l++) {
            const v16 s =
                packed ? score_head_blocks(query, h + l, tile) : score_head_f32(query, h + l, tile);
            sums[l] = v16_fma(v16_set1(query->weights[h + l]), v16_max(s, zero), sums[l]);
        }
    /* Of a NaN the maximum is its second operand (docs/FORMAT.md 9.4). */
    v16_store(scores, v16_max(sum_lanes(sums), v16_set1(-INFINITY)));
}

/* ---- Rows ------------------------------------------------------------------------ */

/* Up to V16_SCORE_TILES tiles from first_row on, for all queries; n rows are stored. */
static void score_packed_rows(const kvf_index_query *queries, uint32_t n_queries,
                              const kvf_rows *keys, uint64_t first_row, uint32_t n, float *out,
                              size_t stride)
{
    kvf_key_tile tiles[V16_SCORE_TILES];
    kvf_key_tile blocks;
    packed_rows rows[V16_SCORE_TILES];
    float scores[V16_SCORE_TILES * KVF_TILE_ROWS];
    const uint32_t n_tiles = (n + KVF_TILE_ROWS - 1) / KVF_TILE_ROWS;
    bool aligned = true;
    for (uint32_t t = 0; t < n_tiles; t++) {
        const uint32_t left = n - t * KVF_TILE_ROWS;
        find_packed_rows(keys, first_row + t * KVF_TILE_ROWS,
                         left < KVF_TILE_ROWS ? left : KVF_TILE_ROWS, &rows[t]);
        aligned = aligned && load_aligned_tile(&rows[t], &tiles[t]);
    }
    for (uint32_t i = 0; i < n_queries; i++) {
        if (aligned && queries[i].is_aligned) {
            if (n_tiles == V16_SCORE_TILES)
                score_aligned(&queries[i], tiles, V16_SCORE_TILES, scores);
            else
                score_aligned(&queries[i], tiles, 1, scores);
            memcpy(out + i * stride, scores, n * sizeof *out);
        }
    }
    for (uint32_t t = 0; t < n_tiles; t++) {
        bool loaded = false;
        for (uint32_t i = 0; i < n_queries; i++) {
            if (aligned && queries[i].is_aligned)
                continue;
            if (!loaded)
                load_blocks_tile(&rows[t], &blocks);
            loaded = true;
            score_tile_heads(&queries[i], &blocks, true, scores);
            const uint32_t left = n - t * KVF_TILE_ROWS;
            memcpy(out + i * stride + t * KVF_TILE_ROWS, scores,
                   (left < KVF_TILE_ROWS ? left : KVF_TILE_ROWS) * sizeof *out);
        }
    }
}

static void score_rows(const kvf_index_query *queries, uint32_t n_queries, const kvf_rows *keys,
                       uint64_t begin, uint64_t end, float *out, size_t stride)
{
    kvf_key_tile tile;
    const uint32_t step = queries->packed ? V16_SCORE_TILES * KVF_TILE_ROWS : KVF_TILE_ROWS;
    for (uint64_t row = begin; row < end; row += step) {
        const uint32_t n = end - row < step ? (uint32_t)(end - row) : step;
        if (queries->packed) {
            score_packed_rows(queries, n_queries, keys, row, n, out + (row - begin), stride);
            continue;
        }
        load_f32_tile(keys, row, n, &tile);
        for (uint32_t i = 0; i < n_queries; i++) {
            float scores[KVF_TILE_ROWS];
            score_tile_heads(&queries[i], &tile, false, scores);
            memcpy(out + i * stride + (row - begin), scores, n * sizeof *out);
        }
    }
}
