/*
 * attend: one softmax over the window, the chosen rows and the sink, step by step as
 * in docs/FORMAT.md 9.2. Each row is decoded once for the maximum and once for the
 * sums; its dots are computed in both.
 */
#include "backend/ref/ref.h"

#include <math.h>

#include "shared/exp.h"
#include "shared/math64.h"
#include "shared/visible.h"

#define F16_MINUS_INFINITY 0xFC00

/* A row that a query looks at. */
struct attended_row {
    const kvf_rows *view;
    uint64_t row;
    float mask; /* added to the score; 0 except in the dense form */
};

/* Window rows of a query: the last window_tokens tokens up to itself. */
static uint64_t n_window_rows(const kvf_attend_args *args, uint32_t query)
{
    const uint64_t n_tokens = args->first_token + query + 1;
    return n_tokens < args->window_tokens ? n_tokens : args->window_tokens;
}

/* Places after the window: entries of the list or visible rows, looked at or skipped. */
static uint64_t n_row_places(const kvf_attend_args *args, uint32_t query)
{
    if (args->rows.n_rows == 0)
        return 0;
    return args->list ? args->list_len[query] : kvf_attend_visible(args, query);
}

/* What is at a place of the query's order: window oldest first, then rows. False: skipped. */
static bool row_at(const kvf_attend_args *args, uint32_t query, uint64_t place,
                   struct attended_row *found)
{
    const uint64_t n_window = n_window_rows(args, query);
    found->mask = 0.0f;
    if (place < n_window) {
        const uint64_t token = args->first_token + query + 1 - n_window + place;
        found->view = &args->window;
        found->row = token - args->window_first;
        return true;
    }
    place -= n_window;
    found->view = &args->rows;
    found->row = place;
    if (args->list) {
        const int32_t listed = args->list[query * args->list_stride + place];
        found->row = (uint64_t)listed;
        return listed >= 0;
    }
    if (args->mask_f32)
        found->mask = args->mask_f32[query * args->mask_stride + place];
    if (args->mask_f16)
        return args->mask_f16[query * args->mask_stride + place] != F16_MINUS_INFINITY;
    return true;
}

static float attend_score(const kvf_attend_args *args, const float *q, const float *value,
                          float mask)
{
    return kvf_ref_dot(q, value, KVF_ROW_WIDTH) * args->scale + mask;
}

/* max[h] over all rows and the head's sink; -infinity where there is neither. */
static void find_maxima(const kvf_attend_args *args, uint32_t query, const float *q, float *max)
{
    for (size_t h = 0; h < args->n_heads; h++)
        max[h] = args->sinks ? args->sinks[h] : -INFINITY;
    const uint64_t n_places = n_window_rows(args, query) + n_row_places(args, query);
    for (uint64_t place = 0; place < n_places; place++) {
        struct attended_row at;
        float value[KVF_ROW_WIDTH];
        if (!row_at(args, query, place, &at))
            continue;
        kvf_ref_load_row(at.view, at.row, value);
        for (size_t h = 0; h < args->n_heads; h++) {
            const float score = attend_score(args, q + h * KVF_ROW_WIDTH, value, at.mask);
            if (score > max[h])
                max[h] = score;
        }
    }
}

/* denominator[h] = sum of p; out[h][512] = sum of p * value. */
static void accumulate(const kvf_attend_args *args, uint32_t query, const float *q,
                       const float *max, float *denominator, float *out)
{
    for (size_t h = 0; h < args->n_heads; h++)
        denominator[h] = args->sinks ? kvf_exp(args->sinks[h] - max[h]) : 0.0f;
    for (size_t i = 0; i < (size_t)args->n_heads * KVF_ROW_WIDTH; i++)
        out[i] = 0.0f;
    const uint64_t n_places = n_window_rows(args, query) + n_row_places(args, query);
    for (uint64_t place = 0; place < n_places; place++) {
        struct attended_row at;
        float value[KVF_ROW_WIDTH];
        if (!row_at(args, query, place, &at))
            continue;
        kvf_ref_load_row(at.view, at.row, value);
        for (size_t h = 0; h < args->n_heads; h++) {
            const float score = attend_score(args, q + h * KVF_ROW_WIDTH, value, at.mask);
            const float p = kvf_exp(score - max[h]);
            float *acc = out + h * KVF_ROW_WIDTH;
            denominator[h] += p;
            for (size_t i = 0; i < KVF_ROW_WIDTH; i++)
                acc[i] = fmaf(p, value[i], acc[i]);
        }
    }
}

/* Divides; + 0 turns -0 into +0. Without any row or sink (max -infinity) the output is 0. */
static void finish(float max, float denominator, float *out, float *lse)
{
    const bool empty = max == -INFINITY;
    for (size_t i = 0; i < KVF_ROW_WIDTH; i++)
        out[i] = empty ? 0.0f : out[i] / denominator + 0.0f;
    if (lse)
        *lse = empty ? -INFINITY : max + (float)kvf_log_f64((double)denominator);
}

/* Maximum and denominator of each head. */
size_t kvf_ref_attend_workspace_bytes(uint32_t n_threads, const kvf_attend_args *args)
{
    (void)n_threads;
    return 2 * (size_t)args->n_heads * sizeof(float);
}

static void attend_queries(const kvf_attend_args *args)
{
    float *max = args->workspace;
    float *denominator = max + args->n_heads;
    for (uint32_t query = 0; query < args->n_queries; query++) {
        const size_t first_head = (size_t)query * args->n_heads;
        const float *q = args->q + first_head * KVF_ROW_WIDTH;
        float *out = args->out + first_head * KVF_ROW_WIDTH;
        find_maxima(args, query, q, max);
        accumulate(args, query, q, max, denominator, out);
        for (size_t h = 0; h < args->n_heads; h++)
            finish(max[h], denominator[h], out + h * KVF_ROW_WIDTH,
                   args->lse ? &args->lse[first_head + h] : NULL);
    }
}

void kvf_ref_attend(kvf_device *device, const kvf_attend_args *args, uint32_t n)
{
    (void)device;
    for (uint32_t i = 0; i < n; i++)
        attend_queries(&args[i]);
}
