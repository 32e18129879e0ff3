#include "backend/cpu/product.h"

#include <string.h>

#define COLS_OF_REST 128 /* kvf_product_kernels.dot */

static const float *token_at(const kvf_product_tokens *tokens, uint32_t t)
{
    return tokens->in + (tokens->list ? (size_t)tokens->list[t] : t) * tokens->stride;
}

/* What of a token is past the last multiple of 128, filled up with zeros. */
static void fill_rest(const kvf_matrix *weight, const float *token, float rest[COLS_OF_REST])
{
    const uint32_t n_rest = weight->cols % COLS_OF_REST;
    if (n_rest == 0)
        return;
    memcpy(rest, token + weight->cols - n_rest, n_rest * sizeof *rest);
    memset(rest + n_rest, 0, (COLS_OF_REST - n_rest) * sizeof *rest);
}

/* One token: rows are read once, decoded in registers. */
static void multiply_one(const kvf_cpu_kernels *kernels, const kvf_matrix *weight, uint32_t row,
                         uint32_t n_rows, const float *token, float *out)
{
    float rest[COLS_OF_REST];
    fill_rest(weight, token, rest);
    kernels->products[weight->type].dot(weight, row, n_rows, token, rest, out);
}

/* Tokens first .. + n, at most few_tokens: likewise. */
static void multiply_few(const kvf_cpu_kernels *kernels, const kvf_matrix *weight, uint32_t row,
                         uint32_t n_rows, const kvf_product_tokens *tokens, uint32_t first,
                         uint32_t n, float *out, size_t stride)
{
    float rests[KVF_FEW_TOKENS][COLS_OF_REST];
    float outs[KVF_PRODUCT_ROWS][KVF_FEW_TOKENS];
    const float *x[KVF_FEW_TOKENS];
    const float *rest[KVF_FEW_TOKENS];
    for (uint32_t t = 0; t < KVF_FEW_TOKENS; t++) {
        const uint32_t given = t < n ? t : 0;
        x[t] = token_at(tokens, first + given);
        rest[t] = rests[given];
        if (t < n)
            fill_rest(weight, x[t], rests[t]);
    }
    kernels->products[weight->type].few(weight, row, n_rows, x, rest, n, outs);
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t r = 0; r < n_rows; r++)
            out[(first + t) * stride + r] = outs[r][t];
}

/*
 * All tokens without a panel, which would be written and read for too little: by few_tokens, then
 * 4 (three cost as much), 2, 1. The block stays in the cache from one pass to the next.
 */
static void multiply_by_few(const kvf_cpu_kernels *kernels, const kvf_matrix *weight, uint32_t row,
                            uint32_t n_rows, const kvf_product_tokens *tokens, float *out,
                            size_t stride)
{
    const uint32_t most = kernels->few_tokens;
    for (uint32_t first = 0; first < tokens->n;) {
        const uint32_t left = tokens->n - first;
        const uint32_t n = left + 1 >= most ? (left < most ? left : most) : left < 4 ? left : 4;
        if (n == 1)
            multiply_one(kernels, weight, row, n_rows, token_at(tokens, first),
                         out + first * stride);
        else
            multiply_few(kernels, weight, row, n_rows, tokens, first, n, out, stride);
        first += n;
    }
}

float kvf_product_of_f32(const kvf_cpu_kernels *kernels, const float *a, const float *b, uint32_t n)
{
    const kvf_matrix row = kvf_matrix_of_f32(a, 1, n);
    float sum;
    multiply_one(kernels, &row, 0, 1, b, &sum);
    return sum;
}

/* Decodes columns first_col .. of the block's rows; rows past n_rows keep what was there. */
static void fill_panel(const kvf_cpu_kernels *kernels, const kvf_matrix *weight, uint32_t row,
                       uint32_t n_rows, uint32_t first_col, uint32_t n_groups, float *panel)
{
    const uint32_t tile_rows = kernels->product_tile_rows;
    for (uint32_t r = 0; r < n_rows; r++)
        kernels->products[weight->type].decode(
            weight, row + r, first_col, n_groups,
            panel + ((size_t)(r / tile_rows * tile_rows) * n_groups + r % tile_rows) * 16);
}

/* The last, partial group of 16 values of each token, filled up with zeros. */
static void multiply_tails(const kvf_cpu_kernels *kernels, const kvf_matrix *weight,
                           const kvf_product_tokens *tokens, const kvf_panel *panel,
                           kvf_product_space *space, const kvf_tile_out *to)
{
    const uint32_t n_tail = weight->cols % 16;
    for (uint32_t t = 0; t < tokens->n; t++) {
        memset(space->tails[t], 0, sizeof space->tails[t]);
        memcpy(space->tails[t], token_at(tokens, t) + weight->cols - n_tail,
               n_tail * sizeof(float));
        space->tokens[t] = space->tails[t];
    }
    kernels->product_tile(panel, panel->n_groups - 1, panel->n_groups, space->tokens, tokens->n,
                          to);
}

void kvf_product_block(const kvf_cpu_kernels *kernels, const kvf_matrix *weight, uint32_t row,
                       uint32_t n_rows, const kvf_product_tokens *tokens, kvf_product_space *space,
                       float *out, size_t stride)
{
    const kvf_tile_out to = {out, stride, &space->sums[0][0][0]};
    if (tokens->n <= kernels->products[weight->type].most_few) {
        multiply_by_few(kernels, weight, row, n_rows, tokens, out, stride);
        return;
    }
    for (uint32_t col = 0; col < weight->cols; col += KVF_PRODUCT_COLS) {
        const uint32_t left = weight->cols - col;
        const uint32_t n_cols = left < KVF_PRODUCT_COLS ? left : KVF_PRODUCT_COLS;
        const kvf_panel panel = {space->panel, (n_cols + 15) / 16, col == 0, n_cols == left};
        fill_panel(kernels, weight, row, n_rows, col, panel.n_groups, space->panel);
        for (uint32_t t = 0; t < tokens->n; t++)
            space->tokens[t] = token_at(tokens, t) + col;
        if (n_cols >= 16)
            kernels->product_tile(&panel, 0, n_cols / 16, space->tokens, tokens->n, &to);
        if (n_cols % 16)
            multiply_tails(kernels, weight, tokens, &panel, space, &to);
    }
}

/* ---- Matmuls ----------------------------------------------------------------------- */

/*
 * Bytes of weights that a thread takes at a time with one token: 20 microseconds of one
 * core's bandwidth, so that taking them costs nothing and the last one is not waited for.
 */
#define BYTES_AT_A_TIME (256u << 10)
/* Multiply-adds for which the other threads are not asked: some microseconds. */
#define LEAST_THREADED_PRODUCT (1u << 16)

/* The blocks of one matmul: [groups][blocks of a group][tiles of tokens]. */
typedef struct work_part {
    const kvf_matmul_args *args;
    uint32_t rows_of_group;
    uint32_t blocks_of_group;
    uint32_t n_tiles;
    size_t end; /* items of this part and those before */
} work_part;

#define MOST_PARTS 8
typedef struct product_work {
    const kvf_cpu_device *device;
    work_part parts[MOST_PARTS];
    uint32_t n_parts;
} product_work;

static void multiply_item(const product_work *work, const work_part *part, size_t item,
                          kvf_product_space *space)
{
    const kvf_matmul_args *args = part->args;
    const uint32_t tile = (uint32_t)(item % part->n_tiles);
    const size_t block = item / part->n_tiles;
    const uint32_t group = (uint32_t)(block / part->blocks_of_group);
    const uint32_t in_group = (uint32_t)(block % part->blocks_of_group) * KVF_PRODUCT_ROWS;
    const uint32_t row = group * part->rows_of_group + in_group;
    const uint32_t left = part->rows_of_group - in_group;
    const uint32_t n_rows = left < KVF_PRODUCT_ROWS ? left : KVF_PRODUCT_ROWS;
    const uint32_t first = tile * KVF_PRODUCT_TOKENS;
    const uint32_t n = args->n - first;
    const kvf_product_tokens tokens = {.in = args->in + first * args->in_stride +
                                             (size_t)group * args->weight.cols,
                                       .stride = args->in_stride,
                                       .n = n < KVF_PRODUCT_TOKENS ? n : KVF_PRODUCT_TOKENS};
    float *out = args->out + first * args->out_stride + row;
    if (n_rows == KVF_PRODUCT_ROWS || tokens.n == 1) {
        kvf_product_block(work->device->kernels, &args->weight, row, n_rows, &tokens, space, out,
                          args->out_stride);
        return;
    }
    kvf_product_block(work->device->kernels, &args->weight, row, n_rows, &tokens, space,
                      space->out[0][0], KVF_PRODUCT_ROWS);
    for (uint32_t t = 0; t < tokens.n; t++)
        memcpy(out + t * args->out_stride, space->out[0][t], n_rows * sizeof(float));
}

static void multiply_items(void *context, size_t first, size_t end, uint32_t thread)
{
    const product_work *work = context;
    const work_part *part = work->parts;
    for (size_t item = first; item < end; item++) {
        while (item >= part->end)
            part++;
        const size_t begin = part == work->parts ? 0 : part[-1].end;
        multiply_item(work, part, item - begin, &work->device->spaces[thread]);
    }
}

static void multiply_parts(kvf_device *device, const kvf_matmul_args *args, uint32_t n_args)
{
    product_work work = {.device = (const kvf_cpu_device *)device, .n_parts = n_args};
    size_t n_items = 0;
    uint64_t n_products = 0;
    uint64_t n_bytes = 0;
    for (uint32_t i = 0; i < n_args; i++) {
        const uint32_t groups = args[i].groups ? args[i].groups : 1;
        work_part *part = &work.parts[i];
        part->args = &args[i];
        part->rows_of_group = args[i].weight.rows / groups;
        part->blocks_of_group = (part->rows_of_group + KVF_PRODUCT_ROWS - 1) / KVF_PRODUCT_ROWS;
        part->n_tiles = (args[i].n + KVF_PRODUCT_TOKENS - 1) / KVF_PRODUCT_TOKENS;
        n_items += (size_t)groups * part->blocks_of_group * part->n_tiles;
        part->end = n_items;
        n_products += (uint64_t)args[i].n * args[i].weight.rows * args[i].weight.cols;
        n_bytes += args[i].weight.rows * args[i].weight.row_bytes;
    }
    const size_t chunk = args->n == 1 && n_bytes ? BYTES_AT_A_TIME * n_items / n_bytes : 1;
    const size_t share = n_items / (4 * (size_t)device->n_threads);
    const size_t most = share ? share : 1;
    kvf_cpu_loop(device, n_products >= LEAST_THREADED_PRODUCT, n_items,
                 chunk < 1      ? 1
                 : chunk < most ? chunk
                                : most,
                 multiply_items, &work);
}

void kvf_products(kvf_device *device, const kvf_matmul_args *args, uint32_t n_args)
{
    for (uint32_t i = 0; i < n_args; i += MOST_PARTS)
        multiply_parts(device, args + i, n_args - i < MOST_PARTS ? n_args - i : MOST_PARTS);
}
