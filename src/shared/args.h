/*
 * Argument structs of the backend operations that are not public: plain data, one
 * struct an operation, shapes beside the pointers. Pointers are the device's.
 * n is always the number of tokens.
 */
#ifndef KVF_SHARED_ARGS_H
#define KVF_SHARED_ARGS_H

#include "kvfold.h"
#include "shared/matrix.h"
#include "shared/sampled.h"

/* The most that sessions are served with: tokens a compressed row, rows selected. */
#define KVF_MAX_RATIO 4096
#define KVF_MAX_TOP_K 65536

/*
 * out[n][out_stride] = in[n][in_stride] * weight^T, summed as docs/FORMAT.md 9.8 says where
 * the backend promises it. With groups the weight's rows are so many equal parts: part g is
 * multiplied with values g * cols .. of a token.
 */
typedef struct kvf_matmul_args {
    uint32_t n;
    uint32_t groups; /* 0: one; rows % groups == 0 */
    kvf_matrix weight;
    const float *in;
    size_t in_stride;
    float *out;
    size_t out_stride;
} kvf_matmul_args;

/* out[i] = weight ? table row : ...; streams[n][n_streams][hidden] all start as the embedding. */
typedef struct kvf_embed_args {
    uint32_t n;
    uint32_t n_streams;
    const int32_t *tokens; /* [n], each < table.rows */
    kvf_matrix table;      /* [vocab][hidden] */
    float *streams;
} kvf_embed_args;

/* values[n][width] (stride apart) *= 1/sqrt(mean square + eps), then *= weight if not NULL. */
typedef struct kvf_norm_args {
    uint64_t n;
    uint32_t width;
    const float *in;
    size_t in_stride;
    float *out; /* may be `in` */
    size_t out_stride;
    const float *weight; /* [width] or NULL */
    float eps;
} kvf_norm_args;

/* Rotates the trailing 64 values of values[n][heads][width]; token i by row i of the table. */
typedef struct kvf_rope_args {
    uint32_t n;
    uint32_t heads;
    uint32_t width;
    float *values;
    kvf_rope_table table;
    bool inverse;
} kvf_rope_args;

/*
 * Hyper-connections (mHC): n_streams residual streams of `hidden` values a token.
 * mix = rms(streams flat) * fn^T; pre, post and comb from it (docs/ARCHITECTURE.md).
 */
typedef struct kvf_mix_weights {
    kvf_matrix fn; /* [n_streams * (2 + n_streams)][n_streams * hidden]; head: [n_streams][..] */
    const float *base;  /* [n_streams * (2 + n_streams)]; head: [n_streams] */
    const float *scale; /* [3]; head: [1] */
} kvf_mix_weights;

typedef struct kvf_mix_args {
    uint32_t n;
    uint32_t hidden;
    uint32_t n_streams;       /* at most KVF_MAX_STREAMS */
    uint32_t sinkhorn_rounds; /* 0: the head's form, pre only */
    float norm_eps;
    float eps;            /* hc_eps */
    const float *streams; /* [n][n_streams][hidden] */
    kvf_mix_weights weights;
    float *mix;  /* workspace [n][n_streams * (2 + n_streams)] */
    float *out;  /* [n][hidden] = sum_j pre[j] * stream[j] */
    float *post; /* [n][n_streams], not for the head */
    float *comb; /* [n][n_streams][n_streams], not for the head */
} kvf_mix_args;
#define KVF_MAX_STREAMS 8

/* streams[k] = post[k] * sublayer + sum_j comb[j][k] * streams[j]. */
typedef struct kvf_unmix_args {
    uint32_t n;
    uint32_t hidden;
    uint32_t n_streams;
    const float *sublayer; /* [n][hidden] */
    const float *post;
    const float *comb;
    float *streams;
} kvf_unmix_args;

/* Routing: scores = sqrt(softplus(logits)); top_k by score + bias, or by token id. */
typedef struct kvf_route_args {
    uint32_t n;
    uint32_t n_experts;
    uint32_t top_k;
    const float *logits;      /* [n][n_experts] */
    const float *bias;        /* [n_experts] or NULL */
    const int32_t *token_map; /* [vocab][top_k] expert of each token (hash layers), or NULL */
    const int32_t *tokens;    /* [n] */
    float scaling;
    bool normalise;   /* divide by (sum + 1e-20) before scaling */
    int32_t *experts; /* out [n][top_k] */
    float *weights;   /* out [n][top_k] */
} kvf_route_args;

typedef struct kvf_expert_weights {
    kvf_matrix w1, w3, w2; /* gate, up: [ffn][hidden]; down: [hidden][ffn] */
} kvf_expert_weights;

/* out = shared(x) + sum over the token's experts of weight * expert(x). */
typedef struct kvf_experts_args {
    uint32_t n;
    uint32_t hidden;
    uint32_t ffn;        /* of a routed expert */
    uint32_t shared_ffn; /* of the shared expert; 0: none */
    uint32_t n_experts;
    uint32_t top_k;
    float limit;                      /* gate <= limit, up within +-limit; 0: no limit */
    const float *in;                  /* [n][hidden] */
    const int32_t *experts;           /* [n][top_k] */
    const float *weights;             /* [n][top_k] */
    const kvf_expert_weights *routed; /* [n_experts], host memory */
    kvf_expert_weights shared;
    float *out;       /* [n][hidden] */
    float *workspace; /* the backend's experts_workspace_bytes() */
} kvf_experts_args;

/*
 * check: finds values that are not finite; the index is the row's, the dimension the first of
 * the row.
 */
typedef struct kvf_check_args {
    uint64_t n_rows;
    uint32_t width;      /* at most 65536 */
    const float *values; /* [n_rows][width] */
} kvf_check_args;

/*
 * compress: pools the candidates of every row that the chunk completes, norms,
 * rotates, (index rows: Hadamard) rounds to the grid and packs into out, then
 * takes the chunk's tokens into the state. It finds input that is not finite (the index is the
 * token's, from the chunk's first, the dimension the column) and rows that cannot be stored
 * (made; the index from the first row that the chunk completes); what out and state hold is then
 * undefined where the chunk writes, and as it was elsewhere.
 *
 * state is a ring [slots][2][parts * width]: kv and gate of token t in slot
 * t % slots; slots = 2 * ratio with overlap (parts = 2), ratio without (parts = 1).
 */
typedef struct kvf_compress_args {
    uint32_t width;
    uint32_t ratio;
    bool overlap;
    uint64_t first_token;
    uint32_t n;
    kvf_compressor_input input;
    kvf_rope_table rope; /* of the rows emitted, in order */
    float *state;
    bool hadamard;
    kvf_grid grid;
    kvf_rows out; /* row c of the layer is row c of the view */
} kvf_compress_args;

/*
 * select and score are given queries, weights and keys that may not be finite: what is chosen
 * and scored is then undefined, but in range.
 *
 * score: f32 scores of FORMAT.md 5 for queries x keys, rows past n_visible[i] are
 * -infinity. queries, head_weights, keys, visible rows as in kvf_select_args, which
 * is embedded so that both take the same picture of the data.
 * Without a grid the same formula is used on the plain f32 values (no exactness).
 */
typedef struct kvf_score_args {
    const kvf_select_args *select; /* list, list_len are not used */
    uint32_t first_query;          /* the tile's queries: first_query .. + n_queries */
    uint32_t n_queries;
    uint64_t n_rows; /* columns to fill */
    float *scores;   /* out [n_queries][stride] */
    size_t stride;
} kvf_score_args;

/* mask: top_k of each query's scores as a mask of 0 (selected) and -infinity. */
typedef struct kvf_mask_args {
    uint32_t n_queries;
    uint32_t top_k;
    uint64_t n_rows;
    const float *scores; /* [n_queries][score_stride] */
    size_t score_stride;
    const uint32_t *n_visible; /* [n_queries], or as in kvf_select_args */
    uint64_t first_token;
    uint32_t ratio;
    float *mask_f32;    /* out [n_queries][mask_stride], or NULL */
    uint16_t *mask_f16; /* out, the other form */
    size_t mask_stride;
} kvf_mask_args;

/*
 * What changes logits before a token is drawn from them, in this order: penalties of tokens that
 * were used, biases, the mask. Host memory.
 */
typedef struct kvf_logit_changes {
    const kvf_token_use *uses; /* [n_uses] of prompt or answer; each id once */
    const kvf_bias *bias;      /* [n_bias]; for `sample` each id once */
    const uint32_t *allowed;   /* [(vocab + 31) / 32] bit i % 32 of i / 32; NULL: every token is */
    uint32_t n_uses;
    uint32_t n_bias;
    float repeat_penalty;    /* 1: off; divides what is above 0, multiplies what is below .. */
    float presence_penalty;  /* 0: off; taken from each token that was answered .. */
    float frequency_penalty; /* 0: off; .. and for each time that it was */
} kvf_logit_changes;

/* A row of logits that a token will be drawn from. */
typedef struct kvf_sample_row {
    const kvf_logit_changes *changes; /* NULL: none */
    float temperature;                /* 0: no mass is asked for */
} kvf_sample_row;

/*
 * sample: what a host needs of a row to draw a token. `rows` and what they point to are memory of
 * the host, as it is until wait. Ids are below vocab.
 */
typedef struct kvf_sample_args {
    uint32_t n;
    uint32_t vocab;
    const float *logits; /* [n][vocab] */
    const kvf_sample_row *rows;
    float *changed;   /* workspace [n][vocab]; NULL if no row has changes */
    kvf_sampled *out; /* [n] */
} kvf_sample_args;

#endif
