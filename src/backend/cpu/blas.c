#include "backend/cpu/blas.h"

#if defined(KVF_BLAS_NONE)

void kvf_blas_matmul(uint32_t n_threads, const kvf_matmul_args *args)
{
    const int64_t n_outputs = (int64_t)args->n * args->weight.rows;
#pragma omp parallel for schedule(static) num_threads((int)n_threads) if (n_outputs > 64)
    for (int64_t i = 0; i < n_outputs; i++) {
        const size_t token = (size_t)i / args->weight.rows;
        const size_t row = (size_t)i % args->weight.rows;
        const float *in = args->in + token * args->in_stride;
        const float *weight = args->weight.data + row * args->weight.cols;
        float sum = 0.0f;
        for (uint32_t j = 0; j < args->weight.cols; j++)
            sum += in[j] * weight[j];
        args->out[token * args->out_stride + row] = sum;
    }
}

#else

#if defined(__APPLE__)
#include <Accelerate/Accelerate.h>
#else
#include <cblas.h>
#endif

/*
 * Multiply-adds below which one thread is used: 2^20 take about 30 microseconds, no
 * more than waking threads costs where other programs want the cores too.
 */
#define LEAST_THREADED_WORK (1u << 20)

static void use_threads(uint32_t n_threads, const kvf_matmul_args *args)
{
    if ((uint64_t)args->n * args->weight.rows * args->weight.cols < LEAST_THREADED_WORK)
        n_threads = 1;
#if !defined(__APPLE__)
    if (openblas_get_num_threads() != (int)n_threads)
        openblas_set_num_threads((int)n_threads);
#else
    (void)n_threads; /* Accelerate chooses by itself */
#endif
}

void kvf_blas_matmul(uint32_t n_threads, const kvf_matmul_args *args)
{
    const int rows = (int)args->weight.rows;
    const int cols = (int)args->weight.cols;
    if (args->n == 0 || rows == 0)
        return;
    use_threads(n_threads, args);
    if (args->n == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, rows, cols, 1.0f, args->weight.data, cols,
                    args->in, 1, 0.0f, args->out, 1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)args->n, rows, cols, 1.0f,
                    args->in, (int)args->in_stride, args->weight.data, cols, 0.0f, args->out,
                    (int)args->out_stride);
}

#endif
