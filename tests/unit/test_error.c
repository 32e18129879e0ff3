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

/* A path may have 4096 bytes; what is wrong with it, and its name, are to be seen. */
static void test_a_long_path_loses_its_middle_and_not_the_reason(void **state)
{
    (void)state;
    static char path[4096];
    kvf_error error;
    kvf_snapshot_info info;
    kvf_store *store;
    for (size_t bytes = 100; bytes < sizeof path; bytes += 37) {
        memset(path, 'd', bytes);
        memcpy(path, "/top/", 5);
        memcpy(path + bytes - 12, "/name.kvfold", 13);
        assert_int_not_equal(kvf_snapshot_info_read(path, &info, &error), KVF_OK);
        assert_memory_equal(error.message, "/top/", 5);
        assert_non_null(strstr(error.message, "/name.kvfold: cannot open: "));
        assert_true(strlen(error.message) > strlen(strstr(error.message, "open: ")) + 6);
        assert_int_equal(strstr(error.message, "...") == NULL, bytes < 148);
        assert_int_not_equal(kvf_store_open(path, 1, NULL, &store, &error), KVF_OK);
        assert_non_null(strstr(error.message, "/name.kvfold: cannot make the folder: "));
    }
}

static void test_what_is_no_text_is_shown_as_question_marks(void **state)
{
    (void)state;
    static const char *const shown[][2] = {
        {"a\x1b[2Jb\nc\td\x7f", "a?[2Jb?c?d?"}, /* controls */
        {"\xC2\x9B"
         "31m\xC2\xA0",
         "?31m\xC2\xA0"},                  /* one of C1; a space that is not */
        {"x\xFF\xC3", "x??"},              /* not UTF-8 */
        {"\xC0\xAF\xED\xA0\x80", "?????"}, /* overlong, a surrogate */
        {"\xC3\xA4\xF0\x9F\x98\x80", "\xC3\xA4\xF0\x9F\x98\x80"}};
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        assert_string_equal(kvf_printable(shown[i][0]).text, shown[i][1]);
    /* Cut in front of every byte of a character: no half of one is left. */
    for (size_t n = 0; n < 8; n++) {
        char text[400];
        memset(text, 'a', n);
        for (size_t i = n; i + 4 < sizeof text; i += 4)
            memcpy(text + i, "\xF0\x9F\x98\x80", 5);
        const kvf_printed printed = kvf_printable(text);
        assert_true(strlen(printed.text) < sizeof printed.text);
        assert_null(strchr(printed.text, '?'));
        for (size_t at = 0; printed.text[at];) {
            const size_t bytes = kvf_utf8_bytes(printed.text + at, strlen(printed.text + at));
            assert_true(bytes > 0);
            at += bytes;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_character_that_does_not_fit_is_dropped_whole),
        cmocka_unit_test(test_a_long_path_loses_its_middle_and_not_the_reason),
        cmocka_unit_test(test_what_is_no_text_is_shown_as_question_marks),
        cmocka_unit_test(test_what_fits_is_whole_and_no_error_is_no_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
