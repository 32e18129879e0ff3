/*
 * The words of the Metal language that C++ has not: address spaces as clang's, so that a
 * pointer without one, or with another, does not convert.
 */
#ifndef KVF_EMULATED_WORDS_H
#define KVF_EMULATED_WORDS_H

#define __METAL__ 1
#define __METAL_VERSION__ 300

#define kernel static __attribute__((used))
#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2))) const
/*
 * This word is an attribute's name too: [[threadgroup(0)]]. __w64 is a type attribute
 * that clang ignores; with parentheses behind it, it is this macro and vanishes, which
 * leaves [[__attribute__((..))]], an attribute of unknown name.
 */
#define threadgroup __attribute__((address_space(3))) __w64
#define __w64(index)
#define thread

#endif
