#include "file/metadata.h"

#include "file/set_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare_key_to_metadata(const void *key, const void *metadata)
{
    return strcmp(key, ((const kvf_metadata *)metadata)->key);
}

const kvf_metadata *kvf_metadata_find(const kvf_metadata *metadata, size_t n, const char *key)
{
    return n > 0 ? bsearch(key, metadata, n, sizeof *metadata, compare_key_to_metadata) : NULL;
}

const kvf_metadata *kvf_tensor_set_metadata(const kvf_tensor_set *set, const char *key)
{
    return kvf_metadata_find(set->metadata, set->n_metadata, key);
}

const kvf_metadata *kvf_tensor_set_metadata_at(const kvf_tensor_set *set, uint32_t i)
{
    return i < set->n_metadata ? &set->metadata[i] : NULL;
}

/* [width] bytes, little endian */
static uint64_t load(const unsigned char *data, uint32_t width)
{
    uint64_t value = 0;
    while (width > 0)
        value = value << 8 | data[--width];
    return value;
}

bool kvf_metadata_u64(const kvf_metadata *metadata, uint64_t i, uint64_t *value)
{
    const uint32_t width = kvf_value_bytes(metadata->type);
    switch (metadata->type) {
    case KVF_VALUE_U8:
    case KVF_VALUE_U16:
    case KVF_VALUE_U32:
    case KVF_VALUE_U64: *value = load(metadata->data + i * width, width); return true;
    case KVF_VALUE_I8:
    case KVF_VALUE_I16:
    case KVF_VALUE_I32:
    case KVF_VALUE_I64:
        *value = load(metadata->data + i * width, width);
        return *value >> (8 * width - 1) == 0; /* the sign */
    case KVF_VALUE_F32:
    case KVF_VALUE_F64:
    case KVF_VALUE_BOOL:
    case KVF_VALUE_TEXT:
    case KVF_VALUE_ARRAY: break;
    }
    return false;
}

bool kvf_metadata_f64(const kvf_metadata *metadata, uint64_t i, double *value)
{
    if (metadata->type == KVF_VALUE_F32) {
        const uint32_t bits = (uint32_t)load(metadata->data + 4 * i, 4);
        float narrow;
        memcpy(&narrow, &bits, sizeof narrow);
        *value = (double)narrow;
        return true;
    }
    if (metadata->type != KVF_VALUE_F64)
        return false;
    const uint64_t bits = load(metadata->data + 8 * i, 8);
    memcpy(value, &bits, sizeof *value);
    return true;
}

bool kvf_metadata_bool(const kvf_metadata *metadata, uint64_t i, bool *value)
{
    if (metadata->type != KVF_VALUE_BOOL)
        return false;
    *value = metadata->data[i] != 0;
    return true;
}

bool kvf_metadata_text(const kvf_metadata *metadata, uint64_t *at, kvf_text *text)
{
    /* Checked when it was opened; again, as somebody may write to the file meanwhile. */
    if (metadata->type != KVF_VALUE_TEXT || *at > metadata->bytes || metadata->bytes - *at < 8)
        return false;
    const uint64_t bytes = load(metadata->data + *at, 8);
    if (bytes > metadata->bytes - *at - 8)
        return false;
    *text = (kvf_text){(const char *)metadata->data + *at + 8, bytes};
    *at += 8 + bytes;
    return true;
}

static const struct value_type {
    const char *name;
    uint32_t bytes; /* 0: has no fixed size */
} value_types[] = {
    [KVF_VALUE_U8] = {"u8", 1},       [KVF_VALUE_I8] = {"i8", 1},
    [KVF_VALUE_U16] = {"u16", 2},     [KVF_VALUE_I16] = {"i16", 2},
    [KVF_VALUE_U32] = {"u32", 4},     [KVF_VALUE_I32] = {"i32", 4},
    [KVF_VALUE_F32] = {"f32", 4},     [KVF_VALUE_BOOL] = {"bool", 1},
    [KVF_VALUE_TEXT] = {"string", 0}, [KVF_VALUE_ARRAY] = {"array", 0},
    [KVF_VALUE_U64] = {"u64", 8},     [KVF_VALUE_I64] = {"i64", 8},
    [KVF_VALUE_F64] = {"f64", 8},
};

uint32_t kvf_value_bytes(kvf_value_type type)
{
    return value_types[type].bytes;
}

kvf_metadata_shown kvf_metadata_show(const kvf_metadata *metadata)
{
    kvf_metadata_shown shown;
    if (metadata->is_array)
        snprintf(shown.text, sizeof shown.text, "an array of %llu %s",
                 (unsigned long long)metadata->n_values, value_types[metadata->type].name);
    else
        snprintf(shown.text, sizeof shown.text, "of type %s", value_types[metadata->type].name);
    return shown;
}

kvf_printed kvf_metadata_show_value(const kvf_metadata *metadata, uint64_t i)
{
    char shown[sizeof(kvf_printed)] = "a text";
    uint64_t number;
    uint64_t at = 0;
    double real;
    bool truth;
    kvf_text text;
    const uint32_t unused_bits = 64 - 8 * kvf_value_bytes(metadata->type);
    if (kvf_metadata_u64(metadata, i, &number))
        snprintf(shown, sizeof shown, "%llu", (unsigned long long)number);
    else if (kvf_metadata_f64(metadata, i, &real))
        snprintf(shown, sizeof shown, "%.9g", real);
    else if (kvf_metadata_bool(metadata, i, &truth))
        snprintf(shown, sizeof shown, "%s", truth ? "true" : "false");
    else if (metadata->type != KVF_VALUE_TEXT) /* negative: the number's bits, extended */
        snprintf(shown, sizeof shown, "%lld",
                 (long long)((int64_t)(number << unused_bits) >> unused_bits));
    else if (!metadata->is_array && kvf_metadata_text(metadata, &at, &text))
        snprintf(shown, sizeof shown, "\"%.120s\"",
                 kvf_printable_bytes(text.data, text.bytes < 99 ? text.bytes : 99).text);
    return kvf_printable(shown);
}
