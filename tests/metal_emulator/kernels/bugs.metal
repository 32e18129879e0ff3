/* Each kernel with a bug stands beside its twin without; test_emulator.cc says which. */
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

#include "kernels/test_kernels.h"

/* Neighbours' values through threadgroup memory; the bug is no barrier between. */
kernel void missing_barrier(constant kvf_test_kernel_args &args [[buffer(0)]],
                            threadgroup uint *shared [[threadgroup(0)]],
                            uint index [[thread_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    shared[index] = index;
    if (args.other == 1)
        simdgroup_barrier(mem_flags::mem_threadgroup);
    out[index] = shared[(index + 1) % args.n];
}

kernel void with_barrier(constant kvf_test_kernel_args &args [[buffer(0)]],
                         threadgroup uint *shared [[threadgroup(0)]],
                         uint index [[thread_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    shared[index] = index;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[index] = shared[(index + 1) % args.n];
}

/* The barrier is there and orders the other memory. */
kernel void barrier_of_other_memory(constant kvf_test_kernel_args &args [[buffer(0)]],
                                    threadgroup uint *shared [[threadgroup(0)]],
                                    uint index [[thread_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    shared[index] = index;
    threadgroup_barrier(mem_flags::mem_device);
    out[index] = shared[(index + 1) % args.n];
}

/* Right for one simdgroup, a race between two. */
kernel void neighbours_in_simdgroup(constant kvf_test_kernel_args &args [[buffer(0)]],
                                    threadgroup uint *shared [[threadgroup(0)]],
                                    uint index [[thread_index_in_threadgroup]],
                                    uint lane [[thread_index_in_simdgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    shared[index] = index;
    simdgroup_barrier(mem_flags::mem_threadgroup);
    uint from = index - lane + (lane + 1) % 32;
    if (args.other == 1)
        from = (index + 32) % args.n;
    else if (args.other == 2)
        from = index % 32;
    out[index] = shared[from];
}

/* The second barrier is missing: the next round's write meets this round's reads. */
kernel void write_after_read(constant kvf_test_kernel_args &args [[buffer(0)]],
                             threadgroup uint *shared [[threadgroup(0)]],
                             uint index [[thread_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    uint sum = 0;
    for (uint round = 0; round < 3; round++) {
        shared[index] = index + round;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        sum += shared[(index + 1) % args.n];
        if (args.other == 0)
            threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    out[index] = sum;
}

/* Many threads, one sum. */
kernel void plain_sum(constant kvf_test_kernel_args &args [[buffer(0)]],
                      uint index [[thread_index_in_threadgroup]])
{
    device uint *sum = reinterpret_cast<device uint *>(args.at[0]);
    if (index < args.n)
        sum[0] += index;
}

kernel void atomic_sum(constant kvf_test_kernel_args &args [[buffer(0)]],
                       uint index [[thread_index_in_threadgroup]])
{
    device atomic_uint *sum = reinterpret_cast<device atomic_uint *>(args.at[0]);
    if (index < args.n)
        atomic_fetch_add_explicit(sum, index, memory_order_relaxed);
}

/* Bytes that share a word are no race; one and the same byte is. */
kernel void bytes_of_a_word(constant kvf_test_kernel_args &args [[buffer(0)]],
                            uint index [[thread_index_in_threadgroup]])
{
    device uchar *out = reinterpret_cast<device uchar *>(args.at[0]);
    out[index / args.other] = uchar(index);
}

/* Each threadgroup writes its place, or all write the first. */
kernel void across_threadgroups(constant kvf_test_kernel_args &args [[buffer(0)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint index [[thread_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    if (index == 0)
        out[group.x * args.other] = group.x;
}

/* Reads args.other elements further than its own. */
kernel void read_beyond(constant kvf_test_kernel_args &args [[buffer(0)]],
                        uint index [[thread_index_in_threadgroup]])
{
    device const float *in = reinterpret_cast<device const float *>(args.at[0]);
    device float *out = reinterpret_cast<device float *>(args.at[1]);
    out[index] = in[index + args.other];
}

kernel void read_before(constant kvf_test_kernel_args &args [[buffer(0)]],
                        uint index [[thread_index_in_threadgroup]])
{
    device const float *in = reinterpret_cast<device const float *>(args.at[0]);
    device float *out = reinterpret_cast<device float *>(args.at[1]);
    out[index] = in[long(index) - long(args.other)];
}

kernel void write_beyond(constant kvf_test_kernel_args &args [[buffer(0)]],
                         uint index [[thread_index_in_threadgroup]])
{
    device uchar *out = reinterpret_cast<device uchar *>(args.at[0]);
    out[index + args.other] = 1;
}

/* A page by its address: a live one, one of the host's, a released one. */
kernel void read_page(constant kvf_test_kernel_args &args [[buffer(0)]],
                      uint index [[thread_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    out[index] = reinterpret_cast<device const uint *>(args.page)[index];
}

kernel void shared_beyond(constant kvf_test_kernel_args &args [[buffer(0)]],
                          threadgroup uint *shared [[threadgroup(0)]],
                          uint index [[thread_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    shared[index + args.other] = index;
    out[index] = shared[index + args.other];
}

constant uint squares[8] = {0, 1, 4, 9, 16, 25, 36, 49};

kernel void table_beyond(constant kvf_test_kernel_args &args [[buffer(0)]],
                         uint index [[thread_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    out[index] = squares[index % 8 + args.other];
}

/* The upper half of the array is not written where other is 1. */
kernel void unwritten_shared(constant kvf_test_kernel_args &args [[buffer(0)]],
                             threadgroup uint *shared [[threadgroup(0)]],
                             uint index [[thread_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    if (args.other == 0 || index < args.n / 2)
        shared[index] = index;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[index] = shared[args.n - 1 - index];
}

/* 0: all threads; 1: some do not come; 2: some wait in another barrier; 3: some have ended. */
kernel void divergent_barrier(constant kvf_test_kernel_args &args [[buffer(0)]],
                              uint index [[thread_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    if (args.other == 3 && index == 7)
        return;
    if (args.other != 1 || index < 40) {
        if (args.other == 2 && index >= 40)
            threadgroup_barrier(mem_flags::mem_device);
        else
            threadgroup_barrier(mem_flags::mem_device);
    }
    out[index] = index;
}

/* 0: all lanes; 1: half of them; 2: the halves in two calls; 3: some are in a barrier. */
kernel void divergent_simd(constant kvf_test_kernel_args &args [[buffer(0)]],
                           uint index [[thread_index_in_threadgroup]],
                           uint lane [[thread_index_in_simdgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    uint sum = 0;
    if (args.other == 0 || lane < 16)
        sum = simd_sum(index);
    else if (args.other == 2)
        sum = simd_sum(index + 1);
    else if (args.other == 3)
        threadgroup_barrier(mem_flags::mem_none);
    out[index] = sum;
}

/* 0: all lanes load; 1: half of them, all come to the product. */
kernel void divergent_load(constant kvf_test_kernel_args &args [[buffer(0)]],
                           uint lane [[thread_index_in_simdgroup]])
{
    device float *out = reinterpret_cast<device float *>(args.at[0]);
    simdgroup_matrix<float, 8, 8> a = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
    simdgroup_matrix<float, 8, 8> b = a;
    if (args.other == 0 || lane < 16)
        simdgroup_load(b, out);
    simdgroup_multiply_accumulate(a, a, b, a);
    if (lane == 0)
        out[0] = a.thread_elements()[0];
}

kernel void missing_lane(constant kvf_test_kernel_args &args [[buffer(0)]],
                         uint index [[thread_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    out[index] = simd_shuffle(index, ushort(args.other));
}

/* More than a thread's stack holds. */
kernel void deep_stack(constant kvf_test_kernel_args &args [[buffer(0)]],
                       uint index [[thread_index_in_threadgroup]])
{
    device uint *out = reinterpret_cast<device uint *>(args.at[0]);
    uint many[131072];
    for (uint i = 0; i < args.other; i++)
        many[i] = i ^ index;
    out[index] = many[args.other - 1 - index];
}
