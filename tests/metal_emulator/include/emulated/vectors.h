/*
 * Scalars and vectors. Vectors are clang's ext_vector_type, the type Metal's own are made
 * of: swizzles for reading and writing, arithmetic by component, any address space.
 */
#ifndef KVF_EMULATED_VECTORS_H
#define KVF_EMULATED_VECTORS_H

namespace metal
{

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;

template <class T, int N> using vec = T __attribute__((ext_vector_type(N)));

template <class T> struct vector_of {
    using element = T;
    static constexpr int size = 1;
};
template <class T, int N> struct vector_of<T __attribute__((ext_vector_type(N)))> {
    using element = T;
    static constexpr int size = N;
};

template <class T> constexpr bool is_vector = vector_of<T>::size > 1;

/* The constructors: one scalar for all, one vector of another type, or parts in order. */
template <class V, class A> constexpr V construct(A a)
{
    if constexpr (is_vector<A>) {
        static_assert(vector_of<A>::size == vector_of<V>::size, "a vector of another size");
        return __builtin_convertvector(a, V);
    } else {
        return V(typename vector_of<V>::element(a));
    }
}

template <class V> constexpr V construct()
{
    return V{};
}

template <class V, class A> constexpr void append(V &v, int &at, A a)
{
    using element = typename vector_of<V>::element;
    if constexpr (is_vector<A>) {
        for (int i = 0; i < vector_of<A>::size; i++)
            v[at++] = element(a[i]);
    } else {
        v[at++] = element(a);
    }
}

template <class V, class A, class B, class... More> constexpr V construct(A a, B b, More... more)
{
    using element = typename vector_of<V>::element;
    static_assert(vector_of<A>::size + vector_of<B>::size + (vector_of<More>::size + ... + 0) ==
                      vector_of<V>::size,
                  "as many components as the vector has");
    if constexpr (!is_vector<A> && !is_vector<B> && (!is_vector<More> && ... && true)) {
        return V{element(a), element(b), element(more)...};
    } else {
        V v = V{};
        int at = 0;
        append(v, at, a);
        append(v, at, b);
        (append(v, at, more), ...);
        return v;
    }
}

#define KVF_VECTORS(T)                                                                             \
    typedef vec<T, 2> T##2;                                                                        \
    typedef vec<T, 3> T##3;                                                                        \
    typedef vec<T, 4> T##4;                                                                        \
    typedef T packed_##T##2 __attribute__((ext_vector_type(2), aligned(sizeof(T))));               \
    typedef T packed_##T##4 __attribute__((ext_vector_type(4), aligned(sizeof(T))));               \
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
/* Of 64-bit values only pairs: larger accesses than 16 bytes are not reported. */
typedef vec<long, 2> long2;
typedef vec<ulong, 2> ulong2;

template <class To, class From> inline To as_type(From from)
{
    static_assert(sizeof(To) == sizeof(From), "as_type is between types of one size");
    return __builtin_bit_cast(To, from);
}

#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wuser-defined-literals"
constexpr half operator""h(long double value)
{
    return half(value);
}
#pragma clang diagnostic pop

} // namespace metal

#define KVF_CONSTRUCTOR(T, N, ...) ::metal::construct<::metal::vec<T, N>>(__VA_ARGS__)
#define char2(...) KVF_CONSTRUCTOR(char, 2, __VA_ARGS__)
#define char3(...) KVF_CONSTRUCTOR(char, 3, __VA_ARGS__)
#define char4(...) KVF_CONSTRUCTOR(char, 4, __VA_ARGS__)
#define uchar2(...) KVF_CONSTRUCTOR(unsigned char, 2, __VA_ARGS__)
#define uchar3(...) KVF_CONSTRUCTOR(unsigned char, 3, __VA_ARGS__)
#define uchar4(...) KVF_CONSTRUCTOR(unsigned char, 4, __VA_ARGS__)
#define short2(...) KVF_CONSTRUCTOR(short, 2, __VA_ARGS__)
#define short3(...) KVF_CONSTRUCTOR(short, 3, __VA_ARGS__)
#define short4(...) KVF_CONSTRUCTOR(short, 4, __VA_ARGS__)
#define ushort2(...) KVF_CONSTRUCTOR(unsigned short, 2, __VA_ARGS__)
#define ushort3(...) KVF_CONSTRUCTOR(unsigned short, 3, __VA_ARGS__)
#define ushort4(...) KVF_CONSTRUCTOR(unsigned short, 4, __VA_ARGS__)
#define int2(...) KVF_CONSTRUCTOR(int, 2, __VA_ARGS__)
#define int3(...) KVF_CONSTRUCTOR(int, 3, __VA_ARGS__)
#define int4(...) KVF_CONSTRUCTOR(int, 4, __VA_ARGS__)
#define uint2(...) KVF_CONSTRUCTOR(unsigned, 2, __VA_ARGS__)
#define uint3(...) KVF_CONSTRUCTOR(unsigned, 3, __VA_ARGS__)
#define uint4(...) KVF_CONSTRUCTOR(unsigned, 4, __VA_ARGS__)
#define half2(...) KVF_CONSTRUCTOR(_Float16, 2, __VA_ARGS__)
#define half3(...) KVF_CONSTRUCTOR(_Float16, 3, __VA_ARGS__)
#define half4(...) KVF_CONSTRUCTOR(_Float16, 4, __VA_ARGS__)
#define float2(...) KVF_CONSTRUCTOR(float, 2, __VA_ARGS__)
#define float3(...) KVF_CONSTRUCTOR(float, 3, __VA_ARGS__)
#define float4(...) KVF_CONSTRUCTOR(float, 4, __VA_ARGS__)
#define ulong2(...) KVF_CONSTRUCTOR(unsigned long, 2, __VA_ARGS__)
#define long2(...) KVF_CONSTRUCTOR(long, 2, __VA_ARGS__)

#endif
