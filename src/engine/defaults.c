#include "engine/defaults.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "file/json.h"
#include "file/metadata.h"

static const char generation_name[] = "generation_config.json";

/* As the options of the same names; above 100 every token is as likely as another. */
static const double most_temperature = 100;

/* A setting by its names in both containers. */
typedef struct setting {
    const char *key;
    const char *gguf_key;
    double most;
    size_t offset; /* in kvf_draw_defaults, of a float */
} setting;

enum { N_SETTINGS = 3 };
static const setting settings[N_SETTINGS] = {
    {"temperature", "general.sampling.temp", most_temperature,
     offsetof(kvf_draw_defaults, temperature)},
    {"top_p", "general.sampling.top_p", 1, offsetof(kvf_draw_defaults, top_p)},
    {"min_p", "general.sampling.min_p", 1, offsetof(kvf_draw_defaults, min_p)},
};

/* Settings that change what is drawn and that no sampler here has, with the value that is off. */
static const struct {
    const char *key;
    double off;
} others[] = {{"top_k", 0},      {"typical_p", 1},          {"epsilon_cutoff", 0},
              {"eta_cutoff", 0}, {"repetition_penalty", 1}, {"no_repeat_ngram_size", 0},
              {"num_beams", 1},  {"presence_penalty", 0},   {"frequency_penalty", 0}};

static kvf_draw_defaults of_kvfold(void)
{
    return (kvf_draw_defaults){.temperature = 0, .top_p = 1, .min_p = 0};
}

static void take(kvf_draw_defaults *defaults, const setting *s, double value)
{
    *(float *)(void *)((char *)defaults + s->offset) = (float)value;
    defaults->are_there = true;
}

/* ---- generation_config.json ------------------------------------------------------------ */

static kvf_status fail(const char *where, const char *key, const cJSON *value, const char *expected,
                       kvf_error *error)
{
    return kvf_fail(error, KVF_FILE_FORMAT, "%s: \"%s\" is %s; %s is needed",
                    kvf_printable(where).text, key, kvf_json_show(value).text, expected);
}

static kvf_status read_settings(const cJSON *json, const char *where, kvf_draw_defaults *defaults,
                                kvf_error *error)
{
    for (int i = 0; i < N_SETTINGS; i++) {
        const setting *s = &settings[i];
        const cJSON *value = kvf_json_get(json, s->key);
        char expected[48];
        if (!value)
            continue;
        snprintf(expected, sizeof expected, "a number from 0 to %g", s->most);
        if (!cJSON_IsNumber(value) || !(value->valuedouble >= 0 && value->valuedouble <= s->most))
            return fail(where, s->key, value, expected, error);
        take(defaults, s, value->valuedouble);
    }
    return KVF_OK;
}

static void note_others(const cJSON *json, kvf_draw_defaults *defaults)
{
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        const cJSON *value = kvf_json_get(json, others[i].key);
        const size_t used = strlen(defaults->passed_over);
        if (!value || (cJSON_IsNumber(value) && value->valuedouble == others[i].off))
            continue;
        snprintf(defaults->passed_over + used, sizeof defaults->passed_over - used, "%s%s",
                 used > 0 ? ", " : "", others[i].key);
    }
}

static kvf_status read_json(const cJSON *json, const char *where, kvf_draw_defaults *defaults,
                            kvf_error *error)
{
    const cJSON *sample = kvf_json_get(json, "do_sample");
    if (sample && !cJSON_IsBool(sample))
        return fail(where, "do_sample", sample, "true or false", error);
    const kvf_status status = read_settings(json, where, defaults, error);
    if (status != KVF_OK)
        return status;
    if (cJSON_IsFalse(sample)) {
        *defaults = of_kvfold();
        defaults->are_there = true;
        return kvf_ok(error);
    }
    if (cJSON_IsTrue(sample) && !kvf_json_get(json, "temperature"))
        take(defaults, &settings[0], 1);
    if (defaults->temperature > 0)
        note_others(json, defaults);
    return kvf_ok(error);
}

kvf_status kvf_draw_defaults_parse(const char *text, size_t bytes, const char *where,
                                   kvf_draw_defaults *defaults, kvf_error *error)
{
    cJSON *json = NULL;
    *defaults = of_kvfold();
    kvf_status status = kvf_json_parse(text, bytes, where, &json, error);
    if (status == KVF_OK)
        status = read_json(json, where, defaults, error);
    cJSON_Delete(json);
    return status;
}

static kvf_status read_file(const char *config_path, kvf_draw_defaults *defaults, kvf_error *error)
{
    const char *slash = strrchr(config_path, '/');
    const size_t folder_bytes = slash ? (size_t)(slash - config_path) + 1 : 0;
    char *path = malloc(folder_bytes + sizeof generation_name);
    kvf_file file;
    if (!path)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a path");
    memcpy(path, config_path, folder_bytes);
    memcpy(path + folder_bytes, generation_name, sizeof generation_name);
    kvf_status status = kvf_file_map(path, &file, error);
    if (status == KVF_OK) {
        status = kvf_draw_defaults_parse(file.data, file.bytes, path, defaults, error);
        kvf_file_unmap(&file);
    } else if (status == KVF_FILE_NOT_FOUND) {
        status = kvf_ok(error);
    }
    free(path);
    return status;
}

/* ---- GGUF ------------------------------------------------------------------------------ */

static kvf_status read_keys(const kvf_tensor_set *files, kvf_draw_defaults *defaults,
                            kvf_error *error)
{
    for (int i = 0; i < N_SETTINGS; i++) {
        const setting *s = &settings[i];
        const kvf_metadata *key = kvf_tensor_set_metadata(files, s->gguf_key);
        double value;
        if (!key)
            continue;
        if (key->is_array || !kvf_metadata_f64(key, 0, &value))
            return kvf_fail(error, KVF_FILE_FORMAT, "%s: %s is %s; a float from 0 to %g is needed",
                            kvf_printable(kvf_tensor_set_file(files, 0)->path).text, s->gguf_key,
                            kvf_metadata_show(key).text, s->most);
        if (!(value >= 0 && value <= s->most))
            return kvf_fail(error, KVF_FILE_FORMAT, "%s: %s is %s; a float from 0 to %g is needed",
                            kvf_printable(kvf_tensor_set_file(files, 0)->path).text, s->gguf_key,
                            kvf_metadata_show_value(key, 0).text, s->most);
        take(defaults, s, value);
    }
    return kvf_ok(error);
}

kvf_status kvf_draw_defaults_read(const kvf_tensor_set *files, kvf_draw_defaults *defaults,
                                  kvf_error *error)
{
    const char *config_path = kvf_tensor_set_config_path(files);
    *defaults = of_kvfold();
    return config_path ? read_file(config_path, defaults, error)
                       : read_keys(files, defaults, error);
}
