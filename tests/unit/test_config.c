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

/* original_style with the first `find` replaced (malloc'd); it must be there. */
static char *with_change(const char *find, const char *replace)
{
    const char *at = strstr(original_style, find);
    if (!at)
        fail_msg("not in the config: %s", find);
    size_t bytes = sizeof original_style + strlen(replace);
    char *text = malloc(bytes);
    assert_non_null(text);
    snprintf(text, bytes, "%.*s%s%s", (int)(at - original_style), original_style, replace,
             at + strlen(find));
    return text;
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
    {"\"attention_bias\":false", "\"quantization_config\":{\"quant_method\":\"fp8\"}", KVF_UNSUPPORTED, "quantization_config|\"fp8\""},
    {"\"attention_bias\":false", "\"expert_dtype\":\"fp4\"", KVF_UNSUPPORTED, "\"expert_dtype\" is \"fp4\""},
    {"\"attention_bias\":false", "\"dtype\":\"fp8\"", KVF_UNSUPPORTED, "\"dtype\" is \"fp8\""},
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
    {"\"num_hash_layers\":1", "\"num_hash_layers\":1,\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"sliding_attention\",\"sliding_attention\",\"sliding_attention\",\"sliding_attention\"]", KVF_FILE_FORMAT, "\"layer_types\" and \"compress_ratios\" disagree on layer 2"},
    {"\"num_hash_layers\":1", "\"num_hash_layers\":1,\"layer_types\":[\"sliding_attention\",1,1,1,1,1],\"compress_rates\":{\"heavily_compressed_attention\":1e9}", KVF_FILE_FORMAT, "\"compress_rates.heavily_compressed_attention\" is 1000000000"},
    {"[0,0,4,128,4,128,0]", "[0,0,4,128,4,128,0],\"compress_rates\":{\"compressed_sparse_attention\":128},\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"compressed_sparse_attention\",\"compressed_sparse_attention\",\"compressed_sparse_attention\",\"compressed_sparse_attention\"]", KVF_FILE_FORMAT, "disagree on layer 2"},
    {"[0,0,4,128,4,128,0]", "[0,0,128,128,4,128,0],\"compress_rates\":{\"compressed_sparse_attention\":128},\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"compressed_sparse_attention\",\"heavily_compressed_attention\",\"compressed_sparse_attention\",\"heavily_compressed_attention\"]", KVF_FILE_FORMAT, "disagree on layer 2"},
    {"\"num_hash_layers\":1,", "", KVF_FILE_FORMAT, "\"num_hash_layers\" is missing"},
    {"\"num_hash_layers\":1", "\"mlp_layer_types\":[\"dense\",\"moe\",\"moe\",\"moe\",\"moe\",\"moe\"]", KVF_FILE_FORMAT, "\"mlp_layer_types[0]\" is \"dense\""},
    {"\"num_hash_layers\":1", "\"num_hash_layers\":1,\"mlp_layer_types\":[\"moe\",\"moe\",\"moe\",\"moe\",\"moe\",\"moe\"]", KVF_FILE_FORMAT, "disagree on layer 0"},
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
    {"\"original_max_position_embeddings\":65536", "\"x\":0", KVF_FILE_FORMAT, "\"rope_scaling.original_max_position_embeddings\" is missing"},
    {"\"rope_scaling\":{", "\"rope_parameters\":{", KVF_FILE_FORMAT, "\"rope_parameters.main\" is missing"},
    {"\"rope_scaling\":{", "\"rope_parameters\":{\"main\":{\"rope_type\":\"default\",\"rope_theta\":20000},", KVF_FILE_FORMAT, "\"rope_parameters.main.rope_theta\" is 20000|differs"},
    {"\"rope_scaling\":{", "\"rope_parameters\":{\"main\":{\"rope_type\":\"default\",\"rope_theta\":10000},\"compress\":{\"rope_type\":\"yarn\",\"rope_theta\":160000,\"factor\":16,\"original_max_position_embeddings\":65536},", KVF_UNSUPPORTED, "\"rope_parameters.compress.attention_factor\" is missing|magnitude"},
    {"\"factor\":16", "\"factor\":16,\"partial_rotary_factor\":0.5", KVF_UNSUPPORTED, "\"rope_scaling.partial_rotary_factor\" is 0.5"},
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
        cmocka_unit_test_setup_teardown(test_generation_config_replaces_the_end_tokens, make_folder,
                                        remove_folder),
        cmocka_unit_test(test_bad_configs_are_refused_by_key_and_value),
        cmocka_unit_test_setup_teardown(test_bad_files_are_refused_before_they_are_read,
                                        make_folder, remove_folder),
        cmocka_unit_test(test_cut_text_is_refused_at_every_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
