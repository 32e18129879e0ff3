/* Every allocation of a conversation fails once: an error each time, and nothing is kept. */
#include "cache/failing_malloc.h"
#include "engine/chat_request.h"
#include "engine/conversation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifdef KVF_TEST_WRAPPED_MALLOC

#define DSML KVF_CHAT_DSML

static kvf_device no_device; /* nothing is allocated on one */
static kvf_tokenizer *tokenizer;
static kvf_conversation conversation;

static const char request_text[] =
    "{\"model\":\"m\",\"tools\":[{\"function\":{\"name\":\"f\"}}],\"messages\":["
    "{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"tool_calls\":["
    "{\"id\":\"1\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}},"
    "{\"id\":\"2\",\"function\":{\"name\":\"f\",\"arguments\":\"x\"}}]},"
    "{\"role\":\"tool\",\"tool_call_id\":\"2\",\"content\":\"R2\"},"
    "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"R1\"}]}";

static const char answer_text[] =
    "a</think>b STO\n\n<" DSML "tool_calls>\n<" DSML "invoke name=\"f\">\n<" DSML
    "parameter name=\"k\" string=\"false\">[1]</" DSML "parameter>\n</" DSML "invoke>\n</" DSML
    "tool_calls>";

static const char held_text[] =
    KVF_CHAT_BOS "system" KVF_CHAT_USER "question" KVF_CHAT_ASSISTANT "<think>reason";

static kvf_ids held;   /* of held_text */
static kvf_ids answer; /* of answer_text */

static kvf_status read_and_write(kvf_error *error)
{
    const kvf_conversation_settings settings = {.is_chat = true, .thinking = true};
    kvf_chat_request request;
    kvf_ids ids = {.n = 0};
    kvf_status status =
        kvf_chat_request_read(request_text, sizeof request_text - 1, "test", &request, error);
    if (status != KVF_OK)
        return status;
    status = kvf_conversation_messages(&conversation, &settings, request.messages.list,
                                       request.messages.n, &ids, NULL, error);
    kvf_ids_free(&ids);
    kvf_chat_request_free(&request);
    return status;
}

static kvf_status write_turns(kvf_error *error)
{
    const kvf_conversation_settings settings = {.is_chat = true, .thinking = true};
    kvf_ids ids = {.n = 0};
    bool has_it = false;
    kvf_status status = kvf_conversation_turn(&conversation, &settings, held.ids, held.n,
                                              KVF_SPAN("more"), KVF_SPAN("again"), &ids, error);
    if (status == KVF_OK)
        status = kvf_conversation_go_on(&conversation, &settings, held.ids, 3, &ids, error);
    if (status == KVF_OK)
        status = kvf_conversation_has_system(&conversation, &settings, held.ids, held.n,
                                             KVF_SPAN("system"), &has_it, error);
    if (status == KVF_OK)
        assert_true(has_it && ids.n > 5);
    kvf_ids_free(&ids);
    return status;
}

static void count_event(void *user, const kvf_answer_event *event)
{
    *(size_t *)user += event->raw.bytes;
}

static kvf_status take_answer(kvf_error *error)
{
    static const char *const stops[] = {"STOP"};
    const kvf_conversation_settings settings = {.is_chat = true};
    kvf_answer_stream *stream;
    size_t n_bytes = 0;
    kvf_status status = kvf_answer_stream_open(&conversation, &settings, held.ids, held.n,
                                               count_event, &n_bytes, &stream, error);
    if (status != KVF_OK)
        return status;
    kvf_answer_stream_stop_at(stream, stops, 1);
    for (size_t i = 0; i < answer.n; i++)
        kvf_answer_stream_add(stream, answer.ids[i]);
    status = kvf_answer_stream_finish(stream, error);
    if (status == KVF_OK)
        assert_int_equal(n_bytes, sizeof answer_text - 1);
    kvf_answer_stream_close(stream);
    return status;
}

/* Each has an encoder of its own: one that has encoded before remembers it. */
static void fail_each(kvf_status (*work)(kvf_error *error), uint64_t at_least)
{
    const malloc_counts before = failing_malloc_count(&no_device);
    kvf_error error;
    kvf_status status;
    uint64_t n = 0;
    for (;; n++) {
        kvf_encoder *encoder;
        assert_int_equal(kvf_encoder_open(tokenizer, &encoder, &error), KVF_OK);
        conversation.encoder = encoder;
        failing_malloc_begin(n);
        status = work(&error);
        const bool reached = failing_malloc_end();
        kvf_encoder_close(encoder);
        failing_malloc_expect(&no_device, &before);
        if (!reached)
            break;
        if (status != KVF_OK)
            assert_int_equal(status, KVF_OUT_OF_MEMORY);
        assert_true(status == KVF_OK || strlen(error.message) > 0);
    }
    if (status != KVF_OK)
        fail_msg("%s", error.message);
    assert_true(n >= at_least);
}

static void every_allocation_fails(void **state)
{
    (void)state;
    fail_each(read_and_write, 20);
    fail_each(write_turns, 9);
    fail_each(take_answer, 50);
}

static int open_all(void **state)
{
    kvf_encoder *encoder;
    kvf_error error;
    (void)state;
    if (kvf_tokenizer_open_json(KVF_TEST_TOKENIZER, 0, &tokenizer, &error) != KVF_OK ||
        kvf_encoder_open(tokenizer, &encoder, &error) != KVF_OK)
        return -1;
    kvf_conversation_of(tokenizer, encoder, &conversation);
    const bool good =
        kvf_encode_text(encoder, held_text, sizeof held_text - 1, true, &held, &error) == KVF_OK &&
        kvf_encode_text(encoder, answer_text, sizeof answer_text - 1, true, &answer, &error) ==
            KVF_OK;
    kvf_encoder_close(encoder);
    return good ? 0 : -1;
}

static int close_all(void **state)
{
    (void)state;
    kvf_conversation_close(&conversation);
    kvf_ids_free(&held);
    kvf_ids_free(&answer);
    kvf_tokenizer_close(tokenizer);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_allocation_fails, open_all, close_all)};
    return cmocka_run_group_tests_name("allocation", tests, NULL, NULL);
}

#else

int main(void)
{
    return 0; /* Apple's linker has no --wrap */
}

#endif
