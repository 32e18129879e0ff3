#include "server/fields.h"

#include "error.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Longer numbers are nobody's: 17 digits say all of a double. */
enum { NUMBER_CHARACTERS = 64 };

bool kvf_node_number(const kvf_node *node, double *value)
{
    char text[NUMBER_CHARACTERS];
    if (node->type != KVF_NODE_NUMBER || node->text.bytes >= sizeof text)
        return false;
    memcpy(text, node->text.data, node->text.bytes);
    text[node->text.bytes] = '\0';
    *value = strtod(text, NULL);
    return isfinite(*value);
}

bool kvf_node_whole(const kvf_node *node, int64_t *value)
{
    char text[NUMBER_CHARACTERS];
    char *end;
    double number;
    if (!kvf_node_number(node, &number))
        return false;
    memcpy(text, node->text.data, node->text.bytes);
    text[node->text.bytes] = '\0';
    errno = 0;
    *value = strtoll(text, &end, 10);
    if (*end == '\0')
        return errno == 0;
    /* 5.0, 1e3: exact up to 2^53. */
    if (number != floor(number) || fabs(number) > 9007199254740992.0)
        return false;
    *value = (int64_t)number;
    return true;
}

const kvf_node *kvf_field(const kvf_fields *fields, const char *key)
{
    const kvf_node *node = fields->refusal->status ? NULL : kvf_node_member(fields->object, key);
    return node && node->type == KVF_NODE_NULL ? NULL : node;
}

bool kvf_field_refuse(const kvf_fields *fields, const char *key, const kvf_node *node,
                      const char *expected)
{
    char param[96];
    char shown[64];
    snprintf(param, sizeof param, "%s%s", fields->where, key);
    if (node->type == KVF_NODE_NUMBER || node->type == KVF_NODE_STRING)
        snprintf(shown, sizeof shown, "%.60s", kvf_span_printable(node->text).text);
    else
        snprintf(shown, sizeof shown, "%s", kvf_node_what(node));
    return kvf_refuse(fields->refusal, 400, param, "%s is %s; %s is needed", param, shown,
                      expected);
}

bool kvf_field_bool(const kvf_fields *fields, const char *key, bool *value)
{
    const kvf_node *node = kvf_field(fields, key);
    if (!node)
        return false;
    if (node->type != KVF_NODE_TRUE && node->type != KVF_NODE_FALSE)
        return kvf_field_refuse(fields, key, node, "true or false");
    *value = node->type == KVF_NODE_TRUE;
    return true;
}

bool kvf_field_number(const kvf_fields *fields, const char *key, double least, double most,
                      double *value)
{
    const kvf_node *node = kvf_field(fields, key);
    char expected[80];
    double number;
    if (!node)
        return false;
    snprintf(expected, sizeof expected, "a number from %g to %g", least, most);
    if (!kvf_node_number(node, &number) || !(number >= least && number <= most))
        return kvf_field_refuse(fields, key, node, expected);
    *value = number;
    return true;
}

bool kvf_field_float(const kvf_fields *fields, const char *key, double least, double most,
                     float *value)
{
    double number;
    const bool there = kvf_field_number(fields, key, least, most, &number);
    if (there)
        *value = (float)number;
    return there;
}

bool kvf_field_whole(const kvf_fields *fields, const char *key, int64_t least, int64_t most,
                     int64_t *value)
{
    const kvf_node *node = kvf_field(fields, key);
    char expected[96];
    int64_t number;
    if (!node)
        return false;
    snprintf(expected, sizeof expected, "a whole number from %lld to %lld", (long long)least,
             (long long)most);
    if (!kvf_node_whole(node, &number) || number < least || number > most)
        return kvf_field_refuse(fields, key, node, expected);
    *value = number;
    return true;
}

bool kvf_field_string(const kvf_fields *fields, const char *key, kvf_span *value)
{
    const kvf_node *node = kvf_field(fields, key);
    if (!node)
        return false;
    if (node->type != KVF_NODE_STRING)
        return kvf_field_refuse(fields, key, node, "a string");
    *value = node->text;
    return true;
}

bool kvf_field_object(const kvf_fields *fields, const char *key, const char *where,
                      kvf_fields *inner)
{
    const kvf_node *node = kvf_field(fields, key);
    if (!node)
        return false;
    if (node->type != KVF_NODE_OBJECT)
        return kvf_field_refuse(fields, key, node, "an object");
    *inner = (kvf_fields){.object = node, .where = where, .refusal = fields->refusal};
    return true;
}
