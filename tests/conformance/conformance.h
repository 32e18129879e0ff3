/*
 * The conformance suite: each operation of backend.h, on every backend and ISA of
 * this machine, against the reference backend.
 *
 * A case is a function that builds its input from a random sequence, runs one
 * operation on the device it is given and reports what came out. It runs once on
 * the reference and once on each device of a backend, from the same seed; the reports
 * are then compared: bit for bit, or within bounds that the case derives. Every
 * block of memory is followed and preceded by guard bytes.
 */
#ifndef KVF_TEST_CONFORMANCE_H
#define KVF_TEST_CONFORMANCE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"

/* Unit roundoff of f32: one operation errs by at most this, relatively. */
#define CF_U 0x1p-24

/* ---- One run of one case ----------------------------------------------------- */

struct cf_block {
    uint8_t *start; /* guard, data, guard */
    size_t bytes;   /* of the data */
};

/* Memory of the host whose end is a page that cannot be read. */
struct cf_fence {
    void *mapping;
    size_t bytes;
};

/* One reported result. Close ones are followed by n doubles: the bounds. */
struct cf_segment {
    const char *what;
    size_t offset;
    size_t bytes;
    bool close;
};

typedef struct cf_run {
    kvf_device *device;
    const char *target; /* the device's name in messages */
    bool gpu;           /* a GPU is under test: it adds in an order of its own */
    uint32_t index;     /* number of the case */
    uint64_t random;    /* the case's sequence */
    struct cf_block *blocks;
    size_t n_blocks;
    struct cf_fence *fences;
    size_t n_fences;
    struct cf_segment *segments;
    size_t n_segments;
    uint8_t *results;
    size_t results_bytes;
} cf_run;

/* The promise of dense operations: a GPU may add in an order of its own. */
#define CF_BITS_OR(bounds) "bit-identical, a GPU " bounds

typedef struct cf_operation {
    const char *name;
    const char *promise; /* what comparing means: "bit-identical" */
    uint32_t n_cases;
    bool stored; /* only for backends that take weights as they are stored */
    void (*run)(cf_run *run);
} cf_operation;

void cf_begin(cf_run *run, kvf_device *device, const char *target, const cf_operation *operation,
              uint32_t index);
/* Fails the test if a guard byte has changed; releases everything. */
void cf_end(cf_run *run);
/* Fails the test where `got` differs from `expected` by more than was promised. */
void cf_compare(const cf_operation *operation, const cf_run *expected, const cf_run *got);

/* Device memory of the run, 64-byte aligned, every byte CF_FILL, a NaN as floats. */
#define CF_FILL 0xFF
void *cf_alloc(cf_run *run, size_t bytes);
float *cf_floats(cf_run *run, size_t n);

/* Host memory of the run; what is read behind its last byte ends the process. */
void *cf_fenced(cf_run *run, size_t bytes);

/*
 * A device on the host's memory whose operations are those of `inner`, which it owns, on
 * copies: for backends that do not address the host's memory. NULL: no memory.
 */
kvf_device *cf_mirrored(kvf_device *inner);

/* Until what was asked for is done, and its results may be looked at; a lost device fails. */
void cf_wait(cf_run *run);

/* An empty finding on the device; the reason of what was found, KVF_OK for nothing. */
kvf_findings cf_findings(cf_run *run);
kvf_status cf_found(const kvf_findings *found);
/* Reports what was found, or the inexact rows where nothing was. */
kvf_status cf_report_finding(cf_run *run, const kvf_findings *found);

/*
 * Reports bytes that must be equal; floats of which NaNs may differ from each other; floats
 * that may differ by bounds[i]: by anything where that is no number, or infinite, as where
 * sums of some order overflow.
 */
void cf_report(cf_run *run, const char *what, const void *data, size_t bytes);
void cf_report_floats(cf_run *run, const char *what, const float *values, size_t n);
void cf_report_close(cf_run *run, const char *what, const float *values, const double *bounds,
                     size_t n);

/* ---- Random input ------------------------------------------------------------ */

typedef enum cf_pattern {
    CF_NORMAL,   /* around 1 in size */
    CF_WIDE,     /* exponents from 2^-20 to 2^20 */
    CF_TINY,     /* subnormals and their neighbours */
    CF_LARGE,    /* up to the largest f32 */
    CF_SPARSE,   /* mostly zeros of both signs */
    CF_BOUNDARY, /* one bit around a power of two times 1, 1.5, 1.75 */
    CF_CONSTANT, /* one value throughout */
    CF_PATTERN_COUNT
} cf_pattern;

uint64_t cf_random(uint64_t *state);
/* 0 .. n - 1 */
uint32_t cf_pick(uint64_t *state, uint32_t n);
bool cf_chance(uint64_t *state, uint32_t one_in);
/* [-1, 1) */
float cf_unit(uint64_t *state);
void cf_values(uint64_t *state, cf_pattern pattern, float *values, size_t n);
/* Device memory of the run with n such values. */
float *cf_random_floats(cf_run *run, cf_pattern pattern, size_t n);
/* Cosines and sines of n positions. */
kvf_rope_table cf_rope_table(cf_run *run, uint64_t n);

/* Element of an array literal: CF_ONE_OF(&random, 1, 2, 3). */
#define CF_ONE_OF(state, ...)                                                                      \
    (((const uint32_t[]){__VA_ARGS__})[cf_pick((state), sizeof((const uint32_t[]){__VA_ARGS__}) /  \
                                                            sizeof(uint32_t))])

/* Numbers of rows around vector and page boundaries; i is taken modulo their number. */
#define CF_N_SIZES 9
uint32_t cf_n_rows(uint32_t i);

/*
 * Cuts n elements, one at least, into those of several sessions; returns how many there are.
 * Session i has the elements firsts[i] .. firsts[i + 1]. More than a simdgroup at most.
 */
#define CF_MOST_SESSIONS 40
uint32_t cf_cut(uint64_t *random, uint32_t n, uint32_t firsts[CF_MOST_SESSIONS + 1]);

/* ---- Weights ----------------------------------------------------------------- */

/*
 * A random matrix in host memory, at any address, with gaps between its rows. Calm: values
 * are 0 or around 1 in size, within 2^10 either way. Otherwise some blocks and scales are of
 * any bytes: NaNs, infinities, subnormals among them, in some of the rows.
 */
kvf_matrix cf_matrix(cf_run *run, kvf_weight_id type, uint32_t rows, uint32_t cols, bool calm);
/* A matrix's values [rows][cols] as f32, in memory of the run. */
const float *cf_decoded(cf_run *run, const kvf_matrix *matrix);
/* One in device memory: f32, around 2 / sqrt(cols) in size. */
kvf_matrix cf_f32_matrix(cf_run *run, uint32_t rows, uint32_t cols);
/* A type, and columns that it can have: one block, several, across 1024, more. */
kvf_weight_id cf_type(uint64_t *random);
uint32_t cf_cols(uint64_t *random, kvf_weight_id type);
/* Inputs of products that take stored weights: n floats, mostly around 1 in size. */
float *cf_activations(cf_run *run, size_t n, bool *calm);

/* ---- Views ------------------------------------------------------------------- */

/* A view of n_rows rows in random pages: both ways of addressing, several page_rows. */
kvf_rows cf_rows(cf_run *run, kvf_format_id format, uint32_t width, uint64_t n_rows);
/* Stores values[n_rows][width] in rows 0 .. n_rows by the reference. */
void cf_store(const kvf_rows *view, kvf_grid grid, const float *values);
void cf_report_rows(cf_run *run, const kvf_rows *view);
uint64_t cf_rows_checksum(const kvf_rows *view);
/* Fails unless no byte of the view was written yet. */
void cf_assert_untouched(const kvf_rows *view);
/*
 * How far attend's results may be from the reference's where sums are ordered otherwise:
 * derived from the call's own values, and for `out`, the reference's, no more than what
 * docs/FORMAT.md 6 allows, unless scores are so large that f32 cannot hold them as well.
 * Both arrays have an element a value; lse_bounds may be NULL.
 */
void cf_attend_bounds(cf_run *run, const kvf_attend_args *args, const float *out,
                      double *out_bounds, double *lse_bounds);
/* The grid of a row width. */
kvf_grid cf_grid(uint32_t width);

/* ---- The operations ---------------------------------------------------------- */

extern const cf_operation cf_embed, cf_embed_stored, cf_matmul, cf_product, cf_norm, cf_rope,
    cf_unmix;
extern const cf_operation cf_mix, cf_route, cf_experts, cf_experts_stored;
extern const cf_operation cf_sample, cf_draw;
extern const cf_operation cf_check, cf_pack, cf_unpack, cf_compress;
extern const cf_operation cf_score, cf_score_plain, cf_select, cf_mask;
extern const cf_operation cf_attend, cf_attend_forms;

/* ---- The reference itself ------------------------------------------------------ */

/*
 * Against formulas in double precision, written from the specification without the
 * reference's code: what the other backends are held to has to be right itself.
 * test_ref.c: device, dense layers, pack. test_ref_stages.c: compress, select, attend.
 * Both return the number of failed tests.
 */
int cf_run_reference_tests(void);
int cf_run_reference_stage_tests(void);
/* test_math.c: the functions that all backends share. */
int cf_run_math_tests(void);

/* A run on the reference, for its own tests. */
void cf_begin_reference(cf_run *run, uint32_t seed);
/* Fails the test unless got is within tolerance of expected; a NaN is not. */
void cf_assert_close(const char *what, size_t i, float got, double expected, double tolerance);

#endif
