#include "model/config_fields.h"

#include "error.h"
#include "file/file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

kvf_status kvf_config_fail(const kvf_config_source *source, kvf_status status,
                           const char *object_name, const char *key, const cJSON *value,
                           const char *rest)
{
    return kvf_fail(source->error, status, "%s: \"%s%s\" is %s; %s",
                    kvf_printable(source->where).text, object_name, key,
                    value ? kvf_json_show(value).text : "missing", rest);
}

kvf_status kvf_config_contradict(const kvf_config_source *source, const char *a,
                                 const char *value_a, const char *b, const char *value_b)
{
    return kvf_fail(source->error, KVF_FILE_FORMAT,
                    "%s: \"%s\" is %s, but \"%s\" is %s; they mean the same",
                    kvf_printable(source->where).text, a, value_a, b, value_b);
}

/* Finds the field under any of its keys; *key is the one that was found. */
static kvf_status find_field(const kvf_config_source *source, const cJSON *object,
                             const char *object_name, const kvf_config_field *field,
                             const cJSON **item, const char **key)
{
    *item = NULL;
    *key = field->keys[0];
    for (size_t i = 0; i < sizeof field->keys / sizeof *field->keys && field->keys[i]; i++) {
        const cJSON *found = kvf_json_get(object, field->keys[i]);
        if (found && *item && !cJSON_Compare(found, *item, true)) {
            char a[96];
            char b[96];
            snprintf(a, sizeof a, "%s%s", object_name, *key);
            snprintf(b, sizeof b, "%s%s", object_name, field->keys[i]);
            return kvf_config_contradict(source, a, kvf_json_show(*item).text, b,
                                         kvf_json_show(found).text);
        }
        if (found && !*item) {
            *item = found;
            *key = field->keys[i];
        }
    }
    return KVF_OK;
}

kvf_expectation kvf_field_expected(const kvf_config_field *field)
{
    kvf_expectation e;
    bool whole = field->kind == KVF_FIELD_U32 || field->kind == KVF_FIELD_U64;
    if (field->kind == KVF_FIELD_BOOL && field->min >= field->max)
        snprintf(e.text, sizeof e.text, "only %s is supported", field->min > 0 ? "true" : "false");
    else if (field->kind == KVF_FIELD_BOOL)
        snprintf(e.text, sizeof e.text, "true or false is needed");
    else if (field->min >= field->max)
        snprintf(e.text, sizeof e.text, "only %.9g is supported", field->min);
    else if (field->multiple_of > 1)
        snprintf(e.text, sizeof e.text, "a multiple of %u from %.9g to %.10g is needed",
                 field->multiple_of, field->min, field->max);
    else
        snprintf(e.text, sizeof e.text, "a %s from %.9g to %.10g is needed",
                 whole ? "whole number" : "number", field->min, field->max);
    return e;
}

bool kvf_field_is_valid(const kvf_config_field *field, double value)
{
    bool whole = field->kind == KVF_FIELD_U32 || field->kind == KVF_FIELD_U64;
    if (!(value >= field->min && value <= field->max)) /* also a NaN */
        return false;
    if (whole && floor(value) != value)
        return false;
    return field->multiple_of == 0 || (uint64_t)value % field->multiple_of == 0;
}

void kvf_field_store(const kvf_config_field *field, double value, void *base)
{
    if (field->offset == KVF_ONLY_CHECKED)
        return;
    void *target = (char *)base + field->offset;
    switch (field->kind) {
    case KVF_FIELD_U32: *(uint32_t *)target = (uint32_t)value; break;
    case KVF_FIELD_U64: *(uint64_t *)target = (uint64_t)value; break;
    case KVF_FIELD_F32: *(float *)target = (float)value; break;
    case KVF_FIELD_F64: *(double *)target = value; break;
    default: *(bool *)target = value > 0; break;
    }
}

static kvf_status check_text(const kvf_config_source *source, const char *object_name,
                             const kvf_config_field *field, const cJSON *item, const char *key)
{
    const size_t n = sizeof field->values / sizeof *field->values;
    if (!item)
        return KVF_OK;
    for (size_t i = 0; i < n && field->values[i] && cJSON_IsString(item); i++)
        if (strcmp(item->valuestring, field->values[i]) == 0)
            return KVF_OK;
    return kvf_config_fail(source, cJSON_IsString(item) ? KVF_UNSUPPORTED : KVF_FILE_FORMAT,
                           object_name, key, item, field->rest);
}

/* A number or a truth. */
static kvf_status read_value(const kvf_config_source *source, const char *object_name,
                             const kvf_config_field *field, const cJSON *item, const char *key,
                             void *base)
{
    const bool is_kind = field->kind == KVF_FIELD_BOOL ? cJSON_IsBool(item) : cJSON_IsNumber(item);
    if (!item && field->fallback >= 0) {
        kvf_field_store(field, field->fallback, base);
        return KVF_OK;
    }
    const double value = is_kind && field->kind == KVF_FIELD_BOOL ? cJSON_IsTrue(item)
                         : is_kind                                ? item->valuedouble
                                                                  : -1;
    if (!is_kind || !kvf_field_is_valid(field, value)) {
        const bool other = is_kind && field->min >= field->max;
        return kvf_config_fail(source, other ? KVF_UNSUPPORTED : KVF_FILE_FORMAT, object_name, key,
                               item, kvf_field_expected(field).text);
    }
    kvf_field_store(field, value, base);
    return KVF_OK;
}

kvf_status kvf_config_read_fields(const kvf_config_source *source, const cJSON *object,
                                  const char *object_name, const kvf_config_field *fields, size_t n,
                                  void *base)
{
    for (size_t i = 0; i < n; i++) {
        const kvf_config_field *field = &fields[i];
        const cJSON *item = NULL;
        const char *key = NULL;
        kvf_status status = find_field(source, object, object_name, field, &item, &key);
        if (status == KVF_OK && field->kind == KVF_FIELD_TEXT)
            status = check_text(source, object_name, field, item, key);
        else if (status == KVF_OK && field->kind < KVF_FIELD_TEXT)
            status = read_value(source, object_name, field, item, key, base);
        if (status != KVF_OK)
            return status;
    }
    return KVF_OK;
}

bool kvf_config_knows(const kvf_config_field *fields, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < sizeof fields->keys / sizeof *fields->keys && fields[i].keys[k]; k++)
            if (strcmp(fields[i].keys[k], key) == 0)
                return true;
    return false;
}

kvf_status kvf_config_check_section(const kvf_config_source *source, const cJSON *object,
                                    const char *object_name, const kvf_config_field *fields,
                                    size_t n)
{
    if (!cJSON_IsObject(object)) {
        char name[64]; /* without the dot */
        snprintf(name, sizeof name, "%.*s", (int)strlen(object_name) - 1, object_name);
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", name, object, "an object is needed");
    }
    for (const cJSON *item = object->child; item; item = item->next)
        if (!cJSON_IsNull(item) && !kvf_config_knows(fields, n, item->string))
            return kvf_config_fail(source, KVF_UNSUPPORTED, object_name,
                                   kvf_printable(item->string).text, item,
                                   "nothing is known of this key, and it may change the model");
    return KVF_OK;
}
