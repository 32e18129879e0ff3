/* Choosing the next token from logits: greedy, temperature, top-p, min-p, with a seed. */
#ifndef KVF_MODEL_SAMPLE_H
#define KVF_MODEL_SAMPLE_H

#include "backend/backend.h"

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

/*
 * The same token, and the same state after it, from the highest logits alone. False, and nothing
 * has changed, where they do not tell: the row is needed. workspace is [KVF_SAMPLED_MOST]; the
 * temperature is that of `sampled`. Thread-safe.
 */
bool kvf_sample_few(kvf_sampler *sampler, const kvf_sampled *sampled, kvf_candidate *workspace,
                    uint32_t *token);

/* ---- Before it is drawn -------------------------------------------------------------------- */

/* Whether it changes nothing, whatever was answered. What changes is backend.h's. */
bool kvf_logit_changes_none(const kvf_logit_changes *changes);

/* ---- With the pass that makes the logits ---------------------------------------------------- */

/*
 * What a token will be drawn with, known before its logits: where the device has memory of its own,
 * they stay there and their highest come with the pass (kvf_batch_item.sampling). The caller's,
 * unchanged until the pass is over.
 */
typedef struct kvf_sampling {
    kvf_logit_changes changes;
    float temperature;
    bool is_sampled; /* by the pass: `sampled` is of the session's logits, until they change */
    kvf_sampled sampled;
} kvf_sampling;

/* Memory to draw with, of one thread. */
typedef struct kvf_drawing {
    kvf_candidate *candidates; /* [vocab], KVF_SAMPLED_MOST at least */
    float *logits;             /* [vocab]; may be NULL where nothing changes them */
    uint32_t vocab;
} kvf_drawing;

/*
 * The next token of a session, by what `sampling` has of its logits, or by the logits. Fails
 * where the device was lost that has them.
 */
kvf_status kvf_draw_token(kvf_sampler *sampler, kvf_session *session, const kvf_sampling *sampling,
                          const kvf_drawing *drawing, uint32_t *token, kvf_error *error);

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
/*
 * Close to them, from what a pass sampled, whose changes leave logprobs as they are. False where
 * that does not tell: the row is needed.
 */
bool kvf_logprobs_few(const kvf_sampling *sampling, uint32_t id, float *logprob, kvf_logprob *top,
                      uint32_t n_top);

#endif
