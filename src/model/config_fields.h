/* Reading config.json by tables: a draft of the config, and typed access to keys. Internal. */
#ifndef KVF_MODEL_CONFIG_FIELDS_H
#define KVF_MODEL_CONFIG_FIELDS_H

#include "model/config.h"
#include "file/json.h"

/* The config being read, and values that are only checked or used later. */
typedef struct kvf_config_draft {
    kvf_model_config config;
    uint32_t head_dim;
    uint32_t rope_dim;
    uint32_t index_dim;
    uint32_t n_kv_heads;
    uint32_t n_hash_layers;
    uint32_t n_expert_groups;
    uint32_t n_dense_layers;
} kvf_config_draft;

/* One JSON text and where its failures are reported. */
typedef struct kvf_config_source {
    const cJSON *json;
    const char *where; /* the file's path */
    kvf_error *error;
} kvf_config_source;

#define KVF_REQUIRED (-1) /* no field is ever negative */

typedef enum kvf_field_kind {
    KVF_FIELD_U32,
    KVF_FIELD_U64,
    KVF_FIELD_F32,
    KVF_FIELD_F64
} kvf_field_kind;

/*
 * A number at `offset` of a struct. Found under any of its keys; two of them with
 * different values contradict each other. min == max: the only value this build
 * can run, so that another one is KVF_UNSUPPORTED instead of KVF_FILE_FORMAT.
 */
typedef struct kvf_number_field {
    const char *keys[3];
    kvf_field_kind kind;
    size_t offset;
    double min;
    double max;
    uint32_t multiple_of; /* 0: any */
    double fallback;      /* where the key is missing or null; or KVF_REQUIRED */
} kvf_number_field;

/* Whether the field may have that value. */
bool kvf_field_is_valid(const kvf_number_field *field, double value);
/* Writes a value that it may have into the struct at base. */
void kvf_field_store(const kvf_number_field *field, double value, void *base);
/* "a whole number from 1 to 64 is needed": what its value must be, for messages. */
typedef struct kvf_expectation {
    char text[96];
} kvf_expectation;
kvf_expectation kvf_field_expected(const kvf_number_field *field);

/*
 * Reads n fields of the JSON object (source->json or one inside it, whose name
 * `object_name` ends with a dot: "rope_scaling.") into the struct at base.
 */
kvf_status kvf_config_read_numbers(const kvf_config_source *source, const cJSON *object,
                                   const char *object_name, const kvf_number_field *fields,
                                   size_t n, void *base);

/* true or false, `fallback` where the key is missing or null. */
kvf_status kvf_config_read_bool(const kvf_config_source *source, const char *key, bool fallback,
                                bool *value);

/* "FILE: "OBJECT_NAME KEY" is VALUE; REST", with the status given. */
kvf_status kvf_config_fail(const kvf_config_source *source, kvf_status status,
                           const char *object_name, const char *key, const cJSON *value,
                           const char *rest);

/* Layer kinds, ratios and hash routing, in either style. draft->config.geometry.n_layers is set. */
kvf_status kvf_config_read_layers(const kvf_config_source *source, kvf_config_draft *draft);

/* Both rope configs, in either style. The layers are known. */
kvf_status kvf_config_read_rope(const kvf_config_source *source, kvf_config_draft *draft);

#endif
