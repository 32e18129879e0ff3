#include "model/weight_source.h"

#include "error.h"
#include "weight/weight.h"

#include <stdio.h>
#include <string.h>

/* What a lookup is about, for its messages. */
struct search {
    const kvf_tensor_set *set;
    const char *where;
    const kvf_weight *weight;
    kvf_error *error;
};

/* ---- Shapes --------------------------------------------------------------------------- */

typedef struct shape {
    uint64_t dims[KVF_TENSOR_DIMS];
    uint32_t n_dims;
} shape;

/* "[24, 1024]" */
typedef struct shape_text {
    char text[192];
} shape_text;

static shape_text show_shape(const shape *shown)
{
    shape_text text;
    size_t used = (size_t)snprintf(text.text, sizeof text.text, "[");
    for (uint32_t i = 0; i < shown->n_dims; i++) /* 8 dimensions of 20 digits fit */
        used += (size_t)snprintf(text.text + used, sizeof text.text - used, "%s%llu", i ? ", " : "",
                                 (unsigned long long)shown->dims[i]);
    snprintf(text.text + used, sizeof text.text - used, "]");
    return text;
}

static shape shape_of(const kvf_tensor *tensor)
{
    shape of = {.n_dims = tensor->n_dims};
    memcpy(of.dims, tensor->shape, sizeof of.dims);
    return of;
}

static bool is_gguf(const struct search *search)
{
    return kvf_tensor_set_container(search->set) == KVF_CONTAINER_GGUF;
}

/* What the config asks for; in a GGUF the experts of a layer are one tensor. */
static shape wanted_shape(const struct search *search)
{
    const kvf_weight *weight = search->weight;
    shape wanted = {{weight->shape[0], weight->shape[1]}, weight->n_dims};
    if (weight->n_stacked > 0 && is_gguf(search))
        wanted = (shape){{weight->n_stacked, weight->shape[0], weight->shape[1]}, 3};
    return wanted;
}

/* GGUF leaves leading dimensions of 1 out, or writes them. */
static void drop_ones(shape *of)
{
    while (of->n_dims > 1 && of->dims[0] == 1) {
        memmove(of->dims, of->dims + 1, (of->n_dims - 1) * sizeof *of->dims);
        of->n_dims--;
    }
}

static bool is_shape(const struct search *search, const kvf_tensor *tensor, shape wanted)
{
    shape got = shape_of(tensor);
    if (is_gguf(search)) {
        drop_ones(&got);
        drop_ones(&wanted);
    }
    return got.n_dims == wanted.n_dims &&
           memcmp(got.dims, wanted.dims, got.n_dims * sizeof *got.dims) == 0;
}

static kvf_status fail_shape(const struct search *search, const kvf_tensor *tensor,
                             const shape *wanted)
{
    const shape got = shape_of(tensor);
    return kvf_fail(search->error, KVF_FILE_FORMAT,
                    "%s: tensor \"%s\" has shape %s; the config asks for %s",
                    kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                    show_shape(&got).text, show_shape(wanted).text);
}

/* ---- Tensors ------------------------------------------------------------------------------ */

static const kvf_tensor *find_tensor(const struct search *search)
{
    const kvf_weight *weight = search->weight;
    if (is_gguf(search))
        return kvf_tensor_set_find(search->set, weight->names[KVF_NAMES_GGUF]);
    const kvf_tensor *tensor = kvf_tensor_set_find(search->set, weight->names[KVF_NAMES_DEEPSEEK]);
    return tensor ? tensor
                  : kvf_tensor_set_find(search->set, weight->names[KVF_NAMES_TRANSFORMERS]);
}

static kvf_status fail_missing(const struct search *search)
{
    const kvf_weight *weight = search->weight;
    const shape wanted = wanted_shape(search);
    if (is_gguf(search))
        return kvf_fail(search->error, KVF_FILE_FORMAT,
                        "%s: no tensor \"%s\"; its shape would be %s",
                        kvf_printable(search->where).text, weight->names[KVF_NAMES_GGUF],
                        show_shape(&wanted).text);
    return kvf_fail(search->error, KVF_FILE_FORMAT,
                    "%s: no tensor \"%s\" (nor \"%s\"); its shape would be %s",
                    kvf_printable(search->where).text, weight->names[KVF_NAMES_TRANSFORMERS],
                    weight->names[KVF_NAMES_DEEPSEEK], show_shape(&wanted).text);
}

static kvf_status fail_type(const struct search *search, const kvf_tensor *tensor,
                            const char *wanted)
{
    return kvf_fail(search->error, KVF_UNSUPPORTED, "%s: tensor \"%s\" is stored as %s; %s",
                    kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                    kvf_stored_info_of(tensor->type)->name, wanted);
}

/* The tensor X.scale of X.weight; NULL: there is none. */
static const kvf_tensor *find_scales(const struct search *search, const kvf_tensor *tensor)
{
    static const char suffix[] = ".weight";
    char name[128];
    const size_t bytes = strlen(tensor->name);
    const size_t stem_bytes = bytes - (sizeof suffix - 1);
    if (bytes < sizeof suffix || bytes >= sizeof name ||
        strcmp(tensor->name + stem_bytes, suffix) != 0)
        return NULL;
    snprintf(name, sizeof name, "%.*s.scale", (int)stem_bytes, tensor->name);
    return kvf_tensor_set_find(search->set, name);
}

/* ---- Matrices ----------------------------------------------------------------------------- */

/* Stored types of a matrix that need no scales beside them. */
static const struct plain_type {
    kvf_stored_type stored;
    kvf_weight_id weight;
} plain_types[] = {
    {KVF_STORED_F32, KVF_WEIGHT_F32},         {KVF_STORED_F16, KVF_WEIGHT_F16},
    {KVF_STORED_BF16, KVF_WEIGHT_BF16},       {KVF_STORED_Q8_0, KVF_WEIGHT_Q8_0},
    {KVF_STORED_Q4_0, KVF_WEIGHT_Q4_0},       {KVF_STORED_Q2_K, KVF_WEIGHT_Q2_K},
    {KVF_STORED_Q3_K, KVF_WEIGHT_Q3_K},       {KVF_STORED_Q4_K, KVF_WEIGHT_Q4_K},
    {KVF_STORED_Q5_K, KVF_WEIGHT_Q5_K},       {KVF_STORED_Q6_K, KVF_WEIGHT_Q6_K},
    {KVF_STORED_IQ2_XXS, KVF_WEIGHT_IQ2_XXS}, {KVF_STORED_IQ2_XS, KVF_WEIGHT_IQ2_XS},
    {KVF_STORED_IQ2_S, KVF_WEIGHT_IQ2_S},     {KVF_STORED_IQ3_XXS, KVF_WEIGHT_IQ3_XXS},
    {KVF_STORED_IQ3_S, KVF_WEIGHT_IQ3_S},     {KVF_STORED_IQ4_NL, KVF_WEIGHT_IQ4_NL},
    {KVF_STORED_IQ4_XS, KVF_WEIGHT_IQ4_XS},   {KVF_STORED_MXFP4, KVF_WEIGHT_MXFP4},
};

static bool is_byte_scale(kvf_stored_type type)
{
    return type == KVF_STORED_F8_E8M0 || type == KVF_STORED_U8;
}

/*
 * The weight type of DeepSeek's two, by the types of both tensors; *n_packed values are
 * in one of the tensor's. A failure where the scales are missing or of another type.
 */
static kvf_status find_scaled_type(const struct search *search, const kvf_weight_place *place,
                                   kvf_weight_id *id, uint32_t *n_packed)
{
    const kvf_tensor *tensor = place->tensor;
    const bool is_fp8 = tensor->type == KVF_STORED_F8_E4M3;
    const bool is_fp4 = tensor->type == KVF_STORED_I8 || tensor->type == KVF_STORED_U8;
    if (is_gguf(search) || (!is_fp8 && !is_fp4))
        return fail_type(search, tensor,
                         "matrices of that type are not read (docs/WEIGHTS.md lists those that "
                         "are)");
    if (!place->scales)
        return kvf_fail(search->error, KVF_FILE_FORMAT,
                        "%s: tensor \"%s\" is stored as %s, but has no scales: a tensor named "
                        ".scale in the place of .weight is needed",
                        kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                        kvf_stored_info_of(tensor->type)->name);
    *n_packed = is_fp4 ? 2 : 1;
    if (is_byte_scale(place->scales->type))
        *id = is_fp4 ? KVF_WEIGHT_FP4 : KVF_WEIGHT_FP8_E8M0;
    else if (is_fp8 && place->scales->type == KVF_STORED_F32)
        *id = KVF_WEIGHT_FP8_F32;
    else
        return fail_type(search, place->scales,
                         is_fp4 ? "scales of FP4 are F8_E8M0 or U8"
                                : "scales of FP8 are F8_E8M0, U8 or F32");
    return KVF_OK;
}

static kvf_status find_type(const struct search *search, const kvf_weight_place *place,
                            kvf_weight_id *id, uint32_t *n_packed)
{
    *n_packed = 1;
    for (size_t i = 0; i < sizeof plain_types / sizeof *plain_types; i++) {
        if (plain_types[i].stored == place->tensor->type) {
            *id = plain_types[i].weight;
            return KVF_OK;
        }
    }
    return find_scaled_type(search, place, id, n_packed);
}

static kvf_status locate_matrix(const struct search *search, kvf_weight_place *place)
{
    const kvf_weight *weight = search->weight;
    kvf_matrix *matrix = &place->matrix;
    shape wanted = wanted_shape(search);
    uint32_t n_packed = 1;
    const kvf_tensor *scales = find_scales(search, place->tensor);
    place->scales = scales;
    kvf_status status = find_type(search, place, &matrix->type, &n_packed);
    if (status != KVF_OK)
        return status;
    const kvf_weight_type *type = kvf_weight_get(matrix->type);
    const uint64_t matrix_bytes = kvf_weight_bytes(type, weight->shape[0], weight->shape[1]);
    wanted.dims[wanted.n_dims - 1] /= n_packed;
    if (!is_shape(search, place->tensor, wanted))
        return fail_shape(search, place->tensor, &wanted);
    if (matrix_bytes == 0)
        return kvf_fail(search->error, KVF_FILE_FORMAT,
                        "%s: tensor \"%s\" is stored as %s, in blocks of %u values, which rows of "
                        "%llu cannot be divided into",
                        kvf_printable(place->tensor->file).text,
                        kvf_printable(place->tensor->name).text, type->name, type->block_values,
                        (unsigned long long)weight->shape[1]);
    matrix->rows = (uint32_t)weight->shape[0];
    matrix->cols = (uint32_t)weight->shape[1];
    matrix->row_bytes = matrix_bytes / matrix->rows;
    if (weight->n_stacked > 0 && is_gguf(search)) {
        place->data = (const char *)place->data + weight->place * matrix_bytes;
        place->bytes = matrix_bytes;
    }
    matrix->data = place->data;
    if (type->scale_rows == 0) {
        place->scales = NULL; /* if there is one it is nobody's, and is refused as such */
        return KVF_OK;
    }
    const kvf_weight_scales plane = kvf_weight_scales_of(type, matrix->rows, matrix->cols);
    const shape plane_shape = {{plane.rows, plane.cols}, 2};
    if (!is_shape(search, scales, plane_shape))
        return fail_shape(search, scales, &plane_shape);
    matrix->scales = scales->data;
    matrix->scale_stride = plane.stride_bytes;
    return KVF_OK;
}

/* ---- All kinds ------------------------------------------------------------------------------ */

static kvf_status locate_others(const struct search *search, const kvf_weight_place *place)
{
    const kvf_stored_type type = place->tensor->type;
    const shape wanted = wanted_shape(search);
    const bool is_map = search->weight->kind == KVF_TENSOR_MAP;
    const bool fits =
        is_map ? type == KVF_STORED_I32 || type == KVF_STORED_I64
               : type == KVF_STORED_F32 || type == KVF_STORED_F16 || type == KVF_STORED_BF16;
    if (!fits)
        return fail_type(search, place->tensor,
                         is_map ? "I64 or I32 is needed" : "F32, F16 or BF16 is needed");
    return is_shape(search, place->tensor, wanted) ? KVF_OK
                                                   : fail_shape(search, place->tensor, &wanted);
}

kvf_status kvf_weight_locate(const kvf_tensor_set *set, const char *where, const kvf_weight *weight,
                             kvf_weight_place *place, kvf_error *error)
{
    const struct search search = {set, where, weight, error};
    const kvf_tensor *tensor = find_tensor(&search);
    if (!tensor)
        return fail_missing(&search);
    *place = (kvf_weight_place){.tensor = tensor, .data = tensor->data, .bytes = tensor->bytes};
    const kvf_status status = weight->kind == KVF_TENSOR_MATRIX ? locate_matrix(&search, place)
                                                                : locate_others(&search, place);
    return status == KVF_OK ? kvf_ok(error) : status;
}

kvf_weights_ignored kvf_weights_count_ignored(const kvf_tensor_set *set,
                                              const kvf_model_config *config)
{
    kvf_weights_ignored ignored = {0, 0};
    const kvf_tensor *tensor;
    for (uint32_t i = 0; (tensor = kvf_tensor_set_at(set, i)); i++) {
        if (kvf_weight_is_ignored(config, tensor->name)) {
            ignored.n_tensors++;
            ignored.bytes += tensor->bytes;
        }
    }
    return ignored;
}
