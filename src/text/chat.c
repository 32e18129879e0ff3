#include "text/chat.h"

#include "error.h"
#include "text/turns.h"

#include <string.h>

#define MARK(name) "<" KVF_CHAT_BAR name KVF_CHAT_BAR ">"

static const char user_mark[] = MARK("User");
static const char assistant_mark[] = MARK("Assistant");
static const char reminder_mark[] = MARK("latest_reminder");
static const char response_heading[] =
    "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

/* Of a checkpoint that brings no text for tools: the same grammar, in kvfold's words. */
static const char own_tools[] =
    "## Tools\n"
    "\n"
    "Tools can be called in this conversation. A call ends the reply and is written so:\n"
    "\n"
    "<{dsml_token}tool_calls>\n"
    "<{dsml_token}invoke name=\"NAME_OF_TOOL\">\n"
    "<{dsml_token}parameter name=\"NAME\" string=\"true|false\">VALUE</{dsml_token}parameter>\n"
    "</{dsml_token}invoke>\n"
    "</{dsml_token}tool_calls>\n"
    "\n"
    "There is one invoke for each call and one parameter for each argument. A value that is a "
    "string is written as it is, with string=\"true\"; any other value is written as JSON, with "
    "string=\"false\". A reply that begins with {thinking_start_token} reasons first, up to "
    "{thinking_end_token}, and calls tools after that.\n"
    "\n"
    "These are the tools, a JSON schema a line:\n"
    "\n"
    "{tool_schemas}\n"
    "\n"
    "Only these can be called, with arguments as their schemas have them.\n";

struct writer {
    const kvf_turns *turns;
    const char *where;
    bool thinking;
    bool dropping; /* reasoning before the last question */
    kvf_span effort;
    kvf_span tools;
    kvf_prompt *prompt;
    kvf_error *error;
};

static void write_string(struct writer *writer, const char *string)
{
    kvf_prompt_text(writer->prompt, string, strlen(string));
}

static void write_span(struct writer *writer, kvf_span span)
{
    kvf_prompt_text(writer->prompt, span.data, span.bytes);
}

static void write_mark(struct writer *writer, const char *marker)
{
    kvf_prompt_marker(writer->prompt, marker);
}

static void write_json(struct writer *writer, const kvf_node *node)
{
    kvf_json_write(node, &writer->prompt->text);
}

/* ---- Tools and calls ----------------------------------------------------------------- */

static void write_schemas(struct writer *writer, const kvf_node *tools)
{
    for (const kvf_node *tool = tools->first; tool; tool = tool->next) {
        if (tool != tools->first)
            write_string(writer, "\n");
        write_json(writer, kvf_node_member(tool, "function"));
    }
}

static void write_tools(struct writer *writer, const kvf_node *tools)
{
    kvf_span rest = writer->tools;
    kvf_span part;
    while (rest.bytes > 0) {
        switch (kvf_slot_next(&rest, &part)) {
        case KVF_SLOT_SCHEMAS: write_schemas(writer, tools); break;
        case KVF_SLOT_DSML: write_mark(writer, KVF_CHAT_DSML); break;
        case KVF_SLOT_THINK: write_mark(writer, KVF_CHAT_THINK); break;
        case KVF_SLOT_END_THINK: write_mark(writer, KVF_CHAT_END_THINK); break;
        case KVF_SLOT_TEXT:
        case KVF_SLOT_BAD: write_span(writer, part); break;
        }
    }
}

/* What a system's or a developer's message says behind its content. */
static void write_appendices(struct writer *writer, const kvf_message *message)
{
    if (message->tools) {
        write_string(writer, "\n\n");
        write_tools(writer, message->tools);
    }
    if (message->response_format) {
        write_string(writer, response_heading);
        write_json(writer, message->response_format);
    }
}

/* <MARK NAME or </MARK NAME. */
static void write_tag(struct writer *writer, const char *before, const char *name)
{
    write_string(writer, before);
    write_mark(writer, KVF_CHAT_DSML);
    write_string(writer, name);
}

/* `value` is written as it is, `json` as JSON: one of both. */
static void write_parameter(struct writer *writer, kvf_span key, kvf_span value,
                            const kvf_node *json)
{
    write_tag(writer, "<", "parameter name=\"");
    write_span(writer, key);
    write_string(writer, json ? "\" string=\"false\">" : "\" string=\"true\">");
    if (json)
        write_json(writer, json);
    else
        write_span(writer, value);
    write_tag(writer, "</", "parameter>");
}

static void write_members(struct writer *writer, const kvf_node *arguments)
{
    for (const kvf_node *node = arguments->first; node; node = node->next) {
        if (node != arguments->first)
            write_string(writer, "\n");
        write_parameter(writer, node->key, node->text, node->type == KVF_NODE_STRING ? NULL : node);
    }
}

static kvf_status write_call(struct writer *writer, const kvf_turn *turn, size_t i)
{
    const kvf_call *call = &turn->message->calls[i];
    kvf_tree tree;
    kvf_status status = kvf_tree_read(call->arguments.data, call->arguments.bytes, KVF_JSON_PYTHON,
                                      "the arguments", &tree, writer->error);
    if (status == KVF_OUT_OF_MEMORY)
        return status;
    const bool is_json = status == KVF_OK;
    if (is_json && tree.root->type != KVF_NODE_OBJECT) {
        status = kvf_fail(writer->error, KVF_INVALID_ARGUMENT,
                          "%s[%zu].tool_calls[%zu].function.arguments has %s; the JSON of an "
                          "object was expected",
                          writer->where, turn->message_index, i, kvf_node_what(tree.root));
        kvf_tree_free(&tree);
        return status;
    }
    write_tag(writer, "<", "invoke name=\"");
    write_span(writer, call->name);
    write_string(writer, "\">\n");
    if (is_json) {
        write_members(writer, tree.root);
        kvf_tree_free(&tree);
    } else {
        write_parameter(writer, KVF_SPAN("arguments"), call->arguments, NULL);
    }
    write_string(writer, "\n");
    write_tag(writer, "</", "invoke>");
    return KVF_OK;
}

static kvf_status write_calls(struct writer *writer, const kvf_turn *turn)
{
    kvf_status status = KVF_OK;
    if (turn->message->n_calls == 0)
        return KVF_OK;
    write_string(writer, "\n\n");
    write_tag(writer, "<", "tool_calls>\n");
    for (size_t i = 0; i < turn->message->n_calls && status == KVF_OK; i++) {
        if (i > 0)
            write_string(writer, "\n");
        status = write_call(writer, turn, i);
    }
    write_string(writer, "\n");
    write_tag(writer, "</", "tool_calls>");
    return status;
}

/* ---- Turns --------------------------------------------------------------------------- */

static void write_user(struct writer *writer, const kvf_turn *turn)
{
    write_mark(writer, user_mark);
    for (size_t i = 0; i < turn->n_blocks; i++) {
        const kvf_block *block = &turn->blocks[i];
        if (i > 0)
            write_string(writer, "\n\n");
        if (block->is_result)
            write_string(writer, "<tool_result>");
        write_span(writer, block->text);
        if (block->is_result)
            write_string(writer, "</tool_result>");
    }
}

static kvf_status write_assistant(struct writer *writer, size_t i)
{
    const kvf_turn *turn = &writer->turns->list[i];
    const bool after_task = i > 0 && writer->turns->list[i - 1].task != KVF_CHAT_TASK_NONE;
    const bool is_new = (ptrdiff_t)i > writer->turns->last_question;
    if (writer->thinking && !after_task && (!writer->dropping || is_new)) {
        write_span(writer, turn->message->reasoning);
        write_mark(writer, KVF_CHAT_END_THINK);
    }
    write_span(writer, turn->message->content);
    kvf_status status = write_calls(writer, turn);
    if (!turn->message->without_eos)
        write_mark(writer, KVF_CHAT_EOS);
    return status;
}

/* What makes the model answer. */
static void write_transition(struct writer *writer, size_t i)
{
    static const char *const task_marks[] = {
        NULL,           MARK("action"), MARK("query"),   MARK("authority"),
        MARK("domain"), MARK("title"),  MARK("read_url")};
    const kvf_turns *turns = writer->turns;
    const kvf_turn *turn = &turns->list[i];
    const bool is_question = turn->role == KVF_ROLE_USER || turn->role == KVF_ROLE_DEVELOPER;
    const bool is_action = turn->task == KVF_CHAT_TASK_ACTION;
    const bool thinks = writer->thinking &&
                        (is_action || !writer->dropping || (ptrdiff_t)i >= turns->last_question);
    if (i + 1 < turns->n && turns->list[i + 1].role != KVF_ROLE_ASSISTANT &&
        turns->list[i + 1].role != KVF_ROLE_LATEST_REMINDER)
        return;
    if (is_action || (turn->task == KVF_CHAT_TASK_NONE && is_question)) {
        write_mark(writer, assistant_mark);
        write_mark(writer, thinks ? KVF_CHAT_THINK : KVF_CHAT_END_THINK);
    }
    if (turn->task != KVF_CHAT_TASK_NONE)
        write_mark(writer, task_marks[turn->task]);
}

static kvf_status write_turn(struct writer *writer, size_t i)
{
    const kvf_turn *turn = &writer->turns->list[i];
    const kvf_message *message = turn->message;
    kvf_status status = KVF_OK;
    if (i == 0)
        write_span(writer, writer->effort);
    if (turn->role == KVF_ROLE_DEVELOPER && message->content.bytes == 0)
        return kvf_message_fail_empty(turn->message_index, writer->where, writer->error);
    switch (turn->role) {
    case KVF_ROLE_UNKNOWN:
        return kvf_message_fail_role(message, turn->message_index, writer->where, writer->error);
    case KVF_ROLE_DEVELOPER: write_mark(writer, user_mark); /* fallthrough */
    case KVF_ROLE_SYSTEM:
        write_span(writer, message->content);
        write_appendices(writer, message);
        break;
    case KVF_ROLE_USER:
    case KVF_ROLE_TOOL: write_user(writer, turn); break;
    case KVF_ROLE_LATEST_REMINDER:
        write_mark(writer, reminder_mark);
        write_span(writer, message->content);
        break;
    case KVF_ROLE_ASSISTANT: status = write_assistant(writer, i); break;
    }
    write_transition(writer, i);
    return status;
}

/* ---- What is asked for --------------------------------------------------------------- */

static kvf_status choose_effort(const kvf_chat_settings *settings, kvf_release release,
                                kvf_span *text, kvf_error *error)
{
    static const char *const names[] = {"none", "low", "high", "max"};
    const bool is_preview = release == KVF_RELEASE_PREVIEW;
    const char *name = names[settings->effort];
    int which = -1; /* of the two texts */
    *text = (kvf_span){0};
    if (is_preview && settings->effort == KVF_EFFORT_LOW)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "the preview of V4 has no effort 'low'; it has none, high and max");
    if (settings->effort == KVF_EFFORT_MAX)
        which = is_preview ? 0 : 1;
    else if (settings->effort == KVF_EFFORT_HIGH && !is_preview)
        which = 0;
    if (which < 0 || !settings->thinking)
        return KVF_OK;
    if (settings->texts)
        *text = settings->texts->efforts[which];
    if (!text->data)
        return kvf_fail(error, KVF_FILE_NOT_FOUND,
                        "effort '%s' of %s needs a text that comes with the checkpoint, in its "
                        "%s, and that is not there",
                        name, is_preview ? "the preview of V4" : "release 0731", KVF_ENCODING_FILE);
    return KVF_OK;
}

static void decide(const kvf_chat_settings *settings, const kvf_turns *turns,
                   kvf_chat_report *report)
{
    const bool has_texts = settings->texts && settings->texts->efforts[0].data;
    report->release = settings->release;
    report->release_by = KVF_DECIDED_BY_CALLER;
    if (settings->release == KVF_RELEASE_BY_TEXTS) {
        report->release = kvf_chat_texts_release(settings->texts);
        report->release_by = has_texts ? KVF_DECIDED_BY_TEXTS : KVF_DECIDED_BY_DEFAULT;
    }
    report->thinking_kept = settings->thinking && (settings->keep_thinking || turns->has_tools);
    report->tools_in_own_words =
        turns->has_tools && (!settings->texts || !settings->texts->tools.data);
}

kvf_status kvf_chat_render(const kvf_message *messages, size_t n, const char *where,
                           const kvf_chat_settings *settings, kvf_prompt *prompt,
                           kvf_chat_report *report, kvf_error *error)
{
    kvf_turns turns;
    kvf_chat_report decided;
    kvf_status status = kvf_turns_make(messages, n, settings->n_context, &turns, error);
    if (status != KVF_OK)
        return status;
    decide(settings, &turns, &decided);
    struct writer writer = {.turns = &turns,
                            .where = where,
                            .thinking = settings->thinking,
                            .dropping = !decided.thinking_kept,
                            .prompt = prompt,
                            .error = error};
    writer.tools = decided.tools_in_own_words || !settings->texts || !settings->texts->tools.data
                       ? KVF_SPAN(own_tools)
                       : settings->texts->tools;
    status = choose_effort(settings, decided.release, &writer.effort, error);
    if (settings->thinking && writer.dropping)
        kvf_turns_drop_old(&turns);
    if (settings->n_context == 0)
        write_mark(&writer, KVF_CHAT_BOS);
    for (size_t i = turns.n_context; i < turns.n && status == KVF_OK; i++)
        status = write_turn(&writer, i);
    kvf_turns_free(&turns);
    if (status == KVF_OK && (prompt->failed || prompt->text.failed))
        status = kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the prompt of %zu messages", n);
    if (status != KVF_OK)
        return status;
    if (report)
        *report = decided;
    return kvf_ok(error);
}
