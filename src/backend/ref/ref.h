/*
 * The reference backend: every operation of backend.h, scalar and single-threaded,
 * one file each. It is the specification in code: where docs/FORMAT.md promises
 * bits, the order of the operations here is the order promised.
 */
#ifndef KVF_BACKEND_REF_REF_H
#define KVF_BACKEND_REF_REF_H

#include "backend/backend.h"

extern const kvf_backend kvf_backend_ref;

/* Lanes of a dot product and of an index score (docs/FORMAT.md 9.2 and 5). */
#define KVF_REF_DOT_LANES 16
#define KVF_REF_SCORE_LANES 8

void kvf_ref_embed(kvf_device *device, const kvf_embed_args *args);
void kvf_ref_matmul(kvf_device *device, const kvf_matmul_args *args);
void kvf_ref_norm(kvf_device *device, const kvf_norm_args *args);
void kvf_ref_rope(kvf_device *device, const kvf_rope_args *args);
void kvf_ref_mix(kvf_device *device, const kvf_mix_args *args);
void kvf_ref_unmix(kvf_device *device, const kvf_unmix_args *args);
void kvf_ref_route(kvf_device *device, const kvf_route_args *args);
void kvf_ref_experts(kvf_device *device, const kvf_experts_args *args);

void kvf_ref_check(kvf_device *device, const kvf_check_args *args, const kvf_findings *found,
                   uint32_t n);
void kvf_ref_compress(kvf_device *device, const kvf_compress_args *args, const kvf_findings *found,
                      uint32_t n);
void kvf_ref_pack(kvf_device *device, const kvf_pack_args *args, const kvf_findings *found,
                  uint32_t n);
void kvf_ref_unpack(kvf_device *device, const kvf_unpack_args *args);
void kvf_ref_select(kvf_device *device, const kvf_select_args *args, uint32_t n);
void kvf_ref_score(kvf_device *device, const kvf_score_args *args);
void kvf_ref_mask(kvf_device *device, const kvf_mask_args *args);
void kvf_ref_attend(kvf_device *device, const kvf_attend_args *args, uint32_t n);

size_t kvf_ref_experts_workspace_bytes(const kvf_device *device, const kvf_experts_args *args);
size_t kvf_ref_select_workspace_bytes(uint32_t n_threads, const kvf_select_args *args);
size_t kvf_ref_attend_workspace_bytes(uint32_t n_threads, const kvf_attend_args *args);

/* ---- Shared by several operations ------------------------------------------ */

/* matmul.c: dot product of a[n] and b[n] over 16 lanes (docs/FORMAT.md 9.2, step 1). */
float kvf_ref_dot(const float *a, const float *b, size_t n);

/* matmul.c: dot product of row `row` of a matrix with x[cols] (docs/FORMAT.md 9.8). */
float kvf_ref_dot_row(const kvf_matrix *matrix, uint32_t row, const float *x);

/* norm.c: one row of kvf_ref_norm; out may be in, weight[width] may be NULL. */
void kvf_ref_norm_row(const float *in, float *out, uint32_t width, const float *weight, float eps);

/* rope.c: rotates tail[64] by the angles of cosines[32] and sines[32]. */
void kvf_ref_rotate(float *tail, const float *cosines, const float *sines, bool inverse);

/* pack.c: where a row cannot be stored: KVF_OK, KVF_NONFINITE or KVF_RANGE and *bad_dim. */
kvf_status kvf_ref_check_row(const float *values, uint32_t width, kvf_grid grid, uint32_t *bad_dim);

/* pack.c: rounds values[out->width] to the grid and stores them; whether the row is exact. */
bool kvf_ref_store_row(const kvf_rows *out, uint64_t row, kvf_grid grid, float *values);

/* unpack.c: values[rows->width] of one row. */
void kvf_ref_load_row(const kvf_rows *rows, uint64_t row, float *values);

/* score.c: score of docs/FORMAT.md 5 of one query and one key row. */
float kvf_ref_score_row(const kvf_select_args *args, uint32_t query, uint64_t row);

#endif
