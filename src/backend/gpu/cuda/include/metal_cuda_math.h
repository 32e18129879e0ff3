/* Functions of metal_math, metal_integer, metal_relational and atomics, for nvcc. */
#ifndef KVF_METAL_CUDA_MATH_H
#define KVF_METAL_CUDA_MATH_H

#undef INFINITY
#undef NAN
#undef MAXFLOAT
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fc00000)
#define MAXFLOAT 0x1.fffffep127f
#define M_PI_F 3.14159265358979323846f

namespace metal
{

#define KVF_UNARY(name, expression)                                                                \
    KVF_DEVICE float name(float x)                                                                 \
    {                                                                                              \
        return expression;                                                                         \
    }                                                                                              \
    KVF_DEVICE half name(half x)                                                                   \
    {                                                                                              \
        return half(name(float(x)));                                                               \
    }                                                                                              \
    template <class T, int N> KVF_DEVICE vec<T, N> name(vec<T, N> x)                               \
    {                                                                                              \
        for (int i = 0; i < N; i++)                                                                \
            x.at[i] = name(x.at[i]);                                                               \
        return x;                                                                                  \
    }
KVF_UNARY(fabs, ::fabsf(x))
KVF_UNARY(sqrt, __fsqrt_rn(x))
KVF_UNARY(rsqrt, __frsqrt_rn(x))
KVF_UNARY(exp, ::expf(x))
KVF_UNARY(exp2, ::exp2f(x))
KVF_UNARY(log, ::logf(x))
KVF_UNARY(log2, ::log2f(x))
KVF_UNARY(sin, ::sinf(x))
KVF_UNARY(cos, ::cosf(x))
KVF_UNARY(tanh, ::tanhf(x))
KVF_UNARY(floor, ::floorf(x))
KVF_UNARY(ceil, ::ceilf(x))
KVF_UNARY(trunc, ::truncf(x))
KVF_UNARY(round, ::roundf(x))
KVF_UNARY(rint, ::rintf(x))
KVF_UNARY(saturate, ::fminf(::fmaxf(x, 0.0f), 1.0f))
KVF_UNARY(sign, x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : (x != x ? 0.0f : x)))
#undef KVF_UNARY

#define KVF_BINARY(name, expression)                                                               \
    KVF_DEVICE float name(float x, float y)                                                        \
    {                                                                                              \
        return expression;                                                                         \
    }                                                                                              \
    KVF_DEVICE half name(half x, half y)                                                           \
    {                                                                                              \
        return half(name(float(x), float(y)));                                                     \
    }                                                                                              \
    template <class T, int N> KVF_DEVICE vec<T, N> name(vec<T, N> x, vec<T, N> y)                  \
    {                                                                                              \
        for (int i = 0; i < N; i++)                                                                \
            x.at[i] = name(x.at[i], y.at[i]);                                                      \
        return x;                                                                                  \
    }
KVF_BINARY(fmin, ::fminf(x, y))
KVF_BINARY(fmax, ::fmaxf(x, y))
KVF_BINARY(pow, ::powf(x, y))
KVF_BINARY(powr, ::powf(x, y))
KVF_BINARY(fmod, ::fmodf(x, y))
KVF_BINARY(copysign, ::copysignf(x, y))
#undef KVF_BINARY

KVF_DEVICE float fma(float a, float b, float c)
{
    return __fmaf_rn(a, b, c);
}
KVF_DEVICE half fma(half a, half b, half c)
{
    half d;
    d.bits = __half_as_ushort(
        __hfma(__ushort_as_half(a.bits), __ushort_as_half(b.bits), __ushort_as_half(c.bits)));
    return d;
}
template <class T, int N> KVF_DEVICE vec<T, N> fma(vec<T, N> a, vec<T, N> b, vec<T, N> c)
{
    for (int i = 0; i < N; i++)
        c.at[i] = fma(a.at[i], b.at[i], c.at[i]);
    return c;
}
KVF_DEVICE float ldexp(float x, int exponent)
{
    return ::ldexpf(x, exponent);
}

template <class T> constexpr bool is_float = std::is_same_v<T, float> || std::is_same_v<T, half>;

#define KVF_MIN_MAX(name, of_floats, better)                                                       \
    template <class T> KVF_DEVICE T name(T a, T b)                                                 \
    {                                                                                              \
        if constexpr (is_float<T>)                                                                 \
            return of_floats(a, b);                                                                \
        else                                                                                       \
            return better ? b : a;                                                                 \
    }                                                                                              \
    template <class T, int N> KVF_DEVICE vec<T, N> name(vec<T, N> a, vec<T, N> b)                  \
    {                                                                                              \
        for (int i = 0; i < N; i++)                                                                \
            a.at[i] = name(a.at[i], b.at[i]);                                                      \
        return a;                                                                                  \
    }
KVF_MIN_MAX(min, fmin, b < a)
KVF_MIN_MAX(max, fmax, a < b)
#undef KVF_MIN_MAX
template <class T> KVF_DEVICE T clamp(T x, T low, T high)
{
    return min(max(x, low), high);
}
template <class T> KVF_DEVICE T mix(T a, T b, T part)
{
    return a + (b - a) * part;
}
template <class T> KVF_DEVICE T abs(T x)
{
    if constexpr (is_float<T>)
        return fabs(x);
    else
        return x < T(0) ? T(-x) : x;
}
template <class T> KVF_DEVICE T select(T where_false, T where_true, bool condition)
{
    return condition ? where_true : where_false;
}
template <class T, int N, class C>
KVF_DEVICE vec<T, N> select(vec<T, N> where_false, vec<T, N> where_true, vec<C, N> condition)
{
    for (int i = 0; i < N; i++)
        where_false.at[i] = condition.at[i] ? where_true.at[i] : where_false.at[i];
    return where_false;
}
template <class T, int N> KVF_DEVICE bool all(vec<T, N> x)
{
    bool result = true;
    for (int i = 0; i < N; i++)
        result = result && x.at[i] != 0;
    return result;
}
template <class T, int N> KVF_DEVICE bool any(vec<T, N> x)
{
    bool result = false;
    for (int i = 0; i < N; i++)
        result = result || x.at[i] != 0;
    return result;
}
KVF_DEVICE bool isfinite(float x)
{
    return (__float_as_uint(x) & 0x7fffffffu) < 0x7f800000u;
}
KVF_DEVICE bool isnan(float x)
{
    return (__float_as_uint(x) & 0x7fffffffu) > 0x7f800000u;
}
KVF_DEVICE bool isinf(float x)
{
    return (__float_as_uint(x) & 0x7fffffffu) == 0x7f800000u;
}
KVF_DEVICE bool signbit(float x)
{
    return __float_as_uint(x) >> 31;
}
template <class T, int N> KVF_DEVICE T dot(vec<T, N> a, vec<T, N> b)
{
    T sum = a.at[0] * b.at[0];
    for (int i = 1; i < N; i++)
        sum = sum + a.at[i] * b.at[i];
    return sum;
}
template <class T> KVF_DEVICE T popcount(T x)
{
    return T(sizeof(T) == 8 ? __popcll(x) : __popc(x));
}
template <class T> KVF_DEVICE T clz(T x)
{
    return T(sizeof(T) == 8 ? __clzll((long long)x) : __clz((int)x));
}
template <class T> KVF_DEVICE T ctz(T x)
{
    if (x == 0)
        return T(8 * sizeof(T));
    return T(sizeof(T) == 8 ? __ffsll((long long)x) : __ffs((int)x)) - T(1);
}
template <class T> KVF_DEVICE T extract_bits(T x, uint offset, uint bits)
{
    if (bits == 0)
        return T(0);
    const uint unused = uint(8 * sizeof(T)) - bits;
    return T(T(x << (unused - offset)) >> unused);
}
KVF_DEVICE uint mulhi(uint a, uint b)
{
    return __umulhi(a, b);
}

#define KVF_MATH_NAMES                                                                             \
    using metal::fabs;                                                                             \
    using metal::sqrt;                                                                             \
    using metal::rsqrt;                                                                            \
    using metal::exp;                                                                              \
    using metal::exp2;                                                                             \
    using metal::log;                                                                              \
    using metal::log2;                                                                             \
    using metal::sin;                                                                              \
    using metal::cos;                                                                              \
    using metal::tanh;                                                                             \
    using metal::floor;                                                                            \
    using metal::ceil;                                                                             \
    using metal::trunc;                                                                            \
    using metal::round;                                                                            \
    using metal::rint;                                                                             \
    using metal::fmin;                                                                             \
    using metal::fmax;                                                                             \
    using metal::min;                                                                              \
    using metal::max;                                                                              \
    using metal::clamp;                                                                            \
    using metal::pow;                                                                              \
    using metal::powr;                                                                             \
    using metal::fmod;                                                                             \
    using metal::fma;                                                                              \
    using metal::abs;                                                                              \
    using metal::saturate;                                                                         \
    using metal::ldexp;
namespace precise
{
KVF_MATH_NAMES
}
namespace fast
{
KVF_MATH_NAMES
}
#undef KVF_MATH_NAMES

/* ---- Atomics ------------------------------------------------------------------------ */

enum memory_order { memory_order_relaxed };

struct atomic_uint {
    uint value;
};
struct atomic_int {
    int value;
};
template <class A> using value_t = decltype(A::value);

#define KVF_ATOMIC(name, function)                                                                 \
    template <class A>                                                                             \
    KVF_DEVICE value_t<A> name(volatile A *object, value_t<A> operand, memory_order)               \
    {                                                                                              \
        return function(const_cast<value_t<A> *>(&object->value), operand);                        \
    }
KVF_ATOMIC(atomic_exchange_explicit, atomicExch)
KVF_ATOMIC(atomic_fetch_add_explicit, atomicAdd)
KVF_ATOMIC(atomic_fetch_sub_explicit, atomicSub)
KVF_ATOMIC(atomic_fetch_min_explicit, atomicMin)
KVF_ATOMIC(atomic_fetch_max_explicit, atomicMax)
KVF_ATOMIC(atomic_fetch_and_explicit, atomicAnd)
KVF_ATOMIC(atomic_fetch_or_explicit, atomicOr)
KVF_ATOMIC(atomic_fetch_xor_explicit, atomicXor)
#undef KVF_ATOMIC
template <class A>
KVF_DEVICE value_t<A> atomic_load_explicit(const volatile A *object, memory_order)
{
    return atomicAdd(const_cast<value_t<A> *>(&object->value), value_t<A>(0));
}
template <class A>
KVF_DEVICE void atomic_store_explicit(volatile A *object, value_t<A> desired, memory_order)
{
    atomicExch(const_cast<value_t<A> *>(&object->value), desired);
}
template <class A>
KVF_DEVICE bool atomic_compare_exchange_weak_explicit(volatile A *object, value_t<A> *expected,
                                                      value_t<A> desired, memory_order,
                                                      memory_order)
{
    const value_t<A> before =
        atomicCAS(const_cast<value_t<A> *>(&object->value), *expected, desired);
    const bool stored = before == *expected;
    *expected = before;
    return stored;
}

} // namespace metal

#endif
