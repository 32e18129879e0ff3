/* Rope tables on the host, for all backends (docs/FORMAT.md 1). */
#ifndef KVF_MODEL_ROPE_H
#define KVF_MODEL_ROPE_H

#include "model/config.h"

#define KVF_ROPE_PAIRS (KVF_ROPE_WIDTH / 2)

/* Inverse frequencies of the 32 pairs: theta^(-i/32), with YaRN's ramp where config says so. */
void kvf_rope_frequencies(const kvf_rope_config *config, float frequencies[KVF_ROPE_PAIRS]);

/*
 * cosines and sines [n][32] of positions first, first + step, ..: the angle is
 * (float)position * frequency rounded to f32, then cos and sin of that.
 */
void kvf_rope_fill(const float frequencies[KVF_ROPE_PAIRS], uint64_t first, uint64_t step,
                   uint32_t n, float *cosines, float *sines);

#endif
