/*
 * unmix: the output side of a hyper-connection. Each new stream starts with the
 * sublayer's share and takes the old streams in ascending order.
 */
#include "backend/ref/ref.h"

void kvf_ref_unmix(kvf_device *device, const kvf_unmix_args *args)
{
    (void)device;
    const size_t n = args->n_streams;
    for (size_t t = 0; t < args->n; t++) {
        const float *post = args->post + t * n;
        const float *comb = args->comb + t * n * n;
        float *streams = args->streams + t * n * args->hidden;
        for (size_t i = 0; i < args->hidden; i++) {
            float old[KVF_MAX_STREAMS];
            for (size_t j = 0; j < n; j++)
                old[j] = streams[j * args->hidden + i];
            for (size_t k = 0; k < n; k++) {
                float sum = post[k] * args->sublayer[t * args->hidden + i];
                for (size_t j = 0; j < n; j++)
                    sum += comb[j * n + k] * old[j];
                streams[k * args->hidden + i] = sum;
            }
        }
    }
}
