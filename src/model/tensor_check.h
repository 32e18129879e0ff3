/*
 * Codes in stored tensors that stand for no number: what a damaged or badly converted file has,
 * and a product would carry on as NaN or infinity. Internal.
 */
#ifndef KVF_MODEL_TENSOR_CHECK_H
#define KVF_MODEL_TENSOR_CHECK_H

#include "file/tensor_set.h"

/*
 * What is counted in a tensor of that name and type, in the plural: "values that are not
 * finite", "NaN codes", "scales that are not finite"; NULL: every content is a number
 * (integers, FP4), or the type is not looked into.
 */
const char *kvf_tensor_check_what(const kvf_tensor *tensor);

/*
 * How many of them there are in blocks first .. + n of the tensor (kvf_stored_info has their
 * size; a block of a plain type is a value). Reads those blocks; 0 where nothing is counted.
 */
uint64_t kvf_tensor_check_count(const kvf_tensor *tensor, uint64_t first, uint64_t n);

#endif
