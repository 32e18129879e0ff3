/*
 * Rotary embeddings, said in three ways: rope_parameters {main, compress}; rope_theta and
 * compress_rope_theta with rope_scaling, which then is of the compressing layers alone; and
 * the same with rope_scaling's flat names. All that are there must say the same.
 */
#include "error.h"
#include "model/config_fields.h"
#include "file/file.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Far from all models; at 1 YaRN's ramp would divide by log(1). */
#define MIN_THETA 2
#define MAX_THETA 1e12

#define AT(member) offsetof(kvf_rope_config, member)

/* 0: not given */
typedef struct thetas {
    double window;
    double compress;
} thetas;

/* clang-format off */
static const kvf_config_field theta_fields[] = {
    {{"rope_theta"}, KVF_FIELD_F64, offsetof(thetas, window),
     MIN_THETA, MAX_THETA, 0, 0, {0}, NULL},
    {{"compress_rope_theta"}, KVF_FIELD_F64, offsetof(thetas, compress),
     MIN_THETA, MAX_THETA, 0, 0, {0}, NULL},
    {{"partial_rotary_factor"}, KVF_FIELD_F64, KVF_ONLY_CHECKED,
     0.125, 0.125, 0, 0.125, {0}, NULL},
};

/* Of a rope object: first what a type needs, then what has one value in all models here. */
enum { THETA_FIELD, FIRST_YARN_FIELD, N_YARN_FIELDS = 4,
       FIRST_FIXED_FIELD = FIRST_YARN_FIELD + N_YARN_FIELDS };
static const kvf_config_field object_fields[] = {
    {{"rope_theta"}, KVF_FIELD_F64, AT(theta),
     MIN_THETA, MAX_THETA, 0, KVF_REQUIRED, {0}, NULL},
    {{"factor"}, KVF_FIELD_F64, AT(factor),
     1, 1e6, 0, KVF_REQUIRED, {0}, NULL},
    {{"beta_fast"}, KVF_FIELD_F64, AT(beta_fast),
     1e-3, 1e6, 0, 32, {0}, NULL},
    {{"beta_slow"}, KVF_FIELD_F64, AT(beta_slow),
     1e-3, 1e6, 0, 1, {0}, NULL},
    {{"original_max_position_embeddings"}, KVF_FIELD_F64, AT(original_max_tokens),
     1, 0x1p30, 0, KVF_REQUIRED, {0}, NULL},
    {{"rope_type", "type"}, KVF_FIELD_TEXT, KVF_ONLY_CHECKED, 0, 0, 0, 0,
     {"default", "yarn"}, "only \"default\" and \"yarn\" are supported"},
    /* 64 of 512 */
    {{"partial_rotary_factor"}, KVF_FIELD_F64, KVF_ONLY_CHECKED,
     0.125, 0.125, 0, 0.125, {0}, NULL},
    /* YaRN's magnitude scaling: only none of it is supported. */
    {{"attention_factor"}, KVF_FIELD_F64, KVF_ONLY_CHECKED, 1, 1, 0, 1, {0}, NULL},
    {{"mscale"}, KVF_FIELD_F64, KVF_ONLY_CHECKED, 1, 1, 0, 1, {0}, NULL},
    {{"mscale_all_dim"}, KVF_FIELD_F64, KVF_ONLY_CHECKED, 1, 1, 0, 1, {0}, NULL},
    /* YaRN's ramp between whole pairs */
    {{"truncate"}, KVF_FIELD_BOOL, KVF_ONLY_CHECKED, true, true, 0, true, {0}, NULL},
};
enum { N_OBJECT_FIELDS = sizeof object_fields / sizeof *object_fields };

/* The same of the config itself; the length is read before them, since 0 is no YaRN. */
static const kvf_config_field flat_fields[N_YARN_FIELDS] = {
    {{"rope_factor"}, KVF_FIELD_F64, AT(factor),
     1, 1e6, 0, KVF_REQUIRED, {0}, NULL},
    {{"beta_fast"}, KVF_FIELD_F64, AT(beta_fast),
     1e-3, 1e6, 0, 32, {0}, NULL},
    {{"beta_slow"}, KVF_FIELD_F64, AT(beta_slow),
     1e-3, 1e6, 0, 1, {0}, NULL},
    {{"original_seq_len"}, KVF_FIELD_F64, AT(original_max_tokens),
     1, 0x1p30, 0, KVF_REQUIRED, {0}, NULL},
};

static const kvf_config_field parameter_fields[] = {
    {{"main"}, KVF_FIELD_PART, 0, 0, 0, 0, 0, {0}, NULL},
    {{"compress"}, KVF_FIELD_PART, 0, 0, 0, 0, 0, {0}, NULL},
};
/* clang-format on */

/* ---- One rope ----------------------------------------------------------------------- */

/* One way in which a rope is said: its values, and what messages call them. */
typedef struct said_rope {
    bool is_there;
    kvf_rope_config rope;
    const char *object; /* "rope_scaling.", or empty: the flat names */
} said_rope;

static kvf_status read_yarn(const kvf_config_source *source, const cJSON *object,
                            const kvf_config_field *yarn_fields, said_rope *said)
{
    kvf_rope_config *rope = &said->rope;
    kvf_status status =
        kvf_config_read_fields(source, object, said->object, yarn_fields, N_YARN_FIELDS, rope);
    if (status != KVF_OK)
        return status;
    if (rope->beta_fast < rope->beta_slow)
        return kvf_config_fail(source, KVF_FILE_FORMAT, said->object, "beta_fast",
                               kvf_json_get(object, "beta_fast"), "it must not be below beta_slow");
    rope->yarn = true;
    return KVF_OK;
}

/* A rope object of either style, without its theta. */
static kvf_status read_object(const kvf_config_source *source, const cJSON *object,
                              const kvf_config_field *known, size_t n_known, said_rope *said)
{
    said->is_there = true;
    kvf_status status = kvf_config_check_section(source, object, said->object, known, n_known);
    if (status != KVF_OK)
        return status;
    const cJSON *type = kvf_json_get(object, "rope_type");
    const char *type_key = type ? "rope_type" : "type";
    if (!type)
        type = kvf_json_get(object, "type");
    if (!cJSON_IsString(type))
        return kvf_config_fail(source, KVF_FILE_FORMAT, said->object, type_key, type,
                               "\"default\" or \"yarn\" is needed");
    status = kvf_config_read_fields(source, object, said->object, object_fields + FIRST_FIXED_FIELD,
                                    N_OBJECT_FIELDS - FIRST_FIXED_FIELD, NULL);
    if (status != KVF_OK)
        return status;
    if (strcmp(type->valuestring, "yarn") == 0)
        return read_yarn(source, object, object_fields + FIRST_YARN_FIELD, said);
    const cJSON *factor = kvf_json_get(object, "factor");
    if (factor && !(cJSON_IsNumber(factor) && factor->valuedouble == 1))
        return kvf_config_fail(source, KVF_FILE_FORMAT, said->object, "factor", factor,
                               "its type is \"default\", which has none");
    return KVF_OK;
}

/* rope_parameters.main or .compress. */
static kvf_status read_nested(const kvf_config_source *source, const cJSON *parameters,
                              const char *key, said_rope *said)
{
    const cJSON *object = kvf_json_get(parameters, key);
    kvf_status status = read_object(source, object, object_fields, N_OBJECT_FIELDS, said);
    if (status == KVF_OK)
        status = kvf_config_read_fields(source, object, said->object, object_fields + THETA_FIELD,
                                        1, &said->rope);
    if (status != KVF_OK)
        return status;
    /* The transformers library scales by 0.1 ln(factor) + 1 when this key is missing here. */
    if (said->rope.yarn && said->rope.factor > 1 && !kvf_json_get(object, "attention_factor"))
        return kvf_config_fail(source, KVF_UNSUPPORTED, said->object, "attention_factor", NULL,
                               "that means YaRN's magnitude scaling; only 1 is supported");
    return KVF_OK;
}

/* DeepSeek's flat names; a length of 0 is no YaRN, whatever the others are. */
static kvf_status read_flat(const kvf_config_source *source, said_rope *said)
{
    const cJSON *length = kvf_json_get(source->json, "original_seq_len");
    const char *given = NULL;
    for (int i = 0; i < N_YARN_FIELDS && !given; i++)
        if (kvf_json_get(source->json, flat_fields[i].keys[0]))
            given = flat_fields[i].keys[0];
    said->is_there = given != NULL;
    if (given && !length)
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", given,
                               kvf_json_get(source->json, given),
                               "it means nothing without \"original_seq_len\"");
    uint64_t tokens = 0;
    if (!length || (kvf_json_u64(length, &tokens) && tokens == 0))
        return KVF_OK;
    return read_yarn(source, source->json, flat_fields, said);
}

/* ---- All of them together ------------------------------------------------------------- */

/* The name of a value of a said rope. */
static void name_value(const said_rope *said, const char *key, const char *flat, char name[96])
{
    snprintf(name, 96, "%s%s", said->object, said->object[0] ? key : flat);
}

static kvf_status compare_value(const kvf_config_source *source, const said_rope *a,
                                const said_rope *b, int field, double value_a, double value_b)
{
    char names[2][96];
    char values[2][32];
    const char *key = object_fields[FIRST_YARN_FIELD + field].keys[0];
    if (value_a == value_b)
        return KVF_OK;
    name_value(a, key, flat_fields[field].keys[0], names[0]);
    name_value(b, key, flat_fields[field].keys[0], names[1]);
    snprintf(values[0], sizeof values[0], "%.9g", value_a);
    snprintf(values[1], sizeof values[1], "%.9g", value_b);
    return kvf_config_contradict(source, names[0], values[0], names[1], values[1]);
}

/* Two ropes of the compressing layers. */
static kvf_status compare(const kvf_config_source *source, const said_rope *a, const said_rope *b)
{
    char names[2][96];
    if (!a->is_there || !b->is_there)
        return KVF_OK;
    if (a->rope.yarn != b->rope.yarn) {
        name_value(a, "rope_type", "original_seq_len", names[0]);
        name_value(b, "rope_type", "original_seq_len", names[1]);
        return kvf_config_contradict(source, names[0], a->rope.yarn ? "of YaRN" : "of no YaRN",
                                     names[1], b->rope.yarn ? "of YaRN" : "of no YaRN");
    }
    kvf_status status = compare_value(source, a, b, 0, a->rope.factor, b->rope.factor);
    if (status == KVF_OK)
        status = compare_value(source, a, b, 1, a->rope.beta_fast, b->rope.beta_fast);
    if (status == KVF_OK)
        status = compare_value(source, a, b, 2, a->rope.beta_slow, b->rope.beta_slow);
    if (status == KVF_OK)
        status = compare_value(source, a, b, 3, a->rope.original_max_tokens,
                               b->rope.original_max_tokens);
    return status;
}

/* The theta outside of rope_parameters, 0 for none, and the one inside. */
static kvf_status compare_theta(const kvf_config_source *source, const char *key, double top,
                                const said_rope *nested)
{
    char name[96];
    char values[2][32];
    if (!(top > 0) || top == nested->rope.theta)
        return KVF_OK;
    snprintf(name, sizeof name, "%srope_theta", nested->object);
    snprintf(values[0], sizeof values[0], "%.9g", top);
    snprintf(values[1], sizeof values[1], "%.9g", nested->rope.theta);
    return kvf_config_contradict(source, key, values[0], name, values[1]);
}

static kvf_status read_parameters(const kvf_config_source *source, const cJSON *parameters,
                                  thetas top, said_rope *window, said_rope *compress)
{
    kvf_status status = read_nested(source, parameters, "main", window);
    if (status == KVF_OK)
        status = compare_theta(source, "rope_theta", top.window, window);
    if (status == KVF_OK)
        status = read_nested(source, parameters, "compress", compress);
    if (status == KVF_OK)
        status = compare_theta(source, "compress_rope_theta", top.compress, compress);
    if (status == KVF_OK)
        status = kvf_config_check_section(source, parameters, "rope_parameters.", parameter_fields,
                                          sizeof parameter_fields / sizeof *parameter_fields);
    return status;
}

static bool has_compressing_layer(const kvf_geometry *geometry)
{
    for (uint32_t i = 0; i < geometry->n_layers; i++)
        if (geometry->layers[i].kind != KVF_LAYER_WINDOW)
            return true;
    return false;
}

/* A longest context that YaRN is not stretched to: one of the three numbers is another's. */
static kvf_status check_length(const kvf_config_source *source, const kvf_geometry *geometry,
                               const said_rope *compress)
{
    const kvf_rope_config *rope = &compress->rope;
    const char *key = kvf_json_get(source->json, "max_position_embeddings")
                          ? "max_position_embeddings"
                          : "max_seq_len";
    const cJSON *length = kvf_json_get(source->json, key);
    char rest[200];
    if (!length || !rope->yarn || !has_compressing_layer(geometry) ||
        (double)geometry->max_tokens <= rope->factor * rope->original_max_tokens)
        return KVF_OK;
    snprintf(rest, sizeof rest, "\"%s%s\" %.9g times \"%s%s\" %.10g are fewer tokens",
             compress->object, compress->object[0] ? "factor" : "rope_factor", rope->factor,
             compress->object,
             compress->object[0] ? "original_max_position_embeddings" : "original_seq_len",
             rope->original_max_tokens);
    return kvf_config_fail(source, KVF_FILE_FORMAT, "", key, length, rest);
}

static kvf_status check_thetas(const kvf_config_source *source, const kvf_config_draft *draft,
                               thetas top)
{
    if (!(top.window > 0))
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", "rope_theta", NULL,
                               "it or \"rope_parameters\" is needed");
    if (!(top.compress > 0) && has_compressing_layer(&draft->config.geometry))
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", "compress_rope_theta", NULL,
                               "it or \"rope_parameters\" is needed");
    return KVF_OK;
}

kvf_status kvf_config_read_rope(const kvf_config_source *source, kvf_config_draft *draft)
{
    said_rope window = {.object = "rope_parameters.main."};
    said_rope nested = {.object = "rope_parameters.compress."};
    said_rope scaling = {.object = "rope_scaling."};
    said_rope flat = {.object = ""};
    thetas top;
    const cJSON *parameters = kvf_json_get(source->json, "rope_parameters");
    const cJSON *scaled = kvf_json_get(source->json, "rope_scaling");
    kvf_status status = kvf_config_read_fields(source, source->json, "", theta_fields,
                                               sizeof theta_fields / sizeof *theta_fields, &top);
    if (status == KVF_OK && parameters)
        status = read_parameters(source, parameters, top, &window, &nested);
    else if (status == KVF_OK)
        status = check_thetas(source, draft, top);
    if (status == KVF_OK && scaled)
        status = read_object(source, scaled, object_fields + FIRST_YARN_FIELD,
                             N_OBJECT_FIELDS - FIRST_YARN_FIELD, &scaling);
    if (status == KVF_OK)
        status = read_flat(source, &flat);
    if (status == KVF_OK)
        status = compare(source, &scaling, &nested);
    if (status == KVF_OK)
        status = compare(source, &flat, &nested);
    if (status == KVF_OK)
        status = compare(source, &flat, &scaling);
    if (status != KVF_OK)
        return status;
    const said_rope *compress = nested.is_there ? &nested : scaling.is_there ? &scaling : &flat;
    draft->config.rope_window = window.rope;
    draft->config.rope_compress = compress->rope;
    if (!parameters) {
        draft->config.rope_window.theta = top.window;
        draft->config.rope_compress.theta = top.compress > 0 ? top.compress : top.window;
    }
    return check_length(source, &draft->config.geometry, compress);
}
