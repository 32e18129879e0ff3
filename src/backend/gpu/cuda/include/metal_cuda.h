/*
 * The Metal language for nvcc: the same .metal files as CUDA kernels. A simdgroup is a
 * warp, threadgroup memory is dynamic shared memory, address spaces are one. This tests
 * the generic kernels of backend cuda; matrices go through shuffles.
 *
 * gpu_kernels.py --cuda puts the file inside namespace metal, so that float4, uint3, exp
 * and the like are these and not CUDA's of the same names.
 */
#ifndef KVF_METAL_CUDA_H
#define KVF_METAL_CUDA_H

#include <float.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <type_traits>
#include <utility>

#include "metal_cuda_launch.h"

#define KVF_DEVICE __device__ __forceinline__

namespace metal
{

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

/* ---- half: each operation rounds ------------------------------------------------- */

struct half {
    ushort bits;

    half() = default;
    KVF_DEVICE half(float x) : bits(__half_as_ushort(__float2half_rn(x)))
    {
    }
    template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>
    KVF_DEVICE explicit half(T x) : half(float(x))
    {
    }
    KVF_DEVICE operator float() const
    {
        return __half2float(__ushort_as_half(bits));
    }
};

#define KVF_HALF_OPERATOR(op)                                                                      \
    KVF_DEVICE half operator op(half a, half b)                                                    \
    {                                                                                              \
        return half(float(a) op float(b));                                                         \
    }                                                                                              \
    KVF_DEVICE float operator op(half a, float b)                                                  \
    {                                                                                              \
        return float(a) op b;                                                                      \
    }                                                                                              \
    KVF_DEVICE float operator op(float a, half b)                                                  \
    {                                                                                              \
        return a op float(b);                                                                      \
    }
KVF_HALF_OPERATOR(+)
KVF_HALF_OPERATOR(-)
KVF_HALF_OPERATOR(*)
KVF_HALF_OPERATOR(/)
#undef KVF_HALF_OPERATOR
KVF_DEVICE half operator-(half a)
{
    return half(-float(a));
}

/* ---- Vectors ---------------------------------------------------------------------- */

template <class T, int N> struct vec;

/* Some components of a vector, in some order; lies over its first ones. */
template <class T, int... I> struct swizzle {
    T first[4];

    KVF_DEVICE operator vec<T, sizeof...(I)>() const
    {
        return vec<T, sizeof...(I)>(first[I]...);
    }
    KVF_DEVICE swizzle &operator=(vec<T, sizeof...(I)> from)
    {
        const T values[] = {from.x, from.y};
        static_assert(sizeof...(I) == 2, "pairs can be assigned");
        const int to[] = {I...};
        for (int i = 0; i < 2; i++)
            first[to[i]] = values[i];
        return *this;
    }
};

template <class V> struct vector_of {
    using element = V;
    static constexpr int size = 1;
};
template <class T, int N> struct vector_of<vec<T, N>> {
    using element = T;
    static constexpr int size = N;
};
template <class T, int... I> struct vector_of<swizzle<T, I...>> {
    using element = T;
    static constexpr int size = sizeof...(I);
};

template <class T, int N> struct storage;
template <class T> struct alignas(2 * sizeof(T)) storage<T, 2> {
    union {
        struct {
            T x, y;
        };
        T at[2];
    };
};
template <class T> struct alignas(4 * sizeof(T)) storage<T, 3> {
    union {
        struct {
            T x, y, z;
        };
        T at[4];
        swizzle<T, 0, 1> xy;
        swizzle<T, 1, 2> yz;
        swizzle<T, 0, 2> xz;
    };
};
template <class T> struct alignas(4 * sizeof(T)) storage<T, 4> {
    union {
        struct {
            T x, y, z, w;
        };
        T at[4];
        swizzle<T, 0, 1> xy;
        swizzle<T, 1, 2> yz;
        swizzle<T, 2, 3> zw;
        swizzle<T, 0, 2> xz;
        swizzle<T, 1, 3> yw;
        swizzle<T, 0, 1, 2> xyz;
        swizzle<T, 1, 2, 3> yzw;
        swizzle<T, 3, 2, 1, 0> wzyx;
    };
};

template <class T, int N> struct vec : storage<T, N> {
    vec() = default;
    KVF_DEVICE vec(T value)
    {
        for (int i = 0; i < N; i++)
            this->at[i] = value;
    }
    /* Component by component from another type. */
    template <class U> KVF_DEVICE explicit vec(vec<U, N> from)
    {
        for (int i = 0; i < N; i++)
            this->at[i] = T(from.at[i]);
    }
    template <class A, class B, class... More> KVF_DEVICE vec(A a, B b, More... more)
    {
        static_assert(vector_of<A>::size + vector_of<B>::size + (vector_of<More>::size + ... + 0) ==
                          N,
                      "as many components as the vector has");
        int i = 0;
        append(i, a);
        append(i, b);
        (append(i, more), ...);
    }
    KVF_DEVICE T &operator[](int i)
    {
        return this->at[i];
    }
    KVF_DEVICE T operator[](int i) const
    {
        return this->at[i];
    }

  private:
    template <class A> KVF_DEVICE void append(int &i, A a)
    {
        if constexpr (vector_of<A>::size > 1) {
            const vec<typename vector_of<A>::element, vector_of<A>::size> parts = a;
            for (int k = 0; k < vector_of<A>::size; k++)
                this->at[i++] = T(parts.at[k]);
        } else {
            this->at[i++] = T(a);
        }
    }
};

#define KVF_VECTOR_OPERATOR(op)                                                                    \
    template <class T, int N> KVF_DEVICE vec<T, N> operator op(vec<T, N> a, vec<T, N> b)           \
    {                                                                                              \
        vec<T, N> c;                                                                               \
        for (int i = 0; i < N; i++)                                                                \
            c.at[i] = T(a.at[i] op b.at[i]);                                                       \
        return c;                                                                                  \
    }                                                                                              \
    template <class T, int N>                                                                      \
    KVF_DEVICE vec<T, N> operator op(vec<T, N> a, typename vector_of<T>::element b)                \
    {                                                                                              \
        return a op vec<T, N>(b);                                                                  \
    }                                                                                              \
    template <class T, int N>                                                                      \
    KVF_DEVICE vec<T, N> operator op(typename vector_of<T>::element a, vec<T, N> b)                \
    {                                                                                              \
        return vec<T, N>(a) op b;                                                                  \
    }                                                                                              \
    template <class T, int N> KVF_DEVICE vec<T, N> &operator op##=(vec<T, N> &a, vec<T, N> b)      \
    {                                                                                              \
        a = a op b;                                                                                \
        return a;                                                                                  \
    }                                                                                              \
    template <class T, int N>                                                                      \
    KVF_DEVICE vec<T, N> &operator op##=(vec<T, N> &a, typename vector_of<T>::element b)           \
    {                                                                                              \
        a = a op vec<T, N>(b);                                                                     \
        return a;                                                                                  \
    }
KVF_VECTOR_OPERATOR(+)
KVF_VECTOR_OPERATOR(-)
KVF_VECTOR_OPERATOR(*)
KVF_VECTOR_OPERATOR(/)
KVF_VECTOR_OPERATOR(%)
KVF_VECTOR_OPERATOR(&)
KVF_VECTOR_OPERATOR(|)
KVF_VECTOR_OPERATOR(^)
KVF_VECTOR_OPERATOR(<<)
KVF_VECTOR_OPERATOR(>>)
#undef KVF_VECTOR_OPERATOR
#define KVF_VECTOR_COMPARISON(op)                                                                  \
    template <class T, int N> KVF_DEVICE vec<int, N> operator op(vec<T, N> a, vec<T, N> b)         \
    {                                                                                              \
        vec<int, N> c;                                                                             \
        for (int i = 0; i < N; i++)                                                                \
            c.at[i] = a.at[i] op b.at[i] ? -1 : 0;                                                 \
        return c;                                                                                  \
    }
KVF_VECTOR_COMPARISON(<)
KVF_VECTOR_COMPARISON(>)
KVF_VECTOR_COMPARISON(<=)
KVF_VECTOR_COMPARISON(>=)
KVF_VECTOR_COMPARISON(==)
KVF_VECTOR_COMPARISON(!=)
#undef KVF_VECTOR_COMPARISON
template <class T, int N> KVF_DEVICE vec<T, N> operator-(vec<T, N> a)
{
    vec<T, N> b;
    for (int i = 0; i < N; i++)
        b.at[i] = -a.at[i];
    return b;
}

/* The same at any address that a component may have. */
template <class T, int N> struct packed {
    T at[N];

    packed() = default;
    KVF_DEVICE packed(vec<T, N> from)
    {
        for (int i = 0; i < N; i++)
            at[i] = from.at[i];
    }
    KVF_DEVICE operator vec<T, N>() const
    {
        vec<T, N> to;
        for (int i = 0; i < N; i++)
            to.at[i] = at[i];
        return to;
    }
    KVF_DEVICE T operator[](int i) const
    {
        return at[i];
    }
};

#define KVF_VECTORS(T)                                                                             \
    typedef vec<T, 2> T##2;                                                                        \
    typedef vec<T, 3> T##3;                                                                        \
    typedef vec<T, 4> T##4;                                                                        \
    typedef packed<T, 2> packed_##T##2;                                                            \
    typedef packed<T, 4> packed_##T##4;                                                            \
    struct packed_##T##3                                                                           \
    {                                                                                              \
        T x, y, z;                                                                                 \
    };
KVF_VECTORS(char)
KVF_VECTORS(uchar)
KVF_VECTORS(short)
KVF_VECTORS(ushort)
KVF_VECTORS(int)
KVF_VECTORS(uint)
KVF_VECTORS(half)
KVF_VECTORS(float)
#undef KVF_VECTORS
typedef vec<long, 2> long2;
typedef vec<ulong, 2> ulong2;

template <class To, class From> KVF_DEVICE To as_type(From from)
{
    static_assert(sizeof(To) == sizeof(From), "as_type is between types of one size");
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}

} // namespace metal

#include "metal_cuda_math.h"
#include "metal_cuda_simd.h"

/* ---- Words. From here on plain functions are the device's. --------------------------- */

#define __METAL__ 1
#define __METAL_VERSION__ 300
#define kernel static
#define device
#define constant const
#define threadgroup
#define thread
/* CUDA's own __device__ is a macro with the word device in it, which is gone now. */
#undef __device__
#define KVF_ON_DEVICE __attribute__((__device__))
#define static KVF_ON_DEVICE static
#define inline KVF_ON_DEVICE inline

#endif
