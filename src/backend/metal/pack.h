/* Packing of rows that are in the GPU's memory: what pack and compress share. */
#ifndef KVF_BACKEND_METAL_PACK_H
#define KVF_BACKEND_METAL_PACK_H

#include "backend/metal/metal.h"

/* What checks find (kernels.h), and why of each bad row. */
typedef struct kvf_metal_found {
    kvf_metal_span found;
    kvf_metal_span reasons;
} kvf_metal_found;

/* Begins with nothing found. */
kvf_metal_found kvf_metal_begin_checks(kvf_metal_device *metal, uint64_t n_rows);

/* After a wait: the status of the lowest bad row, KVF_OK if there is none. */
kvf_status kvf_metal_bad_row(const kvf_metal_found *found, uint64_t *row, uint32_t *dim);
uint32_t kvf_metal_inexact_rows(const kvf_metal_found *found);

/*
 * Encodes the checks of args->n_rows rows of f32, and their stores, which do nothing if
 * these or earlier checks with `found` find anything. args->out and args->first_row are
 * filled here.
 */
void kvf_metal_run_pack(kvf_metal_device *metal, const kvf_rows *out, uint64_t first_row,
                        kvf_pack_kernel_args *args, kvf_metal_span rows,
                        const kvf_metal_found *found);

#endif
