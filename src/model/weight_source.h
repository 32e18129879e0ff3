/*
 * Where a weight lies in a checkpoint's files: the tensor of either naming style or of GGUF,
 * its scales, and a matrix that points at both, checked against what the config asks for.
 * Internal.
 */
#ifndef KVF_MODEL_WEIGHT_SOURCE_H
#define KVF_MODEL_WEIGHT_SOURCE_H

#include "file/tensor_set.h"
#include "model/weight_names.h"
#include "shared/matrix.h"

typedef struct kvf_weight_place {
    const kvf_tensor *tensor;
    const kvf_tensor *scales; /* NULL: it has none of its own */
    const void *data;         /* of this weight: all of the tensor, or one expert's part */
    uint64_t bytes;
    kvf_matrix matrix; /* of KVF_TENSOR_MATRIX alone; everything in it lies in the mapping */
} kvf_weight_place;

/*
 * Finds the weight and checks shape and type. A matrix may be of any stored type that is
 * read; what is a vector or a table (KVF_TENSOR_VALUES) of F32, F16 or BF16; a map of I32
 * or I64. DeepSeek's FP8 (F8_E4M3) needs X.scale beside X.weight with one E8M0 or F32 for
 * 128 x 128 values, its FP4 (I8 or U8, two values a byte) one E8M0 for 32 of a row; U8 is
 * taken for E8M0, as some writers call it. Tensors decide, not the config.
 *   KVF_FILE_FORMAT for a missing tensor, a shape or a scale that does not fit;
 * KVF_UNSUPPORTED for a type that is not read. Each names file, tensor and what would be
 * right; `where` is the checkpoint's path, for what is missing. Thread-safe.
 */
kvf_status kvf_weight_locate(const kvf_tensor_set *set, const char *where, const kvf_weight *weight,
                             kvf_weight_place *place, kvf_error *error);

/* The tensors that are not run and not looked at (kvf_weight_is_ignored). */
typedef struct kvf_weights_ignored {
    uint32_t n_tensors;
    uint64_t bytes;
} kvf_weights_ignored;
kvf_weights_ignored kvf_weights_count_ignored(const kvf_tensor_set *set,
                                              const kvf_model_config *config);

#endif
