/* Reading config.json by tables: a draft of the config, and typed access to keys. Internal. */
#ifndef KVF_MODEL_CONFIG_FIELDS_H
#define KVF_MODEL_CONFIG_FIELDS_H

#include "model/config.h"
#include "file/json.h"

/* The config being read, and values that are only used while it is. */
typedef struct kvf_config_draft {
    kvf_model_config config;
    uint32_t n_hash_layers;
} kvf_config_draft;

/* One JSON text and where its failures are reported. */
typedef struct kvf_config_source {
    const cJSON *json;
    const char *where; /* the file's path */
    kvf_error *error;
} kvf_config_source;

#define KVF_REQUIRED (-1)             /* no number is ever negative */
#define KVF_ONLY_CHECKED ((size_t)-1) /* no place: only this build's value is accepted */

/* How a key is treated. */
typedef enum kvf_field_kind {
    KVF_FIELD_U32, /* a number .. */
    KVF_FIELD_U64,
    KVF_FIELD_F32,
    KVF_FIELD_F64,
    KVF_FIELD_BOOL,   /* .. or truth, 0 or 1, which is followed, or must have one value */
    KVF_FIELD_TEXT,   /* a text that must have one of some values, where it is there */
    KVF_FIELD_PART,   /* read by code that knows its structure */
    KVF_FIELD_IGNORED /* known to change nothing of what is computed here */
} kvf_field_kind;

/*
 * A key of a JSON object, or several that mean the same: two of them with different values
 * contradict each other. min == max: the only value this build can run, so that another one
 * is KVF_UNSUPPORTED instead of KVF_FILE_FORMAT.
 */
typedef struct kvf_config_field {
    const char *keys[3];
    kvf_field_kind kind;
    size_t offset; /* in a struct; or KVF_ONLY_CHECKED */
    double min;
    double max;
    uint32_t multiple_of;  /* 0: any */
    double fallback;       /* where the key is missing or null; or KVF_REQUIRED */
    const char *values[6]; /* of a text */
    const char *rest;      /* of a text: what is said of any other value */
} kvf_config_field;

/* Whether the field may have that value. */
bool kvf_field_is_valid(const kvf_config_field *field, double value);
/* Writes a value that it may have into the struct at base. */
void kvf_field_store(const kvf_config_field *field, double value, void *base);
/* "a whole number from 1 to 64 is needed": what its value must be, for messages. */
typedef struct kvf_expectation {
    char text[96];
} kvf_expectation;
kvf_expectation kvf_field_expected(const kvf_config_field *field);

/*
 * Reads the n fields of the JSON object (source->json or one inside it, whose name
 * `object_name` ends with a dot: "rope_scaling.") into the struct at base.
 */
kvf_status kvf_config_read_fields(const kvf_config_source *source, const cJSON *object,
                                  const char *object_name, const kvf_config_field *fields, size_t n,
                                  void *base);

/* Whether one of the fields has this key. */
bool kvf_config_knows(const kvf_config_field *fields, size_t n, const char *key);

/*
 * Refuses an object inside of the config that is none, or that has a key of which no field
 * knows, unless it is null: what nobody here knows may be what the model needs.
 */
kvf_status kvf_config_check_section(const kvf_config_source *source, const cJSON *object,
                                    const char *object_name, const kvf_config_field *fields,
                                    size_t n);

/* "FILE: "OBJECT_NAME KEY" is VALUE; REST", with the status given. */
kvf_status kvf_config_fail(const kvf_config_source *source, kvf_status status,
                           const char *object_name, const char *key, const cJSON *value,
                           const char *rest);

/* "FILE: "A" is VALUE_A, but "B" is VALUE_B; they mean the same", as KVF_FILE_FORMAT. */
kvf_status kvf_config_contradict(const kvf_config_source *source, const char *a,
                                 const char *value_a, const char *b, const char *value_b);

/* Layer kinds, ratios and hash routing, in either style. draft->config.geometry.n_layers is set. */
kvf_status kvf_config_read_layers(const kvf_config_source *source, kvf_config_draft *draft);

/* Both rope configs, in either style. The layers are known. */
kvf_status kvf_config_read_rope(const kvf_config_source *source, kvf_config_draft *draft);

#endif
