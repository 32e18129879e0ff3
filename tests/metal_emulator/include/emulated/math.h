/*
 * Functions of metal_math, metal_common, metal_integer and metal_relational. Half results
 * are those of f32 rounded once. sqrt, rsqrt, division and fma are correctly rounded;
 * exp, log and the like are the host's, within an ulp. precise:: and fast:: are the same.
 */
#ifndef KVF_EMULATED_MATH_H
#define KVF_EMULATED_MATH_H

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define MAXFLOAT 0x1.fffffep127f
#define M_PI_F 3.14159265358979323846f

namespace metal
{

/* f on scalars of f32 and half, and by component. */
#define KVF_UNARY(name, expression)                                                                \
    inline float name(float x)                                                                     \
    {                                                                                              \
        return expression;                                                                         \
    }                                                                                              \
    inline half name(half x)                                                                       \
    {                                                                                              \
        return half(name(float(x)));                                                               \
    }                                                                                              \
    template <class T, int N> inline vec<T, N> name(vec<T, N> x)                                   \
    {                                                                                              \
        vec<T, N> y;                                                                               \
        for (int i = 0; i < N; i++)                                                                \
            y[i] = name(T(x[i]));                                                                  \
        return y;                                                                                  \
    }
KVF_UNARY(fabs, __builtin_fabsf(x))
KVF_UNARY(sqrt, __builtin_sqrtf(x))
KVF_UNARY(rsqrt, float(1.0 / __builtin_sqrt(double(x))))
KVF_UNARY(exp, __builtin_expf(x))
KVF_UNARY(exp2, __builtin_exp2f(x))
KVF_UNARY(log, __builtin_logf(x))
KVF_UNARY(log2, __builtin_log2f(x))
KVF_UNARY(sin, __builtin_sinf(x))
KVF_UNARY(cos, __builtin_cosf(x))
KVF_UNARY(tanh, __builtin_tanhf(x))
KVF_UNARY(floor, __builtin_floorf(x))
KVF_UNARY(ceil, __builtin_ceilf(x))
KVF_UNARY(trunc, __builtin_truncf(x))
KVF_UNARY(round, __builtin_roundf(x))
KVF_UNARY(rint, __builtin_rintf(x))
KVF_UNARY(saturate, __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f))
KVF_UNARY(sign, x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : (x != x ? 0.0f : x)))
#undef KVF_UNARY

#define KVF_BINARY(name, expression)                                                               \
    inline float name(float x, float y)                                                            \
    {                                                                                              \
        return expression;                                                                         \
    }                                                                                              \
    inline half name(half x, half y)                                                               \
    {                                                                                              \
        return half(name(float(x), float(y)));                                                     \
    }                                                                                              \
    template <class T, int N> inline vec<T, N> name(vec<T, N> x, vec<T, N> y)                      \
    {                                                                                              \
        vec<T, N> z;                                                                               \
        for (int i = 0; i < N; i++)                                                                \
            z[i] = name(T(x[i]), T(y[i]));                                                         \
        return z;                                                                                  \
    }
KVF_BINARY(fmin, __builtin_fminf(x, y))
KVF_BINARY(fmax, __builtin_fmaxf(x, y))
KVF_BINARY(pow, __builtin_powf(x, y))
KVF_BINARY(powr, __builtin_powf(x, y))
KVF_BINARY(fmod, __builtin_fmodf(x, y))
KVF_BINARY(copysign, __builtin_copysignf(x, y))
#undef KVF_BINARY

inline float fma(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}
inline half fma(half a, half b, half c)
{
    /* Product and sum of halves are exact in double up to one rounding far below half's. */
    return half(double(a) * double(b) + double(c));
}
template <class T, int N> inline vec<T, N> fma(vec<T, N> a, vec<T, N> b, vec<T, N> c)
{
    vec<T, N> d;
    for (int i = 0; i < N; i++)
        d[i] = fma(T(a[i]), T(b[i]), T(c[i]));
    return d;
}

inline float ldexp(float x, int exponent)
{
    return __builtin_ldexpf(x, exponent);
}

/* min and max want two arguments of one type, as Metal's overloads do. */
template <class T> inline T min(T a, T b)
{
    if constexpr (is_vector<T>) {
        T c;
        for (int i = 0; i < vector_of<T>::size; i++)
            c[i] = min(typename vector_of<T>::element(a[i]), typename vector_of<T>::element(b[i]));
        return c;
    } else if constexpr (T(0.5f) != T(0)) {
        return fmin(a, b);
    } else {
        return b < a ? b : a;
    }
}
template <class T> inline T max(T a, T b)
{
    if constexpr (is_vector<T>) {
        T c;
        for (int i = 0; i < vector_of<T>::size; i++)
            c[i] = max(typename vector_of<T>::element(a[i]), typename vector_of<T>::element(b[i]));
        return c;
    } else if constexpr (T(0.5f) != T(0)) {
        return fmax(a, b);
    } else {
        return a < b ? b : a;
    }
}
template <class T> inline T clamp(T x, T low, T high)
{
    return min(max(x, low), high);
}
template <class T, int N> inline vec<T, N> clamp(vec<T, N> x, T low, T high)
{
    return min(max(x, vec<T, N>(low)), vec<T, N>(high));
}
template <class T> inline T mix(T a, T b, T part)
{
    return a + (b - a) * part;
}

template <class T> inline T abs(T x)
{
    if constexpr (is_vector<T>) {
        T y;
        for (int i = 0; i < vector_of<T>::size; i++)
            y[i] = abs(typename vector_of<T>::element(x[i]));
        return y;
    } else if constexpr (T(0.5f) != T(0)) {
        return fabs(x);
    } else {
        return x < T(0) ? T(-x) : x;
    }
}

template <class T> inline T select(T where_false, T where_true, bool condition)
{
    return condition ? where_true : where_false;
}
template <class T, int N, class C>
inline vec<T, N> select(vec<T, N> where_false, vec<T, N> where_true, vec<C, N> condition)
{
    vec<T, N> result;
    for (int i = 0; i < N; i++)
        result[i] = condition[i] ? where_true[i] : where_false[i];
    return result;
}
template <class T, int N> inline bool all(vec<T, N> x)
{
    bool result = true;
    for (int i = 0; i < N; i++)
        result = result && x[i] != 0;
    return result;
}
template <class T, int N> inline bool any(vec<T, N> x)
{
    bool result = false;
    for (int i = 0; i < N; i++)
        result = result || x[i] != 0;
    return result;
}

inline bool isfinite(float x)
{
    return __builtin_isfinite(x);
}
inline bool isnan(float x)
{
    return __builtin_isnan(x);
}
inline bool isinf(float x)
{
    return __builtin_isinf(x);
}
inline bool isfinite(half x)
{
    return __builtin_isfinite(float(x));
}
inline bool isnan(half x)
{
    return __builtin_isnan(float(x));
}
inline bool isinf(half x)
{
    return __builtin_isinf(float(x));
}
inline bool signbit(float x)
{
    return __builtin_signbit(x) != 0;
}

template <class T, int N> inline T dot(vec<T, N> a, vec<T, N> b)
{
    T sum = a[0] * b[0];
    for (int i = 1; i < N; i++)
        sum = sum + a[i] * b[i];
    return sum;
}

template <class T> inline T popcount(T x)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "popcount of 32 or 64 bits");
    return T(sizeof(T) == 8 ? __builtin_popcountl(ulong(x)) : __builtin_popcount(uint(x)));
}
/* Zero bits above the highest, below the lowest one; all bits where there is none. */
template <class T> inline T clz(T x)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "clz of 32 or 64 bits");
    if (x == 0)
        return T(8 * sizeof(T));
    return T(sizeof(T) == 8 ? __builtin_clzl(ulong(x)) : __builtin_clz(uint(x)));
}
template <class T> inline T ctz(T x)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "ctz of 32 or 64 bits");
    if (x == 0)
        return T(8 * sizeof(T));
    return T(sizeof(T) == 8 ? __builtin_ctzl(ulong(x)) : __builtin_ctz(uint(x)));
}
template <class T> inline T extract_bits(T x, uint offset, uint bits)
{
    if (bits == 0)
        return T(0);
    const uint unused = uint(8 * sizeof(T)) - bits;
    return T(T(x << (unused - offset)) >> unused);
}
inline uint mulhi(uint a, uint b)
{
    return uint((ulong(a) * b) >> 32);
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

} // namespace metal

#endif
