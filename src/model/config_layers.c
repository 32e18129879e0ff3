/* What each layer is: layer_types and mlp_layer_types, or compress_ratios and num_hash_layers. */
#include "error.h"
#include "model/config_fields.h"
#include "file/file.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* The original style knows a layer by its ratio alone. */
#define CSA_RATIO 4
#define HCA_RATIO 128

typedef struct compress_rates {
    uint32_t csa;
    uint32_t hca;
} compress_rates;

/* A compressor keeps 2 * ratio tokens of state, so an absurd ratio is an absurd size. */
/* clang-format off */
static const kvf_number_field rate_fields[] = {
    {{"compressed_sparse_attention"}, KVF_FIELD_U32, offsetof(compress_rates, csa),
     2, 1024, 0, CSA_RATIO},
    {{"heavily_compressed_attention"}, KVF_FIELD_U32, offsetof(compress_rates, hca),
     2, 1024, 0, HCA_RATIO},
};

static const kvf_number_field hash_field = {
    {"num_hash_layers", "n_hash_layers"}, KVF_FIELD_U32, offsetof(kvf_config_draft, n_hash_layers),
    0, KVF_MAX_LAYERS, 0, KVF_REQUIRED};
/* clang-format on */

/* "FILE: "KEY[I]" is VALUE; REST" */
static kvf_status fail_entry(const kvf_config_source *source, const char *key, uint32_t i,
                             const cJSON *value, const char *rest)
{
    char name[48];
    snprintf(name, sizeof name, "%s[%u]", key, i);
    return kvf_config_fail(source, KVF_FILE_FORMAT, "", name, value, rest);
}

/* The array at key with one entry a layer (more only where may_be_longer); NULL if missing. */
static kvf_status find_layer_array(const kvf_config_source *source, const char *key,
                                   uint32_t n_layers, bool may_be_longer, const cJSON **array)
{
    *array = kvf_json_get(source->json, key);
    if (!*array)
        return KVF_OK;
    if (!cJSON_IsArray(*array))
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", key, *array,
                               "an array with one entry a layer is needed");
    uint32_t n = (uint32_t)cJSON_GetArraySize(*array);
    if (n < n_layers || (n > n_layers && !may_be_longer))
        return kvf_fail(source->error, KVF_FILE_FORMAT,
                        "%s: \"%s\" has %u entries; the model has %u layers",
                        kvf_printable(source->where).text, key, n, n_layers);
    return KVF_OK;
}

static kvf_status read_rates(const kvf_config_source *source, compress_rates *rates)
{
    *rates = (compress_rates){CSA_RATIO, HCA_RATIO};
    const cJSON *object = kvf_json_get(source->json, "compress_rates");
    if (!object)
        return KVF_OK;
    if (!cJSON_IsObject(object))
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", "compress_rates", object,
                               "an object with one rate a kind of layer is needed");
    return kvf_config_read_numbers(source, object, "compress_rates.", rate_fields,
                                   sizeof rate_fields / sizeof *rate_fields, rates);
}

static kvf_status read_layer_types(const kvf_config_source *source, const cJSON *types,
                                   uint32_t n_layers, kvf_layer *layers)
{
    compress_rates rates;
    kvf_status status = read_rates(source, &rates);
    if (status != KVF_OK)
        return status;
    const struct {
        const char *name;
        kvf_layer layer;
    } kinds[] = {
        {"sliding_attention", {KVF_LAYER_WINDOW, 0}},
        {"compressed_sparse_attention", {KVF_LAYER_CSA, rates.csa}},
        {"heavily_compressed_attention", {KVF_LAYER_HCA, rates.hca}},
    };
    const size_t n_kinds = sizeof kinds / sizeof *kinds;
    const cJSON *item = types->child;
    for (uint32_t i = 0; i < n_layers; i++, item = item->next) {
        size_t kind = 0;
        while (kind < n_kinds &&
               !(cJSON_IsString(item) && strcmp(item->valuestring, kinds[kind].name) == 0))
            kind++;
        if (kind == n_kinds)
            return fail_entry(source, "layer_types", i, item,
                              "sliding_attention, compressed_sparse_attention or "
                              "heavily_compressed_attention is needed");
        layers[i] = kinds[kind].layer;
    }
    return KVF_OK;
}

/* Entries past the last layer belong to prediction heads and are not looked at. */
static kvf_status read_ratios(const kvf_config_source *source, const cJSON *ratios,
                              uint32_t n_layers, kvf_layer *layers)
{
    const cJSON *item = ratios->child;
    for (uint32_t i = 0; i < n_layers; i++, item = item->next) {
        uint64_t ratio = 0;
        if (!kvf_json_u64(item, &ratio) || (ratio != 0 && ratio != CSA_RATIO && ratio != HCA_RATIO))
            return fail_entry(source, "compress_ratios", i, item, "0, 4 or 128 is needed");
        layers[i].ratio = (uint32_t)ratio;
        layers[i].kind = ratio == 0           ? KVF_LAYER_WINDOW
                         : ratio == CSA_RATIO ? KVF_LAYER_CSA
                                              : KVF_LAYER_HCA;
    }
    return KVF_OK;
}

static kvf_status read_kinds(const kvf_config_source *source, kvf_geometry *geometry)
{
    const uint32_t n = geometry->n_layers;
    kvf_layer by_ratio[KVF_MAX_LAYERS] = {0};
    const cJSON *types = NULL;
    const cJSON *ratios = NULL;
    kvf_status status = find_layer_array(source, "layer_types", n, false, &types);
    if (status == KVF_OK)
        status = find_layer_array(source, "compress_ratios", n, true, &ratios);
    if (status == KVF_OK && types)
        status = read_layer_types(source, types, n, geometry->layers);
    if (status == KVF_OK && ratios)
        status = read_ratios(source, ratios, n, types ? by_ratio : geometry->layers);
    if (status != KVF_OK)
        return status;
    if (!types && !ratios)
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", "layer_types", NULL,
                               "it or \"compress_ratios\" is needed");
    for (uint32_t i = 0; types && ratios && i < n; i++)
        if (by_ratio[i].kind != geometry->layers[i].kind ||
            by_ratio[i].ratio != geometry->layers[i].ratio)
            return kvf_fail(source->error, KVF_FILE_FORMAT,
                            "%s: \"layer_types\" and \"compress_ratios\" disagree on layer %u",
                            kvf_printable(source->where).text, i);
    return KVF_OK;
}

static kvf_status read_mlp_types(const kvf_config_source *source, const cJSON *types,
                                 kvf_model_config *config)
{
    const cJSON *item = types->child;
    for (uint32_t i = 0; i < config->geometry.n_layers; i++, item = item->next) {
        bool hash = cJSON_IsString(item) && strcmp(item->valuestring, "hash_moe") == 0;
        bool scored = cJSON_IsString(item) && strcmp(item->valuestring, "moe") == 0;
        if (!hash && !scored)
            return fail_entry(source, "mlp_layer_types", i, item, "hash_moe or moe is needed");
        config->hash_routed[i] = hash;
    }
    return KVF_OK;
}

static kvf_status read_routing(const kvf_config_source *source, kvf_config_draft *draft)
{
    kvf_model_config *config = &draft->config;
    const uint32_t n = config->geometry.n_layers;
    bool counted = kvf_json_get(source->json, "num_hash_layers") ||
                   kvf_json_get(source->json, "n_hash_layers");
    const cJSON *types = NULL;
    kvf_status status = find_layer_array(source, "mlp_layer_types", n, false, &types);
    if (status == KVF_OK && types)
        status = read_mlp_types(source, types, config);
    if (status == KVF_OK && (counted || !types))
        status = kvf_config_read_numbers(source, source->json, "", &hash_field, 1, draft);
    for (uint32_t i = 0; status == KVF_OK && (counted || !types) && i < n; i++) {
        bool hash = i < draft->n_hash_layers;
        if (types && config->hash_routed[i] != hash)
            return kvf_fail(source->error, KVF_FILE_FORMAT,
                            "%s: \"mlp_layer_types\" and \"num_hash_layers\" disagree on layer %u",
                            kvf_printable(source->where).text, i);
        config->hash_routed[i] = hash;
    }
    return status;
}

kvf_status kvf_config_read_layers(const kvf_config_source *source, kvf_config_draft *draft)
{
    kvf_status status = read_kinds(source, &draft->config.geometry);
    return status == KVF_OK ? read_routing(source, draft) : status;
}
