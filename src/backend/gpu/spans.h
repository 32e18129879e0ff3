/*
 * Which span of a dispatch an element is of (kernels.h: kvf_kernel_spans). Metal only.
 */
#ifndef KVF_BACKEND_GPU_SPANS_H
#define KVF_BACKEND_GPU_SPANS_H

#include <metal_stdlib>

#include "backend/gpu/kernels.h"

using namespace metal;

/*
 * The span of element i: the last that begins at or before it. Of the numberings that `firsts`
 * has, by `numbering`. All lanes of a simdgroup come here with the same element.
 */
static inline uint kvf_find_span(constant kvf_kernel_spans &spans, uint numbering, uint i,
                                 uint lane)
{
    if (spans.n == 1)
        return 0;
    device const uint *firsts =
        reinterpret_cast<device const uint *>(spans.firsts) + ulong(numbering) * spans.n;
    uint n_begun = 0;
    for (uint first = 0; first < spans.n; first += KVF_KERNEL_SIMD_WIDTH) {
        const uint span = first + lane;
        n_begun += simd_sum(span < spans.n && firsts[span] <= i ? 1u : 0u);
    }
    return n_begun - 1;
}

/* The span's struct: by `copy`, as these are in different address spaces. */
#define KVF_COPY_SPAN(args, type, copy, span)                                                      \
    ((args).spans.n == 1                                                                           \
         ? copy(&(args).one)                                                                       \
         : copy(reinterpret_cast<device const type *>((args).spans.table) + (span)))

#endif
