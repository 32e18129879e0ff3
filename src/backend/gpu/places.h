/*
 * Which two elements of a simdgroup_matrix a lane has: Metal does not say. It is found out from
 * a matrix of numbers; all matrices have it alike. Metal only.
 */
#ifndef KVF_BACKEND_GPU_PLACES_H
#define KVF_BACKEND_GPU_PLACES_H

#include <metal_stdlib>
#include <metal_simdgroup_matrix>

#include "backend/gpu/kernels.h"

using namespace metal;

/* Row and column of a lane's two elements of a matrix. */
struct kvf_places {
    uint row[2];
    uint column[2];
};

/* numbers: 64 floats of the simdgroup's own. */
static inline kvf_places kvf_find_places(threadgroup float *numbers, uint lane)
{
    numbers[lane] = float(lane);
    numbers[lane + KVF_KERNEL_SIMD_WIDTH] = float(lane + KVF_KERNEL_SIMD_WIDTH);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_matrix<float, 8, 8> matrix;
    simdgroup_load(matrix, numbers, 8);
    kvf_places places;
    for (uint e = 0; e < 2; e++) {
        const uint number = uint(matrix.thread_elements()[e]);
        places.row[e] = number / 8;
        places.column[e] = number % 8;
    }
    return places;
}

#endif
