/* Messages are cut to fit, never inside of a character. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first. */
#include <cmocka.h>

#include <string.h>

#include "error.h"

enum { ROOM = sizeof((kvf_error *)0)->message - 1 };

/* n letters, then the character, then more: what is left of it in the message. */
static size_t bytes_kept(const char *character, size_t n)
{
    static char letters[ROOM + 1];
    kvf_error error;
    memset(letters, 'a', sizeof letters - 1);
    kvf_fail(&error, KVF_FILE_FORMAT, "%.*s%s%s", (int)n, letters, character, letters);
    assert_int_equal(error.status, KVF_FILE_FORMAT);
    assert_true(strlen(error.message) <= ROOM);
    assert_memory_equal(error.message, letters, n);
    return strlen(error.message) - n;
}

static void test_a_character_that_does_not_fit_is_dropped_whole(void **state)
{
    (void)state;
    static const char *const characters[] = {"b", "\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
    for (size_t i = 0; i < 4; i++) {
        const size_t bytes = strlen(characters[i]);
        for (size_t room = 0; room < bytes; room++)
            assert_int_equal(bytes_kept(characters[i], ROOM - room), 0);
        assert_int_equal(bytes_kept(characters[i], ROOM - bytes), bytes);
    }
}

static void test_what_fits_is_whole_and_no_error_is_no_message(void **state)
{
    (void)state;
    kvf_error error;
    assert_int_equal(kvf_fail(NULL, KVF_UNSUPPORTED, "nobody reads this"), KVF_UNSUPPORTED);
    kvf_fail(&error, KVF_UNSUPPORTED, "%d \xC3\xA4", 1);
    assert_string_equal(error.message, "1 \xC3\xA4");
    assert_int_equal(kvf_ok(&error), KVF_OK);
    assert_string_equal(error.message, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_character_that_does_not_fit_is_dropped_whole),
        cmocka_unit_test(test_what_fits_is_whole_and_no_error_is_no_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
