/* Cutting text into the pieces that are encoded one by one. Internal. */
#ifndef KVF_TEXT_SPLIT_H
#define KVF_TEXT_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the patterns tell apart: Unicode 16.0 (unicode_classes.h). */
enum {
    KVF_CLASS_OTHER = 0, /* a byte that is in no character, too */
    KVF_CLASS_LETTER,    /* \p{L} and \p{M}: no pattern can tell them apart */
    KVF_CLASS_NUMBER,    /* \p{N} */
    KVF_CLASS_SIGN,      /* \p{P} and \p{S} */
    KVF_CLASS_SPACE,     /* \s: White_Space */
    KVF_CLASS_MASK = 7,
    KVF_CLASS_CJK = 8 /* beside one of these: U+3040 to U+30FF and U+4E00 to U+9FA5 */
};

/* Of every code point below U+10000; the others are looked up in the ranges. */
typedef struct kvf_classes {
    unsigned char of[65536];
} kvf_classes;

/* Fills it from the ranges. */
void kvf_classes_make(kvf_classes *classes);

/*
 * Where the piece that begins at `at` ends; at < end. `at` is 0 or where a piece ended. Time grows
 * with the bytes that are stepped over, so that all pieces of a text take time in proportion to it.
 */
size_t kvf_split_next(const kvf_classes *classes, const unsigned char *text, size_t at, size_t end);

/* kvf_text_cut of a text that is split so. */
size_t kvf_split_cut(const kvf_classes *classes, const unsigned char *text, size_t bytes);

#endif
