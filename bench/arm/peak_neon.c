/* Peaks of NEON with dotprod. */
#include <arm_neon.h>

#include "bench/peak.h"

/* Up to four ports of latency 4 need 16 sums. Equal ones would be computed once: they differ. */
enum { N_SUMS = 16 };

static uint64_t fma_neon(uint64_t rounds, float *sink)
{
    const float32x4_t x = vdupq_n_f32(0.5f);
    const float32x4_t y = vdupq_n_f32(0.25f);
    float32x4_t sums[N_SUMS];
    for (int i = 0; i < N_SUMS; i++)
        sums[i] = vdupq_n_f32((float)i);
    for (uint64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 16
        for (int i = 0; i < N_SUMS; i++)
            sums[i] = vfmaq_f32(y, sums[i], x);
    }
    float32x4_t sum = sums[0];
    for (int i = 1; i < N_SUMS; i++)
        sum = vaddq_f32(sum, sums[i]);
    *sink = vgetq_lane_f32(sum, 0);
    return rounds * N_SUMS * 4 * 2;
}

static uint64_t int8_neon(uint64_t rounds, int32_t *sink)
{
    const int8x16_t keys = vdupq_n_s8(3);
    const int8x16_t query = vdupq_n_s8(-5);
    int32x4_t sums[N_SUMS];
    for (int i = 0; i < N_SUMS; i++)
        sums[i] = vdupq_n_s32(i);
    for (uint64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 16
        for (int i = 0; i < N_SUMS; i++)
            sums[i] = vdotq_s32(sums[i], keys, query);
    }
    int32x4_t sum = sums[0];
    for (int i = 1; i < N_SUMS; i++)
        sum = vaddq_s32(sum, sums[i]);
    *sink = vgetq_lane_s32(sum, 0);
    return rounds * N_SUMS * 16 * 2;
}

static void read_neon(const void *memory, size_t bytes, int32_t *sink)
{
    const int32_t *place = memory;
    int32x4_t a = vdupq_n_s32(0), b = a, c = a, d = a;
    for (size_t i = 0; i < bytes / sizeof *place; i += 16) {
        a = vorrq_s32(a, vld1q_s32(place + i));
        b = vorrq_s32(b, vld1q_s32(place + i + 4));
        c = vorrq_s32(c, vld1q_s32(place + i + 8));
        d = vorrq_s32(d, vld1q_s32(place + i + 12));
    }
    *sink = vgetq_lane_s32(vorrq_s32(vorrq_s32(a, b), vorrq_s32(c, d)), 0);
}

const bench_peak_kernels bench_peak_neon = {"neon", fma_neon, int8_neon, "sdot", read_neon};
