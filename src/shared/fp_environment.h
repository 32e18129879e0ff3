/*
 * The floating-point environment that results are defined in: round to nearest, subnormal
 * numbers are kept, nothing traps. A program that embeds the library, or another library in
 * it (one that was linked with -ffast-math is enough), may have set another one, and the
 * bits that kvfold.h promises would not be the same there.
 *
 * Every door of the library and of the model behind which numbers are computed begins with
 * KVF_FP_DOOR(); the caller's environment is back when the function returns. What is called
 * between doors, backends above all, need not think of it. Where the environment is the
 * default, as nearly always, a door reads one register and writes none.
 */
#ifndef KVF_SHARED_FP_ENVIRONMENT_H
#define KVF_SHARED_FP_ENVIRONMENT_H

#include <stdint.h>

#if defined(__x86_64__)

/* MXCSR: rounding, exceptions masked, FTZ and DAZ are bits 6 to 15; below are the flags. */
#define KVF_FP_CONTROL_BITS 0xffc0u
#define KVF_FP_DEFAULT 0x1f80u

typedef uint32_t kvf_fp_environment;

static inline kvf_fp_environment kvf_fp_read(void)
{
    uint32_t control;
    __asm__ volatile("stmxcsr %0" : "=m"(control) : : "memory");
    return control;
}

static inline void kvf_fp_write(kvf_fp_environment environment)
{
    __asm__ volatile("ldmxcsr %0" : : "m"(environment) : "memory");
}

#elif defined(__aarch64__)

/* FPCR is all control; its flags are in a register of their own. */
#define KVF_FP_CONTROL_BITS UINT64_MAX
#define KVF_FP_DEFAULT 0u

typedef uint64_t kvf_fp_environment;

static inline kvf_fp_environment kvf_fp_read(void)
{
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control) : : "memory");
    return control;
}

static inline void kvf_fp_write(kvf_fp_environment environment)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(environment) : "memory");
}

#else

#include <fenv.h>

/* Where the registers are not known there is no cheap question: rounding, which C can ask. */
#define KVF_FP_CONTROL_BITS UINT32_MAX
#define KVF_FP_DEFAULT ((uint32_t)FE_TONEAREST)

typedef uint32_t kvf_fp_environment;

static inline kvf_fp_environment kvf_fp_read(void)
{
    return (uint32_t)fegetround();
}

static inline void kvf_fp_write(kvf_fp_environment environment)
{
    fesetround((int)environment);
}

#endif

static inline int kvf_fp_is_default(kvf_fp_environment environment)
{
    return (environment & KVF_FP_CONTROL_BITS) == KVF_FP_DEFAULT;
}

/* Sets the default; returns what was there. */
static inline kvf_fp_environment kvf_fp_enter(void)
{
    const kvf_fp_environment before = kvf_fp_read();
    if (!kvf_fp_is_default(before))
        kvf_fp_write(KVF_FP_DEFAULT);
    return before;
}

static inline void kvf_fp_leave(const kvf_fp_environment *before)
{
    if (!kvf_fp_is_default(*before))
        kvf_fp_write(*before);
}

/* A declaration: from here to the end of the block the environment is the default. */
#define KVF_FP_DOOR()                                                                              \
    const kvf_fp_environment kvf_fp_before __attribute__((cleanup(kvf_fp_leave), unused)) =        \
        kvf_fp_enter()

#endif
