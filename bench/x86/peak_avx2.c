/* Peaks of AVX2: FMA, and pmaddubsw + pmaddwd + paddd, which is all it has for int8. */
#include <immintrin.h>

#include "bench/peak.h"

/* Hides the value from the compiler, so that the product is made anew each time. */
#define KEEP(x) __asm__ volatile("" : "+x"(x))

/*
 * Two ports of latency 4 or 5 need 10 sums; 16 registers have room for 12. Equal sums would
 * be computed once: they start differently.
 */
static uint64_t fma_avx2(uint64_t rounds, float *sink)
{
    const __m256 x = _mm256_set1_ps(0.5f);
    const __m256 y = _mm256_set1_ps(0.25f);
    __m256 a = _mm256_set1_ps(1.0f), b = _mm256_set1_ps(2.0f), c = _mm256_set1_ps(3.0f),
           d = _mm256_set1_ps(4.0f), e = _mm256_set1_ps(5.0f), f = _mm256_set1_ps(6.0f),
           g = _mm256_set1_ps(7.0f), h = _mm256_set1_ps(8.0f), i = _mm256_set1_ps(9.0f),
           j = _mm256_set1_ps(10.0f), k = _mm256_set1_ps(11.0f), l = _mm256_set1_ps(12.0f);
    for (uint64_t round = 0; round < rounds; round++) {
        a = _mm256_fmadd_ps(a, x, y);
        b = _mm256_fmadd_ps(b, x, y);
        c = _mm256_fmadd_ps(c, x, y);
        d = _mm256_fmadd_ps(d, x, y);
        e = _mm256_fmadd_ps(e, x, y);
        f = _mm256_fmadd_ps(f, x, y);
        g = _mm256_fmadd_ps(g, x, y);
        h = _mm256_fmadd_ps(h, x, y);
        i = _mm256_fmadd_ps(i, x, y);
        j = _mm256_fmadd_ps(j, x, y);
        k = _mm256_fmadd_ps(k, x, y);
        l = _mm256_fmadd_ps(l, x, y);
    }
    const __m256 low = a + b + c + d + e + f;
    const __m256 high = g + h + i + j + k + l;
    *sink = _mm256_cvtss_f32(low + high);
    return rounds * 12 * 8 * 2;
}

static inline __m256i dot(__m256i sum, __m256i keys, __m256i query)
{
    const __m256i pairs = _mm256_maddubs_epi16(keys, query);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static uint64_t int8_avx2(uint64_t rounds, int32_t *sink)
{
    __m256i keys = _mm256_set1_epi8(3);
    __m256i query = _mm256_set1_epi8(-5);
    __m256i a = query, b = query, c = query, d = query;
    for (uint64_t round = 0; round < rounds; round++) {
        KEEP(keys);
        a = dot(a, keys, query);
        KEEP(query);
        b = dot(b, keys, query);
        KEEP(keys);
        c = dot(c, keys, query);
        KEEP(query);
        d = dot(d, keys, query);
    }
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
    *sink = _mm256_cvtsi256_si32(sum);
    return rounds * 4 * 32 * 2;
}

static void read_avx2(const void *memory, size_t bytes, int32_t *sink)
{
    const __m256i *place = memory;
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i < bytes / sizeof *place; i += 4) {
        a = _mm256_or_si256(a, _mm256_load_si256(place + i));
        b = _mm256_or_si256(b, _mm256_load_si256(place + i + 1));
        c = _mm256_or_si256(c, _mm256_load_si256(place + i + 2));
        d = _mm256_or_si256(d, _mm256_load_si256(place + i + 3));
    }
    *sink = _mm256_cvtsi256_si32(_mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)));
}

const bench_peak_kernels bench_peak_avx2 = {"avx2", fma_avx2, int8_avx2, "vpmaddubsw + vpmaddwd",
                                            read_avx2};
