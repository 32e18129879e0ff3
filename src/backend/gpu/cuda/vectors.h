/*
 * Sizes of the products of few tokens on NVIDIA's GPUs (vectors.metal): what overrides.c and the
 * kernels agree on. Compiled as C and as Metal.
 *
 * A threadgroup is KVF_VECTOR_SIMDS simdgroups that share the columns of a few rows, a piece of
 * them at a time; each has KVF_STAGES pieces of its rows on their way to threadgroup memory. A slot
 * has one row's piece: its bytes from the last multiple of 16 before them on, since they are
 * copied by 16; then its scales, where they lie in a plane of their own, in the same way.
 */
#ifndef KVF_BACKEND_GPU_CUDA_VECTORS_H
#define KVF_BACKEND_GPU_CUDA_VECTORS_H

#include "backend/gpu/dense.h"
#include "shared/weight_blocks.h"

#define KVF_SLOT_PART(bytes) (((bytes) + 15) / 16 * 16 + 16)

enum {
    KVF_STAGES = 2,
    KVF_VECTOR_UP_ROWS = 8, /* of gate and up together; 4 of types with two bytes a value */

    /*
     * Values of a piece: 8 or 16 a lane. 16 where 8 would leave lanes without bytes to copy, but
     * not more, so that 2,048 columns still give all simdgroups a piece.
     */
    KVF_PIECE_WIDE = 256,
    KVF_PIECE_NARROW = 512,

    KVF_SLOT_bf16 = KVF_SLOT_PART(2 * KVF_PIECE_WIDE),
    KVF_SLOT_f16 = KVF_SLOT_bf16,
    KVF_SLOT_fp8_e8m0 = KVF_SLOT_PART(KVF_PIECE_WIDE),
    KVF_SLOT_q8_0 = KVF_SLOT_PART(KVF_PIECE_WIDE / KVF_Q8_0_VALUES * KVF_Q8_0_BYTES),
    KVF_SLOT_fp4 = KVF_SLOT_PART(KVF_PIECE_NARROW / 2) +
                   KVF_SLOT_PART(KVF_PIECE_NARROW / KVF_FP4_WEIGHT_VALUES),
    KVF_SLOT_mxfp4 = KVF_SLOT_PART(KVF_PIECE_NARROW / KVF_MXFP4_VALUES * KVF_MXFP4_BYTES),
    KVF_SLOT_q4_k = KVF_SLOT_PART(KVF_PIECE_NARROW / KVF_K_VALUES * KVF_Q4_K_BYTES),
    KVF_SLOT_q2_k = KVF_SLOT_PART(KVF_PIECE_NARROW / KVF_K_VALUES * KVF_Q2_K_BYTES),
    KVF_SLOT_iq2_xxs = KVF_SLOT_PART(KVF_PIECE_NARROW / KVF_K_VALUES * KVF_IQ2_XXS_BYTES),

    /*
     * Threadgroup memory: the simdgroups' sums; what experts_down_vector knows of a token's
     * choices, so many at a time; iq2_xxs's code book, 8 bytes an entry; the slots.
     */
    KVF_CHOICES_AT = KVF_VECTOR_BYTES,
    KVF_MOST_CHOICES = 16,
    KVF_CHOICE_BYTES = 32,
    KVF_BOOK_AT = KVF_CHOICES_AT + KVF_MOST_CHOICES * KVF_CHOICE_BYTES,
    KVF_BOOK_ENTRIES = 256,
    KVF_SLOTS_AT = KVF_BOOK_AT + KVF_BOOK_ENTRIES * 8
};

/* Bytes of a threadgroup with so many rows in slots of so many bytes. */
#define KVF_STAGED_BYTES(rows, slot)                                                               \
    (KVF_SLOTS_AT + KVF_VECTOR_SIMDS * KVF_STAGES * (rows) * (slot))

static_assert(KVF_VECTOR_SIMDS * KVF_VECTOR_UP_ROWS * 4 <= KVF_VECTOR_BYTES, "sums of gate and up");
static_assert(KVF_STAGED_BYTES(KVF_VECTOR_UP_ROWS, KVF_SLOT_q4_k) <= 32768,
              "Metal's, gpu/driver.h");
static_assert(KVF_STAGED_BYTES(KVF_VECTOR_UP_ROWS, KVF_SLOT_fp8_e8m0) <= 32768, "");
static_assert(KVF_STAGED_BYTES(KVF_VECTOR_UP_ROWS, KVF_SLOT_fp4) <= 32768, "");
static_assert(KVF_STAGED_BYTES(KVF_VECTOR_ROWS, KVF_SLOT_bf16) <= 32768, "");

#endif
