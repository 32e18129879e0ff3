/*
 * Included before every source (cmake/KvfoldCompiler.cmake): the arithmetic that all results
 * rest on is IEEE's, each operation rounded once to its own type. The build undoes options
 * that change it; what reaches the compiler in spite of that is refused here.
 */
#ifndef KVF_ARITHMETIC_H
#define KVF_ARITHMETIC_H

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) ||     \
    defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "-ffast-math, or a part of it, is on: no result would be exact; compile without it"
#endif

#if defined(__i386__) || (defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0)
#error "float is computed in a wider type here (the x87 does that): compile for 64 bits, with SSE"
#endif

/* -ffp-contract=off for a clang that was told otherwise later on. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#endif
