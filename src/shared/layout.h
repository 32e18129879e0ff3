/*
 * Sizes and offsets of packed rows and pages, in bytes (docs/FORMAT.md 3, 4).
 *
 * A packed row lies in its page in two pieces, so that codes and scales can be fetched
 * on their own. Row r of a page of P rows:
 *
 *   FP8   data    at r * 576               448 codes, then 64 rope values of 2 bytes
 *         scales  at P * 576 + r * 8       7 scale bytes, one zero byte
 *         the page ends with zeros up to a multiple of 576
 *   FP4   codes   at r * 64                value 2i in the low nibble of byte i
 *         scales  at P * 64 + r * 4
 */
#ifndef KVF_SHARED_LAYOUT_H
#define KVF_SHARED_LAYOUT_H

#if !defined(__cplusplus)
#include <assert.h> /* static_assert, a keyword in CUDA and Metal */
#endif

enum {
    KVF_FP8_NOPE_VALUES = 448,
    KVF_FP8_ROPE_VALUES = 64,
    KVF_FP8_BLOCK_VALUES = 64, /* values that share a scale */
    KVF_FP8_BLOCKS = KVF_FP8_NOPE_VALUES / KVF_FP8_BLOCK_VALUES,

    KVF_FP8_CODE_BYTES = KVF_FP8_NOPE_VALUES,
    KVF_FP8_ROPE_OFFSET = KVF_FP8_CODE_BYTES, /* in the row's data */
    KVF_FP8_ROPE_BYTES = KVF_FP8_ROPE_VALUES * 2,
    KVF_FP8_DATA_BYTES = KVF_FP8_CODE_BYTES + KVF_FP8_ROPE_BYTES,
    KVF_FP8_SCALE_BYTES = 8, /* 7 and a zero byte */
    KVF_FP8_ROW_BYTES = KVF_FP8_DATA_BYTES + KVF_FP8_SCALE_BYTES,
    KVF_FP8_PAGE_MULTIPLE_BYTES = KVF_FP8_DATA_BYTES
};

enum {
    KVF_FP4_VALUES = 128,
    KVF_FP4_BLOCK_VALUES = 32,
    KVF_FP4_BLOCKS = KVF_FP4_VALUES / KVF_FP4_BLOCK_VALUES,

    KVF_FP4_CODE_BYTES = KVF_FP4_VALUES / 2,
    KVF_FP4_BLOCK_CODE_BYTES = KVF_FP4_BLOCK_VALUES / 2,
    KVF_FP4_SCALE_BYTES = KVF_FP4_BLOCKS,
    KVF_FP4_ROW_BYTES = KVF_FP4_CODE_BYTES + KVF_FP4_SCALE_BYTES
};

static_assert(KVF_FP8_BLOCKS == 7, "7 blocks of 64 nope values");
static_assert(KVF_FP8_BLOCKS < KVF_FP8_SCALE_BYTES, "the zero byte follows the scales");
static_assert(KVF_FP8_ROPE_OFFSET == 448, "rope follows 448 code bytes");
static_assert(KVF_FP8_DATA_BYTES == 576, "448 codes and 128 bytes of rope");
static_assert(KVF_FP8_ROW_BYTES == 584, "576 and 8 scale bytes");
static_assert(KVF_FP4_BLOCKS == 4, "4 blocks of 32 values");
static_assert(KVF_FP4_ROW_BYTES == 68, "64 and 4 scale bytes");

#endif
