/* Conversations that programs write: what is taken, and what of them no model could answer. */
#include "engine/chat_request.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define USER "{\"role\":\"user\",\"content\":\"u\"}"
#define SYSTEM "{\"role\":\"system\",\"content\":\"s\"}"
#define ANSWER "{\"role\":\"assistant\",\"content\":\"a\"}"
#define CALL(id) "{\"id\":\"" id "\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}"
#define CALLS(calls) "{\"role\":\"assistant\",\"tool_calls\":[" calls "]}"
#define RESULT(id) "{\"role\":\"tool\",\"tool_call_id\":\"" id "\",\"content\":\"r\"}"
#define TOOLS "[{\"function\":{\"name\":\"f\"}}]"

static kvf_chat_request taken(const char *json)
{
    kvf_chat_request request;
    kvf_error error;
    if (kvf_chat_request_read(json, strlen(json), "FILE", &request, &error) != KVF_OK)
        fail_msg("%s: %s", json, error.message);
    return request;
}

static void assert_taken(const char *json, size_t n_messages)
{
    kvf_chat_request request = taken(json);
    assert_int_equal(request.messages.n, n_messages);
    kvf_chat_request_free(&request);
}

static void assert_refused(const char *json, kvf_status status, const char *expected)
{
    kvf_chat_request request;
    kvf_error error;
    assert_int_equal(kvf_chat_request_read(json, strlen(json), "FILE", &request, &error), status);
    if (!strstr(error.message, expected) || strncmp(error.message, "FILE: ", 6) != 0)
        fail_msg("%s: %s", json, error.message);
}

static void test_an_array_or_an_object(void **state)
{
    (void)state;
    assert_taken("[" USER "]", 1);
    assert_taken("[" SYSTEM "," USER "," ANSWER "," USER "]", 4);
    assert_taken("{\"messages\":[" USER "]}", 1);
    assert_taken("[" USER "," CALLS(CALL("1") "," CALL("2")) "," RESULT("2") "," RESULT("1") "]",
                 4);
    assert_taken("[" USER "," CALLS(CALL("1")) "," RESULT("1") "," USER "]", 4);
    assert_taken("[" USER ",{\"role\":\"assistant\",\"content\":\"a\",\"wo_eos\":true}]", 2);
    assert_taken("[{\"role\":\"latest_reminder\",\"content\":\"r\"}," USER "]", 2);
}

static void test_other_keys_are_named(void **state)
{
    (void)state;
    kvf_chat_request request = taken("{\"model\":\"m\",\"messages\":[" USER "],\"tools\":null,"
                                     "\"a\\nb\":1}");
    assert_string_equal(request.passed_over, "model, a?b");
    kvf_chat_request_free(&request);
    request = taken("[" USER "]");
    assert_string_equal(request.passed_over, "");
    kvf_chat_request_free(&request);
    /* As many as there is room for. */
    char json[4096] = "{\"messages\":[" USER "]";
    for (int i = 0; i < 100; i++)
        snprintf(json + strlen(json), 32, ",\"key%02d\":0", i);
    request = taken(strcat(json, "}"));
    assert_int_equal(strncmp(request.passed_over, "key00, key01, ", 14), 0);
    assert_true(strlen(request.passed_over) < sizeof request.passed_over);
    kvf_chat_request_free(&request);
}

static void test_tools_become_the_systems(void **state)
{
    (void)state;
    kvf_chat_request request = taken("{\"tools\":" TOOLS ",\"messages\":[" SYSTEM "," USER "]}");
    assert_int_equal(request.messages.n, 2);
    assert_non_null(request.messages.list[0].tools);
    assert_true(kvf_span_is(request.messages.list[0].content, "s"));
    kvf_chat_request_free(&request);
    request = taken("{\"tools\":" TOOLS ",\"messages\":[" USER "," SYSTEM "," USER "]}");
    assert_int_equal(request.messages.n, 4);
    assert_int_equal(request.messages.list[0].role, KVF_ROLE_SYSTEM);
    assert_int_equal(request.messages.list[0].content.bytes, 0);
    assert_non_null(request.messages.list[0].tools);
    assert_int_equal(request.messages.list[1].role, KVF_ROLE_USER);
    assert_null(request.messages.list[2].tools);
    kvf_chat_request_free(&request);
    assert_taken("{\"tools\":[],\"messages\":[" USER "]}", 1);
}

static void test_tools_that_are_none(void **state)
{
    (void)state;
    const kvf_status status = KVF_INVALID_ARGUMENT;
    assert_refused("{\"tools\":{\"a\":1},\"messages\":[" USER "]}", status, "tools is an object");
    assert_refused("{\"tools\":[1],\"messages\":[" USER "]}", status, "tools[0] is a number");
    assert_refused("{\"tools\":[{\"name\":\"f\"}],\"messages\":[" USER "]}", status,
                   "tools[0].function is missing");
    assert_refused("{\"tools\":" TOOLS ",\"messages\":[{\"role\":\"system\",\"tools\":" TOOLS
                   "}," USER "]}",
                   status, "messages[0]");
    /* What is put before them does not count. */
    assert_refused("{\"tools\":" TOOLS ",\"messages\":[" USER
                   ",{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"1\",\"function\":{\"name\":"
                   "\"f\",\"arguments\":\"[]\"}}]}," RESULT("1") "]}",
                   status, "messages[1].tool_calls[0].function.arguments");
}

static void test_what_is_no_conversation(void **state)
{
    (void)state;
    const kvf_status status = KVF_INVALID_ARGUMENT;
    assert_refused("", KVF_FILE_FORMAT, "");
    assert_refused("[" USER, KVF_FILE_FORMAT, "");
    assert_refused("\"hello\"", status, "a string");
    assert_refused("{}", status, "messages is missing");
    assert_refused("{\"messages\":" USER "}", status, "messages is an object");
    assert_refused("[{\"role\":\"robot\",\"content\":\"u\"}]", status, "messages[0].role");
    assert_refused("[" USER "," ANSWER "," USER ",{\"role\":\"function\"}," USER "]", status,
                   "messages[3].role");
    assert_refused("[{\"content\":\"u\"}]", status, "messages[0].role is missing");
}

static void test_what_no_model_could_answer(void **state)
{
    (void)state;
    const kvf_status status = KVF_INVALID_ARGUMENT;
    assert_refused("[]", status, "empty");
    assert_refused("{\"messages\":[]}", status, "empty");
    assert_refused("[" USER "," ANSWER "]", status, "messages[1], the last, is of the role assi");
    assert_refused("[" SYSTEM "]", status, "messages[0], the last, is of the role system");
    assert_refused("[" USER "," CALLS(CALL("1")) "]", status, "messages[1].tool_calls[0]");
    assert_refused("[" USER "," CALLS(CALL("1")) "," USER "]", status, "messages[1].tool_calls[0]");
    assert_refused("[" USER "," CALLS(CALL("1") "," CALL("2")) "," RESULT("1") "]", status,
                   "messages[1].tool_calls[1]");
    assert_refused("[" USER "," CALLS(CALL("1")) "," ANSWER "," RESULT("1") "]", status,
                   "messages[1].tool_calls[0]");
    assert_refused("[" USER "," RESULT("1") "]", status, "messages[1]");
    assert_refused("[" USER "," CALLS(CALL("1")) "," RESULT("2") "]", status, "messages[2]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_array_or_an_object),
        cmocka_unit_test(test_other_keys_are_named),
        cmocka_unit_test(test_tools_become_the_systems),
        cmocka_unit_test(test_tools_that_are_none),
        cmocka_unit_test(test_what_is_no_conversation),
        cmocka_unit_test(test_what_no_model_could_answer),
    };
    return cmocka_run_group_tests_name("chat_request", tests, NULL, NULL);
}
