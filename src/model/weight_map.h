/* Weights that a device reads where they lie in the mapped files, without addressing them as the
 * host does (backend.h: map). Internal. */
#ifndef KVF_MODEL_WEIGHT_MAP_H
#define KVF_MODEL_WEIGHT_MAP_H

#include "backend/backend.h"
#include "file/tensor_set.h"

/*
 * Shares the files that hold any of the n parts, and maps these; the parts are sorted. KVF_FILE_IO
 * where a file has changed, KVF_OUT_OF_MEMORY where the device has no room: kvf_weight_unmap then.
 */
kvf_status kvf_weight_map(kvf_device *device, const kvf_tensor_set *files, kvf_host_part *parts,
                          size_t n, kvf_error *error);
/* Nothing of the files is read by the device any more; of a backend that cannot map: nothing. */
void kvf_weight_unmap(kvf_device *device, const kvf_tensor_set *files);

#endif
