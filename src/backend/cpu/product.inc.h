/*
 * Products with stored weights: docs/FORMAT.md 9.8. A template.
 *
 * Parameters, from the including file's v16_*.h:
 *   v16, b16 and their operations        16 lanes, 16 bytes
 *   V16_TILE_ROWS x V16_TILE_TOKENS      outputs computed together in registers
 *   V16_FINISH                           whether v16_finish is there, for all sums at once
 *   V16_TILE_STEP                        whether v16_tile_step is there
 *   V16_BESIDE_ROWS                      rows of a dot whose groups follow in turns
 *   V16_FEW_ROWS x V16_FEW_TOKENS        outputs of a few tokens: 1 or 2, 4 or KVF_FEW_TOKENS
 *   V16_MOST_FEW                         tokens for which that is the quicker form; of types whose
 *                                        values are looked up in grids, V16_FEW_TOKENS
 * and from products_*.c, which includes this alone: KVF_PRODUCT_ISA (product_isa.inc.h).
 * Tested combinations: scalar 1x1, avx2 2x3, avx512 4x6, neon 2x3.
 *
 * The order of every sum is one: value k of a row goes to lane k % 16, by fma, k ascending,
 * and the lanes end in the tree of v16_sum; a row that ends within 16 values is filled up
 * with zeros. So neither the number of tokens nor any block size touches a bit.
 *
 * Three forms. One token: rows are decoded in registers and read once (product_type.inc.h). What
 * decoding costs was counted for processors with four vector pipes of 256 bits (Zen 4): two
 * multiply, two permute and widen, one of them the same, two shift and convert, one of these the
 * same as before; all do logic. The files of types name what binds in operations of 256 bits for
 * 16 values; of the pipes' time, loops reach three quarters to nine tenths.
 * A few, by V16_FEW_TOKENS: the same, each value multiplied with all of them.
 * More: 16 rows x KVF_PRODUCT_COLS are decoded to a panel that stays in the cache, for all
 * tokens of a tile; the lanes of unfinished sums wait in memory between panels.
 */
#include <math.h>

#include "backend/cpu/exp.inc.h"
#include "backend/cpu/product_isa.inc.h"
#include "weight/block.h"

#include "backend/cpu/decode_plain.inc.h"
#include "backend/cpu/decode_32.inc.h"
#include "backend/cpu/decode_k.inc.h"
#include "backend/cpu/decode_iq.inc.h"

static_assert(KVF_DOT_ROWS % V16_BESIDE_ROWS == 0, "product_type.inc.h");
static_assert(V16_FEW_ROWS == 1 || V16_FEW_ROWS == 2, "FEW takes a single row that is left");
static_assert(V16_FEW_TOKENS == 4 || V16_FEW_TOKENS == KVF_FEW_TOKENS, "FEW has three widths");

/* ---- Tiles ----------------------------------------------------------------------- */

#ifndef V16_FINISH
/* out[t * stride + r] = v16_sum(acc[t][r]). */
static inline __attribute__((always_inline)) void
v16_finish(v16 acc[V16_TILE_TOKENS][V16_TILE_ROWS], const int n_tokens, float *out, size_t stride)
{
    for (int t = 0; t < n_tokens; t++)
        for (int r = 0; r < V16_TILE_ROWS; r++)
            out[(size_t)t * stride + r] = v16_sum(acc[t][r]);
}
#endif

#ifndef V16_TILE_STEP
/* acc[t][r] += 16 values of row r times those of token t. */
static inline __attribute__((always_inline)) void
v16_tile_step(v16 acc[V16_TILE_TOKENS][V16_TILE_ROWS], const float *rows,
              const float *const *tokens, size_t at, const int n_tokens)
{
    v16 row[V16_TILE_ROWS];
    KVF_UNROLL
    for (int r = 0; r < V16_TILE_ROWS; r++)
        row[r] = v16_load(rows + r * 16);
    KVF_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        const v16 token = v16_load(tokens[t] + at);
        KVF_UNROLL
        for (int r = 0; r < V16_TILE_ROWS; r++)
            acc[t][r] = v16_fma(row[r], token, acc[t][r]);
    }
}
#endif

/* What a tile of rows and tokens begins with and ends in. */
typedef struct tile_ends {
    bool is_first;
    bool is_last;
    float *sums; /* [n_tokens][KVF_PRODUCT_ROWS][16], from the tile's first row */
    float *out;  /* likewise [n_tokens][stride] */
    size_t stride;
} tile_ends;

/*
 * V16_TILE_ROWS rows x n_tokens (a constant) over n_groups groups; panel points to the first
 * of them, [n_groups][V16_TILE_ROWS][16].
 */
static inline __attribute__((always_inline)) void tile_block(const float *panel, uint32_t n_groups,
                                                             const float *const *tokens,
                                                             const int n_tokens, tile_ends ends)
{
    v16 acc[V16_TILE_TOKENS][V16_TILE_ROWS];
    KVF_UNROLL
    for (int t = 0; t < n_tokens; t++)
        KVF_UNROLL
    for (int r = 0; r < V16_TILE_ROWS; r++)
        acc[t][r] =
            ends.is_first ? v16_set1(0.0f) : v16_load(ends.sums + (t * KVF_PRODUCT_ROWS + r) * 16);
    for (uint32_t g = 0; g < n_groups; g++) {
        v16_tile_step(acc, panel + (size_t)g * V16_TILE_ROWS * 16, tokens, (size_t)g * 16,
                      n_tokens);
    }
    if (ends.is_last) {
        v16_finish(acc, n_tokens, ends.out, ends.stride);
        return;
    }
    KVF_UNROLL
    for (int t = 0; t < n_tokens; t++)
        KVF_UNROLL
    for (int r = 0; r < V16_TILE_ROWS; r++)
        v16_store(ends.sums + (t * KVF_PRODUCT_ROWS + r) * 16, acc[t][r]);
}

/* Up to V16_TILE_TOKENS tokens, all rows of the panel. */
static void tile_tokens(const kvf_panel *panel, uint32_t begin, uint32_t n_groups,
                        const float *const *tokens, uint32_t n_tokens, tile_ends ends)
{
    for (uint32_t row = 0; row < KVF_PRODUCT_ROWS; row += V16_TILE_ROWS) {
        const float *values =
            panel->values + ((size_t)row * panel->n_groups + (size_t)begin * V16_TILE_ROWS) * 16;
        switch (n_tokens) {
        case 1: tile_block(values, n_groups, tokens, 1, ends); break;
#if V16_TILE_TOKENS > 1
        case 2: tile_block(values, n_groups, tokens, 2, ends); break;
        case 3: tile_block(values, n_groups, tokens, 3, ends); break;
#endif
#if V16_TILE_TOKENS > 3
        case 4: tile_block(values, n_groups, tokens, 4, ends); break;
        case 5: tile_block(values, n_groups, tokens, 5, ends); break;
        case 6: tile_block(values, n_groups, tokens, 6, ends); break;
#endif
        default: break;
        }
        ends.sums += V16_TILE_ROWS * 16;
        ends.out += V16_TILE_ROWS;
    }
}

void KVF_PRODUCT_NAME(tile)(const kvf_panel *panel, uint32_t begin, uint32_t end,
                            const float *const *tokens, uint32_t n_tokens, const kvf_tile_out *to)
{
    tile_ends ends = {.is_first = panel->is_first && begin == 0,
                      .is_last = panel->is_last && end == panel->n_groups,
                      .sums = to->sums,
                      .out = to->out,
                      .stride = to->stride};
    for (uint32_t t = 0; t < n_tokens; t += V16_TILE_TOKENS) {
        const uint32_t n = n_tokens - t < V16_TILE_TOKENS ? n_tokens - t : V16_TILE_TOKENS;
        tile_tokens(panel, begin, end - begin, tokens + t, n, ends);
        ends.sums += V16_TILE_TOKENS * KVF_PRODUCT_ROWS * 16;
        ends.out += V16_TILE_TOKENS * ends.stride;
    }
}

/* kvf_swiglu (shared/activation.h) lane by lane. */
void KVF_PRODUCT_NAME(swiglu)(float *gate, const float *up, float limit, size_t n)
{
    const v16 highest = v16_set1(limit > 0.0f ? limit : INFINITY);
    const v16 lowest = v16_set1(limit > 0.0f ? -limit : -INFINITY);
    const v16 one = v16_set1(1.0f);
    for (size_t i = 0; i < n; i += 16) {
        const v16 g = v16_min(highest, v16_load(gate + i));
        const v16 u = v16_max(lowest, v16_min(highest, v16_load(up + i)));
        /* a NaN gives exp 0 here, and comes back by the product with g */
        const v16 e = v16_exp(v16_sub(v16_set1(0.0f), v16_abs(g)));
        const v16 sigmoid = v16_div(v16_select_negative(g, e, one), v16_add(one, e));
        v16_store(gate + i, v16_mul(v16_mul(g, sigmoid), u));
    }
}

/*
 * Asks for the bytes that lie so far ahead, a cache line at a time, into the L2 cache. The rows
 * of a dot are a page or less each in most types, so the processor's own streams end soon after
 * they began: without this, fp8 came out of memory at 8.6 GB/s a core, with it at 13.3.
 */
static inline __attribute__((always_inline)) void
prefetch_ahead(const uint8_t *bytes, size_t ahead_bytes, const int n_bytes)
{
    const char *ahead = (const char *)((uintptr_t)bytes + ahead_bytes);
    for (int at = 0; at < n_bytes; at += 64)
        __builtin_prefetch(ahead + at, 0, 2);
}

/* ---- Types ----------------------------------------------------------------------- */

#define KVF_TYPE f32
#define KVF_TYPE_UNIT 16
#define KVF_TYPE_BYTES 64
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE f16
#define KVF_TYPE_UNIT 32
#define KVF_TYPE_BYTES 64
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE bf16
#define KVF_TYPE_UNIT 32
#define KVF_TYPE_BYTES 64
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE fp8_e8m0
#define KVF_TYPE_UNIT 128
#define KVF_TYPE_BYTES 128
#define KVF_TYPE_SCALE_ROWS KVF_FP8_WEIGHT_TILE
#define KVF_TYPE_SLOWLY
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE fp8_f32
#define KVF_TYPE_UNIT 128
#define KVF_TYPE_BYTES 128
#define KVF_TYPE_SCALE_ROWS KVF_FP8_WEIGHT_TILE
#define KVF_TYPE_SLOWLY
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE fp4
#define KVF_TYPE_UNIT 128
#define KVF_TYPE_BYTES (4 * KVF_FP4_WEIGHT_BYTES)
#define KVF_TYPE_SCALE_ROWS 1
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE q8_0
#define KVF_TYPE_UNIT 32
#define KVF_TYPE_BYTES KVF_Q8_0_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE q4_0
#define KVF_TYPE_UNIT 32
#define KVF_TYPE_BYTES KVF_Q4_0_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE q2_k
#define KVF_TYPE_UNIT 256
#define KVF_TYPE_BYTES KVF_Q2_K_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE q3_k
#define KVF_TYPE_UNIT 256
#define KVF_TYPE_BYTES KVF_Q3_K_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE q4_k
#define KVF_TYPE_UNIT 256
#define KVF_TYPE_BYTES KVF_Q4_K_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE q5_k
#define KVF_TYPE_UNIT 256
#define KVF_TYPE_BYTES KVF_Q5_K_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE q6_k
#define KVF_TYPE_UNIT 256
#define KVF_TYPE_BYTES KVF_Q6_K_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE iq2_xxs
#define KVF_TYPE_UNIT 256
#define KVF_TYPE_BYTES KVF_IQ2_XXS_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE iq2_xs
#define KVF_TYPE_UNIT 256
#define KVF_TYPE_BYTES KVF_IQ2_XS_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#define KVF_TYPE_NO_PAIRS /* gcc 12: 1.37 ms for two where four took 0.55 */
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE iq2_s
#define KVF_TYPE_UNIT 256
#define KVF_TYPE_BYTES KVF_IQ2_S_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE iq3_xxs
#define KVF_TYPE_UNIT 256
#define KVF_TYPE_BYTES KVF_IQ3_XXS_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE iq3_s
#define KVF_TYPE_UNIT 256
#define KVF_TYPE_BYTES KVF_IQ3_S_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE iq4_nl
#define KVF_TYPE_UNIT 32
#define KVF_TYPE_BYTES KVF_IQ4_NL_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE iq4_xs
#define KVF_TYPE_UNIT 256
#define KVF_TYPE_BYTES KVF_IQ4_XS_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"
#define KVF_TYPE mxfp4
#define KVF_TYPE_UNIT 32
#define KVF_TYPE_BYTES KVF_MXFP4_BYTES
#define KVF_TYPE_SCALE_ROWS 0
#include "backend/cpu/product_type.inc.h"

#define KVF_PRODUCT_TYPE(name) KVF_PRODUCT_KERNELS(name, V16_MOST_FEW)
#define KVF_GRID_TYPE(name) KVF_PRODUCT_KERNELS(name, V16_FEW_TOKENS) /* decoding twice is dear */
#define KVF_PRODUCT_KERNELS(name, most)                                                            \
    {                                                                                              \
        .dot = name##_dot, .few = name##_few, .most_few = most, .decode = name##_decode            \
    }
const kvf_product_kernels KVF_PRODUCT_NAME(types)[KVF_WEIGHT_COUNT] = {
    [KVF_WEIGHT_F32] = KVF_PRODUCT_TYPE(f32),
    [KVF_WEIGHT_F16] = KVF_PRODUCT_TYPE(f16),
    [KVF_WEIGHT_BF16] = KVF_PRODUCT_TYPE(bf16),
    [KVF_WEIGHT_FP8_E8M0] = KVF_PRODUCT_TYPE(fp8_e8m0),
    [KVF_WEIGHT_FP8_F32] = KVF_PRODUCT_TYPE(fp8_f32),
    [KVF_WEIGHT_FP4] = KVF_PRODUCT_TYPE(fp4),
    [KVF_WEIGHT_Q8_0] = KVF_PRODUCT_TYPE(q8_0),
    [KVF_WEIGHT_Q4_0] = KVF_PRODUCT_TYPE(q4_0),
    [KVF_WEIGHT_Q2_K] = KVF_PRODUCT_TYPE(q2_k),
    [KVF_WEIGHT_Q3_K] = KVF_PRODUCT_TYPE(q3_k),
    [KVF_WEIGHT_Q4_K] = KVF_PRODUCT_TYPE(q4_k),
    [KVF_WEIGHT_Q5_K] = KVF_PRODUCT_TYPE(q5_k),
    [KVF_WEIGHT_Q6_K] = KVF_PRODUCT_TYPE(q6_k),
    [KVF_WEIGHT_IQ2_XXS] = KVF_GRID_TYPE(iq2_xxs),
    [KVF_WEIGHT_IQ2_XS] = KVF_GRID_TYPE(iq2_xs),
    [KVF_WEIGHT_IQ2_S] = KVF_GRID_TYPE(iq2_s),
    [KVF_WEIGHT_IQ3_XXS] = KVF_GRID_TYPE(iq3_xxs),
    [KVF_WEIGHT_IQ3_S] = KVF_GRID_TYPE(iq3_s),
    [KVF_WEIGHT_IQ4_NL] = KVF_PRODUCT_TYPE(iq4_nl),
    [KVF_WEIGHT_IQ4_XS] = KVF_PRODUCT_TYPE(iq4_xs),
    [KVF_WEIGHT_MXFP4] = KVF_PRODUCT_TYPE(mxfp4),
};
