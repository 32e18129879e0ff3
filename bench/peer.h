/*
 * The peer: select, attend and products of f32 as an engineer would write them first, with
 * a BLAS and plain C over f32 rows. sgemm for all scores, ReLU, sgemv over the heads, a
 * quickselect; rows gathered, sgemm, softmax with expf, sgemm.
 *
 * OpenBLAS chooses its kernels when it is loaded; the environment variable
 * OPENBLAS_CORETYPE chooses for it.
 */
#ifndef KVF_BENCH_PEER_H
#define KVF_BENCH_PEER_H

#include "kvfold.h"

/* Whether OpenBLAS was there when this was built, and is now: the first call loads it. */
bool bench_peer_available(void);
/* "OpenBLAS 0.3.21" and the kernels that it runs, "SkylakeX"; "" without OpenBLAS. */
const char *bench_peer_version(char *text, size_t text_bytes);
const char *bench_peer_core(void);

typedef struct bench_peer_select_args {
    kvf_device *device; /* whose threads run the plain loops; OpenBLAS takes as many */
    uint32_t n_queries;
    uint32_t n_heads;
    uint32_t top_k; /* at most n_rows */
    uint64_t n_rows;
    const float *queries;      /* [n_queries][n_heads][128] */
    const float *head_weights; /* [n_queries][n_heads] */
    const float *keys;         /* [n_rows][128] */
    float *head_scores;        /* workspace [n_rows][n_heads] */
    float *scores;             /* workspace [n_rows] */
    int32_t *order;            /* workspace [n_rows] */
    int32_t *list;             /* out [n_queries][top_k], ascending */
} bench_peer_select_args;
void bench_peer_select(const bench_peer_select_args *args);

typedef struct bench_peer_attend_args {
    kvf_device *device; /* whose threads run the plain loops; OpenBLAS takes as many */
    uint32_t n_heads;
    const float *q;     /* [n_heads][512] */
    const float *sinks; /* [n_heads] */
    float scale;
    uint32_t n_window;
    const float *window; /* [n_window][512] */
    uint32_t n_rows;
    const int32_t *list; /* [n_rows] of rows, or NULL: 0, 1, 2 .. */
    const float *rows;   /* [..][512] */
    float *gathered;     /* workspace [n_window + n_rows][512] */
    float *scores;       /* workspace [n_heads][n_window + n_rows] */
    float *out;          /* [n_heads][512] */
} bench_peer_attend_args;
void bench_peer_attend(const bench_peer_attend_args *args);

typedef struct bench_peer_matmul_args {
    kvf_device *device; /* OpenBLAS takes as many threads */
    uint32_t n;
    uint32_t rows;
    uint32_t cols;
    const float *weight; /* [rows][weight_stride], of which cols are taken */
    size_t weight_stride;
    const float *in; /* [n][in_stride] */
    size_t in_stride;
    float *out; /* [n][out_stride] */
    size_t out_stride;
} bench_peer_matmul_args;
void bench_peer_matmul(const bench_peer_matmul_args *args);

#endif
