#include "model/config_fields.h"

#include "error.h"
#include "file/file.h"

#include <math.h>
#include <stdio.h>

kvf_status kvf_config_fail(const kvf_config_source *source, kvf_status status,
                           const char *object_name, const char *key, const cJSON *value,
                           const char *rest)
{
    return kvf_fail(source->error, status, "%s: \"%s%s\" is %s; %s",
                    kvf_printable(source->where).text, object_name, key,
                    value ? kvf_json_show(value).text : "missing", rest);
}

/* Finds the field under any of its keys; *key is the one that was found. */
static kvf_status find_field(const kvf_config_source *source, const cJSON *object,
                             const char *object_name, const kvf_number_field *field,
                             const cJSON **item, const char **key)
{
    *item = NULL;
    *key = field->keys[0];
    for (size_t i = 0; i < sizeof field->keys / sizeof *field->keys && field->keys[i]; i++) {
        const cJSON *found = kvf_json_get(object, field->keys[i]);
        if (found && *item && !cJSON_Compare(found, *item, true))
            return kvf_fail(source->error, KVF_FILE_FORMAT,
                            "%s: \"%s%s\" is %s, but \"%s%s\" is %s; they mean the same",
                            kvf_printable(source->where).text, object_name, *key,
                            kvf_json_show(*item).text, object_name, field->keys[i],
                            kvf_json_show(found).text);
        if (found && !*item) {
            *item = found;
            *key = field->keys[i];
        }
    }
    return KVF_OK;
}

kvf_expectation kvf_field_expected(const kvf_number_field *field)
{
    kvf_expectation e;
    bool whole = field->kind == KVF_FIELD_U32 || field->kind == KVF_FIELD_U64;
    if (field->min >= field->max)
        snprintf(e.text, sizeof e.text, "only %.9g is supported", field->min);
    else if (field->multiple_of > 1)
        snprintf(e.text, sizeof e.text, "a multiple of %u from %.9g to %.10g is needed",
                 field->multiple_of, field->min, field->max);
    else
        snprintf(e.text, sizeof e.text, "a %s from %.9g to %.10g is needed",
                 whole ? "whole number" : "number", field->min, field->max);
    return e;
}

bool kvf_field_is_valid(const kvf_number_field *field, double value)
{
    bool whole = field->kind == KVF_FIELD_U32 || field->kind == KVF_FIELD_U64;
    if (!(value >= field->min && value <= field->max)) /* also a NaN */
        return false;
    if (whole && floor(value) != value)
        return false;
    return field->multiple_of == 0 || (uint64_t)value % field->multiple_of == 0;
}

void kvf_field_store(const kvf_number_field *field, double value, void *base)
{
    void *target = (char *)base + field->offset;
    switch (field->kind) {
    case KVF_FIELD_U32: *(uint32_t *)target = (uint32_t)value; break;
    case KVF_FIELD_U64: *(uint64_t *)target = (uint64_t)value; break;
    case KVF_FIELD_F32: *(float *)target = (float)value; break;
    case KVF_FIELD_F64: *(double *)target = value; break;
    }
}

kvf_status kvf_config_read_numbers(const kvf_config_source *source, const cJSON *object,
                                   const char *object_name, const kvf_number_field *fields,
                                   size_t n, void *base)
{
    for (size_t i = 0; i < n; i++) {
        const kvf_number_field *field = &fields[i];
        const cJSON *item = NULL;
        const char *key = NULL;
        kvf_status status = find_field(source, object, object_name, field, &item, &key);
        if (status != KVF_OK)
            return status;
        if (!item && field->fallback >= 0) {
            kvf_field_store(field, field->fallback, base);
            continue;
        }
        if (!cJSON_IsNumber(item) || !kvf_field_is_valid(field, item->valuedouble)) {
            status = cJSON_IsNumber(item) && field->min >= field->max ? KVF_UNSUPPORTED
                                                                      : KVF_FILE_FORMAT;
            return kvf_config_fail(source, status, object_name, key, item,
                                   kvf_field_expected(field).text);
        }
        kvf_field_store(field, item->valuedouble, base);
    }
    return KVF_OK;
}

kvf_status kvf_config_read_bool(const kvf_config_source *source, const char *key, bool fallback,
                                bool *value)
{
    const cJSON *item = kvf_json_get(source->json, key);
    *value = item ? cJSON_IsTrue(item) : fallback;
    if (item && !cJSON_IsBool(item))
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", key, item, "true or false is needed");
    return KVF_OK;
}
