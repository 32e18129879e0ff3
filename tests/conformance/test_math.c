/*
 * shared/math64.h and shared/activation.h: near the C library's results, and of the same bits
 * on every machine, by every compiler, which the sums of test_bits hold.
 */
#include "conformance.h"

#include <float.h>
#include <math.h>

#include "shared/activation.h"

/* Where long double is no wider than double the C library's own error counts too. */
#define OF_REFERENCE (LDBL_MANT_DIG > DBL_MANT_DIG ? 0.0 : 1.0)

enum { N_POINTS = 20000 };

/* Uniform in low .. high. */
static double between(uint64_t *random, double low, double high)
{
    return low + (high - low) * ((double)(cf_random(random) >> 11) * 0x1p-53);
}

/* Fails unless got is within so many units in the last place of expected. */
static void assert_ulps(const char *what, double x, double got, long double expected, double most)
{
    int exponent;
    frexp((double)expected, &exponent);
    const long double unit = ldexpl(1.0L, exponent - DBL_MANT_DIG);
    const double ulps = (double)(fabsl((long double)got - expected) / unit);
    if (!(ulps <= most + OF_REFERENCE))
        fail_msg("%s(%a) is %a, %.2f units from %a; %.2f are allowed", what, x, got, ulps,
                 (double)expected, most);
}

static void exp_is_within_3_ulp(void **state)
{
    (void)state;
    uint64_t random = 1;
    for (int i = 0; i < N_POINTS; i++) {
        const double x = between(&random, -700.0, 700.0) * (i % 2 ? 1.0 : 1e-3);
        assert_ulps("exp", x, kvf_exp_f64(x), expl((long double)x), 3.0);
    }
    assert_true(kvf_exp_f64(0.0) == 1.0);
    assert_true(kvf_exp_f64(-0.0) == 1.0);
    assert_ulps("exp", 700.0, kvf_exp_f64(700.0), expl(700.0L), 3.0);
    assert_ulps("exp", -700.0, kvf_exp_f64(-700.0), expl(-700.0L), 3.0);
    assert_true(kvf_exp_f64(-700.0001) == 0.0);
    assert_true(kvf_exp_f64((double)-INFINITY) == 0.0);
    assert_true(isinf(kvf_exp_f64(700.0001)));
    assert_true(isinf(kvf_exp_f64((double)INFINITY)));
    assert_true(isnan(kvf_exp_f64((double)NAN)));
}

static void log_is_within_3_ulp(void **state)
{
    (void)state;
    uint64_t random = 2;
    for (int i = 0; i < N_POINTS; i++) {
        const double wide = ldexp(between(&random, 1.0, 2.0), (int)cf_pick(&random, 2046) - 1022);
        const double near_one =
            1.0 + ldexp(between(&random, -1.0, 1.0), -(int)cf_pick(&random, 50));
        const double x = i % 2 || near_one <= 0.0 ? wide : near_one;
        assert_ulps("log", x, kvf_log_f64(x), logl((long double)x), 3.0);
    }
    assert_true(kvf_log_f64(1.0) == 0.0);
    assert_ulps("log", DBL_MAX, kvf_log_f64(DBL_MAX), logl((long double)DBL_MAX), 3.0);
    assert_ulps("log", DBL_MIN, kvf_log_f64(DBL_MIN), logl((long double)DBL_MIN), 3.0);
    assert_true(isinf(kvf_log_f64((double)INFINITY)));
    assert_true(isnan(kvf_log_f64((double)NAN)));
}

static void log1p_is_within_3_ulp(void **state)
{
    (void)state;
    uint64_t random = 3;
    for (int i = 0; i < N_POINTS; i++) {
        const double x = ldexp(between(&random, 0.0, 1.0), i % 2 ? 0 : -(int)cf_pick(&random, 130));
        assert_ulps("log1p", x, kvf_log1p_f64(x), log1pl((long double)x), 3.0);
    }
    assert_true(kvf_log1p_f64(0.0) == 0.0);
    assert_ulps("log1p", 1.0, kvf_log1p_f64(1.0), logl(2.0L), 3.0);
    assert_true(isnan(kvf_log1p_f64((double)NAN)));
}

static void pow_is_within_its_bound(void **state)
{
    (void)state;
    uint64_t random = 4;
    for (int i = 0; i < N_POINTS; i++) {
        const double base = i % 2 ? between(&random, 2.0, 1e6) : between(&random, 1e-3, 1e12);
        const double exponent = i % 3 ? between(&random, 0.0, 1.0) : between(&random, -9.0, 9.0);
        assert_ulps("pow", base, kvf_pow_f64(base, exponent),
                    powl((long double)base, (long double)exponent),
                    4.0 + 4.0 * fabs(exponent * log(base)));
    }
    assert_true(kvf_pow_f64(1e12, 0.0) == 1.0);
    assert_true(kvf_pow_f64(1.0, 5.0) == 1.0);
    assert_true(isnan(kvf_pow_f64((double)NAN, 1.0)));
    assert_true(isnan(kvf_pow_f64(2.0, (double)NAN)));
}

static void assert_sin_cos(float x)
{
    double sine, cosine;
    kvf_sin_cos_f64((double)x, &sine, &cosine);
    assert_ulps("sin", (double)x, sine, sinl((long double)x), 3.0);
    assert_ulps("cos", (double)x, cosine, cosl((long double)x), 3.0);
}

static void sin_and_cos_are_within_3_ulp(void **state)
{
    (void)state;
    uint64_t random = 5;
    for (int i = 0; i < N_POINTS; i++) {
        const float size = ldexpf(1.0f, 30 - (int)cf_pick(&random, 60));
        assert_sin_cos(size * cf_unit(&random));
        /* nearest a multiple of pi/2: what is left is small */
        const double n = between(&random, 0.0, 1.0) * ldexp(1.0, (int)cf_pick(&random, 30));
        assert_sin_cos((float)(rint(n) * 1.5707963267948966));
    }
    for (float n = 1.0f; n <= 0x1p30f; n *= 2.0f) {
        assert_sin_cos(n);
        assert_sin_cos(-n);
    }
    double sine, cosine;
    kvf_sin_cos_f64(0.0, &sine, &cosine);
    assert_true(sine == 0.0 && cosine == 1.0);
    kvf_sin_cos_f64((double)NAN, &sine, &cosine);
    assert_true(isnan(sine) && isnan(cosine));
}

/* ---- Activations ----------------------------------------------------------------- */

/*
 * kvf_exp errs by less than 2 u (docs/FORMAT.md 9.1); it is 0 where e^x is below 2^-125. Three
 * f32 operations more at most are rounded.
 */
static void assert_near(const char *what, float x, float got, long double expected)
{
    if (!(fabsl((long double)got - expected) <= 6.0L * CF_U * fabsl(expected) + 0x1p-62L))
        fail_msg("%s(%a) is %a, expected %La", what, (double)x, (double)got, expected);
}

static void activations_are_near_their_formulas(void **state)
{
    (void)state;
    uint64_t random = 6;
    for (int i = 0; i < N_POINTS; i++) {
        const float x = cf_unit(&random) * (i % 2 ? 4.0f : 120.0f);
        const float up = cf_unit(&random) * 8.0f;
        const long double sigmoid = 1.0L / (1.0L + expl(-(long double)x));
        assert_near("sigmoid", x, kvf_sigmoid(x), sigmoid);
        assert_near(
            "route_score", x, kvf_route_score(x),
            sqrtl((x > 0.0f ? (long double)x : 0.0L) + log1pl(expl(-fabsl((long double)x)))));
        assert_near("swiglu", x, kvf_swiglu(x, up, 0.0f), x * sigmoid * up);
        const float gate = x < 2.0f ? x : 2.0f;
        const float clamped = up < -2.0f ? -2.0f : up > 2.0f ? 2.0f : up;
        assert_near("swiglu", x, kvf_swiglu(x, up, 2.0f),
                    gate / (1.0L + expl(-(long double)gate)) * clamped);
    }
}

static void activations_at_their_ends(void **state)
{
    (void)state;
    assert_true(kvf_sigmoid(0.0f) == 0.5f && kvf_sigmoid(-0.0f) == 0.5f);
    assert_true(kvf_sigmoid(INFINITY) == 1.0f && kvf_sigmoid(-INFINITY) == 0.0f);
    assert_true(kvf_route_score(-INFINITY) == 0.0f && isinf(kvf_route_score(INFINITY)));
    assert_true(isnan(kvf_sigmoid(NAN)) && isnan(kvf_sigmoid(-NAN)));
    assert_true(isnan(kvf_route_score(NAN)) && isnan(kvf_exp_or_nan(NAN)));
    const float limits[] = {0.0f, 2.0f};
    for (int i = 0; i < 2; i++) {
        assert_true(isnan(kvf_swiglu(NAN, 1.0f, limits[i])));
        assert_true(isnan(kvf_swiglu(1.0f, NAN, limits[i])));
        assert_true(kvf_swiglu(0.0f, 5.0f, limits[i]) == 0.0f);
    }
    assert_true(kvf_swiglu(INFINITY, -INFINITY, 2.0f) == kvf_swiglu(2.0f, -2.0f, 0.0f));
}

/* ---- Bits -------------------------------------------------------------------------- */

static void add_bits(uint64_t *checksum, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    for (int byte = 0; byte < 8; byte++)
        *checksum = (*checksum ^ (bits >> 8 * byte & 255)) * 0x100000001b3u; /* FNV-1a */
}

static void assert_checksum(const char *what, uint64_t got, uint64_t expected)
{
    if (got != expected)
        fail_msg("%s: the bits of %d results have checksum %016llx, not %016llx", what, N_POINTS,
                 (unsigned long long)got, (unsigned long long)expected);
}

/*
 * Checksums of the results where these functions are as they are meant to be: another
 * machine, compiler or option under which one differs computes other bits. A change of a
 * function changes its sum here, and the bits of every model.
 */
static void results_have_the_same_bits_everywhere(void **state)
{
    (void)state;
    enum { EXP, LOG, LOG1P, POW, SIN, COS, SIGMOID, SCORE, SWIGLU, N_SUMS };
    static const char *const names[N_SUMS] = {"exp", "log",     "log1p", "pow",   "sin",
                                              "cos", "sigmoid", "score", "swiglu"};
    static const uint64_t expected[N_SUMS] = {
        0xa39144b90a4cf35cu, 0x31699a5eb089e087u, 0x4f8e0529b513c402u,
        0x0b7ec0ebb29fe7bdu, 0x204c20f99b5f6686u, 0x5d829c358663786au,
        0x279d6b73f2be5a60u, 0xf22d4e5be854b91cu, 0xe8ec3dacf05098eeu};
    uint64_t sums[N_SUMS];
    for (int s = 0; s < N_SUMS; s++)
        sums[s] = 0xcbf29ce484222325u;
    uint64_t random = 7;
    for (int i = 0; i < N_POINTS; i++) {
        const double unit = between(&random, -1.0, 1.0);
        const float angle = ldexpf((float)unit, (int)cf_pick(&random, 31));
        double sine, cosine;
        kvf_sin_cos_f64((double)angle, &sine, &cosine);
        add_bits(&sums[EXP], kvf_exp_f64(unit * 700.0));
        add_bits(&sums[LOG], kvf_log_f64(ldexp(2.0 + unit, (int)cf_pick(&random, 2000) - 1000)));
        add_bits(&sums[LOG1P], kvf_log1p_f64(fabs(unit)));
        add_bits(&sums[POW], kvf_pow_f64(3.0 + unit, 20.0 * between(&random, -1.0, 1.0)));
        add_bits(&sums[SIN], sine);
        add_bits(&sums[COS], cosine);
        const float x = (float)unit * 30.0f;
        add_bits(&sums[SIGMOID], (double)kvf_sigmoid(x));
        add_bits(&sums[SCORE], (double)kvf_route_score(x));
        add_bits(&sums[SWIGLU], (double)kvf_swiglu(x, cf_unit(&random) * 20.0f, 10.0f));
    }
    for (int s = 0; s < N_SUMS; s++)
        assert_checksum(names[s], sums[s], expected[s]);
}

int cf_run_math_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_3_ulp),
        cmocka_unit_test(log_is_within_3_ulp),
        cmocka_unit_test(log1p_is_within_3_ulp),
        cmocka_unit_test(pow_is_within_its_bound),
        cmocka_unit_test(sin_and_cos_are_within_3_ulp),
        cmocka_unit_test(activations_are_near_their_formulas),
        cmocka_unit_test(activations_at_their_ends),
        cmocka_unit_test(results_have_the_same_bits_everywhere),
    };
    return _cmocka_run_group_tests("math", tests, sizeof tests / sizeof tests[0], NULL, NULL);
}
