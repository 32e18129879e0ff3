/*
 * attend, some heads of one query: docs/FORMAT.md 9.2. A template.
 *
 * Parameters, from the including file's v16_*.h:
 *   v16 and its operations      16 lanes
 *   V16_DOT_HEADS x V16_DOT_ROWS      dots computed together in registers
 *   V16_OUT_HEADS x V16_OUT_VECTORS   outputs accumulated together in registers
 * Tested combinations: scalar 1x1/1x1, avx2 2x2/2x2, avx512 4x4/4x4, neon 2x2/2x2.
 *
 * attend.c calls the three kernels in order: scores for all rows, softmax for all heads,
 * output for all dimensions. Which thread takes which piece does not touch the order of
 * any sum, nor does the size of a tile or of a register block.
 *
 * Packed rows are decoded by tiles that stay in the L1 cache, for scores whole rows, for
 * outputs 64 values of many rows: twice, since decoding a row costs less than reading
 * 2 KiB of f32 from a farther cache.
 */
#include "assertion.h"
#include "backend/cpu/exp.inc.h"
#include "backend/cpu/kernels.h"
#include "format/format.h"
#include "shared/layout.h"

/* ---- Rows -------------------------------------------------------------------- */

/* Scale byte to 2^e; the packers write no byte below 1. */
static inline float exponent_to_float(uint32_t byte)
{
    const uint32_t bits = byte << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

/* 64 codes of one scale. v16_load_e4m3 gives value * 2^-8; every product is exact. */
static inline void decode_codes(const uint8_t *codes, uint32_t scale_byte, float *out)
{
    /* 2^(e + 8) may not fit: then 2^e, and 2^8 by itself. */
    const bool fits = scale_byte + 8 <= 254;
    const v16 scale = v16_set1(exponent_to_float(fits ? scale_byte + 8 : scale_byte));
    for (int i = 0; i < KVF_FP8_BLOCK_VALUES; i += 16)
        v16_store(out + i, v16_mul(v16_load_e4m3(codes + i), scale));
    for (int i = 0; !fits && i < KVF_FP8_BLOCK_VALUES; i += 16)
        v16_store(out + i, v16_mul(v16_load(out + i), v16_set1(256.0f)));
}

static inline void decode_halves(const uint8_t *halves, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i += 16)
        v16_store(out + i, v16_load_f16(halves + 2 * i));
}

static inline void decode_bf16(const uint8_t *values, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i++) {
        uint16_t high;
        memcpy(&high, values + 2 * i, sizeof high);
        const uint32_t bits = (uint32_t)high << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

/* Where a row of 512 lies: pointers to its data and, in FP8 formats, its scales. */
typedef struct row_place {
    const uint8_t *data;
    const uint8_t *scales;
} row_place;

static inline row_place place_of(const kvf_rows *rows, uint64_t row)
{
    const uint8_t *page = kvf_rows_page(rows, row);
    const size_t in_page = row % rows->page_rows;
    switch (rows->format) {
    case KVF_FORMAT_F32: return (row_place){page + in_page * KVF_ROW_WIDTH * 4, NULL};
    case KVF_FORMAT_F16: return (row_place){page + in_page * KVF_ROW_WIDTH * 2, NULL};
    case KVF_FORMAT_FP8_F16:
    case KVF_FORMAT_FP8_BF16:
        return (row_place){page + in_page * KVF_FP8_DATA_BYTES,
                           page + (size_t)rows->page_rows * KVF_FP8_DATA_BYTES +
                               in_page * KVF_FP8_SCALE_BYTES};
    case KVF_FORMAT_FP4: /* not in this width */
    case KVF_FORMAT_COUNT: break;
    }
    KVF_UNREACHABLE();
    return (row_place){page, NULL};
}

/* Values dim .. dim + 64 of a row of 512; dim is a multiple of 64, an FP8 block. */
static inline void decode_values(kvf_format_id format, row_place place, uint32_t dim, float *out)
{
    switch (format) {
    case KVF_FORMAT_F32:
        for (uint32_t i = 0; i < KVF_FP8_BLOCK_VALUES; i += 16)
            v16_store(out + i, v16_load((const float *)(const void *)place.data + dim + i));
        return;
    case KVF_FORMAT_F16:
        decode_halves(place.data + 2 * (size_t)dim, KVF_FP8_BLOCK_VALUES, out);
        return;
    case KVF_FORMAT_FP8_F16:
    case KVF_FORMAT_FP8_BF16:
        if (dim < KVF_FP8_NOPE_VALUES)
            decode_codes(place.data + dim, place.scales[dim / KVF_FP8_BLOCK_VALUES], out);
        else if (format == KVF_FORMAT_FP8_F16)
            decode_halves(place.data + KVF_FP8_ROPE_OFFSET, KVF_FP8_ROPE_VALUES, out);
        else
            decode_bf16(place.data + KVF_FP8_ROPE_OFFSET, KVF_FP8_ROPE_VALUES, out);
        return;
    case KVF_FORMAT_FP4: /* not in this width */
    case KVF_FORMAT_COUNT: break;
    }
    KVF_UNREACHABLE();
}

static void decode_row(const kvf_rows *rows, uint64_t row, float *out)
{
    const row_place place = place_of(rows, row);
    for (uint32_t dim = 0; dim < KVF_ROW_WIDTH; dim += KVF_FP8_BLOCK_VALUES)
        decode_values(rows->format, place, dim, out + dim);
}

/* Row i of a walk: where it lies, and in which format. */
typedef struct walk_row {
    row_place place;
    kvf_format_id format;
} walk_row;

static inline walk_row row_of_walk(const kvf_attend_walk *walk, uint32_t i)
{
    const bool in_window = i < walk->n_window;
    const kvf_rows *rows = in_window ? walk->window : walk->rows;
    const float *decoded = in_window ? walk->decoded_window : walk->decoded_rows;
    const uint32_t n = in_window ? i : i - walk->n_window;
    if (decoded)
        return (walk_row){{(const uint8_t *)(decoded + (size_t)n * KVF_ROW_WIDTH), NULL},
                          KVF_FORMAT_F32};
    const uint64_t row = in_window    ? walk->window_first + n
                         : walk->list ? (uint64_t)walk->list[n]
                                      : n;
    return (walk_row){place_of(rows, row), rows->format};
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
 * Asks for packed rows begin .. end, which another call will decode. Not for f32 rows: they
 * are long enough for the processor to see where it goes (asking made no difference).
 */
static void prefetch_rows(const kvf_attend_walk *walk, uint32_t begin, uint32_t end)
{
    const uint32_t n_rows = walk->n_window + walk->n_rows;
    for (uint32_t i = begin; i < end && i < n_rows; i++) {
        const row_place place = row_of_walk(walk, i).place;
        if (!place.scales)
            continue;
        for (uint32_t byte = 0; byte < KVF_FP8_DATA_BYTES; byte += 64)
            __builtin_prefetch(place.data + byte);
        __builtin_prefetch(place.scales);
    }
}

/* scores[row][head] of a tile for all heads; a dense form's mask is added. */
static void attend_scores(const kvf_attend_part *part, uint32_t begin, uint32_t end, float *tile)
{
    const kvf_attend_walk *walk = part->walk;
    const uint32_t n = end - begin;
    const uint32_t n_heads = part->n_heads;
    float *scores = part->scores + (size_t)begin * part->stride;
    const float *rows[KVF_ATTEND_SCORE_ROWS];
    for (uint32_t i = 0; i < n; i++) {
        const walk_row row = row_of_walk(walk, begin + i);
        float *buffer = tile + (size_t)i * KVF_ROW_WIDTH;
        rows[i] =
            row.format == KVF_FORMAT_F32 ? (const float *)(const void *)row.place.data : buffer;
        for (uint32_t dim = 0; rows[i] == buffer && dim < KVF_ROW_WIDTH;
             dim += KVF_FP8_BLOCK_VALUES)
            decode_values(row.format, row.place, dim, buffer + dim);
    }
    prefetch_rows(walk, begin + KVF_ATTEND_SCORE_ROWS, end + KVF_ATTEND_SCORE_ROWS);
    uint32_t h = 0;
    for (; h + V16_DOT_HEADS <= n_heads; h += V16_DOT_HEADS)
        score_heads(part->q + (size_t)h * KVF_ROW_WIDTH, rows, V16_DOT_HEADS, n, part->scale,
                    scores + h, part->stride);
    for (; h < n_heads; h++)
        score_heads(part->q + (size_t)h * KVF_ROW_WIDTH, rows, 1, n, part->scale, scores + h,
                    part->stride);
    for (uint32_t i = 0; walk->mask && i < n; i++)
        for (h = 0; begin + i >= walk->n_window && h < n_heads; h++)
            scores[(size_t)i * part->stride + h] += walk->mask[begin + i - walk->n_window];
}

/* Scores to p in place, 16 heads at a time; denominators and maxima of each head. */
static void attend_softmax(const kvf_attend_part *part, uint32_t first_head)
{
    const uint32_t n_rows = part->walk->n_window + part->walk->n_rows;
    const uint32_t stride = part->stride;
    float *scores = part->scores + first_head;
    float sinks[16];
    for (uint32_t l = 0; l < 16; l++)
        sinks[l] =
            part->sinks && first_head + l < part->n_heads ? part->sinks[first_head + l] : -INFINITY;
    v16 max = v16_load(sinks);
    for (uint32_t r = 0; r < n_rows; r++)
        max = v16_max(v16_load(scores + (size_t)r * stride), max);
    v16 sum = v16_exp(v16_sub(v16_load(sinks), max));
    if (!part->sinks)
        sum = v16_set1(0.0f);
    for (uint32_t r = 0; r < n_rows; r++) {
        float *place = scores + (size_t)r * stride;
        const v16 p = v16_exp(v16_sub(v16_load(place), max));
        sum = v16_add(sum, p);
        v16_store(place, p);
    }
    v16_store(part->maxima + first_head, max);
    v16_store(part->denominators + first_head, sum);
}

/* ---- Output ------------------------------------------------------------------ */

/* Rows of which 64 values are decoded at a time: 16 KiB, beside their p of 16 heads. */
#define OUT_ROWS 64
#define OUT_VALUES KVF_FP8_BLOCK_VALUES

/*
 * out[n_heads][16 * V16_OUT_VECTORS] += p * rows[n_rows][OUT_VALUES]; n_heads is a
 * compile-time constant.
 */
static inline __attribute__((always_inline)) void out_block(const float *p, uint32_t stride,
                                                            const float *rows, uint32_t n_rows,
                                                            const int n_heads, float *out)
{
    const int n_vectors = V16_OUT_VECTORS;
    v16 sums[V16_OUT_HEADS][V16_OUT_VECTORS];
    KVF_UNROLL
    for (int h = 0; h < n_heads; h++)
        KVF_UNROLL
    for (int v = 0; v < n_vectors; v++)
        sums[h][v] = v16_load(out + (size_t)h * KVF_ROW_WIDTH + 16 * v);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < n_rows; r++) {
        v16 row[V16_OUT_VECTORS];
        KVF_UNROLL
        for (int v = 0; v < n_vectors; v++)
            row[v] = v16_load(rows + (size_t)r * OUT_VALUES + 16 * v);
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
        v16_store(out + (size_t)h * KVF_ROW_WIDTH + 16 * v, sums[h][v]);
}

/* out[n_heads][64 values] += p * rows[n_rows][64 values]. */
static void out_tile(const float *p, uint32_t stride, uint32_t n_heads, const float *rows,
                     uint32_t n_rows, float *out)
{
    uint32_t h = 0;
    for (; h + V16_OUT_HEADS <= n_heads; h += V16_OUT_HEADS)
        for (uint32_t i = 0; i < OUT_VALUES; i += 16 * V16_OUT_VECTORS)
            out_block(p + h, stride, rows + i, n_rows, V16_OUT_HEADS,
                      out + (size_t)h * KVF_ROW_WIDTH + i);
    for (; h < n_heads; h++)
        for (uint32_t i = 0; i < OUT_VALUES; i += 16 * V16_OUT_VECTORS)
            out_block(p + h, stride, rows + i, n_rows, 1, out + (size_t)h * KVF_ROW_WIDTH + i);
}

static void divide(float *out, uint32_t n_heads, uint32_t n_dims, const float *denominators)
{
    const v16 zero = v16_set1(0.0f);
    for (uint32_t h = 0; h < n_heads; h++) {
        /* Only where nothing was attended is it 0; out is 0 then, and stays so. */
        const v16 denominator = v16_set1(denominators[h] > 0.0f ? denominators[h] : 1.0f);
        for (uint32_t i = 0; i < n_dims; i += 16) {
            float *place = out + (size_t)h * KVF_ROW_WIDTH + i;
            v16_store(place, v16_add(v16_div(v16_load(place), denominator), zero));
        }
    }
}

static void attend_output(const kvf_attend_part *part, uint32_t first_head, uint32_t n_heads,
                          uint32_t first_dim, uint32_t end_dim, float *tile)
{
    const uint32_t n_rows = part->walk->n_window + part->walk->n_rows;
    float *out = part->out + (size_t)first_head * KVF_ROW_WIDTH;
    for (uint32_t h = 0; h < n_heads; h++)
        memset(out + (size_t)h * KVF_ROW_WIDTH + first_dim, 0, sizeof *out * (end_dim - first_dim));
    for (uint32_t begin = 0; begin < n_rows; begin += OUT_ROWS) {
        const uint32_t n = n_rows - begin < OUT_ROWS ? n_rows - begin : OUT_ROWS;
        walk_row rows[OUT_ROWS];
        for (uint32_t i = 0; i < n; i++)
            rows[i] = row_of_walk(part->walk, begin + i);
        for (uint32_t dim = first_dim; dim < end_dim; dim += OUT_VALUES) {
            for (uint32_t i = 0; i < n; i++)
                decode_values(rows[i].format, rows[i].place, dim, tile + (size_t)i * OUT_VALUES);
            out_tile(part->scores + (size_t)begin * part->stride + first_head, part->stride,
                     n_heads, tile, n, out + dim);
        }
    }
    divide(out + first_dim, n_heads, end_dim - first_dim, part->denominators + first_head);
}

/* ---- unpack ------------------------------------------------------------------ */

static void unpack_rows(const kvf_unpack_args *args, uint64_t begin, uint64_t end)
{
    for (uint64_t i = begin; i < end; i++) {
        const uint64_t row = args->row_list ? (uint64_t)args->row_list[i] : args->first_row + i;
        float *out = args->out + i * args->stride;
        if (args->in.width == KVF_ROW_WIDTH)
            decode_row(&args->in, row, out);
        else
            kvf_format_get(args->in.format)
                ->unpack(kvf_rows_page(&args->in, row), args->in.page_rows,
                         (uint32_t)(row % args->in.page_rows), args->in.width, out);
    }
}

_Static_assert(OUT_ROWS *OUT_VALUES <= KVF_ATTEND_TILE_FLOATS, "a tile of outputs fits");
