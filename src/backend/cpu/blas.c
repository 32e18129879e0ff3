#include "backend/cpu/blas.h"

#include "backend/cpu/kernels.h"

#if defined(KVF_BLAS_NONE)

/* One value of the output each: all rows for the first token, then for the next. */
static void dot_products(void *context, size_t first, size_t end, uint32_t thread)
{
    const kvf_matmul_args *args = context;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        const size_t token = i / args->weight.rows;
        const size_t row = i % args->weight.rows;
        const float *in = args->in + token * args->in_stride;
        const float *weight = args->weight.data + row * args->weight.cols;
        float sum = 0.0f;
        for (uint32_t j = 0; j < args->weight.cols; j++)
            sum += in[j] * weight[j];
        args->out[token * args->out_stride + row] = sum;
    }
}

void kvf_blas_matmul(kvf_device *device, const kvf_matmul_args *args)
{
    const size_t n_outputs = (size_t)args->n * args->weight.rows;
    kvf_cpu_loop(device, n_outputs > 64, n_outputs, 0, dot_products, (void *)args);
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

/*
 * Tokens and weight rows of a block at most: the library packs both once a block, which is
 * little beside 512 uses of each value.
 */
#define BLOCK_TOKENS 512
#define BLOCK_ROWS 512
/* A block of rows has at least this many multiply-adds, 10 microseconds of one thread. */
#define LEAST_BLOCK_WORK (1u << 18)
/* OpenBLAS ends the process where too many threads hold one of its buffers. */
#define MOST_CALLERS 64

/* How a product is cut: by its sizes alone, so that no bit depends on the threads. */
typedef struct block_work {
    const kvf_matmul_args *args;
    uint32_t block_tokens;
    uint32_t block_rows;
    uint32_t row_blocks;
} block_work;

static uint32_t lesser(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static void multiply_blocks(void *context, size_t first, size_t end, uint32_t thread)
{
    const block_work *work = context;
    const kvf_matmul_args *args = work->args;
    const int cols = (int)args->weight.cols;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        const uint32_t token = (uint32_t)(i / work->row_blocks) * work->block_tokens;
        const uint32_t row = (uint32_t)(i % work->row_blocks) * work->block_rows;
        const int n = (int)lesser(work->block_tokens, args->n - token);
        const int rows = (int)lesser(work->block_rows, args->weight.rows - row);
        const float *weight = args->weight.data + (size_t)row * args->weight.cols;
        const float *in = args->in + token * args->in_stride;
        float *out = args->out + token * args->out_stride + row;
        if (args->n == 1)
            cblas_sgemv(CblasRowMajor, CblasNoTrans, rows, cols, 1.0f, weight, cols, in, 1, 0.0f,
                        out, 1);
        else
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, rows, cols, 1.0f, in,
                        (int)args->in_stride, weight, cols, 0.0f, out, (int)args->out_stride);
    }
}

static uint32_t blocks_of(uint32_t n, uint32_t block)
{
    return n / block + (n % block != 0);
}

void kvf_blas_matmul(kvf_device *device, const kvf_matmul_args *args)
{
    const uint64_t row_work = (uint64_t)args->n * args->weight.cols;
    bool threaded = row_work * args->weight.rows >= LEAST_THREADED_WORK;
    block_work work = {args, args->n, args->weight.rows, 1};
    if (args->n == 0 || args->weight.rows == 0)
        return;
#if defined(__APPLE__)
    threaded = false; /* Accelerate has threads of its own */
#else
    /* Threads are the device's. The setting is the process', and somebody else may change it. */
    if (openblas_get_num_threads() != 1)
        openblas_set_num_threads(1);
#endif
    if (threaded) {
        work.block_tokens = lesser(args->n, BLOCK_TOKENS);
        const uint64_t least = LEAST_BLOCK_WORK / ((uint64_t)work.block_tokens * args->weight.cols);
        const uint64_t rows = least > work.block_tokens ? least : work.block_tokens;
        work.block_rows = rows < BLOCK_ROWS ? ((uint32_t)rows + 63) / 64 * 64 : BLOCK_ROWS;
        work.row_blocks = blocks_of(args->weight.rows, work.block_rows);
    }
#if !defined(__APPLE__)
    /* One built without threads has no locks; that for OpenMP is for threads of OpenMP's. */
    threaded = threaded && openblas_get_parallel() == OPENBLAS_THREAD;
#endif
    const size_t n_blocks = (size_t)blocks_of(args->n, work.block_tokens) * work.row_blocks;
    kvf_cpu_loop(device, threaded, n_blocks, (n_blocks - 1) / MOST_CALLERS + 1, multiply_blocks,
                 &work);
}

#endif
