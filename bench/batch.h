/*
 * batch: one token each of several sessions through a model at once. Sessions are filled with
 * synthetic rows (zeros where the host does not address the device's memory), each with pages of
 * its own; weights are the model's.
 */
#ifndef KVF_BENCH_BATCH_H
#define KVF_BENCH_BATCH_H

#include "bench/measure.h"
#include "model/model.h"

typedef struct bench_batch_input {
    kvf_model *model; /* with its activations reserved for n_sessions tokens */
    kvf_profile_id profile;
    uint64_t context_tokens; /* that sessions hold at the end */
    uint32_t n_sessions;
    uint32_t n_runs; /* 1 .. BENCH_MAX_RUNS; fewer than context_tokens */
} bench_batch_input;

typedef struct bench_batch_result {
    bench_spread seconds; /* of a pass */
    double tokens_per_second;
    /* Of a layer, over the layers of one pass: choices, and different experts among them. */
    uint32_t n_chosen;
    double n_distinct;
} bench_batch_result;

/* Sessions at a full context, and their batch. */
uint64_t bench_batch_bytes(const bench_batch_input *input);
/* KVF_UNSUPPORTED on a device whose memory the host cannot fill; else as the model says. */
kvf_status bench_batch_measure(const bench_batch_input *input, bench_batch_result *result,
                               kvf_error *error);

#endif
