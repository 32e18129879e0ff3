/* JSON from files nobody vouches for: cJSON behind the checks that it leaves out. Internal. */
#ifndef KVF_FILE_JSON_H
#define KVF_FILE_JSON_H

#include "kvfold.h"

#include <cjson/cJSON.h>

/* The limit of the safetensors format for a header, used for every JSON text. */
#define KVF_JSON_MAX_BYTES 100000000

/*
 * Values in one text: a checkpoint of 70,000 tensors has about 600,000. Each costs
 * cJSON some 80 bytes whatever its text is ("1," is 2), so the text's size alone
 * would not bound the memory.
 */
#define KVF_JSON_MAX_VALUES 4000000

/*
 * Parses one JSON object; `where` names the text in messages. Refused with
 * KVF_FILE_FORMAT: bad syntax (with line and column), text after the object, a
 * number that JSON does not write so or of more than 63 characters, anything but UTF-8, a NUL
 * character (also as an escape: it would cut the name), nesting deeper than cJSON's limit, a key
 * that one object has twice. A byte order mark before it is passed over. *json is freed with
 * cJSON_Delete.
 */
kvf_status kvf_json_parse(const char *text, size_t bytes, const char *where, cJSON **json,
                          kvf_error *error);

/* The value of a key, NULL where it is missing or null. */
const cJSON *kvf_json_get(const cJSON *object, const char *key);

/* A whole number 0 .. 2^53 - 1, which a double holds exactly; false for anything else. */
bool kvf_json_u64(const cJSON *item, uint64_t *value);

/* A value as messages show it: 12, "text", an array .. */
typedef struct kvf_shown {
    char text[168];
} kvf_shown;
kvf_shown kvf_json_show(const cJSON *item);

#endif
