/* The tokenizer of bytes, and what src/text promises of any; tests/text has the one of
 * tokenizer.json. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "text/decoder.h"
#include "text/encoder.h"

#include <string.h>

enum { VOCAB = 320 };

static kvf_tokenizer *open_bytes(void)
{
    kvf_tokenizer *tokenizer;
    kvf_error error;
    assert_int_equal(kvf_tokenizer_open_bytes(VOCAB, &tokenizer, &error), KVF_OK);
    return tokenizer;
}

static void test_a_byte_is_a_token(void **state)
{
    (void)state;
    kvf_tokenizer *tokenizer = open_bytes();
    kvf_encoder *encoder;
    kvf_error error;
    kvf_ids ids = {.n = 0};
    char text[256];
    for (int i = 0; i < 256; i++)
        text[i] = (char)i;
    assert_int_equal(kvf_encoder_open(tokenizer, &encoder, &error), KVF_OK);
    assert_int_equal(kvf_encode_text(encoder, text, sizeof text, true, &ids, &error), KVF_OK);
    assert_int_equal(kvf_encode_text(encoder, "a", 1, false, &ids, &error), KVF_OK);
    assert_int_equal(ids.n, 257); /* the second was appended */
    for (int i = 0; i < 256; i++) {
        size_t bytes;
        const char *one = kvf_tokenizer_bytes(tokenizer, ids.ids[i], &bytes);
        assert_int_equal(ids.ids[i], i);
        assert_int_equal(bytes, 1);
        assert_int_equal((unsigned char)*one, i);
        assert_int_equal(kvf_tokenizer_kind(tokenizer, i), KVF_TOKEN_TEXT);
    }
    assert_int_equal(ids.ids[256], 'a');
    assert_int_equal(kvf_text_cut(encoder, text, sizeof text), sizeof text);
    kvf_ids_free(&ids);
    kvf_encoder_close(encoder);
    kvf_tokenizer_close(tokenizer);
}

static void test_other_ids_have_no_text(void **state)
{
    (void)state;
    kvf_tokenizer *tokenizer = open_bytes();
    const int32_t others[] = {256, VOCAB - 1, VOCAB, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        size_t bytes = 1;
        assert_non_null(kvf_tokenizer_bytes(tokenizer, others[i], &bytes));
        assert_int_equal(bytes, 0);
        assert_int_equal(kvf_tokenizer_kind(tokenizer, others[i]), KVF_TOKEN_NONE);
    }
    assert_int_equal(kvf_tokenizer_n_ids(tokenizer), VOCAB);
    assert_int_equal(kvf_tokenizer_find(tokenizer, "<think>"), -1);
    kvf_tokenizer_close(tokenizer);
}

static void test_a_marker_that_is_missing_is_named(void **state)
{
    (void)state;
    kvf_tokenizer *tokenizer = open_bytes();
    kvf_encoder *encoder;
    kvf_error error;
    kvf_ids ids = {.n = 0};
    kvf_prompt prompt = {.failed = false};
    assert_int_equal(kvf_encoder_open(tokenizer, &encoder, &error), KVF_OK);
    kvf_prompt_text(&prompt, "a", 1);
    assert_int_equal(kvf_encode_prompt(encoder, &prompt, &ids, &error), KVF_OK);
    assert_int_equal(ids.n, 1);
    kvf_prompt_marker(&prompt, "<think>");
    assert_int_equal(kvf_encode_prompt(encoder, &prompt, &ids, &error), KVF_UNSUPPORTED);
    assert_non_null(strstr(error.message, "<think>"));
    assert_int_equal(ids.n, 1); /* as before */
    prompt.failed = true;
    assert_int_equal(kvf_encode_prompt(encoder, &prompt, &ids, &error), KVF_OUT_OF_MEMORY);
    kvf_prompt_free(&prompt);
    kvf_ids_free(&ids);
    kvf_encoder_close(encoder);
    kvf_tokenizer_close(tokenizer);
}

static void test_a_vocabulary_is_of_bytes_or_it_is_not(void **state)
{
    kvf_tokenizer *tokenizer;
    kvf_error error;
    (void)state;
    assert_int_equal(kvf_tokenizer_open_bytes(255, &tokenizer, &error), KVF_UNSUPPORTED);
    assert_null(tokenizer);
    kvf_tokenizer_close(tokenizer);
    assert_int_equal(kvf_tokenizer_open_folder(KVF_TEST_MODEL, VOCAB, &tokenizer, &error), KVF_OK);
    assert_true(kvf_tokenizer_is_bytes(tokenizer));
    kvf_tokenizer_close(tokenizer);
    assert_int_equal(
        kvf_tokenizer_open_folder(KVF_TEST_MODEL, KVF_MAX_BYTE_VOCABULARY + 1, &tokenizer, &error),
        KVF_FILE_NOT_FOUND);
    assert_non_null(strstr(error.message, "513"));
}

/* What a decoder says of bytes that come one by one. */
static void assert_decoded(const kvf_tokenizer *tokenizer, const char *bytes,
                           const char *const *steps)
{
    kvf_decoder decoder;
    kvf_decoder_start(&decoder, tokenizer, false);
    for (; *bytes; bytes++, steps++) {
        kvf_buffer out = {.data = NULL};
        kvf_decoder_add(&decoder, (unsigned char)*bytes, &out);
        assert_int_equal(out.bytes, strlen(*steps));
        assert_memory_equal(out.data ? out.data : "", *steps, out.bytes);
        kvf_buffer_free(&out);
    }
    kvf_buffer rest = {.data = NULL};
    kvf_decoder_flush(&decoder, &rest);
    assert_int_equal(rest.bytes, strlen(*steps));
    assert_memory_equal(rest.data ? rest.data : "", *steps, rest.bytes);
    kvf_buffer_free(&rest);
}

#define U "\xef\xbf\xbd"

static void test_only_whole_characters_are_given(void **state)
{
    (void)state;
    kvf_tokenizer *tokenizer = open_bytes();
    /* A step a byte, and the flush. */
    assert_decoded(tokenizer, "a\xc3\xa9", (const char *const[]){"a", "", "\xc3\xa9", ""});
    assert_decoded(tokenizer, "\xf0\x9f\x98\x80",
                   (const char *const[]){"", "", "", "\xf0\x9f\x98\x80", ""});
    assert_decoded(tokenizer, "\xf0\x9f\x98", (const char *const[]){"", "", "", U});
    assert_decoded(tokenizer,
                   "\xe4\xb8"
                   "a",
                   (const char *const[]){"", "", U "a", ""});
    assert_decoded(tokenizer, "\xe4\xb8\xc3\xa9", (const char *const[]){"", "", U, "\xc3\xa9", ""});
    assert_decoded(tokenizer, "\xe0\x80", (const char *const[]){"", U U, ""}); /* overlong */
    assert_decoded(tokenizer, "\xed\xa0", (const char *const[]){"", U U, ""}); /* a surrogate */
    assert_decoded(tokenizer, "\xf4\x90", (const char *const[]){"", U U, ""}); /* past U+10FFFF */
    assert_decoded(tokenizer, "\x80\xc0\xff", (const char *const[]){U, U, U, ""});
    kvf_tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_byte_is_a_token),
        cmocka_unit_test(test_other_ids_have_no_text),
        cmocka_unit_test(test_a_marker_that_is_missing_is_named),
        cmocka_unit_test(test_a_vocabulary_is_of_bytes_or_it_is_not),
        cmocka_unit_test(test_only_whole_characters_are_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
