/*
 * What must be so because of the project's own code, not of what it was given. Checked in debug
 * and sanitizer builds, where a fault stops the program; a release relies on it.
 */
#ifndef KVF_ASSERTION_H
#define KVF_ASSERTION_H

#if defined(KVF_ASSERTIONS)
#undef NDEBUG
#include <assert.h>
#define KVF_ASSERT(condition) assert(condition)
#define KVF_UNREACHABLE() assert(0 && "reached")
#else
#define KVF_ASSERT(condition) ((void)0)
#define KVF_UNREACHABLE() __builtin_unreachable()
#endif

#endif
