/*
 * Argument structs of the four stages' kernels (pack, compress, select, attend), and the
 * sizes of their threadgroups: what the C files and the .metal files agree on. Compiled as
 * C and as Metal. Addresses are the GPU's. dense.h has those of the dense kernels.
 */
#ifndef KVF_BACKEND_GPU_KERNELS_H
#define KVF_BACKEND_GPU_KERNELS_H

#if defined(__METAL_VERSION__)
#include <metal_stdlib>
using namespace metal;
#else
#include <assert.h>
#include <stdint.h>
#endif

enum {
    KVF_KERNEL_SIMD_WIDTH = 32,

    /* pack, unpack: a simdgroup a row. */
    KVF_PACK_THREADS = 128,
    KVF_PACK_ROWS = KVF_PACK_THREADS / KVF_KERNEL_SIMD_WIDTH,

    /* compress: a thread a dimension of one row. */
    KVF_COMPRESS_MAX_THREADS = 512,
    KVF_ROPE_PAIRS = 32,        /* in the tail of a row */
    KVF_ELEMENTS_THREADS = 256, /* of kernels that take an element a thread */
    KVF_REPORT_THREADS = KVF_KERNEL_SIMD_WIDTH,

    /*
     * select, score: 8 simdgroups of 16 keys. 64 heads of codes or 32 of values fit at once;
     * strides that leave lanes in different banks, as a matrix's rows are 4 or 8 words.
     */
    KVF_SELECT_THREADS = 256,
    KVF_SELECT_SIMDS = KVF_SELECT_THREADS / KVF_KERNEL_SIMD_WIDTH,
    KVF_SELECT_KEY_GROUPS = 2, /* of 8 keys, in a simdgroup */
    KVF_SELECT_SIMD_KEYS = 8 * KVF_SELECT_KEY_GROUPS,
    KVF_SELECT_TILE_KEYS = KVF_SELECT_SIMDS * KVF_SELECT_SIMD_KEYS,
    KVF_SELECT_CODE_HEADS = 64,
    KVF_SELECT_CODE_STRIDE = KVF_SELECT_CODE_HEADS + 8,
    KVF_SELECT_CODE_BYTES = 128 * KVF_SELECT_CODE_STRIDE * 2,
    KVF_SELECT_VALUE_HEADS = 32,
    KVF_SELECT_VALUE_STRIDE = KVF_SELECT_VALUE_HEADS + 8,
    KVF_SELECT_VALUE_BYTES = 128 * KVF_SELECT_VALUE_STRIDE * 4,
    /* Floats of work: scales and weights of heads, simdgroups' own, two tiles' scores. */
    KVF_SELECT_SCALES = 0,
    KVF_SELECT_WEIGHTS = KVF_SELECT_SCALES + KVF_SELECT_CODE_HEADS * 4,
    KVF_SELECT_SCRATCH = KVF_SELECT_WEIGHTS + KVF_SELECT_CODE_HEADS,
    KVF_SELECT_SIMD_SCRATCH = 64 * KVF_SELECT_KEY_GROUPS,
    KVF_SELECT_SCORES = KVF_SELECT_SCRATCH + KVF_SELECT_SIMDS * KVF_SELECT_SIMD_SCRATCH,
    KVF_SELECT_WORK_BYTES = (KVF_SELECT_SCORES + 2 * KVF_SELECT_TILE_KEYS) * 4,
    KVF_SCORE_ROWS = 8 * KVF_SELECT_TILE_KEYS, /* of a threadgroup of score */
    KVF_SELECT_MERGE_PARTS = 16,               /* merged at a time */

    /* Finding the k-th highest: bins for each byte, two sets of simdgroups' sums. */
    KVF_TOP_THREADS = 512, /* of merge, mask and compact */
    KVF_TOP_PASSES = 4,
    KVF_TOP_BINS = 256,
    KVF_TOP_SIMDS = KVF_TOP_THREADS / KVF_KERNEL_SIMD_WIDTH,
    KVF_TOP_SUMS = KVF_TOP_PASSES * KVF_TOP_BINS,
    KVF_TOP_BYTES = (KVF_TOP_SUMS + 2 * KVF_TOP_SIMDS) * 4,
    KVF_COMPACT_BYTES = 2 * KVF_TOP_SIMDS * 4,

    /* attend: 8 simdgroups share the 512 values; tiles of 8 rows x 16 heads. */
    KVF_ATTEND_THREADS = 256,
    KVF_ATTEND_SIMDS = KVF_ATTEND_THREADS / KVF_KERNEL_SIMD_WIDTH,
    KVF_ATTEND_ROWS = KVF_ATTEND_SIMDS, /* a simdgroup unpacks a row */
    KVF_ATTEND_HEADS = 16,              /* zeros stand in for heads that do not exist */
    KVF_ATTEND_HEAD_PARTS = KVF_ATTEND_HEADS / 8,
    KVF_ATTEND_PAIRS = KVF_ATTEND_HEADS * KVF_ATTEND_ROWS,
    KVF_ATTEND_VALUES_A_SIMD = 512 / KVF_ATTEND_SIMDS,
    KVF_ATTEND_VALUE_PARTS = KVF_ATTEND_VALUES_A_SIMD / 8,
    KVF_ATTEND_STRIDE = 512 + 8, /* of a row in threadgroup memory: fewer bank conflicts */
    KVF_ATTEND_ROWS_BYTES = KVF_ATTEND_ROWS * KVF_ATTEND_STRIDE * 4,
    /* Floats of work: dots a simdgroup; p; diagonals; flags; two values a head. */
    KVF_ATTEND_P = KVF_ATTEND_SIMDS * KVF_ATTEND_PAIRS,
    KVF_ATTEND_DIAGONALS = KVF_ATTEND_P + KVF_ATTEND_PAIRS,
    KVF_ATTEND_FLAGS = KVF_ATTEND_DIAGONALS + KVF_ATTEND_PAIRS,
    KVF_ATTEND_FACTORS = KVF_ATTEND_FLAGS + KVF_ATTEND_SIMDS, /* half of them are used */
    KVF_ATTEND_DENOMINATORS = KVF_ATTEND_FACTORS + KVF_ATTEND_HEADS,
    KVF_ATTEND_WORK_BYTES = (KVF_ATTEND_DENOMINATORS + KVF_ATTEND_HEADS) * 4,
    /* Places of a split at least: four tiles; splits of a query at most. */
    KVF_ATTEND_LEAST_PLACES = 32,
    KVF_ATTEND_MAX_SPLITS = 64,
    /* So many threadgroups keep any GPU busy: then each walks all splits of its heads. */
    KVF_ATTEND_GROUPS = 256,
    KVF_ATTEND_MERGE_THREADS = 128
};

/* kvf_format_id and kvf_grid, for Metal; rows.c asserts that they agree. */
typedef enum kvf_rows_format {
    KVF_ROWS_F32 = 0,
    KVF_ROWS_F16 = 1,
    KVF_ROWS_FP8_F16 = 2,
    KVF_ROWS_FP8_BF16 = 3,
    KVF_ROWS_FP4 = 4
} kvf_rows_format;
enum { KVF_TO_NO_GRID = 0, KVF_TO_FP8 = 1, KVF_TO_FP4 = 2 };
enum { KVF_ROW_IS_OK = 0, KVF_ROW_IS_NONFINITE = 30, KVF_ROW_IS_RANGE = 31 };

/*
 * What the host has of device memory is its GPU address with this bit set: outside of what
 * processes and GPUs have (48 bits, and a top byte that may be ignored), so who follows it by
 * mistake faults, and it is never taken for an address of the host.
 * Tables of pages have them as they are; argument structs have plain addresses.
 */
#define KVF_DEVICE_BIT (1ull << 54)

/* A kvf_rows view. */
typedef struct kvf_kernel_rows {
    uint64_t address;           /* of page 0, or (stride 0) of a table of pages */
    uint64_t page_stride_bytes; /* from page to page */
    uint64_t n_rows;
    uint32_t page_rows;
    uint32_t format;
} kvf_kernel_rows;

/*
 * What an operation is given of one session is a span; one dispatch takes all spans. Elements
 * (rows, tokens, queries) are numbered through, and a span has the number of its first one. A
 * span alone lies in the argument struct (`one`), several in a table.
 */
typedef struct kvf_kernel_spans {
    uint64_t table;
    uint64_t firsts; /* uint32 [n], ascending: the spans' first numbers, for those who look */
    uint32_t n;      /* 1: there is no table */
    uint32_t unused;
} kvf_kernel_spans;

/* What checks find of a span, words of device memory; report leaves them as ones, ones, zero. */
enum {
    KVF_FOUND_BAD_INPUT = 0,    /* the first token of compress with a bad value */
    KVF_FOUND_BAD_ROW = 1,      /* the lowest bad row; its word says why */
    KVF_FOUND_INEXACT_ROWS = 2, /* counted by stores */
    KVF_FOUND_WORDS = 3
};
#define KVF_FOUND_NOTHING 0xffffffffu

/* Rows of f32 that are checked, may be stored, and are reported. */
typedef struct kvf_row_span {
    uint64_t rows;
    uint64_t place;       /* the kvf_finding (shared/finding.h) .. */
    uint64_t first_index; /* .. and what is added to indices in it */
    uint64_t kv;          /* the input of compress, [tokens][columns] each */
    uint64_t gate;
    kvf_kernel_rows out;
    uint64_t first_row; /* < out.n_rows; row i goes to first_row + i, after the last to row 0 */
    uint32_t first;     /* number of its row 0 */
    uint32_t unused;
} kvf_row_span;

typedef struct kvf_row_kernel_args {
    kvf_kernel_spans spans;
    kvf_row_span one;
    uint64_t found;  /* [spans][KVF_FOUND_WORDS] */
    uint64_t words;  /* of a bad row: its reason */
    uint64_t stride; /* of the input, in values */
    uint32_t n_rows; /* of all spans */
    uint32_t width;
    uint32_t grid;
    uint32_t hadamard;
    uint32_t check_input; /* the input itself too, before the Hadamard */
    uint32_t columns;     /* of kv and gate */
    uint32_t made;        /* the rows were made, not given */
    uint32_t unused;
} kvf_row_kernel_args;

/* Moves units of 16, 4 or 1 bytes; without `from`, zeros. */
typedef struct kvf_move_kernel_args {
    uint64_t to;
    uint64_t from;
    uint64_t n_units;
    uint32_t unit_bytes;
    uint32_t unused;
} kvf_move_kernel_args;

typedef struct kvf_unpack_kernel_args {
    uint64_t list;
    uint64_t out;
    kvf_kernel_rows in;
    uint64_t first_row; /* where list is 0 */
    uint64_t stride;
    uint32_t n_rows;
    uint32_t width;
} kvf_unpack_kernel_args;

/*
 * Slots and phases instead of 64-bit token numbers, so that kernels divide 32 bits. `firsts` of
 * the table are three arrays: of tokens, of rows, of tokens that are kept.
 */
typedef struct kvf_compress_span {
    uint64_t kv;
    uint64_t gate;
    uint64_t state;
    uint64_t cosines;
    uint64_t sines;
    uint32_t first;      /* number of its first token, .. */
    uint32_t first_made; /* .. of its first row, .. */
    uint32_t first_kept; /* .. of the first token that the ring still has after the chunk, .. */
    uint32_t kept_from;  /* .. and which one that is */
    uint32_t first_slot; /* the first token's: token % n_slots */
    uint32_t phase;      /* the first token's place in its window: token % ratio */
    uint32_t at_start;   /* the first row made is row 0: it has no window before its own */
    uint32_t unused;
} kvf_compress_span;

typedef struct kvf_compress_kernel_args {
    kvf_kernel_spans spans;
    kvf_compress_span one;
    uint64_t found; /* [spans][KVF_FOUND_WORDS] */
    uint64_t bias;
    uint64_t weight;
    uint64_t rows; /* out, by number */
    uint32_t width;
    uint32_t ratio;
    uint32_t overlap;
    uint32_t columns; /* of kv and of gate: width, with overlap 2 * width */
    uint32_t n_slots; /* of the state ring */
    float norm_eps;
} kvf_compress_kernel_args;

typedef struct kvf_select_span {
    uint64_t weights;
    uint64_t n_visible;
    uint64_t first_token;
    uint64_t list;
    uint64_t list_len;
    kvf_kernel_rows queries;
    kvf_kernel_rows keys;
    uint32_t first; /* number of its query 0 */
    uint32_t unused;
} kvf_select_span;

/*
 * select, its merge, and score. Queries and keys are both codes in the _codes kernels. Merge:
 * parts 0, step, 2 * step, .. of a query's n_parts slots still have candidates, n_live.
 */
typedef struct kvf_select_kernel_args {
    kvf_kernel_spans spans;
    kvf_select_span one;
    uint64_t orders;
    uint64_t rows;
    uint64_t counts;
    uint64_t scores;
    uint64_t score_stride;
    uint32_t n_rows;      /* score: columns to fill */
    uint32_t first_query; /* number of the first one of the dispatch */
    uint32_t n_heads;
    uint32_t top_k;
    uint32_t n_parts;  /* of a query's visible rows */
    uint32_t capacity; /* candidates that a part may hold; top_k and a tile at least */
    float weight_scale;
    uint32_t ratio; /* as in kvf_select_args; 0: n_visible is looked at */
    uint32_t n_live;
    uint32_t step;
    uint32_t is_last;
    uint32_t unused;
} kvf_select_kernel_args;

typedef struct kvf_mask_kernel_args {
    uint64_t scores;
    uint64_t n_visible;
    uint64_t mask_f32;
    uint64_t mask_f16;
    uint64_t score_stride;
    uint64_t mask_stride;
    uint32_t n_rows;
    uint32_t top_k;
    uint32_t half_form; /* f16, not f32 */
    uint32_t ratio;
    uint64_t first_token;
} kvf_mask_kernel_args;

/* What a query attends: the first rows, a list without its -1 entries, what a mask lets through. */
enum {
    KVF_ATTEND_FIRST_ROWS = 0,
    KVF_ATTEND_LIST = 1,
    KVF_ATTEND_MASK_F32 = 2,
    KVF_ATTEND_MASK_F16 = 3
};

typedef struct kvf_attend_span {
    uint64_t q;
    uint64_t out;
    uint64_t lse;     /* or 0 */
    uint64_t chosen;  /* lists or masks, in_stride entries a query */
    uint64_t lengths; /* of lists; or visible rows, where ratio is 0 */
    uint64_t first_token;
    uint64_t first_row; /* of the window's view: first_token's */
    kvf_kernel_rows window;
    kvf_kernel_rows rows; /* n_rows 0: none is attended */
    uint32_t first;       /* number of its query 0 */
    uint32_t unused;
} kvf_attend_span;

/*
 * attend, its merge, and compact, which makes lists of lists and masks. Lists, counts and partial
 * results begin with query first_query. Place i of a query is row i of its window or, from the
 * window's end on, of its list. Every query's places are cut into KVF_ATTEND_MAX_SPLITS equal
 * splits or, where those would be short, into fewer: so how results are added up depends on
 * nothing but what the query attends.
 */
typedef struct kvf_attend_kernel_args {
    kvf_kernel_spans spans;
    kvf_attend_span one;
    uint64_t sinks;
    uint64_t lists; /* [queries][list_stride], made by compact */
    uint64_t counts;
    uint64_t partial_sums;
    uint64_t partial_softmax;
    uint64_t list_stride;
    uint64_t in_stride; /* of `chosen` */
    uint32_t first_query;
    uint32_t n_heads;
    uint32_t window_tokens;
    uint32_t kind;
    uint32_t ratio;
    uint32_t n_parts; /* splits that there are partial results of, at most */
    float scale;
    uint32_t unused;
} kvf_attend_kernel_args;

static_assert(sizeof(kvf_kernel_rows) == 32, "the same in C and Metal");
static_assert(sizeof(kvf_kernel_spans) == 24, "the same in C and Metal");
static_assert(sizeof(kvf_row_span) == 88, "the same in C and Metal");
static_assert(sizeof(kvf_row_kernel_args) == 168, "the same in C and Metal");
static_assert(sizeof(kvf_move_kernel_args) == 32, "the same in C and Metal");
static_assert(sizeof(kvf_unpack_kernel_args) == 72, "the same in C and Metal");
static_assert(sizeof(kvf_compress_span) == 72, "the same in C and Metal");
static_assert(sizeof(kvf_compress_kernel_args) == 152, "the same in C and Metal");
static_assert(sizeof(kvf_select_span) == 112, "the same in C and Metal");
static_assert(sizeof(kvf_select_kernel_args) == 224, "the same in C and Metal");
static_assert(sizeof(kvf_mask_kernel_args) == 72, "the same in C and Metal");
static_assert(sizeof(kvf_attend_span) == 128, "the same in C and Metal");
static_assert(sizeof(kvf_attend_kernel_args) == 240, "the same in C and Metal");
/* 32 KiB of threadgroup memory; pieces of 16 bytes, as driver.h asks for. */
static_assert(KVF_SELECT_CODE_BYTES + KVF_SELECT_WORK_BYTES + KVF_TOP_BYTES <= 32768, "");
static_assert(KVF_SELECT_VALUE_BYTES + KVF_SELECT_WORK_BYTES + KVF_TOP_BYTES <= 32768, "");
static_assert(KVF_SELECT_WORK_BYTES % 16 == 0 && KVF_TOP_BYTES % 16 == 0, "");
static_assert(KVF_SELECT_CODE_BYTES % 16 == 0 && KVF_SELECT_VALUE_BYTES % 16 == 0, "");
static_assert(KVF_ATTEND_ROWS_BYTES + KVF_ATTEND_WORK_BYTES <= 32768, "");
static_assert(KVF_ATTEND_WORK_BYTES % 16 == 0, "");

#if defined(__METAL_VERSION__)
static inline device uchar *kvf_page_at(ulong address)
{
    return reinterpret_cast<device uchar *>(address);
}

/* Rows that query i sees: as kvf_visible_rows of shared/visible.h. */
static inline uint kvf_visible(device const uint *n_visible, ulong first_token, uint ratio, uint i)
{
    return ratio ? uint((first_token + i + 1) / ratio) : n_visible[i];
}
#endif

#endif
