/* The config of a GGUF: ds4's keys and llama.cpp's, their traps, every bad one by key and value. */
#include "gguf_files.h"
#include "same_config.h"

#include "file/metadata.h"

/* Types of the format, and how a case says that a key is left out. */
enum { U8, U16 = 2, U32 = 4, I32, F32, BOOL, TEXT, ARRAY, U64 = 10, F64 = 12, LEFT_OUT = 99 };

/* A key under "deepseek4.", or a whole one that begins with "general." or "tokenizer.". */
struct key {
    const char *name;
    uint32_t type;
    double value;      /* of a number */
    const char *text;  /* of a text */
    uint32_t n_values; /* of an array of `type`, all of them value; 0: no array */
};

/* The tiny checkpoint's, but for compress_ratios, as llama.cpp's converter writes them. */
static const struct key tiny_keys[] = {
    {"general.architecture", TEXT, 0, "deepseek4", 0},
    {"general.name", TEXT, 0, "tiny", 0},
    {"block_count", U32, 6, 0, 0},
    {"context_length", U32, 1048576, 0, 0},
    {"embedding_length", U32, 256, 0, 0},
    {"vocab_size", U32, 320, 0, 0},
    {"attention.head_count", U32, 8, 0, 0},
    {"attention.head_count_kv", U32, 1, 0, 0},
    {"attention.key_length", U32, 512, 0, 0},
    {"attention.value_length", U32, 512, 0, 0},
    {"attention.q_lora_rank", U32, 128, 0, 0},
    {"attention.output_lora_rank", U32, 128, 0, 0},
    {"attention.output_group_count", U32, 2, 0, 0},
    {"attention.sliding_window", U32, 128, 0, 0},
    {"attention.layer_norm_rms_epsilon", F32, 1e-6, 0, 0},
    {"attention.indexer.head_count", U32, 16, 0, 0},
    {"attention.indexer.key_length", U32, 128, 0, 0},
    {"attention.indexer.top_k", U32, 64, 0, 0},
    {"attention.compress_rope_freq_base", F32, 160000, 0, 0},
    {"rope.dimension_count", U32, 64, 0, 0},
    {"rope.freq_base", F32, 10000, 0, 0},
    {"rope.scaling.type", TEXT, 0, "yarn", 0},
    {"rope.scaling.factor", F32, 16, 0, 0},
    {"rope.scaling.yarn_beta_fast", F32, 32, 0, 0},
    {"rope.scaling.yarn_beta_slow", F32, 1, 0, 0},
    {"rope.scaling.original_context_length", U32, 65536, 0, 0},
    {"expert_count", U32, 8, 0, 0},
    {"expert_used_count", U32, 2, 0, 0},
    {"expert_shared_count", U32, 1, 0, 0},
    {"expert_feed_forward_length", U32, 96, 0, 0},
    {"expert_weights_scale", F32, 1.5, 0, 0},
    {"expert_weights_norm", BOOL, 1, 0, 0},
    {"expert_gating_func", U32, 4, 0, 0},
    {"hash_layer_count", U32, 1, 0, 0},
    {"swiglu_clamp_exp", F32, 10, 0, 6},
    {"hyper_connection.count", U32, 4, 0, 0},
    {"hyper_connection.sinkhorn_iterations", U32, 20, 0, 0},
    {"hyper_connection.epsilon", F32, 1e-6, 0, 0},
    {"leading_dense_block_count", U32, 0, 0, 0},
    {"tokenizer.ggml.bos_token_id", U32, 256, 0, 0},
    {"tokenizer.ggml.eos_token_id", U32, 257, 0, 0},
};
enum { N_TINY_KEYS = sizeof tiny_keys / sizeof *tiny_keys, MAX_CHANGES = 4, MAX_RATIOS = 8 };

static const uint32_t tiny_ratios[] = {0, 0, 4, 128, 4, 128, 0, 0};

/* A file of the tiny config with some keys changed, left out or added. */
struct recipe {
    struct key changes[MAX_CHANGES];
    uint32_t n_ratios;       /* 0: 6 */
    uint32_t odd_ratio;      /* put at layer 3 where it is not 0 */
    const char *tensors[16]; /* of one f32 each */
    uint32_t vocab;          /* rows of the first tensor instead, where it is not 0 */
};

static void put_number(uint32_t type, double value)
{
    uint32_t single;
    uint64_t bits;
    const float narrow = (float)value;
    switch (type) {
    case U8:
    case BOOL: put((uint64_t)value, 1); break;
    case U16: put((uint64_t)value, 2); break;
    case U32: put((uint64_t)value, 4); break;
    case I32: put((uint64_t)(int64_t)value, 4); break;
    case U64: put((uint64_t)value, 8); break;
    case F32:
        memcpy(&single, &narrow, sizeof single);
        put(single, 4);
        break;
    default:
        memcpy(&bits, &value, sizeof bits);
        put(bits, 8);
        break;
    }
}

static void put_whole_key(const struct key *key)
{
    char name[96];
    const bool is_whole =
        strncmp(key->name, "general.", 8) == 0 || strncmp(key->name, "tokenizer.", 10) == 0;
    snprintf(name, sizeof name, "%s%s", is_whole ? "" : "deepseek4.", key->name);
    put_text(name);
    put(key->n_values ? ARRAY : key->type, 4);
    if (key->n_values) {
        put(key->type, 4);
        put(key->n_values, 8);
    }
    for (uint32_t i = 0; i < (key->n_values ? key->n_values : 1); i++) {
        if (key->type == TEXT)
            put_text(key->text);
        else
            put_number(key->type, key->value);
    }
}

static const struct key *change_of(const struct recipe *recipe, const char *name)
{
    for (int i = 0; i < MAX_CHANGES && recipe->changes[i].name; i++)
        if (strcmp(recipe->changes[i].name, name) == 0)
            return &recipe->changes[i];
    return NULL;
}

static bool is_tiny_key(const char *name)
{
    for (int i = 0; i < N_TINY_KEYS; i++)
        if (strcmp(tiny_keys[i].name, name) == 0)
            return true;
    return false;
}

static void put_ratios(const struct recipe *recipe, const struct key *changed)
{
    const uint32_t n = recipe->n_ratios ? recipe->n_ratios : 6;
    if (changed) {
        put_whole_key(changed);
        return;
    }
    put_text("deepseek4.attention.compress_ratios");
    put(ARRAY, 4);
    put(I32, 4);
    put(n, 8);
    for (uint32_t i = 0; i < n; i++)
        put(i == 3 && recipe->odd_ratio ? recipe->odd_ratio : tiny_ratios[i], 4);
}

static void build(const struct recipe *recipe)
{
    static const char ratios[] = "attention.compress_ratios";
    const uint64_t one[] = {1};
    const struct key *changed = change_of(recipe, ratios);
    uint64_t n_keys = 0;
    uint32_t n_tensors = 0;
    while (n_tensors < 16 && recipe->tensors[n_tensors])
        n_tensors++;
    put_header(3, n_tensors, 0);
    for (int i = 0; i < N_TINY_KEYS; i++) {
        const struct key *key = change_of(recipe, tiny_keys[i].name);
        if (key && key->type == LEFT_OUT)
            continue;
        put_whole_key(key ? key : &tiny_keys[i]);
        n_keys++;
    }
    for (int i = 0; i < MAX_CHANGES && recipe->changes[i].name; i++) {
        const struct key *key = &recipe->changes[i];
        if (is_tiny_key(key->name) || strcmp(key->name, ratios) == 0 || key->type == LEFT_OUT)
            continue;
        put_whole_key(key);
        n_keys++;
    }
    if (!changed || changed->type != LEFT_OUT) {
        put_ratios(recipe, changed);
        n_keys++;
    }
    gguf.bytes[16] = (unsigned char)n_keys; /* fewer than 256 */
    const uint64_t rows[] = {1, recipe->vocab};
    for (uint32_t i = 0; i < n_tensors; i++)
        put_info(recipe->tensors[i], recipe->vocab ? 2 : 1, recipe->vocab ? rows : one, 0, 32 * i);
    put_padding(32);
    put_zeros(32 * n_tensors + 4 * recipe->vocab);
}

static kvf_status read_recipe(const char *folder, const struct recipe *recipe,
                              kvf_model_config *config, kvf_error *error)
{
    char path[512];
    kvf_tensor_set *set = NULL;
    build(recipe);
    write_file(folder, "x.gguf", gguf.bytes, gguf.n);
    snprintf(path, sizeof path, "%s/x.gguf", folder);
    if (kvf_tensor_set_open(path, &set, error) != KVF_OK)
        fail_msg("%s", error->message);
    const kvf_status status = kvf_config_from_gguf(set, config, error);
    kvf_tensor_set_close(set);
    return status;
}

static void read_good(const char *folder, const struct recipe *recipe, kvf_model_config *config)
{
    kvf_error error = {0};
    if (read_recipe(folder, recipe, config, &error) != KVF_OK)
        fail_msg("%s", error.message);
}

static void expect(const char *folder, const struct recipe *recipe, kvf_status wanted,
                   const char *parts)
{
    kvf_error error = {0};
    kvf_model_config config;
    memset(&config, 77, sizeof config);
    const kvf_model_config before = config;
    assert_failed(parts, read_recipe(folder, recipe, &config, &error), wanted, &error, parts);
    assert_memory_equal(&config, &before, sizeof config);
    if (!strstr(error.message, "/x.gguf: "))
        fail_msg("does not name the file: %s", error.message);
}

/* ---- What is read ---------------------------------------------------------------------------- */

static void test_the_tiny_config_is_that_of_its_json(void **state)
{
    kvf_model_config wanted;
    kvf_model_config config;
    kvf_error error = {0};
    assert_int_equal(kvf_config_load(KVF_TEST_MODEL, &wanted, &error), KVF_OK);
    /* An f32 cannot hold 1e-6 better than the config's own f32 does. */
    read_good(*state, &(struct recipe){0}, &config);
    assert_same_model(&config, &wanted);
    assert_int_equal(config.bos_token, 256);
    assert_int_equal(config.n_eos_tokens, 1);
    assert_int_equal(config.eos_tokens[0], 257);
}

/* Other types of the same class, and keys that need not be there. */
static void test_writers_differ_in_types_and_in_what_they_leave_out(void **state)
{
    static const struct recipe recipes[] = {
        {.changes = {{"context_length", U64, 1048576, 0, 0},
                     {"rope.scaling.original_context_length", U64, 65536, 0, 0},
                     {"block_count", I32, 6, 0, 0},
                     {"rope.freq_base", F64, 10000, 0, 0}}},
        {.changes = {{"context_length", LEFT_OUT, 0, 0, 0},
                     {"rope.freq_base", LEFT_OUT, 0, 0, 0},
                     {"expert_gating_func", LEFT_OUT, 0, 0, 0},
                     {"leading_dense_block_count", LEFT_OUT, 0, 0, 0}}},
        {.changes = {{"rope.scaling.type", LEFT_OUT, 0, 0, 0},
                     {"rope.scaling.yarn_beta_fast", LEFT_OUT, 0, 0, 0},
                     {"rope.scaling.yarn_beta_slow", LEFT_OUT, 0, 0, 0},
                     {"rope.scaling.yarn_log_multiplier", F32, 0.1, 0, 0}}},
        {.changes = {{"swiglu_clamp_exp", F32, 10, 0, 0},
                     {"swiglu_clamp_shexp", F32, 10, 0, 6},
                     {"expert_group_count", U32, 0, 0, 0},
                     {"expert_group_used_count", U32, 0, 0, 0}},
         .n_ratios = 7},
        {.changes = {{"swiglu_clamp_exp", F32, 10, 0, 7},
                     {"swiglu_clamp_shexp", F64, 10, 0, 0},
                     {"rope.scaling.attn_factor", F32, 1, 0, 0},
                     {"expert_group_count", U32, 1, 0, 0}},
         .n_ratios = 8},
    };
    kvf_model_config wanted;
    kvf_model_config config;
    kvf_error error = {0};
    assert_int_equal(kvf_config_load(KVF_TEST_MODEL, &wanted, &error), KVF_OK);
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        read_good(*state, &recipes[i], &config);
        assert_same_model(&config, &wanted);
    }
}

static void test_values_that_are_not_the_tiny_ones(void **state)
{
    kvf_model_config config;
    const struct recipe numbers = {.changes = {{"swiglu_clamp_exp", F32, 0, 0, 0},
                                               {"expert_weights_norm", BOOL, 0, 0, 0},
                                               {"hash_layer_count", U32, 3, 0, 0},
                                               {"tokenizer.ggml.eos_token_id", LEFT_OUT, 0, 0, 0}}};
    read_good(*state, &numbers, &config);
    assert_true(config.swiglu_limit == 0 && !config.norm_top_k && config.n_eos_tokens == 0);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(config.hash_routed[i], i < 3);
    struct recipe plain = {.changes = {{"rope.scaling.type", TEXT, 0, "none", 0},
                                       {"rope.scaling.factor", F32, 1, 0, 0}}};
    for (int i = 0; i < 2; i++) {
        read_good(*state, &plain, &config);
        assert_false(config.rope_compress.yarn);
        plain.changes[1].type = LEFT_OUT;
    }
    const struct recipe unscaled = {
        .changes = {{"rope.scaling.type", LEFT_OUT, 0, 0, 0},
                    {"rope.scaling.factor", LEFT_OUT, 0, 0, 0},
                    {"tokenizer.ggml.bos_token_id", LEFT_OUT, 0, 0, 0}}};
    read_good(*state, &unscaled, &config);
    assert_false(config.rope_compress.yarn);
    assert_int_equal(config.bos_token, -1);
}

/* ---- What the tensors decide --------------------------------------------------------------------
 */

static void test_the_tensors_decide_how_many_layers_predict_further_tokens(void **state)
{
    kvf_model_config config;
    struct recipe recipe = {.changes = {{"nextn_predict_layers", U32, 1, 0, 0}}};
    read_good(*state, &recipe, &config);
    assert_int_equal(config.geometry.n_layers, 6); /* ds4's: it says so and has none */
    recipe.changes[1] = (struct key){"block_count", U32, 7, 0, 0};
    recipe.changes[2] = (struct key){"swiglu_clamp_exp", F32, 10, 0, 7};
    recipe.n_ratios = 7;
    read_good(*state, &recipe, &config);
    assert_int_equal(config.geometry.n_layers, 7);
    recipe.tensors[0] = "blk.6.nextn.eh_proj.weight";
    for (int i = 0; i < 2; i++) { /* llama.cpp's: whatever the key says */
        recipe.changes[0].value = i;
        read_good(*state, &recipe, &config);
        assert_int_equal(config.geometry.n_layers, 6);
    }
    recipe.tensors[1] = "blk.5.nextn.eh_proj.weight";
    read_good(*state, &recipe, &config);
    assert_int_equal(config.geometry.n_layers, 5);
    recipe.tensors[0] = "blk.4.nextn.eh_proj.weight"; /* not the last ones */
    recipe.tensors[1] = "blk.6.nextn.enorm.weight";
    read_good(*state, &recipe, &config);
    assert_int_equal(config.geometry.n_layers, 7);
}

static void test_the_vocabulary_is_the_embeddings_where_no_key_says_it(void **state)
{
    kvf_model_config config;
    const struct recipe embedded = {.changes = {{"vocab_size", LEFT_OUT, 0, 0, 0}},
                                    .tensors = {"token_embd.weight"},
                                    .vocab = 300};
    read_good(*state, &embedded, &config);
    assert_int_equal(config.geometry.vocab, 300);
    const struct recipe without = {.changes = {{"vocab_size", LEFT_OUT, 0, 0, 0}}};
    expect(*state, &without, KVF_FILE_FORMAT, "\"deepseek4.vocab_size\" is missing; a whole");
}

static void test_halves_of_a_model_are_refused_by_both_names(void **state)
{
    const char *both =
        "/x.gguf: holds layers |no split file|Layers00-30.gguf|Layers-31-output.gguf";
    struct recipe first = {.tensors = {"token_embd.weight", "blk.0.attn_norm.weight",
                                       "blk.1.attn_norm.weight", "blk.2.attn_norm.weight"}};
    expect(*state, &first, KVF_UNSUPPORTED, both);
    expect(*state, &first, KVF_UNSUPPORTED, "holds layers 0 to 2 of 6");
    struct recipe second = {.tensors = {"output.weight", "blk.3.attn_norm.weight",
                                        "blk.4.attn_norm.weight", "blk.5.attn_norm.weight"}};
    expect(*state, &second, KVF_UNSUPPORTED, both);
    expect(*state, &second, KVF_UNSUPPORTED, "holds layers 3 to 5 of 6");
    /* What is merely incomplete is not called a half: the loader names what is missing. */
    kvf_model_config config;
    first.tensors[4] = "output.weight";
    read_good(*state, &first, &config);
    second.tensors[4] = "token_embd.weight";
    read_good(*state, &second, &config);
    const struct recipe heads[] = {{.tensors = {"mtp.0.attn_norm.weight"}},
                                   {.tensors = {"dspark.main_proj.weight"}}};
    for (int i = 0; i < 2; i++)
        expect(*state, &heads[i], KVF_UNSUPPORTED, "holds only what predicts further tokens");
}

/* ---- What is refused
 * ------------------------------------------------------------------------------ */

static const struct bad_config {
    struct key change;
    kvf_status status;
    const char *parts;
} bad_configs[] = {
    {{"general.architecture", TEXT, 0, "deepseek2", 0},
     KVF_UNSUPPORTED,
     "\"general.architecture\" is \"deepseek2\"; that is DeepSeek V2 or V3|only \"deepseek4\""},
    {{"general.architecture", TEXT, 0, "deepseek32", 0}, KVF_UNSUPPORTED, "DeepSeek V3.2"},
    {{"general.architecture", TEXT, 0, "deepseek41", 0}, KVF_UNSUPPORTED, "DeepSeek V4.1"},
    {{"general.architecture", TEXT, 0, "dspark", 0}, KVF_UNSUPPORTED, "\"dspark\"|drafts"},
    {{"general.architecture", TEXT, 0, "dflash", 0}, KVF_UNSUPPORTED, "\"dflash\"|drafts"},
    {{"general.architecture", TEXT, 0, "llama", 0},
     KVF_UNSUPPORTED,
     "\"general.architecture\" is \"llama\"; only \"deepseek4\" is read"},
    {{"general.architecture", TEXT, 0, "deepseek44", 0}, KVF_UNSUPPORTED, "\"deepseek44\"; only"},
    {{"general.architecture", TEXT, 0, "a\n\x1b[31m%s", 0}, KVF_UNSUPPORTED, "\"a??[31m%s\"; only"},
    {{"general.architecture", LEFT_OUT, 0, 0, 0},
     KVF_FILE_FORMAT,
     "is missing; only \"deepseek4\""},
    {{"general.architecture", U32, 4, 0, 0}, KVF_FILE_FORMAT, "is 4; only \"deepseek4\" is read"},
    {{"block_count", LEFT_OUT, 0, 0, 0},
     KVF_FILE_FORMAT,
     "\"deepseek4.block_count\" is missing; a whole number from 1 to 256 is needed"},
    {{"block_count", U32, 0, 0, 0}, KVF_FILE_FORMAT, "\"deepseek4.block_count\" is 0;"},
    {{"block_count", U32, 257, 0, 0}, KVF_FILE_FORMAT, "\"deepseek4.block_count\" is 257;"},
    {{"block_count", I32, -1, 0, 0}, KVF_FILE_FORMAT, "block_count\" is -1; a whole"},
    {{"block_count", F32, 6, 0, 0}, KVF_FILE_FORMAT, "block_count\" is 6; a whole number"},
    {{"block_count", TEXT, 0, "6", 0}, KVF_FILE_FORMAT, "block_count\" is \"6\"; a whole number"},
    {{"block_count", U32, 6, 0, 1}, KVF_FILE_FORMAT, "is an array of 1 u32; a whole number"},
    {{"block_count", U32, 7, 0, 0},
     KVF_FILE_FORMAT,
     "compress_ratios\" is an array of 6 i32|7, is"},
    {{"context_length", U64, 0x1p62, 0, 0},
     KVF_FILE_FORMAT,
     "context_length\" is 46116860184273879"},
    {{"attention.key_length", U32, 256, 0, 0}, KVF_UNSUPPORTED, "is 256; only 512 is supported"},
    {{"attention.value_length", U32, 256, 0, 0}, KVF_UNSUPPORTED, "only 512 is supported"},
    {{"attention.head_count_kv", U32, 2, 0, 0}, KVF_UNSUPPORTED, "is 2; only 1 is supported"},
    {{"attention.indexer.head_count", U32, 12, 0, 0}, KVF_FILE_FORMAT, "is 12; a multiple of 8"},
    {{"attention.sliding_window", U32, 100, 0, 0}, KVF_FILE_FORMAT, "is 100; a multiple of 64"},
    {{"attention.output_group_count", U32, 3, 0, 0},
     KVF_FILE_FORMAT,
     "8 attention heads cannot be divided into|output_group_count\" = 3"},
    {{"attention.layer_norm_rms_epsilon", F32, 0, 0, 0}, KVF_FILE_FORMAT, "is 0; a number from"},
    {{"attention.layer_norm_rms_epsilon", U32, 1, 0, 0}, KVF_FILE_FORMAT, "is 1; a number from"},
    {{"attention.compress_rope_freq_base", LEFT_OUT, 0, 0, 0},
     KVF_FILE_FORMAT,
     "\"deepseek4.attention.compress_rope_freq_base\" is missing"},
    {{"rope.freq_base", F32, 1, 0, 0}, KVF_FILE_FORMAT, "rope.freq_base\" is 1; a number from 2"},
    {{"rope.dimension_count", U32, 128, 0, 0}, KVF_UNSUPPORTED, "only 64 is supported"},
    {{"rope.scaling.type", TEXT, 0, "linear", 0}, KVF_UNSUPPORTED, "\"linear\"; only \"none\" and"},
    {{"rope.scaling.type", U32, 1, 0, 0}, KVF_FILE_FORMAT, "is 1; only \"none\" and \"yarn\""},
    {{"rope.scaling.type", TEXT, 0, "none", 0},
     KVF_FILE_FORMAT,
     "rope.scaling.factor\" is 16; |is \"none\", which has no factor"},
    {{"rope.scaling.yarn_attn_factor", F32, 2, 0, 0}, KVF_UNSUPPORTED, "is 2; only 1 is supported"},
    {{"rope.scaling.yarn_ext_factor", F32, 0, 0, 0}, KVF_UNSUPPORTED, "is 0; only 1 is supported"},
    {{"rope.scale_linear", F32, 4, 0, 0}, KVF_UNSUPPORTED, "is 4; only 1 is supported"},
    {{"context_length", U32, 2000000, 0, 0}, KVF_FILE_FORMAT, "is 2000000; |fewer tokens"},
    {{"rope.scaling.original_context_length", U32, 4096, 0, 0},
     KVF_FILE_FORMAT,
     "is 1048576; |16 times|4096 are fewer tokens"},
    {{"rope.scaling.factor", F32, 2, 0, 0}, KVF_FILE_FORMAT, " 2 times|65536 are fewer tokens"},
    {{"hash_layer_count", U32, 7, 0, 0}, KVF_FILE_FORMAT, "is 7; the model has fewer layers"},
    {{"rope.scaling.factor", LEFT_OUT, 0, 0, 0},
     KVF_FILE_FORMAT,
     "rope.scaling.factor\" is missing"},
    {{"rope.scaling.attn_factor", F32, 1.5, 0, 0}, KVF_UNSUPPORTED, "is 1.5; only 1 is supported"},
    {{"rope.scaling.original_context_length", LEFT_OUT, 0, 0, 0}, KVF_FILE_FORMAT, "is missing"},
    {{"rope.scaling.original_context_length", F32, 65536, 0, 0},
     KVF_FILE_FORMAT,
     "is 65536; a whole"},
    {{"rope.scaling.yarn_beta_fast", F32, 0.5, 0, 0}, KVF_FILE_FORMAT, "must not be below"},
    {{"expert_count", U32, 1, 0, 0}, KVF_FILE_FORMAT, "expert_used_count\" is 2|only 1 experts"},
    {{"expert_gating_func", U32, 2, 0, 0}, KVF_UNSUPPORTED, "is 2; only 4 is supported"},
    {{"expert_group_count", U32, 8, 0, 0}, KVF_FILE_FORMAT, "expert_group_count\" is 8"},
    {{"expert_weights_norm", LEFT_OUT, 0, 0, 0}, KVF_FILE_FORMAT, "is missing; true or false"},
    {{"expert_weights_norm", U8, 1, 0, 0}, KVF_FILE_FORMAT, "is 1; true or false is needed"},
    {{"leading_dense_block_count", U32, 1, 0, 0}, KVF_UNSUPPORTED, "is 1; only 0 is supported"},
    {{"swiglu_clamp_exp", LEFT_OUT, 0, 0, 0}, KVF_FILE_FORMAT, "swiglu_clamp_exp\" is missing"},
    {{"swiglu_clamp_exp", F32, 10, 0, 5},
     KVF_FILE_FORMAT,
     "is an array of 5 f32|one entry a layer"},
    {{"swiglu_clamp_exp", F32, -1, 0, 0}, KVF_FILE_FORMAT, "swiglu_clamp_exp[0]\" is -1; a float"},
    {{"swiglu_clamp_exp", U32, 10, 0, 6}, KVF_FILE_FORMAT, "swiglu_clamp_exp[0]\" is 10; a float"},
    {{"swiglu_clamp_shexp", F32, 7, 0, 0}, KVF_UNSUPPORTED, "shexp\" is 7, but|exp\" is 10"},
    {{"attention.compress_ratios", LEFT_OUT, 0, 0, 0}, KVF_FILE_FORMAT, "ratios\" is missing; an"},
    {{"attention.compress_ratios", U32, 4, 0, 0}, KVF_FILE_FORMAT, "ratios\" is 4; an array with"},
    {{"attention.compress_ratios", U32, 4, 0, 5}, KVF_FILE_FORMAT, "is an array of 5 u32"},
    {{"attention.compress_ratios", F32, 4, 0, 6}, KVF_FILE_FORMAT, "ratios[0]\" is 4; 0, 4 or 128"},
    {{"attention.compress_ratios", I32, -4, 0, 6},
     KVF_FILE_FORMAT,
     "ratios[0]\" is -4; 0, 4 or 128"},
    {{"tokenizer.ggml.bos_token_id", U32, 320, 0, 0},
     KVF_FILE_FORMAT,
     "bos_token_id\" is 320; a token"},
    {{"tokenizer.ggml.eos_token_id", TEXT, 0, "x", 0}, KVF_FILE_FORMAT, "eos_token_id\" is \"x\""},
};

static void test_bad_configs_are_refused_by_key_and_value(void **state)
{
    for (size_t i = 0; i < sizeof bad_configs / sizeof *bad_configs; i++) {
        const struct bad_config *bad = &bad_configs[i];
        const struct recipe recipe = {.changes = {bad->change}};
        expect(*state, &recipe, bad->status, bad->parts);
    }
    for (uint32_t odd = 1; odd < 200; odd += 2) {
        const struct recipe recipe = {.odd_ratio = odd};
        expect(*state, &recipe, KVF_FILE_FORMAT, "compress_ratios[3]\" is |0, 4 or 128 is needed");
    }
}

/* Every key that must be there is asked for by name. */
static void test_each_required_key_is_missed(void **state)
{
    static const char *const optional[] = {"general.name",
                                           "context_length",
                                           "rope.freq_base",
                                           "rope.scaling.type",
                                           "expert_gating_func",
                                           "leading_dense_block_count",
                                           "tokenizer.ggml.bos_token_id",
                                           "tokenizer.ggml.eos_token_id",
                                           "rope.scaling.yarn_beta_fast",
                                           "rope.scaling.yarn_beta_slow"};
    for (int i = 0; i < N_TINY_KEYS; i++) {
        char parts[128];
        kvf_model_config config;
        const struct recipe recipe = {.changes = {{tiny_keys[i].name, LEFT_OUT, 0, 0, 0}}};
        bool may_be_missing = false;
        for (size_t j = 0; j < sizeof optional / sizeof *optional; j++)
            may_be_missing |= strcmp(optional[j], tiny_keys[i].name) == 0;
        snprintf(parts, sizeof parts, "%s\" is missing; ", tiny_keys[i].name);
        if (may_be_missing)
            read_good(*state, &recipe, &config);
        else
            expect(*state, &recipe, KVF_FILE_FORMAT, parts);
    }
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_the_tiny_config_is_that_of_its_json),
        IN_FOLDER(test_writers_differ_in_types_and_in_what_they_leave_out),
        IN_FOLDER(test_values_that_are_not_the_tiny_ones),
        IN_FOLDER(test_the_tensors_decide_how_many_layers_predict_further_tokens),
        IN_FOLDER(test_the_vocabulary_is_the_embeddings_where_no_key_says_it),
        IN_FOLDER(test_halves_of_a_model_are_refused_by_both_names),
        IN_FOLDER(test_bad_configs_are_refused_by_key_and_value),
        IN_FOLDER(test_each_required_key_is_missed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
