/*
 * A number for a model that no other model has (docs/FORMAT.md 10.6): over the values
 * of the config that decide results and over all weights, so it reads all of the files
 * once. Names count, files do not: the same tensors in other shards give the same.
 */
#ifndef KVF_MODEL_FINGERPRINT_H
#define KVF_MODEL_FINGERPRINT_H

#include "backend/backend.h"
#include "model/config.h"
#include "file/tensor_set.h"

/* Over the values of the config alone. */
uint64_t kvf_config_checksum(const kvf_model_config *config);

/* Never 0. Tensors are hashed by the threads of the device; KVF_OUT_OF_MEMORY. */
kvf_status kvf_fingerprint(const kvf_model_config *config, const kvf_tensor_set *files,
                           kvf_device *device, uint64_t *fingerprint, kvf_error *error);

#endif
