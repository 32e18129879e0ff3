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

/* Findings of sessions, empty; indices count from the first row of all. */
static void make_findings(cf_run *run, uint32_t n, const uint32_t *firsts, kvf_findings *found)
{
    for (uint32_t i = 0; i < n; i++) {
        found[i] = cf_findings(run);
        found[i].first = firsts[i];
    }
}

/* What was found in all sessions: as in one that has all rows, whose findings are from 0 on. */
static void expect_findings(const cf_run *run, uint32_t n, const kvf_findings *found,
                            const kvf_finding *all)
{
    kvf_finding sum = {.first_bad = KVF_NOTHING_FOUND};
    for (uint32_t i = 0; i < n; i++) {
        const kvf_finding *one = found[i].place;
        sum.first_bad = one->first_bad < sum.first_bad ? one->first_bad : sum.first_bad;
        sum.inexact_rows += one->inexact_rows;
    }
    if (sum.first_bad != all->first_bad ||
        (all->first_bad == KVF_NOTHING_FOUND && sum.inexact_rows != all->inexact_rows))
        fail_msg("case %u: %u sessions find %llx, one finds %llx", run->index, n,
                 (unsigned long long)sum.first_bad, (unsigned long long)all->first_bad);
}

static void check_sessions_of_check(cf_run *run, const kvf_check_args *args)
{
    kvf_check_args sessions[CF_MOST_SESSIONS];
    kvf_findings found[CF_MOST_SESSIONS];
    kvf_findings all;
    uint32_t firsts[CF_MOST_SESSIONS + 1];
    const uint32_t n = cf_cut(&run->random, (uint32_t)args->n_rows, firsts);
    make_findings(run, n, firsts, found);
    make_findings(run, 1, firsts, &all);
    for (uint32_t i = 0; i < n; i++)
        sessions[i] = (kvf_check_args){.n_rows = firsts[i + 1] - firsts[i],
                                       .width = args->width,
                                       .values = args->values + (size_t)firsts[i] * args->width};
    run->device->backend->check(run->device, args, &all, 1);
    run->device->backend->check(run->device, sessions, found, n);
    cf_wait(run);
    expect_findings(run, n, found, all.place);
}

/* Widths of rows, of index rows, of head weights; several bad values, or one, or none. */
static void run_check(cf_run *run)
{
    uint64_t *random = &run->random;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    kvf_check_args args = {.n_rows = cf_n_rows(run->index),
                           .width = CF_ONE_OF(random, 8, 16, 64, 128, 512, 513)};
    const size_t n = args.n_rows * args.width;
    float *values = cf_random_floats(run, (cf_pattern)cf_pick(random, CF_PATTERN_COUNT), n);
    for (uint32_t i = cf_pick(random, 4); i > 0 && n > 0; i--)
        values[cf_pick(random, (uint32_t)n)] = bad[cf_pick(random, 3)];
    args.values = values;
    const kvf_findings found = cf_findings(run);
    run->device->backend->check(run->device, &args, &found, 1);
    /* What is found later, at a higher index, does not come before it. */
    const kvf_findings later = {found.place, found.first + args.n_rows};
    run->device->backend->check(run->device, &args, &later, 1);
    cf_wait(run);
    cf_report_finding(run, &found);
    check_sessions_of_check(run, &args);
}

const cf_operation cf_check = {"check", "bit-identical", CF_N_SIZES * 20, false, run_check};

/* Of rows of several sessions that lie in one view, the bytes and findings of one pack of all. */
static void check_sessions_of_pack(cf_run *run, const kvf_pack_args *args)
{
    kvf_pack_args sessions[CF_MOST_SESSIONS];
    kvf_findings found[CF_MOST_SESSIONS];
    kvf_findings all;
    uint32_t firsts[CF_MOST_SESSIONS + 1];
    const uint32_t n = cf_cut(&run->random, (uint32_t)args->n_rows, firsts);
    make_findings(run, n, firsts, found);
    make_findings(run, 1, firsts, &all);
    for (uint32_t i = 0; i < n; i++) {
        sessions[i] = *args;
        sessions[i].n_rows = firsts[i + 1] - firsts[i];
        sessions[i].rows += firsts[i] * args->stride;
        sessions[i].first_row += firsts[i];
    }
    run->device->backend->pack(run->device, args, &all, 1);
    cf_wait(run);
    const uint64_t checksum = cf_rows_checksum(&args->out);
    kvf_pack_args zeros = *args; /* over the rows, so that the sessions have to store them */
    zeros.rows = memset(cf_floats(run, args->n_rows * args->stride), 0,
                        args->n_rows * args->stride * sizeof(float));
    kvf_findings nothing = cf_findings(run);
    run->device->backend->pack(run->device, &zeros, &nothing, 1);
    run->device->backend->pack(run->device, sessions, found, n);
    cf_wait(run);
    expect_findings(run, n, found, all.place);
    if (cf_found(&all) == KVF_OK && cf_rows_checksum(&args->out) != checksum)
        fail_msg("case %u: rows of %u sessions differ from those of one", run->index, n);
}

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

    check_sessions_of_pack(run, &args);
    kvf_findings found = cf_findings(run);
    run->device->backend->pack(run->device, &args, &found, 1);
    cf_wait(run);
    if (cf_report_finding(run, &found) != KVF_OK) {
        /* Some of its rows may be stored. Good ones over them show that no others are. */
        memset(rows, 0, n_rows * args.stride * sizeof *rows);
        found = cf_findings(run);
        run->device->backend->pack(run->device, &args, &found, 1);
        cf_wait(run);
        assert_int_equal(cf_report_finding(run, &found), KVF_OK);
    }
    cf_report_rows(run, &args.out);
}

const cf_operation cf_pack = {"pack", "bit-identical", N_KINDS *CF_N_SIZES * 4, false, run_pack};

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
    cf_wait(run);
    /* The gaps between rows are compared too: nothing may be written there. */
    cf_report(run, "values", args.out, args.n_rows * args.stride * sizeof *args.out);
}

const cf_operation cf_unpack = {"unpack", "bit-identical", N_KINDS *CF_N_SIZES * 3, false,
                                run_unpack};
