#include "engine/chat_request.h"

#include "error.h"

#include <stdlib.h>
#include <string.h>

/* ---- What a model cannot answer -------------------------------------------------------- */

static int compare_spans(const void *a, const void *b)
{
    const kvf_span *left = a;
    const kvf_span *right = b;
    const size_t n = left->bytes < right->bytes ? left->bytes : right->bytes;
    const int order = n > 0 ? memcmp(left->data, right->data, n) : 0;
    return order ? order : (left->bytes > right->bytes) - (left->bytes < right->bytes);
}

/* Each call of messages[caller] has its result among those up to the next assistant's. */
static kvf_status check_results(const kvf_messages *messages, size_t caller, kvf_arena *arena,
                                kvf_error *error)
{
    const kvf_message *message = &messages->list[caller];
    size_t end = caller + 1;
    size_t n = 0;
    while (end < messages->n && messages->list[end].role != KVF_ROLE_ASSISTANT)
        end++;
    kvf_span *ids = kvf_arena_array(arena, end - caller, sizeof *ids);
    if (!ids)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the calls of messages");
    for (size_t i = caller + 1; i < end; i++)
        if (messages->list[i].role == KVF_ROLE_TOOL)
            ids[n++] = messages->list[i].call_id;
    qsort(ids, n, sizeof *ids, compare_spans);
    for (size_t i = 0; i < message->n_calls; i++)
        if (!bsearch(&message->calls[i].id, ids, n, sizeof *ids, compare_spans))
            return kvf_fail(error, KVF_INVALID_ARGUMENT,
                            "messages[%zu].tool_calls[%zu], of the tool %s, has no result; a "
                            "tool's message with its id has to follow",
                            caller, i, kvf_span_printable(message->calls[i].name).text);
    return KVF_OK;
}

/* Whether a model answers behind the last message. */
static kvf_status check_last(const kvf_messages *messages, kvf_error *error)
{
    if (messages->n == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "messages is empty; there is nothing to answer");
    const kvf_message *last = &messages->list[messages->n - 1];
    const bool goes_on = last->role == KVF_ROLE_ASSISTANT && last->without_eos;
    if (last->task != KVF_CHAT_TASK_NONE || goes_on)
        return KVF_OK;
    if (last->role == KVF_ROLE_ASSISTANT || last->role == KVF_ROLE_SYSTEM)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "messages[%zu], the last, is of the role %s; nothing is left to answer "
                        "behind it",
                        messages->n - 1, last->role == KVF_ROLE_SYSTEM ? "system" : "assistant");
    return KVF_OK;
}

kvf_status kvf_chat_messages_check(const kvf_messages *messages, kvf_error *error)
{
    kvf_arena arena = {0};
    kvf_status status = kvf_messages_check(messages->list, messages->n, "messages", error);
    for (size_t i = 0; i < messages->n && status == KVF_OK; i++)
        if (messages->list[i].role == KVF_ROLE_ASSISTANT && messages->list[i].n_calls > 0)
            status = check_results(messages, i, &arena, error);
    kvf_arena_free(&arena);
    return status == KVF_OK ? check_last(messages, error) : status;
}

/* ---- The object ------------------------------------------------------------------------ */

static void note_other_keys(const kvf_node *object, kvf_chat_request *request)
{
    size_t used = 0;
    for (const kvf_node *node = object->first; node; node = node->next) {
        if (kvf_span_is(node->key, "messages") || kvf_span_is(node->key, "tools"))
            continue;
        const kvf_printed key = kvf_span_printable(node->key);
        const size_t bytes = strlen(key.text) + (used > 0 ? 2 : 0);
        if (used + bytes >= sizeof request->passed_over)
            return;
        strcat(request->passed_over, used > 0 ? ", " : "");
        strcat(request->passed_over, key.text);
        used += bytes;
    }
}

/*
 * Another message before all: what is said of one that cannot be rendered has to be said while
 * they still have the numbers of the text.
 */
static kvf_status put_before_all(kvf_messages *messages, const kvf_message *first, kvf_error *error)
{
    kvf_prompt prompt = {.failed = false};
    kvf_status status =
        kvf_chat_render(messages->list, messages->n, "messages",
                        &(kvf_chat_settings){.thinking = false}, &prompt, NULL, error);
    kvf_prompt_free(&prompt);
    if (status != KVF_OK)
        return status;
    kvf_message *list = kvf_arena_array(&messages->arena, messages->n + 1, sizeof *list);
    if (!list)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for messages");
    list[0] = *first;
    memcpy(list + 1, messages->list, messages->n * sizeof *list);
    messages->list = list;
    messages->n++;
    return KVF_OK;
}

static kvf_status take_tools(const kvf_node *tools, kvf_messages *messages, kvf_error *error)
{
    const kvf_message tools_alone = {
        .role = KVF_ROLE_SYSTEM, .role_name = KVF_SPAN("system"), .tools = tools};
    kvf_status status = kvf_tools_check(tools, "tools", error);
    if (status != KVF_OK || !kvf_node_is_true(tools))
        return status;
    for (size_t i = 0; i < messages->n; i++)
        if (messages->list[i].tools)
            return kvf_fail(error, KVF_INVALID_ARGUMENT,
                            "tools are given twice, beside messages and in messages[%zu]", i);
    if (messages->list[0].role != KVF_ROLE_SYSTEM)
        return put_before_all(messages, &tools_alone, error);
    messages->list[0].tools = tools;
    return KVF_OK;
}

static kvf_status take(const kvf_node *root, kvf_chat_request *request, kvf_error *error)
{
    const bool is_object = root->type == KVF_NODE_OBJECT;
    if (!is_object && root->type != KVF_NODE_ARRAY)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "it has %s; an array of messages or an object with \"messages\" was "
                        "expected",
                        kvf_node_what(root));
    kvf_status status = kvf_messages_read(is_object ? kvf_node_member(root, "messages") : root,
                                          "messages", &request->messages, error);
    if (status != KVF_OK)
        return status;
    status = kvf_chat_messages_check(&request->messages, error);
    if (status == KVF_OK && is_object) {
        note_other_keys(root, request);
        status = take_tools(kvf_node_member(root, "tools"), &request->messages, error);
    }
    if (status != KVF_OK)
        kvf_messages_free(&request->messages);
    return status;
}

kvf_status kvf_chat_request_read(const char *text, size_t bytes, const char *where,
                                 kvf_chat_request *request, kvf_error *error)
{
    kvf_error inner = {.status = KVF_OK};
    *request = (kvf_chat_request){.passed_over = ""};
    kvf_status status = kvf_tree_read(text, bytes, KVF_JSON_STRICT, where, &request->tree, error);
    if (status != KVF_OK)
        return status;
    status = take(request->tree.root, request, &inner);
    if (status == KVF_OK)
        return kvf_ok(error);
    kvf_tree_free(&request->tree);
    return kvf_fail(error, status, "%s: %s", kvf_printable(where).text, inner.message);
}

void kvf_chat_request_free(kvf_chat_request *request)
{
    kvf_messages_free(&request->messages);
    kvf_tree_free(&request->tree);
}
