/* Choosing the next token from logits: greedy, temperature, top-p, min-p, with a seed. */
#ifndef KVF_MODEL_SAMPLE_H
#define KVF_MODEL_SAMPLE_H

#include "kvfold.h"

typedef struct kvf_sampler {
    float temperature; /* 0: greedy, the rest is ignored */
    float top_p;       /* 1: off; the smallest set of at least this probability, 0: the likeliest */
    float min_p;       /* 0: off; drops tokens below min_p * the highest probability */
    uint64_t state;    /* seed it with any value; advances once a sampled token */
    uint32_t top_k;    /* 0: off; the likeliest so many, before top_p. Not stored below. */
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

/* ---- Before it is drawn -------------------------------------------------------------------- */

typedef struct kvf_bias {
    int32_t id;
    float value; /* added to the logit; -infinity: never drawn */
} kvf_bias;

/* What changes logits before a token is drawn from them. */
typedef struct kvf_logit_changes {
    const kvf_bias *bias; /* [n_bias]; of one id that comes twice both count */
    uint32_t n_bias;
    float repeat_penalty;    /* 1: off; divides what is above 0, multiplies what is below .. */
    float presence_penalty;  /* 0: off; taken from each token that was answered .. */
    float frequency_penalty; /* 0: off; .. and for each time that it was */
    const uint8_t *seen;     /* [vocab] .. of tokens of prompt or answer; NULL: of none */
    const uint32_t *counts;  /* [vocab] how often a token was answered; NULL: never */
} kvf_logit_changes;
/* Whether it changes nothing, whatever was answered. */
bool kvf_logit_changes_none(const kvf_logit_changes *changes);
/* logits[vocab] with the penalties, and then the bias, to changed[vocab]. Thread-safe. */
void kvf_change_logits(const kvf_logit_changes *changes, const float *logits, uint32_t vocab,
                       float *changed);

/* ---- After it is drawn --------------------------------------------------------------------- */

typedef struct kvf_logprob {
    int32_t id;
    float logprob; /* natural logarithm of its softmax; -infinity where it has none */
} kvf_logprob;
/*
 * The logprob of one token, and of the n_top (at most vocab) likeliest, likeliest first, equal ones
 * by id. They are log-softmax of these logits, which NaN is not part of. Thread-safe.
 */
float kvf_logprobs(const float *logits, uint32_t vocab, uint32_t id, kvf_logprob *top,
                   uint32_t n_top);

#endif
