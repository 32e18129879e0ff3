/*
 * A library that changes the floating-point environment before main, as one that was linked
 * with -ffast-math does: test_process.py preloads it. Rounding is changed as well, which no
 * result could survive.
 */
#include <fenv.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

__attribute__((constructor)) static void flush_subnormals(void)
{
    fesetround(FE_UPWARD);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
}
