#include "model/rope.h"

#include <math.h>

#include "shared/math64.h"

#define TWO_PI 6.283185307179586

/*
 * The pair whose wavelength makes `rotations` turns over the original context
 * (YaRN, Peng et al. 2023, as the model was trained with it).
 */
static double correction_pair(const kvf_rope_config *config, double rotations)
{
    return KVF_ROPE_WIDTH * kvf_log_f64(config->original_max_tokens / (rotations * TWO_PI)) /
           (2.0 * kvf_log_f64(config->theta));
}

void kvf_rope_frequencies(const kvf_rope_config *config, float frequencies[KVF_ROPE_PAIRS])
{
    double low = 0.0;
    double high = 0.0;
    if (config->yarn) {
        low = fmax(floor(correction_pair(config, config->beta_fast)), 0.0);
        high = fmin(ceil(correction_pair(config, config->beta_slow)), KVF_ROPE_WIDTH - 1.0);
        if (high <= low)
            high = low + 0.001; /* a step instead of a ramp */
    }
    for (int i = 0; i < KVF_ROPE_PAIRS; i++) {
        const double exponent = (double)(2 * i) / KVF_ROPE_WIDTH;
        const float power = (float)kvf_pow_f64((double)(float)config->theta, exponent);
        const float plain = 1.0f / power;
        if (!config->yarn) {
            frequencies[i] = plain;
            continue;
        }
        const float stretched = 1.0f / ((float)config->factor * power);
        float ramp = ((float)i - (float)low) / (float)(high - low);
        ramp = ramp < 0.0f ? 0.0f : ramp > 1.0f ? 1.0f : ramp;
        const float kept = 1.0f - ramp;
        frequencies[i] = stretched * (1.0f - kept) + plain * kept;
    }
}

void kvf_rope_fill(const float frequencies[KVF_ROPE_PAIRS], uint64_t first, uint64_t step,
                   uint32_t n, float *cosines, float *sines)
{
    for (uint32_t i = 0; i < n; i++) {
        const float position = (float)(first + i * step);
        for (int p = 0; p < KVF_ROPE_PAIRS; p++) {
            const float angle = position * frequencies[p];
            double sine, cosine;
            kvf_sin_cos_f64((double)angle, &sine, &cosine);
            cosines[(uint64_t)i * KVF_ROPE_PAIRS + p] = (float)cosine;
            sines[(uint64_t)i * KVF_ROPE_PAIRS + p] = (float)sine;
        }
    }
}
