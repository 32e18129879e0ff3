/* matmul: out = in * weight^T, and the dot product that every stage is built on. */
#include "backend/ref/ref.h"

#include <math.h>

/* Columns of a row that are decoded at a time; a multiple of every block and of the lanes. */
#define COLS_AT_A_TIME 1024

static void add_products(const float *a, const float *b, size_t n, float *lanes)
{
    for (size_t i = 0; i < n; i++)
        lanes[i % KVF_REF_DOT_LANES] = fmaf(a[i], b[i], lanes[i % KVF_REF_DOT_LANES]);
    /* The last values are filled up with zeros. */
    for (size_t i = n; i % KVF_REF_DOT_LANES != 0; i++)
        lanes[i % KVF_REF_DOT_LANES] = fmaf(0.0f, 0.0f, lanes[i % KVF_REF_DOT_LANES]);
}

static float sum_of_lanes(float *lanes)
{
    for (size_t half = KVF_REF_DOT_LANES / 2; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    return lanes[0];
}

float kvf_ref_dot(const float *a, const float *b, size_t n)
{
    float lanes[KVF_REF_DOT_LANES] = {0};
    add_products(a, b, n, lanes);
    return sum_of_lanes(lanes);
}

float kvf_ref_dot_row(const kvf_matrix *matrix, uint32_t row, const float *x)
{
    const kvf_weight_type *type = kvf_weight_get(matrix->type);
    float values[COLS_AT_A_TIME];
    float lanes[KVF_REF_DOT_LANES] = {0};
    for (uint32_t col = 0; col < matrix->cols; col += COLS_AT_A_TIME) {
        const uint32_t left = matrix->cols - col;
        const uint32_t n = left < COLS_AT_A_TIME ? left : COLS_AT_A_TIME;
        const kvf_matrix part = kvf_matrix_columns(matrix, col, n);
        type->decode(&part, row, values);
        add_products(values, x + col, n, lanes);
    }
    return sum_of_lanes(lanes);
}

void kvf_ref_matmul(kvf_device *device, const kvf_matmul_args *args)
{
    (void)device;
    const uint32_t rows_of_group = args->weight.rows / (args->groups ? args->groups : 1);
    for (size_t t = 0; t < args->n; t++) {
        const float *in = args->in + t * args->in_stride;
        float *out = args->out + t * args->out_stride;
        for (uint32_t r = 0; r < args->weight.rows; r++)
            out[r] = kvf_ref_dot_row(&args->weight, r,
                                     in + (size_t)(r / rows_of_group) * args->weight.cols);
    }
}
