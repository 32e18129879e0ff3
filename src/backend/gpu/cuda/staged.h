/*
 * Pieces of rows in threadgroup memory: how they get there, and a lane's values of one, by
 * type of weights. Values are to the bit those of src/weight. Written in Metal's words, so that the
 * tests' emulator checks every access; what NVIDIA's GPUs have besides is in functions
 * of its own, with a plain form for the emulator.
 */
#ifndef KVF_BACKEND_GPU_CUDA_STAGED_H
#define KVF_BACKEND_GPU_CUDA_STAGED_H

#include <metal_stdlib>

#include "backend/gpu/cuda/vectors.h"
#include "backend/gpu/weights.h"

using namespace metal;

#define KVF_UNROLLED _Pragma("unroll")

/* ---- Copies to threadgroup memory that run on their own -------------------------------- */

static inline void kvf_copy_16(threadgroup uchar *to, ulong from)
{
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint)__cvta_generic_to_shared(to)),
        "l"(from)
        : "memory");
#else
    *reinterpret_cast<threadgroup uint4 *>(to) = *reinterpret_cast<device const uint4 *>(from);
#endif
}

/* What was copied since the last call is one stage. */
static inline void kvf_end_stage()
{
#if defined(__CUDACC__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Until all stages but the last KVF_STAGES - 1 are there, for the whole simdgroup. */
static inline void kvf_wait_for_stage()
{
#if defined(__CUDACC__)
    asm volatile("cp.async.wait_group %0;" ::"n"(KVF_STAGES - 1) : "memory");
#endif
    simdgroup_barrier(mem_flags::mem_threadgroup);
}

/* ---- Kernels that begin before the one before them has ended ---------------------------- */

/* The next kernel may begin: it waits by itself for what this one does. */
static inline void kvf_let_next_begin()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/* Until all earlier kernels have ended, and what they wrote can be read. */
static inline void kvf_wait_for_earlier()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* ---- Bits -------------------------------------------------------------------------------- */

/* 32 bits of high:low from bit `bits` < 32 on. */
static inline uint kvf_funnel(uint low, uint high, uint bits)
{
#if defined(__CUDACC__)
    return __funnelshift_r(low, high, bits);
#else
    return uint((ulong(high) << 32 | low) >> bits);
#endif
}

template <uint N> struct kvf_words {
    uint at[N];
};

/* N words from any byte on; nothing is read but the words that they lie in. */
template <uint N>
static inline kvf_words<N> kvf_take_words(threadgroup const uchar *shared, uint at)
{
    threadgroup const uint *words = reinterpret_cast<threadgroup const uint *>(shared);
    const uint first = at / 4;
    const uint bits = at % 4 * 8;
    kvf_words<N> taken;
    uint low = words[first];
    KVF_UNROLLED
    for (uint i = 0; i < N; i++) {
        const uint high = words[i + 1 < N ? first + i + 1 : (at + 4 * N - 1) / 4];
        taken.at[i] = kvf_funnel(low, high, bits);
        low = high;
    }
    return taken;
}

static inline float kvf_take_f16(threadgroup const uchar *shared, uint at)
{
    return float(as_type<half>(ushort(uint(shared[at]) | uint(shared[at + 1]) << 8)));
}

/* Byte i of a word as a float that has it in its last bits: 2^23 + the byte. */
static inline float kvf_magic_byte(uint word, uint i)
{
#if defined(__CUDACC__)
    return as_type<float>(uint(__byte_perm(word, 0x4b000000u, 0x7440 | i)));
#else
    return as_type<float>(0x4b000000u | (word >> 8 * i & 255));
#endif
}

/* `bits` < 20 bits of a word from bit `at` on, at + bits <= 23: a sum that is exact, and no shift.
 */
static inline float kvf_magic_bits(uint word, uint mask, uint at)
{
    return as_type<float>((word & mask << at) | (150 - at) << 23) - float(1u << (23 - at));
}

/* The e2m1 codes of nibbles i and i + 4 times `factor`, a power of two up to 2^15. */
static inline float2 kvf_take_e2m1(uint word, uint i, bool doubled)
{
    const uint high = word << (12 - 4 * i); /* nibble i is at bit 12 now */
    const uint bits = (high & 0x80008000u) | (high >> 3 & 0x0e000e00u);
    /* As halves these are 2^-14 times the values; mxfp4's are doubled integers, so no -0. */
#if defined(__CUDACC__)
    __half2 pair;
    memcpy(&pair, &bits, sizeof(pair));
    pair = doubled ? __hfma2(pair, __float2half2_rn(32768.0f), __float2half2_rn(0.0f))
                   : __hmul2(pair, __float2half2_rn(16384.0f));
    return float2(__low2float(pair), __high2float(pair));
#else
    const float2 pair =
        float2(float(as_type<half>(ushort(bits))), float(as_type<half>(ushort(bits >> 16))));
    return doubled ? fma(pair, float2(0x1p15f), float2(0.0f)) : pair * float2(0x1p14f);
#endif
}

/* The e4m3 values of bytes i and i + 1, i 0 or 2. */
static inline float2 kvf_take_e4m3(uint word, uint i)
{
#if defined(__CUDACC__) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint bits;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(bits) : "h"((ushort)(word >> 8 * i)));
    __half2 pair;
    memcpy(&pair, &bits, sizeof(pair));
    return float2(__low2float(pair), __high2float(pair));
#else
    return float2(kvf_e4m3_value(word >> 8 * i & 255), kvf_e4m3_value(word >> (8 * i + 8) & 255));
#endif
}

/* ---- A lane's values of a piece ------------------------------------------------------------- */

/* VALUES of them, by four; column() says where four of them are in the piece. */
struct kvf_lane_values {
    float at[16];
};

/*
 * What products need of a type:
 *
 *   PIECE, VALUES        values of a piece, and of them a lane's
 *   SLOT, SCALES_AT      bytes of a slot, and where in it the scales begin
 *   BLOCK, BLOCK_BYTES   values of a block of a row
 *   SCALE_ROWS           that share scales of a plane, 0: there is none; SCALE_COLS
 *   COPIES_SCALES        scales go to the slot too; else `scales` is the lane's, one byte
 *   HAS_BOOK             it is iq2_xxs
 *   PLAIN                rows may end within a lane's values: value() takes them one by one
 *   take()               a lane's values, the first of which the row has; `at` and `scales`: of
 *                        the piece and of its scales in `shared`; n: values that the row has of it
 */
template <typename W> struct kvf_staged;

#define KVF_EIGHT_IN_ORDER                                                                         \
    enum { PIECE = KVF_PIECE_WIDE, VALUES = 8 };                                                   \
    static inline uint column(uint lane, uint four)                                                \
    {                                                                                              \
        return 8 * lane + 4 * four;                                                                \
    }
#define KVF_NO_SCALES enum { SCALE_ROWS = 0, SCALE_COLS = 1, SCALES_AT = 0, COPIES_SCALES = 0 };
#define KVF_NO_VALUES                                                                              \
    enum { PLAIN = 0 };                                                                            \
    static inline float value(threadgroup const uchar *, uint, uint, uint)                         \
    {                                                                                              \
        return 0.0f;                                                                               \
    }

template <> struct kvf_staged<kvf_weight_bf16> {
    enum { HAS_BOOK = 0 };
    KVF_EIGHT_IN_ORDER
    KVF_NO_SCALES
    enum { SLOT = KVF_SLOT_bf16, BLOCK = 1, BLOCK_BYTES = 2, PLAIN = 1 };

    static inline float value(threadgroup const uchar *shared, uint at, uint, uint i)
    {
        return as_type<float>((uint(shared[at + 2 * i]) | uint(shared[at + 2 * i + 1]) << 8) << 16);
    }
    static inline void take(threadgroup const uchar *shared, uint at, uint, uint lane, uint,
                            thread kvf_lane_values &values)
    {
        const kvf_words<4> words = kvf_take_words<4>(shared, at + 16 * lane);
        KVF_UNROLLED
        for (uint i = 0; i < 4; i++) {
            values.at[2 * i] = as_type<float>(words.at[i] << 16);
            values.at[2 * i + 1] = as_type<float>(words.at[i] & 0xffff0000u);
        }
    }
};

template <> struct kvf_staged<kvf_weight_f16> {
    enum { HAS_BOOK = 0 };
    KVF_EIGHT_IN_ORDER
    KVF_NO_SCALES
    enum { SLOT = KVF_SLOT_f16, BLOCK = 1, BLOCK_BYTES = 2, PLAIN = 1 };

    static inline float value(threadgroup const uchar *shared, uint at, uint, uint i)
    {
        return kvf_take_f16(shared, at + 2 * i);
    }
    static inline void take(threadgroup const uchar *shared, uint at, uint, uint lane, uint,
                            thread kvf_lane_values &values)
    {
        const kvf_words<4> words = kvf_take_words<4>(shared, at + 16 * lane);
        KVF_UNROLLED
        for (uint i = 0; i < 4; i++) {
            values.at[2 * i] = float(as_type<half>(ushort(words.at[i] & 0xffff)));
            values.at[2 * i + 1] = float(as_type<half>(ushort(words.at[i] >> 16)));
        }
    }
};

/*
 * A scale for 128 rows: all threadgroups read the same few bytes, so they are left to the cache and
 * `scales` is the byte itself.
 */
template <> struct kvf_staged<kvf_weight_fp8_e8m0> {
    enum { HAS_BOOK = 0 };
    KVF_EIGHT_IN_ORDER
    enum {
        SLOT = KVF_SLOT_fp8_e8m0,
        BLOCK = 1,
        BLOCK_BYTES = 1,
        SCALE_ROWS = KVF_FP8_WEIGHT_TILE,
        SCALE_COLS = KVF_FP8_WEIGHT_TILE,
        SCALES_AT = 0,
        COPIES_SCALES = 0,
        PLAIN = 1
    };

    static inline float value(threadgroup const uchar *shared, uint at, uint scales, uint i)
    {
        return kvf_e4m3_value(shared[at + i]) * kvf_float_of(kvf_ue8m0_decode(uchar(scales)));
    }
    static inline void take(threadgroup const uchar *shared, uint at, uint scales, uint lane, uint,
                            thread kvf_lane_values &values)
    {
        const kvf_words<2> words = kvf_take_words<2>(shared, at + 8 * lane);
        const float s = kvf_float_of(kvf_ue8m0_decode(uchar(scales)));
        KVF_UNROLLED
        for (uint i = 0; i < 4; i++) {
            const float2 pair = kvf_take_e4m3(words.at[i / 2], i % 2 * 2);
            values.at[2 * i] = pair.x * s;
            values.at[2 * i + 1] = pair.y * s;
        }
    }
};

template <> struct kvf_staged<kvf_weight_q8_0> {
    enum { HAS_BOOK = 0 };
    KVF_EIGHT_IN_ORDER
    KVF_NO_SCALES
    KVF_NO_VALUES
    enum { SLOT = KVF_SLOT_q8_0, BLOCK = KVF_Q8_0_VALUES, BLOCK_BYTES = KVF_Q8_0_BYTES };

    static inline void take(threadgroup const uchar *shared, uint at, uint, uint lane, uint,
                            thread kvf_lane_values &values)
    {
        const uint block = at + lane / 4 * KVF_Q8_0_BYTES;
        const float d = kvf_take_f16(shared, block + KVF_Q8_0_D);
        const kvf_words<2> words = kvf_take_words<2>(shared, block + KVF_Q8_0_CODES + lane % 4 * 8);
        KVF_UNROLLED
        for (uint i = 0; i < 8; i++) {
            /* Of i8: an exclusive or with 128, less 128. */
            const float code = kvf_magic_byte(words.at[i / 4] ^ 0x80808080u, i % 4);
            values.at[i] = d * (code - (0x1p23f + 128.0f));
        }
    }
};

/* ---- 16 values a lane ----------------------------------------------------------------------- */

template <> struct kvf_staged<kvf_weight_fp4> {
    enum { HAS_BOOK = 0 };
    KVF_NO_VALUES
    enum {
        PIECE = KVF_PIECE_NARROW,
        VALUES = 16,
        SLOT = KVF_SLOT_fp4,
        BLOCK = KVF_FP4_WEIGHT_VALUES,
        BLOCK_BYTES = KVF_FP4_WEIGHT_BYTES,
        SCALE_ROWS = 1,
        SCALE_COLS = KVF_FP4_WEIGHT_VALUES,
        SCALES_AT = KVF_SLOT_PART(KVF_PIECE_NARROW / 2),
        COPIES_SCALES = 1
    };

    /* Eight in each half of the piece. */
    static inline uint column(uint lane, uint four)
    {
        return four / 2 * 256 + 8 * lane + four % 2 * 4;
    }
    static inline void take(threadgroup const uchar *shared, uint at, uint scales, uint lane,
                            uint n, thread kvf_lane_values &values)
    {
        KVF_UNROLLED
        for (uint h = 0; h < 2; h++) {
            if (256 * h + 8 * lane >= n) { /* the row ended in the first half */
                KVF_UNROLLED
                for (uint i = 8; i < 16; i++)
                    values.at[i] = 0.0f;
                return;
            }
            const uint word = kvf_take_words<1>(shared, at + 128 * h + 4 * lane).at[0];
            const float s = kvf_float_of(kvf_ue8m0_decode(shared[scales + 8 * h + lane / 4]));
            KVF_UNROLLED
            for (uint i = 0; i < 4; i++) {
                const float2 pair = kvf_take_e2m1(word, i, false);
                values.at[8 * h + i] = pair.x * s;
                values.at[8 * h + 4 + i] = pair.y * s;
            }
        }
    }
};

template <> struct kvf_staged<kvf_weight_mxfp4> {
    enum { HAS_BOOK = 0 };
    KVF_NO_SCALES
    KVF_NO_VALUES
    enum {
        PIECE = KVF_PIECE_NARROW,
        VALUES = 16,
        SLOT = KVF_SLOT_mxfp4,
        BLOCK = KVF_MXFP4_VALUES,
        BLOCK_BYTES = KVF_MXFP4_BYTES
    };

    /* Half of a block's bytes: low nibbles, then high ones. */
    static inline uint column(uint lane, uint four)
    {
        return lane / 2 * 32 + lane % 2 * 8 + four / 2 * 16 + four % 2 * 4;
    }
    static inline void take(threadgroup const uchar *shared, uint at, uint, uint lane, uint,
                            thread kvf_lane_values &values)
    {
        const uint block = at + lane / 2 * KVF_MXFP4_BYTES;
        const float s = kvf_float_of(kvf_ue8m0_decode_half(shared[block + KVF_MXFP4_SCALE]));
        const kvf_words<2> words =
            kvf_take_words<2>(shared, block + KVF_MXFP4_CODES + lane % 2 * 8);
        KVF_UNROLLED
        for (uint i = 0; i < 8;
             i++) { /* bytes i % 2 and i % 2 + 2 of a word, its nibble i / 2 % 2 */
            const float2 pair = kvf_take_e2m1(words.at[i / 4], i % 2 * 2 + i / 2 % 2, true);
            const uint first = i / 2 % 2 * 8 + i / 4 * 4 + i % 2;
            values.at[first] = s * pair.x;
            values.at[first + 2] = s * pair.y;
        }
    }
};

template <> struct kvf_staged<kvf_weight_q4_k> {
    enum { HAS_BOOK = 0 };
    KVF_NO_SCALES
    KVF_NO_VALUES
    enum {
        PIECE = KVF_PIECE_NARROW,
        VALUES = 16,
        SLOT = KVF_SLOT_q4_k,
        BLOCK = KVF_K_VALUES,
        BLOCK_BYTES = KVF_Q4_K_BYTES
    };

    /* Eight bytes: their low nibbles in one sub-block of 32, the high ones in the next. */
    static inline uint column(uint lane, uint four)
    {
        const uint i = lane % 16;
        return lane / 16 * KVF_K_VALUES + i / 4 * 64 + four / 2 * 32 + i % 4 * 8 + four % 2 * 4;
    }
    static inline void take(threadgroup const uchar *shared, uint at, uint, uint lane, uint,
                            thread kvf_lane_values &values)
    {
        const uint block = at + lane / 16 * KVF_Q4_K_BYTES;
        const float d = kvf_take_f16(shared, block + KVF_Q4_K_D);
        const float dmin = kvf_take_f16(shared, block + KVF_Q4_K_DMIN);
        const kvf_words<3> s = kvf_take_words<3>(shared, block + KVF_Q4_K_SCALES);
        const kvf_words<2> codes =
            kvf_take_words<2>(shared, block + KVF_Q4_K_CODES + lane % 16 * 8);
        KVF_UNROLLED
        for (uint h = 0; h < 2; h++) {
            const uint j = lane % 16 / 4 * 2 + h;
            const float scale = d * float(kvf_q4_k_scale(s.at[0], s.at[2], j));
            const float least = -(dmin * float(kvf_q4_k_min(s.at[1], s.at[2], j)));
            KVF_UNROLLED
            for (uint w = 0; w < 2; w++) {
                /* Nibbles at bits that a float's mantissa has as well. */
                const uint word = codes.at[w];
                const float c0 = kvf_magic_bits(word, 15, 4 * h);
                const float c1 = kvf_magic_bits(word, 15, 8 + 4 * h);
                const float c2 = kvf_magic_bits(word >> 8, 15, 8 + 4 * h);
                const float c3 = kvf_magic_bits(word >> 16, 15, 8 + 4 * h);
                /* The product is exact, so this rounds once, as the difference does. */
                values.at[8 * h + 4 * w] = fma(scale, c0, least);
                values.at[8 * h + 4 * w + 1] = fma(scale, c1, least);
                values.at[8 * h + 4 * w + 2] = fma(scale, c2, least);
                values.at[8 * h + 4 * w + 3] = fma(scale, c3, least);
            }
        }
    }
};

template <> struct kvf_staged<kvf_weight_q2_k> {
    enum { HAS_BOOK = 0 };
    KVF_NO_SCALES
    KVF_NO_VALUES
    enum {
        PIECE = KVF_PIECE_NARROW,
        VALUES = 16,
        SLOT = KVF_SLOT_q2_k,
        BLOCK = KVF_K_VALUES,
        BLOCK_BYTES = KVF_Q2_K_BYTES
    };

    /* Four bytes, whose pairs of bits are 32 values apart. */
    static inline uint column(uint lane, uint four)
    {
        const uint i = lane % 16;
        return lane / 16 * KVF_K_VALUES + i / 8 * 128 + four * 32 + i % 8 * 4;
    }
    static inline void take(threadgroup const uchar *shared, uint at, uint, uint lane, uint,
                            thread kvf_lane_values &values)
    {
        const uint block = at + lane / 16 * KVF_Q2_K_BYTES;
        const uint i = lane % 16;
        const float d = kvf_take_f16(shared, block + KVF_Q2_K_D);
        const float dmin = kvf_take_f16(shared, block + KVF_Q2_K_DMIN);
        /* Eight bytes are of this half; of those that are 16 values apart, these or those. */
        const kvf_words<2> both = kvf_take_words<2>(shared, block + KVF_Q2_K_SCALES + i / 8 * 8);
        const uint odd = i % 8 / 4 * 8;
        const uint word = kvf_take_words<1>(shared, block + KVF_Q2_K_CODES + 4 * i).at[0];
        KVF_UNROLLED
        for (uint j = 0; j < 4; j++) {
            const uint s = both.at[j / 2] >> (odd + j % 2 * 16);
            const float scale = d * kvf_magic_bits(s, 15, 0);
            const float least = -(dmin * kvf_magic_bits(s, 15, 4));
            values.at[4 * j] = fma(scale, kvf_magic_bits(word, 3, 2 * j), least);
            values.at[4 * j + 1] = fma(scale, kvf_magic_bits(word, 3, 8 + 2 * j), least);
            values.at[4 * j + 2] = fma(scale, kvf_magic_bits(word >> 16, 3, 2 * j), least);
            values.at[4 * j + 3] = fma(scale, kvf_magic_bits(word >> 16, 3, 8 + 2 * j), least);
        }
    }
};

template <> struct kvf_staged<kvf_weight_iq2_xxs> {
    enum { HAS_BOOK = 1 };
    KVF_NO_SCALES
    KVF_NO_VALUES
    enum {
        PIECE = KVF_PIECE_NARROW,
        VALUES = 16,
        SLOT = KVF_SLOT_iq2_xxs,
        BLOCK = KVF_K_VALUES,
        BLOCK_BYTES = KVF_IQ2_XXS_BYTES
    };

    /* Two entries, half of a group. */
    static inline uint column(uint lane, uint four)
    {
        return 16 * lane + 4 * four;
    }
    static inline void take(threadgroup const uchar *shared, uint at, uint, uint lane, uint,
                            thread kvf_lane_values &values)
    {
        threadgroup const uint *book =
            reinterpret_cast<threadgroup const uint *>(shared + KVF_BOOK_AT);
        const uint block = at + lane / 16 * KVF_IQ2_XXS_BYTES;
        const uint group = block + KVF_IQ2_XXS_GROUPS + lane % 16 / 2 * KVF_IQ2_XXS_GROUP_BYTES;
        const uint word = kvf_take_words<1>(shared, group + 4).at[0];
        const float scale =
            kvf_take_f16(shared, block + KVF_IQ2_XXS_D) * (0.5f + float(word >> 28)) * 0.25f;
        KVF_UNROLLED
        for (uint e = 0; e < 2; e++) {
            const uint eight = lane % 2 * 2 + e;
            const uint entry = shared[group + eight];
            const uint signs = kvf_iq_signs(word >> 7 * eight & 127);
            KVF_UNROLLED
            for (uint h = 0; h < 2; h++) {
                /* A bit to the lowest of each byte; bytes of 128 + magnitude become 128 - it. */
                const uint minus = (signs >> 4 * h & 15) * 0x00204081u & 0x01010101u;
                const uint bytes = (book[2 * entry + h] ^ (minus << 8) - minus) + minus;
                KVF_UNROLLED
                for (uint i = 0; i < 4; i++)
                    values.at[8 * e + 4 * h + i] =
                        scale * (kvf_magic_byte(bytes, i) - (0x1p23f + 128.0f));
            }
        }
    }
};

/* iq2_xxs's code book, magnitudes with 128 added: by all threads, a barrier follows. */
static inline void kvf_open_book(threadgroup uchar *shared, uint thread_index)
{
    threadgroup uint *book = reinterpret_cast<threadgroup uint *>(shared + KVF_BOOK_AT);
    for (uint i = thread_index; i < KVF_BOOK_ENTRIES; i += KVF_VECTOR_THREADS) {
        const ulong eight = kvf_iq2_expand(kvf_iq2_xxs_grid[i]) | 0x8080808080808080ul;
        book[2 * i] = uint(eight);
        book[2 * i + 1] = uint(eight >> 32);
    }
}

#endif
