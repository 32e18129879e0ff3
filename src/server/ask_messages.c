/* Anthropic's requests. */
#include "server/ask.h"

#include "engine/chat_request.h"
#include "error.h"

#include <stdio.h>
#include <string.h>

#define MAX_TOKENS (INT64_C(1) << 40)

/*
 * A block of some clients that is other with every request: nothing behind it could ever be taken
 * from a prefix.
 */
#define BILLING "x-anthropic-billing-header:"

/* Messages as they are put together. */
typedef struct conversion {
    kvf_ask *ask;
    kvf_refusal *refusal;
    kvf_message *list; /* [n] of room for all that can come */
    size_t n;
    char where[48]; /* "messages[3].content" */
} conversion;

static bool refuse(conversion *c, const char *what)
{
    return kvf_refuse(c->refusal, 400, c->where, "%s%s", c->where, what);
}

static bool fail_memory(conversion *c)
{
    return kvf_refuse(c->refusal, 503, NULL, "no memory for the request");
}

/* Texts with an empty line between them; one of no bytes is none. */
static void join(kvf_buffer *joined, kvf_span text)
{
    if (joined->bytes > 0 && text.bytes > 0)
        kvf_buffer_add_string(joined, "\n\n");
    kvf_buffer_add_span(joined, text);
}

/* Moves what was joined to where it lasts; the buffer is free then. */
static bool keep(conversion *c, kvf_buffer *joined, kvf_span *text)
{
    char *copy = joined->failed ? NULL : kvf_arena_alloc(&c->ask->arena, joined->bytes + 1);
    if (copy && joined->bytes > 0)
        memcpy(copy, joined->data, joined->bytes);
    *text = (kvf_span){copy, copy ? joined->bytes : 0};
    kvf_buffer_free(joined);
    return copy || fail_memory(c);
}

static kvf_span string_of(const kvf_node *node, const char *key)
{
    const kvf_node *value = kvf_node_member(node, key);
    return value && value->type == KVF_NODE_STRING ? value->text : (kvf_span){"", 0};
}

static bool is_type(const kvf_node *block, const char *type)
{
    return kvf_span_is(string_of(block, "type"), type);
}

/* "messages[3].content[1]" from here on. */
static void go_to(conversion *c, size_t message, size_t block)
{
    snprintf(c->where, sizeof c->where, "messages[%zu].content[%zu]", message, block);
}

static bool refuse_type(conversion *c, const kvf_node *block)
{
    const kvf_span type = string_of(block, "type");
    if (block->type != KVF_NODE_OBJECT || type.bytes == 0)
        return refuse(c, " is no block; an object with a \"type\" is needed");
    return kvf_refuse(c->refusal, 400, c->where,
                      "%s.type is \"%s\"; this model reads text, and nothing else", c->where,
                      kvf_span_printable(type).text);
}

static bool join_blocks(conversion *c, const kvf_node *content, bool is_system, kvf_buffer *joined)
{
    for (const kvf_node *block = content->first; block; block = block->next) {
        const kvf_node *inner = kvf_node_member(block, "text");
        if (!is_type(block, "text"))
            return refuse_type(c, block);
        if (!inner || inner->type != KVF_NODE_STRING)
            return refuse(c, " has a block of text without \"text\"");
        if (!is_system || !kvf_span_begins(inner->text, BILLING))
            join(joined, inner->text);
    }
    return true;
}

/* A string, or blocks of text: their texts joined. */
static bool take_texts(conversion *c, const kvf_node *content, bool is_system, kvf_span *text)
{
    kvf_buffer joined = {.data = NULL};
    if (!content || content->type == KVF_NODE_NULL)
        return true;
    if (content->type == KVF_NODE_STRING) {
        *text = content->text;
        return true;
    }
    if (content->type != KVF_NODE_ARRAY)
        return refuse(c, " is neither a string nor an array of blocks");
    if (join_blocks(c, content, is_system, &joined))
        return keep(c, &joined, text);
    kvf_buffer_free(&joined);
    return false;
}

/* ---- Blocks of messages ------------------------------------------------------------------- */

/* The format has no word for a failed call: its text begins with one. */
static bool take_result(conversion *c, const kvf_node *block)
{
    kvf_message *message = &c->list[c->n];
    const kvf_node *is_error = kvf_node_member(block, "is_error");
    kvf_span text = {"", 0};
    *message = (kvf_message){.role = KVF_ROLE_TOOL,
                             .role_name = KVF_SPAN("tool"),
                             .call_id = string_of(block, "tool_use_id")};
    if (message->call_id.bytes == 0)
        return refuse(c, ".tool_use_id is missing");
    if (!take_texts(c, kvf_node_member(block, "content"), false, &text))
        return false;
    message->content = text;
    if (is_error && is_error->type == KVF_NODE_TRUE) {
        static const char failed[] = "Error: ";
        char *said = kvf_arena_alloc(&c->ask->arena, sizeof failed + text.bytes);
        if (!said)
            return fail_memory(c);
        memcpy(said, failed, sizeof failed - 1);
        if (text.bytes > 0)
            memcpy(said + sizeof failed - 1, text.data, text.bytes);
        message->content = (kvf_span){said, sizeof failed - 1 + text.bytes};
    }
    c->n++;
    return true;
}

/* Texts of a user and results of tools, in their order: the format fuses them into one turn. */
static bool take_user(conversion *c, const kvf_node *content, size_t i)
{
    size_t j = 0;
    kvf_span text = {"", 0};
    if (!content || content->type != KVF_NODE_ARRAY) {
        if (!take_texts(c, content, false, &text))
            return false;
        c->list[c->n++] =
            (kvf_message){.role = KVF_ROLE_USER, .role_name = KVF_SPAN("user"), .content = text};
        return true;
    }
    for (const kvf_node *block = content->first; block; block = block->next, j++) {
        const kvf_node *inner = kvf_node_member(block, "text");
        go_to(c, i, j);
        if (is_type(block, "tool_result")) {
            if (!take_result(c, block))
                return false;
            continue;
        }
        if (!is_type(block, "text"))
            return refuse_type(c, block);
        if (!inner || inner->type != KVF_NODE_STRING)
            return refuse(c, ".text is missing");
        c->list[c->n++] = (kvf_message){
            .role = KVF_ROLE_USER, .role_name = KVF_SPAN("user"), .content = inner->text};
    }
    return j > 0 || refuse(c, " is empty");
}

static bool take_call(conversion *c, const kvf_node *block, kvf_call *call)
{
    const kvf_node *input = kvf_node_member(block, "input");
    kvf_buffer text = {.data = NULL};
    *call = (kvf_call){.id = string_of(block, "id"), .name = string_of(block, "name")};
    if (call->id.bytes == 0 || call->name.bytes == 0)
        return refuse(c, " has no id or no name");
    if (!input || input->type != KVF_NODE_OBJECT)
        return refuse(c, ".input is no object");
    kvf_json_write(input, &text);
    char *copy = text.failed ? NULL : kvf_arena_alloc(&c->ask->arena, text.bytes + 1);
    if (copy)
        memcpy(copy, text.data, text.bytes);
    call->arguments = (kvf_span){copy, text.bytes};
    kvf_buffer_free(&text);
    return copy || fail_memory(c);
}

/* Thinking that only its maker can read is as if it were not there. */
static bool take_blocks(conversion *c, const kvf_node *content, size_t i, kvf_call *calls,
                        kvf_buffer *reasoning, kvf_buffer *text)
{
    kvf_message *message = &c->list[c->n];
    size_t j = 0;
    for (const kvf_node *block = content->first; block; block = block->next, j++) {
        bool taken = true;
        go_to(c, i, j);
        if (is_type(block, "text"))
            join(text, string_of(block, "text"));
        else if (is_type(block, "thinking"))
            join(reasoning, string_of(block, "thinking"));
        else if (is_type(block, "tool_use"))
            taken = take_call(c, block, &calls[message->n_calls++]);
        else if (!is_type(block, "redacted_thinking"))
            taken = refuse_type(c, block);
        if (!taken)
            return false;
    }
    return true;
}

/* Reasoning, text and calls. */
static bool take_assistant(conversion *c, const kvf_node *content, size_t i)
{
    kvf_message *message = &c->list[c->n];
    kvf_buffer reasoning = {.data = NULL};
    kvf_buffer text = {.data = NULL};
    *message = (kvf_message){.role = KVF_ROLE_ASSISTANT, .role_name = KVF_SPAN("assistant")};
    message->content = message->reasoning = (kvf_span){"", 0};
    if (!content || content->type != KVF_NODE_ARRAY) {
        c->n++;
        return take_texts(c, content, false, &message->content);
    }
    kvf_call *calls = kvf_arena_array(&c->ask->arena, content->n + 1, sizeof *calls);
    if (!calls)
        return fail_memory(c);
    message->calls = calls;
    const bool taken = take_blocks(c, content, i, calls, &reasoning, &text) &&
                       keep(c, &reasoning, &message->reasoning) &&
                       keep(c, &text, &message->content);
    kvf_buffer_free(&reasoning);
    kvf_buffer_free(&text);
    c->n += taken;
    return taken;
}

/*
 * A system's text among the messages, as Claude Code has it behind its first question: a text of
 * the user's turn, where the format has room for one; what is before it stays as it was.
 */
static bool take_system(conversion *c, const kvf_node *content)
{
    kvf_message *message = &c->list[c->n];
    *message = c->n == 0 ? (kvf_message){.role = KVF_ROLE_SYSTEM, .role_name = KVF_SPAN("system")}
                         : (kvf_message){.role = KVF_ROLE_USER, .role_name = KVF_SPAN("user")};
    message->content = (kvf_span){"", 0};
    if (!take_texts(c, content, true, &message->content))
        return false;
    c->n += message->content.bytes > 0;
    return true;
}

static bool take_messages(conversion *c, const kvf_node *messages)
{
    size_t i = 0;
    for (const kvf_node *message = messages->first; message; message = message->next, i++) {
        const kvf_span role = string_of(message, "role");
        const kvf_node *content = kvf_node_member(message, "content");
        snprintf(c->where, sizeof c->where, "messages[%zu].content", i);
        if (message->type != KVF_NODE_OBJECT || !content)
            return refuse(c, " is missing");
        bool taken = false;
        if (kvf_span_is(role, "user"))
            taken = take_user(c, content, i);
        else if (kvf_span_is(role, "assistant"))
            taken = take_assistant(c, content, i);
        else if (kvf_span_is(role, "system"))
            taken = take_system(c, content);
        else
            kvf_refuse(c->refusal, 400, "messages",
                       "messages[%zu].role is \"%s\"; user, assistant or system is needed", i,
                       kvf_span_printable(role).text);
        if (!taken)
            return false;
    }
    return true;
}

/* ---- The request -------------------------------------------------------------------------- */

static bool read_conversation(const kvf_served *served, const kvf_fields *fields, kvf_ask *ask)
{
    const kvf_node *node = kvf_field(fields, "messages");
    const kvf_node *system = kvf_field(fields, "system");
    conversion c = {.ask = ask, .refusal = fields->refusal, .where = "system"};
    kvf_span text = {"", 0};
    kvf_error error;
    if (!node || node->type != KVF_NODE_ARRAY)
        return kvf_refuse(fields->refusal, 400, "messages",
                          "messages is %s; an array of messages is needed", kvf_node_what(node));
    size_t room = 2; /* the system's, and one more for each block */
    for (const kvf_node *message = node->first; message; message = message->next) {
        const kvf_node *content = kvf_node_member(message, "content");
        room += 1 + (content ? content->n : 0);
    }
    c.list = kvf_arena_array(&ask->arena, room, sizeof *c.list);
    if (!c.list)
        return fail_memory(&c);
    if (!take_texts(&c, system, true, &text))
        return false;
    if (text.bytes > 0)
        c.list[c.n++] = (kvf_message){
            .role = KVF_ROLE_SYSTEM, .role_name = KVF_SPAN("system"), .content = text};
    if (!take_messages(&c, node))
        return false;
    if (c.n > 0 && c.list[c.n - 1].role == KVF_ROLE_ASSISTANT)
        c.list[c.n - 1].without_eos = true;
    const kvf_messages messages = {.list = c.list, .n = c.n};
    if (kvf_chat_messages_check(&messages, &error) != KVF_OK)
        return kvf_refuse_error(fields->refusal, "messages", &error);
    return kvf_ask_render(served, ask, c.list, c.n, fields->refusal);
}

/* Without a word of it nothing is thought, as with Anthropic. */
static bool read_thinking(const kvf_fields *fields, kvf_ask *ask)
{
    kvf_fields thinking;
    kvf_fields output;
    kvf_span type;
    kvf_span display;
    ask->wants_thinking = false;
    if (kvf_field_object(fields, "output_config", "output_config.", &output)) {
        static const kvf_refused_field refused[] = {{"format", ""}};
        if (!kvf_ask_refuse_fields(&output, refused, 1))
            return false;
        kvf_ask_take_effort(ask, &output, "effort");
        ask->wants_thinking = false; /* the effort is of what it thinks, if it does */
    }
    if (!kvf_field_object(fields, "thinking", "thinking.", &thinking))
        return fields->refusal->status == 0;
    if (!kvf_field_string(&thinking, "type", &type))
        return kvf_refuse(fields->refusal, 400, "thinking.type", "thinking.type is missing");
    ask->wants_thinking = !kvf_span_is(type, "disabled");
    if (ask->wants_thinking && !kvf_span_is(type, "enabled") && !kvf_span_is(type, "adaptive"))
        return kvf_field_refuse(&thinking, "type", kvf_field(&thinking, "type"),
                                "enabled, adaptive or disabled");
    if (kvf_field_string(&thinking, "display", &display))
        ask->shows_thinking = !kvf_span_is(display, "omitted");
    return fields->refusal->status == 0;
}

static bool read_drawing(const kvf_fields *fields, kvf_ask *ask)
{
    int64_t number;
    kvf_field_float(fields, "temperature", 0, 1, &ask->draw.temperature);
    kvf_field_float(fields, "top_p", 0, 1, &ask->draw.top_p);
    if (kvf_field_whole(fields, "top_k", 0, INT32_MAX, &number))
        ask->draw.top_k = (uint32_t)number;
    if (kvf_field_whole(fields, "max_tokens", 1, MAX_TOKENS, &number))
        ask->max_tokens = (uint64_t)number;
    else if (ask->kind == KVF_ASK_MESSAGES)
        return kvf_refuse(fields->refusal, 400, "max_tokens",
                          "max_tokens is missing; a whole number is needed");
    return fields->refusal->status == 0;
}

static bool read_stops(const kvf_fields *fields, kvf_ask *ask)
{
    const kvf_node *stops = kvf_field(fields, "stop_sequences");
    if (!stops)
        return fields->refusal->status == 0;
    if (stops->type != KVF_NODE_ARRAY)
        return kvf_field_refuse(fields, "stop_sequences", stops, "an array of strings");
    for (const kvf_node *one = stops->first; one; one = one->next) {
        if (one->type != KVF_NODE_STRING)
            return kvf_refuse(fields->refusal, 400, "stop_sequences",
                              "stop_sequences has %s; strings are needed", kvf_node_what(one));
        if (!kvf_ask_add_stop(ask, one->text, "stop_sequences", fields->refusal))
            return false;
    }
    return true;
}

bool kvf_ask_read_messages(const kvf_served *served, const kvf_fields *fields, kvf_ask *ask)
{
    static const kvf_refused_field refused[] = {
        {"tools", ""},
        {"tool_choice", "{\"type\": \"auto\"}|{\"type\": \"none\"}"},
        {"mcp_servers", ""},
        {"container", ""},
        {"output_format", ""}};
    ask->includes_usage = true;
    return kvf_ask_refuse_fields(fields, refused, sizeof refused / sizeof *refused) &&
           read_thinking(fields, ask) && read_drawing(fields, ask) && read_stops(fields, ask) &&
           kvf_ask_settle(served, ask, fields->refusal) && read_conversation(served, fields, ask);
}
