/* rope: rotates the interleaved pairs of the trailing 64 values by the position's angles. */
#include "backend/ref/ref.h"

#define N_PAIRS (KVF_ROPE_WIDTH / 2)

void kvf_ref_rotate(float *tail, const float *cosines, const float *sines, bool inverse)
{
    for (size_t i = 0; i < N_PAIRS; i++) {
        const float x = tail[2 * i];
        const float y = tail[2 * i + 1];
        const float sine = inverse ? -sines[i] : sines[i];
        tail[2 * i] = x * cosines[i] - y * sine;
        tail[2 * i + 1] = y * cosines[i] + x * sine;
    }
}

void kvf_ref_rope(kvf_device *device, const kvf_rope_args *args)
{
    (void)device;
    for (size_t t = 0; t < args->n; t++) {
        for (size_t h = 0; h < args->heads; h++) {
            float *head = args->values + (t * args->heads + h) * args->width;
            kvf_ref_rotate(head + args->width - KVF_ROPE_WIDTH, args->table.cosines + t * N_PAIRS,
                           args->table.sines + t * N_PAIRS, args->inverse);
        }
    }
}
