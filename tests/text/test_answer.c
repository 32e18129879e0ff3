/* Answers taken apart: the form, what deviates, markers that are tokens, cuts anywhere. */
#include "text/answer.h"
#include "text/chat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define EOS KVF_CHAT_EOS
#define DSML KVF_CHAT_DSML
#define OPEN(name) "<" DSML name
#define SHUT(name) "</" DSML name ">"
#define HEAD "\n\n" OPEN("tool_calls") ">\n"
#define TAIL SHUT("tool_calls")
#define PARAMETER(key, is_string, value)                                                           \
    OPEN("parameter") " name=\"" key "\" string=\"" is_string "\">" value SHUT("parameter") "\n"
#define INVOKE(name, parameters)                                                                   \
    OPEN("invoke") " name=\"" name "\">\n" parameters SHUT("invoke") "\n"

/* What came, a line an event: neighbours of a kind that is text are one. */
struct seen {
    kvf_buffer events;
    kvf_buffer raw;
    int last;
};

static void see(void *user, const kvf_answer_event *event)
{
    static const char *const names[] = {"R:", "C:", "CALL:", "F:", "BAD:"};
    struct seen *seen = user;
    const bool is_text = event->kind <= KVF_ANSWER_CONTENT;
    kvf_buffer_add_span(&seen->raw, event->raw);
    assert_true(event->raw.bytes > 0);
    if (!is_text || seen->last != (int)event->kind) {
        kvf_buffer_add_string(&seen->events, seen->events.bytes > 0 ? "|" : "");
        kvf_buffer_add_string(&seen->events, names[event->kind]);
    }
    seen->last = (int)event->kind;
    if (event->kind == KVF_ANSWER_CALL) {
        kvf_buffer_add_span(&seen->events, event->name);
        kvf_buffer_add_string(&seen->events, event->arguments_are_json ? "=" : "?");
        kvf_buffer_add_span(&seen->events, event->arguments);
    } else {
        kvf_buffer_add_span(&seen->events, event->raw);
    }
}

static void finish(kvf_answer *answer, struct seen *seen, const char *fed, const char *want)
{
    kvf_error error;
    assert_int_equal(kvf_answer_finish(answer, &error), KVF_OK);
    kvf_answer_close(answer);
    kvf_buffer_add(&seen->events, "", 1);
    kvf_buffer_add(&seen->raw, "", 1);
    assert_string_equal(seen->raw.data, fed); /* nothing is lost */
    assert_string_equal(seen->events.data, want);
    kvf_buffer_free(&seen->events);
    kvf_buffer_free(&seen->raw);
}

static kvf_answer *open_answer(bool thinking, bool markers_in_text, struct seen *seen)
{
    *seen = (struct seen){.last = -1};
    kvf_answer *answer = kvf_answer_open(thinking, markers_in_text, see, seen);
    assert_non_null(answer);
    return answer;
}

/* Whole, cut at every byte, cut at any two, and a byte at a time. */
static void check(bool thinking, const char *text, const char *want)
{
    const size_t bytes = strlen(text);
    for (size_t first = 0; first <= bytes; first++) {
        struct seen seen;
        const size_t second = first + (bytes - first) / 3;
        kvf_answer *answer = open_answer(thinking, true, &seen);
        kvf_answer_text(answer, text, first);
        kvf_answer_text(answer, text + first, second - first);
        kvf_answer_text(answer, text + second, bytes - second);
        finish(answer, &seen, text, want);
    }
    struct seen seen;
    kvf_answer *answer = open_answer(thinking, true, &seen);
    for (size_t i = 0; i < bytes; i++)
        kvf_answer_text(answer, text + i, 1);
    finish(answer, &seen, text, want);
}

static void test_reasoning_and_content(void **state)
{
    (void)state;
    check(false, "", "");
    check(false, "Hi.", "C:Hi.");
    check(false, "Hi." EOS, "C:Hi.|F:" EOS);
    check(true, "Well.</think>Hi." EOS, "R:Well.|F:</think>|C:Hi.|F:" EOS);
    check(true, "</think>", "F:</think>");
    check(true, "Well" EOS, "R:Well|F:" EOS);
    check(false, "a</think>b", "C:a</think>b");
    check(true, "a</think>b</think>", "R:a|F:</think>|C:b</think>");
    check(true, "a</thin k><think>\n\n<</think>\n\n<",
          "R:a</thin k><think>\n\n<|F:</think>|C:\n\n<");
    check(false,
          "\xef\xbd\x9c\xef\xbd\x9c"
          "DSM\xef\xbd",
          "C:\xef\xbd\x9c\xef\xbd\x9c"
          "DSM\xef\xbd");
    check(false, "a" EOS "b" EOS EOS, "C:a" EOS "b" EOS "|F:" EOS);
    check(true, EOS "</think>" EOS "\n\n", "R:" EOS "|F:</think>|C:" EOS "\n\n");
}

static void test_calls(void **state)
{
    (void)state;
    check(false, HEAD INVOKE("f", PARAMETER("a", "true", "s") PARAMETER("n", "false", "3")) TAIL,
          "CALL:f={\"a\": \"s\", \"n\": 3}|F:" TAIL);
    check(true,
          "T</think>C" HEAD INVOKE("f", "\n") INVOKE("g h", PARAMETER("", "true", "")) TAIL EOS,
          "R:T|F:</think>|C:C|CALL:f={}|CALL:g h={\"\": \"\"}|F:" TAIL "|F:" EOS);
    check(false, "\n\n\n" HEAD INVOKE("f", "") TAIL, "C:\n\n\n|CALL:f={}|F:" TAIL);
    check(false, HEAD TAIL EOS, "F:" HEAD TAIL "|F:" EOS);
    check(false,
          HEAD INVOKE("f", PARAMETER("\"k\"", "true", "a\"\n\\\x01<think></" DSML "invoke>")) TAIL,
          "CALL:f={\"\\\"k\\\"\": \"a\\\"\\n\\\\\\u0001<think></" DSML "invoke>\"}|F:" TAIL);
    check(false, HEAD INVOKE("f", PARAMETER("a", "false", "{1,}")) TAIL,
          "CALL:f?{\"a\": {1,}}|F:" TAIL);
}

static void test_what_deviates_comes_as_it_is(void **state)
{
    (void)state;
    static const char *const blocks[] = {
        HEAD,
        "\n\n" OPEN("tool_calls"),
        "\n\n" OPEN("tool_calls2>\n") TAIL,
        HEAD INVOKE("f", "") TAIL "x",
        HEAD INVOKE("f", "") TAIL "\n",
        HEAD INVOKE("f", ""),
        HEAD INVOKE("f", "") "\n" TAIL,
        HEAD INVOKE("f", "\n\n") TAIL,
        HEAD INVOKE("f", "x") TAIL,
        HEAD INVOKE("f", PARAMETER("a", "True", "s")) TAIL,
        HEAD INVOKE("f", PARAMETER("a", "true", "s") PARAMETER("a", "true", "t")) TAIL,
        HEAD INVOKE("f", OPEN("parameter") " name=\"a\">s" SHUT("parameter") "\n") TAIL,
        HEAD INVOKE("f", PARAMETER("a", "true", "s") "\n") TAIL,
        HEAD OPEN("invoke") " name=f>\n" SHUT("invoke") "\n" TAIL,
        HEAD INVOKE("f", "") EOS TAIL,
        HEAD INVOKE("f", PARAMETER("a" DSML "b", "true", "s")) TAIL,
        HEAD INVOKE("f" DSML, "") TAIL,
        HEAD "</think>" TAIL,
        HEAD INVOKE("f", "") INVOKE("g", "x") TAIL};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        char text[1024];
        char want[1024];
        snprintf(text, sizeof text, "T</think>C%s" EOS, blocks[i]);
        snprintf(want, sizeof want, "R:T|F:</think>|C:C|BAD:%s|F:" EOS, blocks[i]);
        check(true, text, want);
    }
    check(true, "T" HEAD INVOKE("f", "") TAIL EOS, "R:T|BAD:" HEAD INVOKE("f", "") TAIL "|F:" EOS);
}

/* ---- Markers that are tokens --------------------------------------------------------- */

/* Parts between '#': a marker where it begins with '!'. Text is fed in pieces of `step`. */
static void check_tokens(bool thinking, const char *parts, const char *want)
{
    for (size_t step = 1; step < 40; step += step < 4 ? 1 : 35) {
        struct seen seen;
        kvf_buffer fed = {0};
        kvf_answer *answer = open_answer(thinking, false, &seen);
        for (const char *part = parts; *part;) {
            const size_t bytes = strcspn(part, "#");
            const bool is_marker = *part == '!';
            kvf_buffer_add(&fed, part + is_marker, bytes - is_marker);
            if (is_marker)
                kvf_answer_marker(answer, part + 1, bytes - 1);
            for (size_t at = 0; !is_marker && at < bytes; at += step)
                kvf_answer_text(answer, part + at, bytes - at < step ? bytes - at : step);
            part += bytes + (part[bytes] == '#');
        }
        kvf_buffer_add(&fed, "", 1);
        finish(answer, &seen, fed.data, want);
        kvf_buffer_free(&fed);
    }
}

static void test_what_is_spelled_is_no_token(void **state)
{
    (void)state;
    check_tokens(true, "a</think>" EOS "b#!</think>#c</think>#!" EOS,
                 "R:a</think>" EOS "b|F:</think>|C:c</think>|F:" EOS);
    check_tokens(false, HEAD INVOKE("f", "") TAIL, "C:" HEAD INVOKE("f", "") TAIL);
    check_tokens(false, "\n\n<#!" DSML "#tool_calls>\n" INVOKE("f", "") TAIL,
                 "BAD:" HEAD INVOKE("f", "") TAIL);
    check_tokens(false,
                 "C\n\n<#!" DSML "#tool_calls>\n<#!" DSML "#invoke name=\"f\">\n<#!" DSML
                 "#parameter name=\"a\" string=\"true\">" SHUT("parameter") "\n</#!" DSML
                                                                            "#parameter>\n</#!" DSML
                                                                            "#invoke>\n</#!" DSML
                                                                            "#tool_calls>#!" EOS,
                 "C:C|CALL:f={\"a\": \"" SHUT("parameter") "\\n\"}|F:" TAIL "|F:" EOS);
}

static void test_any_marker_may_come_anywhere(void **state)
{
    (void)state;
    check_tokens(true, "!<think>#a#!<image>#b\n#!" DSML "#\n\n#!</think>#!" DSML,
                 "R:<think>a<image>b\n" DSML "\n\n|F:</think>|C:" DSML);
    check_tokens(false, "\n\n<#!<image>#!" EOS, "C:\n\n<<image>|F:" EOS);
    check_tokens(false, "\n\n<#!" DSML "#tool#!" EOS, "C:\n\n" OPEN("tool") "|F:" EOS);
    check_tokens(false, "a#!" EOS "#!" EOS "#b#!" EOS "#!<x>", "C:a" EOS EOS "b" EOS "<x>");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reasoning_and_content),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_what_deviates_comes_as_it_is),
        cmocka_unit_test(test_what_is_spelled_is_no_token),
        cmocka_unit_test(test_any_marker_may_come_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
