/*
 * A number for a model that no other model has (docs/FORMAT.md 10.6): over the values
 * of the config that decide results and over the weights. Names count, files do not: the
 * same tensors in other shards give the same.
 */
#ifndef KVF_MODEL_FINGERPRINT_H
#define KVF_MODEL_FINGERPRINT_H

#include "backend/backend.h"
#include "model/config.h"
#include "file/tensor_set.h"

/* Over the values of the config alone. */
uint64_t kvf_config_checksum(const kvf_model_config *config);

/* All of these are never 0; the threads of the device hash; KVF_OUT_OF_MEMORY. */

/* Version 2: samples of the tensors. */
kvf_status kvf_fingerprint(const kvf_model_config *config, const kvf_tensor_set *files,
                           kvf_device *device, uint64_t *fingerprint, kvf_error *error);
/* Version 1: reads all weights. */
kvf_status kvf_full_fingerprint(const kvf_model_config *config, const kvf_tensor_set *files,
                                kvf_device *device, uint64_t *fingerprint, kvf_error *error);
/* Version 1 from the checksums of all tensors' data, in the order of kvf_tensor_set_at. */
kvf_status kvf_fingerprint_of_sums(const kvf_model_config *config, const kvf_tensor_set *files,
                                   const uint64_t *sums, uint64_t *fingerprint, kvf_error *error);

/* Of a saved session: in the program's 64 bytes (docs/FORMAT.md 10.7). */
uint32_t kvf_fingerprint_version(const uint8_t caller_state[KVF_CALLER_STATE_BYTES]);
/* Says that the session's fingerprint is of version 2. */
void kvf_fingerprint_mark(uint8_t caller_state[KVF_CALLER_STATE_BYTES]);

#endif
