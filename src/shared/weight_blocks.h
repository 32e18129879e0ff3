/*
 * Blocks of the stored weight types: values a block, bytes, and the offset of each field
 * (docs/WEIGHTS.md has what the fields mean). D, DMIN: f16 scales. Everything is little
 * endian and may lie at any address.
 */
#ifndef KVF_SHARED_WEIGHT_BLOCKS_H
#define KVF_SHARED_WEIGHT_BLOCKS_H

#if !defined(__cplusplus)
#include <assert.h> /* static_assert, a keyword in CUDA and Metal */
#endif

/* DeepSeek's: codes alone, the scales lie in a plane of their own. */
enum {
    KVF_FP8_WEIGHT_TILE = 128, /* rows, and columns, that share a scale */
    KVF_FP4_WEIGHT_VALUES = 32,
    KVF_FP4_WEIGHT_BYTES = KVF_FP4_WEIGHT_VALUES / 2
};

/* ggml's blocks of 32 values. CODES: 16 bytes, value i low in byte i, i + 16 high. */
enum {
    KVF_Q8_0_VALUES = 32,
    KVF_Q8_0_D = 0,
    KVF_Q8_0_CODES = KVF_Q8_0_D + 2, /* i8 each */
    KVF_Q8_0_BYTES = KVF_Q8_0_CODES + KVF_Q8_0_VALUES
};
enum {
    KVF_Q4_0_VALUES = 32,
    KVF_Q4_0_D = 0,
    KVF_Q4_0_CODES = KVF_Q4_0_D + 2,
    KVF_Q4_0_BYTES = KVF_Q4_0_CODES + KVF_Q4_0_VALUES / 2
};
enum {
    KVF_IQ4_NL_VALUES = 32,
    KVF_IQ4_NL_D = 0,
    KVF_IQ4_NL_CODES = KVF_IQ4_NL_D + 2,
    KVF_IQ4_NL_BYTES = KVF_IQ4_NL_CODES + KVF_IQ4_NL_VALUES / 2
};
enum {
    KVF_MXFP4_VALUES = 32,
    KVF_MXFP4_SCALE = 0, /* one byte, 2^(byte - 128) */
    KVF_MXFP4_CODES = KVF_MXFP4_SCALE + 1,
    KVF_MXFP4_BYTES = KVF_MXFP4_CODES + KVF_MXFP4_VALUES / 2
};

/* ggml's blocks of 256 values. */
enum { KVF_K_VALUES = 256 };
enum {
    KVF_Q2_K_SCALES = 0, /* a byte for 16 values: scale low, min high */
    KVF_Q2_K_CODES = KVF_Q2_K_SCALES + KVF_K_VALUES / 16, /* 2 bits */
    KVF_Q2_K_D = KVF_Q2_K_CODES + KVF_K_VALUES / 4,
    KVF_Q2_K_DMIN = KVF_Q2_K_D + 2,
    KVF_Q2_K_BYTES = KVF_Q2_K_DMIN + 2
};
enum {
    KVF_Q3_K_HIGH = 0,                                   /* bit 2 of each code */
    KVF_Q3_K_CODES = KVF_Q3_K_HIGH + KVF_K_VALUES / 8,   /* bits 0, 1 */
    KVF_Q3_K_SCALES = KVF_Q3_K_CODES + KVF_K_VALUES / 4, /* 16 of 6 bits */
    KVF_Q3_K_D = KVF_Q3_K_SCALES + 12,
    KVF_Q3_K_BYTES = KVF_Q3_K_D + 2
};
enum {
    KVF_Q4_K_D = 0,
    KVF_Q4_K_DMIN = KVF_Q4_K_D + 2,
    KVF_Q4_K_SCALES = KVF_Q4_K_DMIN + 2, /* 8 scales, 8 mins of 6 bits */
    KVF_Q4_K_CODES = KVF_Q4_K_SCALES + 12,
    KVF_Q4_K_BYTES = KVF_Q4_K_CODES + KVF_K_VALUES / 2
};
enum {
    KVF_Q5_K_D = 0,
    KVF_Q5_K_DMIN = KVF_Q5_K_D + 2,
    KVF_Q5_K_SCALES = KVF_Q5_K_DMIN + 2,  /* as Q4_K */
    KVF_Q5_K_HIGH = KVF_Q5_K_SCALES + 12, /* bit 4 of each code */
    KVF_Q5_K_CODES = KVF_Q5_K_HIGH + KVF_K_VALUES / 8,
    KVF_Q5_K_BYTES = KVF_Q5_K_CODES + KVF_K_VALUES / 2
};
enum {
    KVF_Q6_K_LOW = 0,                                   /* bits 0 to 3 of each code */
    KVF_Q6_K_HIGH = KVF_Q6_K_LOW + KVF_K_VALUES / 2,    /* bits 4, 5 */
    KVF_Q6_K_SCALES = KVF_Q6_K_HIGH + KVF_K_VALUES / 4, /* i8 for 16 values */
    KVF_Q6_K_D = KVF_Q6_K_SCALES + KVF_K_VALUES / 16,
    KVF_Q6_K_BYTES = KVF_Q6_K_D + 2
};

/* Code book entries instead of codes: 8 values an entry (IQ2), 4 (IQ3). */
enum {
    KVF_IQ2_XXS_D = 0,
    KVF_IQ2_XXS_GROUPS = KVF_IQ2_XXS_D + 2, /* of 32 values: 4 index bytes, a word */
    KVF_IQ2_XXS_GROUP_BYTES = 8,
    KVF_IQ2_XXS_BYTES = KVF_IQ2_XXS_GROUPS + KVF_K_VALUES / 32 * KVF_IQ2_XXS_GROUP_BYTES
};
enum {
    KVF_IQ2_XS_D = 0,
    KVF_IQ2_XS_CODES = KVF_IQ2_XS_D + 2, /* u16 for 8 values: 9 bits of index, 7 of signs */
    KVF_IQ2_XS_SCALES = KVF_IQ2_XS_CODES + KVF_K_VALUES / 8 * 2, /* 4 bits for 16 values */
    KVF_IQ2_XS_BYTES = KVF_IQ2_XS_SCALES + KVF_K_VALUES / 32
};
enum {
    KVF_IQ2_S_D = 0,
    KVF_IQ2_S_INDEX = KVF_IQ2_S_D + 2,                     /* bits 0 to 7, for 8 values */
    KVF_IQ2_S_SIGNS = KVF_IQ2_S_INDEX + KVF_K_VALUES / 8,  /* a bit a value */
    KVF_IQ2_S_HIGH = KVF_IQ2_S_SIGNS + KVF_K_VALUES / 8,   /* bits 8, 9 of the indices */
    KVF_IQ2_S_SCALES = KVF_IQ2_S_HIGH + KVF_K_VALUES / 32, /* 4 bits for 16 values */
    KVF_IQ2_S_BYTES = KVF_IQ2_S_SCALES + KVF_K_VALUES / 32
};
enum {
    KVF_IQ3_XXS_D = 0,
    KVF_IQ3_XXS_INDEX = KVF_IQ3_XXS_D + 2,                    /* for 4 values */
    KVF_IQ3_XXS_WORDS = KVF_IQ3_XXS_INDEX + KVF_K_VALUES / 4, /* u32 for 32 values */
    KVF_IQ3_XXS_BYTES = KVF_IQ3_XXS_WORDS + KVF_K_VALUES / 32 * 4
};
enum {
    KVF_IQ3_S_D = 0,
    KVF_IQ3_S_INDEX = KVF_IQ3_S_D + 2,                     /* bits 0 to 7, for 4 values */
    KVF_IQ3_S_HIGH = KVF_IQ3_S_INDEX + KVF_K_VALUES / 4,   /* bit 8 of the indices */
    KVF_IQ3_S_SIGNS = KVF_IQ3_S_HIGH + KVF_K_VALUES / 32,  /* a bit a value */
    KVF_IQ3_S_SCALES = KVF_IQ3_S_SIGNS + KVF_K_VALUES / 8, /* 4 bits for 32 values */
    KVF_IQ3_S_BYTES = KVF_IQ3_S_SCALES + KVF_K_VALUES / 64
};
enum {
    KVF_IQ4_XS_D = 0,
    KVF_IQ4_XS_SCALES_HIGH = KVF_IQ4_XS_D + 2,                    /* u16: bits 4, 5 */
    KVF_IQ4_XS_SCALES_LOW = KVF_IQ4_XS_SCALES_HIGH + 2,           /* 4 bits for 32 values */
    KVF_IQ4_XS_CODES = KVF_IQ4_XS_SCALES_LOW + KVF_K_VALUES / 64, /* groups of 32 as in IQ4_NL */
    KVF_IQ4_XS_BYTES = KVF_IQ4_XS_CODES + KVF_K_VALUES / 2
};

static_assert(KVF_Q8_0_BYTES == 34, "Q8_0: 2 + 32");
static_assert(KVF_Q4_0_BYTES == 18, "Q4_0: 2 + 16");
static_assert(KVF_IQ4_NL_BYTES == 18, "IQ4_NL: 2 + 16");
static_assert(KVF_MXFP4_BYTES == 17, "MXFP4: 1 + 16");
static_assert(KVF_Q2_K_BYTES == 84, "Q2_K: 16 + 64 + 2 + 2");
static_assert(KVF_Q3_K_BYTES == 110, "Q3_K: 32 + 64 + 12 + 2");
static_assert(KVF_Q4_K_BYTES == 144, "Q4_K: 2 + 2 + 12 + 128");
static_assert(KVF_Q5_K_BYTES == 176, "Q5_K: 2 + 2 + 12 + 32 + 128");
static_assert(KVF_Q6_K_BYTES == 210, "Q6_K: 128 + 64 + 16 + 2");
static_assert(KVF_IQ2_XXS_BYTES == 66, "IQ2_XXS: 2 + 8 * 8");
static_assert(KVF_IQ2_XS_BYTES == 74, "IQ2_XS: 2 + 64 + 8");
static_assert(KVF_IQ2_S_BYTES == 82, "IQ2_S: 2 + 32 + 32 + 8 + 8");
static_assert(KVF_IQ3_XXS_BYTES == 98, "IQ3_XXS: 2 + 64 + 32");
static_assert(KVF_IQ3_S_BYTES == 110, "IQ3_S: 2 + 64 + 8 + 32 + 4");
static_assert(KVF_IQ4_XS_BYTES == 136, "IQ4_XS: 2 + 2 + 4 + 128");

#endif
