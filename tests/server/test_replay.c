/* What is remembered of answers, and when it is found again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/replay.h"

static kvf_replay_key key_of(const int32_t *before, size_t n, kvf_replay_role role,
                             const char *text, const char *call_id)
{
    return (kvf_replay_key){.before = before,
                            .n_before = n,
                            .role = role,
                            .text = text,
                            .text_bytes = strlen(text),
                            .call_id = call_id};
}

static kvf_replays *open_replays(uint64_t max_bytes)
{
    kvf_replays *replays;
    assert_int_equal(kvf_replays_open(max_bytes, &replays, NULL), KVF_OK);
    return replays;
}

/* Asserts that just one id is found, which names the entry; 0: none is. */
static void assert_found(kvf_replays *replays, kvf_replay_key key, int32_t id)
{
    kvf_ids ids = {0};
    assert_int_equal(kvf_replays_find(replays, &key, &ids), id != 0);
    assert_int_equal(ids.n, id != 0);
    if (id != 0)
        assert_int_equal(ids.ids[0], id);
    free(ids.ids);
}

static void add(kvf_replays *replays, kvf_replay_key key, int32_t id)
{
    kvf_replays_add(replays, &key, &id, 1);
}

/* A conversation of a thousand turns asks a thousand times: what is before each is not all read. */
static void test_what_is_before_is_read_only_where_it_may_be_the_same(void **state)
{
    (void)state;
    const int32_t a[] = {1, 2, 3};
    const int32_t *nowhere = NULL;
    kvf_replays *replays = open_replays(1 << 20);
    add(replays, key_of(a, 3, KVF_REPLAY_CONTENT, "yes", NULL), 10);
    assert_found(replays, key_of(nowhere, 1000, KVF_REPLAY_CONTENT, "no", NULL), 0);
    assert_found(replays, key_of(nowhere, 1000, KVF_REPLAY_CONTENT, "yes", NULL), 0);
    assert_found(replays, key_of(nowhere, 3, KVF_REPLAY_REASONING, "yes", NULL), 0);
    kvf_replays_close(replays);
}

static void test_a_text_is_found_behind_what_it_followed(void **state)
{
    (void)state;
    const int32_t a[] = {1, 2, 3};
    const int32_t b[] = {1, 2, 4};
    kvf_replays *replays = open_replays(1 << 20);
    add(replays, key_of(a, 3, KVF_REPLAY_CONTENT, "yes", NULL), 10);
    assert_found(replays, key_of(a, 3, KVF_REPLAY_CONTENT, "yes", NULL), 10);
    assert_found(replays, key_of(a, 3, KVF_REPLAY_CONTENT, "yes", ""), 10);
    assert_found(replays, key_of(b, 3, KVF_REPLAY_CONTENT, "yes", NULL), 0);
    assert_found(replays, key_of(a, 2, KVF_REPLAY_CONTENT, "yes", NULL), 0);
    assert_found(replays, key_of(a, 0, KVF_REPLAY_CONTENT, "yes", NULL), 0);
    assert_found(replays, key_of(a, 3, KVF_REPLAY_REASONING, "yes", NULL), 0);
    assert_found(replays, key_of(a, 3, KVF_REPLAY_CONTENT, "yes ", NULL), 0);
    assert_found(replays, key_of(a, 3, KVF_REPLAY_CONTENT, "", NULL), 0);
    kvf_replays_close(replays);
}

static void test_of_several_the_one_whose_prefix_continues(void **state)
{
    (void)state;
    const int32_t a[] = {1, 2, 3};
    const int32_t b[] = {1, 2, 4};
    const int32_t c[] = {5};
    kvf_replays *replays = open_replays(1 << 20);
    add(replays, key_of(a, 3, KVF_REPLAY_CONTENT, "f()", "call_1"), 10);
    add(replays, key_of(b, 3, KVF_REPLAY_CONTENT, "f()", "call_1"), 11);
    add(replays, key_of(b, 3, KVF_REPLAY_CONTENT, "f()", "call_2"), 12);
    add(replays, key_of(a, 3, KVF_REPLAY_CONTENT, "f()", NULL), 13);
    assert_found(replays, key_of(a, 3, KVF_REPLAY_CONTENT, "f()", "call_1"), 10);
    assert_found(replays, key_of(b, 3, KVF_REPLAY_CONTENT, "f()", "call_1"), 11);
    assert_found(replays, key_of(b, 3, KVF_REPLAY_CONTENT, "f()", "call_2"), 12);
    /* Behind something else the call id alone is enough, and the text has to be the same. */
    assert_found(replays, key_of(c, 1, KVF_REPLAY_CONTENT, "f()", "call_2"), 12);
    assert_found(replays, key_of(c, 1, KVF_REPLAY_CONTENT, "f() ", "call_2"), 0);
    assert_found(replays, key_of(c, 1, KVF_REPLAY_CONTENT, "f()", "call_3"), 0);
    /* A client's own call id: what came before decides, the latest first. */
    assert_found(replays, key_of(a, 3, KVF_REPLAY_CONTENT, "f()", "mine"), 13);
    kvf_replays_close(replays);
}

static void test_the_latest_of_equal_keys_is_found(void **state)
{
    (void)state;
    const int32_t a[] = {1};
    kvf_replays *replays = open_replays(1 << 20);
    uint64_t n;
    uint64_t bytes;
    uint64_t more_bytes;
    add(replays, key_of(a, 1, KVF_REPLAY_PLAIN, "x", NULL), 10);
    add(replays, key_of(a, 1, KVF_REPLAY_PLAIN, "x", NULL), 11);
    assert_found(replays, key_of(a, 1, KVF_REPLAY_PLAIN, "x", NULL), 11);
    kvf_replays_count(replays, &n, &bytes);
    assert_int_equal(n, 2);
    add(replays, key_of(a, 1, KVF_REPLAY_PLAIN, "x", NULL), 10); /* again: it is the latest now */
    assert_found(replays, key_of(a, 1, KVF_REPLAY_PLAIN, "x", NULL), 10);
    kvf_replays_count(replays, &n, &more_bytes);
    assert_int_equal(n, 2);
    assert_int_equal(bytes, more_bytes);
    kvf_replays_close(replays);
}

static void test_bounded_and_what_was_used_stays(void **state)
{
    (void)state;
    enum { PARTS = 5000, MAX_BYTES = 100000 };
    const int32_t a[] = {1};
    kvf_replays *replays = open_replays(MAX_BYTES);
    char text[32];
    uint64_t n;
    uint64_t bytes;
    for (int32_t i = 1; i <= PARTS; i++) {
        snprintf(text, sizeof text, "text %d", i);
        add(replays, key_of(a, 1, KVF_REPLAY_CONTENT, text, NULL), i);
        assert_found(replays, key_of(a, 1, KVF_REPLAY_CONTENT, "text 1", NULL), 1);
        kvf_replays_count(replays, &n, &bytes);
        assert_true(bytes <= MAX_BYTES);
    }
    assert_true(n > 100 && n < PARTS);
    assert_found(replays, key_of(a, 1, KVF_REPLAY_CONTENT, text, NULL), PARTS);
    assert_found(replays, key_of(a, 1, KVF_REPLAY_CONTENT, "text 2", NULL), 0);
    /* One that is larger than all may be is not kept, and pushes nothing out. */
    char *large = malloc(MAX_BYTES + 1);
    memset(large, 'x', MAX_BYTES);
    large[MAX_BYTES] = '\0';
    add(replays, key_of(a, 1, KVF_REPLAY_CONTENT, large, NULL), 7);
    assert_found(replays, key_of(a, 1, KVF_REPLAY_CONTENT, large, NULL), 0);
    assert_found(replays, key_of(a, 1, KVF_REPLAY_CONTENT, "text 1", NULL), 1);
    free(large);
    kvf_replays_close(replays);
}

static void test_texts_and_call_ids_are_not_run_together(void **state)
{
    (void)state;
    const int32_t a[] = {1};
    const int32_t ids[] = {5, 6, 7};
    kvf_replays *replays = open_replays(1 << 20);
    const kvf_replay_key key = key_of(a, 1, KVF_REPLAY_CONTENT, "ab", "c");
    kvf_ids found = {0};
    kvf_replays_add(replays, &key, ids, 3);
    assert_found(replays, key_of(a, 1, KVF_REPLAY_CONTENT, "a", "bc"), 0);
    assert_found(replays, key_of(a, 1, KVF_REPLAY_CONTENT, "abc", NULL), 0);
    assert_true(kvf_replays_find(replays, &key, &found));
    assert_true(kvf_replays_find(replays, &key, &found)); /* appended */
    assert_int_equal(found.n, 6);
    assert_memory_equal(found.ids + 3, ids, sizeof ids);
    free(found.ids);
    kvf_replays_close(replays);
}

/* ---- In a file ---------------------------------------------------------------------------- */

static char path[] = "/tmp/kvfold_replay_XXXXXX";

static int make_file(void **state)
{
    (void)state;
    strcpy(path + sizeof path - 7, "XXXXXX");
    const int file = mkstemp(path);
    return file < 0 ? -1 : close(file) | unlink(path);
}

static int remove_file(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static kvf_replay_key text_key(char *text, int i)
{
    static const int32_t a[] = {1};
    sprintf(text, "text %d", i);
    return key_of(a, 1, i % 2 ? KVF_REPLAY_CONTENT : KVF_REPLAY_REASONING, text,
                  i % 3 ? NULL : "call");
}

static void save(kvf_replays *replays)
{
    kvf_error error;
    if (kvf_replays_save(replays, path, &error) != KVF_OK)
        fail_msg("%s", error.message);
}

static kvf_replays *load(uint64_t max_bytes, uint64_t n)
{
    kvf_replays *replays = open_replays(max_bytes);
    uint64_t there;
    uint64_t bytes;
    assert_int_equal(kvf_replays_load(replays, path, NULL), KVF_OK);
    kvf_replays_count(replays, &there, &bytes);
    assert_int_equal(there, n);
    return replays;
}

static long length(void)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return (long)info.st_size;
}

static void test_saved_parts_are_there_again(void **state)
{
    (void)state;
    char text[32];
    kvf_replays *replays = load(1 << 20, 0); /* no file */
    for (int i = 1; i <= 30; i++) {
        add(replays, text_key(text, i), i);
        if (i % 7 == 0)
            save(replays);
    }
    save(replays);
    const long bytes = length();
    save(replays); /* nothing new */
    assert_int_equal(length(), bytes);
    kvf_replays_close(replays);
    replays = load(1 << 20, 30);
    for (int i = 1; i <= 30; i++)
        assert_found(replays, text_key(text, i), i);
    add(replays, text_key(text, 31), 31);
    save(replays);
    assert_true(length() > bytes && length() < bytes + bytes / 5); /* it was added to */
    kvf_replays_close(replays);
    kvf_replays_close(load(1 << 20, 31));
}

/* Cut and changed at every byte: the parts before that are there, and it can be saved to again. */
static void test_an_interrupted_save_costs_what_it_had(void **state)
{
    (void)state;
    static const int parts[] = {1, 2, 4}; /* their records are of one length */
    char text[32];
    kvf_replays *replays = load(1 << 20, 0);
    for (int i = 0; i < 3; i++)
        add(replays, text_key(text, parts[i]), parts[i]);
    save(replays);
    kvf_replays_close(replays);
    const long bytes = length();
    uint8_t *whole = malloc((size_t)bytes);
    FILE *file = fopen(path, "rb");
    assert_int_equal(fread(whole, 1, (size_t)bytes, file), bytes);
    fclose(file);
    for (long at = 8; at < bytes; at++)
        for (int cut = 0; cut < 2; cut++) {
            file = fopen(path, "wb");
            whole[at] ^= cut ? 0 : 0x40;
            fwrite(whole, 1, (size_t)(cut ? at : bytes), file);
            whole[at] ^= cut ? 0 : 0x40;
            fclose(file);
            const uint64_t good = (uint64_t)(at - 8) * 3 / (uint64_t)(bytes - 8);
            replays = load(1 << 20, good);
            for (int i = 0; i < (int)good; i++)
                assert_found(replays, text_key(text, parts[i]), parts[i]);
            add(replays, text_key(text, 9), 9);
            save(replays);
            kvf_replays_close(replays);
            replays = load(1 << 20, good + 1);
            assert_found(replays, text_key(text, 9), 9);
            kvf_replays_close(replays);
        }
    free(whole);
}

static void test_a_file_does_not_grow_for_ever(void **state)
{
    (void)state;
    char text[32];
    kvf_replays *replays = load(20000, 0);
    for (int i = 1; i <= 2000; i++) {
        add(replays, text_key(text, i), i);
        save(replays);
        assert_true(length() < 100000);
    }
    kvf_replays_close(replays);
    replays = open_replays(20000);
    assert_int_equal(kvf_replays_load(replays, path, NULL), KVF_OK);
    assert_found(replays, text_key(text, 2000), 2000);
    kvf_replays_close(replays);
}

static void test_another_file_is_not_touched(void **state)
{
    (void)state;
    kvf_error error;
    kvf_replays *replays = open_replays(1 << 20);
    FILE *file = fopen(path, "wb");
    fputs("somebody's own text", file);
    fclose(file);
    assert_int_equal(kvf_replays_load(replays, path, &error), KVF_FILE_FORMAT);
    assert_int_equal(length(), 19);
    kvf_replays_close(replays);
}

#define WITH_FILE(test) cmocka_unit_test_setup_teardown(test, make_file, remove_file)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_text_is_found_behind_what_it_followed),
        cmocka_unit_test(test_what_is_before_is_read_only_where_it_may_be_the_same),
        cmocka_unit_test(test_of_several_the_one_whose_prefix_continues),
        cmocka_unit_test(test_the_latest_of_equal_keys_is_found),
        cmocka_unit_test(test_bounded_and_what_was_used_stays),
        cmocka_unit_test(test_texts_and_call_ids_are_not_run_together),
        WITH_FILE(test_saved_parts_are_there_again),
        WITH_FILE(test_an_interrupted_save_costs_what_it_had),
        WITH_FILE(test_a_file_does_not_grow_for_ever),
        WITH_FILE(test_another_file_is_not_touched),
    };
    return cmocka_run_group_tests_name("replay", tests, NULL, NULL);
}
