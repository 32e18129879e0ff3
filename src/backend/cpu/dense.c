/*
 * The dense layers: products (product.c), and loops over tokens in the order that ref/
 * spells out, shared among threads.
 */
#include <string.h>

#include "backend/cpu/product.h"
#include "shared/activation.h"

static void embed_tokens(void *context, size_t first, size_t end, uint32_t thread)
{
    const kvf_embed_args *args = context;
    const size_t hidden = args->table.cols;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        float *streams = args->streams + i * args->n_streams * hidden;
        kvf_weight_get(args->table.type)->decode(&args->table, (uint32_t)args->tokens[i], streams);
        for (uint32_t s = 1; s < args->n_streams; s++)
            memcpy(streams + s * hidden, streams, hidden * sizeof *streams);
    }
}

void kvf_cpu_embed(kvf_device *device, const kvf_embed_args *args)
{
    kvf_cpu_loop(device, args->n > 16, args->n, 0, embed_tokens, (void *)args);
}

void kvf_cpu_matmul(kvf_device *device, const kvf_matmul_args *args)
{
    kvf_products(device, args, 1);
}

typedef struct norm_work {
    const kvf_cpu_kernels *kernels;
    const kvf_norm_args *args;
} norm_work;

static void norm_rows(void *context, size_t first, size_t end, uint32_t thread)
{
    const norm_work *work = context;
    const kvf_norm_args *args = work->args;
    (void)thread;
    for (size_t i = first; i < end; i++)
        work->kernels->norm(args->in + i * args->in_stride, args->out + i * args->out_stride,
                            args->weight, args->width, args->eps);
}

void kvf_cpu_norm(kvf_device *device, const kvf_norm_args *args)
{
    norm_work work = {kvf_kernels_of(device), args};
    kvf_cpu_loop(device, args->n * args->width > 65536, args->n, 0, norm_rows, &work);
}

static void rotate_rows(void *context, size_t first, size_t end, uint32_t thread)
{
    const kvf_rope_args *args = context;
    const uint32_t pairs = KVF_ROPE_WIDTH / 2;
    const float direction = args->inverse ? -1.0f : 1.0f;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        float *tail = args->values + (i + 1) * args->width - KVF_ROPE_WIDTH;
        const float *cosines = args->table.cosines + i / args->heads * pairs;
        const float *sines = args->table.sines + i / args->heads * pairs;
        for (uint32_t p = 0; p < pairs; p++) {
            const float x = tail[2 * p];
            const float y = tail[2 * p + 1];
            const float sine = direction * sines[p];
            tail[2 * p] = x * cosines[p] - y * sine;
            tail[2 * p + 1] = x * sine + y * cosines[p];
        }
    }
}

void kvf_cpu_rope(kvf_device *device, const kvf_rope_args *args)
{
    const size_t n_rows = (size_t)args->n * args->heads;
    kvf_cpu_loop(device, n_rows > 256, n_rows, 0, rotate_rows, (void *)args);
}

/* ---- Hyper-connections ------------------------------------------------------- */

/* One Sinkhorn pass: each column (or row) is divided by its sum + eps. */
static void normalise_columns(float *comb, uint32_t n, float eps)
{
    for (uint32_t k = 0; k < n; k++) {
        float sum = 0.0f;
        for (uint32_t j = 0; j < n; j++)
            sum += comb[j * n + k];
        for (uint32_t j = 0; j < n; j++)
            comb[j * n + k] /= sum + eps;
    }
}

static void normalise_rows(float *comb, uint32_t n, float eps)
{
    for (uint32_t j = 0; j < n; j++) {
        float sum = 0.0f;
        for (uint32_t k = 0; k < n; k++)
            sum += comb[j * n + k];
        for (uint32_t k = 0; k < n; k++)
            comb[j * n + k] /= sum + eps;
    }
}

static void sinkhorn(float *comb, uint32_t n, uint32_t rounds, float eps)
{
    for (uint32_t j = 0; j < n; j++) {
        float *row = comb + j * n;
        float max = row[0];
        float sum = 0.0f;
        for (uint32_t k = 1; k < n; k++)
            max = row[k] > max ? row[k] : max;
        for (uint32_t k = 0; k < n; k++) {
            row[k] = kvf_exp_or_nan(row[k] - max);
            sum += row[k];
        }
        for (uint32_t k = 0; k < n; k++)
            row[k] = row[k] / sum + eps;
    }
    normalise_columns(comb, n, eps);
    for (uint32_t round = 1; round < rounds; round++) {
        normalise_rows(comb, n, eps);
        normalise_columns(comb, n, eps);
    }
}

/* One token: mix holds the raw products with fn. */
static void mix_token(const kvf_cpu_kernels *kernels, const kvf_mix_args *args, uint32_t i)
{
    const uint32_t n = args->n_streams;
    const size_t flat_width = (size_t)n * args->hidden;
    const float *flat = args->streams + i * flat_width;
    const bool head = args->sinkhorn_rounds == 0;
    const uint32_t n_mix = head ? n : n * (2 + n);
    float *mix = args->mix + (size_t)i * n_mix;
    const float square = kvf_product_of_f32(kernels, flat, flat, (uint32_t)flat_width);
    const float rms = 1.0f / sqrtf(square / (float)flat_width + args->norm_eps);
    float pre[KVF_MAX_STREAMS];
    for (uint32_t m = 0; m < n_mix; m++) {
        const uint32_t part = m < n ? 0 : m < 2 * n ? 1 : 2;
        const float x = mix[m] * rms * args->weights.scale[part] + args->weights.base[m];
        if (part == 0)
            pre[m] = kvf_sigmoid(x) + args->eps;
        else if (part == 1)
            args->post[(size_t)i * n + m - n] = 2.0f * kvf_sigmoid(x);
        else
            args->comb[(size_t)i * n * n + m - 2 * n] = x;
    }
    if (!head)
        sinkhorn(args->comb + (size_t)i * n * n, n, args->sinkhorn_rounds, args->eps);
    float *out = args->out + (size_t)i * args->hidden;
    for (uint32_t d = 0; d < args->hidden; d++)
        out[d] = pre[0] * flat[d];
    for (uint32_t j = 1; j < n; j++)
        for (uint32_t d = 0; d < args->hidden; d++)
            out[d] += pre[j] * flat[(size_t)j * args->hidden + d];
}

typedef struct mix_work {
    const kvf_cpu_kernels *kernels;
    const kvf_mix_args *args;
} mix_work;

static void mix_tokens(void *context, size_t first, size_t end, uint32_t thread)
{
    const mix_work *work = context;
    (void)thread;
    for (size_t i = first; i < end; i++)
        mix_token(work->kernels, work->args, (uint32_t)i);
}

void kvf_cpu_mix(kvf_device *device, const kvf_mix_args *args)
{
    const kvf_matmul_args product = {.n = args->n,
                                     .weight = args->weights.fn,
                                     .in = args->streams,
                                     .in_stride = (size_t)args->n_streams * args->hidden,
                                     .out = args->mix,
                                     .out_stride = args->weights.fn.rows};
    kvf_products(device, &product, 1);
    mix_work work = {kvf_kernels_of(device), args};
    kvf_cpu_loop(device, args->n > 4, args->n, 0, mix_tokens, &work);
}

/* Values of each stream that are mixed at a time: the old ones stay in the L1 cache. */
#define UNMIX_BLOCK 64

/* streams[k] = post[k] * sublayer + comb[0][k] * old[0] + ..., for one block of values. */
static void unmix_block(const kvf_unmix_args *args, uint32_t i, uint32_t first, uint32_t n_values)
{
    const uint32_t n = args->n_streams;
    float *streams = args->streams + (size_t)i * n * args->hidden + first;
    const float *sublayer = args->sublayer + (size_t)i * args->hidden + first;
    const float *post = args->post + (size_t)i * n;
    const float *comb = args->comb + (size_t)i * n * n;
    float old[KVF_MAX_STREAMS][UNMIX_BLOCK];
    for (uint32_t j = 0; j < n; j++)
        memcpy(old[j], streams + (size_t)j * args->hidden, n_values * sizeof *streams);
    for (uint32_t k = 0; k < n; k++) {
        float sums[UNMIX_BLOCK];
        for (uint32_t d = 0; d < n_values; d++)
            sums[d] = post[k] * sublayer[d];
        for (uint32_t j = 0; j < n; j++)
            for (uint32_t d = 0; d < n_values; d++)
                sums[d] += comb[j * n + k] * old[j][d];
        memcpy(streams + (size_t)k * args->hidden, sums, n_values * sizeof *sums);
    }
}

static void unmix_tokens(void *context, size_t first, size_t end, uint32_t thread)
{
    const kvf_unmix_args *args = context;
    (void)thread;
    for (size_t i = first; i < end; i++)
        for (uint32_t value = 0; value < args->hidden; value += UNMIX_BLOCK) {
            const uint32_t left = args->hidden - value;
            unmix_block(args, (uint32_t)i, value, left < UNMIX_BLOCK ? left : UNMIX_BLOCK);
        }
}

void kvf_cpu_unmix(kvf_device *device, const kvf_unmix_args *args)
{
    kvf_cpu_loop(device, args->n > 4, args->n, 0, unmix_tokens, (void *)args);
}
