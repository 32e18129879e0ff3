/* config.json in both styles, and every bad one refused by key and value. */
#include "checkpoint_files.h"

#include "same_config.h"

/* The tiny checkpoint's config in the original style. */
static const char original_style[] =
    "{\"architectures\":[\"DeepseekV4ForCausalLM\"],\"model_type\":\"deepseek_v4\","
    "\"bos_token_id\":256,\"eos_token_id\":257,\"hidden_act\":\"silu\",\"hidden_size\":256,"
    "\"num_hidden_layers\":6,\"num_attention_heads\":8,\"num_key_value_heads\":1,\"head_dim\":512,"
    "\"qk_rope_head_dim\":64,\"q_lora_rank\":128,\"o_groups\":2,\"o_lora_rank\":128,"
    "\"index_n_heads\":16,\"index_head_dim\":128,\"index_topk\":64,\"sliding_window\":128,"
    "\"hc_mult\":4,\"hc_sinkhorn_iters\":20,\"hc_eps\":1e-06,\"rms_norm_eps\":1e-06,"
    "\"n_routed_experts\":8,\"n_shared_experts\":1,\"num_experts_per_tok\":2,"
    "\"moe_intermediate_size\":96,\"norm_topk_prob\":true,\"routed_scaling_factor\":1.5,"
    "\"scoring_func\":\"sqrtsoftplus\",\"swiglu_limit\":10.0,\"topk_method\":\"noaux_tc\","
    "\"max_position_embeddings\":1048576,\"vocab_size\":320,\"tie_word_embeddings\":false,"
    "\"attention_bias\":false,\"num_hash_layers\":1,\"num_nextn_predict_layers\":1,"
    "\"compress_ratios\":[0,0,4,128,4,128,0],\"rope_theta\":10000,\"compress_rope_theta\":160000,"
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":16,\"beta_fast\":32,\"beta_slow\":1,"
    "\"original_max_position_embeddings\":65536}}";

/* The same under the names of DeepSeek's own inference code, which has no token ids. */
static const char inference_style[] =
    "{\"vocab_size\":320,\"dim\":256,\"moe_inter_dim\":96,\"n_layers\":6,\"n_hash_layers\":1,"
    "\"n_heads\":8,\"n_routed_experts\":8,\"n_shared_experts\":1,\"n_activated_experts\":2,"
    "\"score_func\":\"sqrtsoftplus\",\"route_scale\":1.5,\"swiglu_limit\":10.0,"
    "\"q_lora_rank\":128,\"head_dim\":512,\"rope_head_dim\":64,\"norm_eps\":1e-06,\"o_groups\":2,"
    "\"o_lora_rank\":128,\"window_size\":128,\"compress_ratios\":[0,0,4,128,4,128],"
    "\"compress_rope_theta\":160000.0,\"original_seq_len\":65536,\"rope_theta\":10000.0,"
    "\"rope_factor\":16,\"beta_fast\":32,\"beta_slow\":1,\"index_n_heads\":16,"
    "\"index_head_dim\":128,\"index_topk\":64,\"hc_mult\":4,\"hc_sinkhorn_iters\":20,"
    "\"hc_eps\":1e-06,\"dtype\":\"bf16\",\"expert_dtype\":null}";

static kvf_status parse(const char *text, kvf_model_config *config, kvf_error *error)
{
    return kvf_config_parse(text, strlen(text), "dir/config.json", config, error);
}

/* ---- What is read ------------------------------------------------------------------ */

static void test_tiny_config_has_the_values_of_its_file(void **state)
{
    (void)state;
    kvf_model_config c;
    kvf_error error = {0};
    assert_int_equal(kvf_config_load(KVF_TEST_MODEL, &c, &error), KVF_OK);
    assert_string_equal(error.message, "");
    const kvf_model_config wanted = {
        .geometry = {.n_layers = 6,
                     .vocab = 320,
                     .n_heads = 8,
                     .n_index_heads = 16,
                     .top_k = 64,
                     .window_tokens = 128,
                     .max_tokens = 1048576,
                     .layers = {{KVF_LAYER_WINDOW, 0},
                                {KVF_LAYER_WINDOW, 0},
                                {KVF_LAYER_CSA, 4},
                                {KVF_LAYER_HCA, 128},
                                {KVF_LAYER_CSA, 4},
                                {KVF_LAYER_HCA, 128}}},
        .hidden = 256,
        .q_rank = 128,
        .n_out_groups = 2,
        .out_rank = 128,
        .n_streams = 4,
        .sinkhorn_rounds = 20,
        .hc_eps = 1e-6f,
        .norm_eps = 1e-6f,
        .n_experts = 8,
        .n_experts_used = 2,
        .n_shared_experts = 1,
        .expert_ffn = 96,
        .swiglu_limit = 10,
        .routed_scaling = 1.5f,
        .norm_top_k = true,
        .hash_routed = {true},
        .rope_window = {.theta = 10000},
        .rope_compress = {160000, true, 16, 32, 1, 65536},
    };
    assert_same_model(&c, &wanted);
    assert_int_equal(c.bos_token, 256);
    assert_int_equal(c.n_eos_tokens, 1);
    assert_int_equal(c.eos_tokens[0], 257);
}

static void test_both_original_styles_give_the_same_config(void **state)
{
    (void)state;
    kvf_model_config tiny;
    kvf_model_config original;
    kvf_model_config inference;
    kvf_error error = {0};
    assert_int_equal(kvf_config_load(KVF_TEST_MODEL, &tiny, &error), KVF_OK);
    assert_int_equal(parse(original_style, &original, &error), KVF_OK);
    assert_int_equal(parse(inference_style, &inference, &error), KVF_OK);
    assert_same_model(&tiny, &original);
    assert_same_model(&tiny, &inference);
    assert_int_equal(original.bos_token, 256);
    assert_int_equal(original.n_eos_tokens, 1);
    assert_int_equal(original.eos_tokens[0], 257);
    assert_int_equal(inference.bos_token, -1);
    assert_int_equal(inference.n_eos_tokens, 0);
}

/* The text with one place changed; to be freed. */
static char *replaced(const char *in, const char *find, const char *replace)
{
    const char *at = strstr(in, find);
    if (!at)
        fail_msg("not in the config: %s", find);
    size_t bytes = strlen(in) + strlen(replace) + 1;
    char *text = malloc(bytes);
    assert_non_null(text);
    snprintf(text, bytes, "%.*s%s%s", (int)(at - in), in, replace, at + strlen(find));
    return text;
}

static char *with_change(const char *find, const char *replace)
{
    return replaced(original_style, find, replace);
}

static void parse_changed(const char *find, const char *replace, kvf_model_config *config)
{
    char *text = with_change(find, replace);
    kvf_error error = {0};
    if (parse(text, config, &error) != KVF_OK)
        fail_msg("%s: %s", replace, error.message);
    free(text);
}

static void test_optional_values_take_their_documented_meaning(void **state)
{
    (void)state;
    kvf_model_config c;
    parse_changed("\"rope_scaling\"", "\"unknown_key\"", &c);
    assert_int_equal(c.n_unknown_keys, 1);
    assert_string_equal(c.unknown_keys, "unknown_key");
    assert_false(c.rope_compress.yarn);
    assert_true(c.rope_compress.theta == 160000);
    parse_changed("\"tie_word_embeddings\":false", "\"tie_word_embeddings\":true", &c);
    assert_true(c.tied_embeddings);
    parse_changed("\"norm_topk_prob\":true,", "", &c);
    assert_true(c.norm_top_k);
    parse_changed("\"swiglu_limit\":10.0", "\"swiglu_limit\":0", &c);
    assert_true(c.swiglu_limit == 0);
    parse_changed("\"n_shared_experts\":1", "\"n_shared_experts\":0", &c);
    assert_int_equal(c.n_shared_experts, 0);
    parse_changed("\"max_position_embeddings\":1048576,", "", &c);
    assert_int_equal(c.geometry.max_tokens, 1048576);
    parse_changed("\"bos_token_id\":256", "\"bos_token_id\":null", &c);
    assert_int_equal(c.bos_token, -1);
    parse_changed("\"eos_token_id\":257", "\"eos_token_id\":[257,0,319]", &c);
    assert_int_equal(c.n_eos_tokens, 3);
    assert_int_equal(c.eos_tokens[2], 319);
    parse_changed("\"compress_ratios\"",
                  "\"layer_types\":[\"sliding_attention\",\"sliding_attention\","
                  "\"compressed_sparse_attention\",\"heavily_compressed_attention\","
                  "\"compressed_sparse_attention\",\"heavily_compressed_attention\"],"
                  "\"compress_ratios\"",
                  &c);
    assert_int_equal(c.geometry.layers[3].ratio, 128);
    parse_changed("\"compress_ratios\":[0,0,4,128,4,128,0]",
                  "\"compress_rates\":{\"compressed_sparse_attention\":8},"
                  "\"layer_types\":[\"sliding_attention\",\"sliding_attention\","
                  "\"compressed_sparse_attention\",\"heavily_compressed_attention\","
                  "\"compressed_sparse_attention\",\"heavily_compressed_attention\"]",
                  &c);
    assert_int_equal(c.geometry.layers[2].ratio, 8);
    assert_int_equal(c.geometry.layers[3].ratio, 128);
}

/* clang-format off */
/* rope_parameters of the same model, with these values of the compressing layers. */
#define NESTED(factor, fast, slow, length) \
    "\"rope_parameters\":{\"main\":{\"rope_type\":\"default\",\"rope_theta\":10000}," \
    "\"compress\":{\"rope_type\":\"yarn\",\"rope_theta\":160000,\"attention_factor\":1," \
    "\"factor\":" factor ",\"beta_fast\":" fast ",\"beta_slow\":" slow "," \
    "\"original_max_position_embeddings\":" length "}},"
/* clang-format on */

/* Whatever is said twice may be said so in the same words. */
static void test_what_agrees_is_accepted_in_every_spelling(void **state)
{
    (void)state;
    static const char *const changes[][2] = {
        {"\"rope_scaling\":{", NESTED("16", "32", "1", "65536") "\"rope_scaling\":{"},
        {"\"rope_scaling\":{", NESTED("16.0", "3.2e1", "1e0", "65536.0") "\"rope_scaling\":{"},
        {"\"rope_scaling\":{", NESTED("16", "32", "1", "65536") "\"x\":{"},
        {"\"rope_scaling\":{", "\"original_seq_len\":65536,\"rope_factor\":16,\"rope_scaling\":{"},
        {"\"rope_scaling\":{", "\"original_seq_len\":65536,\"rope_factor\":16,\"beta_fast\":32,"
                               "\"beta_slow\":1,\"rope_parameters\":null,\"x\":{"},
        {"\"type\":\"yarn\"", "\"type\":\"yarn\",\"rope_type\":\"yarn\",\"truncate\":true"},
        {"\"type\":\"yarn\"", "\"type\":\"yarn\",\"short_factor\":null"},
        {"\"sliding_window\":128", "\"sliding_window\":128,\"window_size\":128.0"},
        {"\"moe_intermediate_size\":96", "\"moe_intermediate_size\":96,\"intermediate_size\":96"},
        {"\"head_dim\":512", "\"head_dim\":5.12e2,\"v_head_dim\":512,\"qk_nope_head_dim\":448"},
        {"\"num_hash_layers\":1", "\"num_hash_layers\":1,\"compress_rates\":{"
                                  "\"compressed_sparse_attention\":4}"},
        {"\"attention_bias\":false", "\"attention_bias\":null,\"n_group\":1,\"topk_group\":1,"
                                     "\"first_k_dense_replace\":0,\"moe_layer_freq\":1"},
        {"\"attention_bias\":false", "\"attn_new_feature\":false,\"rope_new_thing\":null"},
        {"{\"architectures\"", "\xef\xbb\xbf{\"architectures\""},
        {"{\"architectures\"", "\r\n{\r\n\t\"architectures\""},
    };
    kvf_model_config wanted;
    kvf_error error;
    assert_int_equal(parse(original_style, &wanted, &error), KVF_OK);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        kvf_model_config c;
        parse_changed(changes[i][0], changes[i][1], &c);
        assert_same_model(&c, &wanted);
    }
}

/* config.json as DeepSeek released it, but for the sizes. */
#define RELEASED_KEYS                                                                              \
    "\"attention_dropout\":0.0,\"expert_dtype\":\"fp4\",\"initializer_range\":0.02,"               \
    "\"quantization_config\":{\"activation_scheme\":\"dynamic\",\"fmt\":\"e4m3\","                 \
    "\"quant_method\":\"fp8\",\"scale_fmt\":\"ue8m0\",\"weight_block_size\":[128,128]},"           \
    "\"torch_dtype\":\"bfloat16\",\"transformers_version\":\"4.57.1\",\"use_cache\":true,"         \
    "\"dspark_block_size\":5,\"dspark_noise_token_id\":12,\"dspark_target_layer_ids\":[4,5],"      \
    "\"dspark_markov_rank\":256,"
static void test_released_configs_have_no_key_that_is_not_known(void **state)
{
    (void)state;
    kvf_model_config c;
    kvf_error error = {0};
    parse_changed("\"hidden_act\"", RELEASED_KEYS "\"hidden_act\"", &c);
    assert_int_equal(c.n_unknown_keys, 0);
    assert_int_equal(parse(inference_style, &c, &error), KVF_OK);
    assert_int_equal(c.n_unknown_keys, 0);
    assert_int_equal(kvf_config_load(KVF_TEST_MODEL, &c, &error), KVF_OK);
    assert_int_equal(c.n_unknown_keys, 0);
}

/* inference/config.json speaks of FP8 and FP4 and has no epsilon; both are 1e-6 in that code. */
static void test_what_the_inference_style_leaves_out_is_that_code_s(void **state)
{
    (void)state;
    static const struct {
        const char *find;
        const char *replace;
    } changes[] = {
        {"\"norm_eps\":1e-06,", ""},
        {"\"hc_eps\":1e-06,", ""},
        {"\"dtype\":\"bf16\"", "\"dtype\":\"fp8\",\"scale_fmt\":\"ue8m0\",\"n_mtp_layers\":1"},
        {"\"expert_dtype\":null", "\"expert_dtype\":\"fp4\""},
        {"\"expert_dtype\":null", "\"expert_dtype\":\"fp8\""},
    };
    kvf_model_config wanted;
    kvf_error error = {0};
    assert_int_equal(parse(inference_style, &wanted, &error), KVF_OK);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        kvf_model_config c;
        char *text = replaced(inference_style, changes[i].find, changes[i].replace);
        assert_int_equal(parse(text, &c, &error), KVF_OK);
        assert_same_model(&c, &wanted);
        assert_int_equal(c.n_unknown_keys, 0);
        free(text);
    }
}

static void test_unknown_keys_are_listed_as_far_as_there_is_room(void **state)
{
    (void)state;
    kvf_model_config c;
    parse_changed("\"hidden_act\"", "\"foo\":1,\"b\\u001b\\nar\":{\"rope\":1},\"hidden_act\"", &c);
    assert_int_equal(c.n_unknown_keys, 2);
    assert_string_equal(c.unknown_keys, "foo, b??ar");
    char many[4096] = "";
    for (int i = 0; i < 100; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "\"zzz%d\":[],", i);
    strcat(many, "\"hidden_act\"");
    parse_changed("\"hidden_act\"", many, &c);
    assert_int_equal(c.n_unknown_keys, 100);
    assert_true(strlen(c.unknown_keys) < sizeof c.unknown_keys);
    assert_int_equal(strncmp(c.unknown_keys, "zzz0, zzz1, zzz2, ", 18), 0);
}

static void test_generation_config_replaces_the_end_tokens(void **state)
{
    kvf_model_config c;
    kvf_error error = {0};
    write_text(*state, "config.json", original_style);
    assert_int_equal(kvf_config_load(*state, &c, &error), KVF_OK);
    assert_int_equal(c.eos_tokens[0], 257);
    write_text(*state, "generation_config.json", "{\"eos_token_id\":[10,13]}");
    assert_int_equal(kvf_config_load(*state, &c, &error), KVF_OK);
    assert_int_equal(c.n_eos_tokens, 2);
    assert_int_equal(c.eos_tokens[0], 10);
    assert_int_equal(c.eos_tokens[1], 13);
    write_text(*state, "generation_config.json", "{}");
    assert_int_equal(kvf_config_load(*state, &c, &error), KVF_OK);
    assert_int_equal(c.eos_tokens[0], 257);
    write_text(*state, "generation_config.json", "{\"bos_token_id\":256,\"do_sample\":true}");
    assert_int_equal(kvf_config_load(*state, &c, &error), KVF_OK);
    write_text(*state, "generation_config.json", "{\"bos_token_id\":0}");
    assert_failed("bos", kvf_config_load(*state, &c, &error), KVF_FILE_FORMAT, &error,
                  "generation_config.json: \"bos_token_id\" is 0, but|of config.json\" is 256");
    write_text(*state, "generation_config.json", "{\"eos_token_id\":320}");
    assert_failed("eos", kvf_config_load(*state, &c, &error), KVF_FILE_FORMAT, &error,
                  "generation_config.json: \"eos_token_id\" is 320");
}

/* ---- What is refused ----------------------------------------------------------------- */

/* clang-format off */
static const struct bad_config {
    const char *find;
    const char *replace;
    kvf_status status;
    const char *parts;
} bad_configs[] = {
    /* sizes */
    {"\"hidden_size\":256", "\"hidden_size\":0", KVF_FILE_FORMAT, "\"hidden_size\" is 0; a whole number from 1 to 65536"},
    {"\"hidden_size\":256", "\"hidden_size\":-1", KVF_FILE_FORMAT, "\"hidden_size\" is -1"},
    {"\"hidden_size\":256", "\"hidden_size\":1e300", KVF_FILE_FORMAT, "\"hidden_size\" is 1e+300"},
    {"\"hidden_size\":256", "\"hidden_size\":256.5", KVF_FILE_FORMAT, "\"hidden_size\" is 256.5"},
    {"\"hidden_size\":256", "\"hidden_size\":\"256\"", KVF_FILE_FORMAT, "\"hidden_size\" is \"256\""},
    {"\"hidden_size\":256", "\"hidden_size\":[256]", KVF_FILE_FORMAT, "\"hidden_size\" is an array"},
    {"\"hidden_size\":256", "\"hidden_size\":null", KVF_FILE_FORMAT, "\"hidden_size\" is missing"},
    {"\"hidden_size\":256", "\"x\":256", KVF_FILE_FORMAT, "\"hidden_size\" is missing"},
    {"\"hidden_size\":256", "\"hidden_size\":256,\"dim\":255", KVF_FILE_FORMAT, "\"hidden_size\" is 256|\"dim\" is 255|mean the same"},
    {"\"hidden_size\":256", "\"hidden_size\":256,\"hidden_size\":256", KVF_FILE_FORMAT, "\"hidden_size\" is there twice"},
    {"\"num_hidden_layers\":6", "\"num_hidden_layers\":257", KVF_FILE_FORMAT, "\"num_hidden_layers\" is 257|1 to 256"},
    {"\"vocab_size\":320", "\"vocab_size\":4294967616", KVF_FILE_FORMAT, "\"vocab_size\" is 4294967616"},
    {"\"index_topk\":64", "\"index_topk\":65537", KVF_FILE_FORMAT, "\"index_topk\" is 65537|1 to 65536"},
    {"\"head_dim\":512", "\"head_dim\":256", KVF_UNSUPPORTED, "\"head_dim\" is 256; only 512"},
    {"\"head_dim\":512", "\"head_dim\":true", KVF_FILE_FORMAT, "\"head_dim\" is true"},
    {"\"qk_rope_head_dim\":64", "\"qk_rope_head_dim\":32", KVF_UNSUPPORTED, "\"qk_rope_head_dim\" is 32; only 64"},
    {"\"index_head_dim\":128", "\"index_head_dim\":64", KVF_UNSUPPORTED, "\"index_head_dim\" is 64; only 128"},
    {"\"num_key_value_heads\":1", "\"num_key_value_heads\":8", KVF_UNSUPPORTED, "\"num_key_value_heads\" is 8; only 1"},
    {"\"sliding_window\":128", "\"sliding_window\":100", KVF_FILE_FORMAT, "\"sliding_window\" is 100; a multiple of 64"},
    {"\"index_n_heads\":16", "\"index_n_heads\":12", KVF_FILE_FORMAT, "\"index_n_heads\" is 12; a multiple of 8"},
    {"\"o_groups\":2", "\"o_groups\":3", KVF_FILE_FORMAT, "8 attention heads|3 groups"},
    {"\"hc_mult\":4", "\"hc_mult\":9", KVF_FILE_FORMAT, "\"hc_mult\" is 9|1 to 8"},
    {"\"hc_sinkhorn_iters\":20", "\"hc_sinkhorn_iters\":0", KVF_FILE_FORMAT, "\"hc_sinkhorn_iters\" is 0"},
    {"\"num_experts_per_tok\":2", "\"num_experts_per_tok\":9", KVF_FILE_FORMAT, "\"num_experts_per_tok\" is 9, but there are only 8"},
    {"\"num_experts_per_tok\":2", "\"num_experts_per_tok\":65", KVF_FILE_FORMAT, "\"num_experts_per_tok\" is 65|1 to 64"},
    {"\"hc_eps\":1e-06", "\"hc_eps\":0", KVF_FILE_FORMAT, "\"hc_eps\" is 0"},
    {"\"rms_norm_eps\":1e-06", "\"rms_norm_eps\":-1e-06", KVF_FILE_FORMAT, "\"rms_norm_eps\" is -1e-06"},
    {"\"rms_norm_eps\":1e-06", "\"rms_norm_eps\":1e999", KVF_FILE_FORMAT, "\"rms_norm_eps\" is inf"},
    {"\"swiglu_limit\":10.0,", "", KVF_FILE_FORMAT, "\"swiglu_limit\" is missing"},
    {"\"norm_topk_prob\":true", "\"norm_topk_prob\":1", KVF_FILE_FORMAT, "\"norm_topk_prob\" is 1; true or false"},
    /* what is not read */
    {"DeepseekV4ForCausalLM", "LlamaForCausalLM", KVF_UNSUPPORTED, "LlamaForCausalLM|DeepseekV4ForCausalLM"},
    {"\"deepseek_v4\"", "\"deepseek_v3\"", KVF_UNSUPPORTED, "\"model_type\" is \"deepseek_v3\""},
    {"sqrtsoftplus", "softmax%s\\n", KVF_UNSUPPORTED, "\"scoring_func\" is \"softmax%s?\""},
    {"\"silu\"", "\"gelu\"", KVF_UNSUPPORTED, "\"hidden_act\" is \"gelu\""},
    {"\"attention_bias\":false", "\"attention_bias\":true", KVF_UNSUPPORTED, "\"attention_bias\" is true"},
    {"\"attention_bias\":false", "\"expert_dtype\":\"nvfp4\"", KVF_UNSUPPORTED, "\"expert_dtype\" is \"nvfp4\"; bfloat16"},
    {"\"attention_bias\":false", "\"expert_dtype\":4", KVF_FILE_FORMAT, "\"expert_dtype\" is 4"},
    {"\"attention_bias\":false", "\"dtype\":\"int8\"", KVF_UNSUPPORTED, "\"dtype\" is \"int8\"; bfloat16"},
    {"\"attention_bias\":false", "\"first_k_dense_replace\":3", KVF_UNSUPPORTED, "\"first_k_dense_replace\" is 3"},
    {"\"attention_bias\":false", "\"n_group\":8", KVF_UNSUPPORTED, "\"n_group\" is 8"},
    /* layers */
    {"[0,0,4,128,4,128,0]", "[0,0,4,128,4]", KVF_FILE_FORMAT, "\"compress_ratios\" has 5 entries; the model has 6"},
    {"[0,0,4,128,4,128,0]", "[0,0,4,64,4,128]", KVF_FILE_FORMAT, "\"compress_ratios[3]\" is 64; 0, 4 or 128"},
    {"[0,0,4,128,4,128,0]", "[0,0,4,-128,4,128]", KVF_FILE_FORMAT, "\"compress_ratios[3]\" is -128"},
    {"[0,0,4,128,4,128,0]", "{}", KVF_FILE_FORMAT, "\"compress_ratios\" is an object"},
    {"\"compress_ratios\"", "\"x\"", KVF_FILE_FORMAT, "\"layer_types\" is missing|compress_ratios"},
    {"\"compress_ratios\":[0,0,4,128,4,128,0]", "\"layer_types\":[\"full_attention\",1,1,1,1,1]", KVF_FILE_FORMAT, "\"layer_types[0]\" is \"full_attention\""},
    {"\"compress_ratios\":[0,0,4,128,4,128,0]", "\"layer_types\":[0,0,0,0,0,0,0]", KVF_FILE_FORMAT, "\"layer_types\" has 7 entries"},
    {"\"num_hash_layers\":1", "\"num_hash_layers\":1,\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"sliding_attention\",\"sliding_attention\",\"sliding_attention\",\"sliding_attention\"]", KVF_FILE_FORMAT, "\"layer_types[2]\" is \"sliding_attention\", but \"compress_ratios[2]\" is 4"},
    {"\"num_hash_layers\":1", "\"num_hash_layers\":1,\"layer_types\":[\"sliding_attention\",1,1,1,1,1],\"compress_rates\":{\"heavily_compressed_attention\":1e9}", KVF_FILE_FORMAT, "\"compress_rates.heavily_compressed_attention\" is 1000000000"},
    {"[0,0,4,128,4,128,0]", "[0,0,4,128,4,128,0],\"compress_rates\":{\"compressed_sparse_attention\":128},\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"compressed_sparse_attention\",\"compressed_sparse_attention\",\"compressed_sparse_attention\",\"compressed_sparse_attention\"]", KVF_FILE_FORMAT, "\"layer_types[2]\" is \"compressed_sparse_attention\" at rate 128, but \"compress_ratios[2]\" is 4"},
    {"[0,0,4,128,4,128,0]", "[0,0,128,128,4,128,0],\"compress_rates\":{\"compressed_sparse_attention\":128},\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"compressed_sparse_attention\",\"heavily_compressed_attention\",\"compressed_sparse_attention\",\"heavily_compressed_attention\"]", KVF_FILE_FORMAT, "\"layer_types[2]\" is \"compressed_sparse_attention\" at rate 128, but \"compress_ratios[2]\" is 128"},
    {"\"num_hash_layers\":1,", "", KVF_FILE_FORMAT, "\"num_hash_layers\" is missing"},
    {"\"num_hash_layers\":1", "\"mlp_layer_types\":[\"dense\",\"moe\",\"moe\",\"moe\",\"moe\",\"moe\"]", KVF_FILE_FORMAT, "\"mlp_layer_types[0]\" is \"dense\""},
    {"\"num_hash_layers\":1", "\"num_hash_layers\":1,\"mlp_layer_types\":[\"moe\",\"moe\",\"moe\",\"moe\",\"moe\",\"moe\"]", KVF_FILE_FORMAT, "\"mlp_layer_types[0]\" is \"moe\", but \"num_hash_layers\" is 1"},
    /* rope */
    {"\"rope_theta\":10000", "\"rope_theta\":0", KVF_FILE_FORMAT, "\"rope_theta\" is 0"},
    {"\"rope_theta\":10000", "\"rope_theta\":1", KVF_FILE_FORMAT, "\"rope_theta\" is 1; a number from 2"},
    {"\"compress_rope_theta\":160000", "\"compress_rope_theta\":1", KVF_FILE_FORMAT, "\"compress_rope_theta\" is 1; a number from 2"},
    {"\"rope_theta\":10000,", "", KVF_FILE_FORMAT, "\"rope_theta\" is missing"},
    {"\"compress_rope_theta\":160000,", "", KVF_FILE_FORMAT, "\"compress_rope_theta\" is missing"},
    {"\"type\":\"yarn\"", "\"type\":\"linear\"", KVF_UNSUPPORTED, "\"rope_scaling.type\" is \"linear\""},
    {"\"type\":\"yarn\",", "", KVF_FILE_FORMAT, "\"rope_scaling.type\" is missing"},
    {"\"factor\":16", "\"factor\":0.5", KVF_FILE_FORMAT, "\"rope_scaling.factor\" is 0.5"},
    {"\"factor\":16", "\"factor\":16,\"mscale\":0.707", KVF_UNSUPPORTED, "\"rope_scaling.mscale\" is 0.707; only 1"},
    {"\"factor\":16", "\"factor\":16,\"attention_factor\":1.2", KVF_UNSUPPORTED, "\"rope_scaling.attention_factor\" is 1.2"},
    {"\"beta_fast\":32", "\"beta_fast\":0.5", KVF_FILE_FORMAT, "\"rope_scaling.beta_fast\" is 0.5|beta_slow"},
    {"\"original_max_position_embeddings\":65536", "\"truncate\":true", KVF_FILE_FORMAT, "\"rope_scaling.original_max_position_embeddings\" is missing"},
    {"\"rope_scaling\":{", "\"rope_parameters\":{", KVF_FILE_FORMAT, "\"rope_parameters.main\" is missing"},
    {"\"rope_scaling\":{", "\"rope_parameters\":{\"main\":{\"rope_type\":\"default\",\"rope_theta\":20000},", KVF_FILE_FORMAT, "\"rope_theta\" is 10000, but \"rope_parameters.main.rope_theta\" is 20000"},
    {"\"rope_scaling\":{", "\"rope_parameters\":{\"main\":{\"rope_type\":\"default\",\"rope_theta\":10000},\"compress\":{\"rope_type\":\"yarn\",\"rope_theta\":160000,\"factor\":16,\"original_max_position_embeddings\":65536},", KVF_UNSUPPORTED, "\"rope_parameters.compress.attention_factor\" is missing|magnitude"},
    {"\"factor\":16", "\"factor\":16,\"partial_rotary_factor\":0.5", KVF_UNSUPPORTED, "\"rope_scaling.partial_rotary_factor\" is 0.5"},
    {"\"type\":\"yarn\"", "\"type\":\"yarn\",\"rope_type\":\"default\"", KVF_FILE_FORMAT, "\"rope_scaling.rope_type\" is \"default\", but \"rope_scaling.type\" is \"yarn\""},
    {"\"type\":\"yarn\"", "\"type\":\"default\"", KVF_FILE_FORMAT, "\"rope_scaling.factor\" is 16; its type is \"default\""},
    {"\"type\":\"yarn\"", "\"type\":\"yarn\",\"truncate\":false", KVF_UNSUPPORTED, "\"rope_scaling.truncate\" is false; only true"},
    {"\"type\":\"yarn\"", "\"type\":\"yarn\",\"mscale_all_dim\":0", KVF_UNSUPPORTED, "\"rope_scaling.mscale_all_dim\" is 0; only 1"},
    {"\"type\":\"yarn\"", "\"type\":\"yarn\",\"short_factor\":[1]", KVF_UNSUPPORTED, "\"rope_scaling.short_factor\" is an array; nothing is known"},
    {"\"type\":\"yarn\"", "\"type\":\"yarn\",\"main\":{}", KVF_UNSUPPORTED, "\"rope_scaling.main\" is an object; nothing is known"},
    {"\"rope_scaling\":{", "\"rope_scaling\":16,\"x\":{", KVF_FILE_FORMAT, "\"rope_scaling\" is 16; an object is needed"},
    {"\"rope_scaling\":{", "\"rope_parameters\":[],\"x\":{", KVF_FILE_FORMAT, "\"rope_parameters.main\" is missing"},
    /* two that mean the same */
    {"\"rope_scaling\":{", NESTED("8", "32", "1", "65536") "\"rope_scaling\":{", KVF_FILE_FORMAT, "\"rope_scaling.factor\" is 16, but \"rope_parameters.compress.factor\" is 8; they mean the same"},
    {"\"rope_scaling\":{", NESTED("16", "30", "1", "65536") "\"rope_scaling\":{", KVF_FILE_FORMAT, "\"rope_scaling.beta_fast\" is 32, but \"rope_parameters.compress.beta_fast\" is 30"},
    {"\"rope_scaling\":{", NESTED("16", "32", "2", "65536") "\"rope_scaling\":{", KVF_FILE_FORMAT, "\"rope_scaling.beta_slow\" is 1, but \"rope_parameters.compress.beta_slow\" is 2"},
    {"\"rope_scaling\":{", NESTED("16", "32", "1", "131072") "\"rope_scaling\":{", KVF_FILE_FORMAT, "\"rope_scaling.original_max_position_embeddings\" is 65536, but \"rope_parameters.compress.original_max_position_embeddings\" is 131072"},
    {"\"rope_scaling\":{", "\"rope_parameters\":{\"main\":{\"rope_type\":\"default\",\"rope_theta\":10000},\"compress\":{\"rope_type\":\"default\",\"rope_theta\":160000}},\"rope_scaling\":{", KVF_FILE_FORMAT, "\"rope_scaling.rope_type\" is of YaRN, but \"rope_parameters.compress.rope_type\" is of no YaRN"},
    {"\"rope_scaling\":{", "\"rope_parameters\":{\"main\":{\"rope_type\":\"default\",\"rope_theta\":10000},\"compress\":{\"rope_type\":\"default\",\"rope_theta\":160000},\"rope_theta\":1},\"x\":{", KVF_UNSUPPORTED, "\"rope_parameters.rope_theta\" is 1; nothing is known"},
    {"\"rope_scaling\":{", "\"rope_parameters\":{\"main\":{\"rope_type\":\"default\",\"rope_theta\":10000},\"compress\":{\"rope_type\":\"default\",\"rope_theta\":40000}},\"x\":{", KVF_FILE_FORMAT, "\"compress_rope_theta\" is 160000, but \"rope_parameters.compress.rope_theta\" is 40000"},
    {"\"rope_scaling\":{", "\"original_seq_len\":65536,\"rope_factor\":40,\"rope_scaling\":{", KVF_FILE_FORMAT, "\"rope_factor\" is 40, but \"rope_scaling.factor\" is 16"},
    {"\"rope_scaling\":{", "\"original_seq_len\":0,\"rope_scaling\":{", KVF_FILE_FORMAT, "\"original_seq_len\" is of no YaRN, but \"rope_scaling.rope_type\" is of YaRN"},
    {"\"rope_scaling\":{", "\"rope_factor\":16,\"x\":{", KVF_FILE_FORMAT, "\"rope_factor\" is 16; it means nothing without \"original_seq_len\""},
    {"\"rope_scaling\":{", "\"beta_slow\":2,\"rope_scaling\":{", KVF_FILE_FORMAT, "\"beta_slow\" is 2; it means nothing without"},
    {"\"max_position_embeddings\":1048576", "\"max_position_embeddings\":1048577", KVF_FILE_FORMAT, "\"max_position_embeddings\" is 1048577; \"rope_scaling.factor\" 16 times \"rope_scaling.original_max_position_embeddings\" 65536 are fewer"},
    {"\"max_position_embeddings\":1048576", "\"max_position_embeddings\":1048576,\"max_seq_len\":4096", KVF_FILE_FORMAT, "\"max_position_embeddings\" is 1048576, but \"max_seq_len\" is 4096"},
    {"\"scoring_func\"", "\"score_func\":\"softmax\",\"scoring_func\"", KVF_FILE_FORMAT, "\"scoring_func\" is \"sqrtsoftplus\", but \"score_func\" is \"softmax\""},
    {"\"sliding_window\":128", "\"sliding_window\":128,\"window_size\":256", KVF_FILE_FORMAT, "\"sliding_window\" is 128, but \"window_size\" is 256"},
    {"\"moe_intermediate_size\":96", "\"moe_intermediate_size\":96,\"intermediate_size\":18432", KVF_FILE_FORMAT, "\"moe_intermediate_size\" is 96, but \"intermediate_size\" is 18432"},
    {"\"num_hash_layers\":1", "\"num_hash_layers\":1,\"n_hash_layers\":2", KVF_FILE_FORMAT, "\"num_hash_layers\" is 1, but \"n_hash_layers\" is 2"},
    {"\"hidden_act\"", "\"dtype\":\"bfloat16\",\"torch_dtype\":\"float16\",\"hidden_act\"", KVF_FILE_FORMAT, "\"dtype\" is \"bfloat16\", but \"torch_dtype\" is \"float16\""},
    {"\"num_hash_layers\":1", "\"num_hash_layers\":7", KVF_FILE_FORMAT, "\"num_hash_layers\" is 7; the model has fewer layers"},
    {"\"num_hash_layers\":1", "\"num_hash_layers\":0,\"mlp_layer_types\":[\"moe\",\"moe\",\"hash_moe\",\"moe\",\"moe\",\"moe\"]", KVF_FILE_FORMAT, "\"mlp_layer_types[2]\" is \"hash_moe\", but \"num_hash_layers\" is 0"},
    {"\"num_hash_layers\":1", "\"num_hash_layers\":1,\"compress_rates\":{\"compressed_sparse_attention\":8}", KVF_FILE_FORMAT, "\"compress_rates.compressed_sparse_attention\" is 8; but \"compress_ratios\" has 4"},
    {"\"num_hash_layers\":1", "\"num_hash_layers\":1,\"compress_rates\":{\"heavily_compressed_attention\":64}", KVF_FILE_FORMAT, "\"compress_rates.heavily_compressed_attention\" is 64; but"},
    {"\"num_hash_layers\":1", "\"num_hash_layers\":1,\"compress_rates\":{\"sliding_attention\":2}", KVF_UNSUPPORTED, "\"compress_rates.sliding_attention\" is 2; nothing is known"},
    {"[0,0,4,128,4,128,0]", "[0,0,4,128,4,128,4,128]", KVF_FILE_FORMAT, "\"compress_ratios[6]\" is 4; entries past the last layer"},
    /* another model */
    {"\"attention_bias\":false", "\"topk_group\":4", KVF_UNSUPPORTED, "\"topk_group\" is 4; only 1"},
    {"\"attention_bias\":false", "\"moe_layer_freq\":2", KVF_UNSUPPORTED, "\"moe_layer_freq\" is 2"},
    {"\"attention_bias\":false", "\"qk_nope_head_dim\":128", KVF_UNSUPPORTED, "\"qk_nope_head_dim\" is 128; only 448"},
    {"\"attention_bias\":false", "\"mlp_bias\":true", KVF_UNSUPPORTED, "\"mlp_bias\" is true; only false"},
    {"\"attention_bias\":false", "\"mlp_bias\":0", KVF_FILE_FORMAT, "\"mlp_bias\" is 0"},
    {"\"attention_bias\":false", "\"torch_dtype\":\"float8_e4m3fn\"", KVF_UNSUPPORTED, "\"torch_dtype\" is \"float8_e4m3fn\"; bfloat16"},
    {"\"attention_bias\":false", "\"topk_method\":\"greedy\"", KVF_FILE_FORMAT, "\"topk_method\" is there twice"},
    {"noaux_tc", "group_limited_greedy", KVF_UNSUPPORTED, "\"topk_method\" is \"group_limited_greedy\""},
    {"\"attention_bias\":false", "\"scale_fmt\":\"float\"", KVF_UNSUPPORTED, "\"scale_fmt\" is \"float\""},
    {"\"attention_bias\":false", "\"quantization_config\":{\"quant_method\":\"gptq\"}", KVF_UNSUPPORTED, "\"quantization_config.quant_method\" is \"gptq\"; only \"fp8\""},
    {"\"attention_bias\":false", "\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[32,32]}", KVF_UNSUPPORTED, "\"quantization_config.weight_block_size\" is an array; only [128, 128]"},
    {"\"attention_bias\":false", "\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128.5]}", KVF_UNSUPPORTED, "\"quantization_config.weight_block_size\" is an array; only [128, 128]"},
    {"\"attention_bias\":false", "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}", KVF_UNSUPPORTED, "\"quantization_config.fmt\" is \"e5m2\"; only \"e4m3\""},
    {"\"attention_bias\":false", "\"quantization_config\":{\"quant_method\":\"fp8\",\"scale_fmt\":\"float\"}", KVF_UNSUPPORTED, "\"quantization_config.scale_fmt\" is \"float\"; only \"ue8m0\""},
    {"\"attention_bias\":false", "\"quantization_config\":{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\"}", KVF_UNSUPPORTED, "\"quantization_config.activation_scheme\" is \"static\"; only \"dynamic\""},
    {"\"attention_bias\":false", "\"quantization_config\":{\"fmt\":\"e4m3\"}", KVF_FILE_FORMAT, "\"quantization_config.quant_method\" is missing; only \"fp8\""},
    {"\"attention_bias\":false", "\"quantization_config\":{\"quant_method\":\"fp8\",\"desc_act\":true}", KVF_UNSUPPORTED, "\"quantization_config.desc_act\" is true; nothing is known"},
    {"\"attention_bias\":false", "\"quantization_config\":\"fp8\"", KVF_FILE_FORMAT, "\"quantization_config\" is \"fp8\"; an object"},
    /* keys that nobody here knows */
    {"\"attention_bias\":false", "\"attn_logit_softcapping\":50", KVF_UNSUPPORTED, "\"attn_logit_softcapping\" is 50; nothing is known of this key, and its name says"},
    {"\"attention_bias\":false", "\"Hidden_Size\":512", KVF_UNSUPPORTED, "\"Hidden_Size\" is 512"},
    {"\"attention_bias\":false", "\"index_topk_freq\":4", KVF_UNSUPPORTED, "\"index_topk_freq\" is 4"},
    {"\"attention_bias\":false", "\"residual_multiplier\":0.22", KVF_UNSUPPORTED, "\"residual_multiplier\" is 0.22"},
    {"\"attention_bias\":false", "\"engram_layer_ids\":[1,14]", KVF_UNSUPPORTED, "\"engram_layer_ids\" is an array"},
    {"\"attention_bias\":false", "\"vision_config\":{}", KVF_UNSUPPORTED, "\"vision_config\" is an object"},
    {"\"attention_bias\":false", "\"kv_lora_rank\":512", KVF_UNSUPPORTED, "\"kv_lora_rank\" is 512"},
    /* numbers as JSON does not write them, or as nobody can hold them */
    {"\"hidden_size\":256", "\"hidden_size\":0256", KVF_FILE_FORMAT, "'0256' at byte|not valid JSON"},
    {"\"hidden_size\":256", "\"hidden_size\":0x100", KVF_FILE_FORMAT, "'0x100' at byte"},
    {"\"hidden_size\":256", "\"hidden_size\":256.", KVF_FILE_FORMAT, "'256.' at byte"},
    {"\"hidden_size\":256", "\"hidden_size\":256e", KVF_FILE_FORMAT, "'256e' at byte"},
    {"\"hidden_size\":256", "\"hidden_size\":25-6", KVF_FILE_FORMAT, "'25-6' at byte"},
    {"\"hidden_size\":256", "\"hidden_size\":2%6", KVF_FILE_FORMAT, "'2%6' at byte"},
    {"\"hidden_size\":256", "\"hidden_size\":--256", KVF_FILE_FORMAT, "'--256' at byte"},
    {"\"hidden_size\":256", "\"hidden_size\":256.0000000000000000000000000000000000000000000000000000000000000001", KVF_FILE_FORMAT, "the number 256.000000000000000000000000000000000000...|68 characters; at most 63"},
    {"\"hidden_size\":256", "\"hidden_size\":9007199254740993", KVF_FILE_FORMAT, "\"hidden_size\" is 900719925474099"},
    {"\"hidden_size\":256", "\"hidden_size\":-0", KVF_FILE_FORMAT, "\"hidden_size\" is -0"},
    {"\"hidden_size\":256", "\"hidden_size\":NaN", KVF_FILE_FORMAT, "not valid JSON"},
    {"\"hidden_size\":256", "\"hidden_size\":+256", KVF_FILE_FORMAT, "not valid JSON"},
    /* tokens */
    {"\"bos_token_id\":256", "\"bos_token_id\":320", KVF_FILE_FORMAT, "\"bos_token_id\" is 320"},
    {"\"bos_token_id\":256", "\"bos_token_id\":-1", KVF_FILE_FORMAT, "\"bos_token_id\" is -1"},
    {"\"eos_token_id\":257", "\"eos_token_id\":[257,\"a\"]", KVF_FILE_FORMAT, "\"eos_token_id\" is \"a\""},
    {"\"eos_token_id\":257", "\"eos_token_id\":[0,1,2,3,4,5,6,7,8]", KVF_FILE_FORMAT, "\"eos_token_id\"|at most 8"},
    /* text */
    {"\"vocab_size\":320", "\"vocab_size\":32\xff", KVF_FILE_FORMAT, "not UTF-8"},
    {"\"vocab_size\":320", "\"vocab_size\":", KVF_FILE_FORMAT, "dir/config.json: not valid JSON at line 1"},
    {"65536}}", "65536}", KVF_FILE_FORMAT, "not valid JSON"},
    {"65536}}", "65536}}}", KVF_FILE_FORMAT, "not valid JSON"},
};

/* clang-format on */

static void test_bad_configs_are_refused_by_key_and_value(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_configs / sizeof *bad_configs; i++) {
        const struct bad_config *bad = &bad_configs[i];
        char *text = with_change(bad->find, bad->replace);
        kvf_model_config config;
        kvf_error error = {0};
        kvf_status status = parse(text, &config, &error);
        assert_failed(bad->replace, status, bad->status, &error, bad->parts);
        assert_failed(bad->replace, status, bad->status, &error, "dir/config.json: ");
        free(text);
    }
}

static void test_bad_files_are_refused_before_they_are_read(void **state)
{
    char path[256];
    kvf_model_config config;
    kvf_error error = {0};
    snprintf(path, sizeof path, "%s/config.json", (char *)*state);
    assert_failed("no name", kvf_config_load("", &config, &error), KVF_INVALID_ARGUMENT, &error,
                  "the name of the checkpoint is empty");
    assert_failed("missing", kvf_config_load(*state, &config, &error), KVF_FILE_NOT_FOUND, &error,
                  path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_failed("a folder", kvf_config_load(*state, &config, &error), KVF_FILE_IO, &error,
                  "is a directory");
    assert_int_equal(rmdir(path), 0);
    write_text(*state, "config.json", "");
    assert_failed("empty", kvf_config_load(*state, &config, &error), KVF_FILE_FORMAT, &error,
                  "is empty");
    write_text(*state, "config.json", "[1]");
    assert_failed("an array", kvf_config_load(*state, &config, &error), KVF_FILE_FORMAT, &error,
                  "an array; an object");
    write_text(*state, "config.json", original_style);
    write_text(*state, "generation_config.json", "{");
    assert_failed("generation", kvf_config_load(*state, &config, &error), KVF_FILE_FORMAT, &error,
                  "generation_config.json: not valid JSON");
    assert_int_equal(kvf_config_parse("{", 1, "text", &config, NULL), KVF_FILE_FORMAT);
}

/* Every prefix of a valid text, exactly as long as its memory: nothing is read past the end. */
static void test_cut_text_is_refused_at_every_length(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < sizeof original_style - 1; bytes++) {
        kvf_model_config config;
        kvf_error error = {0};
        char *text = malloc(bytes + (bytes == 0));
        assert_non_null(text);
        memcpy(text, original_style, bytes);
        assert_int_equal(kvf_config_parse(text, bytes, "cut", &config, &error), KVF_FILE_FORMAT);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny_config_has_the_values_of_its_file),
        cmocka_unit_test(test_both_original_styles_give_the_same_config),
        cmocka_unit_test(test_optional_values_take_their_documented_meaning),
        cmocka_unit_test(test_what_agrees_is_accepted_in_every_spelling),
        cmocka_unit_test(test_released_configs_have_no_key_that_is_not_known),
        cmocka_unit_test(test_what_the_inference_style_leaves_out_is_that_code_s),
        cmocka_unit_test(test_unknown_keys_are_listed_as_far_as_there_is_room),
        cmocka_unit_test_setup_teardown(test_generation_config_replaces_the_end_tokens, make_folder,
                                        remove_folder),
        cmocka_unit_test(test_bad_configs_are_refused_by_key_and_value),
        cmocka_unit_test_setup_teardown(test_bad_files_are_refused_before_they_are_read,
                                        make_folder, remove_folder),
        cmocka_unit_test(test_cut_text_is_refused_at_every_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
