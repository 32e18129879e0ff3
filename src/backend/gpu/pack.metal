/*
 * pack and unpack: rows of f32 to bytes and back, a simdgroup a row (docs/FORMAT.md 3, 4).
 *
 * Lane l holds the values 4l .. 4l + 3 of each 128: one word of FP8 codes, and 16 or 8
 * lanes a block of the FP8 or FP4 grid, so a block's largest magnitude is a few shuffles.
 * Codes and exponents are made of bits, by the codecs of src/shared, as on the host.
 */
#include <metal_stdlib>

#include "backend/gpu/kernels.h"
#include "backend/gpu/rows.h"
#include "backend/gpu/spans.h"
#include "shared/bf16.h"
#include "shared/e2m1.h"
#include "shared/e4m3.h"
#include "shared/half.h"
#include "shared/ue8m0.h"

using namespace metal;

/* A lane's part of a row of 128 * N values. */
template <uint N> struct kvf_share {
    float4 at[N];
};

enum { KVF_PACK_NO_DIM = 0xffff }; /* no dimension of a row */

template <typename Pointer> static inline kvf_row_span kvf_copy_row_span(Pointer from)
{
    kvf_row_span span;
    span.rows = from->rows;
    span.place = from->place;
    span.first_index = from->first_index;
    span.kv = from->kv;
    span.gate = from->gate;
    span.out = kvf_copy_rows(&from->out);
    span.first_row = from->first_row;
    span.first = from->first;
    return span;
}

static inline kvf_row_span kvf_row_span_at(constant kvf_row_kernel_args &args, uint span)
{
    return KVF_COPY_SPAN(args, kvf_row_span, kvf_copy_row_span, span);
}

template <uint N>
static inline void load_share(device const float *row, uint lane, thread kvf_share<N> &x)
{
    KVF_UNROLL
    for (uint j = 0; j < N; j++) {
        device const float *from = row + 4 * (lane + KVF_KERNEL_SIMD_WIDTH * j);
        x.at[j] = float4(from[0], from[1], from[2], from[3]);
    }
}

/*
 * Hadamard-128. Strides 1 and 2 are within a lane, then strides 4 .. 64 are lanes 1 .. 16
 * apart. a - b is taken by the lane that holds b.
 */
static inline float4 hadamard(float4 x, uint lane)
{
    x = float4(x.x + x.y, x.x - x.y, x.z + x.w, x.z - x.w);
    x = float4(x.x + x.z, x.y + x.w, x.x - x.z, x.y - x.w);
    for (uint apart = 1; apart < KVF_KERNEL_SIMD_WIDTH; apart *= 2) {
        const float4 other = simd_shuffle_xor(x, ushort(apart));
        x = lane & apart ? other - x : x + other;
    }
    return x * 0.08838834764831845f; /* 1 / sqrt(128) */
}

static inline uint4 magnitudes(float4 x)
{
    return as_type<uint4>(x) & uint(KVF_F32_MAGNITUDE_MASK);
}

/* The largest of a block that lies in n_lanes lanes, a power of two. */
static inline uint block_amax(float4 x, uint n_lanes)
{
    const uint4 m = magnitudes(x);
    uint amax = max(max(m.x, m.y), max(m.z, m.w));
    for (uint apart = n_lanes / 2; apart > 0; apart /= 2)
        amax = max(amax, simd_shuffle_xor(amax, ushort(apart)));
    return amax;
}

/* ---- Checks -------------------------------------------------------------------------- */

/* The first of four dimensions whose magnitude reaches the limit. */
static inline uint first_at_least(float4 x, uint limit, uint dim)
{
    const uint4 m = magnitudes(x);
    return m.x >= limit   ? dim
           : m.y >= limit ? dim + 1
           : m.z >= limit ? dim + 2
           : m.w >= limit ? dim + 3
                          : uint(KVF_PACK_NO_DIM);
}

/* The lowest dimension below `end` (a multiple of 4) whose magnitude reaches the limit. */
template <uint N>
static inline uint lowest_at_least(thread const kvf_share<N> &x, uint limit, uint end, uint lane)
{
    uint lowest = KVF_PACK_NO_DIM;
    KVF_UNROLL
    for (uint j = 0; j < N; j++) {
        const uint dim = 4 * (lane + KVF_KERNEL_SIMD_WIDTH * j);
        const uint found = first_at_least(x.at[j], limit, dim);
        lowest = dim < end ? min(lowest, found) : lowest;
    }
    return simd_min(lowest);
}

/* The start of the first FP4 block whose scale exponent is not in -50 .. 50. */
static inline uint first_bad_fp4_block(float4 x, uint lane)
{
    const uint amax = block_amax(x, KVF_FP4_BLOCK_VALUES / 4);
    const bool good =
        amax == 0 || (amax > kvf_bits_of(0x1.8p-49f) && amax <= kvf_bits_of(0x1.8p+52f));
    return simd_min(good ? uint(KVF_PACK_NO_DIM) : 4 * lane & ~uint(KVF_FP4_BLOCK_VALUES - 1));
}

static inline uint reason(uint status, uint dim)
{
    return dim == KVF_PACK_NO_DIM ? uint(KVF_ROW_IS_OK) : status << 16 | dim;
}

/* What is wrong with values that are to be rounded to the grid: status and dimension. */
template <uint N> static inline uint check_share(thread const kvf_share<N> &x, uint grid, uint lane)
{
    const uint width = 128 * N;
    const uint nonfinite = lowest_at_least<N>(x, KVF_F32_INFINITY, width, lane);
    if (nonfinite != KVF_PACK_NO_DIM)
        return reason(KVF_ROW_IS_NONFINITE, nonfinite);
    if (grid == KVF_TO_FP8) /* these would become 2^128, which f32 lacks */
        return reason(KVF_ROW_IS_RANGE,
                      lowest_at_least<N>(x, kvf_bits_of(0x1.fp+127f), KVF_FP8_NOPE_VALUES, lane));
    if (grid == KVF_TO_FP4)
        return reason(KVF_ROW_IS_RANGE, first_bad_fp4_block(x.at[0], lane));
    return KVF_ROW_IS_OK;
}

template <uint N>
static inline uint check_row(constant kvf_row_kernel_args &args, device const float *row,
                             uint lane)
{
    kvf_share<N> x;
    load_share<N>(row, lane, x);
    uint bad = KVF_ROW_IS_OK;
    if (args.check_input)
        bad = check_share<N>(x, KVF_TO_NO_GRID, lane);
    if (bad != KVF_ROW_IS_OK)
        return bad;
    if (args.hadamard) /* of rows of 128 */
        x.at[0] = hadamard(x.at[0], lane);
    return check_share<N>(x, args.grid, lane);
}

/* A row that is bad: why, and that its span has it. */
static inline void tell(constant kvf_row_kernel_args &args, uint number, uint span, uint row,
                        uint why)
{
    reinterpret_cast<device uint *>(args.words)[number] = why;
    device atomic_uint *found =
        reinterpret_cast<device atomic_uint *>(args.found) + span * KVF_FOUND_WORDS;
    atomic_fetch_min_explicit(found + KVF_FOUND_BAD_ROW, row, memory_order_relaxed);
}

/*
 * Of each span the lowest bad row, and for every bad row its word = status * 2^16 + dimension.
 * group.x: rows, KVF_PACK_ROWS at a time.
 */
kernel void kvf_pack_check(constant kvf_row_kernel_args &args [[buffer(0)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simd [[simdgroup_index_in_threadgroup]])
{
    const uint i = group.x * KVF_PACK_ROWS + simd;
    if (i >= args.n_rows)
        return;
    const uint s = kvf_find_span(args.spans, 0, i, lane);
    const kvf_row_span span = kvf_row_span_at(args, s);
    const uint number = i - span.first;
    device const float *row =
        reinterpret_cast<device const float *>(span.rows) + number * args.stride;
    const uint bad = args.width == KVF_FP4_VALUES ? check_row<1>(args, row, lane)
                                                  : check_row<4>(args, row, lane);
    if (bad != KVF_ROW_IS_OK && lane == 0)
        tell(args, i, s, number, bad);
}

/*
 * Values that are not finite, in any rows: the lowest row, and words as above.
 * group.x: rows, KVF_PACK_ROWS at a time.
 */
kernel void kvf_check(constant kvf_row_kernel_args &args [[buffer(0)]],
                      uint3 group [[threadgroup_position_in_grid]],
                      uint lane [[thread_index_in_simdgroup]],
                      uint simd [[simdgroup_index_in_threadgroup]])
{
    const uint i = group.x * KVF_PACK_ROWS + simd;
    if (i >= args.n_rows)
        return;
    const uint s = kvf_find_span(args.spans, 0, i, lane);
    const kvf_row_span span = kvf_row_span_at(args, s);
    const uint number = i - span.first;
    device const uint *values =
        reinterpret_cast<device const uint *>(span.rows) + ulong(number) * args.width;
    uint dim = args.width;
    for (uint d = lane; d < args.width; d += KVF_KERNEL_SIMD_WIDTH)
        if ((values[d] & uint(KVF_F32_MAGNITUDE_MASK)) >= uint(KVF_F32_INFINITY))
            dim = min(dim, d);
    dim = simd_min(dim);
    if (dim != args.width && lane == 0)
        tell(args, i, s, number, KVF_ROW_IS_NONFINITE << 16 | dim);
}

/* As kvf_found_word of shared/finding.h. */
static inline ulong found_word(bool made, ulong index, uint dim, uint status)
{
    return ulong(made) << 63 | index << 20 | ulong(dim) << 4 | ulong(status - KVF_ROW_IS_NONFINITE);
}

/* The first column of an input token that is not finite, in kv or gate. */
static inline uint bad_column(device const uint *kv, device const uint *gate, uint columns,
                              uint lane)
{
    uint column = columns - 1; /* there is one */
    for (uint i = lane; i < columns; i += KVF_KERNEL_SIMD_WIDTH)
        if (max(kv[i] & uint(KVF_F32_MAGNITUDE_MASK), gate[i] & uint(KVF_F32_MAGNITUDE_MASK)) >=
            uint(KVF_F32_INFINITY))
            column = min(column, i);
    return simd_min(column);
}

/*
 * One simdgroup a span, after the checks and stores of an operation: what they found, to the
 * span's finding, which it lowers; the words of `found` are ready for the next operation.
 * group.x: spans.
 */
kernel void kvf_report(constant kvf_row_kernel_args &args [[buffer(0)]],
                       uint3 group [[threadgroup_position_in_grid]],
                       uint lane [[thread_index_in_simdgroup]])
{
    const kvf_row_span span = kvf_row_span_at(args, group.x);
    device uint *found = reinterpret_cast<device uint *>(args.found) + group.x * KVF_FOUND_WORDS;
    device const uint *words = reinterpret_cast<device const uint *>(args.words) + span.first;
    device ulong *place = reinterpret_cast<device ulong *>(span.place);
    const uint token = found[KVF_FOUND_BAD_INPUT];
    const uint row = found[KVF_FOUND_BAD_ROW];
    const uint inexact = found[KVF_FOUND_INEXACT_ROWS];
    ulong word = ~0ul;
    if (token != KVF_FOUND_NOTHING) {
        const ulong first = ulong(token) * args.columns;
        const uint column =
            bad_column(reinterpret_cast<device const uint *>(span.kv) + first,
                       reinterpret_cast<device const uint *>(span.gate) + first, args.columns, lane);
        word = found_word(false, span.first_index + token, column, KVF_ROW_IS_NONFINITE);
    } else if (row != KVF_FOUND_NOTHING) {
        word = found_word(args.made != 0, span.first_index + row, words[row] & 0xffff,
                          words[row] >> 16);
    }
    simdgroup_barrier(mem_flags::mem_device); /* all have read */
    if (lane != 0)
        return;
    if (word < place[0])
        place[0] = word;
    place[1] += inexact;
    found[KVF_FOUND_BAD_INPUT] = KVF_FOUND_NOTHING;
    found[KVF_FOUND_BAD_ROW] = KVF_FOUND_NOTHING;
    found[KVF_FOUND_INEXACT_ROWS] = 0;
}

/* ---- Grids ---------------------------------------------------------------------------- */

/* Four codes of a block of 64, and the block's exponent, which 16 lanes share. */
static inline uint fp8_codes(float4 x, thread int &exponent)
{
    exponent = kvf_fp8_exponent(block_amax(x, KVF_FP8_BLOCK_VALUES / 4));
    const uint4 y = as_type<uint4>(x * as_type<float>(kvf_power_of_two(-exponent)));
    return uint(kvf_e4m3_encode(y.x)) | uint(kvf_e4m3_encode(y.y)) << 8 |
           uint(kvf_e4m3_encode(y.z)) << 16 | uint(kvf_e4m3_encode(y.w)) << 24;
}

/* Four codes of a block of 32, and the block's exponent, which 8 lanes share. */
static inline uint fp4_codes(float4 x, thread int &exponent)
{
    exponent = kvf_fp4_exponent(block_amax(x, KVF_FP4_BLOCK_VALUES / 4));
    const uint4 y = as_type<uint4>(x * as_type<float>(kvf_power_of_two(-exponent)));
    return uint(kvf_e2m1_encode(y.x)) | uint(kvf_e2m1_encode(y.y)) << 4 |
           uint(kvf_e2m1_encode(y.z)) << 8 | uint(kvf_e2m1_encode(y.w)) << 12;
}

/* Two f16 codes in a word. */
static inline uint f16_codes(float a, float b)
{
    return uint(kvf_f16_encode(as_type<uint>(a))) | uint(kvf_f16_encode(as_type<uint>(b))) << 16;
}

static inline uint bf16_codes(float a, float b)
{
    return uint(kvf_bf16_encode(as_type<uint>(a))) | uint(kvf_bf16_encode(as_type<uint>(b))) << 16;
}

/* A lane's four values as f16 and back. */
static inline float4 round_to_f16(float4 x)
{
    const float2 low = kvf_f16_values(f16_codes(x.x, x.y));
    const float2 high = kvf_f16_values(f16_codes(x.z, x.w));
    return float4(low.x, low.y, high.x, high.y);
}

static inline bool is_rope(uint j, uint lane)
{
    return 4 * (lane + KVF_KERNEL_SIMD_WIDTH * j) >= KVF_FP8_NOPE_VALUES;
}

template <uint N> static inline void round_to_grid(thread kvf_share<N> &x, uint grid, uint lane)
{
    int exponent = 0;
    if (grid == KVF_TO_FP4) {
        const uint codes = fp4_codes(x.at[0], exponent);
        x.at[0] = kvf_fp4_values(codes, uint(exponent + KVF_F32_BIAS));
    }
    if (grid != KVF_TO_FP8)
        return;
    KVF_UNROLL
    for (uint j = 0; j < N; j++) {
        const uint codes = fp8_codes(x.at[j], exponent); /* all lanes: it shuffles */
        x.at[j] = is_rope(j, lane) ? round_to_f16(x.at[j])
                                   : kvf_fp8_values(codes, uint(exponent + KVF_F32_BIAS));
    }
}

/* ---- Stores: each says whether this lane's values are exact ------------------------------ */

template <uint N>
static inline bool store_f32(thread const kvf_share<N> &x, device uint *words, uint lane)
{
    KVF_UNROLL
    for (uint j = 0; j < N; j++) {
        const uint4 bits = as_type<uint4>(x.at[j]);
        device uint *to = words + 4 * (lane + KVF_KERNEL_SIMD_WIDTH * j);
        to[0] = bits.x;
        to[1] = bits.y;
        to[2] = bits.z;
        to[3] = bits.w;
    }
    return true;
}

/* Of the same bits, so that -0 and +0 differ. */
static inline bool are_equal(float4 a, float4 b)
{
    return all(as_type<uint4>(a) == as_type<uint4>(b));
}

template <uint N>
static inline bool store_f16(thread const kvf_share<N> &x, device uint *words, uint lane)
{
    bool exact = true;
    KVF_UNROLL
    for (uint j = 0; j < N; j++) {
        device uint *to = words + 2 * (lane + KVF_KERNEL_SIMD_WIDTH * j);
        to[0] = f16_codes(x.at[j].x, x.at[j].y);
        to[1] = f16_codes(x.at[j].z, x.at[j].w);
        exact = exact && are_equal(round_to_f16(x.at[j]), x.at[j]);
    }
    return exact;
}

static inline bool store_fp4(thread const kvf_share<1> &x, device uint *words, device uint *scales,
                             uint lane)
{
    int exponent = 0;
    const uint codes = fp4_codes(x.at[0], exponent);
    /* Two lanes a word of codes; lanes 0, 8, 16, 24 have the four scale bytes. */
    const uint word = codes | simd_shuffle_xor(codes, ushort(1)) << 16;
    const uint block = lane / (KVF_FP4_BLOCK_VALUES / 4);
    const uint word_of_scales = simd_or(uint(exponent + KVF_F32_BIAS) << 8 * block);
    if (lane % 2 == 0)
        words[lane / 2] = word;
    if (lane == 0)
        scales[0] = word_of_scales;
    return true;
}

/* A lane's two words of rope, and whether they hold the grid's values, which are f16's. */
static inline bool store_rope(float4 x, bool bf16, device uint *to)
{
    const uint low = bf16 ? bf16_codes(x.x, x.y) : f16_codes(x.x, x.y);
    const uint high = bf16 ? bf16_codes(x.z, x.w) : f16_codes(x.z, x.w);
    to[0] = low;
    to[1] = high;
    if (!bf16)
        return true;
    const float2 a = kvf_bf16_values(low);
    const float2 b = kvf_bf16_values(high);
    return are_equal(float4(a.x, a.y, b.x, b.y), round_to_f16(x));
}

static inline bool store_fp8(thread const kvf_share<4> &x, bool bf16, device uint *words,
                             device uint *scales, uint lane)
{
    bool exact = true;
    uint scale_words[2] = {0, 0};
    KVF_UNROLL
    for (uint j = 0; j < 4; j++) {
        int exponent = 0;
        const uint codes = fp8_codes(x.at[j], exponent);
        /* The rope lanes' byte is the zero that follows the seven scales. */
        const uint scale = is_rope(j, lane) ? 0 : uint(exponent + KVF_F32_BIAS);
        scale_words[j / 2] |= scale << 8 * (2 * (j % 2) + lane / 16);
        if (is_rope(j, lane)) {
            const uint place = KVF_FP8_ROPE_OFFSET / 4 + 2 * (lane - 16);
            exact = store_rope(x.at[j], bf16, words + place);
        } else {
            words[lane + KVF_KERNEL_SIMD_WIDTH * j] = codes;
        }
    }
    const uint first = scale_words[0] | simd_shuffle_xor(scale_words[0], ushort(16));
    const uint second = scale_words[1] | simd_shuffle_xor(scale_words[1], ushort(16));
    if (lane == 0) {
        scales[0] = first;
        scales[1] = second;
    }
    return exact;
}

/*
 * A format that contains the grid rounds by itself and gets the plain values: a rounded
 * block can have a smaller maximum, hence another scale and other bytes.
 */
template <uint N>
static inline bool store_plain(constant kvf_row_kernel_args &args, thread kvf_share<N> &x,
                               uint format, device uint *words, uint lane)
{
    round_to_grid<N>(x, args.grid, lane);
    return format == KVF_ROWS_F16 ? store_f16<N>(x, words, lane)
                                           : store_f32<N>(x, words, lane);
}

static inline bool store_row_128(constant kvf_row_kernel_args &args,
                                 thread const kvf_kernel_rows &out, device const float *from,
                                 kvf_row_place place, uint lane)
{
    device uint *words = reinterpret_cast<device uint *>(kvf_row_data(out, place, 128));
    kvf_share<1> x;
    load_share<1>(from, lane, x);
    if (args.hadamard)
        x.at[0] = hadamard(x.at[0], lane);
    if (out.format != KVF_ROWS_FP4)
        return store_plain<1>(args, x, out.format, words, lane);
    device uint *scales = reinterpret_cast<device uint *>(kvf_row_scales(out, place));
    return store_fp4(x, words, scales, lane);
}

static inline bool store_row_512(constant kvf_row_kernel_args &args,
                                 thread const kvf_kernel_rows &out, device const float *from,
                                 kvf_row_place place, uint lane)
{
    device uint *words = reinterpret_cast<device uint *>(kvf_row_data(out, place, 512));
    kvf_share<4> x;
    load_share<4>(from, lane, x);
    if (out.format != KVF_ROWS_FP8_F16 && out.format != KVF_ROWS_FP8_BF16)
        return store_plain<4>(args, x, out.format, words, lane);
    device uint *scales = reinterpret_cast<device uint *>(kvf_row_scales(out, place));
    return store_fp8(x, out.format == KVF_ROWS_FP8_BF16, words, scales, lane);
}

/*
 * Stores all rows of a span, or none if the checks before it found anything in it.
 * A row of f32 may lie where its input does: a lane writes what it alone reads.
 * group.x: rows, KVF_PACK_ROWS at a time.
 */
kernel void kvf_pack_store(constant kvf_row_kernel_args &args [[buffer(0)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simd [[simdgroup_index_in_threadgroup]])
{
    const uint i = group.x * KVF_PACK_ROWS + simd;
    if (i >= args.n_rows)
        return;
    const uint s = kvf_find_span(args.spans, 0, i, lane);
    device atomic_uint *found =
        reinterpret_cast<device atomic_uint *>(args.found) + s * KVF_FOUND_WORDS;
    const uint bad = atomic_load_explicit(found + KVF_FOUND_BAD_INPUT, memory_order_relaxed) &
                     atomic_load_explicit(found + KVF_FOUND_BAD_ROW, memory_order_relaxed);
    if (bad != KVF_FOUND_NOTHING)
        return;
    const kvf_row_span span = kvf_row_span_at(args, s);
    const uint number = i - span.first;
    device const float *from =
        reinterpret_cast<device const float *>(span.rows) + number * args.stride;
    ulong row = span.first_row + number;
    row = row >= span.out.n_rows ? row - span.out.n_rows : row;
    const kvf_row_place place = kvf_find_row(span.out, row);
    const bool exact = args.width == KVF_FP4_VALUES
                           ? store_row_128(args, span.out, from, place, lane)
                           : store_row_512(args, span.out, from, place, lane);
    if (simd_any(!exact) && lane == 0)
        atomic_fetch_add_explicit(found + KVF_FOUND_INEXACT_ROWS, 1u, memory_order_relaxed);
}

/* group.x: rows of the output, KVF_PACK_ROWS at a time. */
kernel void kvf_unpack(constant kvf_unpack_kernel_args &args [[buffer(0)]],
                       uint3 group [[threadgroup_position_in_grid]],
                       uint lane [[thread_index_in_simdgroup]],
                       uint simd [[simdgroup_index_in_threadgroup]])
{
    device const int *list = reinterpret_cast<device const int *>(args.list);
    device float *out = reinterpret_cast<device float *>(args.out);
    const uint i = group.x * KVF_PACK_ROWS + simd;
    if (i >= args.n_rows)
        return;
    const ulong row = args.list ? ulong(list[i]) : args.first_row + i;
    const kvf_kernel_rows in = kvf_copy_rows(&args.in);
    kvf_read_row(in, row, args.width, lane, out + i * args.stride);
}
