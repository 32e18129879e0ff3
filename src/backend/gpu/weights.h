/*
 * Stored weights as kernels read them (docs/WEIGHTS.md): four values of a row at a time. A
 * type is a struct with `four`; values are to the bit those of src/weight, whose order of
 * operations each follows. Nothing is assumed of alignment but where a flag says so. Metal only.
 */
#ifndef KVF_BACKEND_GPU_WEIGHTS_H
#define KVF_BACKEND_GPU_WEIGHTS_H

#include <metal_stdlib>

#include "backend/gpu/dense.h"
#include "backend/gpu/rows.h"
#include "shared/e2m1.h"
#include "shared/iq_grids.h"
#include "shared/iquant.h"
#include "shared/kquant.h"
#include "shared/matrix.h"
#include "shared/ue8m0.h"
#include "shared/weight_blocks.h"

using namespace metal;

/* A row of a matrix: its bytes, and its scales where the type has a plane of them. */
struct kvf_weight_row {
    device const uchar *data;
    device const uchar *scales;
    uint cols;
    uint type;
    bool vectors; /* plain values: four at once may be loaded, and cols is a multiple of 4 */
};

/* ---- Loads: little endian, from any address ------------------------------------------ */

static inline uint kvf_load_u16(device const uchar *from)
{
    return uint(from[0]) | uint(from[1]) << 8;
}

static inline uint kvf_load_u32(device const uchar *from)
{
    return kvf_load_u16(from) | kvf_load_u16(from + 2) << 16;
}

static inline float kvf_load_f16(device const uchar *from)
{
    return kvf_f16_value(kvf_load_u16(from));
}

static inline uint4 kvf_load_bytes(device const uchar *from)
{
    return uint4(from[0], from[1], from[2], from[3]);
}

static inline float4 kvf_floats_of(int4 x)
{
    return float4(float(x.x), float(x.y), float(x.z), float(x.w));
}

static inline float4 kvf_floats_of(uint4 x)
{
    return float4(float(x.x), float(x.y), float(x.z), float(x.w));
}

/* ---- Types without blocks: any number of columns --------------------------------------- */

/* Value by value, zero from cols on. */
template <typename W> static inline float4 kvf_four_values(thread const kvf_weight_row &row, uint i)
{
    float4 values = float4(0.0f);
    values.x = W::value(row, i);
    if (i + 1 < row.cols)
        values.y = W::value(row, i + 1);
    if (i + 2 < row.cols)
        values.z = W::value(row, i + 2);
    if (i + 3 < row.cols)
        values.w = W::value(row, i + 3);
    return values;
}

struct kvf_weight_f32 {
    static inline float value(thread const kvf_weight_row &row, uint i)
    {
        return kvf_float_of(kvf_load_u32(row.data + 4ul * i));
    }
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        if (row.vectors)
            return *reinterpret_cast<device const float4 *>(row.data + 4ul * i);
        return kvf_four_values<kvf_weight_f32>(row, i);
    }
};

struct kvf_weight_f16 {
    static inline float value(thread const kvf_weight_row &row, uint i)
    {
        return kvf_load_f16(row.data + 2ul * i);
    }
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        if (!row.vectors)
            return kvf_four_values<kvf_weight_f16>(row, i);
        const ushort4 x = *reinterpret_cast<device const ushort4 *>(row.data + 2ul * i);
        return float4(kvf_f16_value(x.x), kvf_f16_value(x.y), kvf_f16_value(x.z),
                      kvf_f16_value(x.w));
    }
};

struct kvf_weight_bf16 {
    static inline float value(thread const kvf_weight_row &row, uint i)
    {
        return kvf_float_of(kvf_load_u16(row.data + 2ul * i) << 16);
    }
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        if (!row.vectors)
            return kvf_four_values<kvf_weight_bf16>(row, i);
        const ushort4 x = *reinterpret_cast<device const ushort4 *>(row.data + 2ul * i);
        return float4(kvf_float_of(uint(x.x) << 16), kvf_float_of(uint(x.y) << 16),
                      kvf_float_of(uint(x.z) << 16), kvf_float_of(uint(x.w) << 16));
    }
};

/* Four codes share a scale: 128 is a multiple of 4. */
static inline float kvf_e4m3_value(uint code)
{
    const uint magnitude = code & 127;
    /* Below 8 it counts units of 2^-9, exactly; the last one is NaN. */
    const uint bits = magnitude < 8      ? as_type<uint>(float(magnitude) * 0x1p-9f)
                      : magnitude == 127 ? 0x7fc00000u
                                         : (magnitude << 20) + (120u << 23);
    return as_type<float>(bits | (code & 128) << 24);
}

template <typename W> static inline float4 kvf_four_fp8(thread const kvf_weight_row &row, uint i)
{
    if (i + 3 >= row.cols)
        return kvf_four_values<W>(row, i);
    const uint4 codes = kvf_load_bytes(row.data + i);
    const float scale = W::scale(row, i);
    return float4(kvf_e4m3_value(codes.x) * scale, kvf_e4m3_value(codes.y) * scale,
                  kvf_e4m3_value(codes.z) * scale, kvf_e4m3_value(codes.w) * scale);
}

struct kvf_weight_fp8_e8m0 {
    static inline float scale(thread const kvf_weight_row &row, uint i)
    {
        return kvf_float_of(kvf_ue8m0_decode(row.scales[i / KVF_FP8_WEIGHT_TILE]));
    }
    static inline float value(thread const kvf_weight_row &row, uint i)
    {
        return kvf_e4m3_value(row.data[i]) * scale(row, i);
    }
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        return kvf_four_fp8<kvf_weight_fp8_e8m0>(row, i);
    }
};

struct kvf_weight_fp8_f32 {
    static inline float scale(thread const kvf_weight_row &row, uint i)
    {
        return kvf_float_of(kvf_load_u32(row.scales + 4ul * (i / KVF_FP8_WEIGHT_TILE)));
    }
    static inline float value(thread const kvf_weight_row &row, uint i)
    {
        return kvf_e4m3_value(row.data[i]) * scale(row, i);
    }
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        return kvf_four_fp8<kvf_weight_fp8_f32>(row, i);
    }
};

struct kvf_weight_fp4 {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        const uint low = row.data[i / 2];
        const uint high = row.data[i / 2 + 1];
        const float scale = kvf_float_of(kvf_ue8m0_decode(row.scales[i / KVF_FP4_WEIGHT_VALUES]));
        return float4(kvf_float_of(kvf_e2m1_decode(uchar(low))) * scale,
                      kvf_float_of(kvf_e2m1_decode(uchar(low >> 4))) * scale,
                      kvf_float_of(kvf_e2m1_decode(uchar(high))) * scale,
                      kvf_float_of(kvf_e2m1_decode(uchar(high >> 4))) * scale);
    }
};

/* ---- Blocks of 32: value k < 16 low in byte k, then high --------------------------------- */

/* The nibbles of values k .. k + 3 of 32. */
static inline uint4 kvf_nibbles(device const uchar *codes, uint k)
{
    return kvf_load_bytes(codes + k % 16) >> uint4(4 * (k / 16)) & uint4(15);
}

struct kvf_weight_q8_0 {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_Q8_0_VALUES) * KVF_Q8_0_BYTES;
        const float d = kvf_load_f16(block + KVF_Q8_0_D);
        const uint4 codes = kvf_load_bytes(block + KVF_Q8_0_CODES + i % KVF_Q8_0_VALUES);
        /* Of i8: an exclusive or with 128, less 128. */
        return float4(d) * kvf_floats_of(int4(codes ^ uint4(128)) - int4(128));
    }
};

struct kvf_weight_q4_0 {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_Q4_0_VALUES) * KVF_Q4_0_BYTES;
        const float d = kvf_load_f16(block + KVF_Q4_0_D);
        const uint4 codes = kvf_nibbles(block + KVF_Q4_0_CODES, i % KVF_Q4_0_VALUES);
        return float4(d) * kvf_floats_of(int4(codes) - int4(8));
    }
};

static inline float4 kvf_iq4_four(uint4 codes)
{
    return float4(float(kvf_iq4_values[codes.x]), float(kvf_iq4_values[codes.y]),
                  float(kvf_iq4_values[codes.z]), float(kvf_iq4_values[codes.w]));
}

struct kvf_weight_iq4_nl {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_IQ4_NL_VALUES) * KVF_IQ4_NL_BYTES;
        const float d = kvf_load_f16(block + KVF_IQ4_NL_D);
        return float4(d) *
               kvf_iq4_four(kvf_nibbles(block + KVF_IQ4_NL_CODES, i % KVF_IQ4_NL_VALUES));
    }
};

struct kvf_weight_mxfp4 {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_MXFP4_VALUES) * KVF_MXFP4_BYTES;
        const float scale = kvf_float_of(kvf_ue8m0_decode_half(block[KVF_MXFP4_SCALE]));
        const uint4 codes = kvf_nibbles(block + KVF_MXFP4_CODES, i % KVF_MXFP4_VALUES);
        return float4(scale) * float4(float(kvf_e2m1_doubled(uchar(codes.x))),
                                      float(kvf_e2m1_doubled(uchar(codes.y))),
                                      float(kvf_e2m1_doubled(uchar(codes.z))),
                                      float(kvf_e2m1_doubled(uchar(codes.w))));
    }
};

/* ---- Blocks of 256; k is the place in the block ------------------------------------------- */

struct kvf_weight_q2_k {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_K_VALUES) * KVF_Q2_K_BYTES;
        const uint k = i % KVF_K_VALUES;
        const uint both = block[KVF_Q2_K_SCALES + k / 16];
        const float scale = kvf_load_f16(block + KVF_Q2_K_D) * float(both & 15);
        const float least = kvf_load_f16(block + KVF_Q2_K_DMIN) * float(both >> 4);
        const uint4 codes = kvf_load_bytes(block + KVF_Q2_K_CODES + 32 * (k / 128) + k % 32);
        const uint shift = 2 * (k % 128 / 32);
        return float4(scale) * kvf_floats_of(codes >> uint4(shift) & uint4(3)) - float4(least);
    }
};

struct kvf_weight_q3_k {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_K_VALUES) * KVF_Q3_K_BYTES;
        const uint k = i % KVF_K_VALUES;
        device const uchar *scales = block + KVF_Q3_K_SCALES;
        const float scale = kvf_load_f16(block + KVF_Q3_K_D) *
                            float(kvf_q3_k_scale(kvf_load_u32(scales), kvf_load_u32(scales + 4),
                                                 kvf_load_u32(scales + 8), k / 16));
        const uint shift = 2 * (k % 128 / 32);
        const uint4 low =
            kvf_load_bytes(block + KVF_Q3_K_CODES + 32 * (k / 128) + k % 32) >> uint4(shift) &
            uint4(3);
        const uint4 high =
            kvf_load_bytes(block + KVF_Q3_K_HIGH + k % 32) >> uint4(k / 32) & uint4(1);
        return float4(scale) * kvf_floats_of(int4(low + uint4(4) * high) - int4(4));
    }
};

/* Scale and minimum of sub-block j of q4_K and q5_K. */
static inline float2 kvf_q4_k_scales(float d, float dmin, device const uchar *scales, uint j)
{
    const uint s0 = kvf_load_u32(scales);
    const uint s1 = kvf_load_u32(scales + 4);
    const uint s2 = kvf_load_u32(scales + 8);
    return float2(d * float(kvf_q4_k_scale(s0, s2, j)), dmin * float(kvf_q4_k_min(s1, s2, j)));
}

struct kvf_weight_q4_k {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_K_VALUES) * KVF_Q4_K_BYTES;
        const uint k = i % KVF_K_VALUES;
        const uint j = k / 32;
        const float2 scales =
            kvf_q4_k_scales(kvf_load_f16(block + KVF_Q4_K_D), kvf_load_f16(block + KVF_Q4_K_DMIN),
                            block + KVF_Q4_K_SCALES, j);
        const uint4 codes = kvf_load_bytes(block + KVF_Q4_K_CODES + 32 * (j / 2) + k % 32);
        return float4(scales.x) * kvf_floats_of(codes >> uint4(4 * (j % 2)) & uint4(15)) -
               float4(scales.y);
    }
};

struct kvf_weight_q5_k {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_K_VALUES) * KVF_Q5_K_BYTES;
        const uint k = i % KVF_K_VALUES;
        const uint j = k / 32;
        const float2 scales =
            kvf_q4_k_scales(kvf_load_f16(block + KVF_Q5_K_D), kvf_load_f16(block + KVF_Q5_K_DMIN),
                            block + KVF_Q5_K_SCALES, j);
        const uint4 low =
            kvf_load_bytes(block + KVF_Q5_K_CODES + 32 * (j / 2) + k % 32) >> uint4(4 * (j % 2)) &
            uint4(15);
        const uint4 high = kvf_load_bytes(block + KVF_Q5_K_HIGH + k % 32) >> uint4(j) & uint4(1);
        return float4(scales.x) * kvf_floats_of(low + uint4(16) * high) - float4(scales.y);
    }
};

struct kvf_weight_q6_k {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_K_VALUES) * KVF_Q6_K_BYTES;
        const uint k = i % KVF_K_VALUES;
        const uint g = k % 128 / 32;
        const int code = int(uint(block[KVF_Q6_K_SCALES + k / 16]) ^ 128) - 128;
        const float scale = kvf_load_f16(block + KVF_Q6_K_D) * float(code);
        const uint4 low =
            kvf_load_bytes(block + KVF_Q6_K_LOW + 64 * (k / 128) + 32 * (g % 2) + k % 32) >>
                uint4(4 * (g / 2)) &
            uint4(15);
        const uint4 high =
            kvf_load_bytes(block + KVF_Q6_K_HIGH + 32 * (k / 128) + k % 32) >> uint4(2 * g) &
            uint4(3);
        return float4(scale) * kvf_floats_of(int4(low + uint4(16) * high) - int4(32));
    }
};

struct kvf_weight_iq4_xs {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_K_VALUES) * KVF_IQ4_XS_BYTES;
        const uint k = i % KVF_K_VALUES;
        const float scale =
            kvf_load_f16(block + KVF_IQ4_XS_D) *
            float(kvf_iq4_xs_scale(kvf_load_u32(block + KVF_IQ4_XS_SCALES_LOW),
                                   kvf_load_u16(block + KVF_IQ4_XS_SCALES_HIGH), k / 32));
        return float4(scale) *
               kvf_iq4_four(kvf_nibbles(block + KVF_IQ4_XS_CODES + 16 * (k / 32), k % 32));
    }
};

/* ---- Code books: four values of an entry, bit j of signs set, value j negative -------------- */

static inline float kvf_signed_value(float value, uint negative)
{
    return negative & 1 ? -value : value;
}

/* `bytes` has four magnitudes. */
static inline float4 kvf_signed_four(float scale, uint bytes, uint signs)
{
    return float4(kvf_signed_value(scale * float(bytes & 255), signs),
                  kvf_signed_value(scale * float(bytes >> 8 & 255), signs >> 1),
                  kvf_signed_value(scale * float(bytes >> 16 & 255), signs >> 2),
                  kvf_signed_value(scale * float(bytes >> 24), signs >> 3));
}

/* Values k .. k + 3 of an entry of eight, k 0 or 4. */
static inline float4 kvf_iq2_four(float scale, uint entry, uint signs, uint k)
{
    return kvf_signed_four(scale, uint(kvf_iq2_expand(entry) >> 8 * k), signs >> k);
}

struct kvf_weight_iq2_xxs {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_K_VALUES) * KVF_IQ2_XXS_BYTES;
        const uint k = i % KVF_K_VALUES;
        device const uchar *group = block + KVF_IQ2_XXS_GROUPS + k / 32 * KVF_IQ2_XXS_GROUP_BYTES;
        const uint eight = k % 32 / 8;
        const uint word = kvf_load_u32(group + 4);
        const float scale =
            kvf_load_f16(block + KVF_IQ2_XXS_D) * (0.5f + float(word >> 28)) * 0.25f;
        return kvf_iq2_four(scale, kvf_iq2_xxs_grid[group[eight]],
                            kvf_iq_signs(word >> 7 * eight & 127), k % 8);
    }
};

struct kvf_weight_iq2_xs {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_K_VALUES) * KVF_IQ2_XS_BYTES;
        const uint k = i % KVF_K_VALUES;
        const uint code = kvf_load_u16(block + KVF_IQ2_XS_CODES + 2 * (k / 8));
        const uint nibble = uint(block[KVF_IQ2_XS_SCALES + k / 32]) >> 4 * (k / 16 % 2) & 15;
        const float scale = kvf_load_f16(block + KVF_IQ2_XS_D) * (0.5f + float(nibble)) * 0.25f;
        return kvf_iq2_four(scale, kvf_iq2_xs_grid[code & 511], kvf_iq_signs(code >> 9), k % 8);
    }
};

struct kvf_weight_iq2_s {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_K_VALUES) * KVF_IQ2_S_BYTES;
        const uint k = i % KVF_K_VALUES;
        const uint high = uint(block[KVF_IQ2_S_HIGH + k / 32]) >> 2 * (k / 8 % 4) & 3;
        const uint index = uint(block[KVF_IQ2_S_INDEX + k / 8]) | high << 8;
        const uint nibble = uint(block[KVF_IQ2_S_SCALES + k / 32]) >> 4 * (k / 16 % 2) & 15;
        const float scale = kvf_load_f16(block + KVF_IQ2_S_D) * (0.5f + float(nibble)) * 0.25f;
        return kvf_iq2_four(scale, kvf_iq2_s_grid[index], block[KVF_IQ2_S_SIGNS + k / 8], k % 8);
    }
};

struct kvf_weight_iq3_xxs {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_K_VALUES) * KVF_IQ3_XXS_BYTES;
        const uint k = i % KVF_K_VALUES;
        const uint word = kvf_load_u32(block + KVF_IQ3_XXS_WORDS + k / 32 * 4);
        const float scale = kvf_load_f16(block + KVF_IQ3_XXS_D) * (0.5f + float(word >> 28)) * 0.5f;
        const uint signs = kvf_iq_signs(word >> 7 * (k % 32 / 8) & 127);
        const uint entry = kvf_iq3_xxs_grid[block[KVF_IQ3_XXS_INDEX + k / 4]];
        return kvf_signed_four(scale, kvf_iq3_xxs_expand(entry), signs >> k % 8);
    }
};

struct kvf_weight_iq3_s {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        device const uchar *block = row.data + ulong(i / KVF_K_VALUES) * KVF_IQ3_S_BYTES;
        const uint k = i % KVF_K_VALUES;
        const uint high = uint(block[KVF_IQ3_S_HIGH + k / 32]) >> k / 4 % 8 & 1;
        const uint entry = kvf_iq3_s_grid[uint(block[KVF_IQ3_S_INDEX + k / 4]) | high << 8];
        const uint nibble = uint(block[KVF_IQ3_S_SCALES + k / 64]) >> 4 * (k / 32 % 2) & 15;
        const uint signs = uint(block[KVF_IQ3_S_SIGNS + k / 8]) >> k % 8;
        return kvf_signed_four(kvf_load_f16(block + KVF_IQ3_S_D) * float(1 + 2 * nibble),
                               kvf_iq3_s_expand(entry), signs);
    }
};

/* ---- Any type: what it is, is said by the row --------------------------------------------- */

struct kvf_weight_any {
    static inline float4 four(thread const kvf_weight_row &row, uint i)
    {
        switch (row.type) {
#define KVF_WEIGHT(id, symbol)                                                                     \
    case id:                                                                                       \
        return symbol::four(row, i);
#include "shared/weights.def"
#undef KVF_WEIGHT
        default: return float4(0.0f);
        }
    }
};

/* ---- Rows ------------------------------------------------------------------------------------ */

/* Rows of the matrix that share a row of scales; 0: there is no plane. */
static inline uint kvf_scale_rows(uint type)
{
    return type == KVF_WEIGHT_FP4                                      ? 1
           : type == KVF_WEIGHT_FP8_E8M0 || type == KVF_WEIGHT_FP8_F32 ? uint(KVF_FP8_WEIGHT_TILE)
                                                                       : 0;
}

/* Bytes of four values that can be loaded at once, where rows begin at multiples of them. */
static inline uint kvf_vector_bytes(uint type)
{
    return type == KVF_WEIGHT_F32 ? 16 : type == KVF_WEIGHT_F16 || type == KVF_WEIGHT_BF16 ? 8 : 0;
}

static inline kvf_weight_row kvf_find_weights(ulong data, ulong scales, ulong row_bytes,
                                              uint scale_stride, uint type, uint row, uint cols)
{
    const uint scale_rows = kvf_scale_rows(type);
    const uint bytes = kvf_vector_bytes(type);
    kvf_weight_row found;
    found.data = reinterpret_cast<device const uchar *>(data + row * row_bytes);
    found.scales = reinterpret_cast<device const uchar *>(
        scale_rows ? scales + ulong(row / scale_rows) * scale_stride : 0);
    found.cols = cols;
    found.type = type;
    found.vectors = bytes && cols % 4 == 0 && ((data | row_bytes) & (bytes - 1)) == 0;
    return found;
}

#endif
