/*
 * The chat format and its JSON for tests in other languages. Reads requests, one line of JSON
 * each, and answers each with one line of JSON:
 *     {"messages": ANY, "thinking": BOOL, "release": "preview" | "0731" | null,
 *      "effort": "none" | "low" | "high" | "max", "drop_thinking": BOOL, "context": N,
 *      "encoding_file": PATH | null, "template": TEXT | null}
 *   -> {"parts": [["marker", TEXT], ["text", TEXT], ..], "release": NAME, "release_by": NAME,
 *       "thinking_kept": BOOL, "own_words": BOOL}
 *   (what follows the parts only with "report": true in the request; without it kvfold's own
 *   words for tools are an error where there is an encoding_file; "check": true checks, too)
 *     {"answer": TEXT, "thinking": BOOL, "cuts": [BYTE, ..], "report": BOOL}
 *   -> {"reasoning": TEXT, "content": TEXT, "calls": [{"name": TEXT, "arguments": TEXT}, ..],
 *       "raw": TEXT | null}; with a report "is_json": BOOL in calls, and "fed": TEXT of all events
 *     {"json": TEXT, "python": BOOL}    -> {"written": TEXT}
 *     {"texts": PATH} or {"template": TEXT}
 *   -> {"source": NAME, "tools": TEXT | null, "efforts": [TEXT | null, TEXT | null]}
 * or, to any, {"error": SENTENCE}. What is missing in a request is as false, null or none.
 */
#include "file/file.h"
#include "text/answer.h"
#include "text/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const release_names[] = {"by texts", "preview", "0731"};
static const char *const decided_names[] = {"default", "texts", "caller"};
static const char *const source_names[] = {"nowhere", "encoding file", "chat template"};

/* ---- What a request says ------------------------------------------------------------- */

static bool flag(const kvf_node *request, const char *key)
{
    return kvf_node_is_true(kvf_node_member(request, key));
}

static kvf_span string_of(const kvf_node *request, const char *key)
{
    const kvf_node *node = kvf_node_member(request, key);
    return node && node->type == KVF_NODE_STRING ? node->text : (kvf_span){0};
}

/* Malloc'd, with a NUL behind it. */
static char *copy_of(kvf_span text)
{
    char *copy = malloc(text.bytes + 1);
    if (!copy)
        abort();
    if (text.bytes > 0)
        memcpy(copy, text.data, text.bytes);
    copy[text.bytes] = '\0';
    return copy;
}

static size_t number_of(const kvf_node *node)
{
    if (!node || node->type != KVF_NODE_NUMBER)
        return 0;
    char *copy = copy_of(node->text);
    const size_t number = strtoul(copy, NULL, 10);
    free(copy);
    return number;
}

/* ---- What an answer says ------------------------------------------------------------- */

static void add_key(kvf_buffer *out, const char *key)
{
    kvf_buffer_add_string(out, out->bytes > 1 ? ", " : "");
    kvf_json_write_string((kvf_span){key, strlen(key)}, out);
    kvf_buffer_add_string(out, ": ");
}

static void add_text(kvf_buffer *out, const char *key, kvf_span text)
{
    add_key(out, key);
    kvf_json_write_string(text, out);
}

static void add_string(kvf_buffer *out, const char *key, const char *string)
{
    add_text(out, key, (kvf_span){string, strlen(string)});
}

static void add_flag(kvf_buffer *out, const char *key, bool value)
{
    add_key(out, key);
    kvf_buffer_add_string(out, value ? "true" : "false");
}

static void answer_error(kvf_buffer *out, const kvf_error *error)
{
    out->bytes = 1;
    add_string(out, "error", error->message);
}

/* ---- Requests ------------------------------------------------------------------------ */

static void answer_json(const kvf_node *request, kvf_buffer *out)
{
    const kvf_span text = string_of(request, "json");
    kvf_buffer written = {0};
    kvf_tree tree;
    kvf_error error;
    kvf_status status = kvf_tree_read(text.data, text.bytes,
                                      flag(request, "python") ? KVF_JSON_PYTHON : KVF_JSON_STRICT,
                                      "json", &tree, &error);
    if (status != KVF_OK) {
        answer_error(out, &error);
        return;
    }
    kvf_json_write(tree.root, &written);
    add_text(out, "written", (kvf_span){written.data, written.bytes});
    kvf_buffer_free(&written);
    kvf_tree_free(&tree);
}

/* The texts that a request names; those of no file where it names none. */
static kvf_status read_texts(const kvf_node *request, const char *key, kvf_chat_texts *texts,
                             kvf_error *error)
{
    const kvf_span template = string_of(request, "template");
    const kvf_span name = string_of(request, key);
    kvf_file file = {0};
    *texts = (kvf_chat_texts){0};
    if (template.data)
        return kvf_chat_texts_of_template(template.data, template.bytes, texts, error);
    if (!name.data)
        return KVF_OK;
    char *path = copy_of(name);
    kvf_status status = kvf_file_map(path, &file, error);
    free(path);
    if (status != KVF_OK)
        return status;
    status = kvf_chat_texts_of_python(file.data, file.bytes, texts, error);
    kvf_file_unmap(&file);
    return status;
}

static void add_maybe(kvf_buffer *out, kvf_span text)
{
    if (text.data)
        kvf_json_write_string(text, out);
    else
        kvf_buffer_add_string(out, "null");
}

static void answer_texts(const kvf_node *request, kvf_buffer *out)
{
    kvf_chat_texts texts;
    kvf_error error;
    if (read_texts(request, "texts", &texts, &error) != KVF_OK) {
        answer_error(out, &error);
        return;
    }
    add_string(out, "source", source_names[texts.source]);
    add_key(out, "tools");
    add_maybe(out, texts.tools);
    add_key(out, "efforts");
    kvf_buffer_add_string(out, "[");
    add_maybe(out, texts.efforts[0]);
    kvf_buffer_add_string(out, ", ");
    add_maybe(out, texts.efforts[1]);
    kvf_buffer_add_string(out, "]");
    kvf_chat_texts_free(&texts);
}

static void add_part(kvf_buffer *out, const char *kind, kvf_span text, bool is_first)
{
    if (text.bytes == 0)
        return;
    kvf_buffer_add_string(out, is_first ? "[\"" : ", [\"");
    kvf_buffer_add_string(out, kind);
    kvf_buffer_add_string(out, "\", ");
    kvf_json_write_string(text, out);
    kvf_buffer_add_string(out, "]");
}

static void add_parts(kvf_buffer *out, const kvf_prompt *prompt)
{
    size_t at = 0;
    add_key(out, "parts");
    kvf_buffer_add_string(out, "[");
    for (size_t i = 0; i < prompt->n_markers; i++) {
        const kvf_marker marker = prompt->markers[i];
        add_part(out, "text", (kvf_span){prompt->text.data + at, marker.at - at}, at == 0);
        add_part(out, "marker", (kvf_span){prompt->text.data + marker.at, marker.bytes},
                 marker.at == 0);
        at = marker.at + marker.bytes;
    }
    add_part(out, "text", (kvf_span){prompt->text.data + at, prompt->text.bytes - at}, at == 0);
    kvf_buffer_add_string(out, "]");
}

/* False, with a sentence, for a name that is none. */
static bool read_settings(const kvf_node *request, kvf_chat_settings *settings, kvf_error *error)
{
    static const char *const efforts[] = {"none", "low", "high", "max"};
    const kvf_span effort = string_of(request, "effort");
    const kvf_span release = string_of(request, "release");
    const kvf_node *drop = kvf_node_member(request, "drop_thinking");
    int found = effort.data ? -1 : 0;
    settings->thinking = flag(request, "thinking");
    settings->keep_thinking = drop && !kvf_node_is_true(drop);
    settings->n_context = number_of(kvf_node_member(request, "context"));
    for (int i = 0; i < 4; i++)
        found = kvf_span_is(effort, efforts[i]) ? i : found;
    for (int i = 1; i < 3; i++)
        if (kvf_span_is(release, release_names[i]))
            settings->release = (kvf_release)i;
    settings->effort = (kvf_effort)found;
    const bool good = found >= 0 && (!release.data || settings->release != KVF_RELEASE_BY_TEXTS);
    if (!good)
        snprintf(error->message, sizeof error->message, "no such effort or release");
    return good;
}

static void answer_messages(const kvf_node *request, kvf_buffer *out)
{
    kvf_messages messages = {0};
    kvf_prompt prompt = {0};
    kvf_chat_texts texts = {0};
    kvf_chat_settings settings = {.texts = &texts};
    kvf_chat_report report;
    kvf_error error;
    const bool reports = flag(request, "report");
    const kvf_node *node = kvf_node_member(request, "messages");
    bool good = read_settings(request, &settings, &error) &&
                read_texts(request, "encoding_file", &texts, &error) == KVF_OK &&
                kvf_messages_read(node, "messages", &messages, &error) == KVF_OK;
    if (good && flag(request, "check"))
        good = kvf_messages_check(messages.list, messages.n, "messages", &error) == KVF_OK;
    good = good && kvf_chat_render(messages.list, messages.n, "messages", &settings, &prompt,
                                   &report, &error) == KVF_OK;
    if (good && !reports && report.tools_in_own_words && string_of(request, "encoding_file").data) {
        good = false;
        snprintf(error.message, sizeof error.message, "the file has no text for tools");
    }
    if (good)
        add_parts(out, &prompt);
    else
        answer_error(out, &error);
    if (good && reports) {
        add_string(out, "release", release_names[report.release]);
        add_string(out, "release_by", decided_names[report.release_by]);
        add_flag(out, "thinking_kept", report.thinking_kept);
        add_flag(out, "own_words", report.tools_in_own_words);
    }
    kvf_messages_free(&messages);
    kvf_chat_texts_free(&texts);
    kvf_prompt_free(&prompt);
}

struct parsed {
    bool reports;
    kvf_buffer texts[2];
    kvf_buffer calls;
    kvf_buffer raw;
    kvf_buffer fed;
};

static void take_event(void *user, const kvf_answer_event *event)
{
    struct parsed *parsed = user;
    kvf_buffer call = {0};
    kvf_buffer_add_span(&parsed->fed, event->raw);
    switch (event->kind) {
    case KVF_ANSWER_REASONING: kvf_buffer_add_span(&parsed->texts[0], event->raw); break;
    case KVF_ANSWER_CONTENT: kvf_buffer_add_span(&parsed->texts[1], event->raw); break;
    case KVF_ANSWER_MALFORMED: kvf_buffer_add_span(&parsed->raw, event->raw); break;
    case KVF_ANSWER_FRAME: break;
    case KVF_ANSWER_CALL:
        kvf_buffer_add_string(&call, "{");
        add_text(&call, "name", event->name);
        add_text(&call, "arguments", event->arguments);
        if (parsed->reports)
            add_flag(&call, "is_json", event->arguments_are_json);
        kvf_buffer_add_string(&call, "}");
        kvf_buffer_add_string(&parsed->calls, parsed->calls.bytes ? ", " : "");
        kvf_buffer_add(&parsed->calls, call.data, call.bytes);
        kvf_buffer_free(&call);
        break;
    }
}

/* Whether they ascend, inside of the answer. */
static bool are_cuts(const kvf_node *cuts, size_t bytes)
{
    size_t last = 0;
    for (const kvf_node *cut = cuts ? cuts->first : NULL; cut; cut = cut->next) {
        if (number_of(cut) < last || number_of(cut) > bytes)
            return false;
        last = number_of(cut);
    }
    return true;
}

static void answer_answer(const kvf_node *request, kvf_buffer *out)
{
    const kvf_span text = string_of(request, "answer");
    const kvf_node *cuts = kvf_node_member(request, "cuts");
    struct parsed parsed = {.reports = flag(request, "report")};
    kvf_error error;
    size_t at = 0;
    kvf_answer *answer = kvf_answer_open(flag(request, "thinking"), true, take_event, &parsed);
    if (!answer)
        abort();
    for (const kvf_node *cut = cuts ? cuts->first : NULL; cut; cut = cut->next) {
        kvf_answer_text(answer, text.data + at, number_of(cut) - at);
        at = number_of(cut);
    }
    kvf_answer_text(answer, text.data + at, text.bytes - at);
    if (kvf_answer_finish(answer, &error) != KVF_OK)
        abort();
    add_text(out, "reasoning", (kvf_span){parsed.texts[0].data, parsed.texts[0].bytes});
    add_text(out, "content", (kvf_span){parsed.texts[1].data, parsed.texts[1].bytes});
    add_key(out, "calls");
    kvf_buffer_add_string(out, "[");
    kvf_buffer_add(out, parsed.calls.data, parsed.calls.bytes);
    kvf_buffer_add_string(out, "]");
    add_key(out, "raw");
    add_maybe(out, (kvf_span){parsed.raw.data, parsed.raw.bytes});
    if (parsed.reports)
        add_text(out, "fed", (kvf_span){parsed.fed.data, parsed.fed.bytes});
    kvf_answer_close(answer);
    kvf_buffer_free(&parsed.texts[0]);
    kvf_buffer_free(&parsed.texts[1]);
    kvf_buffer_free(&parsed.calls);
    kvf_buffer_free(&parsed.raw);
    kvf_buffer_free(&parsed.fed);
}

static void answer_line(const char *line, size_t bytes)
{
    kvf_buffer out = {0};
    kvf_tree tree;
    kvf_error error;
    kvf_buffer_add_string(&out, "{");
    if (kvf_tree_read(line, bytes, KVF_JSON_STRICT, "the request", &tree, &error) != KVF_OK) {
        answer_error(&out, &error);
    } else {
        const kvf_node *cuts = kvf_node_member(tree.root, "cuts");
        const kvf_span text = string_of(tree.root, "answer");
        if (string_of(tree.root, "json").data)
            answer_json(tree.root, &out);
        else if (text.data && are_cuts(cuts, text.bytes))
            answer_answer(tree.root, &out);
        else if (kvf_node_member(tree.root, "messages"))
            answer_messages(tree.root, &out);
        else if (string_of(tree.root, "texts").data || string_of(tree.root, "template").data)
            answer_texts(tree.root, &out);
        else
            add_string(&out, "error", "no such request");
        kvf_tree_free(&tree);
    }
    kvf_buffer_add_string(&out, "}\n");
    if (out.failed)
        abort();
    fwrite(out.data, 1, out.bytes, stdout);
    fflush(stdout);
    kvf_buffer_free(&out);
}

int main(void)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t bytes;
    while ((bytes = getline(&line, &room, stdin)) > 0)
        answer_line(line, (size_t)bytes);
    free(line);
    return 0;
}
