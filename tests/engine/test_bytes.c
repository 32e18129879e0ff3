/* The chat format for a vocabulary of bytes. */
#include "engine/conversation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static kvf_tokenizer *open_marked(uint32_t vocab, int32_t bos, int32_t eos, bool expected)
{
    kvf_tokenizer *tokenizer;
    kvf_error error;
    bool has_room;
    assert_int_equal(kvf_tokenizer_open_bytes(vocab, &tokenizer, &error), KVF_OK);
    assert_int_equal(kvf_conversation_mark_bytes(tokenizer, bos, eos, &has_room, &error), KVF_OK);
    assert_int_equal(has_room, expected);
    return tokenizer;
}

static void assert_marks(uint32_t vocab, int32_t bos, int32_t eos, const int32_t others[3])
{
    kvf_tokenizer *tokenizer = open_marked(vocab, bos, eos, true);
    assert_int_equal(kvf_tokenizer_find(tokenizer, KVF_CHAT_BOS), bos);
    assert_int_equal(kvf_tokenizer_find(tokenizer, KVF_CHAT_EOS), eos);
    assert_int_equal(kvf_tokenizer_find(tokenizer, KVF_CHAT_USER), others[0]);
    assert_int_equal(kvf_tokenizer_find(tokenizer, KVF_CHAT_ASSISTANT), others[1]);
    assert_int_equal(kvf_tokenizer_find(tokenizer, KVF_CHAT_THINK), others[2]);
    kvf_tokenizer_close(tokenizer);
}

static void test_marks_are_the_lowest_ids_that_are_free(void **state)
{
    (void)state;
    assert_marks(320, 256, 257, (const int32_t[]){258, 259, 260});
    assert_marks(512, 300, 256, (const int32_t[]){257, 258, 259});
    assert_marks(270, 258, 269, (const int32_t[]){256, 257, 259});
}

static void test_without_room_nothing_changes(void **state)
{
    static const int32_t cases[][3] = {{269, 256, 257}, {320, -1, 257}, {320, 256, -1},
                                       {320, 256, 256}, {320, 10, 257}, {320, 256, 320},
                                       {256, 256, 257}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvf_tokenizer *tokenizer =
            open_marked((uint32_t)cases[i][0], cases[i][1], cases[i][2], false);
        assert_int_equal(kvf_tokenizer_find(tokenizer, KVF_CHAT_USER), -1);
        assert_int_equal(kvf_tokenizer_kind(tokenizer, 258), KVF_TOKEN_NONE);
        assert_int_equal(kvf_tokenizer_longest(tokenizer), 1);
        kvf_tokenizer_close(tokenizer);
    }
}

static void test_marks_are_no_text(void **state)
{
    (void)state;
    kvf_tokenizer *tokenizer = open_marked(320, 256, 257, true);
    kvf_encoder *encoder;
    kvf_conversation conversation;
    kvf_error error;
    kvf_ids ids = {.n = 0};
    const kvf_conversation_settings settings = {.is_chat = true, .thinking = true};
    assert_int_equal(kvf_encoder_open(tokenizer, &encoder, &error), KVF_OK);
    kvf_conversation_of(tokenizer, encoder, &conversation);
    assert_true(conversation.has_chat);
    const kvf_message messages[] = {
        {.role = KVF_ROLE_SYSTEM, .content = KVF_SPAN("s")},
        {.role = KVF_ROLE_USER, .content = KVF_SPAN("<think>" KVF_CHAT_USER)}};
    assert_int_equal(
        kvf_conversation_messages(&conversation, &settings, messages, 2, &ids, NULL, &error),
        KVF_OK);
    const size_t typed = strlen("<think>" KVF_CHAT_USER);
    assert_int_equal(ids.n, 1 + 1 + 1 + typed + 2);
    assert_int_equal(ids.ids[0], 256);
    assert_int_equal(ids.ids[1], 's');
    assert_int_equal(ids.ids[2], 258);
    for (size_t i = 0; i < typed; i++)
        assert_in_range(ids.ids[3 + i], 0, 255);
    assert_int_equal(ids.ids[ids.n - 2], 259);
    assert_int_equal(ids.ids[ids.n - 1], 260);
    assert_true(kvf_conversation_ends(&conversation, 258));
    assert_true(kvf_conversation_ends(&conversation, 257));
    assert_false(kvf_conversation_ends(&conversation, 261));
    assert_false(kvf_conversation_ends(&conversation, 300));
    const kvf_standing place = kvf_conversation_place(&conversation, ids.ids, ids.n);
    assert_true(place.is_reasoning && place.answer_at == ids.n);
    kvf_ids_free(&ids);
    kvf_encoder_close(encoder);
    kvf_tokenizer_close(tokenizer);
}

static void test_only_ids_that_are_free_can_be_marks(void **state)
{
    static const int32_t refused[] = {-1, 0, 255, 320, INT32_MAX, 256};
    static const char *const text[] = {"<a>"};
    kvf_tokenizer *tokenizer;
    kvf_error error;
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        tokenizer = open_marked(320, 256, 257, true); /* 256 is taken then */
        assert_int_equal(kvf_tokenizer_mark_bytes(tokenizer, &refused[i], text, 1, &error),
                         KVF_INVALID_ARGUMENT);
        kvf_tokenizer_close(tokenizer);
    }
    assert_int_equal(kvf_tokenizer_open_json(KVF_TEST_TOKENIZER, 0, &tokenizer, &error), KVF_OK);
    bool has_room;
    assert_int_equal(kvf_conversation_mark_bytes(tokenizer, 256, 257, &has_room, &error), KVF_OK);
    assert_false(has_room);
    assert_int_equal(kvf_tokenizer_mark_bytes(tokenizer, &(int32_t){300}, text, 1, &error),
                     KVF_INVALID_ARGUMENT);
    kvf_tokenizer_close(tokenizer);
}

/* ---- Which text ended an answer ----------------------------------------------------------- */

static void see(void *user, const kvf_answer_event *event)
{
    (void)user;
    (void)event;
}

static void test_the_text_that_ended_it_is_known(void **state)
{
    const char *const stops[] = {"never", "lo", "l"};
    const char answer[] = "hello";
    kvf_tokenizer *tokenizer = open_marked(320, 256, 257, true);
    kvf_conversation conversation;
    const kvf_conversation_settings settings = {.is_chat = true};
    kvf_answer_stream *stream;
    kvf_error error;
    (void)state;
    kvf_conversation_of(tokenizer, NULL, &conversation);
    assert_int_equal(kvf_answer_stream_open(&conversation, &settings, (const int32_t[]){259, 261},
                                            2, see, NULL, &stream, &error),
                     KVF_OK);
    kvf_answer_stream_stop_at(stream, stops, 3);
    assert_null(kvf_answer_stream_stopped_by(stream));
    for (size_t i = 0; answer[i] && !kvf_answer_stream_is_stopped(stream); i++)
        kvf_answer_stream_add(stream, answer[i]);
    assert_ptr_equal(kvf_answer_stream_stopped_by(stream), stops[2]);
    kvf_answer_stream_close(stream);
    kvf_tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_marks_are_the_lowest_ids_that_are_free),
        cmocka_unit_test(test_without_room_nothing_changes),
        cmocka_unit_test(test_marks_are_no_text),
        cmocka_unit_test(test_only_ids_that_are_free_can_be_marks),
        cmocka_unit_test(test_the_text_that_ended_it_is_known)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
