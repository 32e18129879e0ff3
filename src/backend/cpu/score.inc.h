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
 *   v16i_keep           may be there (V16_KEEP): holds a sum in its register
 *   v16_not_below       bit mask of the lanes that are not below a number
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

#include "backend/cpu/candidates.h"
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

/* How the codes of a tile are to be shifted, and what is added then, by block and row. */
typedef struct tile_shifts {
    _Alignas(64) uint32_t shifts[KVF_FP4_BLOCKS][KVF_TILE_ROWS];
    _Alignas(64) uint32_t offsets[KVF_FP4_BLOCKS][KVF_TILE_ROWS];
} tile_shifts;

/* words[j][r]: word j of row r. quads is what some ISAs keep on the way there. */
typedef struct tile_words {
    _Alignas(64) uint32_t words[KVF_FP4_CODE_BYTES / 4][KVF_TILE_ROWS];
    _Alignas(64) uint32_t quads[KVF_FP4_CODE_BYTES / 4][KVF_TILE_ROWS];
} tile_words;

/* Words of rows 4 q .. + 4, or what v16_merge_quad_words makes words of. */
static inline void load_quad(const uint8_t *const rows[KVF_TILE_ROWS], uint32_t q, tile_words *to)
{
#ifdef V16_QUADS
    v16_load_quad_words(rows + 4 * q, to->quads + 4 * q);
#else
    for (uint32_t r = 4 * q; r < 4 * q + 4; r++)
        for (uint32_t j = 0; j < KVF_FP4_CODE_BYTES / 4; j++)
            memcpy(&to->words[j][r], rows[r] + 4 * j, 4);
#endif
}

static inline void merge_quads(tile_words *words, uint32_t k)
{
#ifdef V16_QUADS
    v16_merge_quad_words(words->quads, k, words->words);
#else
    (void)words;
    (void)k;
#endif
}

/* One of the steps from packed rows to a tile: quads, words, then a word's codes. */
#define TILE_STEPS (4 + 4 + KVF_FP4_CODE_BYTES / 4)
static inline __attribute__((always_inline)) void expand_step(const packed_rows *rows,
                                                              const tile_shifts *by, uint32_t step,
                                                              tile_words *words, kvf_key_tile *tile)
{
    if (step < 4) {
        load_quad(rows->codes, step, words);
    } else if (step < 8) {
        merge_quads(words, step - 4);
    } else {
        const uint32_t j = step - 8;
        const uint32_t block = j / (KVF_FP4_BLOCK_CODE_BYTES / 4);
        v16_expand_codes(words->words[j], by->shifts[block], by->offsets[block], tile->codes[2 * j],
                         tile->codes[2 * j + 1]);
    }
}

static inline void expand_tile(const packed_rows *rows, const tile_shifts *by, kvf_key_tile *tile)
{
    tile_words words;
    for (uint32_t step = 0; step < TILE_STEPS; step++)
        expand_step(rows, by, step, &words, tile);
}

static void load_blocks_tile(const packed_rows *rows, kvf_key_tile *tile)
{
    const tile_shifts none = {{{0}}, {{0}}};
    for (uint32_t r = 0; r < KVF_TILE_ROWS; r++)
        for (uint32_t b = 0; b < KVF_FP4_BLOCKS; b++)
            tile->scales[b][r] = half_scale((uint8_t)scale_byte(rows->scales[r], b));
    expand_tile(rows, &none, tile);
}

/*
 * How the codes of 16 rows are aligned, from their scale bytes: shifts and offsets for
 * v16_expand_codes, and 2^(e - 1) of each row's lowest scale. False if a row has no
 * aligned form with shifts of at most most_shift <= KEY_SHIFT. A zero block has scale byte 1 and no
 * nonzero block has (the range of pack), so it does not count.
 */
#ifndef V16_ALIGN_SCALES
static bool v16_align_scales(const uint32_t scales[KVF_TILE_ROWS], uint32_t most_shift,
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
        if (high - low > most_shift || low < KVF_ALIGNED_LOWEST || high > KVF_ALIGNED_HIGHEST)
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
static bool load_aligned_tile(const packed_rows *rows, uint32_t most_shift, kvf_key_tile *tile)
{
    tile_shifts by;
    if (!v16_align_scales(rows->scales, most_shift, by.shifts, by.offsets, tile->scales[0]))
        return false;
    expand_tile(rows, &by, tile);
    return true;
}

/*
 * The next tiles, aligned in small steps, which the dots of the tiles before take between
 * them: a few at a time, as the processor looks only so far ahead for work that can go on
 * beside dots.
 */
typedef struct tile_loader {
    packed_rows rows[V16_SCORE_TILES];
    tile_shifts by[V16_SCORE_TILES];
    tile_words words;
    kvf_key_tile *tiles; /* [V16_SCORE_TILES] */
    uint32_t n_tiles;
    bool aligned;  /* all tiles have that form; otherwise there are no steps */
    uint32_t tile; /* of the next step */
    uint32_t step;
    uint32_t steps_left;
} tile_loader;

/* n rows from first_row on, at most V16_SCORE_TILES tiles. */
static void loader_start(tile_loader *loader, const kvf_rows *keys, uint64_t first_row, uint32_t n,
                         kvf_key_tile *tiles)
{
    loader->tiles = tiles;
    loader->n_tiles = (n + KVF_TILE_ROWS - 1) / KVF_TILE_ROWS;
    loader->aligned = true;
    loader->tile = 0;
    loader->step = 0;
    for (uint32_t t = 0; t < loader->n_tiles; t++) {
        const uint32_t left = n - t * KVF_TILE_ROWS;
        find_packed_rows(keys, first_row + t * KVF_TILE_ROWS,
                         left < KVF_TILE_ROWS ? left : KVF_TILE_ROWS, &loader->rows[t]);
        loader->aligned =
            loader->aligned &&
            v16_align_scales(loader->rows[t].scales, KVF_ALIGNED_KEY_SHIFT, loader->by[t].shifts,
                             loader->by[t].offsets, tiles[t].scales[0]);
    }
    loader->steps_left = loader->aligned ? loader->n_tiles * TILE_STEPS : 0;
}

static inline __attribute__((always_inline)) void loader_step(tile_loader *loader)
{
    if (loader->steps_left == 0)
        return;
    const uint32_t t = loader->tile;
    expand_step(&loader->rows[t], &loader->by[t], loader->step, &loader->words, &loader->tiles[t]);
    loader->steps_left--;
    if (++loader->step == TILE_STEPS) {
        loader->step = 0;
        loader->tile++;
    }
}

static void loader_finish(tile_loader *loader)
{
    while (loader->steps_left)
        loader_step(loader);
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

/* ---- Queries ------------------------------------------------------------------- */

/* 16 sums of unsigned or signed bytes of a tile, words begin .. end. */
static inline v16i sum_codes(const kvf_key_tile *tile, uint32_t begin, uint32_t end)
{
    static const int8_t ones[4] = {1, 1, 1, 1};
    v16i sum = v16i_set1(0);
    for (uint32_t j = begin; j < end; j++)
        sum = v16i_dot4(sum, tile->codes[j], ones);
    return sum;
}

/* Codes, scales and sums of blocks of heads h .. h + n from their tile. */
static void keep_head_blocks(const kvf_key_tile *tile, uint32_t h, uint32_t n,
                             kvf_index_query *query)
{
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t j = 0; j < KVF_INDEX_WIDTH / 4; j++)
            for (uint32_t i = 0; i < 4; i++)
                query->codes[(size_t)(h + r) * KVF_INDEX_WIDTH + 4 * j + i] =
                    (int8_t)(tile->codes[j][r][i] - V16_KEY_OFFSET);
    for (uint32_t b = 0; b < KVF_FP4_BLOCKS; b++) {
        _Alignas(64) int32_t sums[KVF_TILE_ROWS];
        v16i_store(sums, sum_codes(tile, 8 * b, 8 * b + 8));
        for (uint32_t r = 0; r < n; r++) {
            query->scales[(h + r) * KVF_FP4_BLOCKS + b] = tile->scales[b][r];
            query->sums[(h + r) * KVF_FP4_BLOCKS + b] =
                sums[r] - V16_KEY_OFFSET * KVF_FP4_BLOCK_VALUES;
        }
    }
}

/* The aligned form of heads h .. h + n from their tile; false if a weight does not allow it. */
static bool keep_aligned_heads(const kvf_key_tile *tile, uint32_t h, uint32_t n,
                               kvf_index_query *query)
{
    const int32_t offset = V16_KEY_OFFSET << KVF_ALIGNED_KEY_SHIFT; /* of every code */
    _Alignas(64) int32_t sums[KVF_TILE_ROWS];
    v16i_store(sums, sum_codes(tile, 0, KVF_INDEX_WIDTH / 4));
    for (uint32_t r = 0; r < n; r++) {
        const float weight = fabsf(query->weights[h + r]);
        if (weight != 0.0f &&
            (weight < KVF_ALIGNED_WEIGHT_LOWEST || weight > KVF_ALIGNED_WEIGHT_HIGHEST))
            return false;
        query->aligned_starts[h + r] = -offset * (sums[r] - offset * KVF_INDEX_WIDTH);
        query->aligned_weights[h + r] = query->weights[h + r] * tile->scales[0][r];
    }
    /* [n_heads / 8][32][8][4]: the same four places of eight heads beside each other */
    for (uint32_t r = 0; r < n; r += 8) {
        int8_t *restrict out = query->aligned + (size_t)(h + r) * KVF_INDEX_WIDTH;
        for (uint32_t j = 0; j < KVF_INDEX_WIDTH / 4; j++) {
            const uint8_t *codes = tile->codes[j][r];
            for (uint32_t i = 0; i < 32; i++)
                out[32 * j + i] = (int8_t)(codes[i] - offset);
        }
    }
    return true;
}

/* Readies a query whose heads are rows first_row .. of `heads`, its weights given. */
static void load_query(const kvf_rows *heads, uint64_t first_row, kvf_index_query *query)
{
    query->heads = heads;
    query->first_row = first_row;
    query->has_blocks = false;
    query->is_aligned = true;
    for (uint32_t h = 0; h < query->n_heads; h += KVF_TILE_ROWS) {
        const uint32_t left = query->n_heads - h;
        const uint32_t n = left < KVF_TILE_ROWS ? left : KVF_TILE_ROWS;
        packed_rows rows;
        kvf_key_tile tile;
        find_packed_rows(heads, first_row + h, n, &rows);
        query->is_aligned = query->is_aligned && load_aligned_tile(&rows, V16_QUERY_SHIFT, &tile) &&
                            keep_aligned_heads(&tile, h, n, query);
    }
}

/* Fills the form by blocks, if it is not there: most queries never need it. */
static void need_blocks(kvf_index_query *query)
{
    for (uint32_t h = 0; !query->has_blocks && h < query->n_heads; h += KVF_TILE_ROWS) {
        const uint32_t left = query->n_heads - h;
        const uint32_t n = left < KVF_TILE_ROWS ? left : KVF_TILE_ROWS;
        packed_rows rows;
        kvf_key_tile tile;
        find_packed_rows(query->heads, query->first_row + h, n, &rows);
        load_blocks_tile(&rows, &tile);
        keep_head_blocks(&tile, h, n, query);
    }
    query->has_blocks = true;
}

/* ---- Scores of a tile ----------------------------------------------------------- */

/* ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7)) */
static inline v16 sum_lanes(const v16 sums[8])
{
    const v16 low = v16_add(v16_add(sums[0], sums[1]), v16_add(sums[2], sums[3]));
    const v16 high = v16_add(v16_add(sums[4], sums[5]), v16_add(sums[6], sums[7]));
    return v16_add(low, high);
}

#ifndef V16_KEEP
static inline void v16i_keep(v16i *a)
{
    (void)a;
}
#endif

/* Dots of four codes between two steps of the loader: 8 x 8 heads give 64 steps, 48 are needed. */
#define DOTS_A_STEP 4

/* += dots of V16_SCORE_HEADS heads with n_tiles (a constant) tiles, four codes a row. */
static inline __attribute__((always_inline)) void
add_dots(v16i dots[V16_SCORE_TILES][V16_SCORE_HEADS], const kvf_key_tile *tiles, const int n_tiles,
         int j, const int8_t *codes)
{
    KVF_UNROLL
    for (int i = 0; i < V16_SCORE_HEADS; i++)
        KVF_UNROLL
    for (int t = 0; t < n_tiles; t++)
        dots[t][i] = v16i_dot4(dots[t][i], tiles[t].codes[j], codes + 32 * j + 4 * i);
    KVF_UNROLL
    for (int i = 0; i < V16_SCORE_HEADS; i++)
        KVF_UNROLL
    for (int t = 0; t < n_tiles; t++)
        v16i_keep(&dots[t][i]);
}

/*
 * Dots of V16_SCORE_HEADS heads from h on with n_tiles (a constant) aligned tiles; their
 * weighted maxima are added to sums. Meanwhile the next tiles are loaded.
 */
static inline __attribute__((always_inline)) void
score_aligned_heads(const kvf_index_query *query, uint32_t h, const kvf_key_tile *tiles,
                    const int n_tiles, tile_loader *next, float sums[][8][KVF_TILE_ROWS])
{
    /* [n_heads / 8][32][8][4]: the same four places of eight heads beside each other */
    const int8_t *codes = query->aligned + (size_t)(h / 8) * 8 * KVF_INDEX_WIDTH + h % 8 * 4;
    v16i dots[V16_SCORE_TILES][V16_SCORE_HEADS];
    KVF_UNROLL
    for (int i = 0; i < V16_SCORE_HEADS; i++)
        KVF_UNROLL
    for (int t = 0; t < n_tiles; t++)
        dots[t][i] = v16i_set1(query->aligned_starts[h + i]);
    for (int j = 0; j < KVF_INDEX_WIDTH / 4; j += DOTS_A_STEP) {
        /* Not unrolled further: it would not fit the cache of decoded instructions. */
        for (int k = 0; k < DOTS_A_STEP; k++)
            add_dots(dots, tiles, n_tiles, j + k, codes);
        loader_step(next);
    }
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

/*
 * Functions of their own: within a caller's loop the compiler would keep sums in registers,
 * which the dots need.
 */
static __attribute__((noinline)) void score_aligned_pair(const kvf_index_query *query, uint32_t h,
                                                         const kvf_key_tile *tiles,
                                                         tile_loader *next,
                                                         float sums[][8][KVF_TILE_ROWS])
{
    score_aligned_heads(query, h, tiles, V16_SCORE_TILES, next, sums);
}

static __attribute__((noinline)) void score_aligned_one(const kvf_index_query *query, uint32_t h,
                                                        const kvf_key_tile *tile, tile_loader *next,
                                                        float sums[][8][KVF_TILE_ROWS])
{
    score_aligned_heads(query, h, tile, 1, next, sums);
}

/* Scores of n_tiles aligned tiles, 1 or V16_SCORE_TILES; meanwhile the next ones are loaded. */
static void score_aligned(const kvf_index_query *query, const kvf_key_tile *tiles, uint32_t n_tiles,
                          tile_loader *next, float *scores)
{
    _Alignas(64) float sums[V16_SCORE_TILES][8][KVF_TILE_ROWS];
    const v16 zero = v16_set1(0.0f);
    for (uint32_t t = 0; t < n_tiles; t++)
        for (int l = 0; l < 8; l++)
            v16_store(sums[t][l], zero);
    for (uint32_t h = 0; h < query->n_heads; h += V16_SCORE_HEADS) {
        if (n_tiles == V16_SCORE_TILES)
            score_aligned_pair(query, h, tiles, next, sums);
        else
            score_aligned_one(query, h, tiles, next, sums);
    }
    for (uint32_t t = 0; t < n_tiles; t++) {
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

/* Stores the loaded rows' scores block by block, for queries that are not aligned with them. */
static void score_by_blocks(kvf_index_query *queries, uint32_t n_queries, const tile_loader *rows,
                            uint32_t n, float *out, size_t stride)
{
    kvf_key_tile tile;
    float scores[KVF_TILE_ROWS];
    for (uint32_t t = 0; t < rows->n_tiles; t++) {
        const uint32_t left = n - t * KVF_TILE_ROWS;
        bool loaded = false;
        for (uint32_t i = 0; i < n_queries; i++) {
            if (rows->aligned && queries[i].is_aligned)
                continue;
            if (!loaded)
                load_blocks_tile(&rows->rows[t], &tile);
            loaded = true;
            need_blocks(&queries[i]);
            score_tile_heads(&queries[i], &tile, true, scores);
            memcpy(out + i * stride + t * KVF_TILE_ROWS, scores,
                   (left < KVF_TILE_ROWS ? left : KVF_TILE_ROWS) * sizeof *out);
        }
    }
}

/* Scores of n loaded rows for all queries, while `next` is loaded. */
static void score_loaded(kvf_index_query *queries, uint32_t n_queries, const tile_loader *rows,
                         uint32_t n, tile_loader *next, float *out, size_t stride)
{
    float scores[V16_SCORE_TILES * KVF_TILE_ROWS];
    for (uint32_t i = 0; rows->aligned && i < n_queries; i++) {
        if (!queries[i].is_aligned)
            continue;
        if (rows->n_tiles == V16_SCORE_TILES)
            score_aligned(&queries[i], rows->tiles, V16_SCORE_TILES, next, scores);
        else
            for (uint32_t t = 0; t < rows->n_tiles; t++)
                score_aligned(&queries[i], rows->tiles + t, 1, next, scores + t * KVF_TILE_ROWS);
        memcpy(out + i * stride, scores, n * sizeof *out);
    }
    score_by_blocks(queries, n_queries, rows, n, out, stride);
    loader_finish(next);
}

static void score_packed_rows(kvf_index_query *queries, uint32_t n_queries, const kvf_rows *keys,
                              uint64_t begin, uint64_t end, float *out, size_t stride)
{
    const uint32_t most = V16_SCORE_TILES * KVF_TILE_ROWS;
    kvf_key_tile tiles[2][V16_SCORE_TILES];
    tile_loader loaders[2];
    uint32_t turn = 0;
    uint32_t n = end - begin < most ? (uint32_t)(end - begin) : most;
    loader_start(&loaders[0], keys, begin, n, tiles[0]);
    loader_finish(&loaders[0]);
    for (uint64_t row = begin; row < end; turn ^= 1) {
        tile_loader *next = &loaders[turn ^ 1];
        const uint64_t next_row = row + n;
        const uint32_t next_n = end - next_row < most ? (uint32_t)(end - next_row) : most;
        loader_start(next, keys, next_row, next_n, tiles[turn ^ 1]);
        score_loaded(queries, n_queries, &loaders[turn], n, next, out + (row - begin), stride);
        row = next_row;
        n = next_n;
    }
}

static void score_rows(kvf_index_query *queries, uint32_t n_queries, const kvf_rows *keys,
                       uint64_t begin, uint64_t end, float *out, size_t stride)
{
    if (queries->packed) {
        score_packed_rows(queries, n_queries, keys, begin, end, out, stride);
        return;
    }
    kvf_key_tile tile;
    for (uint64_t row = begin; row < end; row += KVF_TILE_ROWS) {
        const uint32_t n = end - row < KVF_TILE_ROWS ? (uint32_t)(end - row) : KVF_TILE_ROWS;
        load_f32_tile(keys, row, n, &tile);
        for (uint32_t i = 0; i < n_queries; i++) {
            float scores[KVF_TILE_ROWS];
            score_tile_heads(&queries[i], &tile, false, scores);
            memcpy(out + i * stride + (row - begin), scores, n * sizeof *out);
        }
    }
}

/* Keeps the rows among n that may be among the best; scores[i] is row first_row + i's. */
static void push_rows(kvf_candidates *candidates, const float *scores, uint32_t n,
                      uint32_t first_row)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        uint32_t lanes = v16_not_below(v16_load(scores + i), candidates->floor_score);
        if (lanes && candidates->capacity - candidates->n < 16) {
            kvf_candidates_thin(candidates);
            lanes = v16_not_below(v16_load(scores + i), candidates->floor_score);
        }
        for (; lanes; lanes &= lanes - 1) {
            const uint32_t at = i + (uint32_t)__builtin_ctz(lanes);
            kvf_candidates_keep(candidates, scores[at], first_row + at);
        }
    }
    for (; i < n; i++) {
        if (candidates->n == candidates->capacity)
            kvf_candidates_thin(candidates);
        kvf_candidates_keep(candidates, scores[i], first_row + i);
    }
}
