/* What a model keeps for its forward passes (forward.c), and takes when it is opened (model.c). */
#ifndef KVF_MODEL_FORWARD_H
#define KVF_MODEL_FORWARD_H

#include "model/activations.h"
#include "model/rope.h"

struct kvf_forward {
    float *buffers[KVF_ACT_KEPT + 1];
    uint64_t bytes[KVF_ACT_KEPT + 1];
    float *act[KVF_ACT_COUNT]; /* into the buffers */
    uint64_t head_rows;        /* rows of logits that the shared buffer has room for */
    float *host_input;         /* [head_rows][hidden] what the head reads, to be checked */
    int32_t *host_experts;     /* [n_experts] chosen ones, whose weights are asked for */
    /* [n_host_logits][vocab] of last tokens, until the step is known to be good. */
    float *host_logits;
    uint32_t n_host_logits;
    kvf_sample_row sample_rows[KVF_HEAD_TOKENS]; /* of the pass that runs */
    float window_frequencies[KVF_ROPE_PAIRS];
    float compress_frequencies[KVF_ROPE_PAIRS];
};

/* Host memory for the logits of n items, kept for later passes. KVF_OUT_OF_MEMORY. */
kvf_status kvf_forward_reserve_logits(struct kvf_forward *forward, uint32_t n, uint32_t vocab,
                                      kvf_error *error);

#endif
