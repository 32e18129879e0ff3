/* The byte-level tokenizer. */
#include "checkpoint_files.h"

#include "model/tokenizer.h"

static void test_every_byte_is_its_own_token_and_back(void **state)
{
    (void)state;
    const kvf_model_config config = {.bos_token = 256};
    char text[256];
    int32_t tokens[257];
    for (int i = 0; i < 256; i++)
        text[i] = (char)i;
    assert_int_equal(kvf_tokenize(&config, text, sizeof text, true, tokens), 257);
    assert_int_equal(tokens[0], 256);
    for (int i = 0; i < 256; i++) {
        assert_int_equal(tokens[1 + i], i);
        assert_int_equal(kvf_token_byte(tokens[1 + i]), i);
    }
}

static void test_bos_is_written_only_where_asked_for_and_known(void **state)
{
    (void)state;
    const kvf_model_config with = {.bos_token = 256};
    const kvf_model_config without = {.bos_token = -1};
    int32_t tokens[2] = {7, 7};
    assert_int_equal(kvf_tokenize(&with, "a", 1, false, tokens), 1);
    assert_int_equal(tokens[0], 'a');
    assert_int_equal(kvf_tokenize(&without, "a", 1, true, tokens), 1);
    assert_int_equal(kvf_tokenize(&with, "", 0, true, tokens), 1);
    assert_int_equal(kvf_tokenize(&without, "", 0, true, tokens), 0);
    assert_int_equal(tokens[1], 7);
}

static void test_tokens_without_text_have_no_byte(void **state)
{
    (void)state;
    const int32_t tokens[] = {256, 257, 319, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        assert_int_equal(kvf_token_byte(tokens[i]), -1);
}

static void test_other_tokenizers_are_refused_by_name(void **state)
{
    kvf_error error = {0};
    kvf_model_config config = {.geometry = {.vocab = 256}};
    assert_int_equal(kvf_tokenizer_check(KVF_TEST_MODEL, &config, &error), KVF_OK);
    assert_int_equal(kvf_tokenizer_check(*state, &config, &error), KVF_OK);
    config.geometry.vocab = 255;
    assert_failed("small", kvf_tokenizer_check(*state, &config, &error), KVF_UNSUPPORTED, &error,
                  "a vocabulary of 255");
    config.geometry.vocab = 256;
    write_text(*state, "tokenizer.json", "{}");
    assert_failed("file", kvf_tokenizer_check(*state, &config, &error), KVF_UNSUPPORTED, &error,
                  "has a tokenizer.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_byte_is_its_own_token_and_back),
        cmocka_unit_test(test_bos_is_written_only_where_asked_for_and_known),
        cmocka_unit_test(test_tokens_without_text_have_no_byte),
        cmocka_unit_test_setup_teardown(test_other_tokenizers_are_refused_by_name, make_folder,
                                        remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
