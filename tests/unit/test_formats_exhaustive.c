/*
 * Every f32 there is, all 2^32, through every encoder and both scale decisions, against
 * a reference in double that knows only the list of a format's values: the nearest one,
 * a tie to the even code. Some ten seconds on two cores.
 *
 * The floats are visited by ascending magnitude, so the nearest code and the smallest
 * exponent only ever move upwards: a cursor a format makes the search cheap, and the
 * comparison is exact (see nearer_is_next).
 */
#include "test_support.h"

#include <math.h>

#include "backend/backend.h"
#include "shared/bf16.h"
#include "shared/e2m1.h"
#include "shared/e4m3.h"
#include "shared/half.h"
#include "shared/ue8m0.h"

enum {
    CHUNK_BITS = 20, /* magnitudes a unit of work: 2^20 */
    FIRST_NONFINITE = 0x7f800000,
    /* Codes of bf16 up to infinity, which stands for 2^128 while rounding. */
    MOST_CODES = 0x7f80 + 1
};

/* The magnitudes of a format by code; the last is where larger values go. */
typedef struct value_list {
    uint32_t n;
    double values[MOST_CODES];
} value_list;

static value_list f16_values, bf16_values, e4m3_values, e2m1_values;

static void fill_values(value_list *list, uint32_t n, int mantissa_bits, int bias)
{
    list->n = n;
    for (uint32_t code = 0; code < n; code++) {
        const int exponent = (int)(code >> mantissa_bits);
        const int mantissa = (int)(code & ((1u << mantissa_bits) - 1));
        list->values[code] =
            exponent == 0 ? ldexp(mantissa, 1 - bias - mantissa_bits)
                          : ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
    }
}

/*
 * Whether code + 1 is the better one for x. Twice an f32 is exact in double and so is
 * the sum of two neighbours.
 */
static inline bool nearer_is_next(const value_list *list, uint32_t code, double x)
{
    if (code + 1 == list->n)
        return false;
    const double sum = list->values[code] + list->values[code + 1];
    return 2 * x > sum || (2 * x == sum && code % 2 == 1);
}

/* The reference's answers for one magnitude, kept from one to the next. */
typedef struct cursor {
    uint32_t f16, bf16, e4m3, e2m1;
    int fp8_exponent, fp4_exponent;
    double fp8_limit, fp4_limit; /* 448 * 2^fp8_exponent, 6 * 2^fp4_exponent */
} cursor;

static cursor cursor_start(void)
{
    const int lowest = -200; /* below either floor's exponent */
    return (cursor){.fp8_exponent = lowest,
                    .fp4_exponent = lowest,
                    .fp8_limit = ldexp(448, lowest),
                    .fp4_limit = ldexp(6, lowest)};
}

static inline void cursor_advance(cursor *at, double x)
{
    while (nearer_is_next(&f16_values, at->f16, x))
        at->f16++;
    while (nearer_is_next(&bf16_values, at->bf16, x))
        at->bf16++;
    while (nearer_is_next(&e4m3_values, at->e4m3, x))
        at->e4m3++;
    while (nearer_is_next(&e2m1_values, at->e2m1, x))
        at->e2m1++;
    const double fp8_amax = x > (double)1e-4f ? x : (double)1e-4f;
    while (fp8_amax > at->fp8_limit) {
        at->fp8_exponent++;
        at->fp8_limit *= 2;
    }
    const double fp4_amax = x > 6 * 0x1p-126 ? x : 6 * 0x1p-126;
    while (fp4_amax > at->fp4_limit) {
        at->fp4_exponent++;
        at->fp4_limit *= 2;
    }
}

/* Whether the codecs agree with the reference for both signs of a finite magnitude. */
static inline bool agrees(uint32_t magnitude, const cursor *at)
{
    const uint32_t negative = magnitude | 0x80000000u;
    return kvf_f16_encode(magnitude) == at->f16 && kvf_f16_encode(negative) == (at->f16 | 0x8000) &&
           kvf_bf16_encode(magnitude) == at->bf16 &&
           kvf_bf16_encode(negative) == (at->bf16 | 0x8000) &&
           kvf_e4m3_encode(magnitude) == at->e4m3 &&
           kvf_e4m3_encode(negative) == (at->e4m3 | 0x80) &&
           kvf_e2m1_encode(magnitude) == at->e2m1 &&
           kvf_e2m1_encode(negative) == (at->e2m1 | 0x8) &&
           kvf_fp8_exponent(magnitude) == at->fp8_exponent &&
           kvf_fp4_exponent(magnitude) == at->fp4_exponent;
}

/* What the codecs' headers say of infinity and NaN. */
static inline bool agrees_nonfinite(uint32_t magnitude)
{
    const bool nan = magnitude > FIRST_NONFINITE;
    const uint32_t negative = magnitude | 0x80000000u;
    const uint32_t f16 = nan ? 0x7e00 : 0x7c00;
    const uint32_t bf16 = nan ? 0x7fc0 : 0x7f80;
    const uint32_t e4m3 = nan ? 0x7f : 0x7e;
    return kvf_f16_encode(magnitude) == f16 && kvf_f16_encode(negative) == (f16 | 0x8000) &&
           kvf_bf16_encode(magnitude) == bf16 && kvf_bf16_encode(negative) == (bf16 | 0x8000) &&
           kvf_e4m3_encode(magnitude) == e4m3 && kvf_e4m3_encode(negative) == (e4m3 | 0x80) &&
           kvf_e2m1_encode(magnitude) == 7 && kvf_e2m1_encode(negative) == 15;
}

/* Number of magnitudes of a chunk that disagree; *worst is one of them. */
static uint64_t check_chunk(uint32_t chunk, uint32_t *worst)
{
    uint64_t n_wrong = 0;
    cursor at = cursor_start();
    const uint32_t first = chunk << CHUNK_BITS;
    for (uint32_t i = 0; i < 1u << CHUNK_BITS; i++) {
        const uint32_t magnitude = first + i;
        bool right;
        if (magnitude >= FIRST_NONFINITE) {
            right = agrees_nonfinite(magnitude);
        } else {
            cursor_advance(&at, (double)test_float(magnitude));
            right = agrees(magnitude, &at);
        }
        if (!right) {
            n_wrong++;
            *worst = magnitude;
        }
    }
    return n_wrong;
}

#define N_CHUNKS (1 << (31 - CHUNK_BITS))

typedef struct progress {
    _Atomic uint64_t n_wrong;
    _Atomic uint32_t example;
    _Atomic int n_done;
} progress;

static void check_chunks(void *context, size_t first, size_t end, uint32_t thread)
{
    progress *all = context;
    (void)thread;
    for (size_t chunk = first; chunk < end; chunk++) {
        uint32_t worst = 0;
        const uint64_t n_wrong = check_chunk((uint32_t)chunk, &worst);
        all->n_wrong += n_wrong;
        if (n_wrong)
            all->example = worst;
        const int n_done = ++all->n_done;
        if (n_done % (N_CHUNKS / 16) == 0) {
            printf("%3d of 100 percent of all floats\n", n_done * 100 / N_CHUNKS);
            fflush(stdout);
        }
    }
}

static void every_f32_encodes_to_its_nearest_code_and_smallest_exponent(void **state)
{
    (void)state;
    fill_values(&f16_values, 0x7bff + 1, 10, 15);
    fill_values(&bf16_values, 0x7f80 + 1, 7, 127);
    fill_values(&e4m3_values, 0x7e + 1, 3, 7);
    fill_values(&e2m1_values, 0x7 + 1, 1, 1);

    kvf_device *device;
    progress all = {0};
    assert_int_equal(kvf_device_open(NULL, &device, NULL), KVF_OK);
    kvf_device_run(device, N_CHUNKS, 1, check_chunks, &all);
    kvf_device_close(device);
    if (all.n_wrong)
        fail_msg("%llu magnitudes are wrong, one of them has the bits 0x%08x",
                 (unsigned long long)all.n_wrong, (unsigned)all.example);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f32_encodes_to_its_nearest_code_and_smallest_exponent),
    };
    return cmocka_run_group_tests_name("formats, exhaustively", tests, NULL, NULL);
}
