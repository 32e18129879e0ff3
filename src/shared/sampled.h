/*
 * What is known of a row of logits when a token is to be drawn from it, without the row itself:
 * docs/SAMPLING.md. One layout for all backends: compiled as C and as Metal.
 */
#ifndef KVF_SHARED_SAMPLED_H
#define KVF_SHARED_SAMPLED_H

#if defined(__METAL_VERSION__)
#include <metal_stdlib>
#else
#include <stdint.h>
#endif

/*
 * The highest logits that are given. More than top_k is ever set to (40, 64), and than the tokens
 * that a top_p of 0.95 keeps of most rows.
 */
#define KVF_SAMPLED_MOST 256

/* Where every logit is finite. */
#define KVF_SAMPLED_ALL_FINITE 0xffffffffu

typedef struct kvf_sampled_token {
    uint32_t id;
    float logit; /* with what changes it .. */
    float given; /* .. and without */
} kvf_sampled_token;

typedef struct kvf_sampled {
    uint32_t n;          /* of tokens */
    uint32_t n_drawable; /* tokens in all whose changed logit is above -infinity; no NaN is */
    uint32_t first_bad;  /* the lowest id whose given logit is not finite, or the above */
    float highest_given; /* NaN apart; -infinity: there is none */
    /* Sums over the row, close to what they should be: docs/SAMPLING.md. */
    float given_sum; /* of exp(given - highest_given); undefined unless that is finite */
    float mass; /* of exp((logit - highest logit) / temperature); undefined unless both are finite,
                   and the temperature above 0 */
    uint32_t unused[2];
    kvf_sampled_token
        tokens[KVF_SAMPLED_MOST]; /* drawable, highest first, then by id; then zeros */
} kvf_sampled;

/* How often a token was answered; 0: it is one of the prompt. */
typedef struct kvf_token_use {
    uint32_t id;
    uint32_t count;
} kvf_token_use;

typedef struct kvf_bias {
    int32_t id;
    float value; /* added to the logit; -infinity: never drawn */
} kvf_bias;

#if !defined(__cplusplus)
_Static_assert(sizeof(kvf_sampled) == 32 + 12 * KVF_SAMPLED_MOST, "the same in C and Metal");
_Static_assert(sizeof(kvf_token_use) == 8 && sizeof(kvf_bias) == 8, "the same in C and Metal");
#endif

#endif
