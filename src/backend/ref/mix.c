/*
 * mix: the input side of a hyper-connection (mHC). The token's n streams, taken as
 * one vector, give by one small product
 *   pre[j]      weight of stream j in the sublayer's input, sigmoid + eps
 *   post[k]     weight of the sublayer's output in stream k, 2 * sigmoid
 *   comb[j][k]  weight of old stream j in new stream k, nearly doubly stochastic
 * The head's form (sinkhorn_rounds == 0) has pre alone.
 */
#include "backend/ref/ref.h"

#include "shared/activation.h"

/* Divides each row of m[n][n] by its sum + eps. */
static void normalise_rows(float *m, size_t n, float eps)
{
    for (size_t j = 0; j < n; j++) {
        float sum = 0.0f;
        for (size_t k = 0; k < n; k++)
            sum += m[j * n + k];
        for (size_t k = 0; k < n; k++)
            m[j * n + k] /= sum + eps;
    }
}

/* Divides each column of m[n][n] by its sum + eps. */
static void normalise_columns(float *m, size_t n, float eps)
{
    for (size_t k = 0; k < n; k++) {
        float sum = 0.0f;
        for (size_t j = 0; j < n; j++)
            sum += m[j * n + k];
        for (size_t j = 0; j < n; j++)
            m[j * n + k] /= sum + eps;
    }
}

/* Softmax over the last axis of m[n][n], plus eps. */
static void softmax_rows(float *m, size_t n, float eps)
{
    for (size_t j = 0; j < n; j++) {
        float *row = m + j * n;
        float max = row[0];
        for (size_t k = 1; k < n; k++)
            max = fmaxf(max, row[k]);
        float sum = 0.0f;
        for (size_t k = 0; k < n; k++) {
            row[k] = kvf_exp_or_nan(row[k] - max);
            sum += row[k];
        }
        for (size_t k = 0; k < n; k++)
            row[k] = row[k] / sum + eps;
    }
}

/* comb from its logits: Sinkhorn's alternating passes; the last one is a column pass. */
static void sinkhorn(float *comb, size_t n, uint32_t rounds, float eps)
{
    softmax_rows(comb, n, eps);
    normalise_columns(comb, n, eps);
    for (uint32_t round = 1; round < rounds; round++) {
        normalise_rows(comb, n, eps);
        normalise_columns(comb, n, eps);
    }
}

/* mix[m] = (fn[m] . flat) / rms(flat) */
static void project(const kvf_mix_args *args, const float *flat, size_t n_mix, float *mix)
{
    const size_t n_flat = (size_t)args->n_streams * args->hidden;
    const float mean_square = kvf_ref_dot(flat, flat, n_flat) / (float)n_flat;
    const float r = 1.0f / sqrtf(mean_square + args->norm_eps);
    for (size_t m = 0; m < n_mix; m++)
        mix[m] = kvf_ref_dot_row(&args->weights.fn, (uint32_t)m, flat) * r;
}

void kvf_ref_mix(kvf_device *device, const kvf_mix_args *args)
{
    (void)device;
    const size_t n = args->n_streams;
    const bool head = args->sinkhorn_rounds == 0;
    const size_t n_mix = head ? n : n * (2 + n);
    const float *scale = args->weights.scale;
    const float *base = args->weights.base;

    for (size_t t = 0; t < args->n; t++) {
        const float *flat = args->streams + t * n * args->hidden;
        float *mix = args->mix + t * n_mix;
        project(args, flat, n_mix, mix);

        float *pre = mix;
        for (size_t j = 0; j < n; j++)
            pre[j] = kvf_sigmoid(mix[j] * scale[0] + base[j]) + args->eps;
        for (size_t i = 0; i < args->hidden; i++) {
            float sum = 0.0f;
            for (size_t j = 0; j < n; j++)
                sum += pre[j] * flat[j * args->hidden + i];
            args->out[t * args->hidden + i] = sum;
        }
        if (head)
            continue;

        for (size_t k = 0; k < n; k++)
            args->post[t * n + k] = 2.0f * kvf_sigmoid(mix[n + k] * scale[1] + base[n + k]);
        float *comb = args->comb + t * n * n;
        for (size_t i = 0; i < n * n; i++)
            comb[i] = mix[2 * n + i] * scale[2] + base[2 * n + i];
        sinkhorn(comb, n, args->sinkhorn_rounds, args->eps);
    }
}
