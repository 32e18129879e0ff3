/*
 * Peaks of AVX-512. A template: with VNNI where the including file is compiled for it,
 * else int8 is pmaddubsw + pmaddwd + paddd.
 */
#include <immintrin.h>

#include "bench/peak.h"

/* Hides the value from the compiler, so that the product is made anew each time. */
#define KEEP(x) __asm__ volatile("" : "+v"(x))

/* Two ports of latency 4 or 5 need 10 sums. Equal ones would be computed once: they differ. */
static uint64_t fma_avx512(uint64_t rounds, float *sink)
{
    const __m512 x = _mm512_set1_ps(0.5f);
    const __m512 y = _mm512_set1_ps(0.25f);
    __m512 a = _mm512_set1_ps(1.0f), b = _mm512_set1_ps(2.0f), c = _mm512_set1_ps(3.0f),
           d = _mm512_set1_ps(4.0f), e = _mm512_set1_ps(5.0f), f = _mm512_set1_ps(6.0f),
           g = _mm512_set1_ps(7.0f), h = _mm512_set1_ps(8.0f), i = _mm512_set1_ps(9.0f),
           j = _mm512_set1_ps(10.0f), k = _mm512_set1_ps(11.0f), l = _mm512_set1_ps(12.0f);
    for (uint64_t round = 0; round < rounds; round++) {
        a = _mm512_fmadd_ps(a, x, y);
        b = _mm512_fmadd_ps(b, x, y);
        c = _mm512_fmadd_ps(c, x, y);
        d = _mm512_fmadd_ps(d, x, y);
        e = _mm512_fmadd_ps(e, x, y);
        f = _mm512_fmadd_ps(f, x, y);
        g = _mm512_fmadd_ps(g, x, y);
        h = _mm512_fmadd_ps(h, x, y);
        i = _mm512_fmadd_ps(i, x, y);
        j = _mm512_fmadd_ps(j, x, y);
        k = _mm512_fmadd_ps(k, x, y);
        l = _mm512_fmadd_ps(l, x, y);
    }
    const __m512 low = a + b + c + d + e + f;
    const __m512 high = g + h + i + j + k + l;
    *sink = _mm512_cvtss_f32(low + high);
    return rounds * 12 * 16 * 2;
}

static inline __m512i dot(__m512i sum, __m512i keys, __m512i query)
{
#ifdef __AVX512VNNI__
    return _mm512_dpbusd_epi32(sum, keys, query);
#else
    const __m512i pairs = _mm512_maddubs_epi16(keys, query);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

static uint64_t int8_avx512(uint64_t rounds, int32_t *sink)
{
    __m512i keys = _mm512_set1_epi8(3);
    __m512i query = _mm512_set1_epi8(-5);
    __m512i a = query, b = query, c = query, d = query, e = query, f = query;
    __m512i g = query, h = query, i = query, j = query, k = query, l = query;
    for (uint64_t round = 0; round < rounds; round++) {
        KEEP(keys);
        a = dot(a, keys, query);
        KEEP(query);
        b = dot(b, keys, query);
        KEEP(keys);
        c = dot(c, keys, query);
        KEEP(query);
        d = dot(d, keys, query);
        KEEP(keys);
        e = dot(e, keys, query);
        KEEP(query);
        f = dot(f, keys, query);
        KEEP(keys);
        g = dot(g, keys, query);
        KEEP(query);
        h = dot(h, keys, query);
        KEEP(keys);
        i = dot(i, keys, query);
        KEEP(query);
        j = dot(j, keys, query);
        KEEP(keys);
        k = dot(k, keys, query);
        KEEP(query);
        l = dot(l, keys, query);
    }
    const __m512i low = a + b + c + d + e + f;
    const __m512i high = g + h + i + j + k + l;
    *sink = _mm512_cvtsi512_si32(_mm512_add_epi32(low, high));
    return rounds * 12 * 64 * 2;
}

static void read_avx512(const void *memory, size_t bytes, int32_t *sink)
{
    const __m512i *place = memory;
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i < bytes / sizeof *place; i += 4) {
        a = _mm512_or_si512(a, _mm512_load_si512(place + i));
        b = _mm512_or_si512(b, _mm512_load_si512(place + i + 1));
        c = _mm512_or_si512(c, _mm512_load_si512(place + i + 2));
        d = _mm512_or_si512(d, _mm512_load_si512(place + i + 3));
    }
    *sink = _mm512_cvtsi512_si32(_mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d)));
}
