/*
 * route: which experts a token goes to, and with what weights.
 * Experts are listed by descending score + bias, equal: lower expert first; those
 * of a hash layer in the order of its table. The bias chooses, it does not weigh.
 */
#include "backend/ref/ref.h"

#include "shared/activation.h"

/* The top_k experts, descending. Holds their biased scores in best[top_k] meanwhile. */
static void choose(const kvf_route_args *args, const float *logits, int32_t *experts, float *best)
{
    uint32_t held = 0;
    for (uint32_t e = 0; e < args->n_experts; e++) {
        const float biased = kvf_route_score(logits[e]) + (args->bias ? args->bias[e] : 0.0f);
        uint32_t place = held;
        while (place > 0 && biased > best[place - 1])
            place--;
        if (place == args->top_k)
            continue;
        if (held < args->top_k)
            held++;
        for (uint32_t i = held - 1; i > place; i--) {
            best[i] = best[i - 1];
            experts[i] = experts[i - 1];
        }
        best[place] = biased;
        experts[place] = (int32_t)e;
    }
}

void kvf_ref_route(kvf_device *device, const kvf_route_args *args)
{
    (void)device;
    for (size_t t = 0; t < args->n; t++) {
        const float *logits = args->logits + t * args->n_experts;
        int32_t *experts = args->experts + t * args->top_k;
        float *weights = args->weights + t * args->top_k;
        if (args->token_map) {
            const int32_t *mapped = args->token_map + (size_t)args->tokens[t] * args->top_k;
            for (uint32_t k = 0; k < args->top_k; k++)
                experts[k] = mapped[k];
        } else {
            choose(args, logits, experts, weights);
        }

        float sum = 0.0f;
        for (uint32_t k = 0; k < args->top_k; k++) {
            weights[k] = kvf_route_score(logits[experts[k]]);
            sum += weights[k];
        }
        for (uint32_t k = 0; k < args->top_k; k++) {
            if (args->normalise)
                weights[k] /= sum + 1e-20f;
            weights[k] *= args->scaling;
        }
    }
}
