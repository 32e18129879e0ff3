/*
 * compress: every row that the chunk completes is pooled, normed, rotated, rounded
 * and packed while it is in the cache (docs/FORMAT.md 2, 9.3). Rows over threads.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/rows.h"
#include "format/format.h"

/* Candidates of a row, in a thread's space. */
typedef struct candidate_list {
    const float **kv;
    const float **gate;
    const float **bias;
    uint32_t n;
} candidate_list;

static uint32_t parts_of(const kvf_compress_args *args)
{
    return args->overlap ? 2 : 1;
}

/* Part 0 (Ca, or the only one) or 1 (Cb) of a token: in the chunk, or in the state before it. */
static void add_candidate(const kvf_compress_args *args, candidate_list *list, uint64_t token,
                          uint32_t part)
{
    const size_t token_width = (size_t)parts_of(args) * args->width;
    const size_t offset = (size_t)part * args->width;
    const float *kv;
    const float *gate;
    if (token >= args->first_token) {
        kv = args->input.kv + (token - args->first_token) * token_width;
        gate = args->input.gate + (token - args->first_token) * token_width;
    } else {
        const uint64_t slots = (uint64_t)args->ratio * parts_of(args);
        kv = args->state + token % slots * 2 * token_width;
        gate = kv + token_width;
    }
    list->kv[list->n] = kv + offset;
    list->gate[list->n] = gate + offset;
    list->bias[list->n++] = args->input.position_bias + token % args->ratio * token_width + offset;
}

static void collect_candidates(const kvf_compress_args *args, uint64_t row, candidate_list *list)
{
    const uint64_t first = row * args->ratio;
    list->n = 0;
    if (args->overlap && row > 0)
        for (uint64_t token = first - args->ratio; token < first; token++)
            add_candidate(args, list, token, 0);
    for (uint64_t token = first; token < first + args->ratio; token++)
        add_candidate(args, list, token, args->overlap ? 1 : 0);
}

static void rotate_tail(float *values, uint32_t width, const float *cosines, const float *sines)
{
    float *tail = values + width - KVF_ROPE_WIDTH;
    for (uint32_t i = 0; i < KVF_ROPE_WIDTH / 2; i++) {
        const float x = tail[2 * i];
        const float y = tail[2 * i + 1];
        tail[2 * i] = x * cosines[i] - y * sines[i];
        tail[2 * i + 1] = x * sines[i] + y * cosines[i];
    }
}

/* Row i of those emitted, up to the grid. */
static void make_row(const kvf_cpu_kernels *kernels, const kvf_compress_args *args, uint64_t row,
                     uint64_t i, candidate_list *list, float *values)
{
    collect_candidates(args, row, list);
    kernels->pool(list->kv, list->gate, list->bias, list->n, args->width, values);
    kernels->norm(values, values, args->input.norm_weight, args->width, args->input.norm_eps);
    rotate_tail(values, args->width, args->rope.cosines + i * (KVF_ROPE_WIDTH / 2),
                args->rope.sines + i * (KVF_ROPE_WIDTH / 2));
    if (args->hadamard)
        kernels->hadamard(values);
}

static void take_tokens(const kvf_compress_args *args)
{
    const size_t token_width = (size_t)parts_of(args) * args->width;
    const uint64_t slots = (uint64_t)args->ratio * parts_of(args);
    const uint64_t end = args->first_token + args->n;
    const uint64_t begin = args->n > slots ? end - slots : args->first_token;
    for (uint64_t token = begin; token < end; token++) {
        float *slot = args->state + token % slots * 2 * token_width;
        memcpy(slot, args->input.kv + (token - args->first_token) * token_width,
               token_width * sizeof *slot);
        memcpy(slot + token_width, args->input.gate + (token - args->first_token) * token_width,
               token_width * sizeof *slot);
    }
}

static candidate_list list_in(kvf_stage_space *space)
{
    return (candidate_list){space->candidates[0], space->candidates[1], space->candidates[2], 0};
}

typedef struct row_pass {
    const kvf_cpu_kernels *kernels;
    kvf_stage_space *spaces; /* of each thread */
    const kvf_compress_args *args;
    uint64_t first_row;
    _Atomic int64_t bad_row; /* the first one, from first_row; as many as there are: none */
    _Atomic uint64_t inexact;
} row_pass;

static void make_rows(void *context, size_t first, size_t end, uint32_t thread)
{
    row_pass *pass = context;
    const kvf_cpu_kernels *kernels = pass->kernels;
    const kvf_compress_args *args = pass->args;
    candidate_list list = list_in(&pass->spaces[thread]);
    for (size_t i = first; i < end; i++) {
        float values[KVF_ROW_WIDTH];
        const uint64_t row = pass->first_row + i;
        make_row(kernels, args, row, i, &list, values);
        if (!kernels->row_is_storable(values, args->width, args->grid))
            kvf_lower_to(&pass->bad_row, (int64_t)i);
        else if (!kernels->store_row(&args->out, row, args->grid, values))
            atomic_fetch_add_explicit(&pass->inexact, 1, memory_order_relaxed);
    }
}

/* Makes the first bad row again: what is wrong with it. */
static void report_bad_row(const row_pass *pass, kvf_findings found)
{
    const kvf_compress_args *args = pass->args;
    candidate_list list = list_in(&pass->spaces[0]);
    float values[KVF_ROW_WIDTH];
    uint32_t bad_dim = 0;
    const uint64_t i = (uint64_t)pass->bad_row;
    make_row(pass->kernels, args, pass->first_row + i, i, &list, values);
    const kvf_status status = kvf_check_row(values, args->width, args->grid, &bad_dim);
    kvf_found_lower(found, true, i, bad_dim, status);
}

typedef struct token_check {
    const kvf_compress_args *args;
    _Atomic int64_t bad; /* the first value that is not finite, or one past the last */
} token_check;

static void find_nonfinite(void *context, size_t first, size_t end, uint32_t thread)
{
    token_check *check = context;
    const kvf_compress_args *args = check->args;
    const int64_t columns = (int64_t)parts_of(args) * args->width;
    (void)thread;
    for (int64_t i = (int64_t)first * columns; i < (int64_t)end * columns; i++)
        if (!isfinite(args->input.kv[i]) || !isfinite(args->input.gate[i])) {
            kvf_lower_to(&check->bad, i);
            return;
        }
}

/*
 * The tokens themselves: a NaN gate would drop out of the softmax unseen, and one in
 * a window that is not complete yet would lie in the state (docs/FORMAT.md 9.3).
 */
static void check_tokens(kvf_device *device, const kvf_compress_args *args, kvf_findings found)
{
    const int64_t columns = (int64_t)parts_of(args) * args->width;
    const int64_t n_values = args->n * columns;
    token_check check = {args, n_values};
    kvf_cpu_loop(device, args->n > 64, args->n, 0, find_nonfinite, &check);
    const int64_t bad = check.bad;
    if (bad < n_values)
        kvf_found_lower(found, false, (uint64_t)(bad / columns), (uint32_t)(bad % columns),
                        KVF_NONFINITE);
}

static void compress_session(kvf_device *device, const kvf_compress_args *args, kvf_findings found)
{
    const uint64_t first_row = args->first_token / args->ratio;
    const uint64_t n_rows = (args->first_token + args->n) / args->ratio - first_row;
    row_pass pass = {.kernels = kvf_kernels_of(device),
                     .spaces = ((kvf_cpu_device *)device)->stage_spaces,
                     .args = args,
                     .first_row = first_row,
                     .bad_row = (int64_t)n_rows};
    check_tokens(device, args, found);
    kvf_cpu_loop(device, true, (size_t)n_rows, 0, make_rows, &pass);
    if (pass.bad_row < (int64_t)n_rows)
        report_bad_row(&pass, found);
    found.place->inexact_rows += pass.inexact;
    take_tokens(args);
}

void kvf_cpu_compress(kvf_device *device, const kvf_compress_args *args, const kvf_findings *found,
                      uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        compress_session(device, &args[i], found[i]);
}
