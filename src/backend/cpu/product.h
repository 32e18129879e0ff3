/*
 * Products of stored weights with tokens, in blocks of KVF_PRODUCT_ROWS rows: what matmul,
 * mix and experts are made of. A block's outputs depend on its rows and each token alone, so
 * blocks may be computed by any thread, in any order, with any other tokens (docs/FORMAT.md
 * 9.8).
 */
#ifndef KVF_CPU_PRODUCT_H
#define KVF_CPU_PRODUCT_H

#include "backend/cpu/kernels.h"

/* Tokens for which a block is decoded once. */
#define KVF_PRODUCT_TOKENS 192

/*
 * Choices of experts that are computed together: 877 tokens with six experts and a shared
 * one, about 20 an expert where there are 256. Their activations take most of the workspace.
 */
#define KVF_EXPERT_CHOICES 6144

/* A thread's memory for one block. */
typedef struct kvf_product_space {
    _Alignas(64) float panel[KVF_PRODUCT_ROWS * KVF_PRODUCT_COLS];
    _Alignas(64) float sums[KVF_PRODUCT_TOKENS][KVF_PRODUCT_ROWS][16];
    _Alignas(64) float tails[KVF_PRODUCT_TOKENS][16]; /* values behind the last whole group */
    _Alignas(64) float out[2][KVF_PRODUCT_TOKENS][KVF_PRODUCT_ROWS];
    const float *tokens[KVF_PRODUCT_TOKENS];
    /* experts.c: a few outputs of each choice; pages of it are touched as they are needed. */
    _Alignas(64) float slots[KVF_EXPERT_CHOICES][KVF_PRODUCT_ROWS];
} kvf_product_space;

/* Tokens of a block: token t is at in + list[t] * stride, without a list at in + t * stride. */
typedef struct kvf_product_tokens {
    const float *in;
    size_t stride;
    const int32_t *list;
    uint32_t n; /* at most KVF_PRODUCT_TOKENS */
} kvf_product_tokens;

/*
 * out[t * stride + r] = row `row` + r of the weight times token t, for n_rows rows (at most
 * KVF_PRODUCT_ROWS). Where n_rows are fewer and tokens several, the rest of
 * KVF_PRODUCT_ROWS values a token is written too, and is of no meaning.
 */
void kvf_product_block(const kvf_cpu_kernels *kernels, const kvf_matrix *weight, uint32_t row,
                       uint32_t n_rows, const kvf_product_tokens *tokens, kvf_product_space *space,
                       float *out, size_t stride);

/* The sum of a[i] * b[i] in the same order (docs/FORMAT.md 9.2). */
float kvf_product_of_f32(const kvf_cpu_kernels *kernels, const float *a, const float *b,
                         uint32_t n);

/* Several matmuls over the same number of tokens, by the device's threads, in one go. */
void kvf_products(kvf_device *device, const kvf_matmul_args *args, uint32_t n_args);

#endif
