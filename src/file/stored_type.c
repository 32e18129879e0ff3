#include "file/stored_type.h"

#include <string.h>

static const kvf_stored_info types[] = {
#define KVF_STORED_TYPE(id, block_values, block_bytes, ggml_id, in_safetensors)                    \
    {#id, block_values, block_bytes, ggml_id, in_safetensors},
#include "file/stored_types.def"
#undef KVF_STORED_TYPE
};

const kvf_stored_info *kvf_stored_info_of(kvf_stored_type type)
{
    return &types[type];
}

bool kvf_stored_type_by_dtype(const char *dtype, kvf_stored_type *type)
{
    for (*type = 0; *type < KVF_STORED_COUNT; ++*type)
        if (types[*type].in_safetensors && strcmp(types[*type].name, dtype) == 0)
            return true;
    return false;
}

bool kvf_stored_type_by_ggml_id(uint32_t ggml_id, kvf_stored_type *type)
{
    for (*type = 0; *type < KVF_STORED_COUNT; ++*type)
        if (types[*type].ggml_id >= 0 && (uint32_t)types[*type].ggml_id == ggml_id)
            return true;
    return false;
}
