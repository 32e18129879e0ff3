/*
 * compress: pools the tokens of a window into one row (docs/FORMAT.md 2 and 9.3).
 *
 *   HCA  row c pools tokens ratio*c .. ratio*c + ratio-1
 *   CSA  row c pools the first halves (Ca) of the tokens of window c-1 and the second
 *        halves (Cb) of those of window c; row 0 has only Cb
 *
 * Then RMS norm, rope, for index rows Hadamard, the grid, and the bytes.
 */
#include "backend/ref/ref.h"

#include <math.h>
#include <string.h>

#include "format/format.h"
#include "shared/exp.h"

/* One candidate of a row: `width` columns of one token. */
struct candidate {
    const float *kv;
    const float *gate;
    const float *bias;
};

/* Columns of kv and gate a token. */
static size_t n_columns(const kvf_compress_args *args)
{
    return (size_t)(args->overlap ? 2 : 1) * args->width;
}

/* Token's slot of the state ring: kv, then gate. */
static float *state_slot(const kvf_compress_args *args, uint64_t token)
{
    const uint64_t n_slots = (uint64_t)args->ratio * (args->overlap ? 2 : 1);
    return args->state + token % n_slots * 2 * n_columns(args);
}

/* Columns from first_column on of a token: of this chunk, or of an earlier one. */
static struct candidate find_candidate(const kvf_compress_args *args, uint64_t token,
                                       size_t first_column)
{
    const size_t columns = n_columns(args);
    struct candidate found;
    if (token >= args->first_token) {
        const size_t offset = (size_t)(token - args->first_token) * columns + first_column;
        found.kv = args->input.kv + offset;
        found.gate = args->input.gate + offset;
    } else {
        found.kv = state_slot(args, token) + first_column;
        found.gate = found.kv + columns;
    }
    found.bias = args->input.position_bias + token % args->ratio * columns + first_column;
    return found;
}

/* The i-th candidate of a row, in ascending order of token. */
static struct candidate row_candidate(const kvf_compress_args *args, uint64_t row, uint64_t i)
{
    if (!args->overlap)
        return find_candidate(args, row * args->ratio + i, 0);
    const uint64_t first = row > 0 ? (row - 1) * args->ratio : 0;
    const uint64_t token = first + i;
    return find_candidate(args, token, token / args->ratio == row ? args->width : 0);
}

/* Per dimension: softmax of the gates over the candidates, weighted sum of the kv. */
static void pool(const kvf_compress_args *args, uint64_t row, float *values)
{
    const uint64_t n_candidates = (uint64_t)args->ratio * (args->overlap && row > 0 ? 2 : 1);
    for (size_t d = 0; d < args->width; d++) {
        float max = -INFINITY;
        for (uint64_t i = 0; i < n_candidates; i++) {
            const struct candidate token = row_candidate(args, row, i);
            const float gate = token.gate[d] + token.bias[d];
            if (gate > max)
                max = gate;
        }
        float sum = 0.0f;
        float sum_kv = 0.0f;
        for (uint64_t i = 0; i < n_candidates; i++) {
            const struct candidate token = row_candidate(args, row, i);
            const float p = kvf_exp(token.gate[d] + token.bias[d] - max);
            sum += p;
            sum_kv += p * token.kv[d];
        }
        values[d] = sum_kv / sum;
    }
}

/* The emitted-th row of this chunk, before the grid. */
static void make_row(const kvf_compress_args *args, uint64_t emitted, float *values)
{
    pool(args, args->first_token / args->ratio + emitted, values);
    kvf_ref_norm_row(values, values, args->width, args->input.norm_weight, args->input.norm_eps);
    const size_t angles = (size_t)emitted * (KVF_ROPE_WIDTH / 2);
    kvf_ref_rotate(values + args->width - KVF_ROPE_WIDTH, args->rope.cosines + angles,
                   args->rope.sines + angles, false);
    if (args->hadamard)
        kvf_hadamard_128(values);
}

/*
 * A NaN gate would drop out of the softmax unseen, and a bad token whose row comes
 * in a later chunk would poison the state: so the chunk's input is looked at too.
 */
static void check_input(const kvf_compress_args *args, kvf_findings found)
{
    const size_t columns = n_columns(args);
    for (size_t t = 0; t < args->n; t++)
        for (size_t i = 0; i < columns; i++)
            if (!isfinite(args->input.kv[t * columns + i]) ||
                !isfinite(args->input.gate[t * columns + i]))
                kvf_found_lower(found, false, t, (uint32_t)i, KVF_NONFINITE);
}

static void take_into_state(const kvf_compress_args *args)
{
    const size_t columns = n_columns(args);
    for (size_t t = 0; t < args->n; t++) {
        float *slot = state_slot(args, args->first_token + t);
        memcpy(slot, args->input.kv + t * columns, columns * sizeof *slot);
        memcpy(slot + columns, args->input.gate + t * columns, columns * sizeof *slot);
    }
}

static void compress_chunk(const kvf_compress_args *args, kvf_findings found)
{
    const uint64_t first_row = args->first_token / args->ratio;
    const uint64_t n_emitted = (args->first_token + args->n) / args->ratio - first_row;

    check_input(args, found);
    for (uint64_t e = 0; e < n_emitted; e++) {
        float values[KVF_ROW_WIDTH];
        uint32_t bad_dim;
        make_row(args, e, values);
        const kvf_status status = kvf_ref_check_row(values, args->width, args->grid, &bad_dim);
        if (status != KVF_OK)
            kvf_found_lower(found, true, e, bad_dim, status);
        else if (!kvf_ref_store_row(&args->out, first_row + e, args->grid, values))
            found.place->inexact_rows++;
    }
    take_into_state(args);
}

void kvf_ref_compress(kvf_device *device, const kvf_compress_args *args, const kvf_findings *found,
                      uint32_t n)
{
    (void)device;
    for (uint32_t i = 0; i < n; i++)
        compress_chunk(&args[i], found[i]);
}
