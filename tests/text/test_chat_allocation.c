/* Every allocation of the chat format fails once: an error each time, and nothing is kept. */
#include "cache/failing_malloc.h"
#include "text/answer.h"
#include "text/chat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifdef KVF_TEST_WRAPPED_MALLOC

#define DSML KVF_CHAT_DSML

static kvf_device no_device; /* nothing is allocated on one */

/* More members than a small array has room for, and results out of their order. */
static const char conversation[] =
    "[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"x\"}],"
    "\"tools\":"
    "[{\"function\":{\"n\":0.1,\"m\":1e-7}}],\"response_format\":1.5},{\"role\":\"assistant\","
    "\"tool_calls\":["
    "{\"id\":\"1\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1,\\\"b\\\":2,\\\"c\\\":"
    "3,\\\"d\\\":4,"
    "\\\"e\\\":5,\\\"f\\\":6,\\\"g\\\":7,\\\"h\\\":8,\\\"i\\\":9,\\\"j\\\":1,\\\"k\\\":2,\\\"l\\\":"
    "3,\\\"m\\\":4,"
    "\\\"n\\\":5,\\\"o\\\":6,\\\"p\\\":7,\\\"q\\\":[8.5]}\"}},"
    "{\"id\":\"2\",\"function\":{\"name\":\"g\",\"arguments\":\"x\"}}]},"
    "{\"role\":\"tool\",\"tool_call_id\":\"2\",\"content\":\"R2\"},"
    "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"R1\"},{\"role\":\"user\",\"content\":"
    "\"q\"}]";

static const char source[] = "TOOLS_TEMPLATE = ('a{tool_schemas}' '{dsml_token}')\n"
                             "REASONING_EFFORT_PROMPTS = {'high': 'a', 'max': 'c'}\n";

static const char template[] =
    "{%- set m = '" DSML
    "' -%}{%- set tools_header = '<' + m + 'tool_calls></' + m + 'tool_calls><' + m "
    "+ 'invoke name=\"<' + m + 'parameter name=\"' -%}{%- set tools_footer = 'f' -%}"
    "{%- if x == 'max' -%}Reasoning Effort: a{%- endif -%}{{ m }}b{{ m }}";

static const char answer_text[] =
    "a</think>b\n\n<" DSML "tool_calls>\n<" DSML "invoke name=\"f\">\n<" DSML
    "parameter name=\"k\" string=\"false\">[1]</" DSML "parameter>\n<" DSML
    "parameter name=\"l\" string=\"true\">s</" DSML "parameter>\n</" DSML "invoke>\n</" DSML
    "tool_calls>";

static kvf_status render(const kvf_messages *messages, const kvf_chat_texts *texts,
                         kvf_error *error)
{
    const kvf_chat_settings settings = {
        .thinking = true, .effort = KVF_EFFORT_MAX, .release = KVF_RELEASE_PREVIEW, .texts = texts};
    kvf_prompt prompt = {0};
    kvf_status status = kvf_messages_check(messages->list, messages->n, "messages", error);
    if (status == KVF_OK)
        status = kvf_chat_render(messages->list, messages->n, "messages", &settings, &prompt, NULL,
                                 error);
    kvf_prompt_free(&prompt);
    return status;
}

static kvf_status read_and_render(const kvf_chat_texts *texts, kvf_error *error)
{
    kvf_tree tree;
    kvf_messages messages;
    kvf_status status =
        kvf_tree_read(conversation, strlen(conversation), KVF_JSON_STRICT, "test", &tree, error);
    if (status != KVF_OK)
        return status;
    status = kvf_messages_read(tree.root, "messages", &messages, error);
    if (status == KVF_OK) {
        status = render(&messages, texts, error);
        kvf_messages_free(&messages);
    }
    kvf_tree_free(&tree);
    return status;
}

static kvf_status render_with_file(kvf_error *error)
{
    kvf_chat_texts texts;
    kvf_status status = kvf_chat_texts_of_python(source, strlen(source), &texts, error);
    if (status != KVF_OK)
        return status;
    assert_non_null(texts.tools.data);
    assert_non_null(texts.efforts[1].data);
    status = read_and_render(&texts, error);
    kvf_chat_texts_free(&texts);
    return status;
}

static kvf_status render_with_template(kvf_error *error)
{
    kvf_chat_texts texts;
    kvf_status status = kvf_chat_texts_of_template(template, strlen(template), &texts, error);
    if (status != KVF_OK)
        return status;
    assert_non_null(texts.tools.data);
    assert_non_null(texts.efforts[0].data);
    status = read_and_render(&texts, error);
    kvf_chat_texts_free(&texts);
    return status;
}

static void count_event(void *user, const kvf_answer_event *event)
{
    (void)event;
    ++*(int *)user;
}

static kvf_status take_answer(kvf_error *error)
{
    int n_events = 0;
    kvf_answer *answer = kvf_answer_open(true, true, count_event, &n_events);
    if (!answer) {
        snprintf(error->message, sizeof error->message, "no memory");
        return KVF_OUT_OF_MEMORY;
    }
    kvf_answer_text(answer, answer_text, strlen(answer_text));
    kvf_status status = kvf_answer_finish(answer, error);
    kvf_answer_close(answer);
    if (status == KVF_OK)
        assert_int_equal(n_events, 5); /* a, </think>, b, the call, its frame */
    return status;
}

static void fail_each(kvf_status (*work)(kvf_error *error), uint64_t at_least)
{
    const malloc_counts before = failing_malloc_count(&no_device);
    kvf_error error;
    kvf_status status;
    uint64_t n = 0;
    for (;; n++) {
        failing_malloc_begin(n);
        status = work(&error);
        const bool reached = failing_malloc_end();
        failing_malloc_expect(&no_device, &before);
        if (!reached)
            break;
        assert_int_equal(status, KVF_OUT_OF_MEMORY);
        assert_true(strlen(error.message) > 0);
    }
    if (status != KVF_OK)
        fail_msg("%s", error.message);
    assert_true(n >= at_least);
}

static void prompts_fail_at_every_allocation(void **state)
{
    (void)state;
    fail_each(render_with_file, 30);
    fail_each(render_with_template, 30);
}

static void answers_fail_at_every_allocation(void **state)
{
    (void)state;
    fail_each(take_answer, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(prompts_fail_at_every_allocation),
                                       cmocka_unit_test(answers_fail_at_every_allocation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    return 0; /* Apple's linker has no --wrap */
}

#endif
