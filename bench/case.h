/*
 * A case: one stage under one profile at one size, ready to be run again and again.
 * Data is synthetic and depends on nothing but the sizes, so all profiles of a stage
 * compute the same thing and their outputs can be compared.
 */
#ifndef KVF_BENCH_CASE_H
#define KVF_BENCH_CASE_H

#include "kvfold.h"

/*
 * The cache profiles and two to compare them with: `list` keeps f32 rows, scores them in
 * f32 and attends the selected ones only; `openblas` is the same written with sgemm.
 */
typedef enum bench_profile {
    BENCH_LEGACY = KVF_PROFILE_LEGACY,
    BENCH_TILED = KVF_PROFILE_TILED,
    BENCH_PACKED = KVF_PROFILE_PACKED,
    BENCH_FOLD = KVF_PROFILE_FOLD,
    BENCH_LIST = KVF_PROFILE_COUNT,
    BENCH_OPENBLAS,
    BENCH_PROFILE_COUNT
} bench_profile;

typedef enum bench_stage {
    BENCH_PACK,            /* rows of 512 */
    BENCH_PACK_INDEX,      /* rows of 128 */
    BENCH_SELECT,          /* 1, 8 or 512 queries */
    BENCH_ATTEND_CSA,      /* one query: the window and the selected rows, in the caches */
    BENCH_ATTEND_CSA_COLD, /* the same rows in memory */
    BENCH_ATTEND_HCA,      /* one query: the window and all rows */
    BENCH_ATTEND_HCA_COLD,
    BENCH_LAYER, /* one CSA layer of a session: append, select, attend */
    BENCH_STEP,  /* every layer of a session */
    BENCH_STAGE_COUNT
} bench_stage;

const char *bench_profile_name(bench_profile profile);
const char *bench_stage_name(bench_stage stage);
/* What a profile stores; `list` and `openblas` store what legacy does. */
const kvf_profile *bench_profile_storage(bench_profile profile);

/* What is to be measured. */
typedef struct bench_input {
    kvf_device *device;
    const kvf_geometry *geometry;
    bench_stage stage;
    bench_profile profile;
    uint64_t context_tokens;
    uint32_t n_queries;  /* of select; 1 elsewhere */
    uint64_t cold_bytes; /* working set of the cold stages: larger than the caches */
    uint32_t max_runs;   /* a session's context grows with the runs, so it is told */
} bench_input;

/* Whether the stage exists in that profile and geometry. */
bool bench_input_exists(const bench_input *input);
/* Memory that the case will allocate. */
uint64_t bench_input_bytes(const bench_input *input);

/*
 * What a stage must do at least: operations of each kind (a multiply and an add are two),
 * and bytes that must come from memory once: cache rows and, in the profiles that have
 * them, score and mask matrices written once and read once. Queries and outputs are small
 * and stay in the caches: not counted.
 */
typedef struct bench_work {
    double int8_ops;
    double fma_ops;
    double bytes;
} bench_work;

/* What a run computed: selected rows (-1: none) and f32 values. Owned by the case. */
typedef struct bench_output {
    const int32_t *list;
    size_t n_list;
    const float *values;
    size_t n_values;
} bench_output;

enum { BENCH_MAX_PARTS = 4 };

typedef struct bench_case bench_case;
struct bench_case {
    uint64_t rows;                    /* compressed rows in the cache of one layer */
    uint32_t steps_per_run;           /* a run does the stage so many times */
    bool recording;                   /* the next run's output will be asked for */
    bench_work work[BENCH_MAX_PARTS]; /* of one step; parts run one after another */
    uint32_t n_parts;
    /* Before each run, outside the timing; may be NULL. */
    void (*prepare)(bench_case *self);
    kvf_status (*run)(bench_case *self, kvf_error *error);
    /* The output of the run just made, which was recording. */
    kvf_status (*output)(bench_case *self, bench_output *output, kvf_error *error);
    void (*close)(bench_case *self);
};

/* *out is owned by the caller: (*out)->close(*out). */
kvf_status bench_case_open(const bench_input *input, bench_case **out, kvf_error *error);

#endif
