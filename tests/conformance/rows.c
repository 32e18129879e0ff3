/* Conformance of pack and unpack. */
#include "conformance.h"

#include <math.h>

struct kind {
    uint32_t width;
    kvf_format_id format;
    kvf_grid grid;
};

static const struct kind kinds[] = {
    {512, KVF_FORMAT_FP8_F16, KVF_GRID_FP8}, {512, KVF_FORMAT_FP8_BF16, KVF_GRID_FP8},
    {512, KVF_FORMAT_F32, KVF_GRID_NONE},    {512, KVF_FORMAT_F32, KVF_GRID_FP8},
    {512, KVF_FORMAT_F16, KVF_GRID_NONE},    {512, KVF_FORMAT_F16, KVF_GRID_FP8},
    {128, KVF_FORMAT_FP4, KVF_GRID_FP4},     {128, KVF_FORMAT_F32, KVF_GRID_FP4},
    {128, KVF_FORMAT_F16, KVF_GRID_FP4},     {128, KVF_FORMAT_F32, KVF_GRID_NONE},
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

/* Each kind with each size and, one after the other, each pattern. */
static void run_pack(cf_run *run)
{
    uint64_t *random = &run->random;
    const struct kind *kind = &kinds[run->index % N_KINDS];
    const uint32_t n_rows = cf_n_rows(run->index / N_KINDS);
    const cf_pattern pattern = (cf_pattern)cf_pick(random, CF_PATTERN_COUNT);
    kvf_pack_args args = {.n_rows = n_rows, .grid = kind->grid, .stride = kind->width};
    args.stride += CF_ONE_OF(random, 0, 0, 1, 64);
    args.hadamard = kind->width == KVF_INDEX_WIDTH && cf_chance(random, 2);
    float *rows = cf_random_floats(run, pattern, n_rows * args.stride);
    if (cf_chance(random, 4)) {
        const float bad[] = {NAN, INFINITY, -INFINITY};
        rows[cf_pick(random, n_rows) * args.stride + cf_pick(random, kind->width)] =
            bad[cf_pick(random, 3)];
    }
    args.rows = rows;
    /* A ring: the first row may be anywhere, the last ones wrap around. */
    args.out = cf_rows(run, kind->format, kind->width, n_rows + cf_pick(random, 70));
    args.first_row = cf_random(random) % (3 * args.out.n_rows);

    const kvf_status status = run->device->backend->pack(run->device, &args);
    cf_report_status(run, status);
    if (status != KVF_OK) {
        cf_report(run, "bad_row", &args.bad_row, sizeof args.bad_row);
        cf_report(run, "bad_dim", &args.bad_dim, sizeof args.bad_dim);
        /* Some of its rows may be stored. Good ones over them show that no others are. */
        memset(rows, 0, n_rows * args.stride * sizeof *rows);
        cf_report_status(run, run->device->backend->pack(run->device, &args));
    }
    cf_report(run, "inexact_rows", &args.inexact_rows, sizeof args.inexact_rows);
    cf_report_rows(run, &args.out);
}

static bool has_pack(const kvf_backend *backend)
{
    return backend->pack != NULL;
}

const cf_operation cf_pack = {"pack", "bit-identical", N_KINDS *CF_N_SIZES * 4, has_pack, run_pack};

/* Patterns that every grid can hold. */
static cf_pattern pick_storable(uint64_t *random)
{
    const cf_pattern patterns[] = {CF_NORMAL, CF_WIDE, CF_SPARSE, CF_BOUNDARY, CF_CONSTANT};
    return patterns[cf_pick(random, 5)];
}

static void run_unpack(cf_run *run)
{
    uint64_t *random = &run->random;
    const struct kind *kind = &kinds[run->index % N_KINDS];
    const uint32_t n_held = cf_n_rows(run->index / N_KINDS);
    kvf_unpack_args args = {.stride = kind->width + CF_ONE_OF(random, 0, 0, 1, 64)};
    args.in = cf_rows(run, kind->format, kind->width, n_held);
    const cf_pattern pattern =
        kind->width == KVF_ROW_WIDTH && cf_chance(random, 4) ? CF_TINY : pick_storable(random);
    cf_store(&args.in, kind->grid, cf_random_floats(run, pattern, (size_t)n_held * kind->width));
    if (cf_chance(random, 2)) {
        args.n_rows = 1 + cf_pick(random, 2 * n_held);
        int32_t *list = cf_alloc(run, args.n_rows * sizeof *list);
        for (size_t i = 0; i < args.n_rows; i++)
            list[i] = (int32_t)cf_pick(random, n_held);
        args.row_list = list;
    } else {
        args.first_row = cf_pick(random, n_held);
        args.n_rows = cf_pick(random, (uint32_t)(n_held - args.first_row) + 1);
    }
    args.out = cf_floats(run, args.n_rows * args.stride);

    run->device->backend->unpack(run->device, &args);
    /* The gaps between rows are compared too: nothing may be written there. */
    cf_report(run, "values", args.out, args.n_rows * args.stride * sizeof *args.out);
}

static bool has_unpack(const kvf_backend *backend)
{
    return backend->unpack != NULL;
}

const cf_operation cf_unpack = {"unpack", "bit-identical", N_KINDS *CF_N_SIZES * 3, has_unpack,
                                run_unpack};
