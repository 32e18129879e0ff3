/*
 * What differs by instruction set. Every ISA fills one table from the templates
 * (attend.inc.h, score.inc.h, compress.inc.h) over its own 16-lane vector type
 * (v16_*.h). Lanes and order of every sum are the templates', so all tables give the
 * same bits.
 *
 * All functions are single-threaded; threads are the drivers' (attend.c, select.c ..).
 */
#ifndef KVF_CPU_KERNELS_H
#define KVF_CPU_KERNELS_H

#include "backend/backend.h"
#include "backend/cpu/candidates.h"
#include "backend/cpu/pool.h"
#include "backend/cpu/workspace.h"

/*
 * Multiply-adds of a stage below which it stays on one thread: about 50 microseconds,
 * which is what waking the others can cost on a machine that is not idle.
 */
#define KVF_LEAST_THREADED_WORK (1u << 22)

/*
 * Before a loop over a register block: unrolled as a whole, so that the block's array
 * becomes registers. A v16_*.h without registers of its own may define it otherwise.
 */
#ifndef KVF_UNROLL
#define KVF_UNROLL _Pragma("GCC unroll 16")
#endif

/* The rows that a query attends: those of the window first, then compressed ones. */
typedef struct kvf_attend_walk {
    const kvf_rows *window;
    const kvf_rows *rows;
    const float *decoded_window; /* the first window row as f32, or NULL: not decoded yet */
    const float *decoded_rows;   /* the first compressed row, likewise */
    uint64_t window_first;       /* the first window row in its view */
    uint32_t n_window;
    uint32_t n_rows;     /* compressed rows */
    const int32_t *list; /* of compressed rows, or NULL: 0, 1, 2 .. */
    const float *mask;   /* dense form: added to the scores of compressed rows */
} kvf_attend_walk;

/* Some heads of one query; threads may share it, each with its own rows, heads, dimensions. */
typedef struct kvf_attend_part {
    const kvf_attend_walk *walk;
    const float *q;     /* [n_heads][512] */
    const float *sinks; /* [n_heads] or NULL */
    float scale;
    uint32_t n_heads;
    uint32_t stride;     /* heads a row of scores, a multiple of 16 */
    float *scores;       /* [rows of the walk][stride], then p in their place */
    float *maxima;       /* [stride] */
    float *denominators; /* [stride] */
    float *out;          /* [n_heads][512] */
} kvf_attend_part;

/* Floats of the tile that attend's kernels decode rows into. */
#define KVF_ATTEND_TILE_FLOATS (KVF_ATTEND_SCORE_ROWS * KVF_ROW_WIDTH)

/*
 * What the aligned form of a score takes (score.inc.h): scale bytes of rows and heads
 * within 127 +- 20, those of one row within a factor of 2^3, weights of a magnitude in
 * 2^-40 .. 2^40 or zero.
 */
#define KVF_ALIGNED_KEY_SHIFT 3
#define KVF_ALIGNED_LOWEST (127 - 20)
#define KVF_ALIGNED_HIGHEST (127 + 20)
#define KVF_ALIGNED_WEIGHT_LOWEST 0x1p-40f
#define KVF_ALIGNED_WEIGHT_HIGHEST 0x1p+40f

/* One query's index heads, ready to be scored against many rows. */
typedef struct kvf_index_query {
    uint32_t n_heads;
    bool packed;           /* otherwise values */
    bool is_aligned;       /* aligned, aligned_starts and aligned_weights are filled */
    bool has_blocks;       /* codes, scales and sums are filled */
    const kvf_rows *heads; /* where to fill them from */
    uint64_t first_row;
    float *weights;          /* [n_heads], times c */
    float *values;           /* [n_heads][128] */
    int8_t *codes;           /* [n_heads][32][4] doubled codes in the order of the key tile */
    float *scales;           /* [n_heads][4] 2^(e_b - 1) */
    int32_t *sums;           /* [n_heads][4] sum of a block's codes */
    int8_t *aligned;         /* [n_heads / 8][32][8][4] codes shifted to the head's lowest scale */
    int32_t *aligned_starts; /* [n_heads] takes the keys' offset off again */
    float *aligned_weights;  /* [n_heads] weight * 2^(lowest e - 1) */
} kvf_index_query;

/* 16 index rows across the lanes. */
#define KVF_TILE_ROWS 16
typedef struct kvf_key_tile {
    _Alignas(64) union {
        uint8_t codes[32][KVF_TILE_ROWS][4]; /* four codes of a row beside each other */
        float values[KVF_INDEX_WIDTH][KVF_TILE_ROWS];
    };
    _Alignas(64) float scales[4][KVF_TILE_ROWS]; /* 2^(e_b - 1) */
} kvf_key_tile;

/* Rows of a weight that are multiplied together with many tokens, and values decoded of each. */
#define KVF_PRODUCT_ROWS 16
#define KVF_PRODUCT_COLS 1024
/* Rows of a weight that are read beside each other for one token. */
#define KVF_DOT_ROWS 4
/* The most tokens that a row is multiplied with as it is decoded. */
#define KVF_FEW_TOKENS 8

/* Products with one stored type (product.inc.h). */
typedef struct kvf_product_kernels {
    /* out[n_rows] = rows first_row .. of the matrix times x[cols]; `rest` is what of x is past
       the last multiple of 128, filled up with zeros to 128. */
    void (*dot)(const kvf_matrix *matrix, uint32_t first_row, uint32_t n_rows, const float *x,
                const float *rest, float *out);
    /* The same of 2 to few_tokens tokens: out[row][token]. Behind the n_tokens of x and rest
       there are others, up to few_tokens, which are multiplied in vain. */
    void (*few)(const kvf_matrix *matrix, uint32_t first_row, uint32_t n_rows,
                const float *const *x, const float *const *rest, uint32_t n_tokens,
                float (*out)[KVF_FEW_TOKENS]);
    uint32_t most_few; /* tokens that are multiplied so, some after the others */
    /* Values first_col .. + 16 n_groups of a row, zeros past its end, to panel[g][tile rows][16].
     */
    void (*decode)(const kvf_matrix *matrix, uint32_t row, uint32_t first_col, uint32_t n_groups,
                   float *panel);
} kvf_product_kernels;

/* Values of KVF_PRODUCT_ROWS rows: [KVF_PRODUCT_ROWS / tile rows][n_groups][tile rows][16]. */
typedef struct kvf_panel {
    const float *values;
    uint32_t n_groups;
    bool is_first; /* sums begin with it */
    bool is_last;  /* and end with it */
} kvf_panel;

/* Where the outputs of a tile go: out[n_tokens][stride], KVF_PRODUCT_ROWS of each token. */
typedef struct kvf_tile_out {
    float *out;
    size_t stride;
    float *sums; /* [n_tokens][KVF_PRODUCT_ROWS][16]: lanes that wait for the next panel */
} kvf_tile_out;

typedef struct kvf_cpu_kernels {
    const char *isa;
    const kvf_product_kernels *products; /* [KVF_WEIGHT_COUNT] */
    uint32_t product_tile_rows;          /* divides KVF_PRODUCT_ROWS */
    uint32_t few_tokens;                 /* at most KVF_FEW_TOKENS */
    uint32_t most_few;                   /* tokens that are multiplied by few */
    /*
     * Tokens take groups begin .. end of the panel; tokens[t] points to the values for group
     * `begin`. Outputs are written with the last group of the last panel.
     */
    void (*product_tile)(const kvf_panel *panel, uint32_t begin, uint32_t end,
                         const float *const *tokens, uint32_t n_tokens, const kvf_tile_out *to);
    /* kvf_swiglu of n values, a multiple of 16, in place of gate; limit 0: none. */
    void (*swiglu)(float *gate, const float *up, float limit, size_t n);
    /* scores of rows begin .. end, at most KVF_ATTEND_SCORE_ROWS, of the walk. */
    void (*attend_scores)(const kvf_attend_part *part, uint32_t begin, uint32_t end, float *tile);
    /* Scores to p, maxima and denominators of heads first_head .. + 16. */
    void (*attend_softmax)(const kvf_attend_part *part, uint32_t first_head);
    /* Dimensions first_dim .. end_dim (multiples of 64) of the output of some heads. */
    void (*attend_output)(const kvf_attend_part *part, uint32_t first_head, uint32_t n_heads,
                          uint32_t first_dim, uint32_t end_dim, float *tile);
    /* Readies a packed query, its weights given; its heads are rows first_row .. of `heads`. */
    void (*load_query)(const kvf_rows *heads, uint64_t first_row, kvf_index_query *query);
    /* out[query * stride + row - begin]: scores of rows begin .. end; all queries of one kind. */
    void (*score)(kvf_index_query *queries, uint32_t n_queries, const kvf_rows *keys,
                  uint64_t begin, uint64_t end, float *out, size_t stride);
    /* Adds rows first_row .. + n, above all before, to the candidates. */
    void (*push)(kvf_candidates *candidates, const float *scores, uint32_t n, uint32_t first_row);
    /* RMS norm of one row (docs/FORMAT.md 9.7); weight may be NULL; width % 16 == 0 is faster. */
    void (*norm)(const float *in, float *out, const float *weight, uint32_t width, float eps);
    /*
     * Pools n candidates into out[width] (docs/FORMAT.md 9.3). bias[i] is added to
     * gate[i]. All pointers have width values; width is a multiple of 16.
     */
    void (*pool)(const float *const *kv, const float *const *gate, const float *const *bias,
                 uint32_t n, uint32_t width, float *out);
    /* Hadamard-128 in place (docs/FORMAT.md 4). */
    void (*hadamard)(float *values);
    /* Whether kvf_check_row (rows.h) would find nothing. */
    bool (*row_is_storable)(const float *values, uint32_t width, kvf_grid grid);
    /* Rounds to the grid and stores; false where the format could not hold the row exactly. */
    bool (*store_row)(const kvf_rows *out, uint64_t row, kvf_grid grid, const float *values);
    /* Decodes n_rows rows of a view, row_list as in kvf_unpack_args. */
    void (*unpack)(const kvf_unpack_args *args, uint64_t begin, uint64_t end);
} kvf_cpu_kernels;

/* The tables that were built; NULL where the ISA is not of this processor family. */
extern const kvf_cpu_kernels kvf_cpu_kernels_scalar;
#if defined(__x86_64__)
extern const kvf_cpu_kernels kvf_cpu_kernels_avx2;
extern const kvf_cpu_kernels kvf_cpu_kernels_avx512;
extern const kvf_cpu_kernels kvf_cpu_kernels_avx512vnni;
#endif
#if defined(__aarch64__)
extern const kvf_cpu_kernels kvf_cpu_kernels_neon;
#endif

/* Candidates of a row to compress: with overlap those of two windows. */
#define KVF_COMPRESS_CANDIDATES (2 * KVF_MAX_RATIO)
/* Keys kept by mask before they are thinned to top_k. */
#define KVF_MASK_KEYS(top_k) ((top_k) + 1024)

/*
 * A thread's memory in compress or mask, for the largest shapes that are served: too much for its
 * stack. Pages of it are touched as they are needed.
 */
typedef union kvf_stage_space {
    const float *candidates[3][KVF_COMPRESS_CANDIDATES]; /* kv, gates, biases */
    uint64_t keys[2][KVF_MASK_KEYS(KVF_MAX_TOP_K)];
} kvf_stage_space;

/* The backend's device. */
typedef struct kvf_cpu_device {
    struct kvf_device base;
    const kvf_cpu_kernels *kernels;
    kvf_pool *pool;
    struct kvf_product_space *spaces; /* [n_threads], product.h */
    kvf_stage_space *stage_spaces;    /* [n_threads] */
} kvf_cpu_device;

static inline const kvf_cpu_kernels *kvf_kernels_of(const kvf_device *device)
{
    return ((const kvf_cpu_device *)device)->kernels;
}

/*
 * An operation's loop over items. Threads take chunk_items at a time; 0: an eighth of a
 * thread's share, so that one that is held up leaves little to wait for. Not threaded, it is
 * a plain call, for work that takes less time than waking the others.
 */
static inline void kvf_cpu_loop(kvf_device *device, bool threaded, size_t n_items,
                                size_t chunk_items, kvf_task *task, void *context)
{
    const size_t share = n_items / (8 * (size_t)device->n_threads);
    const size_t chunk = chunk_items ? chunk_items : share ? share : 1;
    if (threaded)
        kvf_pool_run(((const kvf_cpu_device *)device)->pool, n_items, chunk, task, context);
    else if (n_items)
        task(context, 0, n_items, 0);
}

extern const kvf_backend kvf_backend_cpu;

/* dense.c, compress.c, pack.c, select.c, attend.c: the operations of backend.h. */
void kvf_cpu_embed(kvf_device *device, const kvf_embed_args *args);
void kvf_cpu_matmul(kvf_device *device, const kvf_matmul_args *args);
void kvf_cpu_norm(kvf_device *device, const kvf_norm_args *args);
void kvf_cpu_rope(kvf_device *device, const kvf_rope_args *args);
void kvf_cpu_mix(kvf_device *device, const kvf_mix_args *args);
void kvf_cpu_unmix(kvf_device *device, const kvf_unmix_args *args);
void kvf_cpu_route(kvf_device *device, const kvf_route_args *args);
void kvf_cpu_experts(kvf_device *device, const kvf_experts_args *args);
void kvf_cpu_check(kvf_device *device, const kvf_check_args *args, const kvf_findings *found,
                   uint32_t n);
void kvf_cpu_compress(kvf_device *device, const kvf_compress_args *args, const kvf_findings *found,
                      uint32_t n);
void kvf_cpu_pack(kvf_device *device, const kvf_pack_args *args, const kvf_findings *found,
                  uint32_t n);
void kvf_cpu_unpack(kvf_device *device, const kvf_unpack_args *args);
void kvf_cpu_select(kvf_device *device, const kvf_select_args *args, uint32_t n);
void kvf_cpu_score(kvf_device *device, const kvf_score_args *args);
void kvf_cpu_mask(kvf_device *device, const kvf_mask_args *args);
void kvf_cpu_attend(kvf_device *device, const kvf_attend_args *args, uint32_t n);
size_t kvf_cpu_experts_workspace(const kvf_device *device, const kvf_experts_args *args);
size_t kvf_cpu_select_workspace(uint32_t n_threads, const kvf_select_args *args);
size_t kvf_cpu_attend_workspace(uint32_t n_threads, const kvf_attend_args *args);

#endif
