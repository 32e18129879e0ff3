#include "bench/peer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dlfcn.h>

#include <cblas.h>

#include "backend/backend.h"

/* ---- The k best ---------------------------------------------------------------- */

/* Higher score first, then lower row. */
static bool before(const float *scores, int32_t a, int32_t b)
{
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
}

static void swap(int32_t *order, int64_t i, int64_t j)
{
    const int32_t row = order[i];
    order[i] = order[j];
    order[j] = row;
}

/* Quickselect: afterwards the k best rows are order[0 .. k). */
static void select_best(const float *scores, int32_t *order, int64_t n, int64_t k)
{
    int64_t low = 0;
    int64_t high = n - 1;
    while (low < high) {
        const int32_t pivot = order[low + (high - low) / 2];
        int64_t i = low;
        int64_t j = high;
        while (i <= j) {
            while (before(scores, order[i], pivot))
                i++;
            while (before(scores, pivot, order[j]))
                j--;
            if (i <= j)
                swap(order, i++, j--);
        }
        if (k - 1 <= j)
            high = j;
        else if (k - 1 >= i)
            low = i;
        else
            return;
    }
}

static int compare_rows(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a;
    const int32_t y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* ---- OpenBLAS ------------------------------------------------------------------ */

/*
 * Loaded when a bench asks for it and not with the command: it starts threads as soon as it
 * is there, and takes memory for each.
 */
static struct openblas {
    bool tried;
    void *library;
    __typeof__(&cblas_sgemm) sgemm;
    __typeof__(&cblas_sgemv) sgemv;
    __typeof__(&openblas_get_config) get_config;
    __typeof__(&openblas_get_corename) get_corename;
    __typeof__(&openblas_get_num_threads) get_num_threads;
    __typeof__(&openblas_set_num_threads) set_num_threads;
} openblas;

/* POSIX: what dlsym returns may be stored as a pointer to a function. */
static bool find(const char *name, void *function)
{
    void *found = dlsym(openblas.library, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

bool bench_peer_available(void)
{
    if (!openblas.tried) {
        openblas.tried = true;
        openblas.library = dlopen(KVF_OPENBLAS_PATH, RTLD_NOW | RTLD_LOCAL);
        if (openblas.library &&
            !(find("cblas_sgemm", &openblas.sgemm) && find("cblas_sgemv", &openblas.sgemv) &&
              find("openblas_get_config", &openblas.get_config) &&
              find("openblas_get_corename", &openblas.get_corename) &&
              find("openblas_get_num_threads", &openblas.get_num_threads) &&
              find("openblas_set_num_threads", &openblas.set_num_threads)))
            openblas.library = NULL;
    }
    return openblas.library != NULL;
}

/* openblas_get_config: "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ..". */
const char *bench_peer_version(char *text, size_t text_bytes)
{
    const char *config = openblas.get_config();
    size_t length = strcspn(config, " ");
    if (config[length])
        length += 1 + strcspn(config + length + 1, " ");
    snprintf(text, text_bytes, "%.*s", (int)length, config);
    return text;
}

const char *bench_peer_core(void)
{
    return openblas.get_corename();
}

/* OpenBLAS keeps one number for the process; devices here may have several. */
static void use_threads(const kvf_device *device)
{
    const int n_threads = (int)kvf_device_n_threads(device);
    if (openblas.get_num_threads() != n_threads)
        openblas.set_num_threads(n_threads);
}

/* ReLU of all heads' scores of rows. */
static void clear_negative(void *context, size_t first, size_t end, uint32_t thread)
{
    const bench_peer_select_args *args = context;
    float *scores = args->head_scores;
    (void)thread;
    for (size_t i = first * args->n_heads; i < end * args->n_heads; i++)
        scores[i] = scores[i] > 0.0f ? scores[i] : 0.0f;
}

/* Rows that a thread takes at a time. */
#define PIECE_ROWS 64

static void select_query(const bench_peer_select_args *args, uint32_t query)
{
    const int n_rows = (int)args->n_rows;
    const int n_heads = (int)args->n_heads;
    const float *q = args->queries + (size_t)query * args->n_heads * KVF_INDEX_WIDTH;
    const float *weights = args->head_weights + (size_t)query * args->n_heads;
    int32_t *list = args->list + (size_t)query * args->top_k;
    openblas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n_rows, n_heads, KVF_INDEX_WIDTH, 1.0f,
                   args->keys, KVF_INDEX_WIDTH, q, KVF_INDEX_WIDTH, 0.0f, args->head_scores,
                   n_heads);
    kvf_device_run(args->device, args->n_rows, PIECE_ROWS, clear_negative, (void *)args);
    openblas.sgemv(CblasRowMajor, CblasNoTrans, n_rows, n_heads, 1.0f, args->head_scores, n_heads,
                   weights, 1, 0.0f, args->scores, 1);
    for (int32_t row = 0; row < n_rows; row++)
        args->order[row] = row;
    select_best(args->scores, args->order, n_rows, args->top_k);
    memcpy(list, args->order, args->top_k * sizeof *list);
    qsort(list, args->top_k, sizeof *list, compare_rows);
}

void bench_peer_select(const bench_peer_select_args *args)
{
    use_threads(args->device);
    for (uint32_t query = 0; query < args->n_queries; query++)
        select_query(args, query);
}

/* scores[n_rows] to probabilities; the sink takes its share. */
static void softmax(float *scores, uint32_t n_rows, float sink)
{
    float max = sink;
    float sum;
    for (uint32_t i = 0; i < n_rows; i++)
        max = scores[i] > max ? scores[i] : max;
    sum = expf(sink - max);
    for (uint32_t i = 0; i < n_rows; i++) {
        scores[i] = expf(scores[i] - max);
        sum += scores[i];
    }
    for (uint32_t i = 0; i < n_rows; i++)
        scores[i] /= sum;
}

static void gather_rows(void *context, size_t first, size_t end, uint32_t thread)
{
    const bench_peer_attend_args *args = context;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        const size_t row = i - args->n_window;
        const float *from = i < args->n_window ? args->window + i * KVF_ROW_WIDTH
                            : args->list ? args->rows + (size_t)args->list[row] * KVF_ROW_WIDTH
                                         : args->rows + row * KVF_ROW_WIDTH;
        memcpy(args->gathered + i * KVF_ROW_WIDTH, from, KVF_ROW_WIDTH * sizeof *from);
    }
}

static void softmax_heads(void *context, size_t first, size_t end, uint32_t thread)
{
    const bench_peer_attend_args *args = context;
    const uint32_t total = args->n_window + args->n_rows;
    (void)thread;
    for (size_t h = first; h < end; h++)
        softmax(args->scores + h * total, total, args->sinks[h]);
}

void bench_peer_attend(const bench_peer_attend_args *args)
{
    const uint32_t total = args->n_window + args->n_rows;
    const int n = (int)total;
    const int n_heads = (int)args->n_heads;
    use_threads(args->device);
    kvf_device_run(args->device, total, PIECE_ROWS, gather_rows, (void *)args);
    openblas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n_heads, n, KVF_ROW_WIDTH, args->scale,
                   args->q, KVF_ROW_WIDTH, args->gathered, KVF_ROW_WIDTH, 0.0f, args->scores, n);
    kvf_device_run(args->device, args->n_heads, 1, softmax_heads, (void *)args);
    openblas.sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n_heads, KVF_ROW_WIDTH, n, 1.0f,
                   args->scores, n, args->gathered, KVF_ROW_WIDTH, 0.0f, args->out, KVF_ROW_WIDTH);
}

void bench_peer_matmul(const bench_peer_matmul_args *args)
{
    use_threads(args->device);
    openblas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)args->n, (int)args->rows,
                   (int)args->cols, 1.0f, args->in, (int)args->in_stride, args->weight,
                   (int)args->weight_stride, 0.0f, args->out, (int)args->out_stride);
}
