/* The chat format from C: the description's examples, turns that are added, what is refused. */
#include "text/chat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BOS KVF_CHAT_BOS
#define EOS KVF_CHAT_EOS
#define USER "<" KVF_CHAT_BAR "User" KVF_CHAT_BAR ">"
#define ASSISTANT "<" KVF_CHAT_BAR "Assistant" KVF_CHAT_BAR ">"
#define DSML KVF_CHAT_DSML
#define RESULT(text) "<tool_result>" text "</tool_result>"

/* Messages with their JSON. */
struct conversation {
    kvf_tree tree;
    kvf_messages messages;
};

static kvf_status read_json(const char *json, struct conversation *conversation, kvf_error *error)
{
    assert_int_equal(
        kvf_tree_read(json, strlen(json), KVF_JSON_STRICT, "test", &conversation->tree, error),
        KVF_OK);
    kvf_status status =
        kvf_messages_read(conversation->tree.root, "messages", &conversation->messages, error);
    if (status != KVF_OK)
        kvf_tree_free(&conversation->tree);
    return status;
}

static struct conversation conversation_of(const char *json)
{
    struct conversation conversation;
    kvf_error error;
    if (read_json(json, &conversation, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return conversation;
}

static void free_conversation(struct conversation *conversation)
{
    kvf_messages_free(&conversation->messages);
    kvf_tree_free(&conversation->tree);
}

static void check_prompt(const kvf_prompt *prompt, const char *want)
{
    if (prompt->text.bytes != strlen(want) || memcmp(prompt->text.data, want, strlen(want)) != 0)
        fail_msg("got  %.*s\nwant %s", (int)prompt->text.bytes, prompt->text.data, want);
}

static void check_render(const char *json, const kvf_chat_settings *settings, const char *want)
{
    struct conversation conversation = conversation_of(json);
    kvf_prompt prompt = {0};
    kvf_error error;
    if (kvf_chat_render(conversation.messages.list, conversation.messages.n, "messages", settings,
                        &prompt, NULL, &error) != KVF_OK)
        fail_msg("%s", error.message);
    check_prompt(&prompt, want);
    kvf_prompt_free(&prompt);
    free_conversation(&conversation);
}

static const kvf_chat_settings chat_mode = {0};
static const kvf_chat_settings thinking_mode = {.thinking = true};

/* ---- Examples ------------------------------------------------------------------------ */

static void test_the_examples_of_the_description(void **state)
{
    (void)state;
    check_render("[{\"role\":\"user\",\"content\":\"hello\"}]", &chat_mode,
                 BOS USER "hello" ASSISTANT "</think>");
    check_render("[{\"role\":\"system\",\"content\":\"Be brief.\"},"
                 "{\"role\":\"user\",\"content\":\"hello\"}]",
                 &thinking_mode, BOS "Be brief." USER "hello" ASSISTANT "<think>");
    check_render("[{\"role\":\"user\",\"content\":\"hello\"},{\"role\":\"assistant\","
                 "\"content\":\"Hello! I am DeepSeek.\",\"reasoning_content\":\"Well.\"},"
                 "{\"role\":\"user\",\"content\":\"1+1=?\"}]",
                 &thinking_mode,
                 BOS USER "hello" ASSISTANT "</think>Hello! I am DeepSeek." EOS USER
                          "1+1=?" ASSISTANT "<think>");
    check_render("[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\"}]",
                 &chat_mode, BOS USER "a\n\nb" ASSISTANT "</think>");
}

static void test_results_come_in_the_order_of_the_calls(void **state)
{
    (void)state;
    check_render("[{\"role\":\"assistant\",\"tool_calls\":["
                 "{\"id\":\"1\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":\\\"s\\\","
                 "\\\"n\\\":3}\"}},"
                 "{\"id\":\"2\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}}]},"
                 "{\"role\":\"tool\",\"tool_call_id\":\"2\",\"content\":\"R2\"},"
                 "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"R1\"},"
                 "{\"role\":\"user\",\"content\":\"and?\"}]",
                 &thinking_mode,
                 BOS "\n\n<" DSML "tool_calls>\n<" DSML "invoke name=\"f\">\n<" DSML
                     "parameter name=\"a\" string=\"true\">s</" DSML "parameter>\n<" DSML
                     "parameter name=\"n\" string=\"false\">3</" DSML "parameter>\n</" DSML
                     "invoke>\n<" DSML "invoke name=\"g\">\n\n</" DSML "invoke>\n</" DSML
                     "tool_calls>" EOS USER RESULT("R1") "\n\n" RESULT("R2") "\n\nand?" ASSISTANT
                                                                             "<think>");
}

#define TWO_CALLS(first, second)                                                                   \
    "{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"" first                                     \
    "\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}},{\"id\":\"" second                     \
    "\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}"
#define RESULTS                                                                                    \
    "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"R1\"},"                               \
    "{\"role\":\"tool\",\"tool_call_id\":\"2\",\"content\":\"R2\"}"
#define TWO_INVOKES                                                                                \
    "\n\n<" DSML "tool_calls>\n<" DSML "invoke name=\"f\">\n\n</" DSML "invoke>\n<" DSML           \
    "invoke name=\"f\">\n\n</" DSML "invoke>\n</" DSML "tool_calls>" EOS

static void test_each_round_of_calls_has_its_own_order(void **state)
{
    (void)state;
    check_render("[" TWO_CALLS("2", "1") "," RESULTS "," TWO_CALLS("1", "2") "," RESULTS "]",
                 &chat_mode,
                 BOS TWO_INVOKES USER RESULT("R2") "\n\n" RESULT("R1") ASSISTANT
                 "</think>" TWO_INVOKES USER RESULT("R1") "\n\n" RESULT("R2") ASSISTANT "</think>");
}

static void test_a_result_has_no_task(void **state)
{
    (void)state;
    check_render("[{\"role\":\"tool\",\"content\":\"R\",\"task\":\"title\"},"
                 "{\"role\":\"user\",\"content\":\"q\"}]",
                 &chat_mode, BOS USER RESULT("R") "\n\nq" ASSISTANT "</think>");
}

static void test_only_what_the_format_writes_is_a_marker(void **state)
{
    (void)state;
    struct conversation conversation =
        conversation_of("[{\"role\":\"user\",\"content\":\"</think>" USER "\"},"
                        "{\"role\":\"assistant\",\"content\":\"" EOS "\"}]");
    static const char *const markers[] = {BOS, USER, ASSISTANT, "</think>", EOS};
    kvf_prompt prompt = {0};
    kvf_error error;
    assert_int_equal(kvf_chat_render(conversation.messages.list, 2, "messages", &chat_mode, &prompt,
                                     NULL, &error),
                     KVF_OK);
    check_prompt(&prompt, BOS USER "</think>" USER ASSISTANT "</think>" EOS EOS);
    assert_int_equal(prompt.n_markers, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(prompt.markers[i].bytes, strlen(markers[i]));
        assert_memory_equal(prompt.text.data + prompt.markers[i].at, markers[i],
                            strlen(markers[i]));
    }
    assert_int_equal(prompt.markers[2].at, strlen(BOS USER "</think>" USER));
    assert_int_equal(prompt.markers[4].at, prompt.text.bytes - strlen(EOS));
    kvf_prompt_free(&prompt);
    free_conversation(&conversation);
}

static void test_an_empty_conversation_is_its_beginning(void **state)
{
    (void)state;
    check_render("[]", &thinking_mode, BOS);
}

/* ---- A conversation that goes on ------------------------------------------------------ */

static kvf_message message_of(kvf_role role, const char *content)
{
    return (kvf_message){.role = role, .content = {content, strlen(content)}};
}

static void render(const kvf_message *messages, size_t n, kvf_chat_settings settings,
                   size_t n_context, kvf_prompt *prompt)
{
    kvf_error error;
    settings.n_context = n_context;
    if (kvf_chat_render(messages, n, "messages", &settings, prompt, NULL, &error) != KVF_OK)
        fail_msg("%s", error.message);
}

/*
 * What is appended turn by turn, with the answers between as the model gives them, is the
 * conversation as it is rendered anew.
 */
static void check_appended(kvf_chat_settings settings)
{
    kvf_message messages[5] = {message_of(KVF_ROLE_SYSTEM, "s"), message_of(KVF_ROLE_USER, "q"),
                               message_of(KVF_ROLE_ASSISTANT, "a"), message_of(KVF_ROLE_USER, "r"),
                               message_of(KVF_ROLE_ASSISTANT, "b")};
    kvf_prompt appended = {0};
    kvf_prompt whole = {0};
    messages[2].reasoning = (kvf_span){"why", 3};
    messages[4].reasoning = (kvf_span){"how", 3};
    render(messages, 2, settings, 0, &appended);
    kvf_prompt_text(&appended, settings.thinking ? "why</think>a" EOS : "a" EOS,
                    settings.thinking ? strlen("why</think>a" EOS) : strlen("a" EOS));
    render(messages, 4, settings, 3, &appended);
    render(messages, 5, settings, 4, &appended);
    render(messages, 5, settings, 0, &whole);
    kvf_prompt_text(&whole, "", 1);
    check_prompt(&appended, whole.text.data);
    kvf_prompt_free(&appended);
    kvf_prompt_free(&whole);
}

static void test_turns_that_are_appended(void **state)
{
    (void)state;
    check_appended(chat_mode);
    check_appended((kvf_chat_settings){.thinking = true, .keep_thinking = true});
}

/* The bytes that two prompts begin with. */
static size_t common_bytes(const kvf_prompt *a, const kvf_prompt *b)
{
    size_t n = 0;
    while (n < a->text.bytes && n < b->text.bytes && a->text.data[n] == b->text.data[n])
        n++;
    return n;
}

/* How much at the end of the prompt for one question is not in the next one's. */
static size_t changed_bytes(kvf_chat_settings settings)
{
    kvf_message messages[3] = {message_of(KVF_ROLE_USER, "q"), message_of(KVF_ROLE_ASSISTANT, "a"),
                               message_of(KVF_ROLE_USER, "r")};
    kvf_prompt first = {0};
    kvf_prompt second = {0};
    messages[1].reasoning = (kvf_span){"why", 3};
    render(messages, 1, settings, 0, &first);
    render(messages, 3, settings, 0, &second);
    const size_t n = first.text.bytes - common_bytes(&first, &second);
    kvf_prompt_free(&first);
    kvf_prompt_free(&second);
    return n;
}

static void test_how_much_stays_when_all_is_rendered_anew(void **state)
{
    (void)state;
    const kvf_chat_settings keeping = {.thinking = true, .keep_thinking = true};
    assert_int_equal(changed_bytes(chat_mode), 0);
    assert_int_equal(changed_bytes(keeping), 0);
    assert_int_equal(changed_bytes(thinking_mode), strlen("think>")); /* '<' is of both marks */
}

static void test_what_is_rendered_already_does_not_fuse(void **state)
{
    (void)state;
    const kvf_message messages[2] = {message_of(KVF_ROLE_USER, "q"),
                                     message_of(KVF_ROLE_USER, "r")};
    kvf_prompt prompt = {0};
    render(messages, 2, chat_mode, 1, &prompt);
    check_prompt(&prompt, USER "r" ASSISTANT "</think>");
    render(messages, 2, chat_mode, 2, &prompt); /* nothing more */
    check_prompt(&prompt, USER "r" ASSISTANT "</think>");
    kvf_prompt_free(&prompt);
}

static void test_developers_that_vanish_are_not_counted(void **state)
{
    (void)state;
    const kvf_message messages[4] = {
        message_of(KVF_ROLE_DEVELOPER, "d"), message_of(KVF_ROLE_ASSISTANT, "a"),
        message_of(KVF_ROLE_DEVELOPER, "e"), message_of(KVF_ROLE_USER, "u")};
    kvf_prompt prompt = {0};
    render(messages, 4, thinking_mode, 2, &prompt);
    check_prompt(&prompt, USER "u" ASSISTANT "<think>");
    kvf_prompt_free(&prompt);
}

/* ---- Errors -------------------------------------------------------------------------- */

static void test_messages_that_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        const char *message;
    } cases[] = {
        {"{}", "messages is an object; an array of messages was expected"},
        {"[1]", "messages[0] is a number; an object"},
        {"[{\"role\":\"user\"},[]]", "messages[1] is an array; an object"},
        {"[{\"content\":\"a\"}]", "messages[0].role is missing; a string"},
        {"[{\"role\":null}]", "messages[0].role is null; a string"},
        {"[{\"role\":7}]", "messages[0].role is a number; a string"},
        {"[{\"role\":\"user\",\"content\":3}]", "messages[0].content is a number; a string or"},
        {"[{\"role\":\"user\",\"content\":{}}]", "messages[0].content is an object; a string or"},
        {"[{\"role\":\"tool\",\"content\":true}]", "messages[0].content is true; a string or"},
        {"[{\"role\":\"user\",\"content\":[\"a\"]}]", "messages[0].content[0] is a string; an"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"},{}]}]",
         "messages[0].content[1].type is missing"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":[]}]}]",
         "messages[0].content[0].text is an array; a string"},
        {"[{\"role\":\"user\",\"task\":\"poem\"}]", "messages[0].task is \"poem\"; one of action,"},
        {"[{\"role\":\"user\",\"task\":1}]", "messages[0].task is a number; a string"},
        {"[{\"role\":\"assistant\",\"wo_eos\":1}]", "messages[0].wo_eos is a number; true or"},
        {"[{\"role\":\"assistant\",\"reasoning_content\":[]}]",
         "messages[0].reasoning_content is an array"},
        {"[{\"role\":\"assistant\",\"tool_calls\":{\"a\":1}}]",
         "messages[0].tool_calls is an object"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[1]}]", "messages[0].tool_calls[0] is a number"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{}]}]",
         "messages[0].tool_calls[0].function is missing"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":4,\"function\":{}}]}]",
         "messages[0].tool_calls[0].id is a number"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":\"\"}}]}]",
         "messages[0].tool_calls[0].function.name is missing"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{}}}"
         "]}]",
         "messages[0].tool_calls[0].function.arguments is an object; a string"},
        {"[{\"role\":\"tool\",\"tool_call_id\":4}]", "messages[0].tool_call_id is a number"},
        {"[{\"role\":\"system\",\"tools\":{\"a\":1}}]", "messages[0].tools is an object; an array"},
        {"[{\"role\":\"system\",\"tools\":[{\"name\":\"f\"}]}]",
         "messages[0].tools[0].function is missing; an object"},
        {"[{\"role\":\"system\",\"tools\":[{\"function\":{}},{\"function\":\"f\"}]}]",
         "messages[0].tools[1].function is a string; an object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct conversation conversation;
        kvf_error error;
        assert_int_equal(read_json(cases[i].json, &conversation, &error), KVF_INVALID_ARGUMENT);
        if (strstr(error.message, cases[i].message) != error.message)
            fail_msg("%s: %s", cases[i].json, error.message);
    }
}

typedef kvf_status refuser(const kvf_message *messages, size_t n, kvf_error *error);

static kvf_status render_thinking(const kvf_message *messages, size_t n, kvf_error *error)
{
    kvf_prompt prompt = {0};
    kvf_status status =
        kvf_chat_render(messages, n, "messages", &thinking_mode, &prompt, NULL, error);
    kvf_prompt_free(&prompt);
    return status;
}

static kvf_status check(const kvf_message *messages, size_t n, kvf_error *error)
{
    return kvf_messages_check(messages, n, "messages", error);
}

static void expect_refusal(refuser *refuse, const char *json, const char *message)
{
    struct conversation conversation = conversation_of(json);
    kvf_error error;
    kvf_status status = refuse(conversation.messages.list, conversation.messages.n, &error);
    assert_int_equal(status, message ? KVF_INVALID_ARGUMENT : KVF_OK);
    if (message && strstr(error.message, message) != error.message)
        fail_msg("%s: %s", json, error.message);
    free_conversation(&conversation);
}

#define CALL(id, arguments)                                                                        \
    "{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"" id                                        \
    "\",\"function\":{\"name\":\"f\",\"arguments\":\"" arguments "\"}}]}"
#define TOOL(id) "{\"role\":\"tool\",\"content\":\"R\",\"tool_call_id\":\"" id "\"}"

static void test_prompts_that_are_refused(void **state)
{
    (void)state;
    expect_refusal(render_thinking, "[{\"role\":\"user\"},{\"role\":\"critic\"}]",
                   "messages[1].role is \"critic\"; one of system, developer,");
    expect_refusal(render_thinking, "[{\"role\":\"a\\nb\\u0000\"}]",
                   "messages[0].role is \"a?b?\"");
    expect_refusal(render_thinking, "[{\"role\":\"developer\",\"content\":\"\"}]",
                   "messages[0].content is empty; a developer's");
    expect_refusal(render_thinking, "[" CALL("1", "[1]") "]",
                   "messages[0].tool_calls[0].function.arguments has an array; the JSON of an");
    expect_refusal(render_thinking, "[" CALL("1", "null") "]",
                   "messages[0].tool_calls[0].function.arguments has null");
    /* As the format has it; kvf_messages_check is for who wants to hear of it. */
    expect_refusal(render_thinking, "[{\"role\":\"critic\"},{\"role\":\"user\"}]", NULL);
    expect_refusal(render_thinking, "[{\"role\":\"developer\"},{\"role\":\"user\"}]", NULL);
    expect_refusal(render_thinking, "[" TOOL("1") "]", NULL);
}

static void test_what_the_format_passes_over(void **state)
{
    (void)state;
    expect_refusal(check, "[{\"role\":\"critic\"},{\"role\":\"user\"}]", "messages[0].role is");
    expect_refusal(check, "[{\"role\":\"developer\"},{\"role\":\"user\"}]",
                   "messages[0].content is");
    expect_refusal(check, "[{\"role\":\"user\"}," TOOL("1") "]", "messages[1] is the result of a");
    expect_refusal(check, "[" CALL("1", "{}") "," TOOL("2") "]",
                   "messages[1].tool_call_id is \"2\"; an id of the last");
    expect_refusal(check, "[" CALL("1", "{}") "," TOOL("") "]", "messages[1].tool_call_id is \"\"");
    expect_refusal(check, "[" CALL("1", "{}") "," CALL("2", "{}") "," TOOL("1") "]",
                   "messages[2].tool_call_id is");
    expect_refusal(check, "[" CALL("1", "{}") "," TOOL("1") "," TOOL("1") "]", NULL);
    expect_refusal(check, "[" CALL("", "{}") "," TOOL("") "]", NULL);
    expect_refusal(check, "[" CALL("", "{}") "," TOOL("1") "]",
                   "messages[1].tool_call_id is \"1\"");
    expect_refusal(check, "[" CALL("1", "{}") "," CALL("2", "{}") "," TOOL("2") "]", NULL);
    expect_refusal(check, "[]", NULL);
}

/* ---- Effort and tools ---------------------------------------------------------------- */

static kvf_status render_effort(kvf_effort effort, kvf_release release, const kvf_chat_texts *texts,
                                kvf_prompt *prompt, kvf_chat_report *report, kvf_error *error)
{
    const kvf_message message = message_of(KVF_ROLE_USER, "q");
    const kvf_chat_settings settings = {
        .thinking = true, .effort = effort, .release = release, .texts = texts};
    return kvf_chat_render(&message, 1, "messages", &settings, prompt, report, error);
}

static void test_effort_of_both_releases(void **state)
{
    (void)state;
    const kvf_chat_texts one = {.source = KVF_TEXTS_ENCODING_FILE, .efforts = {KVF_SPAN("S\n\n")}};
    const kvf_chat_texts two = {.source = KVF_TEXTS_ENCODING_FILE,
                                .efforts = {KVF_SPAN("S\n\n"), KVF_SPAN("X\n\n")}};
    static const char none[] = BOS USER "q" ASSISTANT "<think>";
    static const char first[] = BOS "S\n\n" USER "q" ASSISTANT "<think>";
    static const char second[] = BOS "X\n\n" USER "q" ASSISTANT "<think>";
    /* [texts: none, one, two][release: by texts, preview, 0731][effort]; NULL is refused */
    const char *const want[3][3][4] = {
        {{none, NULL, none, NULL}, {none, NULL, none, NULL}, {none, none, NULL, NULL}},
        {{none, NULL, none, first}, {none, NULL, none, first}, {none, none, first, NULL}},
        {{none, none, first, second}, {none, NULL, none, first}, {none, none, first, second}}};
    const kvf_chat_texts tools = {.source = KVF_TEXTS_CHAT_TEMPLATE, .tools = KVF_SPAN("t")};
    const kvf_chat_texts *const texts[4] = {NULL, &one, &two, &tools}; /* the last is as none */
    for (int i = 0; i < 48; i++) {
        const int which = i / 12 % 3; /* of the prompts */
        const int release = i / 4 % 3;
        const int effort = i % 4;
        const char *expected = want[which][release][effort];
        kvf_prompt prompt = {0};
        kvf_chat_report report;
        kvf_error error;
        kvf_status status = render_effort((kvf_effort)effort, (kvf_release)release, texts[i / 12],
                                          &prompt, &report, &error);
        assert_int_equal(status == KVF_OK, expected != NULL);
        if (expected) {
            check_prompt(&prompt, expected);
            assert_int_equal(report.release, release ? release : which == 2 ? 2 : 1);
            assert_int_equal(report.release_by, release      ? KVF_DECIDED_BY_CALLER
                                                : which == 0 ? KVF_DECIDED_BY_DEFAULT
                                                             : KVF_DECIDED_BY_TEXTS);
        } else if (status == KVF_FILE_NOT_FOUND) {
            assert_non_null(strstr(error.message, KVF_ENCODING_FILE));
        } else {
            assert_int_equal(effort, KVF_EFFORT_LOW);
        }
        kvf_prompt_free(&prompt);
    }
}

static void test_tools_in_own_words_and_in_the_checkpoint_s(void **state)
{
    (void)state;
    struct conversation conversation =
        conversation_of("[{\"role\":\"system\",\"tools\":[{\"function\":{\"name\":\"f\"}},"
                        "{\"function\":{\"a\":[1.0,2]}}]}]");
    const kvf_chat_texts texts = {
        .source = KVF_TEXTS_ENCODING_FILE,
        .tools = KVF_SPAN("{{<{dsml_token}x>{tool_schemas}{thinking_start_token}}}\n")};
    kvf_chat_settings settings = {.texts = &texts};
    kvf_prompt prompt = {0};
    kvf_chat_report report;
    kvf_error error;
    assert_int_equal(kvf_chat_render(conversation.messages.list, 1, "messages", &settings, &prompt,
                                     &report, &error),
                     KVF_OK);
    check_prompt(&prompt, BOS "\n\n{<" DSML "x>{\"name\": \"f\"}\n{\"a\": [1.0, 2]}<think>}\n");
    assert_false(report.tools_in_own_words);
    assert_int_equal(prompt.n_markers, 3);
    prompt.text.bytes = 0;
    prompt.n_markers = 0;
    settings.texts = NULL;
    assert_int_equal(kvf_chat_render(conversation.messages.list, 1, "messages", &settings, &prompt,
                                     &report, &error),
                     KVF_OK);
    assert_true(report.tools_in_own_words);
    kvf_prompt_text(&prompt, "", 1);
    assert_non_null(strstr(prompt.text.data, "<" DSML "tool_calls>\n<" DSML "invoke name=\""));
    assert_non_null(strstr(prompt.text.data, "\n{\"name\": \"f\"}\n{\"a\": [1.0, 2]}\n"));
    assert_null(strstr(prompt.text.data, "_token"));
    kvf_prompt_free(&prompt);
    free_conversation(&conversation);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_examples_of_the_description),
        cmocka_unit_test(test_results_come_in_the_order_of_the_calls),
        cmocka_unit_test(test_each_round_of_calls_has_its_own_order),
        cmocka_unit_test(test_a_result_has_no_task),
        cmocka_unit_test(test_only_what_the_format_writes_is_a_marker),
        cmocka_unit_test(test_an_empty_conversation_is_its_beginning),
        cmocka_unit_test(test_turns_that_are_appended),
        cmocka_unit_test(test_how_much_stays_when_all_is_rendered_anew),
        cmocka_unit_test(test_what_is_rendered_already_does_not_fuse),
        cmocka_unit_test(test_developers_that_vanish_are_not_counted),
        cmocka_unit_test(test_messages_that_are_refused),
        cmocka_unit_test(test_prompts_that_are_refused),
        cmocka_unit_test(test_what_the_format_passes_over),
        cmocka_unit_test(test_effort_of_both_releases),
        cmocka_unit_test(test_tools_in_own_words_and_in_the_checkpoint_s),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
