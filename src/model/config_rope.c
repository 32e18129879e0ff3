/*
 * Rotary embeddings: rope_parameters {main, compress}, or rope_theta with
 * rope_scaling (or its flat names), which then is of the compressing layers alone.
 */
#include "error.h"
#include "model/config_fields.h"
#include "file/file.h"

#include <stddef.h>
#include <string.h>

/* Far from all models; at 1 YaRN's ramp would divide by log(1). */
#define MIN_THETA 2
#define MAX_THETA 1e12

/* 0: not given */
typedef struct thetas {
    double window;
    double compress;
} thetas;

/* clang-format off */
static const kvf_number_field theta_fields[] = {
    {{"rope_theta"}, KVF_FIELD_F64, offsetof(thetas, window),
     MIN_THETA, MAX_THETA, 0, 0},
    {{"compress_rope_theta"}, KVF_FIELD_F64, offsetof(thetas, compress),
     MIN_THETA, MAX_THETA, 0, 0},
};

static const kvf_number_field nested_theta_field = {
    {"rope_theta"}, KVF_FIELD_F64, offsetof(kvf_rope_config, theta),
    MIN_THETA, MAX_THETA, 0, KVF_REQUIRED};

static const kvf_number_field yarn_fields[] = {
    {{"factor", "rope_factor"}, KVF_FIELD_F64, offsetof(kvf_rope_config, factor),
     1, 1e6, 0, KVF_REQUIRED},
    {{"beta_fast"}, KVF_FIELD_F64, offsetof(kvf_rope_config, beta_fast),
     1e-3, 1e6, 0, 32},
    {{"beta_slow"}, KVF_FIELD_F64, offsetof(kvf_rope_config, beta_slow),
     1e-3, 1e6, 0, 1},
    {{"original_max_position_embeddings", "original_seq_len"}, KVF_FIELD_F64,
     offsetof(kvf_rope_config, original_max_tokens),
     1, 0x1p30, 0, KVF_REQUIRED},
};

/* YaRN's magnitude scaling: only none of it is supported. */
struct magnitude {
    double attention_factor;
    double mscale;
    double mscale_all_dim;
};

static const kvf_number_field magnitude_fields[] = {
    {{"attention_factor"}, KVF_FIELD_F64, offsetof(struct magnitude, attention_factor),
     1, 1, 0, 1},
    {{"mscale"}, KVF_FIELD_F64, offsetof(struct magnitude, mscale),
     1, 1, 0, 1},
    {{"mscale_all_dim"}, KVF_FIELD_F64, offsetof(struct magnitude, mscale_all_dim),
     1, 1, 0, 1},
};

/* partial_rotary_factor, where there is one, must be 64 of 512. */
static const kvf_number_field partial_field = {
    {"partial_rotary_factor"}, KVF_FIELD_F64, 0,
    0.125, 0.125, 0, 0.125};
/* clang-format on */

static kvf_status read_yarn(const kvf_config_source *source, const cJSON *object, const char *name,
                            kvf_rope_config *rope)
{
    struct magnitude magnitude;
    kvf_status status =
        kvf_config_read_numbers(source, object, name, magnitude_fields,
                                sizeof magnitude_fields / sizeof *magnitude_fields, &magnitude);
    if (status == KVF_OK)
        status = kvf_config_read_numbers(source, object, name, yarn_fields,
                                         sizeof yarn_fields / sizeof *yarn_fields, rope);
    if (status != KVF_OK)
        return status;
    if (rope->beta_fast < rope->beta_slow)
        return kvf_config_fail(source, KVF_FILE_FORMAT, name, "beta_fast",
                               kvf_json_get(object, "beta_fast"), "it must not be below beta_slow");
    rope->yarn = true;
    return KVF_OK;
}

/* A rope object of either style, without its theta. */
static kvf_status read_scaling(const kvf_config_source *source, const cJSON *object,
                               const char *name, kvf_rope_config *rope)
{
    const cJSON *type = kvf_json_get(object, "rope_type");
    const char *type_key = type ? "rope_type" : "type";
    double partial = 0;
    if (!type)
        type = kvf_json_get(object, "type");
    if (!cJSON_IsString(type))
        return kvf_config_fail(source, KVF_FILE_FORMAT, name, type_key, type,
                               "\"default\" or \"yarn\" is needed");
    kvf_status status = kvf_config_read_numbers(source, object, name, &partial_field, 1, &partial);
    if (status != KVF_OK)
        return status;
    if (strcmp(type->valuestring, "yarn") == 0)
        return read_yarn(source, object, name, rope);
    if (strcmp(type->valuestring, "default") != 0)
        return kvf_config_fail(source, KVF_UNSUPPORTED, name, type_key, type,
                               "only \"default\" and \"yarn\" are supported");
    return KVF_OK;
}

/* rope_parameters.main or .compress. top is the theta outside of it, 0 for none. */
static kvf_status read_nested(const kvf_config_source *source, const cJSON *parameters,
                              const char *key, const char *name, double top, kvf_rope_config *rope)
{
    const cJSON *object = kvf_json_get(parameters, key);
    if (!cJSON_IsObject(object))
        return kvf_config_fail(source, KVF_FILE_FORMAT, "rope_parameters.", key, object,
                               "an object is needed");
    kvf_status status = kvf_config_read_numbers(source, object, name, &nested_theta_field, 1, rope);
    if (status == KVF_OK)
        status = read_scaling(source, object, name, rope);
    if (status != KVF_OK)
        return status;
    if (top > 0 && (top < rope->theta || top > rope->theta))
        return kvf_config_fail(source, KVF_FILE_FORMAT, name, "rope_theta",
                               kvf_json_get(object, "rope_theta"),
                               "the one outside of rope_parameters differs");
    /* The transformers library scales by 0.1 ln(factor) + 1 when this key is missing here. */
    if (rope->yarn && rope->factor > 1 && !kvf_json_get(object, "attention_factor"))
        return kvf_config_fail(source, KVF_UNSUPPORTED, name, "attention_factor", NULL,
                               "that means YaRN's magnitude scaling; only 1 is supported");
    return KVF_OK;
}

/* rope_scaling, or DeepSeek's flat names: rope_factor, original_seq_len (0: no YaRN). */
static kvf_status read_original(const kvf_config_source *source, kvf_rope_config *rope)
{
    const cJSON *scaling = kvf_json_get(source->json, "rope_scaling");
    if (cJSON_IsObject(scaling))
        return read_scaling(source, scaling, "rope_scaling.", rope);
    if (scaling)
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", "rope_scaling", scaling,
                               "an object is needed");
    const cJSON *original = kvf_json_get(source->json, "original_seq_len");
    uint64_t tokens = 0;
    if (original && !(kvf_json_u64(original, &tokens) && tokens == 0))
        return read_yarn(source, source->json, "", rope);
    return KVF_OK;
}

static bool has_compressing_layer(const kvf_geometry *geometry)
{
    for (uint32_t i = 0; i < geometry->n_layers; i++)
        if (geometry->layers[i].kind != KVF_LAYER_WINDOW)
            return true;
    return false;
}

kvf_status kvf_config_read_rope(const kvf_config_source *source, kvf_config_draft *draft)
{
    kvf_rope_config *window = &draft->config.rope_window;
    kvf_rope_config *compress = &draft->config.rope_compress;
    thetas top;
    double partial = 0;
    kvf_status status = kvf_config_read_numbers(source, source->json, "", theta_fields,
                                                sizeof theta_fields / sizeof *theta_fields, &top);
    if (status == KVF_OK)
        status = kvf_config_read_numbers(source, source->json, "", &partial_field, 1, &partial);
    if (status != KVF_OK)
        return status;
    const cJSON *parameters = kvf_json_get(source->json, "rope_parameters");
    if (parameters) {
        status =
            read_nested(source, parameters, "main", "rope_parameters.main.", top.window, window);
        if (status == KVF_OK)
            status = read_nested(source, parameters, "compress", "rope_parameters.compress.",
                                 top.compress, compress);
        return status;
    }
    if (!(top.window > 0))
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", "rope_theta", NULL,
                               "it or \"rope_parameters\" is needed");
    if (!(top.compress > 0) && has_compressing_layer(&draft->config.geometry))
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", "compress_rope_theta", NULL,
                               "it or \"rope_parameters\" is needed");
    window->theta = top.window;
    compress->theta = top.compress > 0 ? top.compress : top.window;
    return read_original(source, compress);
}
