/* Conversations in ids, with the small tokenizer of tests/text. */
#include "engine/conversation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BOS KVF_CHAT_BOS
#define EOS KVF_CHAT_EOS
#define USER KVF_CHAT_USER
#define ASSISTANT KVF_CHAT_ASSISTANT
#define QUERY KVF_CHAT_MARK("query")
#define DSML KVF_CHAT_DSML

static const kvf_conversation_settings chat = {.is_chat = true};
static const kvf_conversation_settings thinking = {.is_chat = true, .thinking = true};
static const kvf_span none = {NULL, 0};

struct fixture {
    kvf_tokenizer *tokenizer;
    kvf_encoder *encoder;
    kvf_conversation conversation;
};

static int open_fixture(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    kvf_error error;
    *state = fixture;
    if (!fixture ||
        kvf_tokenizer_open_json(KVF_TEST_TOKENIZER, 0, &fixture->tokenizer, &error) != KVF_OK ||
        kvf_encoder_open(fixture->tokenizer, &fixture->encoder, &error) != KVF_OK)
        return -1;
    kvf_conversation_of(fixture->tokenizer, fixture->encoder, &fixture->conversation);
    return 0;
}

static int close_fixture(void **state)
{
    struct fixture *fixture = *state;
    kvf_conversation_close(&fixture->conversation);
    kvf_encoder_close(fixture->encoder);
    kvf_tokenizer_close(fixture->tokenizer);
    free(fixture);
    return 0;
}

/* The ids of a text in which markers are tokens: the encoder finds them by itself. */
static kvf_ids ids_of(const struct fixture *fixture, const char *text)
{
    kvf_ids ids = {.n = 0};
    kvf_error error;
    assert_true(kvf_ids_reserve(&ids, 1));
    assert_int_equal(kvf_encode_text(fixture->encoder, text, strlen(text), true, &ids, &error),
                     KVF_OK);
    return ids;
}

static void assert_ids(const struct fixture *fixture, const kvf_ids *ids, const char *text)
{
    kvf_ids expected = ids_of(fixture, text);
    assert_int_equal(ids->n, expected.n);
    assert_memory_equal(ids->ids, expected.ids, expected.n * sizeof *expected.ids);
    kvf_ids_free(&expected);
}

static kvf_span span_of(const char *text)
{
    return (kvf_span){text, text ? strlen(text) : 0};
}

/* What a turn behind `held` is. */
static void assert_turn(const struct fixture *fixture, const kvf_conversation_settings *settings,
                        const char *held, const char *system, const char *user,
                        const char *expected)
{
    kvf_ids before = ids_of(fixture, held);
    kvf_ids ids = {.n = 0};
    kvf_error error;
    assert_int_equal(kvf_conversation_turn(&fixture->conversation, settings, before.ids, before.n,
                                           span_of(system), span_of(user), &ids, &error),
                     KVF_OK);
    assert_ids(fixture, &ids, expected);
    kvf_ids_free(&ids);
    kvf_ids_free(&before);
}

/* ---- Turns ----------------------------------------------------------------------------- */

static void test_the_vocabulary_says_whether_there_is_a_chat(void **state)
{
    struct fixture *fixture = *state;
    kvf_tokenizer *bytes;
    kvf_conversation plain;
    kvf_error error;
    assert_true(fixture->conversation.has_chat);
    assert_int_equal(kvf_tokenizer_open_bytes(320, &bytes, &error), KVF_OK);
    kvf_conversation_of(bytes, fixture->encoder, &plain);
    assert_false(plain.has_chat);
    kvf_conversation_close(&plain);
    kvf_tokenizer_close(bytes);
}

static void test_a_first_turn(void **state)
{
    const struct fixture *fixture = *state;
    assert_turn(fixture, &chat, "", NULL, "eat", BOS USER "eat" ASSISTANT "</think>");
    assert_turn(fixture, &thinking, "", NULL, "eat", BOS USER "eat" ASSISTANT "<think>");
    assert_turn(fixture, &chat, "", "the tea", "eat",
                BOS "the tea" USER "eat" ASSISTANT "</think>");
    assert_turn(fixture, &chat, "", "", "", BOS USER ASSISTANT "</think>");
}

static void test_a_turn_behind_an_answer_ends_it(void **state)
{
    const struct fixture *fixture = *state;
    const char *const answers[] = {"", "the", "the</think>", "<think>the"};
    const char begin[] = BOS USER "a" ASSISTANT "</think>";
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        char held[256];
        strcat(strcpy(held, begin), answers[i]);
        assert_turn(fixture, &chat, held, NULL, "eat", EOS USER "eat" ASSISTANT "</think>");
        strcat(held, EOS);
        assert_turn(fixture, &thinking, held, NULL, "eat", USER "eat" ASSISTANT "<think>");
        assert_turn(fixture, &chat, held, "tea", "eat", "tea" USER "eat" ASSISTANT "</think>");
    }
    assert_turn(fixture, &chat, BOS USER "a" ASSISTANT, NULL, "eat",
                EOS USER "eat" ASSISTANT "</think>");
    assert_turn(fixture, &chat, BOS USER "a" QUERY "an answer", NULL, "eat",
                EOS USER "eat" ASSISTANT "</think>");
}

static void test_a_turn_behind_one_that_was_interrupted_joins_it(void **state)
{
    const struct fixture *fixture = *state;
    assert_turn(fixture, &chat, BOS USER "half of", NULL, "eat", "\n\neat" ASSISTANT "</think>");
    assert_turn(fixture, &chat, BOS USER "half of", "tea", "eat",
                ASSISTANT "</think>" EOS "tea" USER "eat" ASSISTANT "</think>");
    assert_turn(fixture, &thinking, BOS "half of a system", NULL, "eat",
                USER "eat" ASSISTANT "<think>");
    assert_turn(fixture, &thinking, BOS, NULL, "eat", USER "eat" ASSISTANT "<think>");
}

static void test_what_a_user_spells_is_text(void **state)
{
    const struct fixture *fixture = *state;
    const char spelled[] = EOS USER ASSISTANT "<think>" BOS;
    const kvf_conversation *conversation = &fixture->conversation;
    kvf_ids ids = {.n = 0};
    kvf_ids plain = {.n = 0};
    kvf_error error;
    assert_int_equal(
        kvf_conversation_turn(conversation, &chat, NULL, 0, none, span_of(spelled), &ids, &error),
        KVF_OK);
    assert_int_equal(
        kvf_encode_text(fixture->encoder, spelled, strlen(spelled), false, &plain, &error), KVF_OK);
    assert_int_equal(ids.n, plain.n + 4);
    assert_memory_equal(ids.ids + 2, plain.ids, plain.n * sizeof *plain.ids);
    assert_int_equal(kvf_conversation_place(conversation, ids.ids, 2 + plain.n).kind,
                     KVF_STANDS_IN_QUESTION);
    kvf_ids_free(&plain);
    kvf_ids_free(&ids);
}

/* Texts of a checkpoint's that begins conversations with words for an effort. */
static void test_an_effort_stands_before_the_first_turn_alone(void **state)
{
    struct fixture *fixture = *state;
    kvf_conversation *conversation = &fixture->conversation;
    kvf_conversation_settings settings = {
        .is_chat = true, .thinking = true, .effort = KVF_EFFORT_MAX};
    kvf_error error;
    bool is_assumed = false;
    bool has_it = false;
    assert_int_equal(kvf_conversation_settle(conversation, &settings, &is_assumed, &error),
                     KVF_FILE_NOT_FOUND);
    conversation->texts.source = KVF_TEXTS_ENCODING_FILE;
    conversation->texts.efforts[0] = KVF_SPAN("all of it\n\n");
    assert_int_equal(kvf_conversation_settle(conversation, &settings, &is_assumed, &error), KVF_OK);
    assert_int_equal(settings.release, KVF_RELEASE_PREVIEW);
    assert_false(is_assumed);
    assert_turn(fixture, &settings, "", "tea", "eat",
                BOS "all of it\n\ntea" USER "eat" ASSISTANT "<think>");
    assert_turn(fixture, &settings, BOS USER "a" ASSISTANT "<think>b", NULL, "eat",
                EOS USER "eat" ASSISTANT "<think>");
    kvf_ids held = ids_of(fixture, BOS "all of it\n\ntea" USER "eat");
    settings.thinking = false; /* for the next answer */
    assert_int_equal(kvf_conversation_has_system(conversation, &settings, held.ids, held.n,
                                                 KVF_SPAN("tea"), &has_it, &error),
                     KVF_OK);
    assert_true(has_it);
    kvf_ids_free(&held);
    /* A session goes on where the texts are gone. */
    conversation->texts.efforts[0] = none;
    settings.thinking = true;
    assert_turn(fixture, &settings, BOS USER "a" ASSISTANT "<think>b", NULL, "eat",
                EOS USER "eat" ASSISTANT "<think>");
}

static void test_the_release_is_assumed_where_nothing_says_it(void **state)
{
    struct fixture *fixture = *state;
    kvf_conversation_settings settings = chat;
    bool is_assumed = false;
    kvf_error error;
    assert_int_equal(
        kvf_conversation_settle(&fixture->conversation, &settings, &is_assumed, &error), KVF_OK);
    assert_int_equal(settings.release, KVF_RELEASE_PREVIEW);
    assert_true(is_assumed);
    settings.release = KVF_RELEASE_0731;
    settings.effort = KVF_EFFORT_LOW;
    assert_int_equal(
        kvf_conversation_settle(&fixture->conversation, &settings, &is_assumed, &error), KVF_OK);
    assert_int_equal(settings.release, KVF_RELEASE_0731);
    assert_false(is_assumed);
    settings.release = KVF_RELEASE_PREVIEW; /* which has no low */
    assert_int_equal(
        kvf_conversation_settle(&fixture->conversation, &settings, &is_assumed, &error),
        KVF_INVALID_ARGUMENT);
}

static void test_turns_one_by_one_are_the_whole_conversation(void **state)
{
    const struct fixture *fixture = *state;
    const kvf_conversation *conversation = &fixture->conversation;
    const kvf_message messages[] = {
        {.role = KVF_ROLE_SYSTEM, .content = KVF_SPAN("tea")},
        {.role = KVF_ROLE_USER, .content = KVF_SPAN("eat the")},
        {.role = KVF_ROLE_ASSISTANT, .content = KVF_SPAN("the tea")},
        {.role = KVF_ROLE_USER, .content = KVF_SPAN("and then")},
        {.role = KVF_ROLE_ASSISTANT, .content = KVF_SPAN("nothing")},
        {.role = KVF_ROLE_SYSTEM, .content = KVF_SPAN("eh")},
        {.role = KVF_ROLE_USER, .content = KVF_SPAN("a")},
    };
    kvf_ids held = {.n = 0};
    kvf_ids whole = {.n = 0};
    kvf_error error;
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++) {
        const kvf_message *message = &messages[i];
        const kvf_span text = message->content;
        const bool behind_system = i > 0 && messages[i - 1].role == KVF_ROLE_SYSTEM;
        if (message->role == KVF_ROLE_USER)
            assert_int_equal(kvf_conversation_turn(conversation, &chat, held.ids, held.n,
                                                   behind_system ? messages[i - 1].content : none,
                                                   text, &held, &error),
                             KVF_OK);
        else if (message->role == KVF_ROLE_ASSISTANT)
            assert_int_equal(
                kvf_encode_text(fixture->encoder, text.data, text.bytes, false, &held, &error),
                KVF_OK);
    }
    assert_int_equal(kvf_conversation_messages(conversation, &chat, messages,
                                               sizeof messages / sizeof *messages, &whole, NULL,
                                               &error),
                     KVF_OK);
    assert_int_equal(whole.n, held.n);
    assert_memory_equal(whole.ids, held.ids, held.n * sizeof *held.ids);
    kvf_ids_free(&whole);
    kvf_ids_free(&held);
}

static void test_what_is_missing_until_the_model_goes_on(void **state)
{
    const struct fixture *fixture = *state;
    const char *const cases[][2] = {{BOS USER "a" ASSISTANT "<think>b", ""},
                                    {BOS USER "a" ASSISTANT, "</think>"},
                                    {BOS USER "a", ASSISTANT "</think>"},
                                    {BOS "a", ASSISTANT "</think>"},
                                    {BOS USER "a" QUERY, ""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvf_ids held = ids_of(fixture, cases[i][0]);
        kvf_ids ids = {.n = 0};
        kvf_error error;
        assert_int_equal(
            kvf_conversation_go_on(&fixture->conversation, &chat, held.ids, held.n, &ids, &error),
            KVF_OK);
        assert_ids(fixture, &ids, cases[i][1]);
        kvf_ids_free(&ids);
        kvf_ids_free(&held);
    }
}

/* ---- Places ---------------------------------------------------------------------------- */

static void test_places(void **state)
{
    const struct fixture *fixture = *state;
    static const struct {
        const char *held;
        kvf_standing_kind kind;
        const char *before_answer;
        bool has_thought, is_reasoning, lacks_mode;
    } cases[] = {
        {"", KVF_STANDS_AT_START, "", false, false, false},
        {"the", KVF_STANDS_BETWEEN, "", false, false, false},
        {BOS "the", KVF_STANDS_BETWEEN, "", false, false, false},
        {BOS "the" USER, KVF_STANDS_IN_QUESTION, "", false, false, false},
        {BOS USER "a", KVF_STANDS_IN_QUESTION, "", false, false, false},
        {BOS USER "a" ASSISTANT, KVF_STANDS_IN_ANSWER, BOS USER "a" ASSISTANT, false, false, true},
        {BOS USER "a" ASSISTANT "<think>the", KVF_STANDS_IN_ANSWER,
         BOS USER "a" ASSISTANT "<think>", true, true, false},
        {BOS USER "a" ASSISTANT "<think>e</think>", KVF_STANDS_IN_ANSWER,
         BOS USER "a" ASSISTANT "<think>", true, false, false},
        {BOS USER "a" ASSISTANT "</think>e<think>", KVF_STANDS_IN_ANSWER,
         BOS USER "a" ASSISTANT "</think>", false, false, false},
        {BOS USER "a" QUERY "e", KVF_STANDS_IN_ANSWER, BOS USER "a" QUERY, false, false, false},
        {BOS USER "a" ASSISTANT "</think>e" EOS, KVF_STANDS_BETWEEN, "", false, false, false},
        {BOS USER "a" ASSISTANT "</think>e" EOS "tea", KVF_STANDS_BETWEEN, "", false, false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvf_ids held = ids_of(fixture, cases[i].held);
        kvf_ids before = ids_of(fixture, cases[i].before_answer);
        const kvf_standing place = kvf_conversation_place(&fixture->conversation, held.ids, held.n);
        assert_int_equal(place.kind, cases[i].kind);
        assert_int_equal(place.answer_at, before.n);
        assert_int_equal(place.has_thought, cases[i].has_thought);
        assert_int_equal(place.is_reasoning, cases[i].is_reasoning);
        assert_int_equal(place.lacks_mode, cases[i].lacks_mode);
        kvf_ids_free(&before);
        kvf_ids_free(&held);
    }
}

static void test_the_state_before_a_turn_is_found(void **state)
{
    const struct fixture *fixture = *state;
    const char *const first = BOS USER "a" ASSISTANT "</think>e";
    const char *const cases[][2] = {
        {first, ""},
        {BOS "the" USER "a", ""},
        {BOS USER "a" ASSISTANT "</think>e" EOS USER "then" ASSISTANT "<think>", first},
        {BOS USER "a" ASSISTANT "</think>e" EOS "tea" USER "then", first},
        {BOS USER "a" ASSISTANT "</think>e" EOS, ""},
        {BOS "the", BOS "the"},
        {"the", "the"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvf_ids held = ids_of(fixture, cases[i][0]);
        kvf_ids before = ids_of(fixture, cases[i][1]);
        assert_int_equal(kvf_conversation_before_turn(&fixture->conversation, held.ids, held.n),
                         before.n);
        kvf_ids_free(&before);
        kvf_ids_free(&held);
    }
}

static void test_what_ends_an_answer(void **state)
{
    const struct fixture *fixture = *state;
    const struct {
        const char *marker;
        bool ends;
    } cases[] = {{EOS, true},       {USER, true},       {BOS, true},
                 {ASSISTANT, true}, {QUERY, true},      {"</think>", false},
                 {DSML, false},     {"<think>", false}, {"<dsml:", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int32_t id = kvf_tokenizer_find(fixture->tokenizer, cases[i].marker);
        assert_true(id >= 0);
        assert_int_equal(kvf_conversation_ends(&fixture->conversation, id), cases[i].ends);
    }
    assert_false(kvf_conversation_ends(&fixture->conversation, -1)); /* nor what is missing here */
    assert_false(kvf_conversation_ends(&fixture->conversation, 0));
}

static void test_a_system_is_found_again(void **state)
{
    const struct fixture *fixture = *state;
    const struct {
        const char *held, *system;
        bool has_it;
    } cases[] = {{BOS "tea" USER "a", "tea", true},
                 {BOS "tea eat" USER "a", "tea", false},
                 {BOS "te" USER "a", "tea", false},
                 {BOS USER "a", "tea", false},
                 {BOS "tea", "tea", false},
                 {BOS USER "a", "", true},
                 {"", "tea", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvf_ids held = ids_of(fixture, cases[i].held);
        bool has_it = !cases[i].has_it;
        kvf_error error;
        assert_int_equal(kvf_conversation_has_system(&fixture->conversation, &chat, held.ids,
                                                     held.n, span_of(cases[i].system), &has_it,
                                                     &error),
                         KVF_OK);
        assert_int_equal(has_it, cases[i].has_it);
        kvf_ids_free(&held);
    }
}

/* ---- Settings in bytes ------------------------------------------------------------------ */

static void test_settings_come_back_from_bytes(void **state)
{
    (void)state;
    uint8_t bytes[KVF_CALLER_STATE_BYTES];
    kvf_conversation_settings back;
    kvf_error error;
    for (int i = 0; i < 24; i++) {
        const kvf_conversation_settings settings = {.is_chat = true,
                                                    .thinking = i % 2,
                                                    .effort = (kvf_effort)(i / 2 % 4),
                                                    .release = (kvf_release)(i / 8)};
        memset(bytes, 0xAA, sizeof bytes);
        kvf_conversation_store(&settings, bytes);
        assert_int_equal(kvf_conversation_restore(bytes, &back, &error), KVF_OK);
        assert_true(back.is_chat);
        assert_int_equal(back.thinking, settings.thinking);
        assert_int_equal(back.effort, settings.effort);
        assert_int_equal(back.release, settings.release);
        for (size_t at = 0; at < sizeof bytes; at++)
            if (at < 40 || at >= 44)
                assert_int_equal(bytes[at], 0xAA);
    }
    kvf_conversation_store(&(kvf_conversation_settings){.thinking = true}, bytes);
    assert_memory_equal(bytes + 40, "\0\0\0\0", 4); /* as in files that know of no chat */
    assert_int_equal(kvf_conversation_restore(bytes, &back, &error), KVF_OK);
    assert_false(back.is_chat || back.thinking);
}

static void test_bytes_of_a_later_version_are_refused(void **state)
{
    (void)state;
    static const uint8_t stored[][4] = {{2, 0, 0, 1}, {1, 2, 0, 1}, {1, 0, 4, 1}, {1, 0, 0, 3}};
    for (size_t i = 0; i < sizeof stored / sizeof *stored; i++) {
        uint8_t bytes[KVF_CALLER_STATE_BYTES] = {0};
        kvf_conversation_settings back = {.is_chat = true};
        kvf_error error;
        memcpy(bytes + 40, stored[i], 4);
        assert_int_equal(kvf_conversation_restore(bytes, &back, &error), KVF_UNSUPPORTED);
        assert_false(back.is_chat);
        assert_non_null(strstr(error.message, "later"));
    }
}

/* ---- Answers ---------------------------------------------------------------------------- */

/* Texts in their order, a letter before each change of kind: r, c, x (call), f, m. */
static void see(void *user, const kvf_answer_event *event)
{
    static const char letters[] = "rcxfm";
    kvf_buffer *seen = user;
    char *last = seen->data ? strrchr(seen->data, '\x01') : NULL;
    const char letter[2] = {'\x01', letters[event->kind]};
    if (!last || last[1] != letter[1] || event->kind == KVF_ANSWER_CALL)
        kvf_buffer_add(seen, letter, 2);
    if (event->kind == KVF_ANSWER_CALL) {
        kvf_buffer_add_span(seen, event->name);
        kvf_buffer_add_span(seen, event->arguments);
    } else {
        kvf_buffer_add_span(seen, event->raw);
    }
    kvf_buffer_add(seen, "", 1); /* so that it is a string */
    seen->bytes--;
}

static void take_answer(const struct fixture *fixture, const kvf_conversation_settings *settings,
                        const kvf_ids *held, const int32_t *ids, size_t n, kvf_buffer *seen)
{
    kvf_answer_stream *stream;
    kvf_error error;
    assert_int_equal(kvf_answer_stream_open(&fixture->conversation, settings, held->ids, held->n,
                                            see, seen, &stream, &error),
                     KVF_OK);
    for (size_t i = 0; i < n; i++)
        kvf_answer_stream_add(stream, ids[i]);
    assert_int_equal(kvf_answer_stream_finish(stream, &error), KVF_OK);
    kvf_answer_stream_close(stream);
}

static void assert_answer(const struct fixture *fixture, const kvf_conversation_settings *settings,
                          const char *held, const char *answer, const char *expected)
{
    kvf_ids before = ids_of(fixture, held);
    kvf_ids ids = ids_of(fixture, answer);
    kvf_buffer seen = {.data = NULL};
    take_answer(fixture, settings, &before, ids.ids, ids.n, &seen);
    assert_string_equal(seen.data ? seen.data : "", expected);
    kvf_buffer_free(&seen);
    kvf_ids_free(&ids);
    kvf_ids_free(&before);
}

#define IN_CHAT BOS USER "a" ASSISTANT "</think>"
#define IN_THOUGHT BOS USER "a" ASSISTANT "<think>"
#define CALL                                                                                       \
    "\n\n<" DSML "tool_calls>\n<" DSML "invoke name=\"eat\">\n<" DSML                              \
    "parameter name=\"tea\" string=\"false\">3</" DSML "parameter>\n</" DSML "invoke>\n</" DSML    \
    "tool_calls>"

static void test_an_answer_is_taken_apart(void **state)
{
    const struct fixture *fixture = *state;
    assert_answer(fixture, &chat, IN_CHAT, "the tea" EOS,
                  "\x01"
                  "cthe tea"
                  "\x01"
                  "f" EOS);
    assert_answer(fixture, &thinking, IN_THOUGHT, "the</think>tea",
                  "\x01"
                  "rthe"
                  "\x01"
                  "f</think>"
                  "\x01"
                  "ctea");
    /* The mode is that of the answer, not of the next one. */
    assert_answer(fixture, &chat, IN_THOUGHT, "the",
                  "\x01"
                  "rthe");
    assert_answer(fixture, &thinking, IN_CHAT, "the</think>",
                  "\x01"
                  "cthe</think>");
    /* A marker that is spelled in other tokens is text. */
    assert_answer(fixture, &chat, IN_CHAT,
                  "<th"
                  "<think>",
                  "\x01"
                  "c<th<think>");
    /* Plain text has no parts, nor what is no text. */
    assert_answer(fixture, &(kvf_conversation_settings){.is_chat = false}, IN_THOUGHT,
                  "the</think>tea" EOS,
                  "\x01"
                  "cthe</think>tea");
}

static void test_characters_are_whole_and_padding_is_none(void **state)
{
    const struct fixture *fixture = *state;
    const kvf_ids held = {.n = 0};
    kvf_ids ids = {.n = 0};
    kvf_buffer seen = {.data = NULL};
    kvf_error error;
    assert_int_equal(kvf_encode_text(fixture->encoder, "\xc3\xbc", 2, false, &ids, &error), KVF_OK);
    assert_int_equal(ids.n, 2); /* in bytes, with this vocabulary */
    take_answer(fixture, &chat, &held, ids.ids, 2, &seen);
    assert_string_equal(seen.data, "\x01"
                                   "c\xc3\xbc");
    kvf_buffer_free(&seen);
    const int32_t half[] = {ids.ids[0], 258, kvf_tokenizer_find(fixture->tokenizer, "<think>"),
                            ids.ids[0]};
    take_answer(fixture, &chat, &held, half, 4, &seen);
    assert_string_equal(seen.data, "\x01"
                                   "c\xef\xbf\xbd<think>\xef\xbf\xbd");
    kvf_buffer_free(&seen);
    kvf_ids_free(&ids);
}

/* Drops the letters of kinds, all but a call's, and what only belongs to the form. */
static void join_texts(kvf_buffer *seen, kvf_buffer *joined)
{
    char *at = seen->data;
    while (at && *at) {
        char *end = strchr(at + 2, '\x01');
        const size_t bytes = end ? (size_t)(end - at) : strlen(at);
        if (at[1] != 'f' && at[1] != 'x')
            kvf_buffer_add(joined, at + 2, bytes - 2);
        at = end;
    }
    kvf_buffer_add(joined, "", 1);
}

/* Left after any token and gone on with, an answer shows what it shows in one go. */
static void test_an_answer_that_was_interrupted_goes_on(void **state)
{
    const struct fixture *fixture = *state;
    const char *const answers[] = {"the\n\ntea</think>\n\n<ea\n\n\n", "t</think>e\n\n",
                                   "\n\n<" DSML "tool_ca", "e</think>a\n\n<" DSML "tool_calls>te"};
    for (size_t no = 0; no < sizeof answers / sizeof *answers; no++) {
        kvf_ids held = ids_of(fixture, IN_THOUGHT);
        kvf_ids ids = ids_of(fixture, answers[no]);
        kvf_buffer whole = {.data = NULL};
        kvf_buffer whole_text = {.data = NULL};
        take_answer(fixture, &thinking, &held, ids.ids, ids.n, &whole);
        join_texts(&whole, &whole_text);
        const size_t n_before = held.n;
        assert_true(kvf_ids_reserve(&held, ids.n));
        for (size_t cut = 0; cut <= ids.n; cut++) {
            kvf_buffer seen = {.data = NULL};
            kvf_buffer rest = {.data = NULL};
            kvf_buffer text = {.data = NULL};
            held.n = n_before;
            take_answer(fixture, &thinking, &held, ids.ids, cut, &seen);
            memcpy(held.ids + n_before, ids.ids, cut * sizeof *ids.ids);
            held.n = n_before + cut;
            take_answer(fixture, &thinking, &held, ids.ids + cut, ids.n - cut, &rest);
            join_texts(&seen, &text);
            text.bytes--;
            join_texts(&rest, &text);
            assert_string_equal(text.data, whole_text.data);
            kvf_buffer_free(&text);
            kvf_buffer_free(&rest);
            kvf_buffer_free(&seen);
        }
        kvf_buffer_free(&whole_text);
        kvf_buffer_free(&whole);
        kvf_ids_free(&ids);
        kvf_ids_free(&held);
    }
}

static void test_a_call_comes_whole_wherever_the_answer_was_left(void **state)
{
    const struct fixture *fixture = *state;
    kvf_ids held = ids_of(fixture, IN_CHAT);
    kvf_ids ids = ids_of(fixture, "the" CALL EOS);
    const size_t n_before = held.n;
    assert_true(kvf_ids_reserve(&held, ids.n));
    for (size_t cut = 0; cut + 1 < ids.n; cut++) {
        kvf_buffer seen = {.data = NULL};
        memcpy(held.ids + n_before, ids.ids, cut * sizeof *ids.ids);
        held.n = n_before + cut;
        take_answer(fixture, &chat, &held, ids.ids + cut, ids.n - cut, &seen);
        assert_non_null(strstr(seen.data, "\x01"
                                          "xeat{\"tea\": 3}"));
        assert_int_equal(strstr(seen.data, "cthe") != NULL, cut == 0);
        kvf_buffer_free(&seen);
    }
    kvf_ids_free(&ids);
    kvf_ids_free(&held);
}

/* ---- Texts that end an answer ------------------------------------------------------------ */

/* What is given of an answer of plain bytes, a token each, and the bytes before the stop. */
static void assert_stopped(const struct fixture *fixture, const char *const *stops, size_t n_stops,
                           const char *answer, const char *expected, bool is_stopped)
{
    kvf_ids ids = {.n = 0};
    kvf_buffer seen = {.data = NULL};
    kvf_answer_stream *stream;
    kvf_error error;
    assert_int_equal(kvf_encode_text(fixture->encoder, answer, strlen(answer), true, &ids, &error),
                     KVF_OK);
    assert_int_equal(
        kvf_answer_stream_open(&fixture->conversation, &chat, NULL, 0, see, &seen, &stream, &error),
        KVF_OK);
    kvf_answer_stream_stop_at(stream, stops, n_stops);
    size_t fed = 0;
    for (size_t i = 0; i < ids.n && !kvf_answer_stream_is_stopped(stream); i++) {
        size_t bytes;
        kvf_tokenizer_bytes(fixture->tokenizer, ids.ids[i], &bytes);
        kvf_answer_stream_add(stream, ids.ids[i]);
        fed += bytes;
        assert_int_equal(kvf_answer_stream_fed_bytes(stream), fed);
        assert_true(kvf_answer_stream_given_bytes(stream) <= fed);
    }
    assert_int_equal(kvf_answer_stream_finish(stream, &error), KVF_OK);
    assert_int_equal(kvf_answer_stream_is_stopped(stream), is_stopped);
    assert_string_equal(seen.data ? seen.data : "", expected);
    kvf_buffer joined = {.data = NULL};
    join_texts(&seen, &joined);
    assert_int_equal(kvf_answer_stream_given_bytes(stream), is_stopped ? joined.bytes - 1 : fed);
    kvf_buffer_free(&joined);
    kvf_answer_stream_close(stream);
    kvf_buffer_free(&seen);
    kvf_ids_free(&ids);
}

static void test_an_answer_ends_before_a_stop(void **state)
{
    const struct fixture *fixture = *state;
    const char *const one[] = {"STOP"};
    const char *const two[] = {"abcd", "bc"};
    const char *const lines[] = {"\n\n", "\nQ"};
    assert_stopped(fixture, one, 1, "a STOP b",
                   "\x01"
                   "ca ",
                   true);
    assert_stopped(fixture, one, 1, "STOP", "", true);
    assert_stopped(fixture, one, 1, "SSTOP",
                   "\x01"
                   "cS",
                   true);
    assert_stopped(fixture, one, 1, "STOSTOP",
                   "\x01"
                   "cSTO",
                   true);
    assert_stopped(fixture, one, 1, "a STO",
                   "\x01"
                   "ca STO",
                   false);
    assert_stopped(fixture, one, 1, "STO b",
                   "\x01"
                   "cSTO b",
                   false);
    assert_stopped(fixture, two, 2, "xabcd",
                   "\x01"
                   "cx",
                   true);
    assert_stopped(fixture, two, 2, "xabce",
                   "\x01"
                   "cxa",
                   true);
    assert_stopped(fixture, two, 2, "xabc",
                   "\x01"
                   "cxa",
                   true); /* known at the end alone */
    assert_stopped(fixture, lines, 2, "the\ntea\n\neat",
                   "\x01"
                   "cthe\ntea",
                   true);
    assert_stopped(fixture, lines, 2, "the\n\n\n",
                   "\x01"
                   "cthe",
                   true);
    assert_stopped(fixture, one, 1,
                   "ST"
                   "<think>"
                   "OP",
                   "\x01"
                   "cST<think>OP",
                   false);
    const char *const marked[] = {"T<think>O"}; /* text, where it is no part of the form */
    assert_stopped(fixture, marked, 1,
                   "ST"
                   "<think>"
                   "OP",
                   "\x01"
                   "cS",
                   true);
    /* Not in what is no content. */
    const char *const calls[] = {"tool_calls", "tea"};
    assert_stopped(fixture, calls, 2, "the" CALL EOS,
                   "\x01"
                   "cthe"
                   "\x01"
                   "xeat{\"tea\": 3}"
                   "\x01"
                   "f</" DSML "tool_calls>" EOS,
                   false);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_fixture, close_fixture)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_vocabulary_says_whether_there_is_a_chat),
        TEST(test_a_first_turn),
        TEST(test_a_turn_behind_an_answer_ends_it),
        TEST(test_a_turn_behind_one_that_was_interrupted_joins_it),
        TEST(test_what_a_user_spells_is_text),
        TEST(test_an_effort_stands_before_the_first_turn_alone),
        TEST(test_the_release_is_assumed_where_nothing_says_it),
        TEST(test_turns_one_by_one_are_the_whole_conversation),
        TEST(test_what_is_missing_until_the_model_goes_on),
        TEST(test_places),
        TEST(test_the_state_before_a_turn_is_found),
        TEST(test_what_ends_an_answer),
        TEST(test_a_system_is_found_again),
        TEST(test_settings_come_back_from_bytes),
        TEST(test_bytes_of_a_later_version_are_refused),
        TEST(test_an_answer_is_taken_apart),
        TEST(test_characters_are_whole_and_padding_is_none),
        TEST(test_an_answer_that_was_interrupted_goes_on),
        TEST(test_a_call_comes_whole_wherever_the_answer_was_left),
        TEST(test_an_answer_ends_before_a_stop),
    };
    return cmocka_run_group_tests_name("conversation", tests, NULL, NULL);
}
