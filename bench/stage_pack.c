/*
 * pack: all rows of one layer's context, f32 in, the profile's bytes out; in calls of as many
 * rows as the window rows of a session's chunk are, the most that it packs at once.
 */
#include <stdlib.h>
#include <string.h>

#include "bench/stages.h"
#include "error.h"

/* Rows whose values are compared between profiles. */
enum { COMPARED_ROWS = KVF_PAGE_ROWS, BLOCK_ROWS = 4096, CALL_ROWS = 4096 };

typedef struct pack_case {
    bench_case base;
    kvf_device *device;
    kvf_pack_args args;
    float *rows;
    float *unpacked; /* [COMPARED_ROWS][width] */
} pack_case;

static uint32_t width_of(const bench_input *input)
{
    return input->stage == BENCH_PACK ? KVF_ROW_WIDTH : KVF_INDEX_WIDTH;
}

static kvf_format_id format_of(const bench_input *input)
{
    const kvf_profile *storage = bench_profile_storage(input->profile);
    return input->stage == BENCH_PACK ? storage->row_format : storage->index_format;
}

uint64_t bench_pack_bytes(const bench_input *input)
{
    const uint64_t rows = bench_layer_rows(input, KVF_LAYER_CSA);
    return rows * 4 * width_of(input) + bench_rows_bytes(format_of(input), width_of(input), rows);
}

static kvf_status run(bench_case *self, kvf_error *error)
{
    pack_case *c = (pack_case *)self;
    kvf_status status = KVF_OK;
    for (uint64_t row = 0; row < c->args.n_rows && status == KVF_OK; row += CALL_ROWS) {
        kvf_pack_args args = c->args;
        args.rows += row * args.stride;
        args.first_row = row;
        args.n_rows = args.n_rows - row < CALL_ROWS ? args.n_rows - row : CALL_ROWS;
        status = kvf_pack(c->device, &args, error);
    }
    return status;
}

static kvf_status output(bench_case *self, bench_output *out, kvf_error *error)
{
    pack_case *c = (pack_case *)self;
    const uint64_t n = c->args.n_rows < COMPARED_ROWS ? c->args.n_rows : COMPARED_ROWS;
    const kvf_unpack_args args = {.in = c->args.out,
                                  .first_row = c->args.n_rows - n,
                                  .n_rows = n,
                                  .out = c->unpacked,
                                  .stride = c->args.stride};
    *out = (bench_output){.values = c->unpacked, .n_values = n * c->args.stride};
    return kvf_unpack(c->device, &args, error);
}

static void close_case(bench_case *self)
{
    pack_case *c = (pack_case *)self;
    free(c->args.out.base);
    free(c->rows);
    free(c->unpacked);
    free(c);
}

/* Different rows in the first block, copies of it behind: memory that is read all the same. */
static void fill(float *rows, uint64_t n_values, uint32_t width)
{
    const uint64_t block = (uint64_t)BLOCK_ROWS * width;
    bench_fill_values(rows, n_values < block ? n_values : block, 1);
    for (uint64_t i = block; i < n_values; i += block) {
        const uint64_t n = n_values - i < block ? n_values - i : block;
        memcpy(rows + i, rows, n * sizeof *rows);
    }
}

kvf_status bench_pack_open(const bench_input *input, bench_case **out, kvf_error *error)
{
    const uint32_t width = width_of(input);
    const uint64_t n_rows = bench_layer_rows(input, KVF_LAYER_CSA);
    pack_case *c = bench_alloc(sizeof *c, error);
    if (!c)
        return KVF_OUT_OF_MEMORY;
    memset(c, 0, sizeof *c);
    c->base = (bench_case){
        .rows = n_rows, .steps_per_run = 1, .run = run, .output = output, .close = close_case};
    c->device = input->device;
    c->rows = bench_alloc(4 * n_rows * width, error);
    c->unpacked = bench_alloc(4ull * COMPARED_ROWS * width, error);
    c->args = (kvf_pack_args){.rows = c->rows,
                              .stride = width,
                              .n_rows = n_rows,
                              .grid = input->stage == BENCH_PACK ? KVF_GRID_FP8 : KVF_GRID_FP4,
                              .hadamard = input->stage == BENCH_PACK_INDEX};
    if (!c->rows || !c->unpacked ||
        bench_rows_open(format_of(input), width, n_rows, &c->args.out, error) != KVF_OK) {
        close_case(&c->base);
        return KVF_OUT_OF_MEMORY;
    }
    fill(c->rows, n_rows * width, width);
    c->base.n_parts = 1;
    c->base.work[0].bytes =
        (double)n_rows * (4.0 * width + (double)kvf_format_row_bytes(format_of(input), width));
    /* Hadamard: seven stages of 128 additions, one multiplication each. */
    if (c->args.hadamard)
        c->base.work[0].fma_ops = (double)n_rows * 8 * KVF_INDEX_WIDTH;
    *out = &c->base;
    return kvf_ok(error);
}
