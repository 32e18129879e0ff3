/* Address spaces that do not fit. Each KVF_REFUSED is an error; 0 is none. */
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

#include "kernels/test_kernels.h"

#if KVF_REFUSED == 1
inline float first(const float *values)
#else
inline float first(device const float *values)
#endif
{
    return values[0];
}

inline void fill(threadgroup float *to, float value)
{
    to[0] = value;
}

kernel void spaces(constant kvf_test_kernel_args &args [[buffer(0)]],
                   device const float *in [[buffer(1)]], device float *out [[buffer(2)]],
                   threadgroup float *shared [[threadgroup(0)]])
{
    out[0] = first(in);
    fill(shared, 1.0f);
#if KVF_REFUSED == 2
    fill(out, 1.0f);
#elif KVF_REFUSED == 3
    const float *pointer = in;
    out[1] = pointer[0];
#elif KVF_REFUSED == 4
    args.n = 1;
#elif KVF_REFUSED == 5
    device float *writable = in;
    writable[0] = 1.0f;
#elif KVF_REFUSED == 6
    out = shared;
#elif KVF_REFUSED == 7
    simdgroup_matrix<half, 8, 8> matrix;
    simdgroup_load(matrix, shared);
#elif KVF_REFUSED == 8
    out[0] = float(min(args.n, 3));
#endif
}
