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
static const kvf_config_field rate_fields[] = {
    {{"compressed_sparse_attention"}, KVF_FIELD_U32, offsetof(compress_rates, csa),
     2, 1024, 0, CSA_RATIO, {0}, NULL},
    {{"heavily_compressed_attention"}, KVF_FIELD_U32, offsetof(compress_rates, hca),
     2, 1024, 0, HCA_RATIO, {0}, NULL},
};

static const kvf_config_field hash_field = {
    {"num_hash_layers", "n_hash_layers"}, KVF_FIELD_U32, offsetof(kvf_config_draft, n_hash_layers),
    0, KVF_MAX_LAYERS, 0, KVF_REQUIRED, {0}, NULL};
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
    const size_t n = sizeof rate_fields / sizeof *rate_fields;
    kvf_status status = kvf_config_check_section(source, object, "compress_rates.", rate_fields, n);
    return status == KVF_OK
               ? kvf_config_read_fields(source, object, "compress_rates.", rate_fields, n, rates)
               : status;
}

static kvf_status read_layer_types(const kvf_config_source *source, const cJSON *types,
                                   compress_rates rates, uint32_t n_layers, kvf_layer *layers)
{
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

/*
 * Entries past the last layer belong to prediction heads, which have windows alone; another
 * one says that the number of layers is wrong.
 */
static kvf_status read_ratios(const kvf_config_source *source, const cJSON *ratios,
                              uint32_t n_layers, kvf_layer *layers)
{
    const cJSON *item = ratios->child;
    for (uint32_t i = 0; item; i++, item = item->next) {
        uint64_t ratio = 0;
        if (!kvf_json_u64(item, &ratio) || (ratio != 0 && ratio != CSA_RATIO && ratio != HCA_RATIO))
            return fail_entry(source, "compress_ratios", i, item, "0, 4 or 128 is needed");
        if (i >= n_layers && ratio != 0)
            return fail_entry(source, "compress_ratios", i, item,
                              "entries past the last layer are of prediction heads, and 0");
        if (i >= n_layers)
            continue;
        layers[i].ratio = (uint32_t)ratio;
        layers[i].kind = ratio == 0           ? KVF_LAYER_WINDOW
                         : ratio == CSA_RATIO ? KVF_LAYER_CSA
                                              : KVF_LAYER_HCA;
    }
    return KVF_OK;
}

/* "layer_types[I]" against "compress_ratios[I]". */
static kvf_status compare_kinds(const kvf_config_source *source, uint32_t i, const cJSON *types,
                                const kvf_layer *by_type, const kvf_layer *by_ratio)
{
    char names[2][48];
    char values[2][80];
    if (by_type->kind == by_ratio->kind && by_type->ratio == by_ratio->ratio)
        return KVF_OK;
    snprintf(names[0], sizeof names[0], "layer_types[%u]", i);
    snprintf(names[1], sizeof names[1], "compress_ratios[%u]", i);
    const kvf_shown type = kvf_json_show(cJSON_GetArrayItem(types, (int)i));
    if (by_type->ratio > 0)
        snprintf(values[0], sizeof values[0], "%.48s at rate %u", type.text, by_type->ratio);
    else
        snprintf(values[0], sizeof values[0], "%.48s", type.text);
    snprintf(values[1], sizeof values[1], "%u", by_ratio->ratio);
    return kvf_config_contradict(source, names[0], values[0], names[1], values[1]);
}

/* Ratios say the rates as well; others beside them would belong to other layers. */
static kvf_status check_rates(const kvf_config_source *source, compress_rates rates)
{
    const char *key =
        rates.csa != CSA_RATIO ? "compressed_sparse_attention" : "heavily_compressed_attention";
    if (rates.csa == CSA_RATIO && rates.hca == HCA_RATIO)
        return KVF_OK;
    return kvf_config_fail(
        source, KVF_FILE_FORMAT, "compress_rates.", key,
        kvf_json_get(kvf_json_get(source->json, "compress_rates"), key),
        "but \"compress_ratios\" has 4 for such layers of the sparse kind and 128 of the heavy");
}

static kvf_status read_kinds(const kvf_config_source *source, kvf_geometry *geometry)
{
    const uint32_t n = geometry->n_layers;
    kvf_layer by_ratio[KVF_MAX_LAYERS] = {0};
    compress_rates rates;
    const cJSON *types = NULL;
    const cJSON *ratios = NULL;
    kvf_status status = find_layer_array(source, "layer_types", n, false, &types);
    if (status == KVF_OK)
        status = find_layer_array(source, "compress_ratios", n, true, &ratios);
    if (status == KVF_OK)
        status = read_rates(source, &rates);
    if (status == KVF_OK && types)
        status = read_layer_types(source, types, rates, n, geometry->layers);
    if (status == KVF_OK && ratios)
        status = read_ratios(source, ratios, n, types ? by_ratio : geometry->layers);
    if (status != KVF_OK)
        return status;
    if (!types && !ratios)
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", "layer_types", NULL,
                               "it or \"compress_ratios\" is needed");
    for (uint32_t i = 0; types && ratios && i < n && status == KVF_OK; i++)
        status = compare_kinds(source, i, types, &geometry->layers[i], &by_ratio[i]);
    return status == KVF_OK && ratios ? check_rates(source, rates) : status;
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

/* The first layers are hash-routed; mlp_layer_types, where it is there, must say the same. */
static kvf_status read_hash_layers(const kvf_config_source *source, const cJSON *types,
                                   kvf_config_draft *draft)
{
    kvf_model_config *config = &draft->config;
    const uint32_t n = config->geometry.n_layers;
    const char *key =
        kvf_json_get(source->json, "num_hash_layers") ? "num_hash_layers" : "n_hash_layers";
    kvf_status status = kvf_config_read_fields(source, source->json, "", &hash_field, 1, draft);
    if (status == KVF_OK && draft->n_hash_layers > n)
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", key, kvf_json_get(source->json, key),
                               "the model has fewer layers");
    for (uint32_t i = 0; status == KVF_OK && i < n; i++) {
        const bool hash = i < draft->n_hash_layers;
        if (types && config->hash_routed[i] != hash) {
            char name[48];
            snprintf(name, sizeof name, "mlp_layer_types[%u]", i);
            status = kvf_config_contradict(source, name, hash ? "\"moe\"" : "\"hash_moe\"", key,
                                           kvf_json_show(kvf_json_get(source->json, key)).text);
        }
        config->hash_routed[i] = hash;
    }
    return status;
}

static kvf_status read_routing(const kvf_config_source *source, kvf_config_draft *draft)
{
    const bool counted = kvf_json_get(source->json, "num_hash_layers") ||
                         kvf_json_get(source->json, "n_hash_layers");
    const cJSON *types = NULL;
    kvf_status status =
        find_layer_array(source, "mlp_layer_types", draft->config.geometry.n_layers, false, &types);
    if (status == KVF_OK && types)
        status = read_mlp_types(source, types, &draft->config);
    return status == KVF_OK && (counted || !types) ? read_hash_layers(source, types, draft)
                                                   : status;
}

kvf_status kvf_config_read_layers(const kvf_config_source *source, kvf_config_draft *draft)
{
    kvf_status status = read_kinds(source, &draft->config.geometry);
    return status == KVF_OK ? read_routing(source, draft) : status;
}
