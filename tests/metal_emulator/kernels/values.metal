/* Kernels whose results test_emulator.cc computes another way. */
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

#include "kernels/test_kernels.h"

/* Twelve results a thread, in rows of n. */
kernel void simd_values(constant kvf_test_kernel_args &args [[buffer(0)]],
                        uint index [[thread_index_in_threadgroup]],
                        uint lane [[thread_index_in_simdgroup]],
                        uint simd [[simdgroup_index_in_threadgroup]])
{
    device const float *in = reinterpret_cast<device const float *>(args.at[0]);
    device float *out = reinterpret_cast<device float *>(args.at[1]);
    const uint n = args.n;
    const float x = in[index];
    out[0 * n + index] = simd_sum(x);
    out[1 * n + index] = simd_max(x);
    out[2 * n + index] = simd_min(x);
    out[3 * n + index] = simd_shuffle(x, ushort(31 - lane));
    out[4 * n + index] = simd_shuffle_xor(x, 5);
    out[5 * n + index] = simd_shuffle_down(x, 3);
    out[6 * n + index] = simd_broadcast(x, 9);
    out[7 * n + index] = float(simd_prefix_exclusive_sum(uint(index)));
    const ulong votes = ulong(simd_vote::vote_t(simd_ballot(x > 0.0f)));
    out[8 * n + index] = float(uint(votes & 0xffff));
    out[9 * n + index] = float(uint(votes >> 16));
    out[10 * n + index] = float(simd_any(x > 2.5f)) + 2.0f * float(simd_all(x > -2.5f));
    out[11 * n + index] = float(simd);
}

/* c + a * b, b transposed where other is 1; a of halves. */
kernel void matrix_product(constant kvf_test_kernel_args &args [[buffer(0)]],
                           threadgroup float *shared [[threadgroup(0)]],
                           uint lane [[thread_index_in_simdgroup]])
{
    device const half *a = reinterpret_cast<device const half *>(args.at[0]);
    device const half *b = reinterpret_cast<device const half *>(args.at[1]);
    device const float *c = reinterpret_cast<device const float *>(args.at[2]);
    device float *out = reinterpret_cast<device float *>(args.at[3]);
    simdgroup_matrix<half, 8, 8> left, right;
    simdgroup_matrix<float, 8, 8> sum;
    simdgroup_load(left, a, args.n);
    simdgroup_load(right, b, args.n, ulong2(0, 0), args.other == 1);
    for (uint i = lane; i < 64; i += 32)
        shared[i] = c[i / 8 * args.n + i % 8];
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_load(sum, shared);
    simdgroup_multiply_accumulate(sum, left, right, sum);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_store(sum, shared, 8);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = lane; i < 64; i += 32)
        out[i] = shared[i];
    /* Behind it: a filled matrix stored at column 2, row 1 of rows of 16. */
    simdgroup_matrix<float, 8, 8> filled = make_filled_simdgroup_matrix<float, 8, 8>(2.5f);
    simdgroup_store(filled, out + 64, 16, ulong2(2, 1));
}

/* Half arithmetic rounds after each operation; bits go in and out. */
kernel void half_values(constant kvf_test_kernel_args &args [[buffer(0)]],
                        uint3 position [[thread_position_in_grid]])
{
    device const ushort *in = reinterpret_cast<device const ushort *>(args.at[0]);
    device ushort *out = reinterpret_cast<device ushort *>(args.at[1]);
    const uint i = position.x;
    const half a = as_type<half>(in[3 * i]);
    const half b = as_type<half>(in[3 * i + 1]);
    const half c = as_type<half>(in[3 * i + 2]);
    out[5 * i] = as_type<ushort>(half(a * b + c));
    out[5 * i + 1] = as_type<ushort>(fma(a, b, c));
    out[5 * i + 2] = as_type<ushort>(half(a / b));
    out[5 * i + 3] = as_type<ushort>(half(float(a) * float(b)));
    out[5 * i + 4] = as_type<ushort>(half(a + 1.5h));
}

/* f32: fma is one rounding, a product and a sum are two. */
kernel void float_values(constant kvf_test_kernel_args &args [[buffer(0)]],
                         uint3 position [[thread_position_in_grid]])
{
    device const float *in = reinterpret_cast<device const float *>(args.at[0]);
    device float *out = reinterpret_cast<device float *>(args.at[1]);
    const uint i = position.x;
    const float a = in[3 * i], b = in[3 * i + 1], c = in[3 * i + 2];
    out[6 * i] = a * b + c;
    out[6 * i + 1] = fma(a, b, c);
    out[6 * i + 2] = precise::sqrt(fabs(a));
    out[6 * i + 3] = rsqrt(fabs(a));
    out[6 * i + 4] = rint(a * 8.0f);
    out[6 * i + 5] = clamp(a, -0.5f, 0.5f) + min(b, c) * max(b, c);
}

kernel void vector_values(constant kvf_test_kernel_args &args [[buffer(0)]])
{
    device const float4 *in = reinterpret_cast<device const float4 *>(args.at[0]);
    device float4 *out = reinterpret_cast<device float4 *>(args.at[1]);
    device const uchar4 *bytes = reinterpret_cast<device const uchar4 *>(args.at[2]);
    device packed_float4 *packed = reinterpret_cast<device packed_float4 *>(args.at[3]);
    const float4 v = in[0];
    out[0] = v.wzyx;
    out[1] = float4(v.xy, v.z, 1.0f) + float4(2.0f);
    out[2] = float4(half4(v));
    out[3] = select(v, float4(0.0f), v > float4(0.5f));
    out[4] = float4(uint4(bytes[0])) * 0.5f;
    out[5] = float4(as_type<float>(0x40490fdbu), dot(v, v), float(popcount(0xf0f0u)),
                    float(clz(1u)));
    float4 w = v;
    w.xz = float2(7.0f, 9.0f);
    out[6] = fma(w, v, float4(1.0f));
    packed[0] = packed_float4(w);
}

kernel void atomic_values(constant kvf_test_kernel_args &args [[buffer(0)]],
                          threadgroup atomic_uint *shared [[threadgroup(0)]],
                          uint3 position [[thread_position_in_grid]],
                          uint index [[thread_index_in_threadgroup]])
{
    device atomic_uint *u = reinterpret_cast<device atomic_uint *>(args.at[0]);
    device atomic_int *s = reinterpret_cast<device atomic_int *>(args.at[1]);
    const uint i = position.x;
    if (index == 0)
        atomic_store_explicit(shared, 0, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    atomic_fetch_add_explicit(&u[0], i, memory_order_relaxed);
    atomic_fetch_max_explicit(&u[1], i, memory_order_relaxed);
    atomic_fetch_min_explicit(&u[2], i + 5, memory_order_relaxed);
    atomic_fetch_or_explicit(&u[3], 1u << (i % 32), memory_order_relaxed);
    atomic_fetch_min_explicit(&s[0], -int(i), memory_order_relaxed);
    atomic_fetch_max_explicit(&s[1], -int(i) - 1, memory_order_relaxed);
    uint expected = atomic_load_explicit(&u[4], memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&u[4], &expected, expected + 2,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
    atomic_fetch_add_explicit(shared, 1, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (index == 0)
        atomic_fetch_add_explicit(&u[5], atomic_load_explicit(shared, memory_order_relaxed),
                                  memory_order_relaxed);
}

/* What the other attributes give. */
kernel void places(constant kvf_test_kernel_args &args [[buffer(0)]], uint3 group [[threadgroup_position_in_grid]],
                   uint3 thread_in_group [[thread_position_in_threadgroup]],
                   uint3 threads [[threads_per_threadgroup]],
                   uint3 groups [[threadgroups_per_grid]],
                   uint3 position [[thread_position_in_grid]],
                   uint index [[thread_index_in_threadgroup]],
                   uint lane [[thread_index_in_simdgroup]],
                   uint simd [[simdgroup_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    const uint3 size = threads * groups;
    const uint at = (position.z * size.y + position.y) * size.x + position.x;
    const bool fits = index == (thread_in_group.z * threads.y + thread_in_group.y) * threads.x +
                                   thread_in_group.x &&
                      lane == index % 32 && simd == index / 32 &&
                      position.y == group.y * threads.y + thread_in_group.y;
    out[at] = fits ? at + args.n : 0;
}
