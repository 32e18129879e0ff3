/*
 * Functions of the C library that the forward pass needs, with the same bits on every
 * machine: additions, multiplications and divisions of f64 in one order, no table, nothing
 * of libm. Results are within 3 units in the last place of f64 (pow: see there), so that the
 * f32 they are rounded to is nearly always the nearest. docs/FORMAT.md 9.9.
 *
 * For the host: GPUs have no f64 to speak of and keep their own.
 */
#ifndef KVF_SHARED_MATH64_H
#define KVF_SHARED_MATH64_H

#include <stdint.h>
#include <string.h>

/* 2^n, n in -1022 .. 1023. */
static inline double kvf_power_of_two(int n)
{
    const uint64_t bits = (uint64_t)(n + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The nearest integer, ties to even, for |x| < 2^51: 1.5 * 2^52 leaves no room for more. */
static inline double kvf_round_f64(double x)
{
    return (x + 0x1.8p+52) - 0x1.8p+52;
}

/*
 * e^x for x in -700 .. 700 (below 0, above infinity; NaN stays): x = n ln 2 + r, the Taylor
 * series of r to the 13th power, whose next term is below 2^-57 for |r| <= ln(2) / 2.
 */
static inline double kvf_exp_f64(double x)
{
    if (!(x >= -700.0))
        return x < -700.0 ? 0.0 : x;
    if (x > 700.0)
        return x * 0x1p+1023; /* infinity */
    const double n = kvf_round_f64(x * 0x1.71547652b82fep+0);
    /* ln 2 in two parts, the first of 32 bits so that its product with n is exact */
    const double r = (x - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
    double sum = 1.0;
    for (int i = 13; i > 0; i--)
        sum = 1.0 + sum * r / i;
    return sum * kvf_power_of_two((int)n);
}

/*
 * ln x for positive normal x (infinity and NaN stay): x = 2^n m, m in sqrt(1/2) .. sqrt(2); ln m =
 * 2 atanh(s) with s = (m - 1) / (m + 1), |s| <= 0.1716, as a series to s^23.
 */
static inline double kvf_log_f64(double x)
{
    uint64_t bits;
    if (!(x <= 0x1.fffffffffffffp+1023))
        return x;
    memcpy(&bits, &x, sizeof bits);
    int n = (int)(bits >> 52) - 1023;
    bits = (bits & 0x000fffffffffffff) | 0x3ff0000000000000;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        n++;
    }
    const double s = (m - 1.0) / (m + 1.0);
    const double square = s * s;
    double sum = 0.0;
    for (int i = 23; i > 0; i -= 2)
        sum = sum * square + 1.0 / i;
    return n * 0x1.62e42feep-1 + (n * 0x1.a39ef35793c76p-33 + 2.0 * s * sum);
}

/* ln(1 + x) for x in 0 .. 1, without loss for small x: the same series, s = x / (2 + x). */
static inline double kvf_log1p_f64(double x)
{
    const double s = x / (2.0 + x);
    const double square = s * s;
    double sum = 0.0;
    /* s <= 1/3: the term after s^35 is below 2^-60 */
    for (int i = 35; i > 0; i -= 2)
        sum = sum * square + 1.0 / i;
    return 2.0 * s * sum;
}

/*
 * base^exponent for a positive normal base. The logarithm's error grows with the exponent:
 * within 4 + 4 |exponent ln base| units in the last place.
 */
static inline double kvf_pow_f64(double base, double exponent)
{
    return kvf_exp_f64(exponent * kvf_log_f64(base));
}

/*
 * Sine and cosine of an f32's value, |x| <= 2^30, which is the longest context: x = n pi/2 + r,
 * |r| <= pi/4, Taylor series to r^17 and r^18. pi/2 in four parts, the first three of 22 bits:
 * their products with n, below 2^30, are exact and so are the differences until r is small. No
 * f32 is nearer than 2^-30 to a multiple of pi/2, where what is missing of it, 2^-123, matters
 * not at all. NaN stays.
 */
static inline void kvf_sin_cos_f64(double x, double *sine, double *cosine)
{
    const double n = kvf_round_f64(x * 0x1.45f306dc9c883p-1);
    double r = x - n * 0x1.921fb0p+0;
    r -= n * 0x1.5110b0p-22;
    r -= n * 0x1.184698p-44;
    r -= n * 0x1.3198a2e037073p-69;
    const double square = r * r;
    double s = 1.0;
    double c = 1.0;
    for (int i = 16; i > 0; i -= 2) {
        s = 1.0 - s * square / (i * (i + 1));
        c = 1.0 - c * square / (i * (i - 1));
    }
    s *= r;
    if (x != x) {
        *sine = *cosine = x;
        return;
    }
    switch ((int64_t)n & 3) {
    case 0: *sine = s, *cosine = c; break;
    case 1: *sine = c, *cosine = -s; break;
    case 2: *sine = -s, *cosine = -c; break;
    default: *sine = -c, *cosine = s; break;
    }
}

#endif
