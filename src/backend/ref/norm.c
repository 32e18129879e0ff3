/* norm: RMS norm (docs/FORMAT.md 9.7). */
#include "backend/ref/ref.h"

#include <math.h>

void kvf_ref_norm_row(const float *in, float *out, uint32_t width, const float *weight, float eps)
{
    const float mean_square = kvf_ref_dot(in, in, width) / (float)width;
    const float r = 1.0f / sqrtf(mean_square + eps);
    for (size_t i = 0; i < width; i++) {
        const float normed = in[i] * r;
        out[i] = weight ? normed * weight[i] : normed;
    }
}

void kvf_ref_norm(kvf_device *device, const kvf_norm_args *args)
{
    (void)device;
    for (uint64_t t = 0; t < args->n; t++)
        kvf_ref_norm_row(args->in + t * args->in_stride, args->out + t * args->out_stride,
                         args->width, args->weight, args->eps);
}
