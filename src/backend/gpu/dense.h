/*
 * Argument structs of the dense kernels (products, norm, rope, mix, experts,
 * sample), and the sizes of their threadgroups: what dense.c and the .metal files agree
 * on. Compiled as C and as Metal. Addresses are the GPU's, 0 where there is nothing; strides
 * are in values.
 */
#ifndef KVF_BACKEND_GPU_DENSE_H
#define KVF_BACKEND_GPU_DENSE_H

#if defined(__METAL_VERSION__)
#include <metal_stdlib>
#else
#if !defined(__cplusplus)
#include <assert.h>
#endif
#include <stdint.h>
#endif

#include "shared/sampled.h"

enum {
    KVF_SIMD_WIDTH = 32,

    /* Products by tiles: 32 tokens x 64 rows a threadgroup of 4 simdgroups, k in steps of 32. */
    KVF_TILE_TOKENS = 32,
    KVF_TILE_ROWS = 64,
    KVF_TILE_K = 32,
    KVF_TILE_THREADS = 128,
    KVF_TILE_STRIDE = KVF_TILE_K + 4, /* in threadgroup memory: fewer bank conflicts */
    KVF_TILE_OUT_STRIDE = KVF_TILE_ROWS + 4,
    KVF_TILE_BYTES = (KVF_TILE_TOKENS + KVF_TILE_ROWS) * KVF_TILE_STRIDE * 4,
    KVF_TILE_LEAST_TOKENS = 8, /* with fewer, most of a tile would be zeros */

    /* Products of few tokens: 4 rows a threadgroup, whose 4 simdgroups share k. */
    KVF_VECTOR_ROWS = 4,
    KVF_VECTOR_SIMDS = 4,
    KVF_VECTOR_THREADS = KVF_VECTOR_SIMDS * KVF_SIMD_WIDTH,
    KVF_VECTOR_MANY_TOKENS = 4, /* of the form for more than one */
    KVF_VECTOR_BYTES = KVF_VECTOR_SIMDS * KVF_VECTOR_ROWS * KVF_VECTOR_MANY_TOKENS * 4,

    /* Gate and up together: half of a tile's rows are of w1, half of w3. */
    KVF_EXPERT_TILE_FFN = KVF_TILE_ROWS / 2,

    KVF_ELEMENT_THREADS = 128,
    KVF_GROUPING_THREADS = 256, /* a thread an expert, of as many at a time */
    KVF_NORM_LANES = 16,        /* of a row: docs/FORMAT.md 9.7 */
    KVF_NORM_ROWS = KVF_ELEMENT_THREADS / KVF_NORM_LANES,
    KVF_ROPE_PAIRS_A_HEAD = 32,

    KVF_MIX_MAX_STREAMS = 8,
    KVF_MIX_LEAST_THREADS = 64,
    KVF_MIX_MOST_THREADS = 512,
    /* Floats of threadgroup memory: a sum a simdgroup, pre, comb. */
    KVF_MIX_PRE = KVF_MIX_MOST_THREADS / KVF_SIMD_WIDTH,
    KVF_MIX_COMB = KVF_MIX_PRE + KVF_MIX_MAX_STREAMS,
    KVF_MIX_BYTES = (KVF_MIX_COMB + KVF_MIX_MAX_STREAMS * KVF_MIX_MAX_STREAMS) * 4,

    /* Logits a threadgroup of sample's first pass looks at; its simdgroups' 4 words each; a list.
     */
    KVF_SAMPLE_PART_VALUES = 4096,
    KVF_SAMPLE_WORK_BYTES = 16 * 4 * 4,
    KVF_SAMPLE_LIST_BYTES = 2 * KVF_SAMPLED_MOST * 4
};

/* A kvf_matrix at GPU addresses; its planes may begin anywhere. */
typedef struct kvf_kernel_matrix {
    uint64_t data;
    uint64_t scales;
    uint64_t row_bytes;
    uint32_t scale_stride;
    uint32_t type; /* kvf_weight_id */
} kvf_kernel_matrix;

/*
 * out[n][rows] = in[n][cols] * weight[rows][cols]^T; group g of the grid has the rows and
 * outputs from g * rows, the inputs from g * cols on.
 */
typedef struct kvf_matmul_kernel_args {
    kvf_kernel_matrix weight;
    uint64_t in;
    uint64_t out;
    uint64_t in_stride;
    uint64_t out_stride;
    uint32_t n;
    uint32_t rows;
    uint32_t cols;
    uint32_t old_weight; /* nothing that may still run writes to the weight */
} kvf_matmul_kernel_args;

typedef struct kvf_embed_kernel_args {
    kvf_kernel_matrix table;
    uint64_t tokens;
    uint64_t streams;
    uint32_t hidden;
    uint32_t n_streams;
} kvf_embed_kernel_args;

typedef struct kvf_norm_kernel_args {
    uint64_t in;
    uint64_t out;
    uint64_t weight; /* 0: none */
    uint64_t n;
    uint64_t in_stride;
    uint64_t out_stride;
    uint32_t width;
    float eps;
} kvf_norm_kernel_args;

typedef struct kvf_rope_kernel_args {
    uint64_t values;
    uint64_t cosines;
    uint64_t sines;
    uint32_t n;
    uint32_t heads;
    uint32_t width;
    uint32_t inverse;
} kvf_rope_kernel_args;

/* mix holds the products with fn; sinkhorn_rounds 0 is the head's form, pre only. */
typedef struct kvf_mix_kernel_args {
    uint64_t mix;
    uint64_t streams;
    uint64_t base;
    uint64_t scale;
    uint64_t out;
    uint64_t post;
    uint64_t comb;
    uint32_t hidden;
    uint32_t n_streams;
    uint32_t sinkhorn_rounds;
    float norm_eps;
    float eps;
    uint32_t unused;
} kvf_mix_kernel_args;

typedef struct kvf_unmix_kernel_args {
    uint64_t sublayer;
    uint64_t post;
    uint64_t comb;
    uint64_t streams;
    uint32_t hidden;
    uint32_t n_streams;
} kvf_unmix_kernel_args;

typedef struct kvf_route_kernel_args {
    uint64_t logits;
    uint64_t bias;      /* 0: none */
    uint64_t token_map; /* 0: none */
    uint64_t tokens;
    uint64_t experts;
    uint64_t weights;
    uint32_t n_experts;
    uint32_t top_k;
    uint32_t normalise;
    float scaling;
} kvf_route_kernel_args;

/* Of the table that a layer has on the device: its experts, then the shared one. */
typedef struct kvf_expert_entry {
    kvf_kernel_matrix w1;
    kvf_kernel_matrix w3;
    kvf_kernel_matrix w2;
} kvf_expert_entry;

/* At most KVF_TILE_TOKENS choices of one expert; n 0: none, the table has room for more. */
typedef struct kvf_expert_block {
    uint32_t expert;
    uint32_t first; /* choices first .. first + n in `order` */
    uint32_t n;
    uint32_t unused;
} kvf_expert_block;

/*
 * A choice is a pair of a token and a place in its list of experts, numbered token * top_k +
 * place. By tiles choices are ordered by expert: `order` has their numbers, `places` is its
 * inverse. The shared expert is a pass of its own (top_k 1): choice i is token i, no list is
 * read, and the weight is 1.
 */
typedef struct kvf_experts_kernel_args {
    uint64_t table;
    uint64_t in;
    uint64_t experts;
    uint64_t weights;
    uint64_t act;  /* [choices][ffn] */
    uint64_t rows; /* by tiles: [choices][hidden] */
    uint64_t out;
    uint64_t order;
    uint64_t places;
    uint64_t counts; /* for grouping: [3][n_experts] */
    uint64_t blocks;
    uint32_t hidden;
    uint32_t ffn;
    uint32_t n;
    uint32_t top_k;
    uint32_t n_experts;
    uint32_t n_blocks; /* room in `blocks` */
    uint32_t shared;
    uint32_t accumulate; /* add to out */
    float limit;         /* 0: none */
    uint32_t unused;
} kvf_experts_kernel_args;

/* What changes a row of logits, and how it will be drawn from. */
typedef struct kvf_sample_kernel_row {
    uint64_t uses;    /* kvf_token_use [n_uses] */
    uint64_t bias;    /* kvf_bias [n_bias] */
    uint64_t allowed; /* a bit a token; 0: all are */
    uint32_t n_uses;
    uint32_t n_bias;
    float repeat_penalty;
    float presence_penalty;
    float frequency_penalty;
    float temperature;
    uint32_t has_changes;
    uint32_t unused;
} kvf_sample_kernel_row;

/* What a part of a row has; sums are of its own highest values. */
typedef struct kvf_sample_part {
    uint32_t n_drawable;
    uint32_t first_bad;
    float highest_given;
    float highest;
    float given_sum;
    float mass;
} kvf_sample_part;

/* Slots are [n][n_parts]. */
typedef struct kvf_sample_kernel_args {
    uint64_t logits;
    uint64_t changed; /* [n][vocab]; 0: no row has changes */
    uint64_t rows;    /* kvf_sample_kernel_row [n] */
    uint64_t parts;   /* kvf_sample_part, a slot each */
    uint64_t orders;  /* KVF_SAMPLED_MOST of a slot's highest logits, by ascending id .. */
    uint64_t ids;     /* .. and whose they are */
    uint64_t counts;  /* how many of them there are */
    uint64_t out;     /* kvf_sampled [n] */
    uint32_t vocab;
    uint32_t n_parts;
} kvf_sample_kernel_args;

static_assert(sizeof(kvf_kernel_matrix) == 32, "the same in C and Metal");
static_assert(sizeof(kvf_matmul_kernel_args) == 80, "the same in C and Metal");
static_assert(sizeof(kvf_embed_kernel_args) == 56, "the same in C and Metal");
static_assert(sizeof(kvf_norm_kernel_args) == 56, "the same in C and Metal");
static_assert(sizeof(kvf_rope_kernel_args) == 40, "the same in C and Metal");
static_assert(sizeof(kvf_mix_kernel_args) == 80, "the same in C and Metal");
static_assert(sizeof(kvf_unmix_kernel_args) == 40, "the same in C and Metal");
static_assert(sizeof(kvf_route_kernel_args) == 64, "the same in C and Metal");
static_assert(sizeof(kvf_expert_entry) == 96, "the same in C and Metal");
static_assert(sizeof(kvf_expert_block) == 16, "the same in C and Metal");
static_assert(sizeof(kvf_experts_kernel_args) == 128, "the same in C and Metal");
static_assert(sizeof(kvf_sample_kernel_row) == 56, "the same in C and Metal");
static_assert(sizeof(kvf_sample_part) == 24, "the same in C and Metal");
static_assert(sizeof(kvf_sample_kernel_args) == 72, "the same in C and Metal");
static_assert(sizeof(kvf_sampled) == 32 + 12 * KVF_SAMPLED_MOST, "the same in C and Metal");
static_assert(KVF_TILE_TOKENS * KVF_TILE_OUT_STRIDE * 4 <= KVF_TILE_BYTES, "out fits");
static_assert(KVF_TILE_BYTES % 16 == 0 && KVF_VECTOR_BYTES % 16 == 0, "driver.h asks for it");
static_assert(KVF_MIX_BYTES % 16 == 0 && KVF_SAMPLE_WORK_BYTES % 16 == 0, "driver.h asks for it");

#endif
