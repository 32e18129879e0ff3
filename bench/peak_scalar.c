/* Peaks of plain C, compiled for the architecture's baseline. */
#include "bench/peak.h"

#include <string.h>

/*
 * Keeps a value in its register and hides from the compiler what it is, so that it can
 * neither hoist a product out of the loop nor turn the loop into a formula.
 */
#define KEEP_INT(x) __asm__ volatile("" : "+r"(x))
#if defined(__aarch64__)
#define KEEP_FLOAT(x) __asm__ volatile("" : "+w"(x))
#else
#define KEEP_FLOAT(x) __asm__ volatile("" : "+x"(x))
#endif

static uint64_t fma_scalar(uint64_t rounds, float *sink)
{
    /* Equal sums would be computed once: they start differently. */
    float a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8;
    float x = 0.5f;
    float y = 0.25f;
    for (uint64_t i = 0; i < rounds; i++) {
        KEEP_FLOAT(x);
        a = a * x + y;
        b = b * x + y;
        c = c * x + y;
        d = d * x + y;
        KEEP_FLOAT(y);
        e = e * x + y;
        f = f * x + y;
        g = g * x + y;
        h = h * x + y;
    }
    *sink = a + b + c + d + e + f + g + h;
    return rounds * 8 * 2;
}

static uint64_t int8_scalar(uint64_t rounds, int32_t *sink)
{
    int32_t a = 1, b = 2, c = 3, d = 4;
    int32_t x = 3, y = 5;
    for (uint64_t i = 0; i < rounds; i++) {
        KEEP_INT(x);
        a += x * y;
        KEEP_INT(y);
        b += x * y;
        KEEP_INT(x);
        c += x * y;
        KEEP_INT(y);
        d += x * y;
    }
    *sink = a + b + c + d;
    return rounds * 4 * 2;
}

static void read_scalar(const void *memory, size_t bytes, int32_t *sink)
{
    const uint8_t *place = memory;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i < bytes; i += 32) {
        uint64_t words[4];
        memcpy(words, place + i, sizeof words);
        a |= words[0];
        b |= words[1];
        c |= words[2];
        d |= words[3];
    }
    *sink = (int32_t)(a | b | c | d);
}

const bench_peak_kernels bench_peak_scalar = {"scalar", fma_scalar, int8_scalar, "multiply and add",
                                              read_scalar};
