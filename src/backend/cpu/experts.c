/*
 * Routing and experts: tokens are gathered by expert, so that each expert's
 * weights are read once for all of its tokens.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/blas.h"
#include "backend/cpu/kernels.h"

#define MOST_USED_EXPERTS 64

/* sqrt(softplus(x)), softplus(x) = max(x, 0) + log1p(exp(-|x|)): never overflows. */
static float route_score(float logit)
{
    return sqrtf(fmaxf(logit, 0.0f) + log1pf(expf(-fabsf(logit))));
}

/* The top_k experts by score + bias, highest first; equal: the lower expert. */
static void choose_experts(const kvf_route_args *args, const float *logits, int32_t *experts)
{
    float best[MOST_USED_EXPERTS];
    uint32_t n = 0;
    for (uint32_t e = 0; e < args->n_experts; e++) {
        const float score = route_score(logits[e]) + (args->bias ? args->bias[e] : 0.0f);
        uint32_t place = n;
        while (place > 0 && score > best[place - 1])
            place--;
        if (place >= args->top_k)
            continue;
        const uint32_t last = n < args->top_k ? n : args->top_k - 1;
        for (uint32_t i = last; i > place; i--) {
            best[i] = best[i - 1];
            experts[i] = experts[i - 1];
        }
        best[place] = score;
        experts[place] = (int32_t)e;
        n = n < args->top_k ? n + 1 : n;
    }
}

static void route_token(const kvf_route_args *args, uint32_t i)
{
    const float *logits = args->logits + (size_t)i * args->n_experts;
    int32_t *experts = args->experts + (size_t)i * args->top_k;
    float *weights = args->weights + (size_t)i * args->top_k;
    if (args->token_map)
        memcpy(experts, args->token_map + (size_t)args->tokens[i] * args->top_k,
               args->top_k * sizeof *experts);
    else
        choose_experts(args, logits, experts);
    float sum = 0.0f;
    for (uint32_t k = 0; k < args->top_k; k++) {
        weights[k] = route_score(logits[experts[k]]);
        sum += weights[k];
    }
    for (uint32_t k = 0; k < args->top_k; k++)
        weights[k] = (args->normalise ? weights[k] / (sum + 1e-20f) : weights[k]) * args->scaling;
}

static void route_tokens(void *context, size_t first, size_t end, uint32_t thread)
{
    (void)thread;
    for (size_t i = first; i < end; i++)
        route_token(context, (uint32_t)i);
}

void kvf_cpu_route(kvf_device *device, const kvf_route_args *args)
{
    kvf_cpu_loop(device, args->n > 16, args->n, 0, route_tokens, (void *)args);
}

typedef struct swiglu_work {
    float limit;
    float *gate;
    const float *up;
} swiglu_work;

/* gate = silu(min(gate, limit)) * clamp(up, -limit, limit) */
static void swiglu(void *context, size_t first, size_t end, uint32_t thread)
{
    const swiglu_work *work = context;
    const float limit = work->limit;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        float g = work->gate[i];
        float u = work->up[i];
        if (limit > 0.0f) {
            g = g < limit ? g : limit;
            u = u < limit ? (u > -limit ? u : -limit) : limit;
        }
        work->gate[i] = g / (1.0f + expf(-g)) * u;
    }
}

/* out[n][hidden] = expert(in), with gate and up of [n][ffn] as workspace. */
static void run_expert(kvf_device *device, const kvf_expert_weights *weights, float limit,
                       uint32_t n, const float *in, float *gate, float *up, float *out)
{
    const size_t ffn = weights->w1.rows;
    kvf_matmul_args product = {.n = n,
                               .weight = weights->w1,
                               .in = in,
                               .in_stride = weights->w1.cols,
                               .out = gate,
                               .out_stride = ffn};
    kvf_blas_matmul(device, &product);
    product.weight = weights->w3;
    product.out = up;
    kvf_blas_matmul(device, &product);
    swiglu_work work = {limit, gate, up};
    kvf_cpu_loop(device, n * ffn > 4096, n * ffn, 0, swiglu, &work);
    product = (kvf_matmul_args){.n = n,
                                .weight = weights->w2,
                                .in = gate,
                                .in_stride = ffn,
                                .out = out,
                                .out_stride = weights->w2.rows};
    kvf_blas_matmul(device, &product);
}

/* Runs one expert on the tokens that chose it, n at most at a time, and adds the result. */
static void add_expert(kvf_device *device, const kvf_experts_args *args, uint32_t expert)
{
    const size_t hidden = args->hidden;
    const size_t ffn = args->ffn > args->shared_ffn ? args->ffn : args->shared_ffn;
    float *in = args->workspace;
    float *out = in + args->n * hidden;
    float *gate = out + args->n * hidden;
    float *up = gate + args->n * ffn;
    const size_t n_choices = (size_t)args->n * args->top_k;
    size_t next = 0;
    while (next < n_choices) {
        const size_t begin = next;
        uint32_t n = 0;
        for (; next < n_choices && n < args->n; next++)
            if (args->experts[next] == (int32_t)expert)
                memcpy(in + n++ * hidden, args->in + next / args->top_k * hidden,
                       hidden * sizeof *in);
        if (n == 0)
            return;
        run_expert(device, &args->routed[expert], args->limit, n, in, gate, up, out);
        n = 0;
        for (size_t choice = begin; choice < next; choice++) {
            if (args->experts[choice] != (int32_t)expert)
                continue;
            const float weight = args->weights[choice];
            const float *from = out + n++ * hidden;
            float *to = args->out + choice / args->top_k * hidden;
            for (size_t d = 0; d < hidden; d++)
                to[d] += weight * from[d];
        }
    }
}

void kvf_cpu_experts(kvf_device *device, const kvf_experts_args *args)
{
    const size_t hidden = args->hidden;
    const size_t ffn = args->ffn > args->shared_ffn ? args->ffn : args->shared_ffn;
    if (args->shared_ffn) {
        float *gate = args->workspace + 2 * args->n * hidden;
        run_expert(device, &args->shared, args->limit, args->n, args->in, gate,
                   gate + args->n * ffn, args->out);
    } else {
        memset(args->out, 0, args->n * hidden * sizeof *args->out);
    }
    for (uint32_t expert = 0; expert < args->n_experts; expert++)
        add_expert(device, args, expert);
}
