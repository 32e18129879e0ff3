/* embed: every residual stream of a token starts as the token's embedding. */
#include "backend/ref/ref.h"

#include <string.h>

void kvf_ref_embed(kvf_device *device, const kvf_embed_args *args)
{
    (void)device;
    const size_t hidden = args->table.cols;
    for (size_t t = 0; t < args->n; t++) {
        float *first = args->streams + t * args->n_streams * hidden;
        kvf_weight_get(args->table.type)->decode(&args->table, (uint32_t)args->tokens[t], first);
        for (size_t k = 1; k < args->n_streams; k++)
            memcpy(first + k * hidden, first, hidden * sizeof *first);
    }
}
