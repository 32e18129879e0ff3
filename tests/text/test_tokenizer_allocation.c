/* Every allocation of the tokenizer fails once: an error each time, and nothing is kept. */
#include "cache/failing_malloc.h"
#include "text/encoder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifdef KVF_TEST_WRAPPED_MALLOC

static kvf_device no_device; /* nothing is allocated on one */

/* Short and long pieces, and a marker. */
static kvf_status encode(const kvf_tokenizer *tokenizer, kvf_error *error)
{
    static char long_piece[1000];
    kvf_encoder *encoder;
    kvf_prompt prompt = {.failed = false};
    kvf_ids ids = {.n = 0};
    memset(long_piece, 'e', sizeof long_piece);
    kvf_status status = kvf_encoder_open(tokenizer, &encoder, error);
    if (status != KVF_OK)
        return status;
    kvf_prompt_text(&prompt, "haooee ", 7);
    kvf_prompt_marker(&prompt, "<think>");
    kvf_prompt_text(&prompt, long_piece, sizeof long_piece);
    status = kvf_encode_prompt(encoder, &prompt, &ids, error);
    assert_true(status == KVF_OK ? ids.n > 3 : ids.n == 0);
    if (status == KVF_OK)
        status = kvf_encode_text(encoder, long_piece, sizeof long_piece, true, &ids, error);
    kvf_prompt_free(&prompt);
    kvf_ids_free(&ids);
    kvf_encoder_close(encoder);
    return status;
}

static kvf_status open_and_encode(kvf_error *error)
{
    kvf_tokenizer *tokenizer;
    kvf_status status = kvf_tokenizer_open_json(KVF_TEST_TOKENIZER, 320, &tokenizer, error);
    assert_true((status == KVF_OK) == (tokenizer != NULL));
    if (status == KVF_OK)
        status = encode(tokenizer, error);
    kvf_tokenizer_close(tokenizer);
    return status;
}

static kvf_status open_bytes(kvf_error *error)
{
    kvf_tokenizer *tokenizer;
    const kvf_status status = kvf_tokenizer_open_bytes(320, &tokenizer, error);
    assert_true((status == KVF_OK) == (tokenizer != NULL));
    kvf_tokenizer_close(tokenizer);
    return status;
}

static void assert_each_failure_is_told(kvf_status (*step)(kvf_error *), uint64_t at_least)
{
    kvf_error error;
    kvf_status status = KVF_OUT_OF_MEMORY;
    uint64_t number = 0;
    for (; status != KVF_OK; number++) {
        const malloc_counts before = failing_malloc_count(&no_device);
        failing_malloc_begin(number);
        status = step(&error);
        const bool failed = failing_malloc_end();
        failing_malloc_expect(&no_device, &before);
        assert_int_equal(status, failed ? KVF_OUT_OF_MEMORY : KVF_OK);
        assert_true(error.message[0] || !failed);
    }
    assert_true(number > at_least);
}

static void test_each_allocation_that_fails_is_told(void **state)
{
    (void)state;
    assert_each_failure_is_told(open_and_encode, 50);
    assert_each_failure_is_told(open_bytes, 2);
}

#else
static void test_each_allocation_that_fails_is_told(void **state)
{
    (void)state;
    skip();
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_allocation_that_fails_is_told)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
