#include "file/json.h"

#include "error.h"
#include "file/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What cJSON copies of a number; the rest of a longer one would be taken for what follows it. */
#define MAX_NUMBER_BYTES 63

static size_t count_digits(const char *text, size_t bytes)
{
    size_t n = 0;
    while (n < bytes && text[n] >= '0' && text[n] <= '9')
        n++;
    return n;
}

/* Bytes of the number that the text begins with, as RFC 8259 writes it; 0 where it is none. */
static size_t number_bytes(const char *text, size_t bytes)
{
    size_t n = text[0] == '-';
    const size_t whole = count_digits(text + n, bytes - n);
    if (whole == 0 || (whole > 1 && text[n] == '0'))
        return 0;
    n += whole;
    if (n < bytes && text[n] == '.') {
        const size_t part = count_digits(text + n + 1, bytes - n - 1);
        if (part == 0)
            return 0;
        n += 1 + part;
    }
    if (n < bytes && (text[n] == 'e' || text[n] == 'E')) {
        n++;
        n += n < bytes && (text[n] == '-' || text[n] == '+');
        const size_t exponent = count_digits(text + n, bytes - n);
        if (exponent == 0)
            return 0;
        n += exponent;
    }
    return n;
}

/*
 * A number at `at`, outside of a string. *n is its length. cJSON takes what C's strtod takes
 * of it ("1.", "01") and reads the next value behind that, where a number is not one.
 */
static kvf_status check_number(const char *text, size_t bytes, size_t at, const char *where,
                               size_t *n, kvf_error *error)
{
    char shown[44];
    size_t length = 0; /* of what was meant as one */
    while (at + length < bytes && text[at + length] > ' ' && !strchr(",:]}\"", text[at + length]))
        length++;
    *n = number_bytes(text + at, length);
    if (*n == length && length <= MAX_NUMBER_BYTES)
        return KVF_OK;
    snprintf(shown, sizeof shown, "%.*s%s", length > 40 ? 40 : (int)length, text + at,
             length > 40 ? "..." : "");
    if (*n == length)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: the number %s at byte %zu of the JSON has %zu characters; at most %d "
                        "are read",
                        kvf_printable(where).text, shown, at, length, MAX_NUMBER_BYTES);
    return kvf_fail(error, KVF_FILE_FORMAT,
                    "%s: '%s' at byte %zu is no number of JSON, so it is not valid JSON",
                    kvf_printable(where).text, kvf_printable(shown).text, at);
}

/* Checks of the raw text that cJSON does not make. */
static kvf_status check_text(const char *text, size_t bytes, const char *where, kvf_error *error)
{
    const char *file = where;
    if (bytes == 0)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: is empty; a JSON object was expected",
                        kvf_printable(file).text);
    if (bytes > KVF_JSON_MAX_BYTES)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: %zu bytes of JSON; at most %d are read",
                        kvf_printable(file).text, bytes, KVF_JSON_MAX_BYTES);
    size_t n_values = 1;
    bool in_string = false;
    for (size_t at = 0; at < bytes;) {
        size_t n = kvf_utf8_bytes(text + at, bytes - at);
        if (n == 0)
            return kvf_fail(error, KVF_FILE_FORMAT, "%s: byte %zu of the JSON is not UTF-8",
                            kvf_printable(file).text, at);
        char c = text[at];
        n_values += c == ',' || c == '[' || c == '{';
        if (c == '\\' && at + 1 < bytes && (unsigned char)text[at + 1] < 0x80)
            n = 2; /* an escape's second character starts nothing new */
        bool escaped_nul = c == '\\' && bytes - at >= 6 && memcmp(text + at, "\\u0000", 6) == 0;
        if (c == '\0' || escaped_nul)
            return kvf_fail(error, KVF_FILE_FORMAT, "%s: byte %zu of the JSON is a NUL character",
                            kvf_printable(file).text, at);
        in_string ^= c == '"'; /* an escaped one was stepped over */
        if (!in_string && (c == '-' || (c >= '0' && c <= '9'))) {
            kvf_status status = check_number(text, bytes, at, where, &n, error);
            if (status != KVF_OK)
                return status;
        }
        at += n;
    }
    if (n_values > KVF_JSON_MAX_VALUES)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: about %zu JSON values; at most %d are read",
                        kvf_printable(file).text, n_values, KVF_JSON_MAX_VALUES);
    return KVF_OK;
}

static kvf_status fail_syntax(const char *text, size_t at, const char *where, kvf_error *error)
{
    size_t line = 1;
    size_t column = 1;
    for (size_t i = 0; i < at; i++) {
        column = text[i] == '\n' ? 1 : column + 1;
        line += text[i] == '\n';
    }
    return kvf_fail(error, KVF_FILE_FORMAT, "%s: not valid JSON at line %zu, column %zu",
                    kvf_printable(where).text, line, column);
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static kvf_status check_object_keys(const cJSON *object, const char *where, kvf_error *error)
{
    size_t n = (size_t)cJSON_GetArraySize(object);
    const char *few[16]; /* nearly every object of a header has 3 keys */
    const char **keys = n <= sizeof few / sizeof *few ? few : malloc(n * sizeof *keys);
    if (!keys)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for %zu keys",
                        kvf_printable(where).text, n);
    size_t i = 0;
    for (const cJSON *item = object->child; item; item = item->next)
        keys[i++] = item->string;
    qsort(keys, n, sizeof *keys, compare_keys);
    kvf_status status = KVF_OK;
    for (i = 1; i < n && status == KVF_OK; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0)
            status = kvf_fail(error, KVF_FILE_FORMAT, "%s: \"%s\" is there twice",
                              kvf_printable(where).text, kvf_printable(keys[i]).text);
    if (keys != few)
        free(keys);
    return status;
}

/* Depth of recursion: cJSON's nesting limit (1000). */
static kvf_status check_keys(const cJSON *json, const char *where, kvf_error *error)
{
    kvf_status status = KVF_OK;
    if (cJSON_IsObject(json))
        status = check_object_keys(json, where, error);
    for (const cJSON *item = json->child; item && status == KVF_OK; item = item->next)
        if (item->child)
            status = check_keys(item, where, error);
    return status;
}

kvf_status kvf_json_parse(const char *text, size_t bytes, const char *where, cJSON **json,
                          kvf_error *error)
{
    *json = NULL;
    kvf_status status = check_text(text, bytes, where, error);
    if (status != KVF_OK)
        return status;
    const char *end = NULL;
    cJSON *parsed = cJSON_ParseWithLengthOpts(text, bytes, &end, false);
    size_t at = end ? (size_t)(end - text) : 0;
    if (!parsed)
        return fail_syntax(text, at, where, error);
    while (at < bytes && strchr(" \t\r\n", text[at]))
        at++;
    if (at < bytes)
        status = fail_syntax(text, at, where, error);
    else if (!cJSON_IsObject(parsed))
        status = kvf_fail(error, KVF_FILE_FORMAT, "%s: the JSON is %s; an object was expected",
                          kvf_printable(where).text, kvf_json_show(parsed).text);
    else
        status = check_keys(parsed, where, error);
    if (status != KVF_OK) {
        cJSON_Delete(parsed);
        return status;
    }
    *json = parsed;
    return KVF_OK;
}

const cJSON *kvf_json_get(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(item) ? NULL : item;
}

bool kvf_json_u64(const cJSON *item, uint64_t *value)
{
    const double limit = 0x1p53;
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || !(item->valuedouble < limit) ||
        floor(item->valuedouble) != item->valuedouble)
        return false;
    *value = (uint64_t)item->valuedouble;
    return true;
}

kvf_shown kvf_json_show(const cJSON *item)
{
    kvf_shown shown;
    if (cJSON_IsNumber(item))
        snprintf(shown.text, sizeof shown.text, "%.16g", item->valuedouble);
    else if (cJSON_IsString(item))
        snprintf(shown.text, sizeof shown.text, "\"%s\"", kvf_printable(item->valuestring).text);
    else
        snprintf(shown.text, sizeof shown.text, "%s",
                 cJSON_IsArray(item)    ? "an array"
                 : cJSON_IsObject(item) ? "an object"
                 : cJSON_IsTrue(item)   ? "true"
                 : cJSON_IsFalse(item)  ? "false"
                                        : "null");
    return shown;
}
