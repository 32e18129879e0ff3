/*
 * mask: the selection as a row of 0 and -infinity for each query. A visible row is
 * selected iff fewer than top_k visible rows come before it, where a higher score
 * comes first and, of equal scores, the lower row.
 */
#include "backend/ref/ref.h"
#include "shared/visible.h"

#include <math.h>

#define F16_ZERO 0x0000
#define F16_MINUS_INFINITY 0xFC00

static bool is_selected(const float *scores, uint64_t n_visible, uint32_t top_k, uint64_t row)
{
    uint64_t n_before = 0;
    for (uint64_t other = 0; other < n_visible; other++)
        if (scores[other] > scores[row] || (scores[other] == scores[row] && other < row))
            n_before++;
    return n_before < top_k;
}

void kvf_ref_mask(kvf_device *device, const kvf_mask_args *args)
{
    (void)device;
    for (size_t i = 0; i < args->n_queries; i++) {
        const float *scores = args->scores + i * args->score_stride;
        const uint64_t n_visible =
            kvf_visible_rows(args->n_visible, args->first_token, args->ratio, i);
        for (uint64_t row = 0; row < args->n_rows; row++) {
            const bool selected =
                row < n_visible && is_selected(scores, n_visible, args->top_k, row);
            const size_t place = i * args->mask_stride + row;
            if (args->mask_f32)
                args->mask_f32[place] = selected ? 0.0f : -INFINITY;
            if (args->mask_f16)
                args->mask_f16[place] = selected ? F16_ZERO : F16_MINUS_INFINITY;
        }
    }
}
