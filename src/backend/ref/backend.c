/* The reference backend's device and its table of operations. */
#include "backend/ref/ref.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"

#define ALIGNMENT_BYTES 64

static kvf_status ref_open(const kvf_device_options *options, kvf_device **device, kvf_error *error)
{
    if (options && options->isa && strcmp(options->isa, "scalar") != 0)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "backend ref has no ISA \"%s\"; its only one is \"scalar\"", options->isa);
    kvf_device *opened = calloc(1, sizeof *opened);
    if (!opened)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a ref device (%zu bytes)",
                        sizeof *opened);
    opened->backend = &kvf_backend_ref;
    opened->isa = "scalar";
    opened->n_threads = 1; /* whatever was asked: more would not change one bit */
    *device = opened;
    return kvf_ok(error);
}

static void ref_close(kvf_device *device)
{
    free(device);
}

static void *ref_alloc(kvf_device *device, size_t bytes, kvf_place place)
{
    (void)device;
    (void)place;
    void *memory = NULL;
    /* Zero bytes give a pointer too. */
    return posix_memalign(&memory, ALIGNMENT_BYTES, bytes ? bytes : 1) == 0 ? memory : NULL;
}

static void ref_release(kvf_device *device, void *memory, size_t bytes)
{
    (void)device;
    (void)bytes;
    free(memory);
}

const kvf_backend kvf_backend_ref = {
    .name = "ref",
    .addresses_host_memory = true,
    .takes_stored_weights = true,
    .slab_bytes = KVF_HOST_SLAB_BYTES,
    .open = ref_open,
    .close = ref_close,
    .alloc = ref_alloc,
    .release = ref_release,
    .zero = kvf_host_zero,
    .write = kvf_host_write,
    .read = kvf_host_read,
    .copy = kvf_host_copy,
    .wait = kvf_host_wait,
    .embed = kvf_ref_embed,
    .matmul = kvf_ref_matmul,
    .norm = kvf_ref_norm,
    .rope = kvf_ref_rope,
    .mix = kvf_ref_mix,
    .unmix = kvf_ref_unmix,
    .route = kvf_ref_route,
    .experts = kvf_ref_experts,
    .sample = kvf_host_sample,
    .check = kvf_ref_check,
    .compress = kvf_ref_compress,
    .pack = kvf_ref_pack,
    .unpack = kvf_ref_unpack,
    .select = kvf_ref_select,
    .score = kvf_ref_score,
    .mask = kvf_ref_mask,
    .attend = kvf_ref_attend,
    .experts_workspace_bytes = kvf_ref_experts_workspace_bytes,
    .select_workspace_bytes = kvf_ref_select_workspace_bytes,
    .attend_workspace_bytes = kvf_ref_attend_workspace_bytes,
};
