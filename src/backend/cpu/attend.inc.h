/*
 * attend, one item (some heads of one query): docs/FORMAT.md 9.2. A template.
 *
 * Parameters, from the including file's v16_*.h:
 *   v16 and its operations      16 lanes
 *   V16_DOT_HEADS x V16_DOT_ROWS      dots computed together in registers
 *   V16_OUT_HEADS x V16_OUT_VECTORS   outputs accumulated together in registers
 * Tested combinations: scalar 1x1/1x1, avx2 2x2/2x2, avx512 4x4/4x4, neon 2x2/2x2.
 *
 * Rows are walked in tiles of KVF_ATTEND_TILE_ROWS: f32 rows are used where they
 * lie, other formats are decoded into a buffer once for all heads of the item. The
 * tile's size and the register blocks do not touch the order of any sum.
 */
#include "backend/cpu/kernels.h"
#include "format/format.h"
#include "shared/exp.h"
#include "shared/layout.h"
#include "shared/workspace.h"

#define ROW_VECTORS (KVF_ROW_WIDTH / 16)

static inline v16 v16_exp(v16 x)
{
    const v16 rounder = v16_set1(KVF_EXP_ROUNDER);
    const v16 n = v16_sub(v16_fma(x, v16_set1(KVF_EXP_LOG2E), rounder), rounder);
    v16 r = v16_fma(n, v16_set1(-KVF_EXP_LN2_HI), x);
    r = v16_fma(n, v16_set1(-KVF_EXP_LN2_LO), r);
    v16 q = v16_fma(v16_set1(KVF_EXP_C4), r, v16_set1(KVF_EXP_C3));
    q = v16_fma(q, r, v16_set1(KVF_EXP_C2));
    q = v16_fma(q, r, v16_set1(KVF_EXP_C1));
    q = v16_fma(q, r, v16_set1(KVF_EXP_C0));
    const v16 y = v16_add(v16_fma(v16_mul(r, r), q, r), v16_set1(1.0f));
    return v16_exp_scale(x, KVF_EXP_LOWEST, y, n);
}

/* ---- Rows -------------------------------------------------------------------- */

/* Scale byte to 2^e; the packers write no byte below 1. */
static inline float exponent_to_float(uint8_t byte)
{
    const uint32_t bits = (uint32_t)byte << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

static void decode_fp8_f16(const uint8_t *page, uint32_t page_rows, uint32_t row, float *out)
{
    const uint8_t *data = page + (size_t)row * KVF_FP8_DATA_BYTES;
    const uint8_t *scales =
        page + (size_t)page_rows * KVF_FP8_DATA_BYTES + (size_t)row * KVF_FP8_SCALE_BYTES;
    /* v16_load_e4m3 gives value * 2^-8; two exact products, as 2^(e + 8) may not fit. */
    const v16 unit = v16_set1(256.0f);
    for (uint32_t block = 0; block < KVF_FP8_BLOCKS; block++) {
        const v16 scale = v16_set1(exponent_to_float(scales[block]));
        for (uint32_t i = 0; i < KVF_FP8_BLOCK_VALUES; i += 16) {
            const uint32_t at = block * KVF_FP8_BLOCK_VALUES + i;
            v16_store(out + at, v16_mul(v16_mul(v16_load_e4m3(data + at), unit), scale));
        }
    }
    for (uint32_t i = 0; i < KVF_FP8_ROPE_VALUES; i += 16)
        v16_store(out + KVF_FP8_NOPE_VALUES + i, v16_load_f16(data + KVF_FP8_ROPE_OFFSET + 2 * i));
}

static void decode_row(const kvf_rows *rows, uint64_t row, float *out)
{
    const void *page = kvf_rows_page(rows, row);
    const uint32_t in_page = (uint32_t)(row % rows->page_rows);
    if (rows->format == KVF_FORMAT_FP8_F16) {
        decode_fp8_f16(page, rows->page_rows, in_page, out);
    } else if (rows->format == KVF_FORMAT_F16) {
        const uint8_t *data = (const uint8_t *)page + (size_t)in_page * rows->width * 2;
        for (uint32_t i = 0; i < rows->width; i += 16)
            v16_store(out + i, v16_load_f16(data + 2 * i));
    } else {
        kvf_format_get(rows->format)->unpack(page, rows->page_rows, in_page, rows->width, out);
    }
}

/* The rows that a query attends: window first, then compressed ones. */
typedef struct row_walk {
    const float *decoded_window; /* the first window row, decoded, or NULL */
    const float *decoded_rows;   /* the first compressed row of the walk, decoded, or NULL */
    const kvf_rows *window;
    const kvf_rows *rows;
    uint64_t window_first; /* token of the first window row */
    uint32_t n_window;
    uint32_t n_rows;     /* compressed rows */
    const int32_t *list; /* of compressed rows, or NULL: 0, 1, 2 .. */
    const float *mask;   /* dense form: added to the scores of compressed rows */
} row_walk;

/* Row i of the walk as 512 f32: in place, or decoded into buffer. */
static inline const float *walk_row(const row_walk *walk, uint32_t i, float *buffer)
{
    const kvf_rows *rows = walk->window;
    uint64_t row;
    if (i < walk->n_window) {
        if (walk->decoded_window)
            return walk->decoded_window + (size_t)i * KVF_ROW_WIDTH;
        row = (walk->window_first + i) % rows->n_rows;
    } else {
        if (walk->decoded_rows)
            return walk->decoded_rows + (size_t)(i - walk->n_window) * KVF_ROW_WIDTH;
        rows = walk->rows;
        row = walk->list ? (uint64_t)walk->list[i - walk->n_window] : i - walk->n_window;
    }
    if (rows->format == KVF_FORMAT_F32)
        return (const float *)kvf_rows_page(rows, row) +
               (size_t)(row % rows->page_rows) * KVF_ROW_WIDTH;
    decode_row(rows, row, buffer);
    return buffer;
}

static uint32_t load_tile(const row_walk *walk, uint32_t begin, float *buffer, const float **tile)
{
    const uint32_t total = walk->n_window + walk->n_rows;
    const uint32_t left = total - begin;
    const uint32_t n = left < KVF_ATTEND_TILE_ROWS ? left : KVF_ATTEND_TILE_ROWS;
    for (uint32_t i = 0; i < n; i++)
        tile[i] = walk_row(walk, begin + i, buffer + (size_t)i * KVF_ROW_WIDTH);
    return n;
}

/* Chooses the compressed rows of a query; `list` is workspace for as many as there are. */
static row_walk make_walk(const kvf_attend_args *args, uint32_t query, int32_t *list)
{
    const uint64_t token = args->first_token + query;
    row_walk walk = {.window = &args->window, .rows = &args->rows};
    if (args->window_tokens) {
        walk.n_window = token + 1 < args->window_tokens ? (uint32_t)token + 1 : args->window_tokens;
        walk.window_first = token + 1 - walk.n_window;
    }
    if (args->rows.n_rows == 0)
        return walk;
    if (args->list) {
        const int32_t *given = args->list + query * args->list_stride;
        for (uint32_t i = 0; i < args->list_len[query]; i++)
            if (given[i] >= 0)
                list[walk.n_rows++] = given[i];
        walk.list = list;
    } else if (args->mask_f16) {
        const uint16_t *mask = args->mask_f16 + query * args->mask_stride;
        for (uint32_t row = 0; row < args->n_visible[query]; row++)
            if ((mask[row] & 0x7fff) == 0)
                list[walk.n_rows++] = (int32_t)row;
        walk.list = list;
    } else {
        walk.n_rows = args->n_visible[query];
        walk.mask = args->mask_f32 ? args->mask_f32 + query * args->mask_stride : NULL;
    }
    return walk;
}

/* ---- Scores ------------------------------------------------------------------ */

/* Dots of n_heads x n_rows, both compile-time constants; scores[row][head]. */
static inline __attribute__((always_inline)) void
dot_block(const float *q, const float *const *rows, const int n_heads, const int n_rows,
          float scale, float *scores, uint32_t stride)
{
    v16 sums[V16_DOT_HEADS][V16_DOT_ROWS];
    KVF_UNROLL
    for (int h = 0; h < n_heads; h++)
        KVF_UNROLL
    for (int r = 0; r < n_rows; r++)
        sums[h][r] = v16_set1(0.0f);
        /* Several steps at a time: gcc copies sums around the loop's end. */
#pragma GCC unroll 4
    for (int i = 0; i < KVF_ROW_WIDTH; i += 16) {
        v16 row[V16_DOT_ROWS];
        KVF_UNROLL
        for (int r = 0; r < n_rows; r++)
            row[r] = v16_load(rows[r] + i);
        KVF_UNROLL
        for (int h = 0; h < n_heads; h++) {
            const v16 query = v16_load(q + (size_t)h * KVF_ROW_WIDTH + i);
            KVF_UNROLL
            for (int r = 0; r < n_rows; r++)
                sums[h][r] = v16_fma(query, row[r], sums[h][r]);
        }
    }
#ifdef V16_SUM_4X4
    if (n_heads == 4 && n_rows == 4) {
        v16_sum_4x4(sums, scale, scores, stride);
        return;
    }
#endif
    KVF_UNROLL
    for (int h = 0; h < n_heads; h++)
        KVF_UNROLL
    for (int r = 0; r < n_rows; r++)
        scores[(size_t)r * stride + h] = v16_sum(sums[h][r]) * scale;
}

/* Dots of n_heads heads (a constant) with n_rows rows. */
static inline __attribute__((always_inline)) void
score_heads(const float *q, const float *const *rows, const int n_heads, uint32_t n_rows,
            float scale, float *scores, uint32_t stride)
{
    uint32_t r = 0;
    for (; r + V16_DOT_ROWS <= n_rows; r += V16_DOT_ROWS)
        dot_block(q, rows + r, n_heads, V16_DOT_ROWS, scale, scores + (size_t)r * stride, stride);
    for (; r < n_rows; r++)
        dot_block(q, rows + r, n_heads, 1, scale, scores + (size_t)r * stride, stride);
}

/*
 * Rows that stay in the L1 cache while all heads pass: 16 of 2 KiB, beside 4 heads, in
 * 48 KiB. With all rows of a tile the second-level cache's bandwidth is the limit.
 */
#define SCORE_CACHED_ROWS 16

/* scores[row][head] of a tile for all heads of the item. */
static void score_tile(const float *q, uint32_t n_heads, const float *const *tile, uint32_t n_rows,
                       float scale, float *scores, uint32_t stride)
{
    for (uint32_t r = 0; r < n_rows; r += SCORE_CACHED_ROWS) {
        const uint32_t n = n_rows - r < SCORE_CACHED_ROWS ? n_rows - r : SCORE_CACHED_ROWS;
        float *place = scores + (size_t)r * stride;
        uint32_t h = 0;
        for (; h + V16_DOT_HEADS <= n_heads; h += V16_DOT_HEADS)
            score_heads(q + (size_t)h * KVF_ROW_WIDTH, tile + r, V16_DOT_HEADS, n, scale, place + h,
                        stride);
        for (; h < n_heads; h++)
            score_heads(q + (size_t)h * KVF_ROW_WIDTH, tile + r, 1, n, scale, place + h, stride);
    }
}

/* Scores to p in place, 16 heads at a time; denominators and maxima of each head. */
static void softmax(const float *sink_logits, uint32_t n_heads, uint32_t n_rows, uint32_t stride,
                    float *scores, float *maxima, float *denominators)
{
    for (uint32_t h = 0; h < n_heads; h += 16) {
        float sinks[16];
        for (uint32_t l = 0; l < 16; l++)
            sinks[l] = sink_logits && h + l < n_heads ? sink_logits[h + l] : -INFINITY;
        v16 max = v16_load(sinks);
        for (uint32_t r = 0; r < n_rows; r++)
            max = v16_max(v16_load(scores + (size_t)r * stride + h), max);
        v16 sum = v16_exp(v16_sub(v16_load(sinks), max));
        if (!sink_logits)
            sum = v16_set1(0.0f);
        for (uint32_t r = 0; r < n_rows; r++) {
            float *place = scores + (size_t)r * stride + h;
            const v16 p = v16_exp(v16_sub(v16_load(place), max));
            sum = v16_add(sum, p);
            v16_store(place, p);
        }
        v16_store(maxima + h, max);
        v16_store(denominators + h, sum);
    }
}

/* ---- Output ------------------------------------------------------------------ */

/* out[n_heads][16 * n_vectors] += p * rows, both counts compile-time constants. */
static inline __attribute__((always_inline)) void
out_block(const float *p, uint32_t stride, const float *const *rows, uint32_t n_rows, uint32_t dim,
          const int n_heads, const int n_vectors, float *out)
{
    v16 sums[V16_OUT_HEADS][V16_OUT_VECTORS];
    KVF_UNROLL
    for (int h = 0; h < n_heads; h++)
        KVF_UNROLL
    for (int v = 0; v < n_vectors; v++)
        sums[h][v] = v16_load(out + (size_t)h * KVF_ROW_WIDTH + dim + 16 * v);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < n_rows; r++) {
        v16 row[V16_OUT_VECTORS];
        KVF_UNROLL
        for (int v = 0; v < n_vectors; v++)
            row[v] = v16_load(rows[r] + dim + 16 * v);
        KVF_UNROLL
        for (int h = 0; h < n_heads; h++) {
            const v16 weight = v16_set1(p[(size_t)r * stride + h]);
            KVF_UNROLL
            for (int v = 0; v < n_vectors; v++)
                sums[h][v] = v16_fma(weight, row[v], sums[h][v]);
        }
    }
    KVF_UNROLL
    for (int h = 0; h < n_heads; h++)
        KVF_UNROLL
    for (int v = 0; v < n_vectors; v++)
        v16_store(out + (size_t)h * KVF_ROW_WIDTH + dim + 16 * v, sums[h][v]);
}

static void out_tile(const float *p, uint32_t stride, uint32_t n_heads, const float *const *tile,
                     uint32_t n_rows, float *out)
{
    for (uint32_t dim = 0; dim < KVF_ROW_WIDTH; dim += 16 * V16_OUT_VECTORS) {
        uint32_t h = 0;
        for (; h + V16_OUT_HEADS <= n_heads; h += V16_OUT_HEADS)
            out_block(p + h, stride, tile, n_rows, dim, V16_OUT_HEADS, V16_OUT_VECTORS,
                      out + (size_t)h * KVF_ROW_WIDTH);
        for (; h < n_heads; h++)
            out_block(p + h, stride, tile, n_rows, dim, 1, V16_OUT_VECTORS,
                      out + (size_t)h * KVF_ROW_WIDTH);
    }
}

static void divide(float *out, uint32_t n_heads, const float *denominators)
{
    const v16 zero = v16_set1(0.0f);
    for (uint32_t h = 0; h < n_heads; h++) {
        /* Only where nothing was attended is it 0; out is 0 then, and stays so. */
        const v16 denominator = v16_set1(denominators[h] > 0.0f ? denominators[h] : 1.0f);
        for (uint32_t i = 0; i < KVF_ROW_WIDTH; i += 16) {
            float *place = out + (size_t)h * KVF_ROW_WIDTH + i;
            v16_store(place, v16_add(v16_div(v16_load(place), denominator), zero));
        }
    }
}

/* ---- The item ---------------------------------------------------------------- */

/* One thread's workspace, cut as kvf_attend_thread_parts says. */
typedef struct attend_space {
    float *scores;
    float *window;
    float *rows;
    float *tile;
    int32_t *list;
    float *maxima;
    float *denominators;
    uint32_t stride; /* heads a row of scores */
} attend_space;

static attend_space cut_space(const kvf_attend_args *args, uint8_t *place)
{
    const kvf_attend_size size = kvf_attend_size_of(args);
    const kvf_attend_parts parts = kvf_attend_thread_parts(&size);
    attend_space space;
    space.scores = (float *)place;
    space.window = (float *)(place += parts.scores);
    space.rows = (float *)(place += parts.window);
    space.tile = (float *)(place += parts.rows);
    space.list = (int32_t *)(place += parts.tile);
    space.maxima = (float *)(place += parts.list);
    space.denominators = space.maxima + KVF_ATTEND_BLOCK_HEADS;
    space.stride = kvf_attend_block_heads(size.n_heads, size.dense);
    return space;
}

/* First token of a query's window. */
static uint64_t window_begin(const kvf_attend_args *args, uint32_t query)
{
    const uint64_t end = args->first_token + query + 1;
    return end < args->window_tokens ? 0 : end - args->window_tokens;
}

/* The most compressed rows that a query of the item sees; they need not ascend. */
static uint32_t most_visible(const kvf_attend_args *args, const kvf_attend_item *item)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < item->n_queries; i++)
        if (args->n_visible[item->first_query + i] > most)
            most = args->n_visible[item->first_query + i];
    return most;
}

/* Decodes what all queries of the item share: the windows' rows, and rows without a list. */
static void decode_shared(const kvf_attend_args *args, const kvf_attend_item *item,
                          const attend_space *space)
{
    const uint32_t last = item->first_query + item->n_queries - 1;
    if (args->window_tokens && args->window.format != KVF_FORMAT_F32) {
        const uint64_t begin = window_begin(args, item->first_query);
        for (uint64_t token = begin; token <= args->first_token + last; token++)
            decode_row(&args->window, token % args->window.n_rows,
                       space->window + (token - begin) * KVF_ROW_WIDTH);
    }
    const bool all_rows = args->rows.n_rows && !args->list && !args->mask_f16;
    if (!all_rows || args->rows.format == KVF_FORMAT_F32)
        return;
    const uint32_t most = most_visible(args, item);
    for (uint32_t row = 0; most <= KVF_ATTEND_DECODED_ROWS && row < most; row++)
        decode_row(&args->rows, row, space->rows + (size_t)row * KVF_ROW_WIDTH);
}

/* Points the walk at decoded rows; those of a list are decoded here, once for all heads. */
static void use_decoded(const kvf_attend_args *args, const kvf_attend_item *item,
                        const attend_space *space, row_walk *walk)
{
    if (walk->n_window && args->window.format != KVF_FORMAT_F32)
        walk->decoded_window =
            space->window +
            (walk->window_first - window_begin(args, item->first_query)) * KVF_ROW_WIDTH;
    if (walk->n_rows == 0 || args->rows.format == KVF_FORMAT_F32 ||
        walk->n_rows > KVF_ATTEND_DECODED_ROWS)
        return;
    if (!walk->list && most_visible(args, item) > KVF_ATTEND_DECODED_ROWS)
        return; /* a query of the run has too many: none were decoded */
    walk->decoded_rows = space->rows;
    for (uint32_t i = 0; walk->list && i < walk->n_rows; i++)
        decode_row(&args->rows, (uint64_t)walk->list[i], space->rows + (size_t)i * KVF_ROW_WIDTH);
}

static void attend_query(const kvf_attend_args *args, const kvf_attend_item *item, uint32_t query,
                         const attend_space *space)
{
    const size_t first = (size_t)query * args->n_heads + item->first_head;
    const float *q = args->q + first * KVF_ROW_WIDTH;
    float *out = args->out + first * KVF_ROW_WIDTH;
    const float *sinks = args->sinks ? args->sinks + item->first_head : NULL;
    const uint32_t stride = space->stride;
    const float *tile[KVF_ATTEND_TILE_ROWS];
    row_walk walk = make_walk(args, query, space->list);
    use_decoded(args, item, space, &walk);
    const uint32_t total = walk.n_window + walk.n_rows;

    for (uint32_t begin = 0; begin < total; begin += KVF_ATTEND_TILE_ROWS) {
        const uint32_t n = load_tile(&walk, begin, space->tile, tile);
        score_tile(q, item->n_heads, tile, n, args->scale, space->scores + (size_t)begin * stride,
                   stride);
    }
    for (uint32_t i = 0; walk.mask && i < walk.n_rows; i++)
        for (uint32_t h = 0; h < item->n_heads; h++)
            space->scores[(size_t)(walk.n_window + i) * stride + h] += walk.mask[i];
    softmax(sinks, item->n_heads, total, stride, space->scores, space->maxima, space->denominators);
    memset(out, 0, sizeof *out * KVF_ROW_WIDTH * item->n_heads);
    for (uint32_t begin = 0; begin < total; begin += KVF_ATTEND_TILE_ROWS) {
        const uint32_t n = load_tile(&walk, begin, space->tile, tile);
        out_tile(space->scores + (size_t)begin * stride, stride, item->n_heads, tile, n, out);
    }
    divide(out, item->n_heads, space->denominators);
    for (uint32_t h = 0; args->lse && h < item->n_heads; h++)
        args->lse[first + h] = space->maxima[h] + logf(space->denominators[h]);
}

static void attend_item(const kvf_attend_args *args, const kvf_attend_item *item, void *workspace)
{
    const attend_space space = cut_space(args, workspace);
    decode_shared(args, item, &space);
    for (uint32_t i = 0; i < item->n_queries; i++)
        attend_query(args, item, item->first_query + i, &space);
}

static void unpack_rows(const kvf_unpack_args *args, uint64_t begin, uint64_t end)
{
    for (uint64_t i = begin; i < end; i++) {
        const uint64_t row = args->row_list ? (uint64_t)args->row_list[i] : args->first_row + i;
        decode_row(&args->in, row, args->out + i * args->stride);
    }
}
