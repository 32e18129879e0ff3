/* embed: every residual stream of a token starts as the token's embedding. */
#include "backend/ref/ref.h"

#include <string.h>

void kvf_ref_embed(kvf_device *device, const kvf_embed_args *args)
{
    (void)device;
    const size_t hidden = args->table.cols;
    for (size_t t = 0; t < args->n; t++) {
        const float *embedding = args->table.data + (size_t)args->tokens[t] * hidden;
        for (size_t k = 0; k < args->n_streams; k++)
            memcpy(args->streams + (t * args->n_streams + k) * hidden, embedding,
                   hidden * sizeof *embedding);
    }
}
