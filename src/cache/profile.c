/* The four cache profiles (docs/FORMAT.md 7) and V4-Flash's geometry (1). */
#include <stdio.h>
#include <string.h>

#include "error.h"

static const kvf_profile kvf_profiles[KVF_PROFILE_COUNT] = {
    [KVF_PROFILE_LEGACY] = {"legacy", KVF_FORMAT_F32, KVF_FORMAT_F32, KVF_FORMAT_F32, KVF_MASK_F32,
                            0},
    [KVF_PROFILE_TILED] = {"tiled", KVF_FORMAT_F16, KVF_FORMAT_F32, KVF_FORMAT_F32, KVF_MASK_F16,
                           512},
    [KVF_PROFILE_PACKED] = {"packed", KVF_FORMAT_FP8_F16, KVF_FORMAT_F32, KVF_FORMAT_F32,
                            KVF_MASK_F16, 512},
    [KVF_PROFILE_FOLD] = {"fold", KVF_FORMAT_FP8_F16, KVF_FORMAT_FP4, KVF_FORMAT_FP8_F16,
                          KVF_MASK_NONE, 0},
};

const kvf_profile *kvf_profile_get(kvf_profile_id id)
{
    return (uint32_t)id < KVF_PROFILE_COUNT ? &kvf_profiles[id] : NULL;
}

kvf_status kvf_profile_find(const char *name, kvf_profile_id *id, kvf_error *error)
{
    for (uint32_t i = 0; i < KVF_PROFILE_COUNT; i++)
        if (strcmp(kvf_profiles[i].name, name) == 0) {
            *id = (kvf_profile_id)i;
            return kvf_ok(error);
        }
    return kvf_fail(error, KVF_INVALID_ARGUMENT,
                    "no profile '%.40s'; there are: legacy, tiled, packed, fold", name);
}

void kvf_geometry_v4_flash(kvf_geometry *geometry)
{
    memset(geometry, 0, sizeof *geometry);
    geometry->n_layers = 43;
    geometry->vocab = 129280;
    geometry->n_heads = 64;
    geometry->n_index_heads = 64;
    geometry->top_k = 512;
    geometry->window_tokens = 128;
    geometry->max_tokens = 1048576;
    /* 0, 0, then CSA and HCA in turn: 2 window-only, 21 CSA, 20 HCA. */
    for (uint32_t i = 2; i < geometry->n_layers; i++)
        geometry->layers[i] =
            i % 2 == 0 ? (kvf_layer){KVF_LAYER_CSA, 4} : (kvf_layer){KVF_LAYER_HCA, 128};
}
