/*
 * Rows in memory, as kernels see them: where a row is, and four bytes of it as values.
 * Metal only. Views are aligned to 4 bytes, no more, so rows are read by words.
 */
#ifndef KVF_BACKEND_GPU_ROWS_H
#define KVF_BACKEND_GPU_ROWS_H

#include <metal_stdlib>

#include "backend/gpu/kernels.h"
#include "shared/layout.h"

using namespace metal;

/* A view, from an argument struct or a table. */
template <typename Pointer> static inline kvf_kernel_rows kvf_copy_rows(Pointer from)
{
    kvf_kernel_rows rows;
    rows.address = from->address;
    rows.page_stride_bytes = from->page_stride_bytes;
    rows.n_rows = from->n_rows;
    rows.page_rows = from->page_rows;
    rows.format = from->format;
    return rows;
}

/* A row in its page: what varies with the page, and its place there. */
struct kvf_row_place {
    device uchar *page;
    uint row;
};

static inline kvf_row_place kvf_find_row(thread const kvf_kernel_rows &rows, ulong row)
{
    /* Rows are numbered by int32 in lists; 32 bits are faster to divide. */
    const uint page = uint(row) / rows.page_rows;
    kvf_row_place place;
    place.row = uint(row) - page * rows.page_rows;
    place.page =
        rows.page_stride_bytes
            ? kvf_page_at(rows.address + page * rows.page_stride_bytes)
            : kvf_page_at(reinterpret_cast<device const ulong *>(kvf_page_at(rows.address))[page] &
                          ~KVF_DEVICE_BIT);
    return place;
}

/* Where a row's data and its scale bytes begin; formats without scales: the same. */
static inline device uchar *kvf_row_data(thread const kvf_kernel_rows &rows, kvf_row_place place,
                                         uint width)
{
    uint bytes = 0;
    switch (kvf_rows_format(rows.format)) {
    case KVF_ROWS_F32: bytes = 4 * width; break;
    case KVF_ROWS_F16: bytes = 2 * width; break;
    case KVF_ROWS_FP8_F16:
    case KVF_ROWS_FP8_BF16: bytes = KVF_FP8_DATA_BYTES; break;
    case KVF_ROWS_FP4: bytes = KVF_FP4_CODE_BYTES; break;
    }
    return place.page + ulong(place.row) * bytes;
}

static inline device uchar *kvf_row_scales(thread const kvf_kernel_rows &rows, kvf_row_place place)
{
    const ulong n_rows = rows.page_rows;
    return rows.format == KVF_ROWS_FP4
               ? place.page + n_rows * KVF_FP4_CODE_BYTES + place.row * KVF_FP4_SCALE_BYTES
               : place.page + n_rows * KVF_FP8_DATA_BYTES + place.row * KVF_FP8_SCALE_BYTES;
}

/*
 * Before a loop whose variable is an index into a thread's array: such an array is only in
 * registers where every index is known to the compiler.
 */
#define KVF_UNROLL _Pragma("unroll")

/* ---- Values of codes ------------------------------------------------------------- */

/* The f32 bits of e4m3's 128 magnitudes (docs/FORMAT.md 3); the last is NaN. */
constant uint kvf_e4m3_bits[128] = {
    0x00000000, 0x3b000000, 0x3b800000, 0x3bc00000, 0x3c000000, 0x3c200000, 0x3c400000, 0x3c600000,
    0x3c800000, 0x3c900000, 0x3ca00000, 0x3cb00000, 0x3cc00000, 0x3cd00000, 0x3ce00000, 0x3cf00000,
    0x3d000000, 0x3d100000, 0x3d200000, 0x3d300000, 0x3d400000, 0x3d500000, 0x3d600000, 0x3d700000,
    0x3d800000, 0x3d900000, 0x3da00000, 0x3db00000, 0x3dc00000, 0x3dd00000, 0x3de00000, 0x3df00000,
    0x3e000000, 0x3e100000, 0x3e200000, 0x3e300000, 0x3e400000, 0x3e500000, 0x3e600000, 0x3e700000,
    0x3e800000, 0x3e900000, 0x3ea00000, 0x3eb00000, 0x3ec00000, 0x3ed00000, 0x3ee00000, 0x3ef00000,
    0x3f000000, 0x3f100000, 0x3f200000, 0x3f300000, 0x3f400000, 0x3f500000, 0x3f600000, 0x3f700000,
    0x3f800000, 0x3f900000, 0x3fa00000, 0x3fb00000, 0x3fc00000, 0x3fd00000, 0x3fe00000, 0x3ff00000,
    0x40000000, 0x40100000, 0x40200000, 0x40300000, 0x40400000, 0x40500000, 0x40600000, 0x40700000,
    0x40800000, 0x40900000, 0x40a00000, 0x40b00000, 0x40c00000, 0x40d00000, 0x40e00000, 0x40f00000,
    0x41000000, 0x41100000, 0x41200000, 0x41300000, 0x41400000, 0x41500000, 0x41600000, 0x41700000,
    0x41800000, 0x41900000, 0x41a00000, 0x41b00000, 0x41c00000, 0x41d00000, 0x41e00000, 0x41f00000,
    0x42000000, 0x42100000, 0x42200000, 0x42300000, 0x42400000, 0x42500000, 0x42600000, 0x42700000,
    0x42800000, 0x42900000, 0x42a00000, 0x42b00000, 0x42c00000, 0x42d00000, 0x42e00000, 0x42f00000,
    0x43000000, 0x43100000, 0x43200000, 0x43300000, 0x43400000, 0x43500000, 0x43600000, 0x43700000,
    0x43800000, 0x43900000, 0x43a00000, 0x43b00000, 0x43c00000, 0x43d00000, 0x43e00000, 0x7fc00000,
};

/* Four codes under a scale byte: a table, a sign, an exact product with a power of two. */
static inline float4 kvf_fp8_values(uint codes, uint scale_byte)
{
    const uint4 code = uint4(codes, codes >> 8, codes >> 16, codes >> 24) & 0xff;
    const uint4 bits = uint4(kvf_e4m3_bits[code.x & 127], kvf_e4m3_bits[code.y & 127],
                             kvf_e4m3_bits[code.z & 127], kvf_e4m3_bits[code.w & 127]);
    return as_type<float4>(bits | (code & 128) << 24) * as_type<float>(scale_byte << 23);
}

/*
 * The value of an f16, by integers and one exact difference, so that no subnormal can be
 * flushed on the way: below 2^-14 the bits count units above a 2^-14 that is taken off.
 * NaNs become the quiet one.
 */
static inline float kvf_f16_value(uint code)
{
    const uint magnitude = code & 0x7fff;
    const uint sign = (code & 0x8000) << 16;
    const float small = as_type<float>((113u << 23) + (magnitude << 13)) - 0x1p-14f;
    const uint bits = magnitude < 0x0400    ? as_type<uint>(small)
                      : magnitude < 0x7c00  ? (magnitude << 13) + (112u << 23)
                      : magnitude == 0x7c00 ? 0x7f800000u
                                            : 0x7fc00000u;
    return as_type<float>(bits | sign);
}

static inline float2 kvf_f16_values(uint word)
{
    return float2(kvf_f16_value(word & 0xffff), kvf_f16_value(word >> 16));
}

static inline float2 kvf_bf16_values(uint word)
{
    return float2(as_type<float>(word << 16), as_type<float>(word & 0xffff0000u));
}

/* The f32 bits of e2m1's 16 values (docs/FORMAT.md 4). */
constant uint kvf_e2m1_bits[16] = {
    0x00000000, 0x3f000000, 0x3f800000, 0x3fc00000, 0x40000000, 0x40400000, 0x40800000, 0x40c00000,
    0x80000000, 0xbf000000, 0xbf800000, 0xbfc00000, 0xc0000000, 0xc0400000, 0xc0800000, 0xc0c00000};

/* 2^(scale byte - 127). */
static inline float kvf_scale_value(uint scale_byte)
{
    return as_type<float>(scale_byte << 23);
}

/* Four codes in the lower half of a word, under a scale byte. */
static inline float4 kvf_fp4_values(uint codes, uint scale_byte)
{
    const uint4 bits = uint4(kvf_e2m1_bits[codes & 15], kvf_e2m1_bits[codes >> 4 & 15],
                             kvf_e2m1_bits[codes >> 8 & 15], kvf_e2m1_bits[codes >> 12 & 15]);
    return as_type<float4>(bits) * kvf_scale_value(scale_byte);
}

/* ---- Whole rows ------------------------------------------------------------------ */

template <typename Pointer>
static inline void kvf_read_fp4(device const uint *words, device const uint *scales, uint lane,
                                Pointer to)
{
    /* A block of 32 values is 4 words of 8. */
    for (uint i = lane; i < KVF_FP4_CODE_BYTES / 4; i += KVF_KERNEL_SIMD_WIDTH) {
        const float scale = kvf_scale_value(scales[0] >> 8 * (i / 4) & 0xff);
        for (uint v = 0; v < 8; v++)
            to[8 * i + v] = as_type<float>(kvf_e2m1_bits[words[i] >> 4 * v & 15]) * scale;
    }
}

template <typename Pointer>
static inline void kvf_read_fp8(device const uint *words, device const uint *scales, bool bf16,
                                uint lane, Pointer to)
{
    /* A block of 64 values is 16 words of 4; then 32 words of two rope values. */
    for (uint i = lane; i < KVF_FP8_CODE_BYTES / 4; i += KVF_KERNEL_SIMD_WIDTH) {
        const uint block = i / 16;
        const float4 values = kvf_fp8_values(words[i], scales[block / 4] >> 8 * (block % 4) & 0xff);
        to[4 * i] = values.x;
        to[4 * i + 1] = values.y;
        to[4 * i + 2] = values.z;
        to[4 * i + 3] = values.w;
    }
    const uint rope = words[KVF_FP8_CODE_BYTES / 4 + lane];
    const float2 values = bf16 ? kvf_bf16_values(rope) : kvf_f16_values(rope);
    to[KVF_FP8_NOPE_VALUES + 2 * lane] = values.x;
    to[KVF_FP8_NOPE_VALUES + 2 * lane + 1] = values.y;
}

/*
 * A row of `width` values to to[0 .. width) by one simdgroup: every lane the words lane,
 * lane + 32, ... Space: device or threadgroup.
 */
template <typename Pointer>
static inline void kvf_read_row(thread const kvf_kernel_rows &rows, ulong row, uint width,
                                uint lane, Pointer to)
{
    const kvf_row_place place = kvf_find_row(rows, row);
    device const uint *words =
        reinterpret_cast<device const uint *>(kvf_row_data(rows, place, width));
    device const uint *scales = reinterpret_cast<device const uint *>(kvf_row_scales(rows, place));
    const kvf_rows_format format = kvf_rows_format(rows.format);
    switch (format) {
    case KVF_ROWS_F32:
        for (uint i = lane; i < width; i += KVF_KERNEL_SIMD_WIDTH)
            to[i] = as_type<float>(words[i]);
        break;
    case KVF_ROWS_F16:
        for (uint i = lane; i < width / 2; i += KVF_KERNEL_SIMD_WIDTH) {
            const float2 values = kvf_f16_values(words[i]);
            to[2 * i] = values.x;
            to[2 * i + 1] = values.y;
        }
        break;
    case KVF_ROWS_FP8_F16:
    case KVF_ROWS_FP8_BF16:
        kvf_read_fp8(words, scales, format == KVF_ROWS_FP8_BF16, lane, to);
        break;
    case KVF_ROWS_FP4: kvf_read_fp4(words, scales, lane, to); break;
    }
}

#endif
