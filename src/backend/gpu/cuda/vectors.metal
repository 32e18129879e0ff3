/*
 * Products of few tokens for NVIDIA's GPUs from compute capability 8.0 on (overrides.def): what
 * products.metal has by vectors, at the memory's speed. Weights are copied by 16 bytes to
 * threadgroup memory, several pieces of a row ahead of the one that is worked on, and are taken
 * from there at any alignment. Compiled for each type of weights, KVF_W.
 *
 * Sums are f32; their order depends on the shapes alone: a lane's values of a piece, a simdgroup's
 * pieces, the lanes, the simdgroups.
 */
#include <metal_stdlib>

#include "backend/gpu/choices.h"
#include "backend/gpu/cuda/staged.h"
#include "backend/gpu/cuda/vectors.h"
#include "backend/gpu/products.h"

using namespace metal;

typedef kvf_staged<KVF_W> staged;

/* ---- Rows on their way ---------------------------------------------------------------------- */

struct staged_matrix {
    ulong data;
    ulong scales;
    ulong row_bytes;
    uint scale_stride;
};

/* A row's 16-byte parts in a slot: of its data, of scales that are copied as well. */
enum {
    DATA_PARTS = (staged::COPIES_SCALES ? int(staged::SCALES_AT) : int(staged::SLOT)) / 16,
    SCALE_PARTS = staged::COPIES_SCALES ? (int(staged::SLOT) - int(staged::SCALES_AT)) / 16 : 1,
    /* From a simdgroup's piece to its next one: a multiple of 16 bytes, so that rows stay aligned. */
    STEP = KVF_VECTOR_SIMDS * staged::PIECE,
    DATA_STEP = STEP / staged::BLOCK * staged::BLOCK_BYTES,
    SCALES_STEP = STEP / staged::SCALE_COLS
};
static_assert(DATA_STEP % 16 == 0, "rows stay aligned");
static_assert(!staged::COPIES_SCALES || SCALES_STEP % 16 == 0, "so do their scales");

/* ROWS rows whose pieces are copied: what a lane copies of each, and where a row is in its slot. */
template <uint ROWS> struct staged_rows {
    enum {
        COPIES = (ROWS * DATA_PARTS + KVF_SIMD_WIDTH - 1) / KVF_SIMD_WIDTH,
        SLOTS_BYTES = ROWS * staged::SLOT
    };
    ulong data[COPIES]; /* the lane's part of the first piece */
    int limit[COPIES];  /* it is copied if the piece has more bytes */
    uint to[COPIES];    /* in the slots */
    ulong scales;       /* the same of scales */
    int scales_limit;
    uint scales_to;
    uint at[ROWS]; /* of the row's piece in the slots */
    uint scales_at[ROWS];
    ulong scale_bytes[ROWS]; /* of scales that are not copied: the lane's own */
};

static inline ulong data_of(thread const staged_matrix &matrix, uint row)
{
    return matrix.data + row * matrix.row_bytes;
}

static inline ulong scales_of(thread const staged_matrix &matrix, uint row)
{
    const uint rows = staged::SCALE_ROWS ? staged::SCALE_ROWS : 1;
    return matrix.scales + ulong(row / rows) * matrix.scale_stride;
}

/* Bytes of so many values of a row. */
static inline uint data_bytes(uint n)
{
    return n / staged::BLOCK * staged::BLOCK_BYTES;
}

/*
 * Rows first .. of `a`, A_ROWS of them, then as many of `b`; `last` stands in for rows past it, and
 * `base` is added to all. k: the first value of the first piece.
 */
template <uint ROWS, uint A_ROWS>
static inline void find_rows(thread const staged_matrix &a, thread const staged_matrix &b,
                             uint base, uint first, uint last, uint k, uint lane,
                             thread staged_rows<ROWS> &rows)
{
    KVF_UNROLLED
    for (uint c = 0; c < staged_rows<ROWS>::COPIES; c++) {
        const uint i = c * KVF_SIMD_WIDTH + lane;
        const uint r = min(i / DATA_PARTS, ROWS - 1);
        const uint part = i % DATA_PARTS;
        const uint row = base + min(first + r % A_ROWS, last);
        const ulong from =
            (ROWS == A_ROWS || r < A_ROWS ? data_of(a, row) : data_of(b, row)) + data_bytes(k);
        rows.data[c] = (from & ~15ul) + 16 * part;
        rows.limit[c] = i < ROWS * DATA_PARTS ? int(16 * part) - int(from & 15) : INT_MAX;
        rows.to[c] = r * staged::SLOT + 16 * part;
    }
    KVF_UNROLLED
    for (uint r = 0; r < ROWS; r++) {
        const uint row = base + min(first + r % A_ROWS, last);
        const ulong scales =
            (r < A_ROWS ? scales_of(a, row) : scales_of(b, row)) + k / staged::SCALE_COLS;
        const uint data = uint(r < A_ROWS ? data_of(a, row) : data_of(b, row)) + data_bytes(k);
        rows.at[r] = r * staged::SLOT + (data & 15);
        rows.scales_at[r] = r * staged::SLOT + staged::SCALES_AT + (uint(scales) & 15);
        rows.scale_bytes[r] = scales + staged::column(lane, 0) / staged::SCALE_COLS;
    }
    if (staged::COPIES_SCALES != 0) {
        const uint r = min(lane / SCALE_PARTS, ROWS - 1);
        const uint part = lane % SCALE_PARTS;
        const uint row = base + min(first + r % A_ROWS, last);
        const ulong from =
            (r < A_ROWS ? scales_of(a, row) : scales_of(b, row)) + k / staged::SCALE_COLS;
        rows.scales = (from & ~15ul) + 16 * part;
        rows.scales_limit =
            lane < ROWS * SCALE_PARTS ? int(16 * part) - int(from & 15) : INT_MAX;
        rows.scales_to = r * staged::SLOT + staged::SCALES_AT + 16 * part;
    }
}

/* n values of the rows' piece `piece` to the slots at `to`. */
template <uint ROWS>
static inline void copy_piece(thread const staged_rows<ROWS> &rows, uint piece, uint n,
                              threadgroup uchar *to)
{
    const int bytes = int(data_bytes(n));
    KVF_UNROLLED
    for (uint c = 0; c < staged_rows<ROWS>::COPIES; c++)
        if (rows.limit[c] < bytes)
            kvf_copy_16(to + rows.to[c], rows.data[c] + ulong(piece) * DATA_STEP);
    if (staged::COPIES_SCALES != 0 &&
        rows.scales_limit < int((n + staged::SCALE_COLS - 1) / staged::SCALE_COLS))
        kvf_copy_16(to + rows.scales_to, rows.scales + ulong(piece) * SCALES_STEP);
}

/* ---- Products of a piece ---------------------------------------------------------------------- */

/* What a lane needs for a piece besides its weights: read while they are on their way. */
template <uint ROWS, uint TOKENS> struct piece_inputs {
    float4 x[TOKENS * staged::VALUES / 4];
    uint scales[ROWS]; /* bytes, of scales that are not copied */
};

/* Of values k .. k + n. */
template <uint ROWS, uint TOKENS>
static inline void read_inputs(thread const staged_rows<ROWS> &rows,
                               thread const kvf_input_rows<TOKENS> &in, uint piece, uint k, uint n,
                               uint lane, thread piece_inputs<ROWS, TOKENS> &inputs)
{
    if (staged::column(lane, 0) >= n)
        return;
    if (staged::SCALE_ROWS != 0 && staged::COPIES_SCALES == 0) {
        KVF_UNROLLED
        for (uint r = 0; r < ROWS; r++)
            inputs.scales[r] = *reinterpret_cast<device const uchar *>(rows.scale_bytes[r] +
                                                                       piece * SCALES_STEP);
    }
    KVF_UNROLLED
    for (uint t = 0; t < TOKENS; t++) {
        KVF_UNROLLED
        for (uint i = 0; i < staged::VALUES / 4; i++) {
            const uint column = staged::column(lane, i);
            inputs.x[t * (staged::VALUES / 4) + i] =
                column < n ? kvf_input_four(in.at[t], k + column) : float4(0.0f);
        }
    }
}

/* This lane's values of a row's piece, n of which there are; zeros past its end. */
static inline void take_values(threadgroup const uchar *shared, uint at, uint scales, uint lane,
                               uint n, thread kvf_lane_values &values)
{
    const uint first = staged::column(lane, 0);
    if (!staged::PLAIN || first + staged::VALUES <= n) {
        staged::take(shared, at, scales, lane, n, values);
        return;
    }
    KVF_UNROLLED
    for (uint i = 0; i < staged::VALUES; i++)
        values.at[i] = first + i < n ? staged::value(shared, at, scales, first + i) : 0.0f;
}

/* Adds the products of n values, which are in slots at `slots` of `shared`. */
template <uint ROWS, uint TOKENS>
static inline void add_piece(thread const staged_rows<ROWS> &rows,
                             thread const piece_inputs<ROWS, TOKENS> &inputs, uint n,
                             threadgroup const uchar *shared, uint slots, uint lane,
                             thread kvf_dot_sums<ROWS, TOKENS> &sums)
{
    if (staged::column(lane, 0) >= n)
        return;
    KVF_UNROLLED
    for (uint r = 0; r < ROWS; r++) {
        kvf_lane_values w;
        take_values(shared, slots + rows.at[r],
                    staged::SCALE_ROWS != 0 && staged::COPIES_SCALES == 0 ? inputs.scales[r]
                                                                          : slots + rows.scales_at[r],
                    lane, n, w);
        KVF_UNROLLED
        for (uint t = 0; t < TOKENS; t++) {
            KVF_UNROLLED
            for (uint i = 0; i < staged::VALUES / 4; i++)
                sums.sum[r][t] = kvf_fma4(float4(w.at[4 * i], w.at[4 * i + 1], w.at[4 * i + 2],
                                                 w.at[4 * i + 3]),
                                          inputs.x[t * (staged::VALUES / 4) + i], sums.sum[r][t]);
        }
    }
}

/* Pieces of rows that a simdgroup has: each KVF_VECTOR_SIMDS-th, from the one of its number on. */
static inline uint pieces_of(uint cols, uint simd)
{
    const uint all = (cols + staged::PIECE - 1) / staged::PIECE;
    return all > simd ? (all - simd + KVF_VECTOR_SIMDS - 1) / KVF_VECTOR_SIMDS : 0;
}

static inline uint piece_column(uint piece, uint simd)
{
    return piece * STEP + simd * staged::PIECE;
}

/* Where a simdgroup's slots of a piece begin in threadgroup memory: the stages take turns. */
template <uint ROWS> static inline uint slots_at(uint piece, uint simd)
{
    return KVF_SLOTS_AT +
           (simd * KVF_STAGES + piece % KVF_STAGES) * staged_rows<ROWS>::SLOTS_BYTES;
}

template <uint ROWS>
static inline void begin_piece(thread const staged_rows<ROWS> &rows, uint piece, uint n_pieces,
                               uint cols, threadgroup uchar *shared, uint simd)
{
    if (piece < n_pieces)
        copy_piece(rows, piece, min(uint(staged::PIECE), cols - piece_column(piece, simd)),
                   shared + slots_at<ROWS>(piece, simd));
    kvf_end_stage();
}

/*
 * This simdgroup's share of the dots of the rows with the inputs. The first pieces are begun before
 * earlier kernels have ended, if they are `old`: only the inputs come from those.
 */
template <uint ROWS, uint TOKENS>
static inline void add_rows(thread const staged_rows<ROWS> &rows,
                            thread const kvf_input_rows<TOKENS> &in, uint cols,
                            bool old, threadgroup uchar *shared, uint lane, uint simd,
                            thread kvf_dot_sums<ROWS, TOKENS> &sums)
{
    const uint n_pieces = pieces_of(cols, simd);
    if (!old)
        kvf_wait_for_earlier();
    for (uint p = 0; p < KVF_STAGES - 1; p++)
        begin_piece(rows, p, n_pieces, cols, shared, simd);
    if (old)
        kvf_wait_for_earlier();
    for (uint p = 0; p < n_pieces; p++) {
        const uint k = piece_column(p, simd);
        const uint n = min(uint(staged::PIECE), cols - k);
        piece_inputs<ROWS, TOKENS> inputs;
        begin_piece(rows, p + KVF_STAGES - 1, n_pieces, cols, shared, simd);
        read_inputs(rows, in, p, k, n, lane, inputs);
        kvf_wait_for_stage();
        add_piece(rows, inputs, n, shared, slots_at<ROWS>(p, simd), lane, sums);
        /* The next stage overwrites these slots. */
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}

/*
 * Puts all lanes' sums together and leaves them where kvf_total_dot finds them: pairs of lanes as in
 * simd_sum, but each gives away half of the sums that it still has.
 */
template <uint ROWS, uint TOKENS>
static inline void share_sums(thread const kvf_dot_sums<ROWS, TOKENS> &sums,
                              threadgroup float *shared, uint lane, uint simd)
{
    enum { ALL = ROWS * TOKENS };
    float v[ALL];
    KVF_UNROLLED
    for (uint i = 0; i < ALL; i++)
        v[i] = sums.sum[i / TOKENS][i % TOKENS];
    uint mine = 0;
    KVF_UNROLLED
    for (uint step = 1; step <= 5; step++) { /* 32 lanes */
        const uint apart = KVF_SIMD_WIDTH >> step;
        const uint left = ALL >> step;
        const bool upper = (lane & apart) != 0;
        KVF_UNROLLED
        for (uint i = 0; i < left; i++) {
            const float given = upper ? v[i] : v[i + left];
            const float kept = upper ? v[i + left] : v[i];
            v[i] = kept + simd_shuffle_xor(given, ushort(apart));
        }
        if (left == 0)
            v[0] += simd_shuffle_xor(v[0], ushort(apart));
        mine += upper ? left : 0;
    }
    if (lane % (KVF_SIMD_WIDTH / ALL) == 0)
        shared[simd * ALL + mine] = v[0];
    threadgroup_barrier(mem_flags::mem_threadgroup);
}

/* What a threadgroup needs besides its rows. */
static inline void open_tables(threadgroup uchar *shared, uint lane, uint simd)
{
    if (staged::HAS_BOOK != 0) {
        kvf_open_book(shared, simd * KVF_SIMD_WIDTH + lane);
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

/* ---- matmul ------------------------------------------------------------------------------------ */

/* group.x: tokens, TOKENS at a time; group.y: rows, KVF_VECTOR_ROWS at a time; group.z: parts. */
template <uint TOKENS>
static inline void matmul(constant kvf_matmul_kernel_args &args, threadgroup float *sums_shared,
                          uint3 group, uint lane, uint simd)
{
    kvf_let_next_begin();
    threadgroup uchar *shared = reinterpret_cast<threadgroup uchar *>(sums_shared);
    device const float *first =
        reinterpret_cast<device const float *>(args.in) + ulong(group.z) * args.cols;
    const uint row = group.y * KVF_VECTOR_ROWS;
    const uint token = group.x * TOKENS;
    staged_matrix matrix;
    matrix.data = args.weight.data;
    matrix.scales = args.weight.scales;
    matrix.row_bytes = args.weight.row_bytes;
    matrix.scale_stride = args.weight.scale_stride;
    staged_rows<KVF_VECTOR_ROWS> rows;
    kvf_input_rows<TOKENS> in;
    kvf_dot_sums<KVF_VECTOR_ROWS, TOKENS> sums;
    find_rows<KVF_VECTOR_ROWS, KVF_VECTOR_ROWS>(matrix, matrix, group.z * args.rows, row,
                                                args.rows - 1, simd * staged::PIECE, lane, rows);
    for (uint t = 0; t < TOKENS; t++)
        in.at[t] = kvf_find_input(first, min(token + t, args.n - 1), args.in_stride, args.cols);

    open_tables(shared, lane, simd);
    kvf_clear_dots(sums);
    add_rows(rows, in, args.cols, args.old_weight != 0, shared, lane, simd, sums);
    share_sums(sums, sums_shared, lane, simd);
    if (simd != 0 || lane >= KVF_VECTOR_ROWS * TOKENS)
        return;
    const uint r = lane % KVF_VECTOR_ROWS;
    const uint t = lane / KVF_VECTOR_ROWS;
    device float *out = reinterpret_cast<device float *>(args.out) + ulong(group.z) * args.rows;
    if (row + r < args.rows && token + t < args.n)
        out[ulong(token + t) * args.out_stride + row + r] =
            kvf_total_dot<KVF_VECTOR_ROWS, TOKENS>(sums_shared, r, t);
}

kernel void kvf_matmul_one(constant kvf_matmul_kernel_args &args [[buffer(0)]],
                           threadgroup float *shared [[threadgroup(0)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul<1>(args, shared, group, lane, simd);
}

kernel void kvf_matmul_few(constant kvf_matmul_kernel_args &args [[buffer(0)]],
                           threadgroup float *shared [[threadgroup(0)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simd [[simdgroup_index_in_threadgroup]])
{
    matmul<KVF_VECTOR_MANY_TOKENS>(args, shared, group, lane, simd);
}

/* ---- Experts ------------------------------------------------------------------------------------- */

static inline staged_matrix staged_expert(device const kvf_kernel_matrix &matrix)
{
    staged_matrix found;
    found.data = matrix.data;
    found.scales = matrix.scales;
    found.row_bytes = matrix.row_bytes;
    found.scale_stride = matrix.scale_stride;
    return found;
}

/* act[choice][ffn]. group.x: choices; group.y: values of ffn, half of UP_ROWS at a time. */
kernel void kvf_experts_gate_up_vector(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                       threadgroup float *shared [[threadgroup(0)]],
                                       uint3 group [[threadgroup_position_in_grid]],
                                       uint lane [[thread_index_in_simdgroup]],
                                       uint simd [[simdgroup_index_in_threadgroup]])
{
    enum {
        UP_ROWS = staged::BLOCK_BYTES == 2 * staged::BLOCK ? KVF_VECTOR_UP_ROWS / 2
                                                           : KVF_VECTOR_UP_ROWS,
        HALF = UP_ROWS / 2
    };
    kvf_let_next_begin();
    kvf_wait_for_earlier(); /* one of them chose the experts */
    threadgroup uchar *bytes = reinterpret_cast<threadgroup uchar *>(shared);
    const uint row = group.y * HALF;
    device const kvf_expert_entry &expert = kvf_chosen_expert(args, group.x);
    const staged_matrix gates = staged_expert(expert.w1);
    const staged_matrix ups = staged_expert(expert.w3);
    staged_rows<UP_ROWS> rows;
    kvf_input_rows<1> in;
    kvf_dot_sums<UP_ROWS, 1> sums;
    find_rows<UP_ROWS, HALF>(gates, ups, 0, row, args.ffn - 1, simd * staged::PIECE, lane, rows);
    in.at[0] = kvf_find_input(reinterpret_cast<device const float *>(args.in),
                              group.x / args.top_k, args.hidden, args.hidden);

    open_tables(bytes, lane, simd);
    kvf_clear_dots(sums);
    add_rows(rows, in, args.hidden, false, bytes, lane, simd, sums);
    share_sums(sums, shared, lane, simd);
    if (simd != 0 || lane >= HALF || row + lane >= args.ffn)
        return;
    const float gate = kvf_total_dot<UP_ROWS, 1>(shared, lane, 0);
    const float up = kvf_total_dot<UP_ROWS, 1>(shared, HALF + lane, 0);
    device float *act = reinterpret_cast<device float *>(args.act);
    act[ulong(group.x) * args.ffn + row + lane] = kvf_activate(gate, up, args.limit);
}

/* A choice's matrix and weight, in threadgroup memory: who begins a piece must not wait for them. */
struct staged_choice {
    ulong data;
    ulong scales;
    ulong row_bytes;
    uint scale_stride;
    float weight;
};
static_assert(sizeof(staged_choice) == KVF_CHOICE_BYTES, "vectors.h has room for it");

/* Pieces of the choices first .. first + n of a token, one choice after another. */
struct staged_choices {
    uint first;
    uint n;
    uint per; /* pieces of one that are this simdgroup's */
    uint row;
};

/* One of them. */
struct choice_piece {
    uint choice;
    uint piece;
    uint stage;
};

static inline void next_piece(thread const staged_choices &choices, thread choice_piece &at)
{
    at.stage = at.stage + 1 < KVF_STAGES ? at.stage + 1 : 0;
    at.piece++;
    if (at.piece == choices.per) {
        at.piece = 0;
        at.choice++;
    }
}

/* The rows of a choice, from the piece on. */
static inline void find_choice(constant kvf_experts_kernel_args &args,
                               threadgroup const uchar *shared, thread const choice_piece &at,
                               uint row, uint lane, uint simd,
                               thread staged_rows<KVF_VECTOR_ROWS> &rows)
{
    threadgroup const staged_choice *choices =
        reinterpret_cast<threadgroup const staged_choice *>(shared + KVF_CHOICES_AT);
    staged_matrix matrix;
    matrix.data = choices[at.choice].data;
    matrix.scales = choices[at.choice].scales;
    matrix.row_bytes = choices[at.choice].row_bytes;
    matrix.scale_stride = choices[at.choice].scale_stride;
    find_rows<KVF_VECTOR_ROWS, KVF_VECTOR_ROWS>(matrix, matrix, 0, row, args.hidden - 1,
                                                piece_column(at.piece, simd), lane, rows);
}

static inline void begin_choice_piece(constant kvf_experts_kernel_args &args,
                                      thread const staged_choices &choices,
                                      thread choice_piece &at, threadgroup uchar *shared,
                                      uint lane, uint simd)
{
    if (choices.per > 0 && at.choice < choices.n) {
        staged_rows<KVF_VECTOR_ROWS> rows;
        find_choice(args, shared, at, choices.row, lane, simd, rows);
        copy_piece(rows, 0,
                   min(uint(staged::PIECE), args.ffn - piece_column(at.piece, simd)),
                   shared + slots_at<KVF_VECTOR_ROWS>(at.stage, simd));
        next_piece(choices, at);
    }
    kvf_end_stage();
}

static inline void add_choices(constant kvf_experts_kernel_args &args,
                               thread const staged_choices &choices, uint token,
                               threadgroup uchar *shared, uint lane, uint simd,
                               thread kvf_dot_sums<KVF_VECTOR_ROWS, 1> &totals)
{
    threadgroup const staged_choice *list =
        reinterpret_cast<threadgroup const staged_choice *>(shared + KVF_CHOICES_AT);
    choice_piece ahead;
    choice_piece at;
    ahead.choice = ahead.piece = ahead.stage = 0;
    at.choice = at.piece = at.stage = 0;
    for (uint i = 0; i < KVF_STAGES - 1; i++)
        begin_choice_piece(args, choices, ahead, shared, lane, simd);
    for (uint i = 0; i < choices.n * choices.per; i++) {
        const uint k = piece_column(at.piece, simd);
        const uint n = min(uint(staged::PIECE), args.ffn - k);
        staged_rows<KVF_VECTOR_ROWS> rows;
        kvf_input_rows<1> in;
        piece_inputs<KVF_VECTOR_ROWS, 1> inputs;
        kvf_dot_sums<KVF_VECTOR_ROWS, 1> sums;
        begin_choice_piece(args, choices, ahead, shared, lane, simd);
        find_choice(args, shared, at, choices.row, lane, simd, rows);
        in.at[0] =
            kvf_find_input(reinterpret_cast<device const float *>(args.act),
                           token * args.top_k + choices.first + at.choice, args.ffn, args.ffn);
        read_inputs(rows, in, 0, k, n, lane, inputs);
        kvf_wait_for_stage();
        kvf_clear_dots(sums);
        add_piece(rows, inputs, n, shared, slots_at<KVF_VECTOR_ROWS>(at.stage, simd), lane, sums);
        KVF_UNROLLED
        for (uint r = 0; r < KVF_VECTOR_ROWS; r++)
            totals.sum[r][0] = fma(list[at.choice].weight, sums.sum[r][0], totals.sum[r][0]);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        next_piece(choices, at);
    }
}

/*
 * out[token][hidden] = sum over the token's choices of weight * (w2 * act). group.x: tokens;
 * group.y: values of hidden, KVF_VECTOR_ROWS at a time.
 */
kernel void kvf_experts_down_vector(constant kvf_experts_kernel_args &args [[buffer(0)]],
                                    threadgroup float *shared [[threadgroup(0)]],
                                    uint3 group [[threadgroup_position_in_grid]],
                                    uint lane [[thread_index_in_simdgroup]],
                                    uint simd [[simdgroup_index_in_threadgroup]])
{
    kvf_let_next_begin();
    kvf_wait_for_earlier();
    threadgroup uchar *bytes = reinterpret_cast<threadgroup uchar *>(shared);
    threadgroup staged_choice *list =
        reinterpret_cast<threadgroup staged_choice *>(bytes + KVF_CHOICES_AT);
    const uint thread_index = simd * KVF_SIMD_WIDTH + lane;
    staged_choices choices;
    kvf_dot_sums<KVF_VECTOR_ROWS, 1> totals;
    choices.per = pieces_of(args.ffn, simd);
    choices.row = group.y * KVF_VECTOR_ROWS;
    kvf_clear_dots(totals);
    open_tables(bytes, lane, simd);
    for (choices.first = 0; choices.first < args.top_k; choices.first += KVF_MOST_CHOICES) {
        choices.n = min(uint(KVF_MOST_CHOICES), args.top_k - choices.first);
        threadgroup_barrier(mem_flags::mem_threadgroup); /* the last ones were read */
        if (thread_index < choices.n) {
            const uint choice = group.x * args.top_k + choices.first + thread_index;
            device const kvf_kernel_matrix &matrix = kvf_chosen_expert(args, choice).w2;
            list[thread_index].data = matrix.data;
            list[thread_index].scales = matrix.scales;
            list[thread_index].row_bytes = matrix.row_bytes;
            list[thread_index].scale_stride = matrix.scale_stride;
            list[thread_index].weight = kvf_choice_weight(args, choice);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        add_choices(args, choices, group.x, bytes, lane, simd, totals);
    }
    share_sums(totals, shared, lane, simd);
    if (simd != 0 || lane >= KVF_VECTOR_ROWS || choices.row + lane >= args.hidden)
        return;
    const float sum = kvf_total_dot<KVF_VECTOR_ROWS, 1>(shared, lane, 0);
    device float *to = reinterpret_cast<device float *>(args.out) +
                       ulong(group.x) * args.hidden + choices.row + lane;
    *to = args.accumulate ? *to + sum : sum;
}
