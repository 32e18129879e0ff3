/*
 * The scalar codecs of src/shared over all their codes, and the scale decisions around
 * every boundary. Expected values come from ldexp on the fields of a code and from
 * comparisons in double, where all of them are exact.
 */
#include "test_support.h"

#include <math.h>

#include "shared/bf16.h"
#include "shared/e2m1.h"
#include "shared/e4m3.h"
#include "shared/half.h"
#include "shared/ue8m0.h"

/* The value of a code's magnitude in a format with that many mantissa bits and that bias. */
static double magnitude_value(uint32_t code, int mantissa_bits, int bias)
{
    const int exponent = (int)(code >> mantissa_bits);
    const int mantissa = (int)(code & ((1u << mantissa_bits) - 1));
    if (exponent == 0)
        return ldexp(mantissa, 1 - bias - mantissa_bits);
    return ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

/*
 * Whether the decoded bits are the expected value: the same double, the same sign.
 */
static bool decodes_to(uint32_t bits, double magnitude, bool negative)
{
    const double value = (double)test_float(bits);
    return fabs(value) == magnitude && signbit(value) == negative;
}

static void e4m3_decodes_all_256_codes(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 256; code++) {
        const uint32_t bits = kvf_e4m3_decode((uint8_t)code);
        if ((code & 0x7f) == 0x7f)
            assert_true(isnan(test_float(bits)));
        else
            assert_true(decodes_to(bits, magnitude_value(code & 0x7f, 3, 7), code >> 7));
    }
    assert_true(decodes_to(kvf_e4m3_decode(0x7e), 448, false));
}

static void e4m3_encodes_every_value_to_its_code(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 256; code++)
        assert_int_equal(kvf_e4m3_encode(kvf_e4m3_decode((uint8_t)code)), code);
}

/*
 * Around the midpoint of every two neighbours: the lower code just below it, the even
 * one at it, the upper one just above it. `bits` are those of the midpoint, an f32.
 */
static void check_midpoint(uint32_t (*encode)(uint32_t bits), uint32_t midpoint, uint32_t lower,
                           uint32_t sign)
{
    for (uint32_t negative = 0; negative < 2; negative++) {
        const uint32_t f32_sign = negative << 31;
        const uint32_t code_sign = negative ? sign : 0;
        const uint32_t even = lower + (lower & 1);
        assert_int_equal(encode(f32_sign | (midpoint - 1)), code_sign | lower);
        assert_int_equal(encode(f32_sign | midpoint), code_sign | even);
        assert_int_equal(encode(f32_sign | (midpoint + 1)), code_sign | (lower + 1));
    }
}

static uint32_t encode_e4m3(uint32_t bits)
{
    return kvf_e4m3_encode(bits);
}

static uint32_t encode_e2m1(uint32_t bits)
{
    return kvf_e2m1_encode(bits);
}

static uint32_t encode_f16(uint32_t bits)
{
    return kvf_f16_encode(bits);
}

static uint32_t encode_bf16(uint32_t bits)
{
    return kvf_bf16_encode(bits);
}

static uint32_t midpoint_bits(uint32_t lower, int mantissa_bits, int bias)
{
    const double sum = magnitude_value(lower, mantissa_bits, bias) +
                       magnitude_value(lower + 1, mantissa_bits, bias);
    const float midpoint = (float)(sum / 2);
    assert_true((double)midpoint == sum / 2);
    return test_bits(midpoint);
}

static void e4m3_rounds_ties_to_the_even_code(void **state)
{
    (void)state;
    for (uint32_t lower = 0; lower < 0x7e; lower++)
        check_midpoint(encode_e4m3, midpoint_bits(lower, 3, 7), lower, 0x80);
}

static void e4m3_clamps_to_448(void **state)
{
    (void)state;
    const float large[] = {448.0f, 449.0f, 464.0f, 465.0f, 480.0f, 1e30f, 0x1.fffffep127f};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        assert_int_equal(kvf_e4m3_encode(test_bits(large[i])), 0x7e);
        assert_int_equal(kvf_e4m3_encode(test_bits(-large[i])), 0xfe);
    }
}

static void e2m1_decodes_all_16_codes(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 16; code++) {
        const double magnitude = magnitude_value(code & 7, 1, 1);
        assert_true(decodes_to(kvf_e2m1_decode((uint8_t)code), magnitude, code >> 3));
        const double doubled = code >> 3 ? -2 * magnitude : 2 * magnitude;
        assert_true(kvf_e2m1_doubled((uint8_t)code) == doubled);
        assert_int_equal(kvf_e2m1_encode(kvf_e2m1_decode((uint8_t)code)), code);
    }
}

static void e2m1_rounds_ties_to_the_even_code(void **state)
{
    (void)state;
    for (uint32_t lower = 0; lower < 7; lower++)
        check_midpoint(encode_e2m1, midpoint_bits(lower, 1, 1), lower, 0x8);
    assert_int_equal(kvf_e2m1_encode(test_bits(1e30f)), 7);
    assert_int_equal(kvf_e2m1_encode(test_bits(-1e30f)), 15);
}

static void f16_decodes_and_encodes_all_65536_codes(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x10000; code++) {
        const uint32_t magnitude = code & 0x7fff;
        const uint32_t bits = kvf_f16_decode((uint16_t)code);
        if (magnitude > 0x7c00) {
            assert_true(isnan(test_float(bits)));
            assert_int_equal(kvf_f16_encode(bits), (code & 0x8000) | 0x7e00);
            continue;
        }
        const double value = magnitude == 0x7c00 ? INFINITY : magnitude_value(magnitude, 10, 15);
        assert_true(decodes_to(bits, value, code >> 15));
        assert_int_equal(kvf_f16_encode(bits), code);
    }
}

static void f16_rounds_ties_to_even_and_saturates(void **state)
{
    (void)state;
    for (uint32_t lower = 0; lower < 0x7bff; lower++)
        check_midpoint(encode_f16, midpoint_bits(lower, 10, 15), lower, 0x8000);
    /* 65519 rounds to 65504 anyway; 65520 would be infinity. */
    const float large[] = {65504.0f, 65519.0f, 65520.0f, 65536.0f, 0x1.fffffep127f};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        assert_int_equal(kvf_f16_encode(test_bits(large[i])), 0x7bff);
        assert_int_equal(kvf_f16_encode(test_bits(-large[i])), 0xfbff);
    }
    /* f32 subnormals are far below the smallest f16. */
    assert_int_equal(kvf_f16_encode(0x007fffff), 0);
    assert_int_equal(kvf_f16_encode(0x80000001), 0x8000);
}

static void bf16_decodes_and_encodes_all_65536_codes(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x10000; code++) {
        const uint32_t magnitude = code & 0x7fff;
        const uint32_t bits = kvf_bf16_decode((uint16_t)code);
        if (magnitude > 0x7f80) {
            assert_true(isnan(test_float(bits)));
            assert_int_equal(kvf_bf16_encode(bits), (code & 0x8000) | 0x7fc0);
            continue;
        }
        const double value = magnitude == 0x7f80 ? INFINITY : magnitude_value(magnitude, 7, 127);
        assert_true(decodes_to(bits, value, code >> 15));
        assert_int_equal(kvf_bf16_encode(bits), code);
    }
}

static void bf16_rounds_ties_to_even_and_overflows_to_infinity(void **state)
{
    (void)state;
    for (uint32_t lower = 0; lower < 0x7f7f; lower++)
        check_midpoint(encode_bf16, midpoint_bits(lower, 7, 127), lower, 0x8000);
    assert_int_equal(kvf_bf16_encode(0x7f7f7fff), 0x7f7f);
    assert_int_equal(kvf_bf16_encode(0x7f7f8000), 0x7f80);
    assert_int_equal(kvf_bf16_encode(0xff7fffff), 0xff80);
}

/* The definition: the smallest e with max(amax, floor) <= top * 2^e, searched upwards. */
static int smallest_exponent(double amax, double floor, double top)
{
    const double bounded = amax > floor ? amax : floor;
    int exponent = -300;
    while (bounded > ldexp(top, exponent))
        exponent++;
    return exponent;
}

/*
 * From top * 2^-160 (under f32's subnormals for both tops) to beyond FLT_MAX: each
 * boundary and three floats to either side.
 */
static void check_scale_boundaries(int32_t (*decide)(uint32_t amax_bits), double floor, double top)
{
    for (int exponent = -160; exponent <= 127; exponent++) {
        const double boundary = ldexp(top, exponent);
        if (boundary >= 0x1p128)
            break;
        const int64_t centre = test_bits((float)boundary);
        for (int64_t bits = centre - 3; bits <= centre + 3; bits++) {
            if (bits < 0 || bits >= 0x7f800000)
                continue;
            const double amax = (double)test_float((uint32_t)bits);
            assert_int_equal(decide((uint32_t)bits), smallest_exponent(amax, floor, top));
        }
    }
    for (int64_t bits = 0x7f7ffffd; bits < 0x7f800000; bits++)
        assert_int_equal(decide((uint32_t)bits),
                         smallest_exponent((double)test_float((uint32_t)bits), floor, top));
}

static void fp8_scale_is_right_around_every_boundary(void **state)
{
    (void)state;
    check_scale_boundaries(kvf_fp8_exponent, (double)1e-4f, 448);
    assert_int_equal(kvf_fp8_exponent(0), -22);
    assert_int_equal(kvf_fp8_exponent(0x7f7fffff), 120);
    /* The floor's own neighbourhood. */
    for (uint32_t bits = test_bits(1e-4f) - 3; bits <= test_bits(1e-4f) + 3; bits++)
        assert_int_equal(kvf_fp8_exponent(bits), -22);
}

static void fp4_scale_is_right_around_every_boundary(void **state)
{
    (void)state;
    check_scale_boundaries(kvf_fp4_exponent, 6 * 0x1p-126, 6);
    assert_int_equal(kvf_fp4_exponent(0), -126);
    assert_int_equal(kvf_fp4_exponent(0x7f7fffff), 126);
}

static void ue8m0_bytes_are_powers_of_two(void **state)
{
    (void)state;
    for (uint32_t byte = 0; byte < 255; byte++) {
        const int exponent = (int)byte - 127;
        assert_true((double)test_float(kvf_ue8m0_decode((uint8_t)byte)) == ldexp(1, exponent));
        assert_int_equal(kvf_ue8m0_encode(exponent), byte);
    }
    assert_true(isnan(test_float(kvf_ue8m0_decode(255))));
    for (int exponent = -126; exponent <= 127; exponent++)
        assert_true((double)test_float(kvf_power_of_two(exponent)) == ldexp(1, exponent));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(e4m3_decodes_all_256_codes),
        cmocka_unit_test(e4m3_encodes_every_value_to_its_code),
        cmocka_unit_test(e4m3_rounds_ties_to_the_even_code),
        cmocka_unit_test(e4m3_clamps_to_448),
        cmocka_unit_test(e2m1_decodes_all_16_codes),
        cmocka_unit_test(e2m1_rounds_ties_to_the_even_code),
        cmocka_unit_test(f16_decodes_and_encodes_all_65536_codes),
        cmocka_unit_test(f16_rounds_ties_to_even_and_saturates),
        cmocka_unit_test(bf16_decodes_and_encodes_all_65536_codes),
        cmocka_unit_test(bf16_rounds_ties_to_even_and_overflows_to_infinity),
        cmocka_unit_test(fp8_scale_is_right_around_every_boundary),
        cmocka_unit_test(fp4_scale_is_right_around_every_boundary),
        cmocka_unit_test(ue8m0_bytes_are_powers_of_two),
    };
    return cmocka_run_group_tests_name("codecs", tests, NULL, NULL);
}
