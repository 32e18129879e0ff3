/*
 * Argument structs of the dense kernels (matmul, embed, norm, rope, mix, experts,
 * sample), and the sizes of their threadgroups: what dense.c and the .metal files agree
 * on. Compiled as C and as Metal. Strides are in values.
 */
#ifndef KVF_BACKEND_METAL_DENSE_H
#define KVF_BACKEND_METAL_DENSE_H

#if defined(__METAL_VERSION__)
#include <metal_stdlib>
#else
#if !defined(__cplusplus)
#include <assert.h>
#endif
#include <stdint.h>
#endif

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
    KVF_NORM_LANES = 16, /* of a row: docs/FORMAT.md 9.7 */
    KVF_NORM_ROWS = KVF_ELEMENT_THREADS / KVF_NORM_LANES,
    KVF_ROPE_PAIRS_A_HEAD = 32,

    KVF_MIX_MAX_STREAMS = 8,
    KVF_MIX_LEAST_THREADS = 64,
    KVF_MIX_MOST_THREADS = 512,
    /* Floats of threadgroup memory: a sum a simdgroup, pre, comb. */
    KVF_MIX_PRE = KVF_MIX_MOST_THREADS / KVF_SIMD_WIDTH,
    KVF_MIX_COMB = KVF_MIX_PRE + KVF_MIX_MAX_STREAMS,
    KVF_MIX_BYTES = (KVF_MIX_COMB + KVF_MIX_MAX_STREAMS * KVF_MIX_MAX_STREAMS) * 4,

    KVF_ARGMAX_THREADS = 256,
    KVF_ARGMAX_BYTES = KVF_ARGMAX_THREADS / KVF_SIMD_WIDTH * 8,
    KVF_ARGMAX_GROUP_VALUES = 4096 /* logits a threadgroup looks at */
};

/* out[n][rows] = in[n][cols] * weight[rows][cols]^T */
typedef struct kvf_matmul_kernel_args {
    uint64_t in_stride;
    uint64_t out_stride;
    uint32_t n;
    uint32_t rows;
    uint32_t cols;
    uint32_t vectors; /* every row of both starts where four values may be loaded at once */
} kvf_matmul_kernel_args;

typedef struct kvf_embed_kernel_args {
    uint32_t hidden;
    uint32_t n_streams;
} kvf_embed_kernel_args;

typedef struct kvf_norm_kernel_args {
    uint64_t n;
    uint64_t in_stride;
    uint64_t out_stride;
    uint32_t width;
    uint32_t has_weight;
    float eps;
    uint32_t unused;
} kvf_norm_kernel_args;

typedef struct kvf_rope_kernel_args {
    uint32_t n;
    uint32_t heads;
    uint32_t width;
    uint32_t inverse;
} kvf_rope_kernel_args;

/* mix holds the products with fn; sinkhorn_rounds 0 is the head's form, pre only. */
typedef struct kvf_mix_kernel_args {
    uint32_t hidden;
    uint32_t n_streams;
    uint32_t sinkhorn_rounds;
    float norm_eps;
    float eps;
} kvf_mix_kernel_args;

typedef struct kvf_unmix_kernel_args {
    uint32_t hidden;
    uint32_t n_streams;
} kvf_unmix_kernel_args;

typedef struct kvf_route_kernel_args {
    uint32_t n_experts;
    uint32_t top_k;
    uint32_t has_bias;
    uint32_t has_map;
    uint32_t normalise;
    float scaling;
} kvf_route_kernel_args;

/*
 * An expert and the choices that it works on. A choice is a pair of a token and a
 * place in its list of experts; choices are numbered in the order of the batch.
 */
typedef struct kvf_expert_block {
    uint64_t w1; /* gpu addresses */
    uint64_t w3;
    uint64_t w2;
    uint32_t first; /* choices first .. first + n of the batch */
    uint32_t n;
} kvf_expert_block;

/* One batch of choices. By tiles: grouped by expert. By vectors: n_slots a token. */
typedef struct kvf_experts_kernel_args {
    uint32_t hidden;
    uint32_t ffn;
    float limit;         /* 0: none */
    uint32_t top_k;      /* places a token; 1 for the shared expert */
    uint32_t first;      /* tiles: the batch's first choice; vectors: its first place */
    uint32_t n_choices;  /* tiles: choices of the batch */
    uint32_t n_slots;    /* vectors: places of the batch */
    uint32_t shared;     /* weight 1, and choice i is token i */
    uint32_t accumulate; /* add to out; 0 for the first batch */
    uint32_t vectors;    /* as in kvf_matmul_kernel_args */
} kvf_experts_kernel_args;

typedef struct kvf_argmax_kernel_args {
    uint32_t n;
} kvf_argmax_kernel_args;

static_assert(sizeof(kvf_matmul_kernel_args) == 32, "the same in C and Metal");
static_assert(sizeof(kvf_embed_kernel_args) == 8, "the same in C and Metal");
static_assert(sizeof(kvf_norm_kernel_args) == 40, "the same in C and Metal");
static_assert(sizeof(kvf_rope_kernel_args) == 16, "the same in C and Metal");
static_assert(sizeof(kvf_mix_kernel_args) == 20, "the same in C and Metal");
static_assert(sizeof(kvf_unmix_kernel_args) == 8, "the same in C and Metal");
static_assert(sizeof(kvf_route_kernel_args) == 24, "the same in C and Metal");
static_assert(sizeof(kvf_expert_block) == 32, "the same in C and Metal");
static_assert(sizeof(kvf_experts_kernel_args) == 40, "the same in C and Metal");
static_assert(KVF_TILE_TOKENS * KVF_TILE_OUT_STRIDE * 4 <= KVF_TILE_BYTES, "out fits");
static_assert(KVF_TILE_BYTES % 16 == 0 && KVF_VECTOR_BYTES % 16 == 0, "device.h asks for it");
static_assert(KVF_MIX_BYTES % 16 == 0 && KVF_ARGMAX_BYTES % 16 == 0, "device.h asks for it");

#endif
