/* What the emulator's functions compute, against sums and bits made another way. */
#include "test_emulator.h"

#include <math.h>
#include <stdlib.h>

static uint32_t random_state = 1;
static uint32_t random_bits(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}
static float random_float(void)
{
    return ((float)(random_bits() & 0xffff) - 32768.0f) / 8192.0f;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static void run(test_rig *rig, const char *kernel)
{
    kvf_error error;
    expect(test_rig_run(rig, kernel, &error) == KVF_OK, kernel, error.message);
}

static void expect_float(float got, double expected, const char *what)
{
    char text[96];
    snprintf(text, sizeof(text), "%.9g, expected %.9g", (double)got, expected);
    expect(bits_of(got) == bits_of((float)expected), what, text);
}

/* Pairs at distance 16, then 8 ..: recursively, the sum over lanes = i modulo d. */
static float tree_sum(const float *x, int i, int distance)
{
    if (distance == 32)
        return x[i];
    return tree_sum(x, i, 2 * distance) + tree_sum(x, i + distance, 2 * distance);
}

static void expect_simd(const float *in, const float *out, int simd)
{
    const float *x = in + 32 * simd;
    float high = x[0], low = x[0];
    uint32_t votes = 0, below = 0, any = 0, all = 1;
    for (int lane = 0; lane < 32; lane++) {
        high = fmaxf(high, x[lane]);
        low = fminf(low, x[lane]);
        votes |= (uint32_t)(x[lane] > 0.0f) << lane;
        any |= x[lane] > 2.5f;
        all &= x[lane] > -2.5f;
    }
    for (int lane = 0; lane < 32; lane++) {
        const float *r = out + 32 * simd + lane;
        expect_float(r[0 * 64], (double)tree_sum(x, 0, 1), "simd_sum");
        expect_float(r[1 * 64], (double)high, "simd_max");
        expect_float(r[2 * 64], (double)low, "simd_min");
        expect_float(r[3 * 64], (double)x[31 - lane], "simd_shuffle");
        expect_float(r[4 * 64], (double)x[lane ^ 5], "simd_shuffle_xor");
        expect_float(r[5 * 64], (double)x[lane + 3 < 32 ? lane + 3 : lane], "simd_shuffle_down");
        expect_float(r[6 * 64], (double)x[9], "simd_broadcast");
        expect_float(r[7 * 64], below, "simd_prefix_exclusive_sum");
        below += (uint32_t)(32 * simd + lane);
        expect_float(r[8 * 64], votes & 0xffff, "simd_ballot");
        expect_float(r[9 * 64], votes >> 16, "simd_ballot");
        expect_float(r[10 * 64], any + 2 * all, "simd_any, simd_all");
        expect_float(r[11 * 64], simd, "simdgroup_index_in_threadgroup");
    }
}

static void test_simd(void)
{
    test_rig rig;
    test_rig_open(&rig, "values.metal");
    rig.arguments.n = 64;
    rig.dispatch.threads[0] = 64;
    float *in = static_cast<float *>(test_rig_buffer(&rig, 64 * 4));
    const float *out = static_cast<float *>(test_rig_buffer(&rig, 12 * 64 * 4));
    for (int i = 0; i < 64; i++)
        in[i] = i < 32 ? random_float() : 2.6f + (float)i / 3.0f;
    run(&rig, "simd_values");
    expect_simd(in, out, 0);
    expect_simd(in, out, 1);
    test_rig_close(&rig);
}

/* Halves of small integers: their bits without a half type. */
static uint16_t half_of_integer(int value)
{
    if (value == 0)
        return 0;
    const uint32_t bits = bits_of((float)value);
    return (uint16_t)((bits >> 31 << 15) | ((((bits >> 23) & 255) - 112) << 10) |
                      ((bits >> 13) & 1023));
}

static void test_matrix(bool transpose)
{
    test_rig rig;
    test_rig_open(&rig, "values.metal");
    rig.arguments.n = 24;
    rig.arguments.other = transpose;
    rig.dispatch.threads[0] = 32;
    rig.dispatch.n_threadgroup_arrays = 1;
    rig.dispatch.threadgroup_bytes[0] = 256;
    uint16_t *a = static_cast<uint16_t *>(test_rig_buffer(&rig, 24 * 8 * 2));
    uint16_t *b = static_cast<uint16_t *>(test_rig_buffer(&rig, 24 * 8 * 2));
    float *c = static_cast<float *>(test_rig_buffer(&rig, 24 * 8 * 4));
    const float *out = static_cast<float *>(test_rig_buffer(&rig, (64 + 16 * 10) * 4));
    int left[8][8], right[8][8];
    for (int i = 0; i < 64; i++) {
        left[i / 8][i % 8] = (int)(random_bits() % 2001) - 1000;
        right[i / 8][i % 8] = (int)(random_bits() % 2001) - 1000;
        a[i / 8 * 24 + i % 8] = half_of_integer(left[i / 8][i % 8]);
        b[i / 8 * 24 + i % 8] = half_of_integer(right[i / 8][i % 8]);
        c[i / 8 * 24 + i % 8] = random_float() * 1e7f;
    }
    run(&rig, "matrix_product");
    for (int i = 0; i < 64; i++) {
        float sum = c[i / 8 * 24 + i % 8];
        for (int k = 0; k < 8; k++)
            sum = fmaf((float)left[i / 8][k],
                       (float)(transpose ? right[i % 8][k] : right[k][i % 8]), sum);
        expect_float(out[i], (double)sum, "simdgroup_multiply_accumulate");
    }
    for (int i = 0; i < 160; i++) {
        const int row = i / 16 - 1, column = i % 16 - 2;
        const bool inside = row >= 0 && row < 8 && column >= 0 && column < 8;
        expect_float(out[64 + i], inside ? 2.5 : 0.0, "simdgroup_store");
    }
    test_rig_close(&rig);
}

/* ---- Halves: values as doubles, rounded by hand ----------------------------------------- */

static double half_value(uint16_t bits)
{
    const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    const double magnitude =
        exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return bits >> 15 ? -magnitude : magnitude;
}

/* To nearest, ties to even, of a finite value; exact as far as the double is. */
static uint16_t half_bits(double value)
{
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const double magnitude = fabs(value);
    int exponent;
    frexp(magnitude, &exponent);
    const int unit = magnitude == 0 || exponent < -13 ? -24 : exponent - 11;
    const double units = rint(ldexp(magnitude, -unit));
    if (ldexp(units, unit) >= 65520)
        return (uint16_t)(sign | 0x7c00);
    /* A full mantissa carries into the exponent by itself. */
    return (uint16_t)(sign | (uint16_t)(units + (unit == -24 ? 0 : (unit + 24) * 1024)));
}

static void test_half(void)
{
    enum { n = 256 };
    test_rig rig;
    test_rig_open(&rig, "values.metal");
    rig.dispatch.threads[0] = 64;
    rig.dispatch.groups[0] = n / 64;
    uint16_t *in = static_cast<uint16_t *>(test_rig_buffer(&rig, n * 3 * 2));
    const uint16_t *out = static_cast<uint16_t *>(test_rig_buffer(&rig, n * 5 * 2));
    for (int i = 0; i < n * 3; i++) {
        /* All signs and mantissas, exponents whose products stay finite, few subnormals. */
        const uint32_t r = random_bits();
        in[i] = (uint16_t)((r & 0x83ff) | (i % 16 == 0 ? 0 : 8 + r / 65536 % 14) << 10);
    }
    run(&rig, "half_values");
    for (int i = 0; i < n; i++) {
        const double a = half_value(in[3 * i]), b = half_value(in[3 * i + 1]);
        const double c = half_value(in[3 * i + 2]);
        const uint16_t *r = out + 5 * i;
        expect(r[0] == half_bits(half_value(half_bits(a * b)) + c), "half a * b + c", "");
        expect(r[1] == half_bits(a * b + c), "half fma", "");
        expect(b == 0 || r[2] == half_bits(a / b), "half a / b", "");
        expect(r[3] == half_bits(a * b), "half of a float product", "");
        expect(r[4] == half_bits(a + 1.5), "half a + 1.5h", "");
    }
    test_rig_close(&rig);
}

static void test_float(void)
{
    enum { n = 64 };
    test_rig rig;
    test_rig_open(&rig, "values.metal");
    rig.dispatch.threads[0] = n;
    float *in = static_cast<float *>(test_rig_buffer(&rig, n * 3 * 4));
    const float *out = static_cast<float *>(test_rig_buffer(&rig, n * 6 * 4));
    for (int i = 0; i < n * 3; i++)
        in[i] = random_float() * (1.0f + (float)random_bits() * 0x1p-24f);
    run(&rig, "float_values");
    bool differ = false;
    for (int i = 0; i < n; i++) {
        const float a = in[3 * i], b = in[3 * i + 1], c = in[3 * i + 2];
        const float *r = out + 6 * i;
        const volatile float product = a * b;
        expect_float(r[0], (double)(float)(product + c), "a * b + c");
        expect_float(r[1], (double)a * (double)b + (double)c, "fma");
        differ = differ || bits_of(r[0]) != bits_of(r[1]);
        expect_float(r[2], sqrt(fabs((double)a)), "sqrt");
        expect_float(r[3], 1.0 / sqrt(fabs((double)a)), "rsqrt");
        expect_float(r[4], rint((double)a * 8.0), "rint");
        const float clamped = a < -0.5f ? -0.5f : a > 0.5f ? 0.5f : a;
        const volatile float both = b * c;
        expect_float(r[5], (double)(float)(clamped + both), "clamp, min, max");
    }
    expect(differ, "fma and a * b + c differ somewhere", "");
    test_rig_close(&rig);
}

static void test_vectors(void)
{
    test_rig rig;
    test_rig_open(&rig, "values.metal");
    float *in = static_cast<float *>(test_rig_buffer(&rig, 16));
    const float *out = static_cast<float *>(test_rig_buffer(&rig, 7 * 16));
    uint8_t *bytes = static_cast<uint8_t *>(test_rig_buffer(&rig, 4));
    const float *packed = static_cast<float *>(test_rig_buffer(&rig, 20));
    rig.arguments.at[3] += 4; /* a packed vector is aligned as its elements */
    const float v[4] = {0.25f, -1.5f, 0.75f, 3.0009765625f};
    const uint8_t b[4] = {0, 1, 128, 255};
    memcpy(in, v, sizeof(v));
    memcpy(bytes, b, sizeof(b));
    run(&rig, "vector_values");
    const float expected[7][4] = {
        {v[3], v[2], v[1], v[0]},          {2.25f, 0.5f, 2.75f, 3.0f},
        {0.25f, -1.5f, 0.75f, 3.0f},       {0.25f, -1.5f, 0.0f, 0.0f},
        {0.0f, 0.5f, 64.0f, 127.5f},       {3.14159274f, 11.8808603f, 8.0f, 31.0f},
        {2.75f, 3.25f, 7.75f, 10.0058603f}};
    for (int i = 0; i < 28; i++)
        expect_float(out[i], (double)expected[i / 4][i % 4], "vectors");
    const float w[4] = {7.0f, v[1], 9.0f, v[3]};
    for (int i = 0; i < 4; i++)
        expect_float(packed[1 + i], (double)w[i], "packed_float4");
    test_rig_close(&rig);
}

static void test_atomics(void)
{
    for (int reverse = 0; reverse < 2; reverse++) {
        test_rig rig;
        test_rig_open(&rig, "values.metal");
        kvf_emulator_set_reverse(reverse != 0);
        rig.dispatch.threads[0] = 100;
        rig.dispatch.groups[0] = 10;
        rig.dispatch.n_threadgroup_arrays = 1;
        rig.dispatch.threadgroup_bytes[0] = 16;
        uint32_t *u = static_cast<uint32_t *>(test_rig_buffer(&rig, 6 * 4));
        int32_t *s = static_cast<int32_t *>(test_rig_buffer(&rig, 2 * 4));
        u[2] = 0xffffffff;
        s[1] = -100000;
        run(&rig, "atomic_values");
        expect(u[0] == 499500, "atomic_fetch_add", "");
        expect(u[1] == 999, "atomic_fetch_max", "");
        expect(u[2] == 5, "atomic_fetch_min", "");
        expect(u[3] == 0xffffffff, "atomic_fetch_or", "");
        expect(u[4] == 2000, "atomic_compare_exchange_weak", "");
        expect(u[5] == 1000, "atomics in threadgroup memory", "");
        expect(s[0] == -999 && s[1] == -1, "signed atomics", "");
        test_rig_close(&rig);
    }
}

static void test_places(void)
{
    test_rig rig;
    test_rig_open(&rig, "values.metal");
    const uint32_t groups[3] = {3, 2, 2}, threads[3] = {5, 4, 3};
    memcpy(rig.dispatch.groups, groups, sizeof(groups));
    memcpy(rig.dispatch.threads, threads, sizeof(threads));
    rig.arguments.n = 7;
    const uint32_t *out = static_cast<uint32_t *>(test_rig_buffer(&rig, 720 * 4));
    run(&rig, "places");
    bool good = true;
    for (uint32_t i = 0; i < 720; i++)
        good = good && out[i] == i + 7;
    expect(good, "places of threads", "");
    test_rig_close(&rig);
}

void test_values(void)
{
    test_simd();
    test_matrix(false);
    test_matrix(true);
    test_half();
    test_float();
    test_vectors();
    test_atomics();
    test_places();
}
