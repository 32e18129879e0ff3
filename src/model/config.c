#include "model/config.h"

#include "error.h"
#include "model/config_fields.h"
#include "file/file.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(kvf_config_draft, member)

/*
 * Every number with its limits. The limits keep each tensor below 2^46 values (wo_a:
 * o_groups * o_lora_rank rows of up to 1024 * 512), so that no product of sizes leaves
 * 64 bits. Keys: the transformers library's, then DeepSeek's own.
 */
/* clang-format off */
static const kvf_number_field fields[] = {
    /* min, max, multiple of, where it is missing */
    {{"num_hidden_layers", "n_layers"}, KVF_FIELD_U32, AT(config.geometry.n_layers),
     1, KVF_MAX_LAYERS, 0, KVF_REQUIRED},
    {{"vocab_size"}, KVF_FIELD_U32, AT(config.geometry.vocab),
     1, 0x1p24, 0, KVF_REQUIRED},
    {{"hidden_size", "dim"}, KVF_FIELD_U32, AT(config.hidden),
     1, 65536, 0, KVF_REQUIRED},
    {{"num_attention_heads", "n_heads"}, KVF_FIELD_U32, AT(config.geometry.n_heads),
     1, 1024, 0, KVF_REQUIRED},
    {{"num_key_value_heads"}, KVF_FIELD_U32, AT(n_kv_heads),
     1, 1, 0, 1},
    {{"head_dim"}, KVF_FIELD_U32, AT(head_dim),
     KVF_ROW_WIDTH, KVF_ROW_WIDTH, 0, KVF_ROW_WIDTH},
    {{"qk_rope_head_dim", "rope_head_dim"}, KVF_FIELD_U32, AT(rope_dim),
     KVF_ROPE_WIDTH, KVF_ROPE_WIDTH, 0, KVF_ROPE_WIDTH},
    {{"sliding_window", "window_size"}, KVF_FIELD_U32, AT(config.geometry.window_tokens),
     KVF_PAGE_ROWS, 65536, KVF_PAGE_ROWS, KVF_REQUIRED},
    {{"max_position_embeddings", "max_seq_len"}, KVF_FIELD_U64, AT(config.geometry.max_tokens),
     1, 0x1p30, 0, 1048576},
    {{"index_n_heads"}, KVF_FIELD_U32, AT(config.geometry.n_index_heads),
     8, 1024, 8, KVF_REQUIRED},
    {{"index_head_dim"}, KVF_FIELD_U32, AT(index_dim),
     KVF_INDEX_WIDTH, KVF_INDEX_WIDTH, 0, KVF_INDEX_WIDTH},
    {{"index_topk"}, KVF_FIELD_U32, AT(config.geometry.top_k),
     1, 65536, 0, KVF_REQUIRED},
    {{"q_lora_rank"}, KVF_FIELD_U32, AT(config.q_rank),
     1, 65536, 0, KVF_REQUIRED},
    {{"o_groups"}, KVF_FIELD_U32, AT(config.n_out_groups),
     1, 1024, 0, KVF_REQUIRED},
    {{"o_lora_rank"}, KVF_FIELD_U32, AT(config.out_rank),
     1, 65536, 0, KVF_REQUIRED},
    {{"hc_mult"}, KVF_FIELD_U32, AT(config.n_streams),
     1, 8, 0, KVF_REQUIRED},
    {{"hc_sinkhorn_iters"}, KVF_FIELD_U32, AT(config.sinkhorn_rounds),
     1, 1000, 0, KVF_REQUIRED},
    {{"hc_eps"}, KVF_FIELD_F32, AT(config.hc_eps),
     1e-30, 1, 0, KVF_REQUIRED},
    {{"rms_norm_eps", "norm_eps"}, KVF_FIELD_F32, AT(config.norm_eps),
     1e-30, 1, 0, KVF_REQUIRED},
    {{"n_routed_experts", "num_local_experts"}, KVF_FIELD_U32, AT(config.n_experts),
     1, 4096, 0, KVF_REQUIRED},
    {{"num_experts_per_tok", "n_activated_experts"}, KVF_FIELD_U32, AT(config.n_experts_used),
     1, 64, 0, KVF_REQUIRED},
    {{"n_shared_experts"}, KVF_FIELD_U32, AT(config.n_shared_experts),
     0, 64, 0, KVF_REQUIRED},
    {{"moe_intermediate_size", "moe_inter_dim"}, KVF_FIELD_U32, AT(config.expert_ffn),
     1, 65536, 0, KVF_REQUIRED},
    /* Required, because the transformers library would assume 10 and DeepSeek's code none. */
    {{"swiglu_limit"}, KVF_FIELD_F32, AT(config.swiglu_limit),
     0, 1e30, 0, KVF_REQUIRED},
    {{"routed_scaling_factor", "route_scale"}, KVF_FIELD_F32, AT(config.routed_scaling),
     1e-6, 1e6, 0, KVF_REQUIRED},
    {{"n_group"}, KVF_FIELD_U32, AT(n_expert_groups),
     1, 1, 0, 1},
    {{"first_k_dense_replace"}, KVF_FIELD_U32, AT(n_dense_layers),
     0, 0, 0, 0},
};
/* clang-format on */

/* Texts that must have one of these values, where they are there at all. */
static const struct text_field {
    const char *key;
    const char *values[4];
    const char *rest;
} text_fields[] = {
    {"model_type", {"deepseek_v4"}, "only \"deepseek_v4\" is supported"},
    {"scoring_func", {"sqrtsoftplus"}, "only \"sqrtsoftplus\" is supported"},
    {"score_func", {"sqrtsoftplus"}, "only \"sqrtsoftplus\" is supported"},
    {"hidden_act", {"silu"}, "only \"silu\" is supported"},
    {"topk_method", {"noaux_tc"}, "only \"noaux_tc\" is supported"},
    {"dtype", {"bfloat16", "float16", "float32", "bf16"}, "quantised weights are not read yet"},
    {"expert_dtype",
     {"bfloat16", "float16", "float32", "bf16"},
     "quantised weights are not read yet"},
};

static kvf_status check_texts(const kvf_config_source *source)
{
    for (size_t i = 0; i < sizeof text_fields / sizeof *text_fields; i++) {
        const struct text_field *field = &text_fields[i];
        const cJSON *item = kvf_json_get(source->json, field->key);
        bool known = !item;
        for (size_t v = 0; v < 4 && field->values[v] && !known; v++)
            known = cJSON_IsString(item) && strcmp(item->valuestring, field->values[v]) == 0;
        if (!known)
            return kvf_config_fail(source, cJSON_IsString(item) ? KVF_UNSUPPORTED : KVF_FILE_FORMAT,
                                   "", field->key, item, field->rest);
    }
    return KVF_OK;
}

/* "architectures", where it is there, must list the one that this is. */
static kvf_status check_architecture(const kvf_config_source *source)
{
    const cJSON *list = kvf_json_get(source->json, "architectures");
    if (!list)
        return KVF_OK;
    if (!cJSON_IsArray(list))
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", "architectures", list,
                               "an array of names is needed");
    for (const cJSON *item = list->child; item; item = item->next)
        if (cJSON_IsString(item) && strcmp(item->valuestring, "DeepseekV4ForCausalLM") == 0)
            return KVF_OK;
    return kvf_config_fail(source, KVF_UNSUPPORTED, "", "architectures[0]", list->child,
                           "only \"DeepseekV4ForCausalLM\" is supported");
}

static kvf_status check_quantisation(const kvf_config_source *source)
{
    const cJSON *quantisation = kvf_json_get(source->json, "quantization_config");
    if (!quantisation)
        return KVF_OK;
    const cJSON *method = kvf_json_get(quantisation, "quant_method");
    return kvf_fail(source->error, KVF_UNSUPPORTED,
                    "%s: \"quantization_config\" (quant_method %s): quantised weights are not "
                    "read yet; convert the checkpoint to bfloat16",
                    kvf_printable(source->where).text,
                    method ? kvf_json_show(method).text : "missing");
}

static kvf_status read_flags(const kvf_config_source *source, kvf_model_config *config)
{
    static const char *const refused[] = {"attention_bias", "mlp_bias"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        bool on = false;
        kvf_status status = kvf_config_read_bool(source, refused[i], false, &on);
        if (status != KVF_OK)
            return status;
        if (on)
            return kvf_config_fail(source, KVF_UNSUPPORTED, "", refused[i],
                                   kvf_json_get(source->json, refused[i]),
                                   "only false is supported");
    }
    kvf_status status = kvf_config_read_bool(source, "norm_topk_prob", true, &config->norm_top_k);
    if (status == KVF_OK)
        status =
            kvf_config_read_bool(source, "tie_word_embeddings", false, &config->tied_embeddings);
    return status;
}

static kvf_status check_together(const kvf_config_source *source, const kvf_model_config *config)
{
    if (config->geometry.n_heads % config->n_out_groups != 0)
        return kvf_fail(source->error, KVF_FILE_FORMAT,
                        "%s: %u attention heads cannot be divided into \"o_groups\" = %u groups",
                        kvf_printable(source->where).text, config->geometry.n_heads,
                        config->n_out_groups);
    if (config->n_experts_used > config->n_experts)
        return kvf_fail(source->error, KVF_FILE_FORMAT,
                        "%s: \"num_experts_per_tok\" is %u, but there are only %u experts",
                        kvf_printable(source->where).text, config->n_experts_used,
                        config->n_experts);
    return KVF_OK;
}

/* A token id of key (or an entry of its array). */
static kvf_status read_token(const kvf_config_source *source, const char *key, const cJSON *item,
                             uint32_t vocab, int32_t *token)
{
    uint64_t id = 0;
    if (!kvf_json_u64(item, &id) || id >= vocab)
        return kvf_config_fail(source, KVF_FILE_FORMAT, "", key, item,
                               "a token id below vocab_size is needed");
    *token = (int32_t)id;
    return KVF_OK;
}

/* Leaves the config's ids as they are where the key is missing. */
static kvf_status read_eos(const kvf_config_source *source, kvf_model_config *config)
{
    static const char key[] = "eos_token_id";
    const uint32_t max_ids = sizeof config->eos_tokens / sizeof *config->eos_tokens;
    const cJSON *item = kvf_json_get(source->json, key);
    if (!item)
        return KVF_OK;
    config->n_eos_tokens = 0;
    bool is_list = cJSON_IsArray(item);
    for (const cJSON *id = is_list ? item->child : item; id; id = is_list ? id->next : NULL) {
        if (config->n_eos_tokens == max_ids)
            return kvf_config_fail(source, KVF_FILE_FORMAT, "", key, item,
                                   "at most 8 ids are read");
        kvf_status status = read_token(source, key, id, config->geometry.vocab,
                                       &config->eos_tokens[config->n_eos_tokens]);
        if (status != KVF_OK)
            return status;
        config->n_eos_tokens++;
    }
    return KVF_OK;
}

static kvf_status read_special_tokens(const kvf_config_source *source, kvf_model_config *config)
{
    static const char key[] = "bos_token_id";
    config->bos_token = -1;
    const cJSON *bos = kvf_json_get(source->json, key);
    kvf_status status = KVF_OK;
    if (bos)
        status = read_token(source, key, bos, config->geometry.vocab, &config->bos_token);
    return status == KVF_OK ? read_eos(source, config) : status;
}

static kvf_status read_config(const kvf_config_source *source, kvf_config_draft *draft)
{
    kvf_model_config *config = &draft->config;
    kvf_status status = check_architecture(source);
    if (status == KVF_OK)
        status = check_quantisation(source);
    if (status == KVF_OK)
        status = check_texts(source);
    if (status == KVF_OK)
        status = kvf_config_read_numbers(source, source->json, "", fields,
                                         sizeof fields / sizeof *fields, draft);
    if (status == KVF_OK)
        status = read_flags(source, config);
    if (status == KVF_OK)
        status = check_together(source, config);
    if (status == KVF_OK)
        status = kvf_config_read_layers(source, draft);
    if (status == KVF_OK)
        status = kvf_config_read_rope(source, draft);
    if (status == KVF_OK)
        status = read_special_tokens(source, config);
    return status;
}

kvf_status kvf_config_parse(const char *json, size_t json_bytes, const char *where,
                            kvf_model_config *config, kvf_error *error)
{
    cJSON *parsed = NULL;
    kvf_config_draft draft;
    memset(&draft, 0, sizeof draft);
    kvf_status status = kvf_json_parse(json, json_bytes, where, &parsed, error);
    if (status != KVF_OK)
        return status;
    const kvf_config_source source = {parsed, where, error};
    status = read_config(&source, &draft);
    cJSON_Delete(parsed);
    if (status != KVF_OK)
        return status;
    *config = draft.config;
    return kvf_ok(error);
}

static kvf_status load_main(const char *path, kvf_model_config *config, kvf_error *error)
{
    kvf_file file;
    kvf_status status = kvf_file_map(path, &file, error);
    if (status == KVF_OK)
        status = kvf_config_parse(file.data, file.bytes, path, config, error);
    kvf_file_unmap(&file);
    return status;
}

/* generation_config.json may be missing; its eos ids replace the config's. */
static kvf_status load_generation(const char *path, kvf_model_config *config, kvf_error *error)
{
    kvf_file file;
    cJSON *parsed = NULL;
    kvf_status status = kvf_file_map(path, &file, error);
    if (status == KVF_FILE_NOT_FOUND)
        return KVF_OK;
    if (status == KVF_OK)
        status = kvf_json_parse(file.data, file.bytes, path, &parsed, error);
    if (status == KVF_OK)
        status = read_eos(&(kvf_config_source){parsed, path, error}, config);
    cJSON_Delete(parsed);
    kvf_file_unmap(&file);
    return status;
}

kvf_status kvf_config_load(const char *dir, kvf_model_config *config, kvf_error *error)
{
    kvf_model_config loaded;
    char *main_path = kvf_path_join(dir, "config.json");
    char *generation_path = kvf_path_join(dir, "generation_config.json");
    kvf_status status = KVF_OK;
    if (!main_path || !generation_path)
        status = kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for two paths");
    if (status == KVF_OK)
        status = load_main(main_path, &loaded, error);
    if (status == KVF_OK)
        status = load_generation(generation_path, &loaded, error);
    free(main_path);
    free(generation_path);
    if (status != KVF_OK)
        return status;
    *config = loaded;
    return kvf_ok(error);
}
