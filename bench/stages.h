/* The stages, one file each. Internal to bench/. */
#ifndef KVF_BENCH_STAGES_H
#define KVF_BENCH_STAGES_H

#include "bench/case.h"

/* Each opens a case whose sizes were checked, and counts its memory. */
kvf_status bench_pack_open(const bench_input *input, bench_case **out, kvf_error *error);
uint64_t bench_pack_bytes(const bench_input *input);
kvf_status bench_select_open(const bench_input *input, bench_case **out, kvf_error *error);
uint64_t bench_select_bytes(const bench_input *input);
kvf_status bench_attend_open(const bench_input *input, bench_case **out, kvf_error *error);
uint64_t bench_attend_bytes(const bench_input *input);
kvf_status bench_session_open(const bench_input *input, bench_case **out, kvf_error *error);
uint64_t bench_session_bytes(const bench_input *input);

/* The first layer of that kind; n_layers when there is none. */
uint32_t bench_first_layer(const kvf_geometry *geometry, kvf_layer_kind kind);
/* Compressed rows of the first layer of that kind after context_tokens; 0 for none. */
uint64_t bench_layer_rows(const bench_input *input, kvf_layer_kind kind);

/* ---- What the stages must do at least ------------------------------------------ */

bench_work bench_select_work(bench_profile profile, const kvf_geometry *geometry, uint64_t rows,
                             uint32_t n_queries);
/* One query; `selected`: a CSA layer, whose rows were selected. */
bench_work bench_attend_work(bench_profile profile, const kvf_geometry *geometry, uint64_t rows,
                             bool selected);

/* ---- Memory and data ----------------------------------------------------------- */

/* 64-byte aligned, not cleared; NULL with *error filled. Free with free(). */
void *bench_alloc(uint64_t bytes, kvf_error *error);

/* Rows in one piece, pages of KVF_PAGE_ROWS one after another. Free rows->base. */
kvf_status bench_rows_open(kvf_format_id format, uint32_t width, uint64_t n_rows, kvf_rows *rows,
                           kvf_error *error);
uint64_t bench_rows_bytes(kvf_format_id format, uint32_t width, uint64_t n_rows);

/* Values as activations have them: bell-shaped, mean 0, variance about 1. */
void bench_fill_values(float *values, size_t n, uint64_t seed);
/* Different rows of 128 everywhere: equal ones would tie in select. */
kvf_status bench_fill_index_rows(kvf_device *device, const kvf_rows *rows, uint64_t seed,
                                 kvf_error *error);
/* Rows of 512: a block of different ones, then copies; attend does not care. */
kvf_status bench_fill_rows(kvf_device *device, const kvf_rows *rows, uint64_t seed,
                           kvf_error *error);
/* Copies the pages of a view to another of the same form. */
void bench_copy_rows(const kvf_rows *from, const kvf_rows *to);
/* `k` different rows of 0 .. n_rows - 1, ascending, evenly spread; k <= n_rows. */
void bench_draw_rows(uint64_t seed, uint64_t n_rows, uint32_t k, int32_t *list);
/* The mask's rows that are selected, ascending; the rest of list[k] is -1. */
void bench_list_of_mask(const void *mask, kvf_mask_kind kind, uint64_t n_rows, uint32_t k,
                        int32_t *list);

#endif
