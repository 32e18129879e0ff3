#include "model/config.h"

#include "error.h"
#include "model/config_fields.h"
#include "file/tensor_set.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define AT(member) offsetof(kvf_config_draft, member)

#define READ_BY_OTHERS(...)                                                                        \
    {                                                                                              \
        {__VA_ARGS__}, KVF_FIELD_PART, 0, 0, 0, 0, 0, {0}, NULL                                    \
    }
#define NO_EFFECT(...)                                                                             \
    {                                                                                              \
        {__VA_ARGS__}, KVF_FIELD_IGNORED, 0, 0, 0, 0, 0, {0}, NULL                                 \
    }
#define ONLY(kind, value, ...)                                                                     \
    {                                                                                              \
        {__VA_ARGS__}, kind, KVF_ONLY_CHECKED, value, value, 0, value, {0}, NULL                   \
    }

/*
 * Every key that is known, and how it is treated: the transformers library's names, then
 * those of DeepSeek's own code. What is here in no way is told apart in check_unknown.
 *
 * Numbers have limits that keep each tensor below 2^46 values (wo_a: o_groups * o_lora_rank
 * rows of up to 1024 * 512), so that no product of sizes leaves 64 bits.
 */
/* clang-format off */
static const kvf_config_field fields[] = {
    /* Followed: min, max, multiple of, where it is missing. */
    {{"num_hidden_layers", "n_layers"}, KVF_FIELD_U32, AT(config.geometry.n_layers),
     1, KVF_MAX_LAYERS, 0, KVF_REQUIRED, {0}, NULL},
    {{"vocab_size"}, KVF_FIELD_U32, AT(config.geometry.vocab),
     1, 0x1p24, 0, KVF_REQUIRED, {0}, NULL},
    {{"hidden_size", "dim"}, KVF_FIELD_U32, AT(config.hidden),
     1, 65536, 0, KVF_REQUIRED, {0}, NULL},
    {{"num_attention_heads", "n_heads"}, KVF_FIELD_U32, AT(config.geometry.n_heads),
     1, 1024, 0, KVF_REQUIRED, {0}, NULL},
    {{"sliding_window", "window_size"}, KVF_FIELD_U32, AT(config.geometry.window_tokens),
     KVF_PAGE_ROWS, 65536, KVF_PAGE_ROWS, KVF_REQUIRED, {0}, NULL},
    {{"max_position_embeddings", "max_seq_len"}, KVF_FIELD_U64, AT(config.geometry.max_tokens),
     1, 0x1p30, 0, 1048576, {0}, NULL},
    {{"index_n_heads"}, KVF_FIELD_U32, AT(config.geometry.n_index_heads),
     8, 1024, 8, KVF_REQUIRED, {0}, NULL},
    {{"index_topk"}, KVF_FIELD_U32, AT(config.geometry.top_k),
     1, 65536, 0, KVF_REQUIRED, {0}, NULL},
    {{"q_lora_rank"}, KVF_FIELD_U32, AT(config.q_rank),
     1, 65536, 0, KVF_REQUIRED, {0}, NULL},
    {{"o_groups"}, KVF_FIELD_U32, AT(config.n_out_groups),
     1, 1024, 0, KVF_REQUIRED, {0}, NULL},
    {{"o_lora_rank"}, KVF_FIELD_U32, AT(config.out_rank),
     1, 65536, 0, KVF_REQUIRED, {0}, NULL},
    {{"hc_mult"}, KVF_FIELD_U32, AT(config.n_streams),
     1, 8, 0, KVF_REQUIRED, {0}, NULL},
    {{"hc_sinkhorn_iters"}, KVF_FIELD_U32, AT(config.sinkhorn_rounds),
     1, 1000, 0, KVF_REQUIRED, {0}, NULL},
    /* inference/config.json has neither; both codes take this number then. */
    {{"hc_eps"}, KVF_FIELD_F32, AT(config.hc_eps),
     1e-30, 1, 0, 1e-6, {0}, NULL},
    {{"rms_norm_eps", "norm_eps"}, KVF_FIELD_F32, AT(config.norm_eps),
     1e-30, 1, 0, 1e-6, {0}, NULL},
    {{"n_routed_experts", "num_local_experts"}, KVF_FIELD_U32, AT(config.n_experts),
     1, 4096, 0, KVF_REQUIRED, {0}, NULL},
    {{"num_experts_per_tok", "n_activated_experts"}, KVF_FIELD_U32, AT(config.n_experts_used),
     1, 64, 0, KVF_REQUIRED, {0}, NULL},
    {{"n_shared_experts"}, KVF_FIELD_U32, AT(config.n_shared_experts),
     0, 64, 0, KVF_REQUIRED, {0}, NULL},
    {{"moe_intermediate_size", "moe_inter_dim", "intermediate_size"},
     KVF_FIELD_U32, AT(config.expert_ffn),
     1, 65536, 0, KVF_REQUIRED, {0}, NULL},
    /* Required, because the transformers library would assume 10 and DeepSeek's code none. */
    {{"swiglu_limit"}, KVF_FIELD_F32, AT(config.swiglu_limit),
     0, 1e30, 0, KVF_REQUIRED, {0}, NULL},
    {{"routed_scaling_factor", "route_scale"}, KVF_FIELD_F32, AT(config.routed_scaling),
     1e-6, 1e6, 0, KVF_REQUIRED, {0}, NULL},
    {{"norm_topk_prob"}, KVF_FIELD_BOOL, AT(config.norm_top_k),
     0, 1, 0, true, {0}, NULL},
    {{"tie_word_embeddings"}, KVF_FIELD_BOOL, AT(config.tied_embeddings),
     0, 1, 0, false, {0}, NULL},

    /* Followed by config_layers.c, config_rope.c and below. */
    READ_BY_OTHERS("layer_types"), READ_BY_OTHERS("compress_ratios"),
    READ_BY_OTHERS("compress_rates"), READ_BY_OTHERS("mlp_layer_types"),
    READ_BY_OTHERS("num_hash_layers", "n_hash_layers"),
    READ_BY_OTHERS("rope_theta"), READ_BY_OTHERS("compress_rope_theta"),
    READ_BY_OTHERS("rope_parameters"), READ_BY_OTHERS("rope_scaling"),
    READ_BY_OTHERS("rope_factor"), READ_BY_OTHERS("original_seq_len"),
    READ_BY_OTHERS("beta_fast"), READ_BY_OTHERS("beta_slow"),
    READ_BY_OTHERS("partial_rotary_factor"),
    READ_BY_OTHERS("architectures"), READ_BY_OTHERS("quantization_config"),
    READ_BY_OTHERS("bos_token_id"), READ_BY_OTHERS("eos_token_id"),

    /* One value is what is implemented; any other is another model. */
    ONLY(KVF_FIELD_U32, KVF_ROW_WIDTH, "head_dim", "v_head_dim"),
    ONLY(KVF_FIELD_U32, KVF_ROPE_WIDTH, "qk_rope_head_dim", "rope_head_dim"),
    ONLY(KVF_FIELD_U32, KVF_NOPE_WIDTH, "qk_nope_head_dim"),
    ONLY(KVF_FIELD_U32, KVF_INDEX_WIDTH, "index_head_dim"),
    ONLY(KVF_FIELD_U32, 1, "num_key_value_heads"),
    ONLY(KVF_FIELD_U32, 1, "n_group"), ONLY(KVF_FIELD_U32, 1, "topk_group"),
    ONLY(KVF_FIELD_U32, 1, "moe_layer_freq"), ONLY(KVF_FIELD_U32, 0, "first_k_dense_replace"),
    ONLY(KVF_FIELD_BOOL, false, "attention_bias"), ONLY(KVF_FIELD_BOOL, false, "mlp_bias"),
    ONLY(KVF_FIELD_BOOL, false, "is_encoder_decoder"),
    ONLY(KVF_FIELD_BOOL, false, "add_cross_attention"),
    {{"model_type"}, KVF_FIELD_TEXT, KVF_ONLY_CHECKED, 0, 0, 0, 0,
     {"deepseek_v4"}, "only \"deepseek_v4\" is supported"},
    {{"scoring_func", "score_func"}, KVF_FIELD_TEXT, KVF_ONLY_CHECKED, 0, 0, 0, 0,
     {"sqrtsoftplus"}, "only \"sqrtsoftplus\" is supported"},
    {{"hidden_act"}, KVF_FIELD_TEXT, KVF_ONLY_CHECKED, 0, 0, 0, 0,
     {"silu"}, "only \"silu\" is supported"},
    {{"topk_method"}, KVF_FIELD_TEXT, KVF_ONLY_CHECKED, 0, 0, 0, 0,
     {"noaux_tc"}, "only \"noaux_tc\" is supported"},
    /* What kind of weights there are; how each is stored the tensors themselves say. */
    {{"dtype", "torch_dtype"}, KVF_FIELD_TEXT, KVF_ONLY_CHECKED, 0, 0, 0, 0,
     {"bfloat16", "float16", "float32", "bf16", "fp8"},
     "bfloat16 (or bf16), float16, float32 and fp8 are known"},
    {{"expert_dtype"}, KVF_FIELD_TEXT, KVF_ONLY_CHECKED, 0, 0, 0, 0,
     {"bfloat16", "float16", "float32", "bf16", "fp8", "fp4"},
     "bfloat16 (or bf16), float16, float32, fp8 and fp4 are known"},
    {{"scale_fmt"}, KVF_FIELD_TEXT, KVF_ONLY_CHECKED, 0, 0, 0, 0,
     {"ue8m0"}, "only \"ue8m0\" is known"},

    /* Training, tools, what a call returns. */
    NO_EFFECT("attention_dropout"), NO_EFFECT("initializer_range"), NO_EFFECT("use_cache"),
    NO_EFFECT("transformers_version"), NO_EFFECT("torchscript"), NO_EFFECT("return_dict"),
    NO_EFFECT("output_attentions"), NO_EFFECT("output_hidden_states"),
    NO_EFFECT("output_router_logits"), NO_EFFECT("router_aux_loss_coef"),
    NO_EFFECT("router_jitter_noise"), NO_EFFECT("aux_loss_alpha"), NO_EFFECT("seq_aux"),
    NO_EFFECT("ep_size"), NO_EFFECT("pretraining_tp"), NO_EFFECT("use_grouped_mm"),
    NO_EFFECT("max_batch_size"), NO_EFFECT("auto_map"), NO_EFFECT("_name_or_path"),
    NO_EFFECT("_attn_implementation"), NO_EFFECT("attn_implementation"),
    NO_EFFECT("id2label"), NO_EFFECT("label2id"), NO_EFFECT("problem_type"),
    NO_EFFECT("pad_token_id"), NO_EFFECT("sep_token_id"), NO_EFFECT("tokenizer_class"),
    NO_EFFECT("chunk_size_feed_forward"), NO_EFFECT("gradient_checkpointing"),
    NO_EFFECT("scale_dtype"), /* a tensor says itself how its scales are stored */
    /* How to draw from logits: the command line says that. */
    NO_EFFECT("do_sample"), NO_EFFECT("temperature"), NO_EFFECT("top_k"), NO_EFFECT("top_p"),
    NO_EFFECT("max_length"), NO_EFFECT("max_new_tokens"),
    /* Of prediction heads, which are not run; the main model is the same without them. */
    NO_EFFECT("num_nextn_predict_layers", "n_mtp_layers"),
    NO_EFFECT("dspark_block_size"), NO_EFFECT("dspark_noise_token_id"),
    NO_EFFECT("dspark_target_layer_ids"), NO_EFFECT("dspark_markov_rank"),
};

/* Of "quantization_config": DeepSeek's FP8, whose scales are tensors beside the weights. */
static const kvf_config_field quantisation_fields[] = {
    {{"quant_method"}, KVF_FIELD_TEXT, KVF_ONLY_CHECKED, 0, 0, 0, 0,
     {"fp8"}, "only \"fp8\" is known"},
    {{"fmt"}, KVF_FIELD_TEXT, KVF_ONLY_CHECKED, 0, 0, 0, 0,
     {"e4m3"}, "only \"e4m3\" is known"},
    {{"activation_scheme"}, KVF_FIELD_TEXT, KVF_ONLY_CHECKED, 0, 0, 0, 0,
     {"dynamic"}, "only \"dynamic\" is known"},
    {{"scale_fmt"}, KVF_FIELD_TEXT, KVF_ONLY_CHECKED, 0, 0, 0, 0,
     {"ue8m0"}, "only \"ue8m0\" is known"},
    READ_BY_OTHERS("weight_block_size"),
    NO_EFFECT("modules_to_not_convert"), /* the tensors' own dtypes say it */
};
/* clang-format on */

enum {
    N_FIELDS = sizeof fields / sizeof *fields,
    N_QUANTISATION_FIELDS = sizeof quantisation_fields / sizeof *quantisation_fields
};

/*
 * What a key that is not known would be about if it changed the model: parts of one have such
 * words in their names. A key without them is about something else, as far as can be told.
 */
static const char *const telling_words[] = {
    "act",     "attention", "attn",   "audio",      "bias",   "block",    "compress", "conv",
    "embed",   "engram",    "eps",    "expert",     "factor", "ffn",      "gate",     "hash",
    "hc_",     "head",      "hidden", "image",      "index",  "kv",       "layer",    "logit",
    "lora",    "mlp",       "moe",    "multiplier", "norm",   "position", "quant",    "qk_",
    "rank",    "residual",  "rope",   "rotary",     "rout",   "scal",     "sink",     "softcap",
    "softmax", "ssm",       "swiglu", "text_",      "topk",   "vision",   "window",   "yarn",
};

static bool has_telling_word(const char *key)
{
    char lower[128];
    size_t n = 0;
    for (; key[n] && n + 1 < sizeof lower; n++)
        lower[n] = key[n] >= 'A' && key[n] <= 'Z' ? (char)(key[n] - 'A' + 'a') : key[n];
    lower[n] = '\0';
    for (size_t i = 0; i < sizeof telling_words / sizeof *telling_words; i++)
        if (strstr(lower, telling_words[i]))
            return true;
    return false;
}

/* One more key for the note that a program may show. */
static void note_key(kvf_model_config *config, const char *key)
{
    char *text = config->unknown_keys;
    const size_t used = strlen(text);
    const size_t room = sizeof config->unknown_keys - used;
    const int n = snprintf(text + used, room, "%s%s", used ? ", " : "", kvf_printable(key).text);
    if (n < 0 || (size_t)n >= room)
        text[used] = '\0'; /* named whole or not at all; counted in any case */
    config->n_unknown_keys++;
}

/*
 * Keys that the table lacks. One that is off (null, false) asks for nothing; one that may
 * change the model is refused, since the answer would be another model's; the others are
 * noted.
 */
static kvf_status check_unknown(const kvf_config_source *source, kvf_model_config *config)
{
    for (const cJSON *item = source->json->child; item; item = item->next) {
        if (kvf_config_knows(fields, N_FIELDS, item->string) || cJSON_IsNull(item))
            continue;
        if (!cJSON_IsFalse(item) && has_telling_word(item->string))
            return kvf_config_fail(source, KVF_UNSUPPORTED, "", kvf_printable(item->string).text,
                                   item,
                                   "nothing is known of this key, and its name says that it may "
                                   "change the model");
        note_key(config, item->string);
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

static kvf_status check_block_size(const kvf_config_source *source, const cJSON *size)
{
    const bool known = cJSON_IsArray(size) && cJSON_GetArraySize(size) == 2 &&
                       cJSON_IsNumber(size->child) && size->child->valuedouble == 128 &&
                       cJSON_IsNumber(size->child->next) && size->child->next->valuedouble == 128;
    if (!size || known)
        return KVF_OK;
    return kvf_config_fail(source, KVF_UNSUPPORTED, "quantization_config.", "weight_block_size",
                           size, "only [128, 128] is known");
}

static kvf_status check_quantisation(const kvf_config_source *source)
{
    static const char name[] = "quantization_config.";
    const cJSON *quantisation = kvf_json_get(source->json, "quantization_config");
    if (!quantisation)
        return KVF_OK;
    kvf_status status = kvf_config_check_section(source, quantisation, name, quantisation_fields,
                                                 N_QUANTISATION_FIELDS);
    if (status == KVF_OK)
        status = kvf_config_read_fields(source, quantisation, name, quantisation_fields,
                                        N_QUANTISATION_FIELDS, NULL);
    if (status == KVF_OK)
        status = check_block_size(source, kvf_json_get(quantisation, "weight_block_size"));
    if (status != KVF_OK)
        return status;
    if (!kvf_json_get(quantisation, "quant_method"))
        return kvf_config_fail(source, KVF_FILE_FORMAT, name, "quant_method", NULL,
                               "only \"fp8\" is known");
    return KVF_OK;
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
        status = kvf_config_read_fields(source, source->json, "", fields, N_FIELDS, draft);
    if (status == KVF_OK)
        status = check_together(source, config);
    if (status == KVF_OK)
        status = kvf_config_read_layers(source, draft);
    if (status == KVF_OK)
        status = kvf_config_read_rope(source, draft);
    if (status == KVF_OK)
        status = read_special_tokens(source, config);
    if (status == KVF_OK)
        status = check_unknown(source, config);
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

/* The ids that end a text may differ on purpose, the one that begins it not. */
static kvf_status check_bos(const kvf_config_source *source, const kvf_model_config *config)
{
    const cJSON *bos = kvf_json_get(source->json, "bos_token_id");
    char id[16];
    if (!bos || config->bos_token < 0 ||
        (cJSON_IsNumber(bos) && bos->valuedouble == config->bos_token))
        return KVF_OK;
    snprintf(id, sizeof id, "%d", config->bos_token);
    return kvf_config_contradict(source, "bos_token_id", kvf_json_show(bos).text,
                                 "bos_token_id of config.json", id);
}

static const char generation_name[] = "generation_config.json";

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
    const kvf_config_source source = {parsed, path, error};
    if (status == KVF_OK)
        status = check_bos(&source, config);
    if (status == KVF_OK)
        status = read_eos(&source, config);
    cJSON_Delete(parsed);
    kvf_file_unmap(&file);
    return status;
}

static kvf_status load_json(const char *path, const kvf_file *file, kvf_model_config *config,
                            kvf_error *error)
{
    const char *slash = strrchr(path, '/');
    const size_t folder_bytes = slash ? (size_t)(slash - path) + 1 : 0;
    char *generation_path = malloc(folder_bytes + sizeof generation_name);
    if (!generation_path)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a path");
    memcpy(generation_path, path, folder_bytes);
    memcpy(generation_path + folder_bytes, generation_name, sizeof generation_name);
    kvf_status status = kvf_config_parse(file->data, file->bytes, path, config, error);
    if (status == KVF_OK)
        status = load_generation(generation_path, config, error);
    free(generation_path);
    return status;
}

static kvf_status map_json(const char *path, kvf_file *json, kvf_model_config *config,
                           kvf_error *error)
{
    kvf_model_config loaded;
    kvf_status status = kvf_file_map(path, json, error);
    if (status == KVF_OK)
        status = load_json(path, json, &loaded, error);
    if (status != KVF_OK) {
        kvf_file_unmap(json);
        return status;
    }
    *config = loaded;
    return kvf_ok(error);
}

kvf_status kvf_config_of(const kvf_tensor_set *files, kvf_file *json, kvf_model_config *config,
                         kvf_error *error)
{
    const char *path = kvf_tensor_set_config_path(files);
    *json = (kvf_file){0};
    return path ? map_json(path, json, config, error) : kvf_config_from_gguf(files, config, error);
}

/* Through the tensors' headers: what a file is, its content says. */
static kvf_status load_from_tensors(const char *path, kvf_model_config *config, kvf_error *error)
{
    kvf_tensor_set *files;
    kvf_file json;
    kvf_status status = kvf_tensor_set_open(path, &files, error);
    if (status != KVF_OK)
        return status;
    status = kvf_config_of(files, &json, config, error);
    kvf_file_unmap(&json);
    kvf_tensor_set_close(files);
    return status;
}

kvf_status kvf_config_load(const char *path, kvf_model_config *config, kvf_error *error)
{
    struct stat info;
    kvf_file json;
    kvf_error other;
    if (!*path)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "the name of the checkpoint is empty");
    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode))
        return load_from_tensors(path, config, error);
    char *json_path = kvf_path_join(path, "config.json");
    if (!json_path)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a path");
    kvf_status status = map_json(json_path, &json, config, error);
    kvf_file_unmap(&json);
    free(json_path);
    if (status != KVF_FILE_NOT_FOUND)
        return status;
    /* A folder with a GGUF has its config in there. */
    status = load_from_tensors(path, config, &other);
    if (status == KVF_OK)
        return kvf_ok(error);
    if (status != KVF_FILE_NOT_FOUND && error)
        *error = other;
    return status;
}
