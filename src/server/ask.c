#include "server/ask.h"

#include "error.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void kvf_ask_free(kvf_ask *ask)
{
    kvf_tree_free(&ask->tree);
    kvf_arena_free(&ask->arena);
    kvf_ids_free(&ask->prompt);
    *ask = (kvf_ask){.n_choices = 0};
}

bool kvf_ask_add_stop(kvf_ask *ask, kvf_span stop, const char *param, kvf_refusal *refusal)
{
    if (stop.bytes == 0) /* some clients send one, and mean none */
        return true;
    if (ask->n_stops == KVF_MAX_STOPS)
        return kvf_refuse(refusal, 400, param, "%s: there are more than %d texts", param,
                          KVF_MAX_STOPS);
    if (stop.bytes > KVF_MAX_STOP_BYTES)
        return kvf_refuse(refusal, 400, param, "%s: a text of %zu bytes; the most are %d", param,
                          stop.bytes, KVF_MAX_STOP_BYTES);
    if (memchr(stop.data, '\0', stop.bytes))
        return kvf_refuse(refusal, 400, param, "%s: a text with the character U+0000", param);
    char *copy = kvf_arena_alloc(&ask->arena, stop.bytes + 1);
    if (!copy)
        return kvf_refuse(refusal, 503, NULL, "no memory for the request");
    memcpy(copy, stop.data, stop.bytes);
    copy[stop.bytes] = '\0';
    ask->stops[ask->n_stops++] = copy;
    return true;
}

bool kvf_ask_take_effort(kvf_ask *ask, const kvf_fields *fields, const char *key)
{
    static const struct {
        const char *name;
        bool thinks;
        kvf_effort effort;
    } levels[] = {{"none", false, KVF_EFFORT_NONE}, {"minimal", false, KVF_EFFORT_NONE},
                  {"low", true, KVF_EFFORT_LOW},    {"medium", true, KVF_EFFORT_NONE},
                  {"high", true, KVF_EFFORT_HIGH},  {"xhigh", true, KVF_EFFORT_HIGH},
                  {"max", true, KVF_EFFORT_MAX}};
    kvf_span level;
    if (!kvf_field_string(fields, key, &level))
        return false;
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (kvf_span_is(level, levels[i].name)) {
            ask->wants_thinking = levels[i].thinks;
            ask->settings.effort = levels[i].effort;
            snprintf(ask->effort_field, sizeof ask->effort_field, "%s%s", fields->where, key);
            return true;
        }
    return kvf_field_refuse(fields, key, kvf_field(fields, key),
                            "none, minimal, low, medium, high, xhigh or max");
}

static bool is_harmless(const kvf_node *node, const char *harmless)
{
    kvf_buffer text = {.data = NULL};
    bool found = false;
    kvf_json_write(node, &text);
    for (const char *at = harmless; *at && !found && !text.failed;) {
        const size_t n = strcspn(at, "|");
        found = n == text.bytes && memcmp(at, text.data, n) == 0;
        at += n + (at[n] == '|');
    }
    kvf_buffer_free(&text);
    return found;
}

bool kvf_ask_refuse_fields(const kvf_fields *fields, const kvf_refused_field *refused, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const kvf_node *node = kvf_field(fields, refused[i].key);
        char param[96];
        if (!node || !kvf_node_is_true(node) || is_harmless(node, refused[i].harmless))
            continue;
        snprintf(param, sizeof param, "%s%s", fields->where, refused[i].key);
        return kvf_refuse(fields->refusal, 400, param,
                          "%s is not supported by this server yet; leave it out", param);
    }
    return fields->refusal->status == 0;
}

bool kvf_ask_settle(const kvf_served *served, kvf_ask *ask, kvf_refusal *refusal)
{
    bool is_assumed;
    kvf_error error;
    ask->settings.is_chat = true;
    ask->settings.thinking = ask->wants_thinking;
    if (!ask->settings.thinking)
        ask->settings.effort = KVF_EFFORT_NONE;
    for (int attempt = 0;; attempt++) {
        const kvf_effort effort = ask->settings.effort;
        ask->settings.release = served->release;
        if (kvf_conversation_settle(served->conversation, &ask->settings, &is_assumed, &error) ==
            KVF_OK)
            return true;
        if (attempt > 0 || (effort != KVF_EFFORT_LOW && effort != KVF_EFFORT_HIGH))
            return kvf_refuse_error(refusal, ask->effort_field, &error);
        ask->settings.effort = KVF_EFFORT_NONE;
    }
}

static bool read_fields(const kvf_served *served, const kvf_fields *fields, kvf_ask *ask)
{
    kvf_field_string(fields, "model", &ask->model);
    kvf_field_bool(fields, "stream", &ask->streams);
    switch (ask->kind) {
    case KVF_ASK_COMPLETION: return kvf_ask_read_completion(served, fields, ask);
    case KVF_ASK_MESSAGES:
    case KVF_ASK_COUNT: return kvf_ask_read_messages(served, fields, ask);
    case KVF_ASK_CHAT:
    case KVF_ASK_TOKENIZE: break;
    }
    return kvf_ask_read_chat(served, fields, ask);
}

bool kvf_ask_read(const kvf_served *served, kvf_ask_kind kind, kvf_span body, kvf_ask *ask,
                  kvf_refusal *refusal)
{
    kvf_error error;
    *ask = (kvf_ask){.kind = kind,
                     .n_choices = 1,
                     .shows_thinking = true,
                     .wants_thinking = served->thinking,
                     .draw = served->draw};
    if (getentropy(&ask->draw.seed, sizeof ask->draw.seed) != 0) /* where it does not say */
        ask->draw.seed = (uint64_t)time(NULL);
    const kvf_status status =
        kvf_tree_read(body.data, body.bytes, KVF_JSON_STRICT, "the body", &ask->tree, &error);
    if (status != KVF_OK)
        return kvf_refuse_error(refusal, NULL, &error);
    const kvf_fields fields = {.object = ask->tree.root, .where = "", .refusal = refusal};
    if (ask->tree.root->type != KVF_NODE_OBJECT)
        return kvf_refuse(refusal, 400, NULL, "the body is %s; an object is needed",
                          kvf_node_what(ask->tree.root));
    if (kind != KVF_ASK_COMPLETION && !served->conversation->has_chat)
        return kvf_refuse(refusal, 400, NULL,
                          "this checkpoint has no chat format; /v1/completions takes plain text");
    return read_fields(served, &fields, ask) && refusal->status == 0;
}
