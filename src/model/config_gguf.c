/*
 * The config of a GGUF: the keys that ds4's converter and llama.cpp's write, all under
 * "deepseek4.". Where they contradict the tensors, the tensors are right.
 */
#include "error.h"
#include "file/metadata.h"
#include "model/config_fields.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define AT(member) offsetof(kvf_config_draft, member)

/* What is only checked or used later. */
struct gguf_draft {
    kvf_config_draft draft; /* first: offsets are in both */
    uint32_t value_dim;
    uint32_t n_expert_groups_used;
    uint32_t gating;
    uint64_t original_tokens;
    double magnitude;
};
#define ALSO(member) offsetof(struct gguf_draft, member)

/* A key, where it goes, and its limits: those of config.json (config.c), for the same reasons. */
#define FIELD(key, type, place, lowest, highest, multiple, otherwise)                              \
    {                                                                                              \
        .keys = {key}, .kind = type, .offset = place, .min = lowest, .max = highest,               \
        .multiple_of = multiple, .fallback = otherwise                                             \
    }

/* clang-format off */
static const kvf_config_field fields[] = {
    FIELD("context_length", KVF_FIELD_U64, AT(config.geometry.max_tokens),
          1, 0x1p30, 0, 1048576),
    FIELD("embedding_length", KVF_FIELD_U32, AT(config.hidden),
          1, 65536, 0, KVF_REQUIRED),
    FIELD("attention.head_count", KVF_FIELD_U32, AT(config.geometry.n_heads),
          1, 1024, 0, KVF_REQUIRED),
    FIELD("attention.head_count_kv", KVF_FIELD_U32, KVF_ONLY_CHECKED,
          1, 1, 0, KVF_REQUIRED),
    FIELD("attention.key_length", KVF_FIELD_U32, KVF_ONLY_CHECKED,
          KVF_ROW_WIDTH, KVF_ROW_WIDTH, 0, KVF_REQUIRED),
    FIELD("attention.value_length", KVF_FIELD_U32, ALSO(value_dim),
          KVF_ROW_WIDTH, KVF_ROW_WIDTH, 0, KVF_REQUIRED),
    FIELD("attention.q_lora_rank", KVF_FIELD_U32, AT(config.q_rank),
          1, 65536, 0, KVF_REQUIRED),
    FIELD("attention.output_lora_rank", KVF_FIELD_U32, AT(config.out_rank),
          1, 65536, 0, KVF_REQUIRED),
    FIELD("attention.output_group_count", KVF_FIELD_U32, AT(config.n_out_groups),
          1, 1024, 0, KVF_REQUIRED),
    FIELD("attention.sliding_window", KVF_FIELD_U32, AT(config.geometry.window_tokens),
          KVF_PAGE_ROWS, 65536, KVF_PAGE_ROWS, KVF_REQUIRED),
    FIELD("attention.layer_norm_rms_epsilon", KVF_FIELD_F32, AT(config.norm_eps),
          1e-30, 1, 0, KVF_REQUIRED),
    FIELD("attention.indexer.head_count", KVF_FIELD_U32, AT(config.geometry.n_index_heads),
          8, 1024, 8, KVF_REQUIRED),
    FIELD("attention.indexer.key_length", KVF_FIELD_U32, KVF_ONLY_CHECKED,
          KVF_INDEX_WIDTH, KVF_INDEX_WIDTH, 0, KVF_REQUIRED),
    FIELD("attention.indexer.top_k", KVF_FIELD_U32, AT(config.geometry.top_k),
          1, 65536, 0, KVF_REQUIRED),
    FIELD("rope.dimension_count", KVF_FIELD_U32, KVF_ONLY_CHECKED,
          KVF_ROPE_WIDTH, KVF_ROPE_WIDTH, 0, KVF_REQUIRED),
    /* At a base of 1 YaRN's ramp would divide by log(1). */
    FIELD("rope.freq_base", KVF_FIELD_F64, AT(config.rope_window.theta),
          2, 1e12, 0, 10000),
    /* The name of a factor in older files. */
    FIELD("rope.scale_linear", KVF_FIELD_F64, KVF_ONLY_CHECKED,
          1, 1, 0, 1),
    FIELD("attention.compress_rope_freq_base", KVF_FIELD_F64, AT(config.rope_compress.theta),
          2, 1e12, 0, KVF_REQUIRED),
    FIELD("expert_count", KVF_FIELD_U32, AT(config.n_experts),
          1, 4096, 0, KVF_REQUIRED),
    FIELD("expert_used_count", KVF_FIELD_U32, AT(config.n_experts_used),
          1, 64, 0, KVF_REQUIRED),
    FIELD("expert_shared_count", KVF_FIELD_U32, AT(config.n_shared_experts),
          0, 64, 0, KVF_REQUIRED),
    FIELD("expert_feed_forward_length", KVF_FIELD_U32, AT(config.expert_ffn),
          1, 65536, 0, KVF_REQUIRED),
    FIELD("expert_weights_scale", KVF_FIELD_F32, AT(config.routed_scaling),
          1e-6, 1e6, 0, KVF_REQUIRED),
    /* llama.cpp's number for the square root of softplus; ds4 knows no other. */
    FIELD("expert_gating_func", KVF_FIELD_U32, ALSO(gating),
          4, 4, 0, 4),
    FIELD("expert_group_count", KVF_FIELD_U32, KVF_ONLY_CHECKED,
          0, 1, 0, 0),
    FIELD("expert_group_used_count", KVF_FIELD_U32, ALSO(n_expert_groups_used),
          0, 1, 0, 0),
    FIELD("leading_dense_block_count", KVF_FIELD_U32, KVF_ONLY_CHECKED,
          0, 0, 0, 0),
    FIELD("hash_layer_count", KVF_FIELD_U32, AT(n_hash_layers),
          0, KVF_MAX_LAYERS, 0, KVF_REQUIRED),
    FIELD("hyper_connection.count", KVF_FIELD_U32, AT(config.n_streams),
          1, 8, 0, KVF_REQUIRED),
    FIELD("hyper_connection.sinkhorn_iterations", KVF_FIELD_U32, AT(config.sinkhorn_rounds),
          1, 1000, 0, KVF_REQUIRED),
    FIELD("hyper_connection.epsilon", KVF_FIELD_F32, AT(config.hc_eps),
          1e-30, 1, 0, KVF_REQUIRED),
};

static const kvf_config_field block_field =
    FIELD("block_count", KVF_FIELD_U32, AT(config.geometry.n_layers), 1, KVF_MAX_LAYERS, 0, KVF_REQUIRED);

/* Padding of the vocabulary counts: the logits are as many as the embedding has rows. */
static const kvf_config_field vocab_field =
    FIELD("vocab_size", KVF_FIELD_U32, AT(config.geometry.vocab), 1, 0x1p24, 0, KVF_REQUIRED);

/* yarn_log_multiplier is not V4's and has no effect on it. */
static const kvf_config_field yarn_fields[] = {
    FIELD("rope.scaling.factor", KVF_FIELD_F64, AT(config.rope_compress.factor),
          1, 1e6, 0, KVF_REQUIRED),
    FIELD("rope.scaling.yarn_beta_fast", KVF_FIELD_F64, AT(config.rope_compress.beta_fast),
          1e-3, 1e6, 0, 32),
    FIELD("rope.scaling.yarn_beta_slow", KVF_FIELD_F64, AT(config.rope_compress.beta_slow),
          1e-3, 1e6, 0, 1),
    FIELD("rope.scaling.attn_factor", KVF_FIELD_F64, ALSO(magnitude),
          1, 1, 0, 1),
    FIELD("rope.scaling.yarn_attn_factor", KVF_FIELD_F64, KVF_ONLY_CHECKED,
          1, 1, 0, 1),
    /* The share of YaRN's own frequencies in the mix: all of them. */
    FIELD("rope.scaling.yarn_ext_factor", KVF_FIELD_F64, KVF_ONLY_CHECKED,
          1, 1, 0, 1),
};

static const kvf_config_field original_field =
    FIELD("rope.scaling.original_context_length", KVF_FIELD_U64, ALSO(original_tokens), 1, 0x1p30, 0, KVF_REQUIRED);
/* clang-format on */

/* ---- Keys ---------------------------------------------------------------------------- */

struct source {
    const kvf_tensor_set *set;
    const char *where; /* the file's path */
    kvf_error *error;
};

/* The whole key: "deepseek4." before it, but for those of "general." and "tokenizer.". */
typedef struct key_text {
    char text[96];
} key_text;

static key_text whole_key(const char *key)
{
    key_text whole;
    const bool is_whole = strncmp(key, "general.", 8) == 0 || strncmp(key, "tokenizer.", 10) == 0;
    snprintf(whole.text, sizeof whole.text, "%s%s", is_whole ? "" : "deepseek4.", key);
    return whole;
}

static const kvf_metadata *find(const struct source *source, const char *key)
{
    return kvf_tensor_set_metadata(source->set, whole_key(key).text);
}

/* "FILE: "KEY" is VALUE; REST" */
static kvf_status fail(const struct source *source, kvf_status status, const char *key,
                       const kvf_metadata *metadata, const char *rest)
{
    return kvf_fail(source->error, status, "%s: \"%s\" is %s; %s",
                    kvf_printable(source->where).text, whole_key(key).text,
                    !metadata            ? "missing"
                    : metadata->is_array ? kvf_metadata_show(metadata).text
                                         : kvf_metadata_show_value(metadata, 0).text,
                    rest);
}

/* A number of the class that the field is of. */
static bool read_number(const kvf_metadata *metadata, uint64_t i, kvf_field_kind kind,
                        double *value)
{
    uint64_t whole;
    if (kind == KVF_FIELD_F32 || kind == KVF_FIELD_F64)
        return kvf_metadata_f64(metadata, i, value);
    if (!kvf_metadata_u64(metadata, i, &whole))
        return false;
    *value = (double)whole; /* more than 2^53 is more than any field may have */
    return true;
}

static kvf_status read_numbers(const struct source *source, const kvf_config_field *list, size_t n,
                               void *base)
{
    for (size_t i = 0; i < n; i++) {
        const kvf_config_field *field = &list[i];
        const kvf_metadata *metadata = find(source, field->keys[0]);
        double value = field->fallback;
        if (!metadata && value >= 0) {
            kvf_field_store(field, value, base);
            continue;
        }
        const bool is_number =
            metadata && !metadata->is_array && read_number(metadata, 0, field->kind, &value);
        if (!is_number || !kvf_field_is_valid(field, value))
            return fail(source,
                        is_number && field->min >= field->max ? KVF_UNSUPPORTED : KVF_FILE_FORMAT,
                        field->keys[0], metadata, kvf_field_expected(field).text);
        kvf_field_store(field, value, base);
    }
    return KVF_OK;
}

static bool is_text(const kvf_metadata *metadata, const char *wanted)
{
    uint64_t at = 0;
    kvf_text text;
    return metadata && !metadata->is_array && kvf_metadata_text(metadata, &at, &text) &&
           text.bytes == strlen(wanted) && memcmp(text.data, wanted, text.bytes) == 0;
}

/* ---- Which model it is ------------------------------------------------------------------ */

/* Others of the family, so that it can be said what they are. */
static const struct other_architecture {
    const char *name;
    const char *what;
} others[] = {
    {"deepseek2", "that is DeepSeek V2 or V3, another model; only \"deepseek4\" is read"},
    {"deepseek32", "that is DeepSeek V3.2, another model; only \"deepseek4\" is read"},
    {"deepseek41", "that is DeepSeek V4.1, another model; only \"deepseek4\" is read"},
    {"dspark", "that is a model which drafts for another; only \"deepseek4\" is read"},
    {"dflash", "that is a model which drafts for another; only \"deepseek4\" is read"},
};

static kvf_status check_architecture(const struct source *source)
{
    const char *key = "general.architecture";
    const kvf_metadata *metadata = find(source, key);
    if (is_text(metadata, "deepseek4"))
        return KVF_OK;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (is_text(metadata, others[i].name))
            return fail(source, KVF_UNSUPPORTED, key, metadata, others[i].what);
    const bool is_named = metadata && !metadata->is_array && metadata->type == KVF_VALUE_TEXT;
    return fail(source, is_named ? KVF_UNSUPPORTED : KVF_FILE_FORMAT, key, metadata,
                "only \"deepseek4\" is read");
}

static bool has_tensor(const struct source *source, uint32_t layer, const char *name)
{
    char whole[64];
    snprintf(whole, sizeof whole, "blk.%u.%s", layer, name);
    return kvf_tensor_set_find(source->set, whole) != NULL;
}

/*
 * llama.cpp's converter counts a layer that predicts further tokens among the blocks, ds4's
 * says that there is one where there is none: its tensors decide.
 */
static void leave_out_nextn(const struct source *source, uint32_t *n_layers)
{
    while (*n_layers > 1 && has_tensor(source, *n_layers - 1, "nextn.eh_proj.weight"))
        --*n_layers;
}

/* A file with layers first .. end - 1 and nothing before or nothing after them is a half. */
static kvf_status check_whole(const struct source *source, uint32_t n_layers)
{
    const bool has_begin = kvf_tensor_set_find(source->set, "token_embd.weight");
    const bool has_end = kvf_tensor_set_find(source->set, "output.weight");
    const kvf_tensor *any = kvf_tensor_set_at(source->set, 0);
    uint32_t first = 0;
    while (first < n_layers && !has_tensor(source, first, "attn_norm.weight"))
        first++;
    if (!has_begin && first == n_layers && any &&
        (strncmp(any->name, "mtp.", 4) == 0 || strncmp(any->name, "dspark.", 7) == 0))
        return kvf_fail(source->error, KVF_UNSUPPORTED,
                        "%s: holds only what predicts further tokens (\"%s\"), which is not run; "
                        "name the file of the model itself",
                        kvf_printable(source->where).text, kvf_printable(any->name).text);
    uint32_t end = first;
    while (end < n_layers && has_tensor(source, end, "attn_norm.weight"))
        end++;
    const bool is_first_half = has_begin && !has_end && first == 0 && end < n_layers && end > 0;
    const bool is_second_half = !has_begin && has_end && first > 0 && end == n_layers;
    if (!is_first_half && !is_second_half)
        return KVF_OK;
    return kvf_fail(source->error, KVF_UNSUPPORTED,
                    "%s: holds layers %u to %u of %u, a half of a model in two files that are no "
                    "split file (as DeepSeek-V4-Pro-Q4K-Layers00-30.gguf and "
                    "DeepSeek-V4-Pro-Q4K-Layers-31-output.gguf are); a whole one is needed",
                    kvf_printable(source->where).text, first, end - 1, n_layers);
}

/* ---- Layers -------------------------------------------------------------------------------- */

/* An array with a number for each layer at least; what follows belongs to other heads. */
static kvf_status find_array(const struct source *source, const char *key, uint32_t n_layers,
                             const kvf_metadata **array)
{
    *array = find(source, key);
    if (*array && (*array)->is_array && (*array)->n_values >= n_layers)
        return KVF_OK;
    char rest[64];
    snprintf(rest, sizeof rest, "an array with one entry a layer, %u, is needed", n_layers);
    return fail(source, KVF_FILE_FORMAT, key, *array, rest);
}

/* "FILE: "KEY[I]" is VALUE; REST" */
static kvf_status fail_entry(const struct source *source, const char *key,
                             const kvf_metadata *array, uint32_t i, const char *rest)
{
    return kvf_fail(source->error, KVF_FILE_FORMAT, "%s: \"%s[%u]\" is %s; %s",
                    kvf_printable(source->where).text, whole_key(key).text, i,
                    kvf_metadata_show_value(array, i).text, rest);
}

static kvf_status read_ratios(const struct source *source, kvf_geometry *geometry)
{
    const char *key = "attention.compress_ratios";
    const kvf_metadata *array = NULL;
    kvf_status status = find_array(source, key, geometry->n_layers, &array);
    for (uint32_t i = 0; status == KVF_OK && i < geometry->n_layers; i++) {
        uint64_t ratio = 0;
        if (!kvf_metadata_u64(array, i, &ratio) || (ratio != 0 && ratio != 4 && ratio != 128))
            return fail_entry(source, key, array, i, "0, 4 or 128 is needed");
        geometry->layers[i] = (kvf_layer){ratio == 0   ? KVF_LAYER_WINDOW
                                          : ratio == 4 ? KVF_LAYER_CSA
                                                       : KVF_LAYER_HCA,
                                          (uint32_t)ratio};
    }
    return status;
}

/* One limit for all layers, as a number or as an array of equal ones. */
static kvf_status read_clamp(const struct source *source, const char *key, uint32_t n_layers,
                             float *limit)
{
    const kvf_metadata *found = find(source, key);
    kvf_status status = KVF_OK;
    if (!found || found->is_array)
        status = find_array(source, key, n_layers, &found);
    for (uint32_t i = 0; status == KVF_OK && i < (found->is_array ? n_layers : 1); i++) {
        double value = 0;
        if (!kvf_metadata_f64(found, i, &value) || !(value >= 0 && value <= 1e30))
            return fail_entry(source, key, found, i, "a float from 0 to 1e+30 is needed");
        if (i > 0 && (value < (double)*limit || value > (double)*limit))
            return kvf_fail(source->error, KVF_UNSUPPORTED,
                            "%s: \"%s[%u]\" is %.9g, that of layer 0 is %.9g; only one limit for "
                            "all layers is supported",
                            kvf_printable(source->where).text, whole_key(key).text, i, value,
                            (double)*limit);
        *limit = (float)value;
    }
    return status;
}

static kvf_status read_clamps(const struct source *source, kvf_model_config *config)
{
    const uint32_t n_layers = config->geometry.n_layers;
    float shared = 0;
    kvf_status status = read_clamp(source, "swiglu_clamp_exp", n_layers, &config->swiglu_limit);
    if (status != KVF_OK || !find(source, "swiglu_clamp_shexp"))
        return status;
    status = read_clamp(source, "swiglu_clamp_shexp", n_layers, &shared);
    if (status == KVF_OK && (shared < config->swiglu_limit || shared > config->swiglu_limit))
        return kvf_fail(source->error, KVF_UNSUPPORTED,
                        "%s: \"deepseek4.swiglu_clamp_shexp\" is %.9g, but "
                        "\"deepseek4.swiglu_clamp_exp\" is %.9g; only one limit is supported",
                        kvf_printable(source->where).text, (double)shared,
                        (double)config->swiglu_limit);
    return status;
}

/* ---- The rest ------------------------------------------------------------------------------- */

/* Without YaRN a factor has no use: the type or it is another model's. */
static kvf_status check_no_factor(const struct source *source)
{
    const char *key = "rope.scaling.factor";
    const kvf_metadata *factor = find(source, key);
    double value = 0;
    if (!factor ||
        (!factor->is_array && kvf_metadata_f64(factor, 0, &value) && value >= 1 && value <= 1))
        return KVF_OK;
    return fail(source, KVF_FILE_FORMAT, key, factor,
                "\"deepseek4.rope.scaling.type\" is \"none\", which has no factor");
}

/* As of config.json (config_rope.c): a longest context that YaRN is not stretched to. */
static kvf_status check_length(const struct source *source, const struct gguf_draft *draft)
{
    const kvf_rope_config *rope = &draft->draft.config.rope_compress;
    const char *key = "context_length";
    const kvf_metadata *length = find(source, key);
    char rest[160];
    if (!length ||
        (double)draft->draft.config.geometry.max_tokens <= rope->factor * rope->original_max_tokens)
        return KVF_OK;
    snprintf(
        rest, sizeof rest,
        "\"rope.scaling.factor\" %.9g times \"rope.scaling.original_context_length\" %.10g are "
        "fewer tokens",
        rope->factor, rope->original_max_tokens);
    return fail(source, KVF_FILE_FORMAT, key, length, rest);
}

/* YaRN is for the layers that compress; ds4 writes its numbers without naming it. */
static kvf_status read_rope(const struct source *source, struct gguf_draft *draft)
{
    kvf_rope_config *rope = &draft->draft.config.rope_compress;
    const char *type_key = "rope.scaling.type";
    const kvf_metadata *type = find(source, type_key);
    if (is_text(type, "none") || (!type && !find(source, "rope.scaling.factor")))
        return check_no_factor(source);
    if (type && !is_text(type, "yarn"))
        return fail(source,
                    type->is_array || type->type != KVF_VALUE_TEXT ? KVF_FILE_FORMAT
                                                                   : KVF_UNSUPPORTED,
                    type_key, type, "only \"none\" and \"yarn\" are supported");
    kvf_status status =
        read_numbers(source, yarn_fields, sizeof yarn_fields / sizeof *yarn_fields, draft);
    if (status == KVF_OK)
        status = read_numbers(source, &original_field, 1, draft);
    if (status != KVF_OK)
        return status;
    if (rope->beta_fast < rope->beta_slow)
        return fail(source, KVF_FILE_FORMAT, "rope.scaling.yarn_beta_fast",
                    find(source, "rope.scaling.yarn_beta_fast"),
                    "it must not be below yarn_beta_slow");
    rope->original_max_tokens = (double)draft->original_tokens;
    rope->yarn = true;
    return check_length(source, draft);
}

static kvf_status read_norm_top_k(const struct source *source, bool *norm_top_k)
{
    const char *key = "expert_weights_norm";
    const kvf_metadata *metadata = find(source, key);
    if (metadata && !metadata->is_array && kvf_metadata_bool(metadata, 0, norm_top_k))
        return KVF_OK;
    return fail(source, KVF_FILE_FORMAT, key, metadata, "true or false is needed");
}

/* Leaves *token as it is where the key is missing. */
static kvf_status read_token(const struct source *source, const char *key, uint32_t vocab,
                             int32_t *token)
{
    const kvf_metadata *metadata = find(source, key);
    uint64_t id = 0;
    if (!metadata)
        return KVF_OK;
    if (metadata->is_array || !kvf_metadata_u64(metadata, 0, &id) || id >= vocab)
        return fail(source, KVF_FILE_FORMAT, key, metadata,
                    "a token id below the size of the vocabulary is needed");
    *token = (int32_t)id;
    return KVF_OK;
}

static kvf_status read_tokens(const struct source *source, kvf_model_config *config)
{
    const uint32_t vocab = config->geometry.vocab;
    int32_t eos = -1;
    config->bos_token = -1;
    kvf_status status =
        read_token(source, "tokenizer.ggml.bos_token_id", vocab, &config->bos_token);
    if (status == KVF_OK)
        status = read_token(source, "tokenizer.ggml.eos_token_id", vocab, &eos);
    if (status == KVF_OK && eos >= 0)
        config->eos_tokens[config->n_eos_tokens++] = eos;
    return status;
}

static kvf_status read_vocab(const struct source *source, struct gguf_draft *draft)
{
    const kvf_tensor *embed = kvf_tensor_set_find(source->set, "token_embd.weight");
    kvf_config_field field = vocab_field;
    if (embed && embed->n_dims == 2 && embed->shape[0] <= (1u << 24))
        field.fallback = (double)embed->shape[0];
    return read_numbers(source, &field, 1, draft);
}

static kvf_status check_together(const struct source *source, const kvf_config_draft *draft)
{
    const kvf_model_config *config = &draft->config;
    if (config->geometry.n_heads % config->n_out_groups != 0)
        return kvf_fail(source->error, KVF_FILE_FORMAT,
                        "%s: %u attention heads cannot be divided into "
                        "\"deepseek4.attention.output_group_count\" = %u groups",
                        kvf_printable(source->where).text, config->geometry.n_heads,
                        config->n_out_groups);
    if (config->n_experts_used > config->n_experts)
        return kvf_fail(source->error, KVF_FILE_FORMAT,
                        "%s: \"deepseek4.expert_used_count\" is %u, but there are only %u experts",
                        kvf_printable(source->where).text, config->n_experts_used,
                        config->n_experts);
    if (draft->n_hash_layers > config->geometry.n_layers)
        return fail(source, KVF_FILE_FORMAT, "hash_layer_count", find(source, "hash_layer_count"),
                    "the model has fewer layers");
    return KVF_OK;
}

static kvf_status read_config(const struct source *source, struct gguf_draft *draft)
{
    kvf_model_config *config = &draft->draft.config;
    kvf_status status = check_architecture(source);
    if (status == KVF_OK)
        status = read_numbers(source, &block_field, 1, draft);
    if (status == KVF_OK) {
        leave_out_nextn(source, &config->geometry.n_layers);
        status = check_whole(source, config->geometry.n_layers);
    }
    if (status == KVF_OK)
        status = read_numbers(source, fields, sizeof fields / sizeof *fields, draft);
    if (status == KVF_OK)
        status = read_vocab(source, draft);
    if (status == KVF_OK)
        status = read_norm_top_k(source, &config->norm_top_k);
    if (status == KVF_OK)
        status = check_together(source, &draft->draft);
    if (status == KVF_OK)
        status = read_ratios(source, &config->geometry);
    for (uint32_t i = 0; status == KVF_OK && i < config->geometry.n_layers; i++)
        config->hash_routed[i] = i < draft->draft.n_hash_layers;
    if (status == KVF_OK)
        status = read_clamps(source, config);
    if (status == KVF_OK)
        status = read_rope(source, draft);
    return status == KVF_OK ? read_tokens(source, config) : status;
}

kvf_status kvf_config_from_gguf(const kvf_tensor_set *set, kvf_model_config *config,
                                kvf_error *error)
{
    const kvf_tensor_file *file = kvf_tensor_set_file(set, 0);
    const struct source source = {set, file->path, error};
    struct gguf_draft draft;
    memset(&draft, 0, sizeof draft);
    const kvf_status status = read_config(&source, &draft);
    if (status != KVF_OK)
        return status;
    *config = draft.draft.config;
    return kvf_ok(error);
}
