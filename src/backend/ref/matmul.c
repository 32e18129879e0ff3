/* matmul: out = in * weight^T, and the dot product that every stage is built on. */
#include "backend/ref/ref.h"

#include <math.h>

float kvf_ref_dot(const float *a, const float *b, size_t n)
{
    float lanes[KVF_REF_DOT_LANES] = {0};
    for (size_t i = 0; i < n; i++)
        lanes[i % KVF_REF_DOT_LANES] = fmaf(a[i], b[i], lanes[i % KVF_REF_DOT_LANES]);
    for (size_t half = KVF_REF_DOT_LANES / 2; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    return lanes[0];
}

void kvf_ref_matmul(kvf_device *device, const kvf_matmul_args *args)
{
    (void)device;
    const size_t cols = args->weight.cols;
    for (size_t t = 0; t < args->n; t++) {
        const float *in = args->in + t * args->in_stride;
        float *out = args->out + t * args->out_stride;
        for (size_t r = 0; r < args->weight.rows; r++)
            out[r] = kvf_ref_dot(in, args->weight.data + r * cols, cols);
    }
}
