/* Messages out of JSON, in the form of OpenAI's interface. */
#include "error.h"
#include "text/turns.h"

#include <stdio.h>
#include <string.h>

/* Where in the JSON something is: "messages[3].tool_calls[0].function.name". */
struct place {
    char text[160];
};

struct reader {
    const char *where;
    kvf_arena *arena;
    kvf_error *error;
};

static struct place place_of(const char *outer, const char *key)
{
    struct place place;
    snprintf(place.text, sizeof place.text, "%.110s.%.40s", outer, key);
    return place;
}

static struct place place_at(const char *outer, size_t i)
{
    struct place place;
    snprintf(place.text, sizeof place.text, "%.120s[%zu]", outer, i);
    return place;
}

static kvf_status fail_type(const struct reader *reader, const char *where, const kvf_node *node,
                            const char *expected)
{
    return kvf_fail(reader->error, KVF_INVALID_ARGUMENT, "%s is %s; %s was expected", where,
                    kvf_node_what(node), expected);
}

static kvf_status fail_memory(const struct reader *reader)
{
    return kvf_fail(reader->error, KVF_OUT_OF_MEMORY, "no memory for %s", reader->where);
}

/* The member of an object; null is none. */
static const kvf_node *member(const kvf_node *node, const char *key)
{
    const kvf_node *found = kvf_node_member(node, key);
    return found && found->type != KVF_NODE_NULL ? found : NULL;
}

/* A string that may be missing: it is an empty one then. */
static kvf_status read_string(const struct reader *reader, const kvf_node *node, const char *where,
                              const char *key, kvf_span *text)
{
    const kvf_node *found = member(node, key);
    *text = (kvf_span){0};
    if (found && found->type != KVF_NODE_STRING)
        return fail_type(reader, place_of(where, key).text, found, "a string");
    if (found)
        *text = found->text;
    return KVF_OK;
}

/* One that may not. */
static kvf_status read_needed_string(const struct reader *reader, const kvf_node *node,
                                     const char *where, const char *key, kvf_span *text)
{
    if (!member(node, key))
        return fail_type(reader, place_of(where, key).text, kvf_node_member(node, key), "a string");
    return read_string(reader, node, where, key, text);
}

/* ---- Names --------------------------------------------------------------------------- */

/* Names in the order of the enum, from 0; -1 where it is none of them. */
static int find_name(kvf_span name, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (kvf_span_is(name, names[i]))
            return (int)i;
    return -1;
}

static kvf_status fail_name(kvf_error *error, const char *where, kvf_span name, const char *names)
{
    return kvf_fail(error, KVF_INVALID_ARGUMENT, "%s is \"%s\"; one of %s was expected", where,
                    kvf_span_printable(name).text, names);
}

static kvf_status read_role(const struct reader *reader, const kvf_node *node, const char *where,
                            kvf_message *message)
{
    static const char *const names[] = {"system",    "developer", "user",
                                        "assistant", "tool",      "latest_reminder"};
    kvf_status status = read_needed_string(reader, node, where, "role", &message->role_name);
    const int found = find_name(message->role_name, names, sizeof names / sizeof *names);
    message->role = found < 0 ? KVF_ROLE_UNKNOWN : (kvf_role)found;
    return status;
}

static kvf_status read_task(const struct reader *reader, const kvf_node *node, const char *where,
                            kvf_chat_task *task)
{
    static const char *const names[] = {"action", "query", "authority",
                                        "domain", "title", "read_url"};
    kvf_span name;
    *task = KVF_CHAT_TASK_NONE;
    if (!member(node, "task"))
        return KVF_OK;
    kvf_status status = read_string(reader, node, where, "task", &name);
    if (status != KVF_OK)
        return status;
    const int found = find_name(name, names, sizeof names / sizeof *names);
    if (found < 0)
        return fail_name(reader->error, place_of(where, "task").text, name,
                         "action, query, authority, domain, title, read_url");
    *task = (kvf_chat_task)(found + 1);
    return KVF_OK;
}

/* ---- Content ------------------------------------------------------------------------- */

static kvf_status add_part(const struct reader *reader, const kvf_node *part, const char *where,
                           kvf_buffer *joined)
{
    kvf_span type;
    kvf_span text;
    if (part->type != KVF_NODE_OBJECT)
        return fail_type(reader, where, part, "an object with \"type\"");
    kvf_status status = read_needed_string(reader, part, where, "type", &type);
    if (status != KVF_OK)
        return status;
    if (!kvf_span_is(type, "text")) {
        kvf_buffer_add_string(joined, "[Unsupported ");
        kvf_buffer_add_span(joined, type);
        kvf_buffer_add_string(joined, "]");
        return KVF_OK;
    }
    status = read_string(reader, part, where, "text", &text);
    if (status == KVF_OK)
        kvf_buffer_add_span(joined, text);
    return status;
}

/* Parts with an empty line between two. */
static kvf_status read_parts(const struct reader *reader, const kvf_node *parts, const char *where,
                             kvf_span *content)
{
    kvf_buffer joined = {0};
    kvf_status status = KVF_OK;
    size_t i = 0;
    for (const kvf_node *part = parts->first; part && status == KVF_OK; part = part->next, i++) {
        if (i > 0)
            kvf_buffer_add_string(&joined, "\n\n");
        status = add_part(reader, part, place_at(where, i).text, &joined);
    }
    char *copy = status == KVF_OK ? kvf_arena_alloc(reader->arena, joined.bytes + 1) : NULL;
    if (status == KVF_OK && (joined.failed || !copy))
        status = fail_memory(reader);
    if (status == KVF_OK && joined.bytes > 0)
        memcpy(copy, joined.data, joined.bytes);
    *content = (kvf_span){copy, joined.bytes};
    kvf_buffer_free(&joined);
    return status;
}

static kvf_status read_content(const struct reader *reader, const kvf_node *node, const char *where,
                               kvf_span *content)
{
    const kvf_node *found = member(node, "content");
    const struct place at = place_of(where, "content");
    *content = (kvf_span){0};
    if (!found)
        return KVF_OK;
    if (found->type == KVF_NODE_ARRAY)
        return read_parts(reader, found, at.text, content);
    if (found->type != KVF_NODE_STRING)
        return fail_type(reader, at.text, found, "a string or an array of parts");
    *content = found->text;
    return KVF_OK;
}

/* ---- Calls and tools ----------------------------------------------------------------- */

static kvf_status read_call(const struct reader *reader, const kvf_node *node, const char *where,
                            kvf_call *call)
{
    const kvf_node *function = member(node, "function");
    const struct place at = place_of(where, "function");
    if (node->type != KVF_NODE_OBJECT)
        return fail_type(reader, where, node, "an object with \"function\"");
    if (!function || function->type != KVF_NODE_OBJECT)
        return fail_type(reader, at.text, kvf_node_member(node, "function"), "an object");
    kvf_status status = read_string(reader, node, where, "id", &call->id);
    if (status == KVF_OK && call->id.bytes == 0)
        status = read_string(reader, function, at.text, "id", &call->id);
    if (status == KVF_OK)
        status = read_needed_string(reader, function, at.text, "name", &call->name);
    if (status == KVF_OK)
        status = read_needed_string(reader, function, at.text, "arguments", &call->arguments);
    return status;
}

static kvf_status read_calls(const struct reader *reader, const kvf_node *node, const char *where,
                             kvf_message *message)
{
    const kvf_node *found = kvf_node_member(node, "tool_calls");
    const struct place at = place_of(where, "tool_calls");
    if (!kvf_node_is_true(found))
        return KVF_OK;
    if (found->type != KVF_NODE_ARRAY)
        return fail_type(reader, at.text, found, "an array");
    kvf_call *calls = kvf_arena_array(reader->arena, found->n, sizeof *calls);
    if (!calls)
        return fail_memory(reader);
    kvf_status status = KVF_OK;
    size_t i = 0;
    for (const kvf_node *call = found->first; call && status == KVF_OK; call = call->next, i++)
        status = read_call(reader, call, place_at(at.text, i).text, &calls[i]);
    message->calls = calls;
    message->n_calls = found->n;
    return status;
}

static kvf_status read_tools(const struct reader *reader, const kvf_node *node, const char *where,
                             kvf_message *message)
{
    const kvf_node *found = kvf_node_member(node, "tools");
    const struct place at = place_of(where, "tools");
    size_t i = 0;
    if (!kvf_node_is_true(found))
        return KVF_OK;
    if (found->type != KVF_NODE_ARRAY)
        return fail_type(reader, at.text, found, "an array");
    for (const kvf_node *tool = found->first; tool; tool = tool->next, i++) {
        const struct place which = place_at(at.text, i);
        const kvf_node *function = kvf_node_member(tool, "function");
        if (tool->type != KVF_NODE_OBJECT)
            return fail_type(reader, which.text, tool, "an object with \"function\"");
        if (!function || function->type != KVF_NODE_OBJECT)
            return fail_type(reader, place_of(which.text, "function").text, function, "an object");
    }
    message->tools = found;
    return KVF_OK;
}

/* ---- Messages ------------------------------------------------------------------------ */

static kvf_status read_bool(const struct reader *reader, const kvf_node *node, const char *where,
                            const char *key, bool *value)
{
    const kvf_node *found = member(node, key);
    if (found && found->type != KVF_NODE_TRUE && found->type != KVF_NODE_FALSE)
        return fail_type(reader, place_of(where, key).text, found, "true or false");
    *value = found && found->type == KVF_NODE_TRUE;
    return KVF_OK;
}

static kvf_status read_message(const struct reader *reader, const kvf_node *node, const char *where,
                               kvf_message *message)
{
    const kvf_node *format = kvf_node_member(node, "response_format");
    if (node->type != KVF_NODE_OBJECT)
        return fail_type(reader, where, node, "an object with \"role\"");
    kvf_status status = read_role(reader, node, where, message);
    if (status == KVF_OK)
        status = read_content(reader, node, where, &message->content);
    if (status == KVF_OK)
        status = read_string(reader, node, where, "reasoning_content", &message->reasoning);
    if (status == KVF_OK)
        status = read_string(reader, node, where, "tool_call_id", &message->call_id);
    if (status == KVF_OK)
        status = read_task(reader, node, where, &message->task);
    if (status == KVF_OK)
        status = read_bool(reader, node, where, "wo_eos", &message->without_eos);
    if (status == KVF_OK)
        status = read_calls(reader, node, where, message);
    if (status == KVF_OK)
        status = read_tools(reader, node, where, message);
    message->response_format = kvf_node_is_true(format) ? format : NULL;
    return status;
}

kvf_status kvf_messages_read(const kvf_node *node, const char *where, kvf_messages *messages,
                             kvf_error *error)
{
    *messages = (kvf_messages){0};
    const struct reader reader = {where, &messages->arena, error};
    if (!node || node->type != KVF_NODE_ARRAY)
        return fail_type(&reader, where, node, "an array of messages");
    messages->list = kvf_arena_array(&messages->arena, node->n, sizeof *messages->list);
    kvf_status status = messages->list ? KVF_OK : fail_memory(&reader);
    for (const kvf_node *item = node->first; item && status == KVF_OK; item = item->next) {
        const size_t i = messages->n++;
        status = read_message(&reader, item, place_at(where, i).text, &messages->list[i]);
    }
    if (status != KVF_OK) {
        kvf_messages_free(messages);
        return status;
    }
    return kvf_ok(error);
}

void kvf_messages_free(kvf_messages *messages)
{
    kvf_arena_free(&messages->arena);
    *messages = (kvf_messages){0};
}

/* ---- Of what is found later ---------------------------------------------------------- */

kvf_status kvf_message_fail_role(const kvf_message *message, size_t i, const char *where,
                                 kvf_error *error)
{
    const struct place at = place_of(place_at(where, i).text, "role");
    return fail_name(error, at.text, message->role_name,
                     "system, developer, user, assistant, tool, latest_reminder");
}

kvf_status kvf_message_fail_empty(size_t i, const char *where, kvf_error *error)
{
    return kvf_fail(error, KVF_INVALID_ARGUMENT,
                    "%s[%zu].content is empty; a developer's message needs text", where, i);
}
