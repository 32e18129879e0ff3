/* Choosing the next token from logits: greedy, temperature, top-p, min-p, with a seed. */
#ifndef KVF_MODEL_SAMPLE_H
#define KVF_MODEL_SAMPLE_H

#include "kvfold.h"

typedef struct kvf_sampler {
    float temperature; /* 0: greedy, the rest is ignored */
    float top_p;       /* 1: off; the smallest set of at least this probability, 0: the likeliest */
    float min_p;       /* 0: off; drops tokens below min_p * the highest probability */
    uint64_t state;    /* seed it with any value; advances once a sampled token */
} kvf_sampler;

/*
 * The sampler in the bytes that a session keeps for its caller (docs/FORMAT.md 10.7): in the
 * first 24 of them, the others are not touched.
 * Restoring returns false where they hold none, and leaves the sampler as it is.
 */
void kvf_sampler_store(const kvf_sampler *sampler, uint8_t bytes[KVF_CALLER_STATE_BYTES]);
bool kvf_sampler_restore(kvf_sampler *sampler, const uint8_t bytes[KVF_CALLER_STATE_BYTES]);

/* The highest logit; equal ones: the lower id. */
uint32_t kvf_argmax(const float *logits, uint32_t vocab);

/* A token by the sampler's settings. workspace is [vocab] of kvf_candidate. Thread-safe. */
typedef struct kvf_candidate {
    float p;
    uint32_t token;
} kvf_candidate;
uint32_t kvf_sample(kvf_sampler *sampler, const float *logits, uint32_t vocab,
                    kvf_candidate *workspace);

#endif
